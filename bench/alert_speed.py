"""What one window costs each condition: the query of the view, the condition over its columns, the states.

Each pair was active in each minute of the last hour and in the same hour of the days before.  One in a thousand has
something wrong in the last windows: it loses packets, heads for a limit, is silent, or carries ten times the usual.
"""

from __future__ import annotations

import time

import numpy as np
from clickhouse_connect.driver import Client

from bench.alert_rows import SECOND_US, Numbers, insert, made, parts, report
from collector.alert.evaluate import Evaluator
from collector.alert.rules import Rule
from collector.alert.settings import AlertSettings

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400
PAST = 60
"""Windows of a minute before those that are looked at: as many as a trend and an absence read at their begin."""
LOOKED = 5
DAYS = 28
RATE = 64
WRONG = 1000
"""One pair in so many."""
RULES = (
    Rule(name="threshold", scope="pair", measure="loss_ratio", above=0.01, certain_windows=1e7, for_seconds=300),
    Rule(name="absent", scope="pair", condition="absent", windows=3),
    Rule(name="trend", scope="pair", condition="trend", measure="bits_per_second", above=1.5e7, within_seconds=3600),
    Rule(name="baseline", scope="pair", condition="baseline", measure="bits_per_second"),
)


def speed(pairs: int) -> None:
    """Print what the first window and those after it cost, for each condition by itself."""
    rng = np.random.default_rng(12)
    hour_s = int(time.time()) // HOUR_S * HOUR_S
    # The windows that are looked at lie within one hour, so that a baseline reads once.
    first_s = hour_s - HOUR_S + 10 * MINUTE_S
    with made() as client:
        begun = time.monotonic()
        for number in range(-PAST, LOOKED):
            _minute(client, rng, pairs, first_s + number * MINUTE_S, number)
        for day in range(1, DAYS + 1):
            _write(client, rng, "pair_1h", hour_s - HOUR_S - day * DAY_S, np.full(pairs, 1_200_000), np.zeros(pairs))
        rows = 2 * pairs * (PAST + LOOKED + DAYS)
        print(f"{rows} rows written in {time.monotonic() - begun:.0f} s")
        while client.query("SELECT count() FROM system.merges").result_rows[0][0]:
            time.sleep(1)
        for rule in RULES:
            _measure(client, rule, first_s)


def _minute(client: Client, rng: np.random.Generator, pairs: int, begin_s: int, number: int) -> None:
    """20,000 packets of each pair; pairs 0, 1000, 2000 ... lose, 1, 1001 ... grow, 2 ... fall silent, 3 ... burst."""
    kind = np.arange(pairs) % WRONG
    packets = np.full(pairs, 20_000)
    packets[kind == 1] += (number + PAST) * 1_500
    loss = np.zeros(pairs)
    if number >= 0:
        loss[kind == 0] = 0.6
        packets[kind == 2] = 0
        packets[kind == 3] *= 10
    _write(client, rng, "pair_1m", begin_s, packets, loss)


def _write(
    client: Client, rng: np.random.Generator, table: str, begin_s: int, packets: Numbers, loss: np.ndarray
) -> None:
    sent = rng.poisson(packets)
    rate = np.full(len(packets), RATE)
    for side, counted in (("source", sent), ("destination", rng.binomial(sent, 1 - loss))):
        told = report(rng, parts(rng, counted), rate)
        here = told["samples"] > 0
        insert(
            client,
            table,
            np.full(int(here.sum()), begin_s),
            np.flatnonzero(here),
            side,
            sampling_rate_max=rate[here].astype(np.uint32),
            **{name: values[here] for name, values in told.items()},
        )


def _measure(client: Client, rule: Rule, first_s: int) -> None:
    """From the query to the states, window after window; first of all the past, which is read between windows."""
    evaluator = Evaluator(AlertSettings(), [rule])
    seconds, fired, failed = [], 0, []
    begun, first_us = time.monotonic(), first_s * SECOND_US
    while (outcome := evaluator.evaluate(client, rule.level, first_us - MINUTE_S * SECOND_US, first_us)).put_off:
        continue
    past = time.monotonic() - begun
    fired += sum(change.event == "firing" for change in outcome.changes)
    for number in range(LOOKED):
        start_us = (first_s + number * MINUTE_S) * SECOND_US
        begun = time.monotonic()
        outcome = evaluator.evaluate(client, rule.level, start_us, start_us + MINUTE_S * SECOND_US)
        seconds.append(time.monotonic() - begun)
        fired += sum(change.event == "firing" for change in outcome.changes)
        failed += [str(error).splitlines()[0][:200] for error in outcome.failed.values()]
    print(
        f"{rule.name}: past and first window {past:.1f} s, later ones {np.median(seconds):.2f} s (median, at most "
        f"{max(seconds):.2f} s), {fired} fire", *failed
    )  # fmt: skip
