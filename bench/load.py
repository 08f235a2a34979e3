"""A sender of export traffic: `python -m bench.load KIND HOST:PORT --rows-per-second N --seconds S`.

Each exporter has a socket and an address of its own in 127.0.0.0/8; sequence numbers go on over all rounds.
Prints one JSON object with what was sent.
"""

from __future__ import annotations

import argparse
import json
import socket
import time

import numpy as np

from bench import traffic
from collector.replay.sendmmsg import Batch

EXPORTERS = 16
DATAGRAMS = 256
"""Datagrams of one exporter that go round."""
BURST = 32
"""Datagrams in one system call: what a busy link brings in half a millisecond."""

SEQUENCE_AT = {"netflow5": 16, "netflow9": 12, "ipfix": 8, "ipfix_ovs": 8, "sflow": 16}


class Exporter:
    """One exporter's datagrams, cut into bursts; `send` sends the next burst with sequence numbers that go on."""

    def __init__(
        self, kind: str, number: int, target: tuple[str, int], source_port: int = 0, first_burst: int = 0
    ) -> None:
        payloads = traffic.payloads(kind, number, DATAGRAMS)
        self.bursts = [Batch(payloads[at : at + BURST]) for at in range(0, DATAGRAMS, BURST)]
        unit = 1 if kind in ("netflow9", "sflow") else traffic.KINDS[kind]
        self._step = DATAGRAMS * unit
        self._at = [_sequence_places(burst, SEQUENCE_AT[kind]) for burst in self.bursts]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((f"127.9.{number >> 8}.{number & 255}", source_port))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.socket.connect(target)
        self._next = first_burst

    def send(self) -> int:
        """Send one burst; returns its datagrams."""
        burst = self.bursts[self._next]
        sent = 0
        while sent < len(burst):
            sent += burst.send(self.socket, sent)
        octets = burst._octets
        places = self._at[self._next]
        raw = np.ascontiguousarray(octets[places]).view(">u4").astype(np.uint64) + np.uint64(self._step)
        octets[places] = (raw & np.uint64(0xFFFFFFFF)).astype(">u4").view(np.uint8).reshape(places.shape)
        self._next = (self._next + 1) % len(self.bursts)
        return sent


def _sequence_places(burst: Batch, offset: int) -> np.ndarray:
    burst._octets.flags.writeable or _make_writable(burst)
    length = np.array([len(payload) for payload in burst.payloads])
    start = np.cumsum(length) - length
    return (start + offset)[:, None] + np.arange(4)


def _make_writable(burst: Batch) -> None:
    """Give the burst's datagrams memory that may be changed, and let the kernel's vectors point there."""
    octets = burst._octets.copy()
    shift = octets.ctypes.data - burst._octets.ctypes.data
    burst._vectors["base"] = (burst._vectors["base"].astype(np.int64) + shift).astype(np.uint64)
    burst._octets = octets


def rows_per_datagram(kind: str) -> float:
    """Rows a datagram gives on average."""
    if kind != "sflow":
        return float(traffic.KINDS[kind])
    return float(np.mean([_flow_samples(payload) for payload in traffic.payloads("sflow", 0, DATAGRAMS)]))


def _flow_samples(payload: bytes) -> int:
    at, count = 28, 0
    for _ in range(int.from_bytes(payload[24:28], "big")):
        count += int.from_bytes(payload[at : at + 4], "big") == 1
        at += 8 + int.from_bytes(payload[at + 4 : at + 8], "big")
    return count


def main() -> None:
    """Send at the rate that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=traffic.KINDS)
    parser.add_argument("target")
    parser.add_argument("--rows-per-second", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--source-port", type=int, default=0, help="of all exporters; else any")
    parser.add_argument("--first-burst", type=int, default=0, help="templates are in bursts 0, 2, 4 and 6")
    args = parser.parse_args()
    host, port = args.target.rsplit(":", 1)
    exporters = [
        Exporter(args.kind, number, (host, int(port)), args.source_port, args.first_burst)
        for number in range(EXPORTERS)
    ]
    rate = args.rows_per_second / rows_per_datagram(args.kind)
    started = time.perf_counter()
    sent = turn = 0
    while (now := time.perf_counter() - started) < args.seconds:
        if sent > rate * now:
            time.sleep(max(0.0, sent / rate - now))
        sent += exporters[turn % EXPORTERS].send()
        turn += 1
    took = time.perf_counter() - started
    print(json.dumps({"datagrams": sent, "seconds": took, "cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    main()
