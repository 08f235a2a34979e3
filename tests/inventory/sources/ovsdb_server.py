"""A real ovsdb-server with the real schema, in a directory of its own; filled with ovs-vsctl, without a switch."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


def needs_server() -> None:
    """Skip the test where the programs or the library are missing."""
    pytest.importorskip("ovs", reason="needs Open vSwitch's Python library: pip install 'vmflow[ovsdb]'")
    for program in ("ovsdb-server", "ovsdb-tool", "ovs-vsctl"):
        if shutil.which(program) is None or not SCHEMA.exists():
            pytest.skip(f"needs {program} and the schema of Open vSwitch: Debian package openvswitch-switch")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class OvsdbServer:
    """Leaving it ends the process; the database stays until then, whatever happens to the process."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self.unix = f"unix:{directory}/db.sock"
        self.port = free_port()
        self.tcp = f"tcp:127.0.0.1:{self.port}"
        self._arguments = arguments or (f"--remote=ptcp:{self.port}:127.0.0.1",)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        subprocess.run(["ovsdb-tool", "create", str(self._directory / "conf.db"), str(SCHEMA)], check=True)
        try:
            self.start()
            self.vsctl("init")
        except BaseException:
            self.stop()  # what fails to enter is never left
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                "ovsdb-server",
                str(self._directory / "conf.db"),
                f"--remote=p{self.unix}",
                f"--unixctl={self._directory}/ctl",
                *self._arguments,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while not (self._directory / "db.sock").exists():
            assert time.monotonic() < deadline, "ovsdb-server does not start"
            assert self._process.poll() is None, "ovsdb-server has ended"
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process, as an update of the package does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def vsctl(self, *arguments: str) -> str:
        """Output of ovs-vsctl; arguments may hold several commands, parted by `--`."""
        command = ["ovs-vsctl", f"--db={self.unix}", "--no-wait", "--timeout=20", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
