"""The API over a real store: what it lists, what people do, and what it refuses."""

from __future__ import annotations

import re
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from collector.alert.store import AlertStore
from schemas.text import clean
from tests.flow_rows import BEGIN_US
from tests.hostile.nasty import NASTY, harmless
from tests.web.support import Served

NOBODY = "0" * 32
BEGIN = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=BEGIN_US)


def alerts(server: Served, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get(f"/api/v1/alerts?{query}").json["alerts"]
    return found


def of(server: Served, source: str) -> dict[str, Any]:
    (found,) = [alert for alert in alerts(server) if alert["labels"]["src_vm"] == source]
    return found


def test_alerts_are_listed_with_their_figures(server: Served) -> None:
    answer = server.get("/api/v1/alerts?severity=critical&rule=pair_loss&vm=vm3")

    assert answer.status == 200
    assert answer.json["next_cursor"] is None
    (alert,) = answer.json["alerts"]
    assert (alert["labels"]["src_vm"], alert["labels"]["dst_vm"]) == ("vm3", "vm4")
    assert (alert["rule"], alert["severity"], alert["scope"]) == ("pair_loss", "critical", "pair")
    assert (alert["value"], alert["unit"], alert["threshold"]) == (pytest.approx(0.2), "ratio", 0.01)
    assert datetime.fromisoformat(alert["since"]) == BEGIN
    assert alert["resolved"] is None
    assert alert["summary"].startswith("vm3 → vm4 loses 20 % [")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"vm3", "vm4"}),
        ("state=firing&state=acknowledged", {"vm3", "vm4"}),
        ("state=resolved", set()),
        ("severity=info", set()),
        ("rule=pair_latency", set()),
        ("vm=vm5", {"vm4"}),
        ("vm=vm4", {"vm3", "vm4"}),
        ("vm=v?4", {"vm3", "vm4"}),
        ("vm=*5", {"vm4"}),
        ("vm=%25", set()),  # no wildcard here
        ("vm=vm_", set()),
    ],
)
def test_filters(server: Served, query: str, expected: set[str]) -> None:
    assert {alert["labels"]["src_vm"] for alert in alerts(server, query)} == expected


def test_pages_hold_each_alert_once(server: Served) -> None:
    first = server.get("/api/v1/alerts?limit=1").json
    second = server.get(f"/api/v1/alerts?limit=1&cursor={first['next_cursor']}").json

    assert second["next_cursor"] is None
    found = [alert["alert_id"] for alert in first["alerts"] + second["alerts"]]
    assert found == [alert["alert_id"] for alert in alerts(server)]
    assert len(set(found)) == 2


def test_somebody_takes_an_alert_on_and_ends_it(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    alert_id = of(server, "vm4")["alert_id"]
    path = f"/api/v1/alerts/{alert_id}"

    server.live.now_us += 1_000_000
    taken = server.post(f"{path}/acknowledge", {"who": "ann", "comment": "a cable"})
    again = server.post(f"{path}/acknowledge", {"who": "bob"})
    server.live.now_us += 1_000_000
    ended = server.post(f"{path}/resolve", {"who": "bob", "comment": "replaced"})
    too_late = server.post(f"{path}/resolve", {"who": "bob"})

    assert (taken.status, taken.json["state"], taken.json["acknowledged_by"]) == (200, "acknowledged", "ann")
    assert (again.status, again.json["detail"]) == (409, "it is acknowledged, not firing")
    assert (ended.status, ended.json["state"], ended.json["resolved_by"]) == (200, "resolved", "bob")
    assert (too_late.status, too_late.json["detail"]) == (409, "it is resolved already")
    server.live.now_us += 1_000_000
    said = {"who": "eve", "comment": "a test", "verdict": "false"}
    with monkeypatch.context() as broken:
        broken.setattr(AlertStore, "find", lambda *given: given[1].query("SELECT throwIf(1)"))
        away = server.post(f"{path}/resolve", said)
    assert (away.status, "the store does not answer" in away.json["detail"]) == (503, True)
    judged = server.post(f"{path}/resolve", said)
    assert (judged.status, judged.json["verdict"], judged.json["resolved_by"]) == (200, "false", "bob")
    shown = server.get(path).json
    assert shown["alert"] == judged.json
    assert [(one["event"], one["who"], one["comment"]) for one in shown["history"]] == [
        ("firing", "", ""), ("notified", "", ""), ("acknowledged", "ann", "a cable"), ("resolved", "bob", "replaced"),
        ("judged", "eve", "a test"),
    ]  # fmt: skip
    assert [one["event"] for one in server.get(f"{path}?limit=2&offset=1").json["history"]] == [
        "notified",
        "acknowledged",
    ]
    assert [one.event for one in server.live.taken.notifications if one.alert_id == alert_id] == [
        "firing", "acknowledged", "resolved",
    ]  # fmt: skip
    # The pair still loses: the next windows begin a new alert of the same series.
    server.close("10s", range(4, 10))
    (new,) = alerts(server, "vm=vm5&state=firing")
    assert new["alert_id"] != alert_id
    assert new["fingerprint"] == ended.json["fingerprint"]


def test_silences(server: Served) -> None:
    body = {"matchers": {"src_vm": "web-*", "rule": "pair_loss"}, "seconds": 3600, "who": "ann", "comment": "moving"}
    made = server.post("/api/v1/silences", body)

    assert made.status == 201
    silence_id = made.json["silence_id"]
    (listed,) = server.get("/api/v1/silences").json["silences"]
    assert (listed["silence_id"], listed["matchers"], listed["who"], listed["comment"]) == (
        silence_id, {"src_vm": "web-*", "rule": "pair_loss"}, "ann", "moving",
    )  # fmt: skip
    assert datetime.fromisoformat(listed["until"]) > datetime.now(UTC) + timedelta(seconds=3500)
    path = f"/api/v1/silences/{silence_id}/end"
    assert server.post(path, {"who": "bob"}).status == 204
    assert server.post(path, {"who": "bob"}).status == 404
    assert server.get("/api/v1/silences").json["silences"] == []
    assert [one["silence_id"] for one in server.get("/api/v1/silences?ended=true").json["silences"]] == [silence_id]


@pytest.mark.parametrize("text", [text for text in NASTY if len(text) <= 100])
def test_what_people_write_is_cleaned(server: Served, text: str) -> None:
    body = {"matchers": {"src_vm": text}, "seconds": 3600, "who": text, "comment": text}

    made = server.post("/api/v1/silences", body)

    assert made.status == 201
    silence = next(one for one in server.get("/api/v1/silences").json["silences"] if one["comment"] == clean(text))
    assert (silence["who"], silence["matchers"]) == (clean(text), {"src_vm": clean(text)})
    assert harmless(silence["comment"])
    assert server.post(f"/api/v1/silences/{silence['silence_id']}/end", {"who": "ann"}).status == 204


def test_rules_and_their_state(server: Served) -> None:
    rules = {rule["name"]: rule for rule in server.get("/api/v1/rules").json["rules"]}

    loss = rules["pair_loss"]
    assert (loss["series"], loss["pending"], loss["firing"]) == (10, 0, 2)
    assert (loss["measure"], loss["unit"], loss["above"], loss["below"]) == ("loss_ratio", "ratio", 0.01, None)
    assert (datetime.fromisoformat(loss["window_end"]) - BEGIN).total_seconds() % 10 == 0
    assert datetime.fromisoformat(loss["window_end"]) >= BEGIN + timedelta(seconds=40)
    assert loss["evaluated"] is not None
    assert (loss["failed"], loss["error"]) == (None, "")
    assert rules["pair_latency"]["evaluated"] is None  # no window of 1 min was closed
    assert list(rules) == sorted(rules)


def test_what_is_unusual(server: Served) -> None:
    now_us = time.time_ns() // 1000
    facts = {"level": "1m", "rule": "r", "scope": "pair", "measure": "bits_per_second", "unit": "bit/s", "beyond": 1}
    figures = {"value": 5.0, "low": None, "high": None, "expected": 2.0, "expected_low": 1.0, "expected_high": 3.0}
    of_series = {"series": 2**64 - 1, "labels": {"src_vm": "a", "dst_vm": "b"}, "evidence": "higher than usual"}
    for back, score in ((60, 1.0), (30, 2.0), (90_000, 3.0)):
        row = facts | figures | of_series | {"time": now_us - back * 1_000_000, "score": score}
        server.live.alerts._store.keep_scores([row])
    server.close("10s", range(10, 11))

    def scores(query: str) -> list[float]:
        return [one["score"] for one in server.get(f"/api/v1/anomalies?{query}").json["anomalies"]]

    assert scores("") == [2.0, 1.0]
    assert scores("hours=48") == [2.0, 1.0, 3.0]
    assert scores("least=1.5&vm=b&rule=r") == [2.0]
    assert scores(f"series={2**64 - 1}") == [2.0, 1.0]
    assert scores("series=5") == scores("rule=x") == scores("vm=c") == []
    (one, _) = server.get("/api/v1/anomalies").json["anomalies"]
    assert (one["series"], one["labels"]["src_vm"], one["beyond"]) == (str(2**64 - 1), "a", True)
    assert server.get("/api/v1/anomalies?series=-1").status == 422
    assert server.get(f"/api/v1/anomalies/expected?rule=vm_rate_unusual&series={2**64}").status == 422
    assert server.get("/api/v1/anomalies/expected?rule=vm_rate_unusual&series=5").status == 404
    assert server.get("/api/v1/anomalies/expected?rule=pair_loss&series=5").status == 404
    assert server.get("/api/v1/anomalies/expected?rule=pair_loss").status == 422


@pytest.mark.parametrize(
    ("path", "body", "status", "reported"),
    [
        (f"alerts/{NOBODY}/acknowledge", {"who": "ann"}, 404, "there is no such alert"),
        (f"alerts/{NOBODY}/resolve", {"who": "  "}, 422, "who: a name is expected"),
        ("alerts/abc/resolve", {"who": "ann"}, 422, "path.alert_id = 'abc': String should match"),
        (f"alerts/{NOBODY}/resolve", {"who": "ann", "why": 1}, 422, "body.why = '1': Extra inputs"),
        ("silences", {"matchers": {}, "seconds": 5, "who": "a"}, 422, "body.matchers"),
        ("silences", {"matchers": {"rule": "*"}, "who": "a"}, 422, "exactly one of until and seconds"),
        ("silences", {"matchers": {"colour": "red"}, "seconds": 5, "who": "a"}, 422, "expected at least one of"),
        ("silences", {"matchers": {"rule": "x"}, "until": "2020-01-01T00:00:00Z", "who": "a"}, 422, "366 days"),
        ("silences", {"matchers": {"rule": "x"}, "until": "2027-01-01T00:00:00", "who": "a"}, 422, "timezone"),
        ("silences", {"matchers": {"rule": "x"}, "seconds": 1e18, "who": "a"}, 422, "366 days"),
        (f"silences/{NOBODY}/end", {"who": "ann"}, 404, "no such silence"),
    ],
)
def test_mistakes_are_reported(server: Served, path: str, body: object, status: int, reported: str) -> None:
    answer = server.post(f"/api/v1/{path}", body)

    assert (answer.status, answer.json["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert reported in answer.body.decode()


@pytest.mark.parametrize(
    ("query", "reported"),
    [
        ("limit=1001", "query.limit = '1001': Input should be less than or equal to 1000"),
        ("state=pending", "query.state.0 = 'pending': Input should be 'firing', 'acknowledged' or 'resolved'"),
        ("cursor=x", "query.cursor = 'x': String should match pattern '^([0-9]{1,18}-[0-9a-f]{32})?$'"),
        (
            "cursor=1-" + "a" * 32 + "%0A",
            "query.cursor = '1-" + "a" * 32 + """\\n': String should match pattern """
            "'^([0-9]{1,18}-[0-9a-f]{32})?$'",
        ),
    ],
)
def test_queries_that_are_wrong(server: Served, query: str, reported: str) -> None:
    answer = server.get(f"/api/v1/alerts?{query}")

    assert answer.status == 422
    assert reported in (answer.json["detail"], *answer.json["errors"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Content-Type": "application/json; charset=utf-8"}, 404),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost:1"}, 404),
        ({"Host": "[::1]:8080"}, 404),
        ({"Host": "[::1"}, 400),
    ],
)
def test_pages_of_others_change_nothing(server: Served, headers: dict[str, str], status: int) -> None:
    answer = server.post(f"/api/v1/alerts/{NOBODY}/resolve", {"who": "ann"}, **headers)

    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_ours_may(server: Served) -> None:
    assert server.post(f"/api/v1/alerts/{NOBODY}/resolve", {"who": "ann"}, Origin=server.url).status == 404


def test_reading_needs_our_name_too_but_metrics_do_not(server: Served) -> None:
    assert server.get("/api/v1/alerts", Host="evil.example").status == 421
    assert server.get("/metrics", Host="prometheus-target.example").status == 200
    # A page whose own name points here: browsers send no Sec-Fetch-Site to such a name over plain HTTP.
    assert server.get("/metrics", Host="evil.example", **{"Accept-Language": "en"}).status == 421
    assert server.ask("OPTIONS", "/api/v1/alerts", None, {"Origin": "http://evil.example"}).status == 403
    assert server.ask("OPTIONS", "/api/v1/alerts", None, {}).status == 405


def test_metrics_are_compressed_for_those_who_take_it(server: Served) -> None:
    plain = server.get("/metrics", **{"Accept-Encoding": "identity"})
    packed = server.get("/metrics", **{"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert int(packed.headers["Content-Length"]) * 4 < int(plain.headers["Content-Length"])
    assert b"# TYPE vmflow_alerts_firing gauge" in packed.body


def test_bodies_are_bounded(server: Served) -> None:
    json = {"Content-Type": "application/json"}
    assert server.ask("POST", "/api/v1/silences", b"x" * 65_537, json).status == 413
    zeros = {"Content-Length": "000000000065537"}
    assert server.ask("POST", "/api/v1/silences", b" " * 65_537, json | zeros).status == 413
    chunked = b"POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for length in (b"", b"Content-Length: 5\r\n"):
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 30) as connection:
            connection.sendall(chunked + length + b"Transfer-Encoding: chunked\r\n\r\n")
            assert connection.recv(1000).split()[1] in (
                b"411",
                b"400",
            )  # 400: the server knows that two lengths are one too many


def test_it_is_documented(server: Served) -> None:
    api = server.get("/api/openapi.json").json

    assert set(api["paths"]) == {
        "/api/v1/alerts", "/api/v1/alerts/{alert_id}", "/api/v1/alerts/{alert_id}/acknowledge",
        "/api/v1/alerts/{alert_id}/resolve", "/api/v1/silences", "/api/v1/silences/{silence_id}/end", "/api/v1/rules",
        "/api/v1/rules/try",
        "/api/v1/exporters/retire", "/api/v1/ask/{question}", "/api/v1/events", "/api/v1/session",
        "/api/v1/session/end", "/api/v1/sql", "/api/v1/anomalies", "/api/v1/anomalies/expected",
        "/api/v1/agent/results",
    }  # fmt: skip
    for path, methods in api["paths"].items():
        for method, about in methods.items():
            assert about["summary"], (path, method)
            assert about["description"].endswith("."), (path, method)
            errors = {status: set(answer["content"]) for status, answer in about["responses"].items() if status >= "4"}
            assert {"400", "401", "403", "421", "422", "429", "500", "503"} <= set(errors)
            assert ("413" in errors) == (method == "post")
            assert all(kinds == {"application/problem+json"} for kinds in errors.values())
    assert server.get("/docs").status == 404
    assert re.search(r"^vmflow_alerts_firing\{", server.get("/metrics").body.decode(), re.MULTILINE)
