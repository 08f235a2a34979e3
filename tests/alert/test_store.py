"""What the store holds: measures against the views, baselines from history, and a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clickhouse_connect.driver import Client

from collector.alert.conditions import learn
from collector.alert.conditions.anomaly import Anomaly
from collector.alert.conditions.baseline import Baseline
from collector.alert.evaluate import cut
from collector.alert.rules import Rule
from collector.alert.scopes import MORE_VIEWS, SCOPES, ScopeView
from collector.alert.series import Limits, expression, read
from collector.alert.settings import AlertSettings
from collector.alert.state import Alert, AlertStates
from collector.alert.store import AlertStore
from collector.store.settings import StoreSettings
from schemas import alerts as schema
from schemas.rollups import LEVELS
from tests.flow_rows import BEGIN_US, HOUR_US, add, ask, emptied, flow, store, vm
from tests.notify.support import endpoint

LIMITS = Limits(60, 2**30, 1000)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="alert_store")) as client:
        yield client


@pytest.fixture
def client(made: Client) -> Client:
    return emptied(made)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_measure_is_a_column_of_its_view(client: Client, scope: str, level: str) -> None:
    """And every label, key and interval can be asked for: one rule per measure, in one query."""
    for view in filter(None, (SCOPES[scope], MORE_VIEWS.get(scope))):  # type: ignore[index, call-overload]
        columns_are_there(client, view, scope, level)


def columns_are_there(client: Client, view: ScopeView, scope: str, level: str) -> None:
    described = {str(row[0]): str(row[1]) for row in client.query(f"DESCRIBE {view.name(level)}").result_rows}
    measures = {name for name, one in view.measures.items() if not one.own}
    for measure in measures:
        assert any(kind in described[measure] for kind in ("Float64", "Int64", "UInt32")), measure
    rules = [
        Rule(name=f"r_{measure}", scope=scope, measure=measure, above=0.5, only={})  # type: ignore[arg-type]
        for measure in measures
    ]
    learns = {"condition": "anomaly", "measure": min(measures), "above": None, "name": "learns"}
    rules.append(rules[0].model_copy(update=learns))

    (frame,) = read(client, view, level, rules, BEGIN_US, BEGIN_US + LEVELS[level] * 1_000_000, LIMITS)

    assert len(frame.series) == 0
    assert set(frame.figures) >= measures | set(view.changes)


def test_verdicts_and_scores_are_read_as_they_were_written(client: Client) -> None:
    rule = Rule(name="rate", scope="vm", condition="anomaly", measure="sent_bits_per_second", level="1h")
    book, written = AlertStates(AlertSettings()), AlertStore()
    changes, now_us = [], time.time_ns() // 1000
    for series, verdict in ((7, "false"), (8, "true"), (9, "none"), (2**64 - 1, "true")):
        alert = Alert(rule, series, {"vm": f"vm-{series}", "host": "h"}, BEGIN_US)
        alert.status, alert.fired_us, alert.evidence = "firing", BEGIN_US, "higher than usual; since then"
        changes += book.resolve(alert, now_us - 5, "ann", "", verdict)  # type: ignore[arg-type]
    written.keep(changes, [], now_us)
    facts = {"level": "1h", "rule": "rate", "scope": "vm", "labels": {"vm": "a"}, "measure": "m", "unit": "bit/s"}
    figures = {"value": 5.0, "low": None, "high": None, "expected": 2.0, "expected_low": 1.0, "expected_high": 3.0}
    score = {"time": BEGIN_US, "series": 2**64 - 1, "score": 2.0, "evidence": "higher than usual", "beyond": 1}
    written.keep_scores([facts | figures | score])
    written.flush(client)
    judge = Anomaly.of(rule, AlertSettings())
    assert isinstance(judge, Anomaly)

    while not judge.prepare(client, BEGIN_US, LIMITS):
        pass
    expected = [(series, now_us - 5, right, BEGIN_US) for series, right in ((7, False), (8, True), (2**64 - 1, True))]
    assert sorted(judge._verdicts) == expected
    (row,) = ask(client, "SELECT * FROM anomalies")
    assert (row["rule"], row["series"], row["once_in_days"]) == ("rate", 2**64 - 1, 100)
    former = written.find(client, changes[0].alert.alert_id, {"rate": rule})
    assert former is not None
    assert (former.series, former.verdict, former.evidence) == (7, "false", "higher than usual; since then")
    assert written.find(client, "0" * 32, {"rate": rule}) is None


def test_the_enumerations_of_the_tables_are_those_of_the_rules() -> None:
    assert schema.SCOPES == ("pair", "vm", "interface", "host", "exporter", "service")
    assert set(schema.SCOPES) == set(SCOPES)


def test_of_too_many_series_the_same_are_left_out_each_time(client: Client) -> None:
    rule = Rule(name="x", scope="pair", measure="packets", level="10s", above=1)
    add(client, [flow(vm(f"a{n}"), vm("b"), "source", received=5) for n in range(8)])

    (frame,) = read(client, rule.view, "10s", [rule], BEGIN_US, BEGIN_US + 10_000_000, Limits(60, 2**30, 5))
    least, left_out = cut(frame, 5)

    assert frame.series.tolist() == sorted(frame.series.tolist())
    assert left_out == 3
    assert least.series.tolist() == frame.series.tolist()[:5]
    assert least.labels(4, ["src_vm"]) == frame.labels(4, ["src_vm"])


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [("web*", "web1", 1), ("web*", "aweb1", 0), ("w?b", "web", 1), ("a.b", "axb", 0), ("a'\\b*", "a'\\b\n2", 1)],
)
def test_patterns_mean_what_people_mean(client: Client, pattern: str, text: str, matches: int) -> None:
    sql = "SELECT match({text:String}, {pattern:String})"
    answer = client.query(sql, parameters={"text": text, "pattern": expression([pattern])})

    assert answer.result_rows[0][0] == matches


def test_a_baseline_reads_the_same_hour_of_other_days(client: Client) -> None:
    """24 days: in this hour 100 packets more each day of the week, in the one before 9,000; today is not read."""
    day = 24 * HOUR_US
    hour_us = BEGIN_US // HOUR_US * HOUR_US
    rows = []
    for back in range(25):
        packets = 100 * (back % 7 + 1)
        at = (hour_us - back * day - BEGIN_US) / 1e6 + 30
        rows.append(flow(vm("a"), vm("b"), "source", received=at, packets=packets if back else 5000))
        rows.append(flow(vm("a"), vm("b"), "source", received=at - 3600, packets=9000))
    rows += [flow(vm("new"), vm("b"), "source", received=(hour_us - n * day - BEGIN_US) / 1e6 + 30) for n in (1, 2)]
    add(client, rows)
    rule = Rule(name="odd", scope="pair", condition="baseline", measure="packets_per_second", level="1h")
    judge = Baseline(rule, 1000, 28, 3)

    judge.prepare(client, hour_us, LIMITS)
    (frame,) = read(client, rule.view, "1h", [rule], hour_us, hour_us + HOUR_US, LIMITS)
    verdict = judge.judge(frame)

    # The same weekday is 7, 14 and 21 days ago: 100 packets each.  The pair `new` has two days only: nothing is said.
    assert judge._series.tolist() == frame.series.tolist()
    assert judge._usual.tolist() == [pytest.approx(100 / 3600)]
    assert judge._spread.tolist() == [0]
    assert verdict.value.tolist() == [pytest.approx(5000 / 3600)]
    assert np.all(verdict.beyond)


def test_hours_before_the_last_day_teach_the_rhythm_of_minutes(client: Client) -> None:
    """Two hours of other days and two minutes of this one; after them nothing is left to read."""
    hours = (-30 * 3600, -54 * 3600)
    add(client, [flow(vm("a"), vm("b"), "source", received=at, bytes=9000) for at in (*hours, -90, -30)])
    rule = Rule(name="rate", scope="pair", condition="anomaly", measure="bits_per_second")
    judge = Anomaly.of(rule, AlertSettings())
    assert isinstance(judge, Anomaly)
    start_us = BEGIN_US // 60_000_000 * 60_000_000

    for _ in range(100):
        if judge.prepare(client, start_us, LIMITS):
            break

    memory = judge._memory
    assert (memory.series, memory.read_us) == (1, start_us)
    row = memory.rows[0]
    assert row[learn.SEEN] == 2
    assert np.isfinite(row[learn.PROFILE : learn.PROFILE + learn.BINS]).sum() >= 2
    assert judge.prepare(client, start_us, LIMITS)


def child(directory: Path, address: str, what: str) -> subprocess.Popen[bytes]:
    """The stage in a process of its own, with a webhook at this address."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.alert.kill", str(directory), address, what],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )


def again(directory: Path, address: str) -> None:
    """Start the stage once more, and wait until it has ended."""
    with child(directory, address, "again") as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()


def test_kill_9_between_firing_and_delivery(tmp_path: Path) -> None:
    """Killed while the webhook has not answered: the next start delivers the same message, once, the one after none."""
    with endpoint(gate_open=False) as deaf:
        with child(tmp_path, deaf.address, "fire") as process:
            assert deaf.arrived.acquire(timeout=120)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        (unanswered,) = deaf.requests
    with endpoint() as hook:
        again(tmp_path, hook.address)
        (taken,) = hook.requests
        again(tmp_path, hook.address)
        assert hook.requests == [taken]

    assert taken.json == unanswered.json
    assert "a → b" in taken.json["title"]
