"""Real QEMU guests on two libvirtd, on the testbed beside the repository.  Its first start takes half a minute.

`missing` says why they cannot run here; the fixtures bring them up and down.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.enrich.libvirt import Libvirt
from collector.enrich.settings import LibvirtSettings
from collector.enrich.source import Report

TESTBED = Path(__file__).parents[3] / "shared" / "testbed"
NAME = os.environ.get("TESTBED_NAME", "lvsys")
ENVIRONMENT = os.environ | {"TESTBED_NAME": NAME}
STATE = Path(f"/run/testbed-{NAME}")
LONG = 60.0
"""Seconds until something that should happen is taken for lost."""
HOST = "a"
"""The hypervisor of guest-a."""
PROGRAMS = {
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "ovs-vsctl": "openvswitch-switch",
    "ip": "iproute2",
}


def missing() -> str:
    """Why these tests cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root: the testbed makes network namespaces"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    if not (TESTBED / "vm").exists():
        return "needs the testbed, expected in shared/testbed beside the repository"
    if importlib.util.find_spec("libvirt") is None:
        return "needs libvirt-python (Debian, to build it: libvirt-dev pkg-config gcc python3-dev)"
    absent = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    return f"needs the Debian packages {' '.join(absent)}" if absent else ""


def run(*command: str, check: bool = True) -> str:
    """Output of a command.  What it printed is part of the error, if it fails."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def vm(*arguments: str, check: bool = True) -> str:
    return run(str(TESTBED / "vm"), *arguments, check=check)


def virsh(host: str, *arguments: str) -> str:
    return vm("virsh", host, "-q", *arguments)


def uri(host: str) -> str:
    return vm("uri", host).strip()


@pytest.fixture(scope="session")
def guests() -> Iterator[None]:
    """Two hypervisors with a guest each."""
    try:
        run(str(TESTBED / "testbed"), "up")
        vm("up")
        yield
    finally:
        run(str(TESTBED / "testbed"), "down", check=False)


def new_source(host: str, **settings: Any) -> Libvirt:
    base: dict[str, Any] = {"uri": uri(host), "counters_seconds": 0, "exporters": ["192.0.2.11"]}
    return Libvirt(LibvirtSettings(**base | settings))


def next_report(made: Libvirt, wanted: Callable[[Report], bool]) -> Report:
    """The first report after events for which `wanted` holds."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        if made.wait(LONG):
            report = made.read()
            if wanted(report):
                return report
    raise AssertionError("no event brought it")


def macs(report: Report) -> set[int]:
    return {interface.mac for interface in report.interfaces}


def number(mac: str) -> int:
    return int(mac.replace(":", ""), 16)


def ovs(host: str, *arguments: str) -> str:
    return run("env", f"OVS_RUNDIR={STATE / host}", "ovs-vsctl", "--timeout=10", *arguments).strip()


def external_id(host: str, port: str, key: str) -> str:
    return ovs(host, "get", "Interface", port, f"external_ids:{key}").strip('"')


def tap(host: str, port: str) -> dict[str, Any]:
    """The kernel's counters of a device of a hypervisor, as the host counts."""
    (found,) = json.loads(run("ip", "netns", "exec", f"{NAME}-{host}", "ip", "-j", "-s", "link", "show", "dev", port))
    counters: dict[str, Any] = found["stats64"]
    return counters
