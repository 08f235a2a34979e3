"""The receivers that `bench.peers` compares: how each is started, asked for its count, and stopped.

What a receiver got is what it reports itself when it has ended; the kernel's drops are those of its socket.  CPU time
is that of all its processes, from when it was ready until it had processed all that it took: what a process needs to
end (half a second for vmflow, a table to be written for pmacct) says nothing about the cost of a record.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.end_to_end import inventory_file, named_by
from tests.service import ROOT, Service, running

START_SECONDS = 400
"""The first start of vmflow compiles its kernels."""
STOP_SECONDS = 60
QUIET_SECONDS = 0.5
"""A receiver whose CPU time does not grow for this long has processed what it got."""
LONGEST_QUIET_SECONDS = 30
TICK = 1 / os.sysconf("SC_CLK_TCK")
PAIRS_KEPT = 65_537
"""Entries of the peers' table of pairs: more than the load has."""


@dataclass(frozen=True)
class Got:
    """What a receiver reports, and what it cost."""

    records: int
    kernel_drops: int
    cpu_seconds: float
    late_seconds: float
    """From the last datagram until all that was taken was processed, as far as can be seen from outside."""


Load = Callable[[str], float]
"""Sends to HOST:PORT; returns the time at which it ended (`time.monotonic`)."""


class Processes:
    """CPU time of a process and all its children, including those that have ended since the last call."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._seconds: dict[int, float] = {}

    def cpu_seconds(self) -> float:
        """Return user and system time so far."""
        parents: dict[int, int] = {}
        times: dict[int, float] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it has just ended
            parents[int(entry.parent.name)] = int(fields[1])
            times[int(entry.parent.name)] = (int(fields[11]) + int(fields[12])) * TICK
        for pid, seconds in times.items():
            above = pid
            while above in parents and above != self.pid:
                above = parents[above]
            if above == self.pid:
                self._seconds[pid] = seconds
        return sum(self._seconds.values())

    def wait_until_quiet(self) -> tuple[float, float]:
        """Wait until no CPU time is used any more; returns when that began (`time.monotonic`), and the CPU time."""
        before, since = self.cpu_seconds(), time.monotonic()
        give_up = since + LONGEST_QUIET_SECONDS
        while (now := time.monotonic()) - since < QUIET_SECONDS and now < give_up:
            time.sleep(0.05)
            seconds = self.cpu_seconds()
            if seconds > before + TICK:
                before, since = seconds, time.monotonic()
        return since, before


def free_port() -> int:
    """Return a free UDP port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def udp_drops(port: int) -> int | None:
    """Return the drops of the socket bound to 127.0.0.1:`port`; None if there is no such socket."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}":
            return int(fields[-1])
    return None


def buffer_bytes() -> int:
    """Return the receive buffer of all receivers: vmflow's default, or the system's limit."""
    return min(32 << 20, int(Path("/proc/sys/net/core/rmem_max").read_text()))


def _peer(command: list[str], port: int, load: Load, number: int, log: Path) -> tuple[int, float, float]:
    """Run a program that listens on `port`; returns drops, CPU time, and seconds until it was done."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            give_up = time.monotonic() + 20
            while udp_drops(port) is None:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"{command[0]} did not start:\n{log.read_text()}")
                time.sleep(0.05)
            processes = Processes(process.pid)
            _, before = processes.wait_until_quiet()
            ended = load(f"127.0.0.1:{port}")
            done, after = processes.wait_until_quiet()
            drops = udp_drops(port)
            process.send_signal(number)
            process.wait(STOP_SECONDS)
            return drops or 0, after - before, max(done - ended, 0.0)
        finally:
            process.kill()
            process.wait()


def capd(program: str, load: Load) -> Got:
    """Run `nfcapd` or `sfcapd`: records go to a file, uncompressed."""
    with tempfile.TemporaryDirectory() as directory:
        port, files = free_port(), Path(directory) / "files"
        files.mkdir()
        command = [program, "-w", str(files), "-b", "127.0.0.1", "-p", str(port), "-t", "86400"]
        command += ["-B", str(buffer_bytes())]
        drops, cpu, late = _peer(command, port, load, signal.SIGTERM, Path(directory) / "log")
        said = subprocess.run(["nfdump", "-I", "-R", str(files)], check=True, capture_output=True, text=True).stdout
        records = next(int(line.split(":")[1]) for line in said.splitlines() if line.startswith("Flows:"))
        return Got(records, drops, cpu, late)


ACCTD = """
daemonize: false
{name}_ip: 127.0.0.1
{name}_port: {port}
{name}_pipe_size: {buffer}
plugins: print[pairs]
plugin_pipe_size[pairs]: 67108864
plugin_buffer_size[pairs]: 65536
aggregate[pairs]: src_host, dst_host, flows
print_cache_entries[pairs]: {entries}
print_refresh_time[pairs]: 86400
print_output[pairs]: csv
print_output_file[pairs]: {file}
"""
"""pmacct: sums per pair of addresses in memory, written once, at the end."""


def acctd(program: str, load: Load) -> Got:
    """Run `nfacctd` or `sfacctd`.  A sample counts as one packet unless sums are scaled; by default they are not."""
    with tempfile.TemporaryDirectory() as directory:
        port, settings, file = free_port(), Path(directory) / "conf", Path(directory) / "sums.csv"
        settings.write_text(ACCTD.format(name=program, port=port, buffer=buffer_bytes(), entries=PAIRS_KEPT, file=file))
        drops, cpu, late = _peer([program, "-f", str(settings)], port, load, signal.SIGINT, Path(directory) / "log")
        if not file.exists():  # it writes none if nothing came
            return Got(0, drops, cpu, late)
        column = "FLOWS" if program == "nfacctd" else "PACKETS"
        with file.open() as rows:
            return Got(sum(int(row[column]) for row in csv.DictReader(rows)), drops, cpu, late)


def unstored(load: Load) -> Got:
    """Run vmflow up to the named batch."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "bench.unstored", "--buffer-bytes", str(buffer_bytes())]
        command += ["--inventory", str(inventory_file(Path(directory)))]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            if not first:
                raise SystemExit("python -m bench.unstored did not start")
            processes = Processes(process.pid)
            before = processes.cpu_seconds()
            ended = load(json.loads(first)["address"])
            done, after = processes.wait_until_quiet()
            process.send_signal(signal.SIGTERM)
            said = json.loads(process.stdout.readline())
            if said["ends_unnamed"]:
                raise SystemExit(f"{said['ends_unnamed']} ends were not named: the comparison would flatter vmflow")
            return Got(said["records"], said["kernel_drops"], after - before, max(done - ended, 0.0))
        finally:
            process.kill()
            process.wait()


def stored(load: Load) -> Got:
    """Run vmflow as it is installed: names, rollups, alerts, embedded store."""
    with tempfile.TemporaryDirectory() as directory:
        options = (named_by(Path(directory)), f"listen.receive_buffer_bytes={buffer_bytes()}")
        with running(Path(directory), *options) as service:
            processes = Processes(service.process.pid)
            before = processes.cpu_seconds()
            ended = load(service.udp[0])
            records, there, after = _settled(service, processes)
            drops = int(service.metric("vmflow_listen_kernel_drops_total"))
            return Got(records, drops, after - before, max(there - ended, 0.0))


def _settled(service: Service, processes: Processes) -> tuple[int, float, float]:
    """Return the rows that queries see once none are added or waiting; since when (`time.monotonic`); CPU time then."""
    rows, since, cpu = -1, time.monotonic(), 0.0
    while time.monotonic() - since < 2.0 or _waiting(service):
        now = int(service.query("SELECT count() AS n FROM flows")[0]["n"])
        if now != rows:
            rows, since, cpu = now, time.monotonic(), processes.cpu_seconds()
        time.sleep(0.25)
    return rows, since, cpu


def _waiting(service: Service) -> bool:
    health = json.loads(service.get("/health"))
    return bool(health["inbox_bytes"] or health["store_queue_bytes"])
