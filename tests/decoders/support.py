"""What the decoder tests share: captures as batches, their ground truth, columns as plain Python values."""

from __future__ import annotations

import csv
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from collector.capture.read import read_capture
from decoders import jit
from decoders.datagrams import Datagrams
from decoders.errors import Reason
from decoders.limits import Limits
from decoders.sflow.decoder import SflowDecoder
from decoders.shared import K_SFLOW, Decoded, Shared, assign_batch, new_shared

PCAPS = Path(__file__).parents[2] / "fixtures" / "pcaps"
SMALL = Limits(sessions=64, sources=1_024, names=1_024, rows_per_batch=4_096)
"""State small enough to be made for each example."""


@cache
def payloads(stem: str) -> tuple[tuple[bytes, str, int, int], ...]:
    """The datagrams of a capture: payload, sender, port, time in µs."""
    path = PCAPS / f"{stem}.pcap"
    return tuple((d.payload, d.source, d.source_port, d.time_us) for d in read_capture(path))


def truth(stem: str, kind: str) -> list[dict[str, str]]:
    """The lines of `X.<kind>.tsv`."""
    with (PCAPS / f"{stem}.{kind}.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def address(text: str) -> bytes:
    """An address as the columns hold it: 16 octets, IPv4 mapped; nothing is `::`."""
    if not text:
        return bytes(16)
    parsed = ip_address(text)
    return parsed.packed if isinstance(parsed, IPv6Address) else bytes(10) + b"\xff\xff" + parsed.packed


def mac(text: str) -> int:
    """A MAC as the columns hold it."""
    return int(text.replace(":", ""), 16) if text else 0


def rows(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    """All rows of all batches; times as µs since 1970."""
    found: list[dict[str, Any]] = []
    for batch in batches:
        names = batch.schema.names
        columns = [
            (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
            for column in batch.columns
        ]
        found.extend(dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return found


class Sflow:
    """An sFlow decoder with its state, fed with payloads."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.shared: Shared = new_shared(limits)
        self.decoder = SflowDecoder(self.shared)

    def decode(self, *datagrams: bytes, sender: str = "192.0.2.9", time_us: int = 1_700_000_000_000_000) -> Decoded:
        """Decode datagrams of one sender, received 1 ms after each other."""
        return self.decode_batch(
            Datagrams.of((datagram, sender, 5555, time_us + 1_000 * i) for i, datagram in enumerate(datagrams))
        )

    def decode_batch(self, batch: Datagrams) -> Decoded:
        """Decode those datagrams of a batch that are sFlow."""
        with np.errstate(over="ignore"):
            kind, session = assign_batch(self.shared, batch)
        return self.decoder.decode(batch, np.flatnonzero(kind == K_SFLOW), session)

    @property
    def problems(self) -> dict[Reason, int]:
        """Problems so far, of all sessions."""
        totals = self.shared.sessions.problems.sum(axis=0)
        return {reason: int(totals[reason]) for reason in Reason if totals[reason]}

    def stat(self, column: int) -> int:
        """A statistic, summed over all sessions."""
        return int(self.shared.sessions.stats[:, column].sum())


def uncounted(made: Any) -> Any:
    """Take a kernel of a test out of those that the service compiles and waits for."""
    if made in jit._KERNELS:
        jit._KERNELS.remove(made)
    return made
