"""The settings of `vmflow demo`, by the cloud's clock: the lossy link has its alert within a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.commands.demo_parts import CACHE_SECONDS, SERVICE
from collector.store.settings import StoreSettings
from tests.deploy.compressed import PATIENCE_SECONDS, SECOND_US, run

BEGINS, SECONDS = 5, 70


def test_the_lossy_link_has_its_alert_within_a_minute(
    embedded_store: StoreSettings, tmp_path: Path, recent: str
) -> None:
    options = ("--seconds", str(SECONDS), "--cache", str(CACHE_SECONDS), "--trouble", f"loss@{BEGINS}+900")
    patient = {"query_seconds": PATIENCE_SECONDS / 2}
    with pytest.MonkeyPatch.context() as patch:
        sections = SERVICE | {"alerts": SERVICE["alerts"] | patient}
        ran = run(embedded_store, tmp_path, patch, sections, "--start", recent, "--vms", "60", *options)
    alerts = ran.ask(
        "SELECT rule, summary, labels['src_host'] AS src, labels['dst_host'] AS dst, "
        "toUnixTimestamp64Micro(time) AS time FROM alerts FINAL ORDER BY time"
    )
    print([(alert["rule"], alert["summary"], (alert["time"] - ran.start_us) / 1e6) for alert in alerts])
    lossy = [alert for alert in alerts if alert["rule"] == "pair_loss"]

    assert lossy
    assert {frozenset((alert["src"], alert["dst"])) for alert in lossy} == {frozenset({"hv5", "hv6"})}
    assert lossy[0]["time"] <= ran.start_us + (BEGINS + 60) * SECOND_US
    assert " of its packets; limit 1 %, evidence " in lossy[0]["summary"]
    assert {alert["rule"] for alert in alerts} <= {"pair_loss", "pair_loss_lasting"}
