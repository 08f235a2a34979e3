"""The two-hypervisor testbed beside the repository, as tests drive it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[3] / "shared" / "testbed"
PROGRAMS = {
    "ovs-vsctl": "openvswitch-switch",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "ethtool": "ethtool",
    "tcpdump": "tcpdump",
    "ping": "iputils-ping",
}
HOSTS = {"a": ["127.0.1.11", "192.0.2.11"], "b": ["127.0.1.12", "192.0.2.12"]}
"""Addresses of the hypervisors: sender where the collector listens on loopback, and sFlow agent."""


def missing() -> str:
    """Why the testbed cannot be brought up here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root: the testbed makes network namespaces"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    if not (SCRIPTS / "testbed").exists():
        return "needs the testbed, expected in shared/testbed beside the repository"
    absent = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    return f"needs the Debian packages {' '.join(absent)}" if absent else ""


def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    """Wait until something holds; an error if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.25)


class Testbed:
    """A running testbed with a name of its own."""

    __test__ = False

    def __init__(self, name: str, **environment: str) -> None:
        self.name = name
        self.state = Path(f"/run/testbed-{name}")
        self._environment = os.environ | {"TESTBED_NAME": name} | environment

    def run(self, *arguments: str, script: str = "testbed") -> str:
        """Output of `testbed ARGUMENTS`; an error carries what it printed."""
        done = subprocess.run(
            [str(SCRIPTS / script), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{script} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def traffic(self, file: Path, *arguments: str) -> dict[str, Any]:
        """Generate traffic; returns what was truly sent."""
        self.run("traffic", "--truth", str(file), *arguments)
        truth: dict[str, Any] = json.loads(file.read_text())
        return truth

    def ovsdb(self, host: str) -> str:
        """Where the database of a hypervisor answers."""
        return f"unix:{self.state}/{host}/db.sock"
