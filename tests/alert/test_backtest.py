"""`vmflow rules`: rules over stored windows, and advice on limits, through the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np
import pytest
from clickhouse_connect.driver import Client

from collector.__main__ import COMMANDS, Command, main
from collector.alert.backtest import SUMS, _first_us, candidates, replay, suggest
from collector.alert.rules import DEFAULTS, Rule
from collector.alert.series import Limits, query
from collector.alert.settings import AlertSettings
from collector.sql.engine import Engine, Query
from collector.store.settings import StoreSettings
from schemas.exporters import EXPORTERS
from tests.alert.support import SECOND_US, traffic
from tests.flow_rows import BEGIN_US, add, store, vm

SPAN = (BEGIN_US - 3 * 3600 * SECOND_US, BEGIN_US + 400 * SECOND_US)
SCOPES = [next(rule for rule in DEFAULTS if rule.name == name) for name in ("exporter_held", "service_queue_drops")]
"""Both read `exporter_metrics`."""


@pytest.fixture(scope="module")
def settings(store_directory: Path) -> StoreSettings:
    return StoreSettings(url=f"chdb://{store_directory}", database="alert_history")


@pytest.fixture(scope="module")
def client(settings: StoreSettings) -> Iterator[Client]:
    """Three pairs for five minutes; the second loses 5 % in windows 3 to 5 and 15 to 17, the third 2 % always."""
    with store(settings) as client:
        rows = []
        for window in range(30):
            seconds = range(window * 10, window * 10 + 10)
            rows += traffic(vm("a", "h1"), vm("b", "h2"), seconds)
            rows += traffic(vm("c", "h1"), vm("d", "h2"), seconds, 50 if window in (3, 4, 5, 15, 16, 17) else 0)
            rows += traffic(vm("e", "h1"), vm("f", "h2"), seconds, 20)
        add(client, rows)
        yield client


@pytest.fixture
def vmflow(monkeypatch: pytest.MonkeyPatch, client: Client, settings: StoreSettings) -> list[str]:
    """Arguments that name the store."""
    monkeypatch.setitem(COMMANDS, "rules", Command("collector.commands.rules", "rules of alerts"))
    return ["--set", f"store.url={settings.url}", "--set", "store.database=alert_history", "--set", "sql.port=0"]


def test_replay_finds_each_fault(client: Client) -> None:
    """Asked for three hours more than there are windows: a day counts what was there to be looked at, 400 s."""
    (tally,) = replay(client, DEFAULTS[:1], AlertSettings(), *SPAN)

    assert tally.windows == 30
    begins = [(alert.labels["src_vm"], (alert.since_us - BEGIN_US) // (10 * SECOND_US)) for alert in tally.alerts]
    assert sorted(begins) == [("c", 3), ("c", 15), ("e", 0)]
    assert tally.fired == 3
    assert len(tally.series) == 2
    assert tally.per_day == pytest.approx(3 * 86_400 / 400)


def test_rules_of_two_scopes_that_read_one_view_each_find_their_rows(client: Client) -> None:
    """In both orders: none reads the rows of the other."""
    begin, seconds = BEGIN_US // SECOND_US, range(0, 60, 10)
    add(
        client,
        [
            {
                "time": (begin + second + 1) * SECOND_US,
                "interval_us": SECOND_US,
                "exporter": IPv6Address("::").packed,
                "datagrams": 1,
            }
            for second in seconds
        ],
        EXPORTERS.name,
    )
    add(
        client,
        [
            {
                "time": (begin + 1) * SECOND_US,
                "interval_us": SECOND_US,
                "exporter": IPv6Address("::ffff:192.0.2.1").packed,
                "datagrams": 1,
                "records": 1,
            }
        ],
        EXPORTERS.name,
    )
    alone = {rule.name: replay(client, [rule], AlertSettings(), *SPAN)[0].windows for rule in SCOPES}
    assert len(set(alone.values())) == 2, alone

    for rules in (SCOPES, SCOPES[::-1]):
        assert {tally.rule.name: tally.windows for tally in replay(client, rules, AlertSettings(), *SPAN)} == alone


def test_test_of_a_file(tmp_path: Path, vmflow: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        "[alerts]\ndefault_rules = false\n[[alerts.rules]]\nname = 'much'\nscope = 'pair'\nmeasure = 'loss_ratio'\n"
        "level = '10s'\nabove = 0.03\n",
        encoding="utf-8",
    )

    assert main(["rules", "test", str(path), "--since", "4h", "-f", "json", *vmflow]) == 0

    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["rule"], line["alerts"], line["series"]) == ("much", 2, 1)
    assert line["days"] == pytest.approx((time.time() - BEGIN_US / SECOND_US) / 86_400, abs=0.02)
    assert line["per_day"] == pytest.approx(2 / line["days"], rel=0.15)  # days are rounded to hundredths
    assert line["examples"].startswith("c → d 5 %")


def test_suggest_counts_the_alerts_of_each_limit(vmflow: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "suggest", "--rule", "pair_loss", "--since", "4h", "-f", "json", *vmflow]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["note"] == "present limit"
    assert lines[0]["alerts"] == 3
    assert lines[-1]["note"] == "proposed"
    assert lines[-1]["alerts"] == 0
    assert [line["alerts"] for line in lines[1:]] == sorted((line["alerts"] for line in lines[1:]), reverse=True)


def test_suggest_says_where_nothing_was_measured(vmflow: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rules = ("pair_latency", "interface_errors")
    named = [argument for rule in rules for argument in ("--rule", rule)]
    assert main(["rules", "suggest", *named, "--since", "4h", "-f", "json", *vmflow]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["rule"], line["alerts"], line["note"]) for line in lines] == [
        (rule, 0, "present limit, nothing measured") for rule in rules
    ]
    assert lines[1]["days"] == 0


def test_list(vmflow: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "list", "-f", "json", *vmflow]) == 0

    lines = {line["rule"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(lines) == [rule.name for rule in DEFAULTS]
    assert lines["pair_loss"]["fires"] == "loss_ratio above 1 % for 60 s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[alerts.rules]]\nname='x'\nscope='pair'\nmeasure='loss'\nabove=1", "measure = 'loss': view pair_metrics"),
        (
            "[[alerts.rules]]\nname='x'\nscope='vm'\nmeasure='drops'\nabov=1",
            "alerts.rules.0.abov: no such setting; expected one of above, alerts_per_day, below",
        ),
        ("[[alerts.rules]]\nname='x'\nscope='link'\nmeasure='drops'", "alerts.rules.0.scope = 'link': Input should be"),
        ("[[alerts.rules]]\nname='x'\nscope='vm'\nmeasure='a'\nabove=1", "alerts.rules.0 (x): measure = 'a': view"),
        ("[[rules]]\nname='x'", "no section alerts, but rules; [[alerts.rules]] is expected"),
        ("alerts = 5", "alerts = 5: a table of settings is expected"),
        ("[alerts]\nrules = [5]", "alerts.rules.0 = 5: a table of settings is expected"),
        ("[alerts", "rules.toml: "),
    ],
)
def test_a_wrong_file_is_reported_with_key_value_and_what_was_expected(
    tmp_path: Path, vmflow: list[str], capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")

    assert main(["rules", "test", str(path), *vmflow]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["test", "none.toml"], "none.toml: No such file or directory; a TOML file with [[alerts.rules]] is expected"),
        (["list", "mine.toml"], "list takes no FILE: the rules are those of the settings; --config mine.toml?"),
        (["suggest", "mine.toml"], "suggest takes no FILE"),
        (["test"], "test needs a FILE with [[alerts.rules]]"),
    ],
)
def test_mistakes_in_the_call(
    vmflow: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["rules", *arguments, *vmflow]) == 2
    assert expected in capsys.readouterr().err


def test_limits_are_rounded_away_from_the_crowd() -> None:
    values = np.linspace(0, 0.0123456, 101)

    assert candidates(values, 1) == [0.013]
    assert candidates(-values, -1) == [-0.013]
    assert candidates(np.zeros(0), 1) == []


def test_the_running_service_answers_the_queries(client: Client, settings: StoreSettings) -> None:
    """Where a service runs, the command asks through the read-only endpoint: it must let the queries pass."""
    assert settings.directory is not None
    engine = Engine(settings.directory, settings)
    try:
        for rule in DEFAULTS:
            sql, _ = query(rule.view, rule.level, [rule])
            times = {"start": str(BEGIN_US // SECOND_US), "end": str(BEGIN_US // SECOND_US + 60), "rows": "9"}
            limits = {"max_execution_time": "9", "max_memory_usage": "99999999", "join_use_nulls": "0",
                      "session_timezone": "UTC"}  # fmt: skip
            assert engine.run(Query(sql.encode(), settings.database, "Arrow", times, limits)).format == "Arrow"
    finally:
        engine.close()


def test_limits_that_no_share_can_pass_are_not_tried(settings: StoreSettings) -> None:
    """Where everything is lost, the highest value is all of it."""
    own = StoreSettings(url=settings.url, database="alert_history_all")
    with store(own) as client:
        add(client, traffic(vm("a", "h1"), vm("b", "h2"), range(300), 1000))
        rules = [rule for rule in DEFAULTS if rule.name in ("pair_loss", "service_store_away")]

        found = suggest(client, rules, AlertSettings(), BEGIN_US, BEGIN_US + 300 * SECOND_US)

    assert {advice.rule.name for advice in found} == {"pair_loss"}
    assert all(advice.rule.limit < 1 for advice in found)


def test_the_first_window_is_looked_for_within_bounds(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose only time says how many rows an answer may have: twice 500."""
    bound = "(SELECT toDateTime(toUInt32(getSetting('max_result_rows'))) AS time) AS bounds"
    monkeypatch.setitem(SUMS, "pair", bound)

    assert _first_us(client, DEFAULTS[0], 0, Limits(8, 2**28, 500)) == 1000 * SECOND_US


def test_budgets_of_a_rule_that_learns_are_tried(client: Client) -> None:
    rule = Rule(name="rate", scope="pair", condition="anomaly", measure="bits_per_second", level="10s")

    found = suggest(client, [rule], AlertSettings(), BEGIN_US, BEGIN_US + 300 * SECOND_US)

    assert [advice.rule.alerts_per_day for advice in found] == [1, 10, 3, 0.3, 0.1]
    assert [advice.present for advice in found] == [True, False, False, False, False]
    assert [(advice.tally.windows, advice.tally.fired) for advice in found] == [(30, 0)] * 5
