"""The service under load for long, with faults switched on and off: does memory stay flat, is every row accounted for?

    python -m bench.soak [--minutes 20] [--rows-per-second 300000] [--kind ipfix]

The embedded store takes all.  In turns of half a minute: nothing, garbage from forged senders, reloads (SIGHUP), large
queries; then the exporters start anew.  Every row sent is in the store in the end, or in a counter of losses.
"""

from __future__ import annotations

import argparse
import json
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
from pathlib import Path

from bench.__main__ import machine
from bench.end_to_end import INTERFACES, _cpu, _inventory
from bench.traffic import KINDS
from tests.service import ROOT, Service, running

TURN_SECONDS = 30.0
SAMPLE_SECONDS = 5.0
WARM_SECONDS = 120.0
"""Until then, caches and tables grow."""
HEADS = (b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5", b"\0\x63")
QUERY = (
    "SELECT src_vm, dst_vm, sum(octets) FROM pair_metrics_1m GROUP BY src_vm, dst_vm ORDER BY 3 DESC LIMIT 20",
    "SELECT exporter, count(), sum(bytes) FROM flows GROUP BY exporter",
)
OURS = "exporter BETWEEN toIPv6('::ffff:127.9.0.0') AND toIPv6('::ffff:127.9.255.255')"
"""Rows of the exporters: garbage may look like a record."""
LOST = ("listen_kernel_drops", "inbox_dropped_datagrams", "store_dropped_rows")


class Loads:
    """The senders, one after the other: a new one is the same exporters, started anew."""

    def __init__(self, service: Service, kind: str, rate: float) -> None:
        self._target, self._kind, self._rate = service.udp[0], kind, rate
        self._process: subprocess.Popen[str] | None = None
        self._until = 0.0
        self.datagrams = 0

    def begin(self, seconds: float) -> None:
        """Send for so long."""
        command = [
            sys.executable, "-m", "bench.load", self._kind, self._target, "--rows-per-second", str(self._rate),
            "--seconds", str(seconds),
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def wait(self) -> None:
        """Wait until all is sent."""
        if self._process is not None:
            self.datagrams += json.loads(self._process.communicate()[0])["datagrams"]


def garbage(service: Service, until: float) -> None:
    """A thousand datagrams a second that are no export, from senders that exist for one datagram."""
    host, port = service.udp[0].rsplit(":", 1)
    while time.monotonic() < until:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
            forged.bind((f"127.{random.randint(70, 90)}.{random.randint(0, 255)}.{random.randint(1, 254)}", 0))
            forged.sendto(random.choice(HEADS) + random.randbytes(random.randint(0, 1400)), (host, int(port)))
        time.sleep(0.001)


def reloads(service: Service, until: float) -> None:
    """A reload every second."""
    while time.monotonic() < until:
        service.process.send_signal(signal.SIGHUP)
        time.sleep(1)


def queries(service: Service, until: float) -> None:
    """One large query after the other."""
    while time.monotonic() < until:
        try:
            service.query(random.choice(QUERY))
        except (urllib.error.URLError, TimeoutError):  # refused for its cost: that is what limits are for
            time.sleep(1)


def nothing(service: Service, until: float) -> None:
    """Let the load be alone."""
    time.sleep(max(0.0, until - time.monotonic()))


TURNS: tuple[Callable[[Service, float], None], ...] = (nothing, garbage, reloads, queries)


def rss_mib(service: Service) -> float:
    """Memory in use now."""
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


class Watch(threading.Thread):
    """Looks at memory and the event loop until told to stop."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._stopping = threading.Event()
        self.rss: list[tuple[float, float]] = []
        self.doing = ""
        self.lag: dict[str, float] = {}
        """The longest that a timer of the event loop waited, by what was going on."""

    def run(self) -> None:
        begun = time.monotonic()
        while not self._stopping.wait(SAMPLE_SECONDS):
            self.rss.append((time.monotonic() - begun, rss_mib(self._service)))
            doing, lag = self.doing, self._service.metric("vmflow_event_loop_lag_seconds")
            self.lag[doing] = max(self.lag.get(doing, 0.0), lag)

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def tell(self) -> None:
        """Print how memory went."""
        warm = [mib for at, mib in self.rss if at >= min(WARM_SECONDS, self.rss[-1][0] / 4)]
        quarter = max(1, len(warm) // 4)
        first, last = (sorted(part)[len(part) // 2] for part in (warm[:quarter], warm[-quarter:]))
        print(
            f"RSS: at most {max(mib for _, mib in self.rss):.0f} MiB; median of the first quarter after the warm-up "
            f"{first:.0f} MiB, of the last {last:.0f} MiB"
        )
        print(
            "a timer of the event loop waited at most", {what: f"{lag * 1e3:.0f} ms" for what, lag in self.lag.items()}
        )


def soak(minutes: float, rate: float, kind: str) -> None:
    """Load, disturb, count."""
    with tempfile.TemporaryDirectory() as name, running(Path(name), *_inventory(name, INTERFACES)) as service:
        loads, watch = Loads(service, kind, rate), Watch(service)
        watch.start()
        ended = time.monotonic() + minutes * 60
        turn = 0
        while time.monotonic() < ended:
            loads.begin(len(TURNS) * TURN_SECONDS)  # then the exporters start anew
            begun = time.monotonic()
            for number, disturb in enumerate(TURNS):
                watch.doing = disturb.__name__
                disturb(service, begun + (number + 1) * TURN_SECONDS)
            loads.wait()
            turn += 1
            stored = service.metric("vmflow_store_rows_total")
            print(
                f"  {turn * len(TURNS) * TURN_SECONDS:5.0f} s: {stored / 1e6:.1f} M rows, {rss_mib(service):.0f} MiB",
                flush=True,
            )
        service.wait_for_rows(f"SELECT count() AS n FROM flows WHERE {OURS}", loads.datagrams * KINDS[kind], 60)
        time.sleep(15)  # the last sums
        watch.stop()
        lost = {what: int(service.metric(f"vmflow_{what}_total")) for what in LOST}
        rows = int(service.query(f"SELECT count() AS n FROM flows WHERE {OURS}")[0]["n"])
        every = int(service.query("SELECT count() AS n FROM flows")[0]["n"])
        summed = int(service.query("SELECT toUInt64(round(sum(records))) AS n FROM pair_1h")[0]["n"])
        cpu = _cpu(service)
        code = service.stop()
    print(
        f"sent {loads.datagrams * KINDS[kind]} rows in {loads.datagrams} datagrams, stored {rows}; "
        f"with garbage that looked like records: stored {every}, summed {summed}; "
        f"lost {lost}, CPU {cpu / rows * 1e6:.2f} µs/row, exit {code}"
    )
    watch.tell()


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rows-per-second", type=float, default=300_000)
    parser.add_argument("--kind", choices=("ipfix", "netflow5", "netflow9"), default="ipfix")
    args = parser.parse_args()
    print(machine())
    soak(args.minutes, args.rows_per_second, args.kind)


if __name__ == "__main__":
    main()
