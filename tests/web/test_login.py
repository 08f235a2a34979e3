"""The API where people must log in: who may read, who may act, and whose name is kept."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.__main__ import main
from collector.alert.settings import AlertSettings
from collector.store.settings import StoreSettings
from tests.alert.support import traffic
from tests.flow_rows import add, store, vm
from tests.http.test_login import PASSWORD, SETTINGS, TOKEN
from tests.web.support import Served, served

READER = {"Authorization": f"Bearer {TOKEN}"}
OPERATOR = {"Authorization": "Basic " + b64encode(f"ann:{PASSWORD}".encode()).decode()}


@pytest.fixture(scope="module")
def guarded(store_directory: Path) -> Iterator[Served]:
    """One pair that loses 20 %; `ann` is an operator, token `grafana` a reader."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database="guarded")
    with store(settings) as client:
        add(client, traffic(vm("a", "host-1"), vm("b", "host-2"), range(100), 200))
        with served(settings, AlertSettings(settle_seconds=0), SETTINGS) as running:
            running.close("10s", range(4))
            yield running


def test_nothing_is_told_without_a_login(guarded: Served) -> None:
    for path in ("/api/v1/alerts", "/api/v1/rules", "/metrics", "/"):
        assert guarded.get(path).status == 401, path
    assert guarded.get("/api/v1/alerts", Authorization="Bearer wrong").status == 401
    assert guarded.get("/health").status == 200


def test_readers_read_and_operators_act_under_their_own_name(guarded: Served) -> None:
    (alert,) = guarded.get("/api/v1/alerts?rule=pair_loss", **READER).json["alerts"]
    path = f"/api/v1/alerts/{alert['alert_id']}"
    body = {"who": "somebody else", "comment": "mine"}

    assert guarded.post(f"{path}/acknowledge", body).status == 401
    assert guarded.post(f"{path}/acknowledge", body, **READER).status == 403
    (alert,) = guarded.get("/api/v1/alerts?rule=pair_loss", **READER).json["alerts"]
    assert alert["state"] == "firing"
    assert guarded.post(f"{path}/acknowledge", body, **OPERATOR).status == 200

    (alert,) = guarded.get("/api/v1/alerts?rule=pair_loss", **READER).json["alerts"]
    assert (alert["state"], alert["acknowledged_by"]) == ("acknowledged", "ann")


def test_the_command_shows_its_token(guarded: Served, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["alerts", "list", "--url", guarded.url]

    assert main(arguments) == 1
    assert "401" in capsys.readouterr().err
    assert main([*arguments, "--set", f"access.client_token={TOKEN}"]) == 0
    assert "a → b loses" in capsys.readouterr().out
