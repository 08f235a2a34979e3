"""Real QEMU guests on two libvirtd, on the testbed beside the repository.  Its first start takes half a minute."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector.inventory.settings import LibvirtSettings
from collector.inventory.sources.base import Report
from collector.inventory.sources.libvirt import Libvirt
from tests.system import testbed
from tests.system.testbed import Testbed

TESTBED = Testbed(os.environ.get("TESTBED_NAME", "lvsys"))
LONG = 60.0
"""Seconds until something that should happen is taken for lost."""
HOST = "a"
"""The hypervisor of guest-a."""
PROGRAMS = {
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
}


def missing() -> str:
    """Why guests cannot run here; empty if they can."""
    if reason := testbed.missing():
        return reason
    if importlib.util.find_spec("libvirt") is None:
        return "needs libvirt-python (Debian, to build it: libvirt-dev pkg-config gcc python3-dev)"
    absent = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    return f"needs the Debian packages {' '.join(absent)}" if absent else ""


def vm(*arguments: str) -> str:
    """Output of `vm ARGUMENTS`."""
    return TESTBED.run(*arguments, script="vm")


def virsh(host: str, *arguments: str) -> str:
    return vm("virsh", host, "-q", *arguments)


def uri(host: str) -> str:
    return vm("uri", host).strip()


def restart_if_gone(host: str, pid: int) -> None:
    """Start libvirtd again, as systemd would, where it did not outlive its stop: Debian's 9.0 may segfault."""
    time.sleep(1)
    if not Path(f"/proc/{pid}/exe").exists():
        (TESTBED.state / "pids" / f"libvirtd-{host}").unlink()
        vm("up")


@contextmanager
def plugged_in(file: Path, xml: str) -> Iterator[None]:
    """Have guest-a another NIC, described by `xml`; `file` is for virsh to read."""
    file.write_text(xml)
    virsh(HOST, "attach-device", "guest-a", str(file), "--live")
    try:
        yield
    finally:
        virsh(HOST, "detach-device", "guest-a", str(file), "--live")


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
    environment = os.environ | {"OVS_RUNDIR": str(TESTBED.state / host)}
    command = ["ovs-vsctl", "--timeout=10", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def external_id(host: str, port: str, key: str) -> str:
    return ovs(host, "get", "Interface", port, f"external_ids:{key}").strip('"')


def tap(host: str, port: str) -> dict[str, Any]:
    """The kernel's counters of a device of a hypervisor, as the host counts."""
    (found,) = json.loads(TESTBED.run("exec", host, "ip", "-j", "-s", "link", "show", "dev", port))
    counters: dict[str, Any] = found["stats64"]
    return counters
