"""The processes of `vmflow demo`, and the directory that they write to: both are gone in the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from collector.commands.api_client import ServiceError, client_of
from collector.commands.check import as_toml
from collector.settings import PREFIX, Settings, load

ROOT = Path(__file__).resolve().parents[2]
"""Where Python finds `collector` and `deploy`: the source tree, or the installed packages."""
LOOPBACK = "127.0.0.1"
PORTS = {"listen": 16343, "web": 18080, "sql": 18123}
"""Taken where they are free, so that a second demo has the same addresses as the first; else any others are."""
CLOUD = "127.1.0.0/16"
"""Where hypervisors of the cloud send from (`deploy.demo.model`)."""
LEAST_BYTES = 1 << 30
"""Free disk space: an hour of the cloud is about 150 MB of rows and logs, and as much again for merges."""
KILL_SECONDS = 3.0
LOG_LINES = 3

CACHE_SECONDS = 1
"""Active timeout of the cloud's flow caches.  With the 10 s that is usual, windows of 10 s say little about loss."""
TROUBLE = "loss@5+900,slow@45+300,migration@90,scan@120+120,restart@180,blind@240+300,wrong-rate@330,no-polling@540"

SERVICE: dict[str, dict[str, Any]] = {
    # Records come at most about 2 s late: windows need not wait for more.
    "analyze": {"lateness_seconds": 2, "flow_quiet_seconds": 5, "record_delay_seconds": 4, "doctor_seconds": 10},
    "alerts": {
        "settle_seconds": 2,
        "rules": [
            {
                "name": "pair_loss", "scope": "pair", "measure": "loss_ratio", "level": "10s", "above": 0.01,
                "clear": 0.005, "for_seconds": 20, "certain_windows": 1e6, "severity": "critical",
                "text": "{src_vm}@{src_host} → {dst_vm}@{dst_host} loses {value} [{low} – {high}] of its packets; "
                        "limit {threshold}, evidence {evidence}",
            },
            {
                "name": "pair_latency", "scope": "pair", "measure": "latency_us", "level": "10s", "above": 10_000,
                "clear": 5000, "for_seconds": 20,
                "text": "{src_vm}@{src_host} → {dst_vm}@{dst_host} takes {value} [{low} – {high}]; limit {threshold}",
            },
        ],
    },
}  # fmt: skip
"""Settings in demo time: a fault must show within a minute."""


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Demo:
    """A service with an embedded store of its own, and a process that sends to it.  Leaving ends and removes all.

    Children are in process groups of their own, so a Ctrl-C reaches only this process.
    """

    def __init__(self, *, cloud: bool) -> None:
        self._cloud = cloud
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="vmflow-demo-"))
        try:
            if shutil.disk_usage(self.directory).free < LEAST_BYTES:
                raise DemoError(f"less than {LEAST_BYTES >> 30} GiB free in {self.directory.parent}: set TMPDIR")
            for name in ("tmp", "cloud"):
                (self.directory / name).mkdir()
            self._take_ports()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        # Nothing of this store is kept: there is nothing to drain.
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(KILL_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def config(self) -> Path:
        """The settings file, for other commands, too."""
        return self.directory / "vmflow.toml"

    @property
    def truth(self) -> Path:
        """What the cloud says is true."""
        return self.directory / "cloud" / "truth.jsonl"

    @property
    def target(self) -> str:
        """Where exports go."""
        return f"{LOOPBACK}:{self._ports['listen']}"

    def _take_ports(self) -> None:
        """Choose free ports, and write the settings with them."""
        self._ports = {name: free_port(port, udp=name == "listen") for name, port in PORTS.items()}
        sections: dict[str, dict[str, Any]] = {
            "listen": {"addresses": [self.target]},
            "store": {"url": f"chdb://{self.directory / 'store'}"},
            "web": {"host": LOOPBACK, "port": self._ports["web"]},
            "sql": {"host": LOOPBACK, "port": self._ports["sql"]},
            "log": {"format": "json"},
        }
        if self._cloud:
            sections |= SERVICE
            sections["decode"] = {"exporters": [{"network": CLOUD, "protocol": "ipfix", "sampling_rate": 1}]}
            sections["inventory"] = {"static": [{"file": str(self.directory / "cloud" / "vms.toml")}]}
        self.config.write_text(f"# Settings of this demo, for --config.\n{as_toml(sections)}\n", "utf-8")
        self.settings: Settings = load(self.config)
        self._client = client_of(None, self.settings)

    def start_service(self) -> None:
        """Start the service."""
        self._start("service", "collector", "run", "--config", str(self.config))

    def start_cloud(self, options: Sequence[str]) -> None:
        """Start the cloud, which waits for `begin_cloud`."""
        folder = self.directory / "cloud"
        self._start(
            "cloud", "deploy.demo.cloud", "--to", self.target, "--hold", "--cache", str(CACHE_SECONDS),
            "--inventory", str(folder / "vms.toml"), "--truth", str(self.truth), *options,
        )  # fmt: skip

    def begin_cloud(self) -> None:
        """Let the cloud send."""
        stdin = self._children["cloud"].stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(b"\n")
                stdin.flush()

    def start_replay(self, files: Sequence[str], rate: int) -> None:
        """Send captures once."""
        self._start("replay", "collector", "replay", *files, "--to", self.target, "--rate", str(rate))

    def _start(self, name: str, module: str, *arguments: str) -> None:
        environment = {key: value for key, value in os.environ.items() if own(key)}
        environment |= {"VMFLOW_CONFIG": "", "TMPDIR": str(self.directory / "tmp")}
        with (self.directory / f"{name}.log").open("wb") as log:
            self._children[name] = subprocess.Popen(  # noqa: S603 - Python itself
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE if name == "cloud" else subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> bool:
        """Whether the service decodes.  Blocks for a moment."""
        try:
            return bool(json.loads(self._client.health())["status"] != "starting")
        except (ServiceError, ValueError, KeyError):
            return False

    def ended(self) -> str:
        """Return which child has ended that should not, and what it said last; empty if all run."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None and not (name == "replay" and code == 0):
                return f"the {name} has ended with exit code {code}:\n{self.last_words(name)}"
        return ""

    def replayed(self) -> bool:
        """Whether all captures are sent."""
        child = self._children.get("replay")
        return child is not None and child.poll() == 0

    def last_words(self, name: str) -> str:
        """Return the last lines of a child's log, events without their other fields."""
        lines = (self.directory / f"{name}.log").read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
        return "\n".join(_event(line) for line in lines)


def _event(line: str) -> str:
    try:
        fields: Mapping[str, Any] = json.loads(line)
        return " ".join(str(fields[key]) for key in ("event", "error", "why") if key in fields)
    except (ValueError, TypeError):
        return line


def own(variable: str) -> bool:
    """Whether a variable of the environment is for the demo: settings of other services are not."""
    return not variable.startswith(PREFIX) or variable == "VMFLOW_CACHE_DIR"


def free_port(wanted: int, *, udp: bool) -> int:
    """Return a port of loopback that nobody has: this one if it is free."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as trial:
            if not udp:
                # As servers do: connections of a demo that has just ended do not count.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                trial.bind((LOOPBACK, port))
                return int(trial.getsockname()[1])
    raise DemoError(f"no free port on {LOOPBACK}")
