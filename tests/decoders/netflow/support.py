"""NetFlow and IPFIX messages written by hand, and a decoder to feed them to."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.limits import Limits
from decoders.netflow.messages import waits
from decoders.overrides import ExporterRule
from tests.decoders.support import rows

SMALL = Limits(sessions=64, sources=64, names=1_024, rows_per_batch=4_096, held_bytes=64 * 1024)
NOW = 1_700_000_000
"""Seconds: the time in the headers, and of receipt."""

Spec = tuple[int, int] | tuple[int, int, int]
"""Element, octets, enterprise if there is one."""

V = 65_535
REVERSE = 29_305
OVS = 6_876
BASE: list[Spec] = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (2, 4), (1, 4)]
"""Addresses, ports, protocol, packets, octets."""


def base(packets: int = 3, octets: int = 300, protocol: int = 17, last: int = 1) -> bytes:
    """A record of `BASE`: 10.0.0.`last`:1000 to 10.0.0.99:2000."""
    return struct.pack("!4B4BHHBII", 10, 0, 0, last, 10, 0, 0, 99, 1000, 2000, protocol, packets, octets)


def in_set(number: int, *records: bytes, pad: bytes = b"") -> bytes:
    """A set of records."""
    body = b"".join(records) + pad
    return struct.pack("!HH", number, 4 + len(body)) + body


def fields(specs: list[Spec]) -> bytes:
    """Field specifiers."""
    parts = []
    for number, size, *enterprise in specs:
        parts.append(struct.pack("!HH", number | (0x8000 if enterprise else 0), size))
        parts.extend(struct.pack("!I", one) for one in enterprise)
    return b"".join(parts)


def template(number: int, specs: list[Spec], *, version: int = 10) -> bytes:
    """A template set of one template."""
    return in_set(2 if version == 10 else 0, struct.pack("!HH", number, len(specs)) + fields(specs))


def options_template(number: int, scope: list[Spec], other: list[Spec], *, version: int = 10) -> bytes:
    """An options template set of one template."""
    if version == 10:
        head = struct.pack("!HHH", number, len(scope) + len(other), len(scope))
        return in_set(3, head + fields(scope + other))
    return in_set(1, struct.pack("!HHH", number, 4 * len(scope), 4 * len(other)) + fields(scope + other))


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 1, seconds: int = NOW, length: int | None = None) -> bytes:
    """An IPFIX message."""
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body) if length is None else length, seconds, sequence, domain) + body


def v9(
    *sets: bytes, sequence: int = 0, source: int = 1, seconds: int = NOW, uptime: int = 1_000_000, count: int = 1
) -> bytes:
    """A NetFlow v9 datagram."""
    return struct.pack("!HHIIII", 9, count, uptime, seconds, sequence, source) + b"".join(sets)


def record5(**changes: int) -> bytes:
    """A v5 record; `changes` override the defaults."""
    values = {
        "source": 0x0A000001,
        "destination": 0x0A000002,
        "hop": 0,
        "input": 3,
        "output": 4,
        "packets": 10,
        "octets": 1000,
        "first": 990_000,
        "last": 995_000,
        "sport": 1000,
        "dport": 2000,
        "flags": 0x1B,
        "protocol": 6,
        "tos": 0x10,
    } | changes
    head = list(values.values())
    return struct.pack("!IIIHHIIIIHHxBBBHHBBH", *head, 0, 0, 0, 0, 0)


def v5(
    *records: bytes, sequence: int = 0, uptime: int = 1_000_000, sampling: int = 0, count: int | None = None
) -> bytes:
    """A NetFlow v5 datagram, engine 1:2."""
    n = len(records) if count is None else count
    return struct.pack("!HHIIIIBBH", 5, n, uptime, NOW, 500_000_000, sequence, 1, 2, sampling) + b"".join(records)


class Collector:
    """A decoder with its state, fed with datagrams."""

    def __init__(self, limits: Limits = SMALL, rules: tuple[ExporterRule, ...] = (), **options: Any) -> None:
        self.decoder = Decoder(limits, rules, **options)
        self.time_us = NOW * 1_000_000

    def decode(
        self, *datagrams: bytes, sender: str = "192.0.2.9", port: int = 5555, connection: int = 0
    ) -> list[dict[str, Any]]:
        """Rows of datagrams of one sender, or of messages of one connection, received together."""
        batch = Datagrams.of((datagram, sender, port, self.time_us) for datagram in datagrams)
        batch = replace(batch, connection=np.full(len(batch), connection, np.int64))
        with np.errstate(over="ignore"):  # hashes wrap; numpy warns of it where kernels are not compiled
            return rows(self.decoder.decode(batch).flows)

    @property
    def problems(self) -> dict[Reason, int]:
        """Problems so far, of all sessions."""
        totals = self.decoder.shared.sessions.problems.sum(axis=0)
        return {reason: int(totals[reason]) for reason in Reason if totals[reason]}

    def waits(self) -> list[int]:
        """When the oldest data that waits for a template was received, by session."""
        return [int(when) for when in waits(self.decoder.sets.held)[1]]

    def stat(self, column: int) -> int:
        """A statistic, summed over all sessions."""
        return int(self.decoder.shared.sessions.stats[:, column].sum(dtype=np.uint64))
