"""The API where the store is away or alerts are off, and who counts as the one who acts."""

from __future__ import annotations

import socket

import pytest
from starlette.requests import Request

from collector.alert.settings import AlertSettings
from collector.store.settings import StoreSettings
from collector.web.api import SCOPE_USER, PersonAction, _by
from tests.web.support import served

NOBODY = "0" * 32


def test_a_store_that_is_away_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = StoreSettings(url=f"http://127.0.0.1:{port}", connect_seconds=1)
    with served(store, AlertSettings(enabled=False)) as server:
        lists = [server.get(f"/api/v1/{path}") for path in ("alerts", f"alerts/{NOBODY}", "silences")]
        acts = [
            server.post(f"/api/v1/alerts/{NOBODY}/{verb}", {"who": "ann"}) for verb in ("acknowledge", "resolve")
        ]  # fmt: skip
        rules = server.get("/api/v1/rules")

    for answer in lists:
        assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.json["detail"].startswith("the store does not answer: ")
    assert [(answer.status, answer.json["detail"]) for answer in acts] == [
        (503, "alerts are off: alerts.enabled = false")
    ] * 2
    assert rules.status == 200


def test_requests_that_wait_for_a_store_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the first two any more, but they will be done once the former state is read."""
    monkeypatch.setattr("collector.alert.api.CHANGE_SECONDS", 0.1)
    monkeypatch.setattr("collector.alert.api.MOST_WAITING", 2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with served(StoreSettings(url=f"http://127.0.0.1:{port}", connect_seconds=1), AlertSettings()) as server:
        answers = [server.post(f"/api/v1/alerts/{NOBODY}/resolve", {"who": "ann"}) for _ in range(3)]

    assert [answer.status for answer in answers] == [503] * 3
    assert "what was asked for may still be done" in answers[1].json["detail"]
    assert answers[2].json["detail"] == "2 requests wait already"


def test_a_login_counts_more_than_the_body() -> None:
    logged_in = Request({"type": "http", SCOPE_USER: "ann"})

    assert _by(logged_in, PersonAction(who="bob")).who == "ann"
    assert _by(logged_in, PersonAction()).who == "ann"
    assert _by(Request({"type": "http"}), PersonAction(who=" bob ")).who == "bob"
