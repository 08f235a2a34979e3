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


def test_nothing_is_shown_without_a_login(guarded: Served) -> None:
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


def test_a_browser_logs_in_once_and_keeps_a_cookie(guarded: Served) -> None:
    asks = {"X-Requested-With": "vmflow"}
    nobody = guarded.get("/api/v1/session").json
    refused = guarded.get("/api/v1/alerts", **asks)
    wrong = guarded.post("/api/v1/session", {"name": "ann", "password": "wrong"}, **asks)
    entered = guarded.post("/api/v1/session", {"name": "ann", "password": PASSWORD}, **asks)
    cookie = entered.headers["set-cookie"].partition(";")[0]
    mine = {"Cookie": cookie}
    silence = {"matchers": {"rule": "none"}, "seconds": 60}

    assert guarded.get("/pairs", Accept="text/html").status in (200, 404)  # the page, if it is built
    for path in ("/metrics", "/metrics%0A", "/api/v1/alerts", "/api/v1/rules%0A", "/API/v1/alerts", "//api/v1/alerts"):
        answer = guarded.get(path, Accept="text/html")
        assert answer.status in (401, 404) or b'id="app"' in answer.body, path
        assert b"vmflow_" not in answer.body, path
    assert nobody == {"user": "", "role": "", "needed": True, "version": ""}
    assert (refused.status, wrong.status) == (401, 401)
    assert "www-authenticate" not in refused.headers, "the browser would open a dialog of its own"
    assert "HttpOnly; SameSite=Strict" in entered.headers["set-cookie"]
    assert guarded.get("/api/v1/session", **mine).json["user"] == "ann"
    assert guarded.get("/api/v1/alerts", Cookie="vmflow=guessed").status == 401
    # Another site's page may make the browser send it: not with SameSite, and not past the gate.
    assert guarded.post("/api/v1/silences", silence, **mine, Origin="https://evil.example").status == 403
    assert guarded.ask("POST", "/api/v1/silences", b"a=b", {**mine, "Content-Type": "text/plain"}).status == 415
    assert guarded.post("/api/v1/silences", silence, **mine).status == 201
    assert guarded.post("/api/v1/session/end", {}, **mine).status == 204
    assert guarded.get("/api/v1/alerts", **mine).status == 401
    # Behind a proxy that ends TLS, as the browser's origin says.
    secure = {"Host": "127.0.0.1", "Origin": "https://127.0.0.1"}
    entered = guarded.post("/api/v1/session", {"name": "ann", "password": PASSWORD}, **asks, **secure)
    mine = {"Cookie": entered.headers["set-cookie"].partition(";")[0], "Host": "127.0.0.1"}
    assert entered.headers["set-cookie"].startswith("__Host-vmflow=")
    assert entered.headers["set-cookie"].endswith("; Secure")
    assert guarded.get("/api/v1/session", **mine).json["user"] == "ann"
    assert (
        guarded.post("/api/v1/session/end", {}, **mine, Origin="https://127.0.0.1")
        .headers["set-cookie"]
        .endswith("Secure")
    )
    assert guarded.get("/api/v1/alerts", **mine).status == 401
    entered = guarded.post("/api/v1/session", {"name": "ann", "password": PASSWORD}, **asks)
    plain = entered.headers["set-cookie"].partition(";")[0]
    assert guarded.post("/api/v1/silences", silence, Cookie=plain).status == 201
    # Where the browser speaks TLS, a cookie that plain HTTP may have set does not count.
    assert guarded.post("/api/v1/silences", silence, Cookie=plain, **secure).status == 401
    # One who came with TLS and without has two cookies: the log-out ends both sessions.
    both = [
        guarded.post("/api/v1/session", {"name": "ann", "password": PASSWORD}, **asks, **way) for way in ({}, secure)
    ]
    cookies = [answer.headers["set-cookie"].partition(";")[0] for answer in both]
    assert guarded.post("/api/v1/session/end", {}, Cookie="; ".join(cookies)).status == 204
    assert [guarded.get("/api/v1/alerts", Cookie=one).status for one in cookies] == [401, 401]
    # What was meant as a password is not said again.
    for body in ({"name": "ann", "passwort": "hunter2"}, {"name": "ann", "password": "hunter2" * 200}, "hunter2"):
        answer = guarded.post("/api/v1/session", body, **asks)
        assert answer.status == 422
        assert b"hunter" not in answer.body
    assert guarded.post("/api/v1/sql", {"sql": "SELECT 1"}, **READER).status == 503, "readers may ask; here SQL is off"


def test_the_command_shows_its_token(guarded: Served, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["alerts", "list", "--url", guarded.url]

    assert main(arguments) == 1
    assert "401" in capsys.readouterr().err
    assert main([*arguments, "--set", f"access.client_token={TOKEN}"]) == 0
    assert "a → b loses" in capsys.readouterr().out
