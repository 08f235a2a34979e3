"""Alertmanager: the real one takes, groups and resolves our alerts; a server of ours sees what is sent, and when."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from collector.notify.alertmanager import AlertmanagerReceiver
from collector.notify.receiver import DELIVERED, Outcome
from collector.notify.settings import ReceiverSettings
from tests.notify.alertmanager_server import MISSING, PROGRAM, Alertmanager, alertmanager
from tests.notify.support import LOSS, SECOND_US, Endpoint, endpoint, group, loss, receiver, running


def opened(url: str, public_url: str = "", **values: Any) -> AlertmanagerReceiver:
    settings = ReceiverSettings(kind="alertmanager", url=SecretStr(url), **{"timeout_seconds": 5, **values})
    made = AlertmanagerReceiver("am", settings, public_url)
    made.open()
    return made


def now_us() -> int:
    return int(datetime.now(UTC).timestamp() * 1e6)


@pytest.fixture(scope="module")
def hook() -> Iterator[Endpoint]:
    with endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hook: Endpoint) -> Iterator[Alertmanager]:
    if PROGRAM is None:
        pytest.skip(MISSING)
    directory: Path = tmp_path_factory.mktemp("alertmanager")
    with alertmanager(directory, hook.address) as running_one:
        yield running_one


def test_the_real_one_takes_an_alert_tells_of_it_and_resolves_it(server: Alertmanager, hook: Endpoint) -> None:
    now = now_us()
    fired = loss(1, since_us=now - 60 * SECOND_US, now_us=now, rule="pair_loss_1")
    made = opened(f"http://{server.address}", "https://vmflow.example.net")

    assert made.send(group(fired)) == DELIVERED

    (alert,) = server.wait(lambda alerts: len(alerts) == 1)
    assert alert["labels"] == {
        "alertname": "pair_loss_1", "severity": "critical", "scope": "pair", "fingerprint": "f1",
        "src_vm": "web-1", "dst_vm": "db-1", "src_host": "hv1", "dst_host": "hv2", "network": "blue",
    }  # fmt: skip
    assert alert["annotations"]["summary"] == "[FIRING critical] web-1 → db-1 loss 6.1 % [4.8–7.5 %] (pair_loss_1)"
    assert "21,040 samples" in alert["annotations"]["description"]
    assert alert["annotations"]["runbook_url"] == fired.runbook
    assert alert["annotations"]["sql"] == fired.sql
    assert alert["generatorURL"] == "https://vmflow.example.net"
    assert datetime.fromisoformat(alert["startsAt"]).timestamp() == pytest.approx((now - 60 * SECOND_US) / 1e6, abs=1)
    assert alert["status"]["state"] == "active"
    assert hook.arrived.acquire(timeout=30)

    assert made.send(group(replace(fired, event="resolved", now_us=now_us(), value=0.0))) == DELIVERED

    assert server.wait(lambda alerts: not alerts) == []
    assert hook.arrived.acquire(timeout=30)
    reported = [(request.json["status"], request.json["alerts"][0]["labels"]["src_vm"]) for request in hook.requests]
    assert reported == [("firing", "web-1"), ("resolved", "web-1")]


def test_the_real_one_tells_series_with_the_same_names_apart(server: Alertmanager) -> None:
    now = now_us()
    twins = [replace(LOSS, fingerprint=name, since_us=now, now_us=now, rule="twins") for name in ("a", "b")]
    made = opened(f"http://{server.address}/")
    assert made.send(group(*twins)).ok
    assert len(server.wait(lambda alerts: len(alerts) == 2)) == 2

    assert made.send(group(*[replace(twin, event="resolved", now_us=now_us()) for twin in twins])).ok
    server.wait(lambda alerts: not alerts)


def test_the_real_one_keeps_an_alert_for_as_long_as_it_is_sent_again(server: Alertmanager) -> None:
    """With intervals of 1 s an alert lives for 4 s; it outlives them while the stage runs, and ends after it."""

    async def main() -> None:
        settings = receiver(f"http://{server.address}", kind="alertmanager", resend_seconds=1)
        async with running({"am": settings}) as stage:
            now = now_us()
            stage.delivery.offer(group(loss(7, since_us=now, now_us=now, rule="kept"), to=("am",)))
            await stage.until(1)
            await asyncio.sleep(6)
            (alert,) = await asyncio.to_thread(server.alerts)
            assert alert["labels"]["alertname"] == "kept"
            assert (stage.metrics.value("notification_refreshes_total", receiver="am", result="ok") or 0) >= 2

    asyncio.run(main())
    server.wait(lambda alerts: not alerts)


def test_what_fired_before_a_restart_is_sent_again() -> None:
    async def main() -> None:
        settings = receiver(f"http://{hook.address}", kind="alertmanager")
        async with running({"am": settings}) as stage:
            await stage.delivery.remember([group(loss(1), loss(2), to=("am", "gone"))])
            assert await asyncio.to_thread(hook.arrived.acquire, timeout=30)
        assert stage.reported == []
        assert stage.count("am", "delivered") == 0

    with endpoint() as hook:
        asyncio.run(main())
    (request,) = hook.requests
    assert [alert["labels"]["fingerprint"] for alert in request.json] == ["f1", "f2"]


def test_what_is_sent_again_and_what_not() -> None:
    with endpoint() as hook:
        made = opened(f"http://{hook.address}", resend_seconds=60)
        made.send(group(loss(1), loss(2)))
        made.send(group(loss(1, event="resolved")))
        made.send(group(loss(2, event="acknowledged")))
        before = datetime.now(UTC).timestamp()
        made.refresh()

    first, resolved, refreshed = hook.requests  # that somebody acknowledged is not sent
    assert [alert["labels"]["fingerprint"] for alert in first.json] == ["f1", "f2"]
    assert [alert["labels"]["fingerprint"] for alert in resolved.json] == ["f1"]
    assert resolved.json[0]["endsAt"] == datetime.fromtimestamp(LOSS.now_us / 1e6, UTC).isoformat()
    assert resolved.json[0]["labels"] == first.json[0]["labels"]
    (again,) = refreshed.json
    assert again["labels"]["fingerprint"] == "f2"
    ends = datetime.fromisoformat(again["endsAt"]).timestamp()
    assert before + 240 <= ends < before + 300  # four intervals


def test_many_alerts_go_in_several_requests_and_few_are_kept() -> None:
    with endpoint() as hook:
        made = opened(f"http://{hook.address}", max_firing=10)
        assert made.send(group(*[loss(number) for number in range(1100)])).ok
        made.refresh()

    assert [len(request.json) for request in hook.requests] == [500, 500, 100, 10]
    assert made.not_kept == 1090


def test_what_is_not_kept_is_counted() -> None:
    async def main() -> None:
        settings = receiver(f"http://{hook.address}", kind="alertmanager", max_firing=2)
        async with running({"am": settings}) as stage:
            stage.delivery.offer(group(*[loss(number) for number in range(5)], to=("am",)))
            await stage.until(1)
            assert stage.metrics.value("notification_not_kept_total", receiver="am") == 3

    with endpoint() as hook:
        asyncio.run(main())


def test_labels_are_such_that_alertmanager_takes_them(server: Alertmanager) -> None:
    now = now_us()
    labels = {"src-vm": "a\nb", "1st": "x", "empty": "", "dst_vm": "名" * 200}
    made = opened(f"http://{server.address}")
    odd = replace(LOSS, labels=labels, since_us=now, now_us=now, rule="odd")
    assert made.send(group(odd)).ok

    (alert,) = server.wait(lambda alerts: len(alerts) == 1)
    assert {name: alert["labels"][name] for name in ("src_vm", "_1st")} == {"src_vm": r"a\nb", "_1st": "x"}
    assert "empty" not in alert["labels"]
    assert made.send(group(replace(odd, event="resolved", now_us=now_us()))).ok
    server.wait(lambda alerts: not alerts)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (500, Outcome(False, False, "HTTP 500")),
        (400, Outcome(False, True, "HTTP 400")),
        (302, Outcome(False, True, "HTTP 302")),
    ],
)
def test_what_it_does_not_take(status: int, expected: Outcome) -> None:
    with endpoint(status) as hook:
        assert opened(f"http://{hook.address}").send(group()) == expected


def test_nobody_listens_and_nobody_answers() -> None:
    with endpoint() as hook:
        pass
    assert opened(f"http://{hook.address}").send(group()) == Outcome(False, False, "Connection refused")
    with endpoint(gate_open=False) as silent:
        answer = opened(f"http://{silent.address}", timeout_seconds=0.1).send(group())
    assert answer == Outcome(False, False, "timed out")


def test_user_password_and_path() -> None:
    with endpoint() as hook:
        assert opened(f"http://us%40er:pa55@{hook.address}/am/").send(group()).ok

    (request,) = hook.requests
    assert request.path == "/am/api/v2/alerts"
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"us@er:pa55").decode()
