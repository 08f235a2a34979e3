"""Known faults in a real store: each notifies once, names both VMs, and ends; nothing else does."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.alert.conditions import learn
from collector.alert.rules import Rule
from collector.alert.settings import AlertSettings, Route
from collector.store.settings import StoreSettings
from collector.threads import run
from tests.alert.support import SECOND_US, Taken, running, traffic
from tests.decoders.support import address
from tests.flow_rows import BEGIN_US, HOUR_US, add, ask, emptied, store, vm

ROUTES = (Route(receivers=("mail",)),)
VMS = [vm(f"vm{number}", f"host-{number % 3}") for number in range(11)]
PAIRS = [(VMS[number], VMS[number + 1]) for number in range(10)]


@pytest.fixture(scope="module")
def settings(store_directory: Path) -> StoreSettings:
    return StoreSettings(url=f"chdb://{store_directory}", database="alerting")


@pytest.fixture(scope="module")
def made(settings: StoreSettings) -> Iterator[Client]:
    with store(settings) as client:
        yield client


@pytest.fixture
def client(made: Client) -> Client:
    return emptied(made)


def lossy(client: Client, fault: range, windows: int = 30, lost: int = 50) -> None:
    """Ten pairs that talk for so many windows; the fourth loses 5 % in the windows of `fault`."""
    rows = []
    for number, (source, target) in enumerate(PAIRS):
        for window in range(windows):
            gone = lost if number == 3 and window in fault else 0
            rows += traffic(source, target, range(window * 10, window * 10 + 10), gone)
    add(client, rows)


def report(at_us: int, exporter: str, datagrams: int) -> dict[str, Any]:
    """A row of `exporters`: what an IPFIX stream sent in the 10 s before."""
    return {
        "time": at_us, "interval_us": 10 * SECOND_US, "exporter": address(exporter), "protocol": "ipfix",
        "source_port": 7, "datagrams": datagrams, "records": datagrams,
    }  # fmt: skip


def test_a_lossy_pair_is_reported_once_with_its_evidence_and_once_when_it_ends(
    client: Client, settings: StoreSettings
) -> None:
    """5 %, in windows 6 to 11.  One window proves nothing: a second of its traffic could have come a window later.

    Three windows lose 3 · 4 % more than the limit, and so more than the 10 % that this would explain.  Afterwards, with
    σ = 0.0045, four windows use the evidence up, and six that are clear end the alert: window 20.
    """
    lossy(client, range(6, 12))
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def scenario() -> tuple[Taken, list[tuple[str, str, str]]]:
        async with running(settings, alerts) as live:
            await live.close("10s", range(8))
            assert live.taken.notified() == []
            await live.close("10s", [8])
            early = live.taken.notified()
            await live.close("10s", range(9, 20))
            assert live.taken.notified() == early
            await live.close("10s", range(20, 30))
            assert live.count("alerts_firing", rule="pair_loss") == 0
            return live.taken, early

    taken, early = run(scenario())

    pair = "vm3→vm4"
    assert early == [("firing", "pair_loss", pair)]
    assert taken.notified() == [("firing", "pair_loss", pair), ("resolved", "pair_loss", pair)]
    notification = taken.notifications[0]
    assert (notification.labels["src_host"], notification.labels["dst_host"]) == ("host-0", "host-1")
    assert notification.value == pytest.approx(0.05)
    assert notification.low is not None
    assert notification.high is not None
    assert 0.01 < notification.low <= 0.05 <= notification.high < 0.1
    assert notification.evidence == "exact"
    assert notification.samples == 10_000
    assert notification.since_us == BEGIN_US + 60 * SECOND_US
    assert notification.window_start_us == BEGIN_US + 80 * SECOND_US
    assert notification.summary.startswith("vm3 → vm4 loses 5 % [")
    assert ask(client, notification.sql)[-1]["loss_ratio"] == pytest.approx(0.05)
    assert taken.groups[0].receivers == ("mail",)
    assert taken.notifications[1].window_end_us == BEGIN_US + 210 * SECOND_US
    (row,) = ask(client, "SELECT * FROM alerts FINAL")
    assert (row["status"], row["resolved_by"], row["alert_id"]) == ("resolved", "clear", notification.alert_id)
    events = [row["event"] for row in ask(client, "SELECT event FROM alert_events ORDER BY time, event")]
    assert events == ["firing", "notified", "resolved"]


def test_a_restart_in_between_tells_nothing_twice_and_forgets_nothing(client: Client, settings: StoreSettings) -> None:
    lossy(client, range(6, 12))
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def first() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("10s", range(9))
            live.alerts.delivered(live.taken.groups[0], "mail", True)
            return live.taken

    async def second() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("10s", range(9, 30))
            return live.taken

    before, after = run(first()), run(second())

    assert [n.event for n in before.notifications] == ["firing"]
    assert [n.event for n in after.notifications] == ["resolved"]
    assert after.notifications[0].alert_id == before.notifications[0].alert_id


def test_what_was_not_delivered_is_offered_again_until_it_is(client: Client, settings: StoreSettings) -> None:
    lossy(client, range(6, 7), windows=7, lost=200)
    alerts = AlertSettings(routes=(Route(receivers=("mail", "sms")),), settle_seconds=0)

    async def first() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("10s", range(7))
            live.alerts.delivered(live.taken.groups[0], "sms", True)
            return live.taken

    async def again(receiver: str | None) -> Taken:
        async with running(settings, alerts) as live:
            live.now_us = BEGIN_US + 90 * SECOND_US
            await live.idle()
            if receiver is not None:
                live.alerts.delivered(live.taken.groups[0], receiver, True)
            return live.taken

    notified, waiting, rest = run(first()), run(again("mail")), run(again(None))

    assert notified.groups[0].receivers == ("mail", "sms")
    assert [(group.key, group.receivers) for group in waiting.groups] == [(notified.groups[0].key, ("mail",))]
    assert waiting.notifications == notified.notifications
    assert rest.groups == []


def test_missing_data_neither_ends_an_alert_nor_stays_unsaid(client: Client, settings: StoreSettings) -> None:
    """The destination's exporter says nothing in windows 9 to 18: blind.  Then all is well again, for ten windows."""
    source, target = PAIRS[0]
    add(client, traffic(source, target, range(0, 60)))
    add(client, traffic(source, target, range(60, 90), 50))
    add(client, [row for row in traffic(source, target, range(90, 190)) if row["sighting"] == "source"])
    add(client, traffic(source, target, range(190, 300)))
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def scenario() -> tuple[Taken, float | None]:
        async with running(settings, alerts) as live:
            await live.close("10s", range(19))
            assert [n.event for n in live.taken.notifications] == ["firing"]
            lasting = live.count("alerts_firing", rule="pair_loss")
            await live.close("10s", range(19, 30))
            return live.taken, lasting

    taken, lasting = run(scenario())

    assert lasting == 1
    assert [n.event for n in taken.notifications] == ["firing", "resolved"]
    assert taken.notifications[1].window_end_us == BEGIN_US + 280 * SECOND_US
    events = [row["event"] for row in ask(client, "SELECT event FROM alert_events ORDER BY time, event")]
    assert events == ["firing", "notified", "stale", "measured", "resolved"]


def test_an_exporter_that_stops_is_reported_and_its_return(client: Client, settings: StoreSettings) -> None:
    """192.0.2.1 is heard in minutes 0 to 2 and 7 on, 192.0.2.2 always."""
    rows = []
    for minute in range(12):
        for second in range(10, 61, 10):
            at = BEGIN_US + (minute * 60 + second) * SECOND_US
            stopped = 0 if 3 <= minute < 7 else 5
            rows += [report(at, "192.0.2.2", 1), report(at, "192.0.2.1", stopped)]
    add(client, rows, "exporters")
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def scenario() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("1m", range(5))
            assert live.taken.notifications == []
            await live.close("1m", [5])
            assert [n.event for n in live.taken.notifications] == ["firing"]
            await live.close("1m", range(6, 12))
            return live.taken

    taken = run(scenario())

    assert taken.notified() == [
        ("firing", "exporter_absent", "192.0.2.1"),
        ("resolved", "exporter_absent", "192.0.2.1"),
    ]
    notification = taken.notifications[0]
    assert (notification.value, notification.unit, notification.threshold, notification.low) == (180, "s", 180, None)
    assert notification.labels["protocol"] == "ipfix"


def test_a_silent_exporter_stays_known_over_a_restart(client: Client, settings: StoreSettings) -> None:
    seconds = (*range(10, 181, 10), *range(610, 661, 10))
    add(client, [report(BEGIN_US + second * SECOND_US, "192.0.2.1", 1) for second in seconds], "exporters")
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def part(minutes: range) -> Taken:
        async with running(settings, alerts) as live:
            await live.close("1m", minutes)
            return live.taken

    assert [n.event for n in run(part(range(6))).notifications] == ["firing"]
    assert [n.event for n in run(part(range(6, 9))).notifications if n.event != "firing"] == []
    assert [n.event for n in run(part(range(9, 13))).notifications if n.event != "firing"] == ["resolved"]


@pytest.mark.parametrize(("total", "expected"), [(96, ["firing"]), (80, [])])
def test_a_busy_interface(client: Client, settings: StoreSettings, total: int, expected: list[str]) -> None:
    """A port of 1 Gbit/s that is used at so many hundredths for one minute."""
    octets = 10**9 // 8 * 60 * total // 100
    poll = {
        "time_received": BEGIN_US + 60 * SECOND_US, "source": "sflow", "host": "host-1", "if_index": 3,
        "if_name": "eth3", "if_speed": 10**9, "if_direction": 1, "delta_state": "ok",
        "interval_us": 60 * SECOND_US, "in_bytes_delta": octets, "in_unicast_packets_delta": octets // 1000,
    }  # fmt: skip
    add(client, [poll], "interface_counters")

    async def scenario() -> Taken:
        async with running(settings, AlertSettings(routes=ROUTES, settle_seconds=0)) as live:
            await live.close("1m", range(1))
            return live.taken

    taken = run(scenario())

    assert [n.event for n in taken.notifications] == expected
    for notification in taken.notifications:
        assert notification.rule == "interface_utilisation"
        assert notification.labels["interface"] == "eth3"
        assert notification.value == pytest.approx(0.96)


def test_our_own_loss_keeps_the_loss_of_pairs_back(client: Client, settings: StoreSettings) -> None:
    """The queue's alert ends after six clear windows, 8 to 13; 80 s later the pair's own loss notifies."""
    lossy(client, range(6, 30))
    rows = []
    for window in range(30):
        at = BEGIN_US + (window + 1) * 10 * SECOND_US
        rows.append({"time": at, "interval_us": 10 * SECOND_US, "queue_drops": 9 if 5 <= window < 8 else 0})
    add(client, rows, "exporters")

    async def scenario() -> Taken:
        async with running(settings, AlertSettings(routes=ROUTES, settle_seconds=0)) as live:
            await live.close("10s", range(30))
            return live.taken

    taken = run(scenario())

    assert [(n.event, n.rule, (n.window_start_us - BEGIN_US) // SECOND_US) for n in taken.notifications] == [
        ("firing", "service_queue_drops", 50),
        ("resolved", "service_queue_drops", 130),
        ("firing", "pair_loss", 210),
    ]
    inhibited = ask(client, "SELECT rule, who FROM alert_events WHERE event = 'inhibited'")
    assert inhibited == [{"rule": "pair_loss", "who": "service_queue_drops"}]


def test_the_same_loss_seen_in_longer_windows_is_notified_once(client: Client, settings: StoreSettings) -> None:
    """Lost in the first two minutes: the alert of 1 min begins when that of 10 s lasts, and ends after it."""
    lossy(client, range(0, 12), windows=48)

    async def scenario() -> Taken:
        async with running(settings, AlertSettings(routes=ROUTES, settle_seconds=0)) as live:
            for minute in range(8):
                await live.close("10s", range(minute * 6, minute * 6 + 6))
                await live.close("1m", [minute])
            return live.taken

    taken = run(scenario())

    assert [(n.event, n.rule) for n in taken.notifications] == [("firing", "pair_loss"), ("resolved", "pair_loss")]
    ended = ask(client, "SELECT rule, status FROM alerts FINAL ORDER BY rule")
    assert ended == [{"rule": rule, "status": "resolved"} for rule in ("pair_loss", "pair_loss_lasting")]


def test_windows_wait_until_they_are_settled_and_partial_ones_are_passed_over(
    client: Client, settings: StoreSettings
) -> None:
    lossy(client, range(0, 4), windows=4, lost=200)

    async def scenario() -> None:
        async with running(settings, AlertSettings(routes=ROUTES)) as live:
            await live.close("10s", [0], partial=True)
            await live.close("10s", [1])
            assert live.taken.notifications == []
            assert live.count("alert_evaluations_total", rule="pair_loss") == 0
            await live.close("10s", [2])
            assert [n.window_start_us for n in live.taken.notifications] == [BEGIN_US + 10 * SECOND_US]
            assert live.count("alert_windows_passed_over_total", reason="partial") == 1

    run(scenario())


def test_silence_acknowledge_and_resolve(client: Client, settings: StoreSettings) -> None:
    lossy(client, range(6, 30))
    route = Route(receivers=("mail",), escalate_to=("chief", "boss"), escalate_seconds=30)

    async def scenario() -> Taken:
        async with running(settings, AlertSettings(routes=(route,), settle_seconds=0)) as live:
            live.now_us = BEGIN_US
            with pytest.raises(ValueError, match="expected at least one of"):
                await live.alerts.silence({"colour": "red"}, BEGIN_US + 1, "me")
            await live.alerts.silence({"src_vm": "vm3", "rule": "pair_*"}, BEGIN_US + 100 * SECOND_US, "me")
            await live.close("10s", range(9))
            assert live.taken.notifications == []
            await live.close("10s", range(9, 14))  # the silence is over at 100 s: notified at 105 s, escalated at 135 s
            assert [(n.event, g.receivers) for g in live.taken.groups for n in g.notifications] == [
                ("firing", ("mail",)),
                ("escalated", ("chief",)),
            ]
            (row,) = ask(client, "SELECT alert_id FROM alerts FINAL")
            assert await live.alerts.acknowledge(row["alert_id"], "ann")
            assert not await live.alerts.acknowledge(row["alert_id"], "bob")
            await live.close("10s", range(14, 20))
            assert [n.event for n in live.taken.notifications[2:]] == ["acknowledged"]
            assert await live.alerts.resolve(row["alert_id"], "ann")
            assert not await live.alerts.resolve(row["alert_id"], "ann")
            assert await live.alerts.resolve(row["alert_id"], "eve", "batch job", "false")
            assert not await live.alerts.resolve("0" * 32, "eve", "", "false")
            return live.taken

    taken = run(scenario())

    assert taken.notifications[-1].event == "resolved"
    assert taken.groups[-1].receivers == ("mail", "chief")
    (row,) = ask(client, "SELECT * FROM alerts FINAL")
    assert (row["acknowledged_by"], row["resolved_by"], row["escalations"]) == ("ann", "ann", 1)
    assert row["verdict"] == "false"
    (said,) = ask(client, "SELECT who, comment FROM alert_events WHERE event = 'judged'")
    assert said == {"who": "eve", "comment": "batch job"}


def test_forty_vms_of_a_hypervisor_make_one_message(client: Client, settings: StoreSettings) -> None:
    """All that `sick` sends is lossy, and so is one pair elsewhere."""
    targets = [vm(f"t{number}", f"host-{number}") for number in range(40)]
    rows = traffic(vm("x", "host-1"), vm("y", "host-2"), range(10), 200)
    for number, target in enumerate(targets):
        rows += traffic(vm(f"s{number}", "sick"), target, range(10), 200)
    add(client, rows)

    async def scenario() -> Taken:
        async with running(settings, AlertSettings(routes=ROUTES, settle_seconds=0)) as live:
            await live.close("10s", range(1))
            return live.taken

    taken = run(scenario())

    assert sorted(len(group.notifications) for group in taken.groups) == [1, 40]
    assert len({group.key for group in taken.groups}) == 2


def test_a_filter_by_vm_and_project(client: Client, settings: StoreSettings) -> None:
    for number in range(4):
        add(client, traffic(vm(f"web{number}"), vm(f"db{number}"), range(10), 100))
    row = {"mac": 1, "valid_from": 0, "valid_to": BEGIN_US + 24 * HOUR_US, "source": "static", "project": "shop"}
    add(client, [row | {"vm": "web2", "vm_uuid": b"web2............"}], "inventory")
    common = {"scope": "pair", "measure": "loss_ratio", "level": "10s", "above": 0.01}
    rules = (
        Rule(name="of_web1", only={"vm": ["web1"], "host": ["host-?"]}, **common),  # type: ignore[arg-type]
        Rule(name="of_shop", only={"project": ["sh*"]}, **common),  # type: ignore[arg-type]
        Rule(name="elsewhere", only={"vm": ["*"], "host": ["rack*"]}, **common),  # type: ignore[arg-type]
    )

    async def scenario() -> Taken:
        alerts = AlertSettings(rules=rules, default_rules=False, routes=ROUTES, settle_seconds=0)
        async with running(settings, alerts) as live:
            await live.close("10s", range(1))
            return live.taken

    assert sorted(run(scenario()).notified()) == [("firing", "of_shop", "web2→db2"), ("firing", "of_web1", "web1→db1")]


def test_actions_get_what_people_are_notified_of(client: Client, settings: StoreSettings) -> None:
    """No route names anybody, and vm4 is silenced; what a silence keeps back notifies nobody, its end neither."""
    for number in (3, 4):
        add(client, traffic(*PAIRS[number], range(10), 200))
        add(client, traffic(*PAIRS[number], range(10, 200)))
    heard: list[tuple[str, str]] = []

    async def scenario() -> Taken:
        alerts = AlertSettings(settle_seconds=0)
        async with running(
            settings, alerts, on_notification=lambda n: heard.append((n.event, n.labels["src_vm"]))
        ) as live:
            live.now_us = BEGIN_US
            await live.alerts.silence({"src_vm": "vm4"}, BEGIN_US + 3600 * SECOND_US, "me")
            await live.close("10s", range(20))
            return live.taken

    assert run(scenario()).groups == []
    assert heard == [("firing", "vm3"), ("resolved", "vm3")]


def test_a_store_that_hangs_does_not_keep_the_service_from_stopping(
    settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.alert.stage.FINISH_SECONDS", 0.1)
    gate = threading.Event()

    def connect(_: StoreSettings) -> Client:
        gate.wait(20)
        returned.append(True)
        raise OSError("gone")

    monkeypatch.setattr("tests.alert.support.connect", connect)

    async def scenario() -> None:
        async with running(settings, AlertSettings(), left=lambda: (still_hung.append(not returned), gate.set())):
            await asyncio.sleep(0.05)

    still_hung: list[bool] = []
    returned: list[bool] = []
    run(scenario())
    assert still_hung == [True]


def test_our_own_state_is_looked_at_without_the_store_s_windows(client: Client, settings: StoreSettings) -> None:
    """40 s without the store, a spool that is filled to 60 %; then all is well for 20 s."""
    values = {"store_away_seconds": 20.0, "spool_ratio": 0.0}
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def scenario() -> Taken:
        async with running(settings, alerts, own=lambda: values) as live:
            for away, ratio in (
                (20.0, 0.0),
                (31.0, 0.6),
                (41.0, 0.6),
                (0.0, 0.45),
                (0.0, 0.45),
                (0.0, 0.1),
                (0.0, 0.1),
            ):
                values.update(store_away_seconds=away, spool_ratio=ratio)
                live.now_us += 10 * SECOND_US
                await live.alerts.look_at_own()
            return live.taken

    taken = run(scenario())

    assert [(one.event, one.rule) for one in taken.notifications] == [
        ("firing", "service_store_away"),
        ("firing", "service_spool_fills"),
        ("resolved", "service_store_away"),
        ("resolved", "service_spool_fills"),
    ]
    assert (taken.notifications[0].value, taken.notifications[0].unit) == (31, "s")
    assert taken.notifications[1].summary == "The spool is 60 % full: once it is full, the oldest rows are lost"


def test_a_renamed_vm_keeps_its_alert(client: Client, settings: StoreSettings) -> None:
    """vm3 is called new from window 9 on, in the middle of a loss: its alert goes on, and nothing is sent twice."""
    source, target = PAIRS[3]
    rows = []
    for window in range(14):
        name = source if window < 9 else source | {"vm": "new"}
        rows += traffic(name, target, range(window * 10, window * 10 + 10), 50 if window >= 2 else 0)
    add(client, rows)
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def scenario() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("10s", range(14))
            return live.taken

    taken = run(scenario())

    assert taken.notified() == [("firing", "pair_loss", "vm3→vm4")]
    events = ask(client, "SELECT event, comment FROM alert_events WHERE event = 'measured'")
    assert [row["comment"] for row in events] == ["vm3 is called new now"]
    (row,) = ask(client, "SELECT labels FROM alerts FINAL")
    assert row["labels"]["src_vm"] == "new"


def test_a_pair_that_cannot_be_reported_any_more_is_forgotten_and_people_hear_why(
    client: Client, settings: StoreSettings
) -> None:
    """The loss lasts to the end of window 7; then the pair is silent, and the source is gone from the inventory."""
    lossy(client, range(2, 8), windows=8)
    gone = {"valid_from": BEGIN_US, "valid_to": BEGIN_US + 80 * SECOND_US, "mac": 7, "vm": "vm3", "host": "host-0"}
    add(client, [gone | {"open": 0}], "inventory")
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def scenario() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("10s", range(97))
            assert len(live.taken.notifications) == 1
            await live.close("10s", range(97, 99))
            return live.taken

    taken = run(scenario())

    notification = taken.notifications[1]
    assert (notification.event, notification.ended_by) == ("resolved", "forgotten")
    assert re.fullmatch(
        r"vm3 is not in the inventory any more, since .* UTC; nothing is seen of it since .* UTC", notification.why
    )
    (row,) = ask(client, "SELECT comment FROM alert_events WHERE event = 'resolved'")
    assert row["comment"] == notification.why


def test_a_retired_exporter_is_not_missed_even_after_a_restart(client: Client, settings: StoreSettings) -> None:
    """Both stop after minute 3.  The first is retired in minute 4, before it is missed, the second when it is."""
    rows = [
        report(BEGIN_US + second * SECOND_US, f"192.0.2.{host}", 1) for second in range(10, 241, 10) for host in (1, 2)
    ]
    add(
        client, [*rows, *(report(BEGIN_US + at * SECOND_US, "192.0.2.9", 1) for at in range(10, 1200, 10))], "exporters"
    )
    alerts = AlertSettings(routes=ROUTES, settle_seconds=0)

    async def first() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("1m", range(5))
            assert [one["exporter"] for one in await live.alerts.retire({"exporter": "192.0.2.1"}, "ann")] == [
                "192.0.2.1"
            ]
            assert await live.alerts.retire({"exporter": "192.0.2.1"}, "ann") == []
            await live.close("1m", range(5, 8))
            retired = await live.alerts.retire({"exporter": "192.0.2.2", "protocol": "ipfix"}, "ann", "old host")
            assert [one["exporter"] for one in retired] == ["192.0.2.2"]
            return live.taken

    async def second() -> Taken:
        async with running(settings, alerts) as live:
            await live.close("1m", range(8, 16))
            return live.taken

    taken, later = run(first()), run(second())

    assert taken.notified() == [
        ("firing", "exporter_absent", "192.0.2.2"),
        ("resolved", "exporter_absent", "192.0.2.2"),
    ]
    assert (taken.notifications[1].ended_by, taken.notifications[1].why) == ("ann", "old host")
    # What was not delivered is offered again; nothing else is sent.
    assert [notification.alert_id for notification in later.notifications] == [
        notification.alert_id for notification in taken.notifications
    ]
    states = ask(client, "SELECT labels['exporter'] AS exporter, status FROM alerts FINAL ORDER BY exporter")
    assert [(row["exporter"], row["status"]) for row in states] == [(f"192.0.2.{n}", "resolved") for n in (1, 2)]


def test_what_a_rule_learned_is_kept_and_learned_again_where_the_file_is_not_whole(
    client: Client, settings: StoreSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twelve windows: eight judged, the others after a restart with a file that is cut."""
    learn.warm_up()  # not while the stage waits
    lossy(client, range(0), 12)
    rule = Rule(name="rate", scope="pair", condition="anomaly", measure="bits_per_second", level="10s")
    alerts = AlertSettings(rules=(rule,), default_rules=False, settle_seconds=0, query_seconds=60)
    learned: list[tuple[int, float]] = []
    counted: list[float | None] = []

    async def live(windows: range) -> tuple[float | None, float | None]:
        async with running(settings, alerts, learned=tmp_path) as found:
            await found.close("10s", windows)
            memory = found.alerts._evaluator._judges[0]._memory  # type: ignore[attr-defined]
            learned.append((memory.series, float(memory.rows[: memory.series, learn.SEEN].min())))
            counted.append(found.count("anomaly_state_failures_total", rule="rate", what="set_back"))
            return tuple(  # type: ignore[return-value]
                found.count("anomaly_state_failures_total", rule="rate", what=what) for what in ("unfit", "unwritten")
            )

    assert asyncio.run(live(range(8))) == (0, 0)
    file = tmp_path / "rate.state"
    assert asyncio.run(live(range(8, 10))) == (0, 0)
    file.write_bytes(file.read_bytes()[:-1])
    assert asyncio.run(live(range(10, 12))) == (1, 0)
    # The clock is set back by some minutes, over a restart.
    assert asyncio.run(live(range(-60, -58))) == (0, 0)
    assert learned == [(10, 8), (10, 10), (10, 12), (10, 12)]
    assert len([one for one in caplog.messages if one == "the clock was set back: what was learned is kept"]) == 1
    assert counted == [0, 0, 0, 1]
