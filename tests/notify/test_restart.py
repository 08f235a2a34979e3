"""The whole service after a restart: Alertmanager keeps what fired before, the API ends it, an action runs."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest

from collector.alert.notifications import Silence
from collector.alert.rules import DEFAULTS
from collector.alert.state import Alert, Change
from collector.alert.store import AlertStore
from collector.store.client import open_client, open_in_database
from collector.store.settings import StoreSettings
from tests.notify.alertmanager_server import MISSING, PROGRAM, alertmanager
from tests.notify.support import SECOND_US, endpoint
from tests.service import running

NOTE = {
    "kind": "command", "rules": ["pair_loss"], "events": ["firing", "resolved"],
    "argv": ["/bin/sh", "-c", 'echo "$ALERT_LABEL_SRC_VM is well"'],
}  # fmt: skip
LOSS = next(rule for rule in DEFAULTS if rule.name == "pair_loss")


def fired(series: int, vm: str, now_us: int) -> Alert:
    """An alert of a former run that people were notified of a minute ago."""
    return Alert(
        LOSS, series, {"src_vm": vm, "dst_vm": "db-1"}, since_us=now_us - 90 * SECOND_US, status="firing",
        fired_us=now_us - 70 * SECOND_US, notified_us=now_us - 60 * SECOND_US, value=0.05, low=0.04, high=0.06,
        threshold=0.01, window_start_us=now_us - 80 * SECOND_US, window_end_us=now_us - 70 * SECOND_US,
    )  # fmt: skip


def test_alertmanager_gets_again_what_fired_before_the_start(tmp_path: Path, server_store: StoreSettings) -> None:
    """Two alerts were sent before the start, one of them is over; a third was never sent: a silence kept it back."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    now_us = time.time_ns() // 1000
    lasting, ended, silenced = (fired(number, f"web-{number}", now_us) for number in range(3))
    ended.status, ended.resolved_us = "resolved", now_us - 30 * SECOND_US
    silenced.notified_us, silenced.held_back = 0, True
    with open_in_database(server_store) as client:
        former = AlertStore()
        former.keep([Change(alert, "firing") for alert in (lasting, ended, silenced)], [], now_us)
        former.keep_silence(Silence({"src_vm": "web-2"}, now_us + 3600 * SECOND_US, now_us, "ann"), now_us)
        former.flush(client)
    with endpoint() as hook, alertmanager(tmp_path, hook.address) as server:
        receiver = {"kind": "alertmanager", "url": f"http://{server.address}", "resend_seconds": 1}
        overrides = (
            f"store.database={server_store.database}",
            f"notify.receivers={json.dumps({'am': receiver})}",
            'alerts.routes=[{"receivers": ["am"]}]',
            "notify.actions_enabled=true",
            f"notify.actions={json.dumps({'note': NOTE})}",
        )
        with running(tmp_path, *overrides, store=server_store.url) as service:
            (alert,) = server.wait(bool)
            time.sleep(5)  # longer than the four intervals after which Alertmanager forgets
            (still,) = server.alerts()
            cards = json.loads(service.get("/api/v1/alerts?state=firing"))["alerts"]
            body = json.dumps({"who": "ann"}).encode()
            request = urllib.request.Request(
                f"{service.ready['web']}/api/v1/alerts/{lasting.alert_id}/resolve", body,
                {"Content-Type": "application/json"},
            )  # fmt: skip
            with urllib.request.urlopen(request, timeout=30) as answer:
                resolved = json.loads(answer.read())
            server.wait(lambda alerts: not alerts)
            assert service.stop() == 0
    with open_client(server_store) as client:
        sql = f"SELECT action, event, alert_id, status, output FROM {server_store.database}.action_runs"
        runs = client.query(sql).result_rows

    assert alert["labels"]["fingerprint"] == still["labels"]["fingerprint"] == lasting.fingerprint
    assert alert["labels"]["src_vm"] == "web-0"
    assert {card["alert_id"] for card in cards} == {lasting.alert_id, silenced.alert_id}
    assert (resolved["state"], resolved["resolved_by"]) == ("resolved", "ann")
    # Nothing runs again for what fired before the start.
    assert runs == [("note", "resolved", lasting.alert_id, "exit 0", "web-0 is well\n")]
