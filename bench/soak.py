"""The service under load for long, with faults switched on and off: is memory flat, is every row accounted for?

    python -m bench.soak [--minutes 20] [--rows-per-second 300000] [--kind ipfix] [--store server|embedded]

In turns of half a minute: nothing, garbage from forged senders, reloads (SIGHUP), large queries, and with a server as
store: it refuses, hangs, cuts its answers.  Then the exporters restart.  In the end every row sent is in the store, or
in a counter of losses.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.end_to_end import cpu_seconds, named_by
from bench.faults import Front, ask, server
from bench.load import command, machine
from bench.traffic import KINDS
from tests.relay import Mode
from tests.service import ROOT, Service, running

TURN_SECONDS = 30.0
FAIL_SECONDS = 10.0
"""How long the store fails in its turn; the rest of the turn is for catching up."""
SAMPLE_SECONDS = 5.0
WARM_SECONDS = 120.0
"""Until then, caches and tables grow."""
WORK_OFF_SECONDS = 300.0
"""How long rows that wait for the store may take after the load."""
HEADS = (b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5", b"\0\x63")
QUERY = (
    "SELECT toUInt64(ifNull(max(o), 0)) AS n "
    "FROM (SELECT sum(bytes) AS o FROM pair_metrics_1m GROUP BY src_vm, dst_vm)",
    "SELECT max(o) AS n FROM (SELECT sum(bytes) AS o FROM flows GROUP BY exporter)",
)
OURS = "exporter BETWEEN toIPv6('::ffff:127.9.0.0') AND toIPv6('::ffff:127.9.255.255')"
"""Rows of the exporters: garbage may look like a record."""
LOST = ("listen_kernel_drops", "inbox_dropped_datagrams", "store_dropped_rows")


class Loads:
    """The senders, one after the other: a new one is the same exporters, restarted."""

    def __init__(self, service: Service, kind: str, rate: float) -> None:
        self._target, self._kind, self._rate = service.udp[0], kind, rate
        self._process: subprocess.Popen[str] | None = None
        self._until = 0.0
        self.datagrams = 0

    def begin(self, seconds: float) -> None:
        """Send for this long."""
        sender = command(self._kind, self._target, self._rate, seconds)
        self._process = subprocess.Popen(sender, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def wait(self) -> None:
        """Wait until all is sent."""
        if self._process is not None:
            self.datagrams += json.loads(self._process.communicate()[0])["datagrams"]


class Faults:
    """Disturbances of a service, each until a time is reached."""

    def __init__(self, service: Service, url: str, front: Front | None) -> None:
        self._service = service
        self._url = url
        self._front = front
        self.turns: list[Callable[[float], None]] = [self.nothing, self.garbage, self.reloads, self.queries]
        if front is not None:
            self.turns += [self.store_refuses, self.store_hangs, self.store_cuts]

    def ask(self, sql: str) -> int:
        """Return the number that a query gives as `n`."""
        return ask(self._url, sql)["n"] if self._front else int(self._service.query(sql)[0]["n"])

    def nothing(self, until: float) -> None:
        """Do nothing besides the load."""
        time.sleep(max(0.0, until - time.monotonic()))

    def garbage(self, until: float) -> None:
        """Send a thousand datagrams a second that are no export, from senders that exist for one datagram."""
        host, port = self._service.udp[0].rsplit(":", 1)
        while time.monotonic() < until:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
                forged.bind((f"127.{random.randint(70, 90)}.{random.randint(0, 255)}.{random.randint(1, 254)}", 0))
                forged.sendto(random.choice(HEADS) + random.randbytes(random.randint(0, 1400)), (host, int(port)))
            time.sleep(0.001)

    def reloads(self, until: float) -> None:
        """Reload every second."""
        while time.monotonic() < until:
            self._service.process.send_signal(signal.SIGHUP)
            time.sleep(1)

    def queries(self, until: float) -> None:
        """Run one large query after the other."""
        while time.monotonic() < until:
            try:
                self.ask(random.choice(QUERY))
            except (urllib.error.URLError, TimeoutError):  # refused for its cost: that is what limits are for
                time.sleep(1)

    def store_refuses(self, until: float) -> None:
        """Make the store close every connection."""
        self._fails("refuse", until)

    def store_hangs(self, until: float) -> None:
        """Make the store take requests and do nothing."""
        self._fails("hang", until)

    def store_cuts(self, until: float) -> None:
        """Make the store execute requests, but lose its answers."""
        self._fails("cut", until)

    def _fails(self, mode: Mode, until: float) -> None:
        assert self._front is not None
        self._front.be(mode)
        self.nothing(until - TURN_SECONDS + FAIL_SECONDS)
        self._front.be("pass")
        self.nothing(until)


def steal_seconds() -> float:
    """Return how long the host has kept cores of this machine for others (steal time)."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def rss_mib(service: Service) -> float:
    """Return the memory in use now."""
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


IDLE = """
import os, sys, time
from collector.threads import raise_priority
raise_priority()
while True:
    worst, until = 0.0, time.monotonic() + float(sys.argv[1])
    while (before := time.monotonic()) < until:
        time.sleep(0.01)
        worst = max(worst, time.monotonic() - before - 0.01)
    print(worst, flush=True)
"""
"""A process without other work runs a timer as the event loop does: its delays are those of the machine."""


class Idle(threading.Thread):
    """The delay of the timer of a process that does nothing else, at the event loop's niceness."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        command = [sys.executable, "-c", IDLE, str(SAMPLE_SECONDS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.latest = 0.0
        """Return the most seconds of the last samples."""

    def run(self) -> None:
        assert self._process.stdout is not None
        before = 0.0
        for line in self._process.stdout:
            self.latest, before = max(float(line), before), float(line)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Watch(threading.Thread):
    """Samples memory and the event loop until it is stopped."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._stopping = threading.Event()
        self.rss: list[tuple[float, float]] = []
        self.doing = ""
        self.lag: dict[str, float] = {}
        """The longest delay of a timer of the event loop, by disturbance."""
        self.idle_lag: dict[str, float] = {}
        """The same for a process that does nothing."""
        self.stolen: dict[str, float] = {}
        """Seconds for which the host kept the cores for others."""
        self.late: dict[str, int] = {}
        """How many timers of the event loop were late in the end, by cause."""
        self._idle = Idle()

    def run(self) -> None:
        begun, stolen = time.monotonic(), steal_seconds()
        self._idle.start()
        while not self._stopping.wait(SAMPLE_SECONDS):
            self.rss.append((time.monotonic() - begun, rss_mib(self._service)))
            doing, lag = self.doing, self._service.metric("vmflow_event_loop_lag_seconds")
            self.lag[doing] = max(self.lag.get(doing, 0.0), lag)
            self.idle_lag[doing] = max(self.idle_lag.get(doing, 0.0), self._idle.latest)
            before, stolen = stolen, steal_seconds()
            self.stolen[doing] = self.stolen.get(doing, 0.0) + stolen - before

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        with suppress(OSError):  # the service has ended, if the soak failed
            self.late = {
                cause: int(self._service.metric("vmflow_event_loop_late_total", cause=cause))
                for cause in ("core", "process")
            }
        self._idle.stop()

    def report(self) -> None:
        """Print how memory developed."""
        warm = [mib for at, mib in self.rss if at >= min(WARM_SECONDS, self.rss[-1][0] / 4)]
        quarter = max(1, len(warm) // 4)
        first, last = (sorted(part)[len(part) // 2] for part in (warm[:quarter], warm[-quarter:]))
        print(
            f"RSS: at most {max(mib for _, mib in self.rss):.0f} MiB; median of the first quarter after the warm-up "
            f"{first:.0f} MiB, of the last {last:.0f} MiB"
        )
        for whose, lags in (("the event loop", self.lag), ("a process that does nothing", self.idle_lag)):
            print(f"a timer of {whose} waited at most", {what: f"{lag * 1e3:.0f} ms" for what, lag in lags.items()})
        print("the host kept the cores", {what: f"{seconds:.1f} s" for what, seconds in self.stolen.items()})
        print("timers of the event loop over 100 ms, by what held them:", self.late)


def soak(minutes: float, rate: float, kind: str, stored_in: str) -> None:
    """Load, disturb, count."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as up:
        url = up.enter_context(server(Path(name) / "server")) if stored_in == "server" else ""
        front = Front(url) if url else None
        service = up.enter_context(running(Path(name), named_by(Path(name)), store=front.url if front else ""))
        faults, loads, watch = Faults(service, url, front), Loads(service, kind, rate), Watch(service)
        watch.start()
        up.callback(watch.stop)  # its process must not stay when something fails
        ended = time.monotonic() + minutes * 60
        while time.monotonic() < ended:
            loads.begin(len(faults.turns) * TURN_SECONDS)  # then the exporters restart
            begun = time.monotonic()
            for number, disturb in enumerate(faults.turns):
                watch.doing = disturb.__name__
                disturb(begun + (number + 1) * TURN_SECONDS)
            loads.wait()
            progress(service, minutes * 60 - (ended - time.monotonic()))
        begun = time.monotonic()
        while faults.ask(f"SELECT count() AS n FROM flows WHERE {OURS}") < loads.datagrams * KINDS[kind]:
            if time.monotonic() - begun > WORK_OFF_SECONDS:
                break
            time.sleep(1)
        time.sleep(15)  # the last sums
        watch.stop()
        lost = {what: int(service.metric(f"vmflow_{what}_total")) for what in LOST}
        rows = faults.ask(f"SELECT count() AS n FROM flows WHERE {OURS}")
        every = faults.ask("SELECT count() AS n FROM flows")
        summed = faults.ask("SELECT toUInt64(round(sum(records))) AS n FROM pair_1h")
        cpu = cpu_seconds(service)
        code = service.stop()
    print(
        f"sent {loads.datagrams * KINDS[kind]} rows in {loads.datagrams} datagrams, stored {rows}; "
        f"with garbage that looked like records: stored {every}, summed {summed}; "
        f"lost {lost}, CPU {cpu / rows * 1e6:.2f} µs/row, exit {code}"
    )
    watch.report()


def progress(service: Service, seconds: float) -> None:
    """Print the progress."""
    stored, spooled = service.metric("vmflow_store_rows_total"), service.metric("vmflow_spool_rows_total")
    waiting = service.metric("vmflow_spool_bytes") / 2**20
    print(
        f"  {seconds:5.0f} s: {stored / 1e6:.1f} M rows stored, {spooled / 1e6:.1f} M of them by way of the spool, "
        f"where {waiting:.0f} MiB are left; RSS {rss_mib(service):.0f} MiB",
        flush=True,
    )


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rows-per-second", type=float, default=300_000)
    parser.add_argument("--kind", choices=("ipfix", "netflow5", "netflow9"), default="ipfix")
    parser.add_argument("--store", choices=("server", "embedded"), default="server")
    args = parser.parse_args()
    print(machine())
    soak(args.minutes, args.rows_per_second, args.kind, args.store)


if __name__ == "__main__":
    main()
