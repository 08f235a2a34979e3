"""A sender of export traffic: `python -m bench.load KIND HOST:PORT --rows-per-second N --seconds S`.

Each exporter has its own socket and its own address in 127.0.0.0/8; sequence numbers continue over all rounds.  Prints
one JSON object with what was sent.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import traffic
from collector.capture.sendmmsg import Batch

EXPORTERS = 16
DATAGRAMS = 256
"""Datagrams of one exporter that are sent in rotation."""
BURST = 32
"""Datagrams in one system call: what a busy link brings in half a millisecond."""

SEQUENCE_AT = {"netflow5": 16, "netflow9": 12, "ipfix": 8, "ipfix_ovs": 8, "sflow": 16, "sflow_switch": 16}


class Burst:
    """Datagrams that are sent in one call."""

    def __init__(self, kind: str, payloads: list[bytes]) -> None:
        self.batch = Batch(payloads)
        self.records = sum(records(kind, payload) for payload in payloads)
        length = np.array([len(payload) for payload in payloads])
        start = np.cumsum(length) - length
        self._places = (start + SEQUENCE_AT[kind])[:, None] + np.arange(4)

    def send(self, through: socket.socket, step: int) -> None:
        """Send, then advance every sequence number by `step`."""
        sent = 0
        while sent < len(self.batch):
            sent += self.batch.send(through, sent)
        octets: NDArray[np.uint8] = self.batch.octets
        raw = np.ascontiguousarray(octets[self._places]).view(">u4").astype(np.uint64) + np.uint64(step)
        octets[self._places] = (raw & np.uint64(0xFFFFFFFF)).astype(">u4").view(np.uint8).reshape(self._places.shape)


class Exporter:
    """One exporter's datagrams, cut into bursts."""

    def __init__(
        self, kind: str, number: int, target: tuple[str, int], source_port: int = 0, first_burst: int = 0
    ) -> None:
        payloads = traffic.payloads(kind, number, DATAGRAMS)
        self._bursts = [Burst(kind, payloads[at : at + BURST]) for at in range(0, DATAGRAMS, BURST)]
        self._step = DATAGRAMS * (1 if kind in ("netflow9", "sflow", "sflow_switch") else traffic.KINDS[kind])
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((f"127.9.{number >> 8}.{number & 255}", source_port))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._socket.connect(target)
        self._next = first_burst

    def send(self) -> int:
        """Send the next burst; returns its records."""
        burst = self._bursts[self._next]
        burst.send(self._socket, self._step)
        self._next = (self._next + 1) % len(self._bursts)
        return burst.records


def records(kind: str, payload: bytes) -> int:
    """Return the flow records, or flow samples, in one datagram."""
    if kind == "ipfix_ovs":
        return int(int.from_bytes(payload[16:18], "big") not in traffic.NO_FLOWS)
    return _flow_samples(payload) if kind == "sflow" else traffic.KINDS[kind]


def rows_per_datagram(kind: str) -> float:
    """Return how many rows a datagram gives on average."""
    return float(np.mean([records(kind, payload) for payload in traffic.payloads(kind, 0, DATAGRAMS)]))


def command(kind: str, target: str, rows_per_second: float, seconds: float, *more: str) -> list[str]:
    """Return the command of a sender in its own process, with `more` of its options."""
    options = ["--rows-per-second", str(rows_per_second), "--seconds", str(seconds), *more]
    return [sys.executable, "-m", "bench.load", kind, target, *options]


def machine() -> str:
    """Return the machine and the time of the measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("numba", "numpy", "pyarrow", "chdb", "clickhouse-connect")
    )
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} × {model}, {memory:.0f} GiB, {system}, {versions}"


def save(file: Path, figures: Mapping[str, Sequence[Mapping[str, float | str]]]) -> None:
    """Write figures, and the machine they were measured on, as JSON, one line each."""
    rows = {
        name: ",\n  ".join(
            json.dumps({key: round(one, 3) if isinstance(one, float) else one for key, one in row.items()})
            for row in found
        )
        for name, found in figures.items()
    }
    parts = [json.dumps("machine") + ": " + json.dumps(machine(), ensure_ascii=False)]
    parts += [f"{json.dumps(name)}: [\n  {lines}\n ]" for name, lines in rows.items()]
    file.write_text("{\n " + ",\n ".join(parts) + "\n}\n")


def _flow_samples(payload: bytes) -> int:
    at, count = 28, 0
    for _ in range(int.from_bytes(payload[24:28], "big")):
        count += int.from_bytes(payload[at : at + 4], "big") == 1
        at += 8 + int.from_bytes(payload[at + 4 : at + 8], "big")
    return count


def main() -> None:
    """Send at the rate asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=traffic.KINDS)
    parser.add_argument("target")
    parser.add_argument("--rows-per-second", type=float, default=math.inf, help="default: flat out")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--exporters", type=int, default=EXPORTERS)
    parser.add_argument("--source-port", type=int, default=0, help="of all exporters; else any")
    parser.add_argument("--first-burst", type=int, default=0, help="templates are in bursts 0, 2, 4 and 6")
    args = parser.parse_args()
    host, port = args.target.rsplit(":", 1)
    exporters = [
        Exporter(args.kind, number, (host, int(port)), args.source_port, args.first_burst)
        for number in range(args.exporters)
    ]
    started = time.perf_counter()
    sent = turn = 0
    while (now := time.perf_counter() - started) < args.seconds:
        if sent > args.rows_per_second * now:
            time.sleep(max(0.0, sent / args.rows_per_second - now))
        sent += exporters[turn % args.exporters].send()
        turn += 1
    took = time.perf_counter() - started
    print(json.dumps({"datagrams": turn * BURST, "records": sent, "seconds": took, "cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    main()
