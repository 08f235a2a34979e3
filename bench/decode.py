"""Decode rates per protocol, one core, from datagrams to Arrow batches."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench import traffic
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder

DATAGRAMS = 4_096
ROUNDS = 12
EXPORTERS = 16


@dataclass(frozen=True)
class Result:
    """Best and median round of one kind."""

    kind: str
    rows: int
    datagrams: int
    best_seconds: float
    median_seconds: float

    def __str__(self) -> str:
        rate = self.rows / self.median_seconds / 1e6
        best = self.rows / self.best_seconds / 1e6
        per_datagram = self.median_seconds / self.datagrams * 1e6
        datagram = f"{per_datagram:6.2f} µs a datagram of {self.rows / self.datagrams:.1f} rows"
        return f"{self.kind:10} {rate:7.2f} M rows/s (best {best:.2f})  {datagram}"


def measure(kind: str) -> Result:
    """Decode `ROUNDS` batches whose sequence numbers go on, so that nothing is taken for a duplicate."""
    decoder = Decoder()
    seconds = []
    rows = 0
    for number in range(ROUNDS + 2):
        each = DATAGRAMS // EXPORTERS
        batch = Datagrams.of(
            (payload, f"192.0.2.{exporter}", 5000, (traffic.TIME + number) * 1_000_000)
            for exporter in range(EXPORTERS)
            for payload in traffic.payloads(kind, exporter, each, number * each)
        )
        started = time.perf_counter()
        decoded = decoder.decode(batch)
        took = time.perf_counter() - started
        if number >= 2:  # templates are known, pages are warm
            seconds.append(took)
            rows = sum(part.num_rows for part in decoded.flows)
    seconds.sort()
    return Result(kind, rows, DATAGRAMS, seconds[0], seconds[len(seconds) // 2])


def main() -> list[str]:
    """Measure all kinds; returns the lines of the report."""
    Decoder().warm_up()
    return [str(measure(kind)) for kind in traffic.KINDS]
