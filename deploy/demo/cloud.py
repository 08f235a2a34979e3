"""A simulated Open vSwitch cloud that exports to a collector, or into a capture file, and records the true figures.

    python -m deploy.demo.cloud --to 127.0.0.1 --inventory vms.toml --truth truth.jsonl

docs/demo.md describes it.  The same seed, start and options give the same datagrams.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO

import numpy as np

from collector.capture.senders import Target, TargetError, parse_target, resolve
from deploy.demo import wire
from deploy.demo.exporters import EXPORTERS, Event, Exporter
from deploy.demo.model import (
    CACHE_SECONDS,
    SECOND_US,
    TROUBLES,
    WINDOW_SECONDS,
    Cloud,
    CloudError,
    Column,
    Segments,
    Trouble,
    busy,
    inventory,
    plan,
)

WINDOW_US = WINDOW_SECONDS * SECOND_US
FIXED_START = "2026-01-05T14:00:00"
"""Default start of a capture: the same command writes the same file at any time."""
FIRST_TROUBLE, EVERY_TROUBLE, TROUBLE_SECONDS = 120, 300, 180
SHORT = {"migration": 1, "restart": 3}
"""Duration in seconds of troubles that are shorter than the others."""
LATE_SECONDS = 1.0
COLLECTOR = int(IPv4Address("127.0.0.1"))


class Truth:
    """What was really sent and received, by VM pair and window of ten seconds, as JSON lines."""

    def __init__(self, file: IO[str] | None, cloud: Cloud) -> None:
        self._file = file
        self._cloud = cloud
        self._sent: dict[int, list[Column]] = defaultdict(list)
        self._got: dict[int, list[Column]] = defaultdict(list)

    def write(self, kind: str, **values: object) -> None:
        """Write one line."""
        if self._file:
            self._file.write(json.dumps({"kind": kind, **values}) + "\n")

    def begin(self, options: dict[str, object], troubles: list[Trouble], start_us: int) -> None:
        """Write the cloud itself, and what is going to happen."""
        cloud = self._cloud
        hosts = [
            {
                "name": host.name, "address": str(IPv4Address(host.address)), "protocol": host.protocol,
                "sampling": host.sampling, "clock_us": host.clock_us, "tunnel_end": str(IPv4Address(host.tunnel_end)),
            }
            for host in cloud.hosts
        ]  # fmt: skip
        vms = [
            {
                "vm": vm.title, "uuid": str(vm.uuid), "mac": vm.mac, "ip": str(IPv4Address(vm.ip)), "vni": vm.vni,
                "host": cloud.hosts[vm.host].name, "port": vm.port.name,
            }
            for vm in cloud.vms
        ]  # fmt: skip
        self.write("cloud", options=options, start=_iso(start_us), start_us=start_us, hosts=hosts, vms=vms)
        for trouble in troubles:
            self.write("schedule", **self._of(trouble, start_us))

    def trouble(self, trouble: Trouble, start_us: int) -> None:
        """Write a trouble that begins now, and the pairs that it affects."""
        names = [vm.title for vm in self._cloud.vms]
        pairs = [[names[client], names[server]] for client, server in self._cloud.pairs(trouble)]
        self.write("trouble", **self._of(trouble, start_us), pairs=pairs)

    def _of(self, trouble: Trouble, start_us: int) -> dict[str, object]:
        return {
            "name": trouble.name, "what": TROUBLES[trouble.name],
            "start_us": start_us + trouble.start * SECOND_US, "end_us": start_us + trouble.end * SECOND_US,
            "hosts": [self._cloud.hosts[number].name for number in trouble.hosts],
            "vms": [self._cloud.vms[number].title for number in trouble.vms],
        }  # fmt: skip

    def add(self, segments: Segments) -> None:
        """Count the packets of a second; what waits for a packet that is sent again passes up to 3 s later."""
        if not self._file:
            return
        pair = segments.src * len(self._cloud.vms) + segments.dst
        arrived = (segments.got[0] > 0).astype(np.int64)
        opens = (segments.opens == 1).astype(np.int64)
        first, rest, later_us = segments.first, segments.rest, segments.start_us + segments.delay_us
        self._put(self._sent, segments.start_us, pair, first, first * segments.first_length, opens)
        self._put(self._sent, later_us, pair, rest, rest * segments.length, np.zeros_like(opens))
        self._put(self._got, segments.arrive_us, pair, *segments.got, arrived, arrived * segments.latency_us)

    def _put(self, into: dict[int, list[Column]], times_us: Column, *columns: Column) -> None:
        windows = times_us // WINDOW_US
        for window in np.unique(windows).tolist():
            into[window].append(np.array(columns)[:, windows == window])

    def close(self, before_us: int) -> None:
        """Write the windows that end at or before a time."""
        for window in sorted({*self._sent, *self._got}):
            if (window + 1) * WINDOW_US <= before_us:
                self._window(window, _summed(self._sent.pop(window, [])), _summed(self._got.pop(window, [])))

    def _window(self, window: int, sent: dict[int, list[int]], got: dict[int, list[int]]) -> None:
        cloud = self._cloud
        for pair in sorted({*sent, *got}):
            src, dst = (cloud.vms[number] for number in divmod(pair, len(cloud.vms)))
            packets, octets, connections = sent.get(pair, [0, 0, 0])
            arrived, arrived_octets, timed, latency = got.get(pair, [0, 0, 0, 0])
            self.write(
                "pair", window_us=window * WINDOW_US, src=src.title, dst=dst.title,
                src_host=cloud.hosts[src.host].name, dst_host=cloud.hosts[dst.host].name,
                sent_packets=packets, sent_bytes=octets, received_packets=arrived, received_bytes=arrived_octets,
                loss=round(max(0.0, 1 - arrived / packets), 6) if packets else 0.0,
                connections=connections, latency_us=round(latency / timed) if timed else None,
            )  # fmt: skip


def _summed(parts: list[Column]) -> dict[int, list[int]]:
    """Return the sums by pair of columns, of which the first is the pair."""
    if not parts:
        return {}
    pair, *columns = np.concatenate(parts, axis=1)
    pairs, places = np.unique(pair, return_inverse=True)
    sums = [np.bincount(places, column, len(pairs)).astype(np.int64).tolist() for column in columns]
    return {number: list(values) for number, *values in zip(pairs.tolist(), *sums, strict=True)}


def made(options: argparse.Namespace) -> Cloud:
    """Return the cloud of the command line.  Raises CloudError."""
    return Cloud(options.seed, options.hypervisors, options.vms, options.traffic, options.sampling, options.cache)


class Run:
    """The cloud with its exporters, second by second."""

    def __init__(self, options: argparse.Namespace, start_us: int, truth: IO[str] | None) -> None:
        """Prepare the run.  Raises CloudError."""
        self.cloud = made(options)
        self.troubles = plan(self.cloud, wishes(options.trouble))
        self.start_us = start_us
        self.truth = Truth(truth, self.cloud)
        self.exporters: list[Exporter] = [
            EXPORTERS[host.protocol](number, self.cloud, options.seed, start_us)
            for number, host in enumerate(self.cloud.hosts)
        ]
        self._speed = options.speed
        self._inventory = Path(options.inventory) if options.inventory else None
        self._seconds = options.seconds
        named = ("seed", "hypervisors", "vms", "traffic", "speed")
        self.truth.begin({name: getattr(options, name) for name in named}, self.troubles, start_us)
        self._write_inventory()

    def seconds(self) -> Iterator[list[Event]]:
        """Yield the datagrams of each second, in order of time; the last list is what exporters still held."""
        number = 0
        while self._seconds is None or number < self._seconds:
            start_us = self.start_us + number * SECOND_US
            events = self._change(number, start_us)
            of_day = (self.start_us / SECOND_US + number * self._speed) % 86_400
            segments = self.cloud.second(number, start_us, busy(of_day))
            self.truth.add(segments)
            for exporter in self.exporters:
                events += exporter.run(segments, start_us)
            yield sorted(events, key=lambda event: event.time_us)
            number += 1
            self.truth.close(start_us + SECOND_US)
        end_us = self.start_us + number * SECOND_US
        yield [event for exporter in self.exporters for event in exporter.stop(end_us)]
        self.truth.close(end_us + 2 * WINDOW_US)

    def _change(self, number: int, now_us: int) -> list[Event]:
        """Begin and end troubles."""
        events: list[Event] = []
        for trouble in self.troubles:
            if number not in (trouble.start, trouble.end):
                continue
            begins = number == trouble.start
            if begins:
                self.truth.trouble(trouble, self.start_us)
            self.cloud.change(trouble, begins=begins)
            for host in trouble.hosts:
                events += self.exporters[host].change(trouble, now_us, begins=begins)
            if trouble.name == "migration":
                self._write_inventory()
        return events

    def _write_inventory(self) -> None:
        if self._inventory:
            inventory(self.cloud, self._inventory)


def wishes(text: str) -> list[tuple[str, int, int]]:
    """Parse `all`, `none`, or names separated by commas, each with optional `@START+LENGTH`.  Raises CloudError."""
    names = {"all": list(TROUBLES), "none": []}.get(text, text.split(","))
    found = []
    for place, wish in enumerate(names):
        name, _, when = wish.strip().partition("@")
        start, _, length = when.partition("+")
        if name not in TROUBLES or not all(part.isascii() and part.isdigit() for part in (start, length) if part):
            raise CloudError(f"expected NAME or NAME@START+LENGTH with one of {', '.join(TROUBLES)}, found {wish!r}")
        lasts = max(1, int(length)) if length else SHORT.get(name, TROUBLE_SECONDS)
        found.append((name, int(start) if start else FIRST_TROUBLE + place * EVERY_TROUBLE, lasts))
    return found


def write_pcap(run: Run, path: Path) -> int:
    """Write all datagrams to a capture file; returns how many."""
    count = 0
    with path.open("wb") as file:
        file.write(wire.PCAP_HEADER)
        for events in run.seconds():
            for event in events:
                exporter = run.exporters[event.host]
                source = exporter.host.address, event.port
                file.write(wire.pcap_record(event.time_us, source, (COLLECTOR, exporter.destination), event.payload))
            count += len(events)
    return count


class Sender:
    """Sends datagrams at their times, each host from its own address where the target is on loopback."""

    def __init__(self, run: Run, target: Target) -> None:
        self.sent = self.refused = 0
        self._run = run
        self._target = target
        self._sockets: dict[int, tuple[int, socket.socket]] = {}
        self._warned_late = False

    def send(self) -> None:
        """Send until the run ends."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            for events in self._run.seconds():
                for event in events:
                    wait = event.time_us / SECOND_US - time.time()
                    if wait > 0.002:
                        time.sleep(wait)
                    elif wait < -LATE_SECONDS and not self._warned_late:
                        self._warned_late = True
                        print(f"this machine is too slow: datagrams are {-wait:.0f} s late", file=sys.stderr)
                    self._send_one(event)

    def _close(self) -> None:
        for _, sender in self._sockets.values():
            sender.close()

    def _send_one(self, event: Event) -> None:
        port, sender = self._sockets.get(event.host, (0, None))
        if sender is None or port != event.port:
            if sender is not None:
                sender.close()
            sender = self._open(event)
            self._sockets[event.host] = event.port, sender
        try:
            sender.send(event.payload)
            self.sent += 1
        except ConnectionRefusedError:
            self.refused += 1

    def _open(self, event: Event) -> socket.socket:
        exporter = self._run.exporters[event.host]
        sender = socket.socket(self._target.family, socket.SOCK_DGRAM)
        if self._target.is_loopback4:
            address = str(IPv4Address(exporter.host.address))
            try:
                sender.bind((address, event.port))
            except OSError:
                sender.bind((address, 0))
        sender.connect(self._target.with_port(self._target.port or exporter.destination))
        return sender


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / SECOND_US, UTC).isoformat()


def parser() -> argparse.ArgumentParser:
    """Parse the command line."""
    about = "A made-up Open vSwitch cloud that exports sFlow, IPFIX and NetFlow v5, and knows the truth."
    troubles = "; ".join(f"{name}: {what}" for name, what in TROUBLES.items())
    made = argparse.ArgumentParser("python -m deploy.demo.cloud", description=about, epilog=f"Troubles: {troubles}.")
    into = made.add_mutually_exclusive_group()
    into.add_argument("--to", metavar="HOST[:PORT]", default="127.0.0.1", help="send there, now (default: %(default)s)")
    into.add_argument("--pcap", metavar="FILE", help="write a capture file instead, as fast as possible")
    made.add_argument("--seed", type=int, default=1, help="another number is another cloud (default: %(default)s)")
    made.add_argument("--hypervisors", type=int, default=8, metavar="N", help="default: %(default)s")
    made.add_argument("--vms", type=int, default=120, metavar="N", help="of 3 tenants together; default: %(default)s")
    made.add_argument(
        "--seconds", type=int, metavar="N", help="length of the run (default: until Ctrl-C; a capture: 60)"
    )
    made.add_argument("--traffic", type=float, default=1.0, metavar="X", help="so many times the usual traffic")
    made.add_argument("--sampling", type=int, default=64, metavar="N", help="of sFlow, 1 in N; default: %(default)s")
    made.add_argument("--cache", type=int, default=CACHE_SECONDS, metavar="N", help="active timeout of flow caches, "
                      "in seconds; default: %(default)s")  # fmt: skip
    made.add_argument("--speed", type=float, default=1.0, metavar="X", help="days pass so many times faster: 60 is a "
                      "day in 24 minutes; rates and times stay those of the clock")  # fmt: skip
    made.add_argument("--start", metavar="TIME", help="ISO time in UTC, or now (default: now; a capture: "
                      f"{FIXED_START})")  # fmt: skip
    made.add_argument("--trouble", default="all", metavar="LIST", help="all, none, or NAME[@START+LENGTH],… in seconds "
                      f"of the run; else the first after {FIRST_TROUBLE} s, one every {EVERY_TROUBLE} s")  # fmt: skip
    made.add_argument(
        "--hold", action="store_true", help="write the inventory, and begin when a line comes on standard input"
    )
    made.add_argument("--inventory", metavar="FILE", help="write who is who, .csv or .toml, and again after migrations")
    made.add_argument("--truth", metavar="FILE", help="write what is true, as JSON lines")
    return made


def start_of(options: argparse.Namespace) -> int:
    """Return the start of the run in µs, a whole second.  Raises CloudError."""
    text = options.start or (FIXED_START if options.pcap else "now")
    if text == "now":
        return (time.time_ns() // 1_000_000_000 + 1) * SECOND_US
    if not options.pcap:
        raise CloudError("expected --start now, or none, for what is sent; another time is for --pcap")
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise CloudError(f"expected an ISO time such as {FIXED_START} for --start, found {text!r}") from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()) * SECOND_US


def held(options: argparse.Namespace) -> bool:
    """Write the inventory and wait for a line; False if the input ended without one."""
    if options.inventory:
        inventory(made(options), Path(options.inventory))
    print("waiting for a line on standard input", flush=True)
    return bool(sys.stdin.readline())


def check(options: argparse.Namespace) -> None:
    """Raise CloudError for impossible numbers."""
    for name in ("seconds", "traffic", "sampling", "cache", "speed"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise CloudError(f"expected a number above 0 for --{name}, found {value}")
    if options.seed < 0:
        raise CloudError(f"expected no negative number for --seed, found {options.seed}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command.  Returns the exit code: 0, also after Ctrl-C; 1 on failure."""
    options = parser().parse_args(arguments)
    if options.pcap and options.seconds is None:
        options.seconds = 60
    begun = time.monotonic()
    try:
        # A shell that starts it in the background lets it ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        check(options)
        target = None if options.pcap else resolve(*parse_target(options.to))
        with contextlib.ExitStack() as stack:
            if options.hold and not held(options):
                return 0
            truth = stack.enter_context(open(options.truth, "w", encoding="utf-8")) if options.truth else None
            run = Run(options, start_of(options), truth)
            if target is None:
                count = write_pcap(run, Path(options.pcap))
                print(f"{count} datagrams in {options.pcap}, {time.monotonic() - begun:.1f} s")
                return 0
            sender = Sender(run, target)
            stack.callback(lambda: print(f"{sender.sent} datagrams sent, {sender.refused} refused by {target}"))
            print(f"{len(run.cloud.hosts)} hypervisors send to {target}; Ctrl-C stops them", flush=True)
            sender.send()
            return 0
    except KeyboardInterrupt:
        return 0
    except (CloudError, TargetError, OSError) as error:
        print(f"cloud: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
