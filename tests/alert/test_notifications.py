"""Who keeps messages back: silences by their patterns, and rules that must not wait for one another."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from collector.alert.notifications import Silence, Silenced
from collector.alert.rules import DEFAULTS, Rule
from collector.alert.settings import AlertSettings
from collector.alert.state import Alert
from collector.alert.store import restored, snapshot
from schemas.alerts import ALERTS

LOSS = next(rule for rule in DEFAULTS if rule.name == "pair_loss")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("web-*", "web-1", True),
        ("web-?", "web-12", False),
        ("web[1]", "web[1]", True),
        ("web[1]", "web1", False),
        ("[!a]*", "b", False),
        ("*]", "web[1]", True),
        (r"\*", "web-1", False),  # a VM whose name is a pattern
        (r"\*", "*", True),
        (r"we\?", "web", False),
        (r"a\\*", r"a\b", True),
        (r"\x1b", r"\x1b", True),  # a name that was cleaned
    ],
)
def test_only_star_and_question_mark_mean_something(pattern: str, name: str, matches: bool) -> None:
    alert = Alert(LOSS, 1, {"src_vm": name, "dst_vm": "db"}, since_us=0)

    assert (Silenced([Silence({"src_vm": pattern}, until_us=1, made_us=0)]).by(alert) is not None) is matches


def test_all_matchers_of_one_silence_must_match() -> None:
    alert = Alert(LOSS, 1, {"src_vm": "a", "dst_vm": "b"}, since_us=0)
    silences = [
        {"rule": "pair_loss", "src_vm": "b"},
        {"rule": "pair_*", "src_vm": "a", "dst_vm": "a"},
        {"rule": "pair_latency", "src_vm": "a"},
        {"severity": "warning"},
        {"vm": "?*"},
    ]

    assert Silenced(Silence(one, until_us=1, made_us=0) for one in silences).by(alert) is None
    for one in ({"rule": "pair_*", "dst_vm": "b"}, {"severity": "critical"}, {"vm": "*"}):
        match = Silence(one, 1, 0)
        assert Silenced([*(Silence(other, 1, 0) for other in silences), match]).by(alert) is match


def waiting(name: str, *others: str) -> Rule:
    return Rule(name=name, scope="pair", measure="drops", above=1, inhibited_by=others)


def test_rules_that_would_keep_one_another_back_are_refused() -> None:
    """Each of them would wait for the others, and nobody would be notified of any."""
    AlertSettings(rules=(waiting("a", "b"), waiting("b", "c"), waiting("c", "pair_loss")))

    with pytest.raises(ValueError, match="inhibited_by: rules keep one another back: "):
        AlertSettings(rules=(waiting("a", "b"), waiting("b", "c"), waiting("c", "a")))
    # A default rule waits for the one that takes the place of another default rule.
    with pytest.raises(ValueError, match="pair_loss_lasting ← "):
        AlertSettings(rules=(waiting("pair_loss", "pair_loss_lasting"),))


def test_a_row_holds_what_an_alert_is() -> None:
    """What an alert counts begins again after a restart; why it ended stands in `alert_events`."""
    labels = {name: name.upper() for name in LOSS.view.labels}
    alert = Alert(
        LOSS, 7, labels, since_us=1, status="acknowledged", version=2, fired_us=3, acknowledged_us=4,
        acknowledged_by="ann", resolved_us=5, resolved_by="bob", stale_since_us=6, value=0.1, low=0.2, high=0.3,
        samples=8.0, evidence="exact", threshold=0.4, worst=0.5, window_start_us=9, window_end_us=10, windows_beyond=11,
        windows_clear=12, notified_us=13, held_back=True, escalations=14, why="moved",
    )  # fmt: skip

    row = snapshot(alert)
    again = restored(json.loads(json.dumps(row)), LOSS)

    assert set(row) == {column.name for column in ALERTS.stored}
    assert (row["time"], row["since"], row["notified"], row["stale_since"]) == (3, 1, 13, 6)
    assert (row["rule"], row["unit"], row["series"]) == ("pair_loss", "ratio", 7)
    assert row["summary"] == "SRC_VM → DST_VM loses 10 % [20 % – 30 %] of its packets"
    lost = {one.name for one in fields(Alert) if getattr(again, one.name) != getattr(alert, one.name)}
    assert lost == {"windows_beyond", "windows_clear", "why"}
