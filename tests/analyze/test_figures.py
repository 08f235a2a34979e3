"""Stored figures against the view that they are of, in a real store: late rows, kills, memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver import Client

from collector.analyze import figures
from collector.analyze.figures import DueWindow, Figures, read_due, store_window
from collector.analyze.settings import AnalyzeSettings
from collector.interfaces import WindowClosed
from collector.metrics import Metrics
from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from schemas import peers
from schemas.figures import TAKEN
from tests.decoders.support import address
from tests.flow_rows import BEGIN_US, add, ask, emptied, flow, store, vm

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
START = BEGIN_US // SECOND_US
HOSTS = [f"host-{number}" for number in range(4)]
VMS = [vm(f"vm-{number}", HOSTS[number % 4], tag=number % 2) for number in range(12)]
COLUMNS = ", ".join(("time", *(column.name for column in TAKEN)))
EVERYTHING = f"SELECT {COLUMNS} FROM {{}} WHERE time = toDateTime({START}, 'UTC') ORDER BY pair, src_vm"


@pytest.fixture(scope="module")
def settings(store_directory: Path) -> Iterator[StoreSettings]:
    settings = StoreSettings(url=f"chdb://{store_directory}", database="figures")
    with store(settings):
        yield settings


@pytest.fixture
def client(settings: StoreSettings) -> Iterator[Client]:
    with open_in_database(settings) as client:
        yield emptied(client)


def filled(client: Client) -> None:
    """A minute with pairs of every kind of evidence, two protocols, latency and projects."""
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(VMS):
        other, third = VMS[(number + 1) % 12], VMS[(number + 5) % 12]
        sampled: dict[str, Any] = {"sampling_rate": 64, "packets": 64, "bytes": 6400}
        # Exact, measured (or too few), seen at one end only, and by two protocols.
        rows += [flow(one, other, "source", received=25)] * 30 + [flow(one, other, "destination", received=25)] * 29
        count = 10 if number % 3 else 80
        rows += [flow(one, third, "source", received=35, **sampled)] * count
        rows += [flow(one, third, "destination", received=35, **sampled)] * (count - 2)
        rows += [flow(one, VMS[(number + 2) % 12], "source", received=40)] * 5
        syn = {"protocol": "ipfix", "ip_protocol": 6, "tcp_flags": 2, "exporter": address("192.0.2.9")}
        rows += [flow(one, other, "source", received=25, **syn)] * 3
    add(client, rows)
    reading = {
        "time": BEGIN_US + 20 * SECOND_US, "interval_us": 10 * SECOND_US, "method": "handshake", "trip": "round_trip",
        "latency_us": 700, "spread_us": 1000, "samples": 4, **named(VMS[0], VMS[1]),
    }  # fmt: skip
    add(client, [reading], "latency")
    add(
        client,
        [
            inventory(VMS[0], "before", -7200, -3600, 0),
            inventory(VMS[0], "red", -3600, 30, 0),
            inventory(VMS[1], "blue", -3600, 0, 1),
        ],
        "inventory",
    )


def named(source: dict[str, Any], destination: dict[str, Any]) -> dict[str, Any]:
    row = flow(source, destination, "source")
    return {name: row[name] for name in row if name.startswith(("src_vm", "dst_vm", "src_host", "dst_host", "network"))}


def inventory(one: dict[str, Any], project: str, begin: int, end: int, still: int) -> dict[str, Any]:
    uuid = flow(one, one, "source")["src_vm_uuid"]
    times = {"valid_from": BEGIN_US + begin * SECOND_US, "valid_to": BEGIN_US + end * SECOND_US, "open": still}
    return {"vm": one["vm"], "vm_uuid": uuid, "project": project, "mac": 1, "source": "static", **times}


def due_now(client: Client, begin: int = START - 600, end: int = START + 60) -> list[DueWindow]:
    return read_due(client, "1m", {"begin": begin, "end": end})


@pytest.mark.parametrize("parts", [1, 3])
def test_figures_are_those_of_the_view_row_for_row(client: Client, parts: int) -> None:
    filled(client)
    (window,) = due_now(client)
    assert (window.start, window.times, window.readings) == (START, 0, 4)

    store_window(client, "1m", window, 7, parts)

    view, stored = (ask(client, EVERYTHING.format(name)) for name in ("pair_metrics_1m", "pair_figures_1m"))
    assert len(stored) == 36
    assert stored == view
    evidence = {row["loss_evidence"] for row in stored}
    assert {"exact", "measured", "insufficient", "blind"} <= evidence, evidence
    assert sum(row["latency_us"] == 700 for row in stored) == 1
    assert due_now(client) == []
    sums = ask(client, "SELECT pairs, records FROM figure_windows_1m")
    assert sums == [{"pairs": 36, "records": ask(client, "SELECT count() AS n FROM flows")[0]["n"]}]
    projects = ask(
        client, "SELECT DISTINCT src_vm, src_project FROM pair_figures_1m WHERE src_project != '' ORDER BY src_vm"
    )
    assert projects == [{"src_vm": "vm-0", "src_project": "red"}, {"src_vm": "vm-1", "src_project": "blue"}]


def test_figures_of_vms_and_hypervisors_are_those_of_their_pairs(client: Client) -> None:
    filled(client)
    (window,) = due_now(client)
    store_window(client, "1m", window, 7, 1)

    (vm,) = ask(client, "SELECT * FROM vm_figures_1m WHERE vm = 'vm-0' AND direction = 'sent'")
    # To vm-1 30 packets of which 29 arrive, to vm-5 80 samples of 64 packets 1 in 64 of which 78 arrive, to vm-2 who
    # knows: it is seen at one end only.
    lost = 1 - (29 + 78 * 64 * 64) / (30 + 80 * 64 * 64)
    assert (vm["pairs"], vm["measured_pairs"], vm["blind_pairs"], vm["lossy_pairs"]) == (3, 2, 1, 1)
    assert (vm["host"], vm["project"], vm["sampling_rate"]) == ("host-0", "red", 64)
    assert vm["loss_ratio"] == pytest.approx(lost)
    assert 0 == vm["loss_low"] < lost < vm["loss_high"] < 0.07
    assert vm["packets_per_second"] == pytest.approx((30 + 5 + 3 + 80 * 64 * 64) / 60, rel=1e-4)
    assert vm["bits_per_second_low"] < vm["bits_per_second"] < vm["bits_per_second_high"]
    assert (vm["latency_us"], vm["latency_low"], vm["latency_high"], vm["timed_pairs"]) == (700, 0, 1700, 1)
    assert len(ask(client, "SELECT * FROM vm_figures_1m")) == 24
    (pairs,), (vms,), (hosts,), (cloud,) = (
        ask(client, f"SELECT sum(bits_per_second) AS bits FROM {name}_figures_1m {where}")
        for name, where in (("pair", ""), ("vm", "WHERE direction = 'received'"), ("host", ""), ("cloud", ""))
    )
    assert vms["bits"] == pytest.approx(pairs["bits"])
    assert hosts["bits"] == pytest.approx(cloud["bits"]) == pytest.approx(pairs["bits"])
    (blind,) = ask(client, "SELECT * FROM host_figures_1m WHERE src_host = 'host-0' AND dst_host = 'host-2'")
    assert (blind["pairs"], blind["blind_pairs"], blind["loss_ratio"], blind["loss_low"]) == (3, 3, None, None)
    assert blind["latency_us"] is None


def test_only_like_is_counted_with_like(client: Client) -> None:
    """Trips one way and round trips; hypervisors that are known."""
    one, two, three, lost = VMS[0], VMS[1], VMS[2], vm("nowhere", "")
    add(client, [flow(one, other, "source", received=20) for other in (two, three, vm("v", "host-1"), lost)])
    reading = {"time": BEGIN_US + 20 * SECOND_US, "interval_us": 10 * SECOND_US, "spread_us": 1000, "samples": 4}
    slow, quick = reading | {"latency_us": 50_000}, reading | {"latency_us": 10}
    one_way, round_trip = ({"method": "handshake", "trip": trip} for trip in ("one_way", "round_trip"))
    readings = [
        slow | one_way | named(one, two),
        quick | one_way | named(one, three),
        slow | round_trip | named(one, vm("v", "host-1")),
    ]
    add(client, readings, "latency")
    (window,) = due_now(client)
    store_window(client, "1m", window, 7, 1)

    (sent,) = ask(client, "SELECT * FROM vm_figures_1m WHERE vm = 'vm-0' AND direction = 'sent'")
    assert (sent["latency_trip"], sent["timed_pairs"], sent["slow_pairs"]) == ("one_way", 2, 1)
    hosts = ask(client, "SELECT toString(dst_host) AS host, blind_pairs FROM host_figures_1m ORDER BY host")
    assert hosts == [{"host": host, "blind_pairs": blind} for host, blind in (("", 0), ("host-1", 2), ("host-2", 1))]
    assert ask(client, "SELECT pairs, blind_pairs FROM cloud_figures_1m") == [{"pairs": 4, "blind_pairs": 3}]


def test_the_light_view_says_what_the_whole_one_says(client: Client) -> None:
    filled(client)
    gap = {"begins": BEGIN_US + 10 * SECOND_US, "ends": BEGIN_US + 14 * SECOND_US, "reason": "silent"}
    add(client, [gap | {"reporter": address("192.0.2.1"), "protocol": "sflow5"}], "gaps")
    for level in ("", "_1m", "_1h"):
        light = ask(client, f"SELECT * FROM pair_traffic{level} ORDER BY time, pair")
        whole = ask(client, f"SELECT * FROM pair_metrics{level} ORDER BY time, pair")
        assert len(light) >= 36
        assert {row["watched_seconds"] for row in light} != {0}
        assert light == [{name: row[name] for name in light[0]} for row in whole]
        left = set(whole[0]) - set(light[0])
        assert {name.split("_")[0] for name in left} == {"loss", "latency", "jitter", "failed", "error"}


def test_the_view_names_every_column_that_the_figures_have(client: Client) -> None:
    view = {row["name"]: row["type"] for row in ask(client, "DESCRIBE pair_metrics_1m")}
    found = {row["name"]: row["type"] for row in ask(client, "DESCRIBE pair_figures_1m")}

    assert set(view) <= set(found)
    assert set(found) - set(view) == {"src_project", "dst_project", "version"}
    plain = [
        {name: kind.removeprefix("LowCardinality(").rstrip(")") for name, kind in of.items()} for of in (view, found)
    ]
    assert {name: plain[1][name] for name in view} == plain[0]


def test_late_rows_make_a_new_version_and_readers_see_one(client: Client) -> None:
    filled(client)
    (window,) = due_now(client)
    store_window(client, "1m", window, 7, 1)
    add(client, [flow(VMS[0], VMS[1], "source", received=26)])

    (again,) = due_now(client)
    assert (again.times, again.newest, again.records) == (1, 7, window.records + 1)
    before = ask(client, EVERYTHING.format("pair_figures_1m"))
    with pytest.raises(KilledError):
        store_window(killed_before_it_counts(client), "1m", again, 8, 1)  # type: ignore[arg-type]
    assert ask(client, "SELECT uniqExact(version) AS n FROM pair_figure_rows_1m") == [{"n": 2}]
    assert ask(client, EVERYTHING.format("pair_figures_1m")) == before

    store_window(client, "1m", again, 9, 1)
    assert ask(client, "SELECT DISTINCT version FROM pair_figures_1m") == [{"version": 9}]
    after = ask(client, EVERYTHING.format("pair_figures_1m"))
    assert after == ask(client, EVERYTHING.format("pair_metrics_1m"))
    assert sum(row["sent_packets"] for row in after) == sum(row["sent_packets"] for row in before) + 1


def test_a_window_that_was_killed_before_it_counts_is_evaluated_again(client: Client) -> None:
    filled(client)
    (window,) = due_now(client)
    with pytest.raises(KilledError):
        store_window(killed_before_it_counts(client), "1m", window, 7, 1)  # type: ignore[arg-type]

    assert ask(client, "SELECT count() AS n FROM pair_figure_rows_1m") == [{"n": 36}]
    assert ask(client, "SELECT count() AS n FROM pair_figures_1m") == [{"n": 0}]
    assert due_now(client) == [window]
    store_window(client, "1m", window, 8, 1)
    assert ask(client, EVERYTHING.format("pair_figures_1m")) == ask(client, EVERYTHING.format("pair_metrics_1m"))


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_before_it_counts(client: Client) -> object:
    """The same client, but the process ends before a version counts."""

    class Dying:
        def command(self, sql: str, **given: Any) -> None:
            if sql.startswith("INSERT INTO figure_windows"):
                raise KilledError
            client.command(sql, **given)

    return Dying()


def test_latency_and_gaps_that_come_later_make_a_window_due(client: Client) -> None:
    filled(client)
    add(client, [flow(VMS[0], VMS[1], "source", received=-30)])
    for window in due_now(client):
        store_window(client, "1m", window, 7, 1)
    assert due_now(client) == []

    add(client, [{"time": BEGIN_US + 50 * SECOND_US, "samples": 2, **named(VMS[0], VMS[1])}], "latency")
    assert [(one.start, one.readings) for one in due_now(client)] == [(START, 6)]
    gap = {"begins": BEGIN_US - 40 * SECOND_US, "ends": BEGIN_US + SECOND_US, "reason": "silent"}
    add(client, [gap | {"reporter": address("192.0.2.1"), "protocol": "sflow5"}], "gaps")
    assert [(one.start, one.gaps) for one in due_now(client)] == [(START, 1), (START - 60, 1)]


def test_a_window_is_evaluated_in_more_parts_where_memory_does_not_suffice(
    client: Client, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(client)
    (window,) = due_now(client)
    asked: list[int] = []

    def store_or_refuse(client: Client, level: str, window: DueWindow, version: int, parts: int) -> None:
        asked.append(parts)
        monkeypatch.setattr(figures, "BOUNDS", real if parts == 2 else replace(real, octets=2**20))
        store_window(client, level, window, version, parts)

    real = figures.BOUNDS
    monkeypatch.setattr(figures, "store_window", store_or_refuse)
    stage = made(lambda: open_in_database(settings))

    async def run() -> None:
        await stage._store("1m", window)
        await stage._reader.close()

    asyncio.run(run())

    assert asked == [1, 2]
    assert stage._parts["1m"] == 2
    assert ask(client, "SELECT pairs FROM figure_windows_1m") == [{"pairs": 36}]
    assert len(ask(client, EVERYTHING.format("pair_figures_1m"))) == 36


def test_smaller_parts_do_not_help_where_the_sum_over_all_takes_too_much(
    client: Client, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(client)
    (window,) = due_now(client)
    monkeypatch.setattr(figures, "add_up", lambda what, level: "SELECT throwIf(1, 'too much', 241::Int16)")
    stage = made(lambda: open_in_database(settings, {"allow_custom_error_code_in_throwif": 1}))

    async def run() -> None:
        with pytest.raises(Exception, match="too much"):
            await stage._store("1m", window)
        await stage._reader.close()

    asyncio.run(run())

    assert stage._parts["1m"] == 1
    assert ask(client, "SELECT count() AS n FROM figure_windows_1m") == [{"n": 0}]


def test_rows_expire(client: Client) -> None:
    """A day is a partition: what is older than three goes."""
    for days, pair in ((1, 1), (5, 2)):
        client.command(
            f"INSERT INTO pair_figure_rows_1m (time, pair, version) SELECT now() - INTERVAL {days} DAY, {pair}, 1"
        )
    client.command("OPTIMIZE TABLE pair_figure_rows_1m FINAL")
    assert ask(client, "SELECT pair FROM pair_figure_rows_1m") == [{"pair": 1}]


def made(connect: Callable[[], Client], metrics: Metrics | None = None, **given: Any) -> Figures:
    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    given = {"clock_us": lambda: BEGIN_US + 5 * MINUTE_US, "settle_seconds": 10} | given
    return Figures(AnalyzeSettings(), metrics or Metrics(), call, connect, **given)


def closed(level: str, end_us: int, length_us: int) -> WindowClosed:
    return WindowClosed(level, end_us - length_us, end_us, False, 1)


async def quiet(stage: Figures) -> None:
    """Let the stage do what it has to do: its calls do not wait for anything."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_closed_windows_are_stored_once_settled_and_again_after_late_rows(
    client: Client, settings: StoreSettings
) -> None:
    filled(client)
    counted = "SELECT version, count() AS n FROM pair_figures_1m GROUP BY version"
    now_us = [BEGIN_US + MINUTE_US + 20 * SECOND_US]
    metrics = Metrics()

    async def run() -> None:
        away = [False]

        def connect() -> Client:
            if away[0]:
                raise ConnectionError("the store is away")
            return open_in_database(settings)

        stage = made(connect, metrics, clock_us=lambda: now_us[0])
        async with stage:
            await stage.window_closed(closed("1m", BEGIN_US + MINUTE_US, MINUTE_US))
            await quiet(stage)
            assert ask(client, counted) == [], "not settled"

            away[0] = True
            stage._reader._free[0].close()
            await stage.window_closed(closed("10s", BEGIN_US + MINUTE_US + 10 * SECOND_US, 10 * SECOND_US))
            await quiet(stage)
            assert ask(client, counted) == [], "the store is away"
            assert metrics.value("figure_windows_total", level="1m", result="failed") == 1

            away[0] = False
            await stage.window_closed(closed("10s", BEGIN_US + 2 * MINUTE_US + 10 * SECOND_US, 10 * SECOND_US))
            await quiet(stage)
            assert ask(client, counted) == [{"version": now_us[0], "n": 36}]

            now_us[0] += 50 * MINUTE_US
            late = BEGIN_US + 50 * MINUTE_US
            await stage.window_closed(closed("1m", late, MINUTE_US))
            await stage.window_closed(closed("10s", late + 10 * SECOND_US, 10 * SECOND_US))
            await quiet(stage)
            add(client, [flow(VMS[0], VMS[1], "source", received=26)])
            stage.late(BEGIN_US + 26 * SECOND_US)
            await stage.window_closed(closed("10s", late + 80 * SECOND_US, 10 * SECOND_US))
            await quiet(stage)
            assert ask(client, counted) == [{"version": now_us[0], "n": 36}]

    asyncio.run(run())
    assert metrics.value("figure_windows_total", level="1m", result="new") == 1
    assert metrics.value("figure_windows_total", level="1m", result="changed") == 1
    assert ask(client, EVERYTHING.format("pair_figures_1m")) == ask(client, EVERYTHING.format("pair_metrics_1m"))


def test_what_changes_all_the_time_is_evaluated_ever_more_rarely(client: Client, settings: StoreSettings) -> None:
    filled(client)
    now_us = [BEGIN_US + MINUTE_US + 20 * SECOND_US]
    stage = made(lambda: open_in_database(settings), clock_us=lambda: now_us[0])

    async def run() -> None:
        await stage.window_closed(closed("1m", BEGIN_US + MINUTE_US, MINUTE_US))
        for minute in range(1, 8):
            add(client, [flow(VMS[0], VMS[1], "source", received=26)])
            stage.late(BEGIN_US + 26 * SECOND_US)
            now_us[0] = BEGIN_US + minute * MINUTE_US + 20 * SECOND_US
            await stage._turn("1m", BEGIN_US + minute * MINUTE_US)
        await stage._reader.close()

    asyncio.run(run())
    made_at = ask(client, "SELECT version FROM figure_windows_1m ORDER BY version")
    minutes = [(row["version"] - BEGIN_US) // MINUTE_US for row in made_at]
    assert minutes == [1, 2, 4, 7]


def test_what_fails_again_and_again_is_tried_ever_more_rarely() -> None:
    """Rows of a version that never counts stay until their TTL, so there must not be many such versions."""
    asked: list[int] = []

    def away() -> Client:
        asked.append(stage._newest_us)
        raise OSError("the store is away")

    stage = made(away, clock_us=lambda: BEGIN_US, settle_seconds=0)

    async def run() -> None:
        async with stage:
            for minute in range(1, 41):
                await stage.window_closed(closed("10s", BEGIN_US + minute * MINUTE_US, 10 * SECOND_US))
                for _ in range(20):
                    await asyncio.sleep(0)

    asyncio.run(run())
    minutes = sorted({(at - BEGIN_US) // MINUTE_US for at in asked})
    assert minutes == [1, 2, 4, 8, 16, 32]


def test_peers_are_new_until_a_window_with_them_has_closed(client: Client) -> None:
    """VM 0 sends 90 % to one of 3 peers; then to one more, in the next minute."""
    one, begin = VMS[0], START
    sent = [(1, 9000), (2, 500), (3, 500)]
    rows = [flow(one, VMS[number], "source", received=5, bytes=octets) for number, octets in sent]
    add(client, [*rows, flow(VMS[1], one, "source", received=5)])
    asked = "SELECT * FROM vm_peers_1m WHERE vm = 'vm-0' ORDER BY time"
    (first,) = ask(client, asked)
    shares = (0.9, 0.05, 0.05)
    entropy = -sum(share * math.log(share) for share in shares) / math.log(3)
    assert (first["peers"], first["new_peers"], first["host"]) == (3, 3, "host-0")
    assert first["peer_entropy"] == pytest.approx(entropy, abs=1e-6)
    for window in due_now(client):
        store_window(client, "1m", window, 7, 1)
    add(client, [flow(one, VMS[number], "source", received=65, bytes=100) for number in (1, 4)])

    first, second = ask(client, asked)
    assert (first["new_peers"], second["peers"], second["new_peers"]) == (3, 2, 1)
    assert second["peer_entropy"] == pytest.approx(1)
    for window in due_now(client, end=START + 120):
        store_window(client, "1m", window, 8, 1)
    known = ask(client, "SELECT link, toUnixTimestamp(min(first)) AS first FROM known_peers GROUP BY link")
    assert sorted(row["first"] - begin for row in known) == [59, 59, 59, 59, 119]
    for row in ask(client, "SELECT sent_share FROM vm_metrics_1m WHERE vm = 'vm-1' AND sent_bytes > 0"):
        assert 0 < row["sent_share"] < 0.1


def test_a_new_name_makes_no_peer_new(client: Client) -> None:
    """Both ends are renamed in the middle of a minute; a VM without a UUID is known by its name."""
    one, other, bare = VMS[0], VMS[1], VMS[2] | {"uuid": str(UUID(int=0))}
    add(client, [flow(one, peer, "source", received=5) for peer in (other, bare)])
    for window in due_now(client):
        store_window(client, "1m", window, 7, 1)
    new, renamed = one | {"vm": "new"}, other | {"vm": "renamed"}
    late = [flow(new, peer, "source", received=65) for peer in (other, renamed, bare, bare | {"vm": "another"})]
    add(client, late)

    (row,) = ask(client, "SELECT peers, new_peers FROM vm_peers_1m WHERE vm = 'new'")
    assert (row["peers"], row["new_peers"]) == (3, 1)


def test_links_that_are_known_stay_known_when_there_is_no_room(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 links 2 are known, in 4 rows.  With room for 2 these stay known, with room for 3 the third one is noted."""
    add(client, [flow(VMS[0], VMS[number], "source", received=5) for number in (1, 2)])
    (window,) = due_now(client)
    store_window(client, "1m", window, 7, 1)
    links = [row["link"] for row in ask(client, "SELECT link FROM known_peers")]
    client.command("TRUNCATE TABLE known_peers")
    client.command("SYSTEM STOP MERGES known_peers")
    for before in (7200, 10_800):
        rows = ", ".join(f"({link}, {START - before}, {START - before})" for link in links)
        client.command(f"INSERT INTO known_peers (link, first, last) VALUES {rows}")
    add(client, [flow(VMS[0], VMS[3], "source", received=7)])
    (hour,) = read_due(client, "1h", {"begin": START - 7200, "end": START + 7200})
    asked = f"SELECT uniqExact(link) AS known, uniqExactIf(link, last = {hour.start}) AS fresh FROM known_peers"

    for room, found in ((2, {"known": 2, "fresh": 2}), (3, {"known": 3, "fresh": 3})):
        monkeypatch.setattr(peers, "MOST", room)
        store_window(client, "1h", hour, 7 + room, 1)
        assert ask(client, asked) == [found]
    client.command("SYSTEM START MERGES known_peers")


def test_peers_say_where_an_exporter_began_again(client: Client) -> None:
    """As `vm_metrics` do: of the hypervisor of the VM that sends."""
    add(client, [flow(VMS[number], VMS[2], "source", received=second) for number in (0, 1) for second in (5, 65)])
    gap = {
        "time": BEGIN_US + 63 * SECOND_US, "begins": BEGIN_US + 61 * SECOND_US, "ends": BEGIN_US + 63 * SECOND_US,
        "reporter": address("192.0.2.1"), "protocol": "sflow5", "reason": "restarted",
    }  # fmt: skip
    add(client, [gap], "gaps")

    asked = "SELECT vm, toUnixTimestamp(time) - {} AS second, restarted FROM {} WHERE {} ORDER BY vm, second"
    found = ask(client, asked.format(START, "vm_peers_1m", 1))
    assert found == ask(client, asked.format(START, "vm_metrics_1m", "sent_packets > 0"))
    assert {(row["second"], row["restarted"]) for row in found} == {(0, 0), (60, 1)}


def test_an_hour_that_notes_a_link_hides_in_no_minute_that_it_is_new(client: Client) -> None:
    """Where minutes were evaluated late, the hour is first; it begins before all of them."""
    add(client, [flow(VMS[0], VMS[number], "source", received=5) for number in (1, 2)])
    (hour,) = read_due(client, "1h", {"begin": START - 7200, "end": START + 7200})
    assert hour.start <= START
    store_window(client, "1h", hour, 7, 1)

    (row,) = ask(client, "SELECT peers, new_peers FROM vm_peers_1m WHERE vm = 'vm-0'")
    assert (row["peers"], row["new_peers"]) == (2, 2)
