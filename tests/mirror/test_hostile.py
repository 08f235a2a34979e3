"""Frames of any content: nothing raises, nothing is counted twice, and no figure is impossible."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scapy.all import raw

from decoders.mirror import results
from decoders.mirror.state import (
    D_HOLES,
    HOLES,
    T_COUNTED,
    T_DUPLICATES,
    T_FRAMES,
    T_NO_ROOM,
    T_NOT_IP,
    Meter,
)
from tests.mirror.simulated import Plan, play
from tests.mirror.support import Timed, meter_of
from tests.mirror.test_encapsulation import CASES, Wrap, talk


def sound(meter: Meter) -> None:
    """Check what always holds."""
    totals = meter.totals
    assert totals[T_FRAMES] == sum(totals[place] for place in (T_COUNTED, T_DUPLICATES, T_NOT_IP, T_NO_ROOM))
    rows = results.connections(meter)
    assert sum(row[f"packets_{way}"] for row in rows for way in results.WAYS) == totals[T_COUNTED]
    for row in [*rows, *results.pairs(meter)]:
        for name, value in row.items():
            assert not isinstance(value, int | float) or value >= 0, name
    for end in ("server", "client"):
        for row in rows:
            least, median = row[f"rtt_{end}_min_us"], row[f"rtt_{end}_median_us"]
            assert (least is None) == (median is None) == (row[f"rtt_{end}_samples"] == 0)
            assert least is None or least <= median + 0.1


@pytest.mark.parametrize(("wrap", "_network", "_mirror"), CASES, ids=[wrap.__name__ for wrap, _, _ in CASES])
def test_octets_that_are_not_what_was_sent(wrap: Wrap, _network: str, _mirror: str) -> None:
    chance = random.Random(1)
    frames: list[Timed] = []
    for number in range(40):
        us, frame = talk().frames[number % 5]
        octets = bytearray(raw(wrap(frame, number)))
        for _ in range(chance.randrange(1, 4)):
            octets[chance.randrange(len(octets))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        frames.append((us + number * 100, bytes(octets[: chance.randrange(1, len(octets) + 1)])))

    sound(meter_of(frames))


@pytest.mark.parametrize("seed", range(3))
def test_sequence_numbers_windows_and_flags_of_any_kind(seed: int) -> None:
    """As long as the IP header is whole, all frames are of one connection; its times step back, too."""
    chance = random.Random(seed)
    frames: list[Timed] = []
    for us, frame in play(Plan(segments=60, lost_behind=0.1), seed).talk.frames:
        octets = bytearray(frame)
        for place in range(38, 50):  # sequence and acknowledgement number, header length, flags, window
            if chance.random() < 0.05:
                octets[place] = chance.randrange(256)
        frames.append((us - chance.choice((0, 0, 0, 5000)), bytes(octets)))
    meter = meter_of(frames)

    sound(meter)
    assert meter.state[:, _holes()].max() <= HOLES


def _holes() -> Any:
    from decoders.mirror.state import C_FIELDS, D_FIELDS

    return [C_FIELDS + D_HOLES, C_FIELDS + D_FIELDS + D_HOLES]


def test_noise() -> None:
    chance = random.Random(7)
    sound(meter_of([(number, chance.randbytes(chance.randrange(0, 120))) for number in range(300)]))
