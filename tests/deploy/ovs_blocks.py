"""The shell blocks of deploy/ovs.md, and a real Open vSwitch on a dummy datapath to run them against."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")

_FENCE = re.compile(r"^```sh(?P<info>[^\n]*)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its commands, and what its info string says about it."""

    name: str
    lines: str
    needs: str
    """Column of the IPFIX table that must exist for the block to apply."""
    below: str
    """Column that must not exist."""


def read_blocks() -> dict[str, Block]:
    """Return the blocks of deploy/ovs.md by name.  Raises if one has no name, or the name of another."""
    blocks: dict[str, Block] = {}
    for match in _FENCE.finditer((DEPLOY / "ovs.md").read_text()):
        info = dict(word.split("=", 1) for word in match["info"].split())
        name = info["name"]
        assert name not in blocks, name
        blocks[name] = Block(name, match["lines"], info.get("needs", ""), info.get("below", ""))
    return blocks


def missing_program() -> str:
    """Return why Open vSwitch cannot be run here, or an empty string."""
    for program in PROGRAMS:
        if _where(program) is None:
            return f"{program} is not installed (Debian package openvswitch-switch)"
    return "" if SCHEMA.exists() else f"{SCHEMA} is not installed (Debian package openvswitch-switch)"


def _where(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Switch:
    """A running ovsdb-server and ovs-vswitchd with bridges br-int and br-ex, and port vnet1 in br-int."""

    def __init__(self, folder: Path) -> None:
        self._environment = os.environ | {
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "OVS_RUNDIR": str(folder),
            "OVS_DBDIR": str(folder),
            "OVS_LOGDIR": str(folder),
            "OVS_SYSCONFDIR": str(folder),
        }
        self.columns = SCHEMA.read_text()

    def shell(self, lines: str) -> str:
        """Run `lines` in a shell that stops at the first failure, and return what they print.

        Only the name of the daemon's control socket, which no user types, is added.  Raises AssertionError on failure.
        """
        control = f"{self._environment['OVS_RUNDIR']}/vswitchd.ctl"
        prelude = (
            f'ovs-appctl() {{ command ovs-appctl -t {control} "$@"; }}\n'
            'ovs-vsctl() { command ovs-vsctl --timeout=10 "$@"; }\n'
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", prelude + lines],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
        assert done.stderr == "", done.stderr
        return done.stdout

    def has_column(self, name: str) -> bool:
        """Tell whether the installed schema knows a column."""
        return f'"{name}"' in self.columns

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a daemon in the foreground."""
        return subprocess.Popen(
            command,
            env=self._environment,
            cwd=self._environment["OVS_RUNDIR"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def datapath_actions(self) -> str:
        """What the datapath does with a packet that the VM port sends."""
        return self.shell("ovs-appctl ofproto/trace br-int in_port=vnet1,icmp").splitlines()[-1]


@contextmanager
def running_switch(folder: Path) -> Iterator[Switch]:
    """Run Open vSwitch in `folder`: no kernel module, no network, no privilege."""
    switch = Switch(folder)
    switch.shell(f"ovsdb-tool create {folder}/conf.db {SCHEMA}")
    daemons = [
        switch.start(
            "ovsdb-server",
            f"{folder}/conf.db",
            f"--remote=punix:{folder}/db.sock",
            f"--unixctl={folder}/ovsdb.ctl",
            "-vconsole:off",
        )
    ]
    try:
        _wait_for(folder / "db.sock", daemons)
        switch.shell("ovs-vsctl --no-wait init")
        daemons.append(
            switch.start(
                "ovs-vswitchd",
                f"unix:{folder}/db.sock",
                f"--unixctl={folder}/vswitchd.ctl",
                "--enable-dummy=override",
                "--disable-system",
                "-vconsole:off",
                f"--log-file={folder}/vswitchd.log",
            )
        )
        _wait_for(folder / "vswitchd.ctl", daemons)
        switch.shell(
            "ovs-vsctl add-br br-int -- add-br br-ex -- add-port br-int vnet1 -- set Interface vnet1 type=dummy"
        )
        yield switch
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(timeout=20)


def _wait_for(socket: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    for _ in range(400):
        if socket.exists():
            return
        assert all(daemon.poll() is None for daemon in daemons), f"a daemon ended before {socket.name} was there"
        time.sleep(0.05)
    raise AssertionError(f"{socket.name} did not appear")
