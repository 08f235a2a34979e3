"""Hostile datagrams by the thousand, and a good exporter among them whose rows are known from its capture's truth."""

from __future__ import annotations

import struct
from typing import Any

from decoders.datagrams import Datagrams, address_halves
from decoders.decoder import Decoder
from decoders.shared import Decoded
from tests.decoders.netflow.support import NOW
from tests.decoders.support import payloads, rows, truth

TIME_US = NOW * 1_000_000
LARGEST = 65_507
"""Octets of the largest UDP payload over IPv4."""
GOOD = "192.0.2.1"
GOOD_STEM = "ovs_netflow5"
"""Its truth has a line per record; all of them give a row."""
WITH_TEMPLATES = "softflowd_v9"
"""Whose rows need what was said before; what they are stands in tests/decoders/netflow/test_captures.py."""

Datagram = tuple[bytes, str, int, int]


def good(*stems: str) -> list[Datagram]:
    """A well-behaved exporter: all datagrams of two captures, or of those named."""
    chosen = stems or (GOOD_STEM, WITH_TEMPLATES)
    return [(payload, GOOD, port, TIME_US) for stem in chosen for payload, _, port, _ in payloads(stem)]


def check_unharmed(decoded: list[Decoded]) -> None:
    """Every row of the good exporter is there, once, with the values that it has where nobody disturbs."""
    found = [row for part in decoded for row in of_good(part)]
    alone = of_good(Decoder().decode(Datagrams.of(good())))
    fixed = [row for row in found if row["protocol"] == "netflow5"]
    lines = truth(GOOD_STEM, "records")
    assert len(fixed) == len(lines)
    assert sorted(map(repr, found)) == sorted(map(repr, alone))


def of_good(decoded: Decoded) -> list[dict[str, Any]]:
    """Rows of the good exporter."""
    _, low = address_halves(GOOD)
    exporter = bytes(8) + low.to_bytes(8, "big")
    return [row for row in rows(decoded.flows) if row["exporter"] == exporter]


def among(bad: list[Datagram], kept: list[Datagram]) -> Datagrams:
    """One batch: the datagrams of `kept` in order, spread evenly over those of `bad`."""
    step = max(len(bad) // len(kept), 1)
    mixed: list[Datagram] = []
    for number, datagram in enumerate(kept):
        mixed += [*bad[number * step : (number + 1) * step], datagram]
    return Datagrams.of(mixed + bad[len(kept) * step :])


def spoofed(number: int) -> str:
    """The address of forged sender `number`, from 10.0.0.0/8."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def many_templates(first: int, count: int) -> bytes:
    """A template set of `count` templates of one field, 8 octets each."""
    records = b"".join(struct.pack("!4H", first + number, 1, 8, 4) for number in range(count))
    return struct.pack("!HH", 2, 4 + len(records)) + records
