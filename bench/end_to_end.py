"""UDP to queryable rows: the real service, a sender on the same machine, at several rates."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from bench.load import command, rows_per_datagram
from tests.service import ROOT, Service, running

RATES = {
    "ipfix": (500_000, 1_000_000, 1_200_000),
    "netflow9": (500_000, 1_000_000),
    "netflow5": (500_000, 1_000_000),
    "sflow": (250_000, 500_000),
    "sflow_switch": (250_000, 500_000),
    "ipfix_ovs": (50_000, 100_000, 200_000),
}
SECONDS = 8.0
INTERFACES = 10_000
"""Interfaces of the inventory: five times as many as those that send."""


@dataclass(frozen=True)
class Run:
    """One kind at one rate."""

    kind: str
    sent_datagrams: int
    received_datagrams: int
    kernel_drops: int
    queue_drops: int
    rows: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    delay_seconds: float

    def __str__(self) -> str:
        lost = 100 * (1 - self.received_datagrams / self.sent_datagrams)
        sent = self.sent_datagrams * rows_per_datagram(self.kind) / self.seconds / 1e3
        cpu = self.cpu_seconds / max(self.rows, 1) * 1e6
        return (
            f"{self.kind:10} sent {sent:7.0f} k rows/s  stored {self.rows / self.seconds / 1e3:7.0f} k rows/s  "
            f"lost {lost:5.2f} % of datagrams (kernel {self.kernel_drops}, queues {self.queue_drops})  "
            f"CPU {cpu:5.2f} µs/row  RSS {self.peak_mib:.0f} MiB  "
            f"all rows there {self.delay_seconds:.1f} s after the last datagram"
        )


def measure(kind: str, rate: float, *options: str) -> Run:
    """Run the service with an empty store and an inventory under load, and count what arrived."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory), named_by(Path(directory)), *options) as service,
    ):
        before = cpu_seconds(service)
        sender = command(kind, service.udp[0], rate, SECONDS)
        sent = json.loads(subprocess.run(sender, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        ended = time.monotonic()
        rows = _settled(service)
        delay = time.monotonic() - ended - SETTLE_SECONDS
        return Run(
            kind,
            sent["datagrams"],
            int(service.metric("vmflow_listen_datagrams_total")),
            int(service.metric("vmflow_listen_kernel_drops_total")),
            int(
                service.metric("vmflow_inbox_dropped_datagrams_total")
                + service.metric("vmflow_store_dropped_rows_total")
            ),
            rows,
            sent["seconds"],
            cpu_seconds(service) - before,
            peak_mib(service),
            max(delay, 0.0),
        )


def named_by(directory: Path) -> str:
    """Return the setting that names the VMs from a file in `directory`."""
    return f"inventory.static={json.dumps([{'file': str(inventory_file(directory))}])}"


def inventory_file(directory: Path) -> Path:
    """Write a file that names the VMs of `bench.traffic`, all in one network: else an address identifies no VM."""
    file = directory / "inventory.csv"
    lines = [
        f"{0x5254_0000_0000 + n:012x},{IPv4Address((10 << 24) + n)},vm-{n:06},{UUID(int=n + 1)},project-{n % 100},"
        f"host-{n % 16},network-0\n"
        for n in range(INTERFACES)
    ]
    file.write_text("mac,ips,vm,vm_uuid,project,host,network\n" + "".join(lines))
    return file


SETTLE_SECONDS = 2.0


def _settled(service: Service) -> int:
    """Return the number of rows once it no longer grows."""
    rows, since = -1, time.monotonic()
    while time.monotonic() - since < SETTLE_SECONDS:
        now = int(service.query("SELECT count() AS n FROM flows")[0]["n"])
        if now != rows:
            rows, since = now, time.monotonic()
        time.sleep(0.1)
    return rows


def cpu_seconds(service: Service) -> float:
    """Return the CPU time of the service so far."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(service: Service) -> float:
    """Return the peak memory of the service so far."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(kinds: list[str]) -> None:
    """Measure these kinds at all their rates, and print."""
    for kind in kinds:
        for rate in RATES[kind]:
            print(measure(kind, rate), flush=True)
