"""Two thousand series in a real store, of which it is known which have something wrong: those fire, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client

from collector.alert import series
from collector.alert.conditions.baseline import Baseline
from collector.alert.conditions.trend import Trend
from collector.alert.evaluate import Evaluator
from collector.alert.rules import Rule
from collector.alert.series import Limits
from collector.alert.settings import AlertSettings
from collector.store.settings import StoreSettings
from tests.alert.support import SECOND_US
from tests.flow_rows import BEGIN_US, HOUR_US, store

SERIES = 2000
STEP = 100
"""Of each hundred series one is busy, one falls silent, one grows, one bursts; they have these remainders."""
BUSY, SILENT, GROWING, BURSTING = range(4)
MINUTE_US = 60 * SECOND_US
PAST, LOOKED = 30, 3
FIRST_US = BEGIN_US // HOUR_US * HOUR_US + 40 * MINUTE_US
"""Begin of the first window that is looked at."""
DAYS = 3
USUAL = 100
"""Packets per second."""
LIMITS = Limits(60, 2**30, 10_000)
NUMBERS = np.arange(SERIES)
KINDS = NUMBERS % STEP

GROWS = Rule(
    name="grows", scope="pair", condition="trend", measure="packets_per_second", above=180, look_back=30,
    within_seconds=3600,
)  # fmt: skip
"""Those that grow by 1 a minute from 100 have 129 to 132 in the windows that are looked at, and 189 an hour later."""
RULES = (
    Rule(name="busy", scope="pair", measure="packets_per_second", above=5000),
    Rule(name="silent", scope="pair", condition="absent", windows=LOOKED),
    GROWS,
    Rule(name="bursts", scope="pair", condition="baseline", measure="packets_per_second"),
)


def put(client: Client, table: str, start_us: int, seconds: int, per_second: np.ndarray) -> None:
    """Rows of a rollup: each pair's packets as its source saw them; none for those without packets."""
    here = per_second > 0
    packets = per_second[here] * float(seconds)
    client.insert_arrow(
        table,
        pa.table(
            {
                "time": pa.array(np.full(len(packets), start_us // SECOND_US, np.uint32)),
                "src_vm": [f"a{number}" for number in NUMBERS[here]],
                "dst_vm": [f"b{number}" for number in NUMBERS[here]],
                "sighting": ["source"] * len(packets),
                "packets": packets,
                "samples": packets,
                "bytes": packets * 100,
            }
        ),
    )


def minute(number: int) -> np.ndarray:
    """Packets per second of each pair, so many minutes after FIRST_US."""
    found = np.full(SERIES, USUAL)
    found[KINDS == BUSY] = 10_000
    found[KINDS == GROWING] += number + PAST
    if number >= 0:
        found[KINDS == SILENT] = 0
        found[KINDS == BURSTING] = 1000
    return found


@pytest.fixture(scope="module")
def client(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="many")) as made:
        for number in range(-PAST, LOOKED):
            put(made, "pair_1m", FIRST_US + number * MINUTE_US, 60, minute(number))
        for day in range(1, DAYS + 1):
            hour_us = FIRST_US // HOUR_US * HOUR_US - day * 24 * HOUR_US
            put(made, "pair_1h", hour_us, 3600, minute(-PAST))
        yield made


def test_each_condition_finds_those_that_are_wrong_and_no_others(client: Client) -> None:
    evaluator = Evaluator(AlertSettings(query_seconds=300), RULES)  # a busy machine must not put a rule off
    fired: dict[str, dict[int, set[str]]] = {rule.name: {} for rule in RULES}

    for number in range(LOOKED):
        start_us = FIRST_US + number * MINUTE_US
        outcome = evaluator.evaluate(client, "1m", start_us, start_us + MINUTE_US)
        assert (outcome.failed, outcome.put_off, outcome.left_out) == ({}, [], 0)
        for change in outcome.changes:
            assert change.event == "firing"
            fired[change.alert.rule.name].setdefault(number, set()).add(change.alert.labels["src_vm"])

    def of(kind: int) -> set[str]:
        return {f"a{number}" for number in range(kind, SERIES, STEP)}

    # An absence counts LOOKED windows; the others show in the first one.
    assert fired == {
        "busy": {0: of(BUSY)},
        "silent": {LOOKED - 1: of(SILENT)},
        "grows": {0: of(GROWING)},
        "bursts": {0: of(BURSTING)},
    }


def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One query for each window of the past, and no time for more than one between two windows."""
    monkeypatch.setattr(series, "CHUNK_ROWS", 1)
    monkeypatch.setattr(series, "PAST_SHARE", 0.0)
    monkeypatch.setattr(series, "PAST_WINDOW_SHARE", 0.0)


def test_a_past_that_takes_long_is_read_in_parts_and_nothing_is_judged_before_its_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = Trend(GROWS, SERIES), Trend(GROWS, SERIES)
    assert whole.prepare(client, FIRST_US, LIMITS)
    parts(monkeypatch)

    answers = [parted.prepare(client, FIRST_US, LIMITS) for _ in range(GROWS.look_back)]

    # 29 windows before this one, each a part.
    assert answers == [False] * 28 + [True] * 2
    (window,) = series.read(client, GROWS.view, "1m", [GROWS], FIRST_US, FIRST_US + MINUTE_US, LIMITS)
    one, other = whole.judge(window), parted.judge(window)
    assert one.value.tolist() == other.value.tolist()
    assert np.count_nonzero(other.beyond) == SERIES // STEP


def test_a_rule_that_still_reads_is_put_off_and_the_others_are_judged(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(AlertSettings(query_seconds=300), RULES)  # a busy machine must not put a rule off
    parts(monkeypatch)

    outcome = evaluator.evaluate(client, "1m", FIRST_US, FIRST_US + MINUTE_US)

    assert outcome.put_off == ["silent", "grows", "bursts"]
    assert outcome.evaluated == {"busy": SERIES - SERIES // STEP}
    assert {change.alert.rule.name for change in outcome.changes} == {"busy"}


def test_a_baseline_reads_the_next_hour_a_day_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    days = 28
    ahead, cold = (Baseline(RULES[3], SERIES, days, DAYS) for _ in range(2))
    assert ahead.prepare(client, FIRST_US, LIMITS)
    parts(monkeypatch)
    assert all(ahead.prepare(client, FIRST_US + number * SECOND_US, LIMITS) for number in range(days))

    assert ahead.prepare(client, FIRST_US + HOUR_US, LIMITS)
    assert [cold.prepare(client, FIRST_US + HOUR_US, LIMITS) for _ in range(days)] == [False] * (days - 1) + [True]


def test_windows_that_were_passed_over_are_no_steeper_slope(client: Client) -> None:
    """Two windows in three are passed over: taken as neighbours, they would grow by 3 a minute, to 309 in an hour."""
    judge = Trend(GROWS.model_copy(update={"above": 300}), SERIES)
    seen: Callable[[int], series.WindowSeries] = lambda start: next(  # noqa: E731
        series.read(client, GROWS.view, "1m", [GROWS], start, start + MINUTE_US, LIMITS)
    )

    for number in range(-PAST, LOOKED, 3):
        start_us = FIRST_US + number * MINUTE_US
        assert judge.prepare(client, start_us, LIMITS)
        verdict = judge.judge(seen(start_us))

    assert not verdict.beyond.any()
    growing = [row for row in range(len(verdict.series)) if int(verdict.labels(row)["src_vm"][1:]) % STEP == GROWING]
    # The last of these windows is the first that is looked at: 130, and 60 windows ahead.
    assert verdict.value[growing].tolist() == pytest.approx([190.0] * (SERIES // STEP))


def test_a_clock_that_is_set_back_begins_the_past_anew(client: Client) -> None:
    """Windows of the time that is now to come would stand before those that are judged."""
    late, fresh = Trend(GROWS, SERIES), Trend(GROWS, SERIES)
    back_us = FIRST_US - 2 * MINUTE_US
    (now,) = series.read(client, GROWS.view, "1m", [GROWS], FIRST_US, FIRST_US + MINUTE_US, LIMITS)
    (before,) = series.read(client, GROWS.view, "1m", [GROWS], back_us, back_us + MINUTE_US, LIMITS)
    assert late.prepare(client, FIRST_US, LIMITS)
    late.judge(now)

    assert late.prepare(client, back_us, LIMITS)
    assert fresh.prepare(client, back_us, LIMITS)
    assert late.judge(before).value.tolist() == fresh.judge(before).value.tolist()
