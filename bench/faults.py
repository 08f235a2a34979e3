"""Whether rows survive when the store is unavailable, and when the service is killed.

    python -m bench.faults away [--seconds 600] [--rows-per-second 100000] [--mode refuse|hang|late|cut]
    python -m bench.faults kill [--times 50] [--store embedded|server]

`away`: the real service writes to a server through a relay, which fails for the given time.  `kill`: `kill -9` at
random moments under load; with `server`, the relay fails from time to time, so that rows are in the spool.  Rows are
counted in the store afterwards, and in the rollups.  The server is simulated by tests/clickhouse_server.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from bench.end_to_end import cpu_seconds, named_by, peak_mib
from bench.load import command, machine
from bench.traffic import KINDS
from tests.clickhouse_server import started
from tests.relay import Mode, Relay
from tests.service import ROOT, Service, running

KIND = "ipfix"
SOURCE_PORT = 20_000
"""Source port of all exporters: templates belong to a port, and the next load must come from the same exporters."""
AROUND_SECONDS = 10
"""Load before and after the outage."""
ROW = "time_received, exporter, src_ip, dst_ip, src_port, dst_port, packets, bytes, flow_start, flow_end"
SAME = f"SELECT count() AS n, uniqExact(cityHash64({ROW})) AS different FROM flows WHERE time_received >= "
"""Rows, and different rows, received since a time."""


class Front:
    """A relay on a thread with its own event loop."""

    def __init__(self, target: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._relay = Relay(target)
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._relay.__aenter__(), self._loop).result()
        self.url = self._relay.url

    def be(self, mode: Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._relay.be(mode), self._loop).result()


def server(directory: Path) -> AbstractContextManager[str]:
    """Run a ClickHouse server on `directory`; yields its address.

    The service has three times its CPU weight, as with `CPUWeight` in deploy/vmflow.service.
    """
    return started(directory, ("nice", "-n", "5"))


def ask(url: str, sql: str) -> dict[str, int]:
    """Return the only row of a query to the server."""
    request = urllib.request.Request(f"{url}/?database=vmflow&default_format=JSONEachRow", data=sql.encode())
    with urllib.request.urlopen(request, timeout=300) as response:
        return {name: int(value) for name, value in json.loads(response.read()).items()}


@contextmanager
def load(target: str, rows_per_second: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run a sender with exporters that have sent before: their first datagrams have no template."""
    sender = command(KIND, target, rows_per_second, seconds, "--source-port", str(SOURCE_PORT), "--first-burst", "1")
    with subprocess.Popen(sender, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def drained(service: Service, seconds: float = 3600) -> float:
    """Wait until no row waits for the store; returns how long it took."""
    begun = time.monotonic()
    while service.metric("vmflow_spool_inserts") + service.metric("vmflow_store_queue_bytes") > 0:
        if time.monotonic() - begun > seconds:
            raise AssertionError("the spool does not get empty")
        time.sleep(0.2)
    return time.monotonic() - begun


def sending(sender: subprocess.Popen[str]) -> None:
    """Raise AssertionError if the sender has ended: the counts would then be meaningless."""
    if sender.poll() is not None:
        raise AssertionError("the sender has ended: does another of these benches have its addresses and ports?")


def _spool(service: Service) -> str:
    size, inserts = service.metric("vmflow_spool_bytes"), service.metric("vmflow_spool_inserts")
    rows = service.metric("vmflow_spool_rows_total")
    return f"spool {size / 2**20:.0f} MiB, {inserts:.0f} inserts; {rows / 1e6:.1f} M rows written so far"


def away(seconds: float, rate: float, mode: Mode) -> None:
    """Make the store unavailable for `seconds`, under load; count what is stored when it is back."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as up:
        directory = Path(name)
        url = up.enter_context(server(directory / "server"))
        front = Front(url)
        service = up.enter_context(running(directory, named_by(directory), store=front.url))
        sender = up.enter_context(load(service.udp[0], rate, seconds + 2 * AROUND_SECONDS))
        time.sleep(AROUND_SECONDS)
        sending(sender)
        print(f"store away ({mode}) for {seconds:.0f} s at {rate / 1e3:.0f} k rows/s", flush=True)
        front.be(mode)
        ended = time.monotonic() + seconds
        while time.monotonic() < ended:
            time.sleep(min(30, max(0, ended - time.monotonic())))
            print(f"  {seconds - (ended - time.monotonic()):5.0f} s: {_spool(service)}", flush=True)
        size, rows = service.metric("vmflow_spool_bytes"), service.metric("vmflow_spool_rows_total")
        front.be("pass")
        caught_up = drained(service)
        print(f"back: spool empty {caught_up:.0f} s later, {size / max(rows, 1):.0f} bytes of disk per row")
        sent = json.loads(sender.communicate()[0])["datagrams"] * KINDS[KIND]
        time.sleep(3)
        drained(service)
        lost = {
            name: int(service.metric(f"vmflow_{name}_total"))
            for name in ("listen_kernel_drops", "inbox_dropped_datagrams", "store_dropped_rows")
        }
        peak, cpu = peak_mib(service), cpu_seconds(service)
        code = service.stop()
        stored = ask(url, "SELECT count() AS n FROM flows")["n"]
        summed = ask(url, "SELECT toUInt64(sum(records)) AS n FROM pair_1h")["n"]
        print(
            f"sent {sent} rows, stored {stored}, summed {summed}, lost {lost}, exit {code}\n"
            f"service: RSS at most {peak:.0f} MiB, CPU {cpu / sent * 1e6:.2f} µs/row",
            flush=True,
        )


class Killed:
    """Rounds of start, load and kill on one directory, and their results."""

    def __init__(self, directory: Path, url: str, rate: float) -> None:
        self.directory = directory
        self.server = url
        self.front = Front(url) if url else None
        self.rate = rate
        self.starts: list[float] = []
        """Seconds from the command to `ready`, and CPU seconds: other programs may use the machine."""
        self.start_cpu: list[float] = []
        self.wrong: list[str] = []
        self.acknowledged = 0
        """Rows that must be in the store after the next start."""
        self.spooled = 0
        """Kills that left rows in the spool."""
        self.halves = 0
        self.since = 0
        """When the load before the last kill began, in µs since 1970: only rows since then can be there twice."""
        self.replayed = 0

    def start(self, up: ExitStack) -> Service:
        """Start the service and wait until all that a kill left is stored; check it."""
        if self.front is not None:
            self.front.be("pass")
        begun = time.monotonic()
        options = ("decode.template_save_seconds=0.5", "store.spool_after_seconds=0.2", "store.max_retry_seconds=0.5")
        store = self.front.url if self.front is not None else ""
        service = up.enter_context(running(self.directory, named_by(self.directory), *options, store=store))
        self.starts.append(time.monotonic() - begun)
        self.start_cpu.append(cpu_seconds(service))
        drained(service)
        self.halves += int(service.metric("vmflow_spool_half_files_total"))
        missing = self.acknowledged - self.ask(service, "SELECT count() AS n FROM flows")["n"]
        if missing > 0:
            self.wrong.append(f"{missing} acknowledged rows are missing")
        found = self.ask(service, f"{SAME} fromUnixTimestamp64Micro({self.since})")
        if found["n"] != found["different"]:
            self.wrong.append(f"{found['n'] - found['different']} rows are there twice")
        self.since = time.time_ns() // 1000
        return service

    def ask(self, service: Service, sql: str) -> dict[str, int]:
        if self.server:
            return ask(self.server, sql)
        return {name: int(value) for name, value in service.query(sql)[0].items()}

    def round(self, number: int) -> None:
        """Start, load, kill."""
        with ExitStack() as up:
            service = self.start(up)
            sender = up.enter_context(load(service.udp[0], self.rate, 60))
            until = time.monotonic() + random.uniform(1.0, 4.0)
            while time.monotonic() < until:
                if self.front is not None:
                    self.front.be(random.choice(("pass", "refuse", "late", "cut", "hang")))
                time.sleep(max(0.0, min(random.uniform(0.1, 0.8), until - time.monotonic())))
            sending(sender)
            if number and (held := _held(service)):
                self.wrong.append(f"{held} datagrams waited for a template")
            before = 0 if self.server else self.ask(service, "SELECT count() AS n FROM flows")["n"]
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
        self.acknowledged = self.after_kill(before)

    def after_kill(self, before: int) -> int:
        """Return the rows that the store has, and the rows of the spool that were not sent."""
        if not self.server:
            return before
        time.sleep(1.0)  # a running insert may still complete
        names = [path.name.split("-") for path in (self.directory / "spool").glob("*.arrow")]
        flows = [(int(group), int(rows)) for _, table, group, rows, _ in names if table == "flows"]
        self.spooled += bool(flows)
        self.replayed += sum(rows for _, rows in flows)
        new = sum(rows for group, rows in flows if not group)
        doubtful = 0
        for group, rows in flows:
            if group:
                there = ask(self.server, f"SELECT count() AS n FROM flows WHERE rollup_group = {group}")["n"]
                doubtful += 0 if there >= rows else rows
        return ask(self.server, "SELECT count() AS n FROM flows")["n"] + new + doubtful


def _held(service: Service) -> int:
    """Return how many datagrams had to wait for their template, or got none."""
    lines = service.get("/metrics").splitlines()
    wanted = [line for line in lines if line.startswith("vmflow_decode_problems_total") and
              ('reason="held"' in line or 'reason="no_template"' in line)]  # fmt: skip
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in wanted))


def kill(times: int, store: str, rate: float) -> None:
    """Kill the service `times` times; print what was wrong."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as up:
        directory = Path(name)
        url = up.enter_context(server(directory / "server")) if store == "server" else ""
        killed = Killed(directory, url, rate)
        for number in range(times):
            killed.round(number)
            print(
                f"  kill {number + 1}: start {killed.starts[-1]:.1f} s, {killed.start_cpu[-1]:.1f} s of CPU; "
                f"acknowledged {killed.acknowledged}, through the spool {killed.replayed}, wrong {len(killed.wrong)}",
                flush=True,
            )
        service = killed.start(up)
        time.sleep(2)
        rows = killed.ask(service, "SELECT count() AS n FROM flows")["n"]
        code = service.stop()
        summed = ask(url, "SELECT toUInt64(sum(records)) AS n FROM pair_1h")["n"] if url else _summed(directory)
        if not rows:
            killed.wrong.append("nothing was stored")
        print(
            f"{times} kills, {store}: {rows} rows, {summed} summed; "
            f"start {statistics.median(killed.starts):.1f} s (median), {max(killed.starts[1:]):.1f} s at most, "
            f"{statistics.median(killed.start_cpu):.1f} s of CPU; "
            f"{killed.spooled} kills left {killed.replayed} rows in the spool, {killed.halves} half-written files; "
            f"exit {code}; wrong: {killed.wrong or 'nothing'}",
            flush=True,
        )


def _summed(directory: Path) -> int:
    """Return the rows in the rollups of the embedded store, after the service has stopped."""
    with running(directory) as service:
        time.sleep(2)
        return int(service.query("SELECT toUInt64(sum(records)) AS n FROM pair_1h")[0]["n"])


def main() -> None:
    """Run the measurement asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("what", choices=("away", "kill"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rows-per-second", type=float, default=None)
    parser.add_argument("--mode", choices=("refuse", "hang", "late", "cut"), default="refuse")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--store", choices=("embedded", "server"), default="server")
    args = parser.parse_args()
    print(machine())
    if args.what == "away":
        away(args.seconds, args.rows_per_second or 100_000, args.mode)
    else:
        kill(args.times, args.store, args.rows_per_second or 50_000)


if __name__ == "__main__":
    main()
