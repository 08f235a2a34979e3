"""From rows in a real store to the messages that a webhook gets: what fires, on what evidence, and when it ends.

minutes 0 and 1  all is well
from minute 2    each series has something wrong
minute 5 or 6    better, but not behind the level at which the alert ends
minutes 7 to 9   nothing is measured
from minute 10   all is well
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.alert.rules import Rule
from collector.alert.settings import AlertSettings, Route
from collector.store.settings import StoreSettings
from collector.threads import run
from tests.alert.support import SECOND_US, Running, delivered, delivering
from tests.flow_rows import BEGIN_US, add, ask, flow, store, vm
from tests.notify.support import Endpoint, endpoint

MINUTE_US = 60 * SECOND_US
MINUTES = 16
SILENT = range(7, 10)
GAP = (None,) * len(SILENT)
A, B, C, D = (vm(name, f"host-{name}") for name in "abcd")
SYN, ACK = 2, 16

LATENCY_MS = (1, 1, 40, 40, 40, 15, 15, *GAP, 1, 1, 1, 1, 1, 1)
"""From a to b."""
ERRORS = (0, 0, 50, 50, 50, 5, 5, *GAP, 0, 0, 0, 0, 0, 0)
"""Of 10,000 packets of eth1."""
USED = (0.5, 0.5, 0.95, 0.5, 0.95, 0.95, 0.85, *GAP, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
"""Of the bandwidth of eth2: the first minute of 0.95 is too short."""
FAILED = (0, 0, 20, 20, 20, 6, 6, *GAP, 0, 0, 0, 0, 0, 0)
"""Of 40 connections from c to d, those that nobody accepts."""

RULES = (
    Rule(
        name="interface_utilisation", scope="interface", measure="utilisation", above=0.9, clear=0.8,
        for_seconds=120, clear_seconds=120, text="{interface} on {host} is used at {value}",
    ),
    Rule(
        name="connections_fail", scope="pair", measure="error_ratio", above=0.2, clear=0.1, for_seconds=120,
        clear_seconds=60, text="{src_vm} → {dst_vm}: {value} of the connections fail",
    ),
)  # fmt: skip
SPANS = {
    "pair_latency": (3, 12),
    "interface_errors": (3, 14),
    "interface_utilisation": (5, 11),
    "connections_fail": (3, 10),
}
"""Windows whose end tells: `for_seconds` later the alert, `clear_seconds` after minute 9 its end."""


def polls(minute: int) -> list[dict[str, Any]]:
    """What two interfaces of host-a report at the end of the minute."""
    errors, used = ERRORS[minute], USED[minute]
    if errors is None or used is None:
        return []
    common = {
        "time_received": BEGIN_US + (minute + 1) * MINUTE_US, "source": "sflow", "host": "host-a", "if_speed": 10**9,
        "if_direction": 1, "delta_state": "ok", "interval_us": MINUTE_US,
    }  # fmt: skip
    good, octets = 10_000 - errors, round(10**9 / 8 * 60 * used)
    return [
        common
        | {"if_index": 1, "if_name": "eth1", "in_unicast_packets_delta": good, "in_errors_delta": errors}
        | {"in_bytes_delta": 100 * good},
        common
        | {"if_index": 2, "if_name": "eth2", "in_unicast_packets_delta": octets // 1000}
        | {"in_bytes_delta": octets},
    ]  # fmt: skip


def round_trips(minute: int) -> list[dict[str, Any]]:
    """What handshakes from a to b took."""
    milliseconds = LATENCY_MS[minute]
    if milliseconds is None:
        return []
    ends = {k: v for k, v in flow(A, B, "source").items() if k.startswith(("src_vm", "dst_vm", "network"))}
    return [
        ends
        | {"time": BEGIN_US + minute * MINUTE_US, "interval_us": MINUTE_US, "method": "handshake", "trip": "round_trip"}
        | {"latency_us": 1000 * milliseconds, "spread_us": 100, "samples": 9}
    ]


def connections(minute: int) -> list[dict[str, Any]]:
    """40 connections from c to d as both switches saw them, some without an answer; a talks to b all the time."""
    at, failed = minute * 60 + 30, FAILED[minute]
    rows = [flow(A, B, seen, received=at) for seen in ("source", "destination")]
    if failed is None:
        return rows
    forth = {"received": at, "ip_protocol": 6, "dst_port": 80}
    back = {"received": at, "ip_protocol": 6, "src_port": 80, "tcp_flags": SYN | ACK}
    first = flow(C, D, "source")
    back |= {"src_ip": first["dst_ip"], "dst_ip": first["src_ip"]}
    for seen, other in (("source", "destination"), ("destination", "source")):
        for port in range(1000, 1040):
            rows.append(flow(C, D, seen, src_port=port, tcp_flags=SYN, **forth))
            if port >= 1000 + failed:
                rows.append(flow(D, C, other, dst_port=port, **back))
                rows.append(flow(C, D, seen, src_port=port, tcp_flags=ACK, **forth))
    return rows


@dataclass
class Seen:
    """What the webhook got."""

    client: Client
    hook: Endpoint
    after: dict[int, list[str]]
    """Titles that had come when a window was over."""
    silent_events: list[tuple[str, str]]
    """Event and rule of what happened while nothing was measured."""


@pytest.fixture(scope="module")
def seen(store_directory: Path) -> Iterator[Seen]:
    settings = StoreSettings(url=f"chdb://{store_directory}", database="notified")
    with store(settings) as client, endpoint() as hook:
        for minute in range(MINUTES):
            add(client, connections(minute))
            add(client, round_trips(minute), "latency")
            add(client, polls(minute), "interface_counters")
        found = Seen(client, hook, {}, [])

        async def minutes(live: Running) -> None:
            for minute in range(MINUTES):
                await live.close("1m", [minute])
                await delivered(live)
                found.after[minute] = [request.json["title"] for request in hook.requests]
                if minute == SILENT[-1]:
                    events = ask(
                        client, f"SELECT event, rule FROM alert_events WHERE time >= toDateTime64({at(SILENT[0])}, 6)"
                    )
                    found.silent_events = [(row["event"], row["rule"]) for row in events]

        async def scenario() -> None:
            alerts = AlertSettings(rules=RULES, routes=(Route(receivers=("hook",)),), settle_seconds=0)
            async with delivering(settings, alerts, hook.address) as live:
                await minutes(live)

        run(scenario())
        yield found


def at(minute: int) -> float:
    """The end of a minute, seconds since 1970."""
    return BEGIN_US / 1e6 + 60 * (minute + 1)


def test_each_alert_is_reported_when_it_lasted_long_enough_and_when_it_is_over(seen: Seen) -> None:
    expected: dict[str, list[tuple[int, str]]] = {}
    for minute in range(MINUTES):
        for title in seen.after[minute][len(seen.after.get(minute - 1, [])) :]:
            rule = title.rsplit("(", 1)[1].removesuffix(")")
            expected.setdefault(rule, []).append((minute, title.split()[0].removeprefix("[")))

    assert expected == {rule: [(begin, "FIRING"), (end, "RESOLVED")] for rule, (begin, end) in SPANS.items()}


def test_what_is_not_measured_is_not_over_and_says_so(seen: Seen) -> None:
    assert seen.after[SILENT[-1]] == seen.after[SILENT[0] - 1]
    assert sorted(seen.silent_events) == [("stale", rule) for rule in sorted(SPANS)]


@pytest.mark.parametrize(
    ("rule", "expected", "column", "value"),
    [
        ("pair_latency", ["a → b", "latency", "40 ms", "Threshold: 20 ms"], "latency_us", 40_000),
        ("interface_errors", ["eth1", "host-a", "0.5 %", "Threshold: 0.1 %"], "error_ratio", 0.005),
        ("interface_utilisation", ["eth2 on host-a is used at 95 %", "Threshold: 90 %"], "utilisation", 0.95),
        ("connections_fail", ["c → d: 50 % of the connections fail", "Threshold: 20 %"], "error_ratio", 0.5),
    ],
)
def test_the_message_holds_the_evidence_and_a_query_that_shows_it(
    seen: Seen, rule: str, expected: list[str], column: str, value: float
) -> None:
    (message,) = (
        request.json["message"]
        for request in seen.hook.requests
        if f"({rule})" in request.json["title"] and "FIRING" in request.json["title"]
    )

    for text in expected:
        assert text in message
    sql = message[message.index("SELECT") :].splitlines()[0]
    rows = ask(seen.client, sql)
    assert rows[-1][column] == pytest.approx(value)
