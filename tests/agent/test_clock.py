"""Times on the wire, and delays each way between clocks that are off and drift, against the truth."""

from __future__ import annotations

import math
import random
import time
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import clock
from agent.clock import SECOND_NS, Exchange, one_way

NOW = 1_796_064_000 * SECOND_NS + 123_456_789
"""2026-11-30."""
ERA_END_S = 2_085_978_496
"""Seconds from 1970 to 7 February 2036 06:28:16 UTC, where NTP's 32 bits begin again (RFC 5905 section 6)."""


def test_ntp_counts_seconds_since_1900_and_a_fraction() -> None:
    assert clock.to_ntp(0) == 2_208_988_800 << 32
    assert clock.to_ntp(SECOND_NS // 2) & 0xFFFF_FFFF == 1 << 31
    assert clock.to_ntp(ERA_END_S * SECOND_NS) == 0


@pytest.mark.parametrize("time_ns", [NOW, ERA_END_S * SECOND_NS - 1, ERA_END_S * SECOND_NS, NOW + 999_999_999])
def test_each_nanosecond_comes_back(time_ns: int) -> None:
    for near in (time_ns, time_ns - 60 * SECOND_NS, time_ns + 60 * SECOND_NS):
        assert clock.from_wire(clock.to_ntp(time_ns), 0x0001, near) == time_ns
        ptp = (time_ns // SECOND_NS % (1 << 32)) << 32 | time_ns % SECOND_NS
        assert clock.from_wire(ptp, clock.PTP | 1, near) == time_ns


def test_a_billion_nanoseconds_are_no_ptp_time() -> None:
    assert clock.from_wire(1_000_000_000, clock.PTP | 1, NOW) is None


@pytest.mark.parametrize("error_ns", [0, 1, 59, 60, 61, 1000, 123_456, 16_000_000_000, 10**18])
def test_an_error_estimate_is_never_below_the_error(error_ns: int) -> None:
    estimate = clock.pack_error(error_ns, True)
    assert estimate & clock.SYNCHRONISED
    assert not clock.pack_error(error_ns, False) & clock.SYNCHRONISED
    read = clock.error_ns(estimate)
    assert read is not None
    assert error_ns <= read <= error_ns * 1.01 + 1


def test_multiplier_zero_is_invalid() -> None:
    assert clock.error_ns(0x8D00) is None
    assert clock.error_ns(0x2001) == SECOND_NS  # 1 * 2^(32-32) s, RFC 4656 section 4.1.2


def test_the_worse_error_holds_and_a_clock_that_may_not_follow_utc_has_none() -> None:
    good, bad = clock.pack_error(1_000, True), clock.pack_error(5_000, True)
    assert clock.worse(0, good) == pytest.approx(1_000, rel=0.02)
    assert clock.worse(clock.worse(0, bad), good) == clock.worse(clock.worse(0, good), bad) == clock.error_ns(bad)
    for error in (clock.pack_error(1_000, False), good | clock.PTP, clock.SYNCHRONISED):
        assert clock.worse(0, error) is None
    assert clock.worse(None, good) is None


def test_the_kernel_is_asked_once_a_second() -> None:
    local = clock.LocalClock()
    estimate = local.error(NOW)
    assert clock.error_ns(estimate) is not None
    assert local.error(NOW + 1) == estimate


def exchanges(
    chance: random.Random,
    count: int,
    forward_us: float,
    reverse_us: float,
    offset_us: float,
    skew: float,
    every_ms: int = 10,
) -> list[Exchange]:
    """Probes over a path of known least delays, to a clock that is off and drifts."""

    def there(time: float) -> int:
        return int(time + offset_us * 1000 + skew * (time - NOW))

    found = []
    for number in range(count):
        sent = NOW + number * every_ms * 1_000_000
        received = sent + 1000 * (forward_us + chance.expovariate(1 / 30))
        answered = received + 40_000
        returned = answered + 1000 * (reverse_us + chance.expovariate(1 / 30))
        found.append(Exchange(sent, there(received), there(answered), int(returned)))
    return found


@pytest.mark.parametrize(("forward_us", "reverse_us"), [(50, 50), (50, 500), (2000, 20)])
def test_the_truth_lies_within_the_bounds(forward_us: float, reverse_us: float) -> None:
    """Clocks hours apart that drift by 50 ppm, which in a second is what the path itself takes."""
    chance = random.Random(8762)
    for _ in range(50):
        offset_us, skew = chance.uniform(-1e10, 1e10), chance.uniform(-50e-6, 50e-6)
        state = chance.getstate()
        truth = exchanges(chance, 100, forward_us, reverse_us, 0, 0)
        chance.setstate(state)
        found = one_way(exchanges(chance, 100, forward_us, reverse_us, offset_us, skew))
        assert found is not None
        assert found.forward[0] <= median(e.received - e.sent for e in truth) / 1000 <= found.forward[2]
        assert found.reverse[0] <= median(e.returned - e.answered for e in truth) / 1000 <= found.reverse[2]
        assert found.forward[1] == pytest.approx((found.forward[0] + found.forward[2]) / 2)
        middle_of_time = offset_us + skew * 0.5e6
        assert abs(found.offset_us - middle_of_time) <= found.offset_error_us
        if found.skew_ppm is not None:
            assert found.skew_ppm[0] <= skew * 1e6 <= found.skew_ppm[1]
        # Half of the least round trip, for each end, and no more: drift is taken out.
        assert found.offset_error_us <= (forward_us + reverse_us) / 2 + 20


def test_variation_needs_no_common_clock() -> None:
    chance = random.Random(1)
    found = one_way(exchanges(chance, 1000, 50, 50, 5e9, 30e-6))
    assert found is not None
    # 99 % of an exponential of 30 µs: 138 µs.
    assert 100 < found.forward_variation_p99_us < 180
    assert 100 < found.reverse_variation_p99_us < 180


def test_a_minute_tells_the_rate_of_a_clock_to_some_ppm() -> None:
    chance = random.Random(4)
    probes = exchanges(chance, 600, 50, 50, 1e9, 40e-6, every_ms=100)

    found = one_way(probes)

    assert found is not None
    assert found.skew_ppm is not None
    assert found.skew_ppm[0] <= 40 <= found.skew_ppm[1]
    assert found.skew_ppm[1] - found.skew_ppm[0] < 8
    assert found.offset_error_us < 60


def test_synchronised_clocks_make_it_narrow() -> None:
    chance = random.Random(2)
    probes = exchanges(chance, 100, 500, 20, 1, 0)
    free, bound = one_way(probes), one_way(probes, agreement_ns=5000)
    assert free is not None
    assert bound is not None
    assert free.forward[2] - free.forward[0] > 400
    assert bound.forward[2] - bound.forward[0] == pytest.approx(10)
    assert bound.forward[0] <= 500 + 21 <= bound.forward[2]  # 21 µs: the median of what comes on top


def test_clocks_that_contradict_give_none() -> None:
    chance = random.Random(3)
    probes = exchanges(chance, 100, 50, 50, 0, 0)
    assert one_way(probes, agreement_ns=5000) is not None
    assert one_way(exchanges(chance, 100, 50, 50, 1e6, 0), agreement_ns=5000) is None
    stepped = [
        *probes[:50],
        *(e._replace(received=e.received + SECOND_NS, answered=e.answered + SECOND_NS) for e in probes[50:]),
    ]
    back = [*stepped[:75], *probes[75:]]
    assert one_way(back) is None


def test_one_exchange_is_bounded_by_its_own_round_trip() -> None:
    found = one_way([Exchange(NOW, NOW + 7_000, NOW + 8_000, NOW + 11_000)])
    assert found is not None
    assert found.forward[2] - found.forward[0] == pytest.approx(10, abs=0.1)
    assert found.offset_error_us == pytest.approx(5, abs=0.1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 99), st.integers(1, 40)), min_size=1, max_size=30))
def test_slopes_are_those_of_all_pairs(probes: list[tuple[int, int, int]]) -> None:
    """Where a line fits between two hulls."""
    above = clock._Hull([(1000 * at, over + delay) for at, delay, over in probes]).points
    below = clock._Hull([(1000 * at + delay, -over) for at, delay, over in probes]).points
    pairs = [(t, high, o, -low) for t, high in above for o, low in below]

    slowest, fastest = clock._slopes(above, below)

    assert fastest == min(((high - low) / (t - o) for t, high, o, low in pairs if t > o), default=math.inf)
    assert slowest == max(((low - high) / (o - t) for t, high, o, low in pairs if t < o), default=-math.inf)


def test_a_reflector_that_puts_each_probe_on_both_hulls_costs_no_hours() -> None:
    """Its times are a parabola's: 20,000 points on each hull, of which all pairs would take minutes."""
    half = 10_000
    probes = []
    for number in range(-half, half):
        sent = NOW + number * 100_000_000
        probes.append(Exchange(sent, sent + number**2 + 10**9, sent + 10**9 + 10**8 - number**2, sent + 2 * 10**8))
    began_s = time.thread_time()

    found = one_way(probes)

    assert time.thread_time() - began_s < 10
    assert found is not None


def test_percentile_is_a_value_that_was_seen() -> None:
    assert clock.percentile([1, 2, 3, 4], 0.5) == 2
    assert clock.percentile(range(1, 101), 0.99) == 99
    assert clock.percentile([5], 0.99) == 5
