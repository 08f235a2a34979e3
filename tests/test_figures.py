"""Figures as people read them.  Expected texts are worked out by hand."""

from __future__ import annotations

import pytest

from collector.figures import clock, duration, figure, figures, moment, number
from tests.notify.support import NOON_US

NAMES = ("d", "h", "min", "s")


@pytest.mark.parametrize(
    ("value", "unit", "measure", "text"),
    [
        (0.0612, "ratio", "loss_ratio", "6.1 %"),
        (0.0612, "", "loss_ratio", "6.1 %"),
        (0.95, "", "utilisation", "95 %"),
        (0.000434, "ratio", "loss_ratio", "0.043 %"),
        (0.0000043, "ratio", "loss_ratio", "0.00043 %"),
        (0.0, "ratio", "loss_ratio", "0 %"),
        (1.0, "ratio", "loss_ratio", "100 %"),
        (12_400_000, "bit/s", "bits_per_second", "12.4 Mbit/s"),
        (9_960_000_000, "bit/s", "bits_per_second", "10 Gbit/s"),
        (999, "bit/s", "bits_per_second", "999 bit/s"),
        (1_500_000, "bytes", "bytes", "1.5 MB"),
        (850, "µs", "latency_us", "850 µs"),
        (12_340, "µs", "latency_us", "12.3 ms"),
        (1_250_000, "µs", "latency_us", "1.2 s"),
        (0.5, "s", "age", "500 ms"),
        (21_040, "packets", "drops", "21,040 packets"),
        (1234.5, "packets/s", "packets_per_second", "1,234 packets/s"),
        (7, "/s", "connections", "7 /s"),
        (42, "", "restarts", "42"),
        (-3.25, "", "slope", "-3.2"),
    ],
)
def test_one_figure(value: float, unit: str, measure: str, text: str) -> None:
    assert figure(value, unit, measure) == text


def test_an_interval_has_one_unit_that_fits_its_upper_end() -> None:
    assert figures([900.0, 850.0, 1200.0], "µs", "latency_us") == (["0.9", "0.85", "1.2"], "ms")
    assert figures([0.061, 0.048, 0.075], "ratio", "loss_ratio") == (["6.1", "4.8", "7.5"], "%")


def test_what_is_no_number_is_shown_as_unknown() -> None:
    assert [number(value) for value in (float("nan"), float("inf"), float("-inf"))] == ["?", "?", "?"]


def test_times_are_utc() -> None:
    assert moment(NOON_US) == "2025-11-25 12:00:00 UTC"
    assert clock(NOON_US + 3_599_000_000) == "12:59 UTC"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (2 * 86_400 + 3 * 3600 + 59, "2 d 3 h"),
    ],
)
def test_a_duration_has_its_two_largest_parts(seconds: int, text: str) -> None:
    assert duration(seconds * 1_000_000, NAMES) == text
