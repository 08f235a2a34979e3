"""Alerts whose message is kept back say by what: over the API, and to people."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.__main__ import main
from collector.alert.settings import AlertSettings, Route
from collector.store.settings import StoreSettings
from tests.alert.support import traffic
from tests.flow_rows import add, store, vm
from tests.web.support import served


def test_a_silence_and_another_rule(store_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pair_loss is silenced by ann; pair_loss_lasting is kept back by pair_loss."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database="held_back")
    with store(settings) as client:
        add(client, traffic(vm("a", "h1"), vm("b", "h2"), range(360), 300))
        alerts = AlertSettings(routes=(Route(receivers=("mail",)),), settle_seconds=0)
        with served(settings, alerts) as server:
            wanted = {"matchers": {"rule": "pair_loss"}, "seconds": 86_400, "who": "ann", "comment": "moving"}
            silence = server.post("/api/v1/silences", wanted).json["silence_id"]
            server.close("10s", range(6))
            server.close("1m", range(6))

            found = {one["rule"]: one for one in server.get("/api/v1/alerts").json["alerts"]}
            assert main(["alerts", "show", found["pair_loss"]["alert_id"], "--url", server.url]) == 0

    by = f"silence {silence[:8]} of ann"
    assert {rule: (one["held_back"], one["held_back_by"]) for rule, one in found.items()} == {
        "pair_loss": (True, by), "pair_loss_lasting": (True, "pair_loss"),
    }  # fmt: skip
    assert f"held back by {by}" in capsys.readouterr().out
