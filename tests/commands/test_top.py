"""`vmflow top`: what it shows is what the views say, of the newest closed window; in a terminal of its own, too."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver import Client

from collector.__main__ import main
from collector.commands import top as top_command
from collector.commands.top import COLUMNS, SORTS, age, cells, fields_of, short
from collector.store.client import open_client, open_in_database
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from tests.commands.terminal import Start, fits
from tests.flow_rows import BEGIN_US, add, ask, flow, store, vm
from tests.hostile.nasty import NASTY, harmless
from tests.service import ROOT

START = (int(time.time()) - 240) // 60 * 60
"""Begin of the window: of 10 s and of a minute, closed and not an hour old."""
HOUR_BEFORE = (BEGIN_US // 1_000_000) - 3600
A, B, C, D = vm("a", "host-1"), vm("b", "host-2"), vm("c", "host-3"), vm("d", "host-2", tag=2)
BAD = vm(NASTY[0], "host-9")
SECONDS = 300


def rows() -> list[dict[str, Any]]:
    """a → b loses 7 %; a → c is seen where it starts alone; b → a is estimated from few samples; d talks to a name."""
    now = START - BEGIN_US / 1e6
    made = [flow(A, B, "source", received=now + 5, bytes=125_000)] * 100
    made += [flow(A, B, "destination", received=now + 5.1, bytes=125_000)] * 93
    made += [flow(A, C, "source", received=now + 4, src_port=port) for port in range(20)]
    made += [flow(B, A, seen, received=now + 3, sampling_rate=100) for seen in ("source", "destination")] * 2
    made += [flow(D, BAD, "both", received=now + 2)] * 3
    made += [flow(A, vm("", "host-4"), "source", received=now + 2)] * 300  # to nobody that is known
    # Not in the newest window, or not closed yet.
    made += [flow(C, D, "both", received=now - 15)] * 300
    made += [flow(C, D, "both", received=now + 1800)] * 300
    made += [flow(C, B, "both", received=HOUR_BEFORE - BEGIN_US / 1e6 + 5)] * 7
    return made


def latency() -> dict[str, Any]:
    names = {"src_vm": "a", "dst_vm": "c", "src_host": "host-1", "dst_host": "host-3", "network": "tenant-1"}
    uuids = {"src_vm_uuid": UUID(A["uuid"]).bytes, "dst_vm_uuid": UUID(C["uuid"]).bytes}
    figures = {"method": "one_way", "trip": "one_way", "latency_us": 1234, "spread_us": 5, "samples": 9}
    return {"time": START * 1_000_000, "interval_us": 10_000_000, **names, **uuids, **figures}


def alert(rule: str, severity: str, scope: str, status: str = "firing", **labels: str) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(START, UTC), "alert_id": rule, "rule": rule, "severity": severity,
        "scope": scope, "status": status, "labels": labels,
    }  # fmt: skip


ALERTS = [
    alert("pair_slow", "warning", "pair", src_vm="a", dst_vm="b", network="tenant-1"),
    alert("pair_loss", "critical", "pair", "acknowledged", src_vm="a", dst_vm="b", network="tenant-1"),
    alert("pair_gone", "critical", "pair", "resolved", src_vm="a", dst_vm="b", network="tenant-1"),
    alert("pair_back", "critical", "pair", src_vm="b", dst_vm="a", network="other"),
    alert("vm_busy", "info", "vm", vm="c"),
    alert("host_busy", "info", "host", host="host-9"),
    alert("silent", "critical", "exporter", exporter="192.0.2.1"),
]
SHOP = {
    "mac": 1, "valid_from": (START - 100) * 1_000_000, "valid_to": (START + 100) * 1_000_000, "source": "static",
    "project": "shop", "vm": "c", "vm_uuid": UUID(C["uuid"]).bytes,
}  # fmt: skip
FORMER = SHOP | {"mac": 2, "vm": "b", "vm_uuid": UUID(B["uuid"]).bytes, "valid_to": (START - 50) * 1_000_000}


def fill(client: Client) -> None:
    add(client, rows())
    add(client, [latency()], "latency")
    client.insert("alerts", [list(one.values()) for one in ALERTS], column_names=list(ALERTS[0]))
    add(client, [SHOP, FORMER], "inventory")


@pytest.fixture(scope="module")
def settings(store_directory: Path) -> Iterator[StoreSettings]:
    settings = StoreSettings(url=f"chdb://{store_directory}", database="top")
    with store(settings) as client:
        fill(client)
        yield settings


@pytest.fixture(scope="module")
def view(settings: StoreSettings) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Asks the store itself."""
    client = open_in_database(settings)
    yield lambda sql: ask(client, sql)
    client.close()


class Top:
    """Runs the command once, in this process, which has the store open."""

    def __init__(self, settings: StoreSettings, capture: pytest.CaptureFixture[str]) -> None:
        self._store = [f"store.url={settings.url}", f"store.database={settings.database}", "sql.enabled=false"]
        self._capture = capture

    def __call__(self, *arguments: str) -> str:
        """What it prints."""
        assert self.ends(*arguments) == (0, self.out, self.err), self.err
        return self.out

    def ends(self, *arguments: str) -> tuple[int, str, str]:
        code = main(["top", *arguments, *(word for one in self._store for word in ("--set", one))])
        self.out, self.err = self._capture.readouterr()
        return code, self.out, self.err

    def pairs(self, *arguments: str) -> list[tuple[str, str]]:
        return [(row["src_vm"], row["dst_vm"]) for row in self.items(*arguments)]

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("--format", "json", *arguments).splitlines()]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of tests are slow."""
    monkeypatch.setattr(top_command, "BOUNDS", replace(top_command.BOUNDS, seconds=600))


@pytest.fixture
def top(settings: StoreSettings, capsys: pytest.CaptureFixture[str]) -> Top:
    return Top(settings, capsys)


def of_window(sort: str, name: str = "pair_metrics", start: int = START) -> str:
    return (
        f"SELECT {', '.join(COLUMNS)} FROM {name} WHERE time = toDateTime({start}, 'UTC') AND src_vm != '' "
        f"AND dst_vm != '' ORDER BY {sort} DESC NULLS LAST, src_vm, dst_vm"
    )


@pytest.mark.parametrize("sort", SORTS)
def test_each_figure_is_that_of_the_view(top: Top, view: Callable[[str], list[dict[str, Any]]], sort: str) -> None:
    found = view(of_window(SORTS[sort]))
    assert len(found) == 4

    shown = top.items("--sort", sort)

    assert [{name: row[name] for name in COLUMNS[1:]} for row in shown] == [
        {name: row[name] for name in COLUMNS[1:]} for row in found
    ]
    assert {row["time"][:19] for row in shown} == {f"{datetime.fromtimestamp(START, UTC):%Y-%m-%d %H:%M:%S}"}


def test_the_rows_are_those_that_were_made(top: Top) -> None:
    """The view might be asked for the wrong window by the test above, too."""
    by_pair = {(row["src_vm"], row["dst_vm"]): row for row in top.items()}
    lossy, blind, few = (by_pair[pair] for pair in (("a", "b"), ("a", "c"), ("b", "a")))

    assert lossy["bits_per_second"] == pytest.approx(100 * 125_000 * 8 / 10)
    assert lossy["loss_ratio"] == pytest.approx(0.07)
    assert (blind["loss_evidence"], blind["loss_ratio"], blind["connections"]) == ("blind", None, 20)
    assert (blind["latency_us"], blind["latency_spread_us"], blind["latency_method"]) == (1234, 5, "one_way")
    assert (few["loss_evidence"], few["packets_per_second"]) == ("insufficient", pytest.approx(20))
    assert few["packets_per_second_low"] < 20 < few["packets_per_second_high"]


def test_alerts_are_inhibited_by_their_pair_and_its_ends(top: Top) -> None:
    alerts = {(row["src_vm"], row["dst_vm"]): row["alerts"] for row in top.items()}

    assert alerts == {
        ("a", "b"): ["pair_loss", "pair_slow"], ("a", "c"): ["vm_busy"], ("b", "a"): [],
        ("d", BAD["vm"]): ["host_busy"],
    }  # fmt: skip


def test_a_minute_and_an_hour_have_their_own_view(top: Top, view: Callable[[str], list[dict[str, Any]]]) -> None:
    minute = view(of_window("bits_per_second", "pair_metrics_1m"))
    hours = view(of_window("bits_per_second", "pair_metrics_1h", HOUR_BEFORE))

    shown = top.items("--level", "1m")
    assert [row["bits_per_second"] for row in shown] == [row["bits_per_second"] for row in minute]
    assert shown[0]["bits_per_second"] == pytest.approx(100 * 125_000 * 8 / 60)
    (hour,) = hours
    newest = top.items("--level", "1h")
    assert newest[0]["bits_per_second"] == hour["bits_per_second"] or newest[0]["time"] > str(hour["time"])


def test_for_people_it_prints_the_same_figures(top: Top, view: Callable[[str], list[dict[str, Any]]]) -> None:
    row = view(of_window("bits_per_second"))[0]
    assert (row["src_vm"], row["dst_vm"]) == ("a", "b")

    lines = top().splitlines()

    cells = [cell.strip() for cell in lines[2].split("│")]
    assert row["bits_per_second_low"] == row["bits_per_second_high"], "a figure that is certain has no brackets"
    assert cells == [
        "a", "host-1", "b", "host-2", "tenant-1", "10.0", "10.0", "7.00", "no_ipfix", "1",
        "pair_loss pair_slow",
    ]  # fmt: skip
    by_pair = {tuple(cell.strip() for cell in line.split("│"))[0:3:2]: line for line in lines[2:]}
    assert "blind" in by_pair["a", "c"]
    assert "1.23" in by_pair["a", "c"]
    estimate = next(row for row in view(of_window("time")) if row["src_vm"] == "b")
    low, high = (short(estimate[f"bits_per_second_{end}"] / 1e6) for end in ("low", "high"))
    assert f" 0.016 [{low}–{high}] " in by_pair["b", "a"]
    assert "insufficient" in by_pair["b", "a"]
    assert harmless(top.out, "\n")


def test_the_head_says_which_window_and_how_much_was_watched(
    top: Top, settings: StoreSettings, view: Callable[[str], list[dict[str, Any]]]
) -> None:
    top()
    first, last = (datetime.fromtimestamp(START + after, UTC) for after in (0, 10))
    window, watched = top.err.splitlines()
    assert re.fullmatch(
        rf"window of 10s, {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} UTC, ended \d+ (s|min) ago", window
    )
    total = sum(row["bits_per_second"] for row in view(of_window("time"))) / 1e6
    assert watched == f"4 pairs, {short(total)} Mbit/s; watched whole; alerts firing: 6"

    gap = {"begins": START * 1_000_000, "ends": START * 1_000_000 + 500_000, "reason": "away", "protocol": "unknown"}
    with open_in_database(settings) as client:
        add(client, [gap], "gaps")
        top("--limit", "1")
        client.command("TRUNCATE TABLE gaps")
    assert "4 pairs" in top.err
    assert "not watched whole: 4 of the pairs, at worst 9.5 of 10 s" in top.err


@pytest.mark.parametrize(
    ("arguments", "pairs"),
    [
        (["--vm", "a"], {("a", "b"), ("a", "c"), ("b", "a")}),
        (["--vm", C["uuid"]], {("a", "c")}),
        (["--vm", "[*"], set()),
        (["--host", "HOST-?"], {("a", "b"), ("a", "c"), ("b", "a"), ("d", BAD["vm"])}),
        (["--host", "host-3"], {("a", "c")}),
        (["--network", "*-2"], {("d", BAD["vm"])}),
        (["--project", "sh*"], {("a", "c")}),
        (["--vm", "a", "--host", "host-2", "--network", "tenant-1"], {("a", "b"), ("b", "a")}),
        (["--vm", "' OR 1=1 --"], set()),
    ],
)
def test_filters(top: Top, arguments: list[str], pairs: set[tuple[str, str]]) -> None:
    assert set(top.pairs(*arguments)) == pairs


def test_limit_keeps_the_first_and_counts_all(top: Top) -> None:
    assert top.pairs("--limit", "1", "--sort", "connections") == [("a", "c")]
    top("--limit", "1", "--format", "table")
    assert "4 pairs" in top.err


def test_csv_has_the_columns_of_json(top: Top) -> None:
    names, *found = csv.reader(io.StringIO(top("--format", "csv")))

    assert names == [*COLUMNS, "alerts"]
    items = top.items()
    assert [row[names.index("loss_evidence")] for row in found] == [row["loss_evidence"] for row in items]
    assert [row[-1] for row in found] == [" ".join(row["alerts"]) for row in items]


def test_without_a_window_it_says_where_to_look(top: Top, settings: StoreSettings) -> None:
    empty = settings.model_copy(update={"database": "top_empty"})
    with store(empty):
        assert main(["top", "--set", f"store.url={empty.url}", "--set", "store.database=top_empty", "--set",
                     "sql.enabled=false"]) == 0  # fmt: skip
    said = top._capture.readouterr()
    assert said.out == ""
    assert said.err == (
        "vmflow top: no window of 10s with traffic between VMs closed in the last hour (`vmflow exporters` says who "
        "sends)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--limit", "0"], "--limit must be 1 to 10000, --interval 1 to 86400 seconds"),
        (["--interval", "nan"], "--interval 1 to 86400 seconds"),
        (["--set", "web.port=x"], "web.port = 'x'"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", *arguments]) == 2

    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


def test_a_store_that_is_away_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--set", f"store.url=chdb://{tmp_path}/none", "--set", "sql.enabled=false"]) == 1

    err = capsys.readouterr().err
    assert "start `vmflow run`" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0004, "<0.001"), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_figures_have_about_three_digits(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0 s"), (17, "17 s"), (150, "2 min"), (7300, "2 h"), (2e5, "2 d")])
def test_ages_are_in_the_unit_of_people(seconds: float, text: str) -> None:
    assert age(seconds) == text


@contextmanager
def server(directory: Path, port: int = 0) -> Iterator[str]:
    """A server over an engine in another process."""
    command = [sys.executable, "-m", "tests.clickhouse_server", "--path", str(directory)]
    with subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def test_in_a_terminal_it_stays_through_a_store_that_is_away(tmp_path: Path, terminal: Start) -> None:
    """At 80 columns; the old picture is kept with its age, and Ctrl-C leaves the terminal as it was."""
    pytest.importorskip("chdb", reason="the stand-in for a server needs chDB")
    with server(tmp_path / "store") as url:
        settings = StoreSettings(url=url, database="top")
        with open_client(settings) as client:
            set_up(client, settings)
            fill(client)
        shown = terminal(["top", "--interval", "1", "--set", f"store.url={url}", "--set", "store.database=top"], 80)
        picture = shown.until(lambda lines: any(line.startswith("a@host-1") for line in lines))
        fits(picture, 80)
        assert "watched whole" in picture[1]
        header = next(line for line in picture if line.startswith("from"))
        assert header.split() == ["from", "to", "Mbit/s", "pkt/s", "loss", "%", "ms", "!"]
        first = picture[picture.index(header) + 1]
        assert first.split()[:3] == ["a@host-1", "b@host-2", "10.0"]
        assert first.split()[-1] == "2"
        assert any(line.startswith("d@host-2") and "\\x1b[31mr" in line for line in picture)
    away = shown.until(lambda lines: any("tried again: " in line for line in lines))
    assert any(line.startswith("a@host-1") for line in away), "the old picture is kept"
    assert away[0].startswith("window of 10s")
    with server(tmp_path / "store", int(url.rpartition(":")[2])):
        shown.until(lambda lines: len(lines) > 3 and not any("tried again: " in line for line in lines))
        assert shown.end(signal.SIGINT) == 0
    assert shown.text.count("\x1b[?1049h") == shown.text.count("\x1b[?1049l") == 1
    assert shown.text.rfind("\x1b[?25h") > shown.text.rfind("\x1b[?25l")
    assert "Traceback" not in shown.text


@pytest.mark.parametrize(("columns", "number"), [(60, signal.SIGTERM), (160, signal.SIGINT)])
def test_without_a_service_it_waits_in_any_width(tmp_path: Path, terminal: Start, columns: int, number: int) -> None:
    """It leaves the embedded store to a service that starts."""
    (tmp_path / "none/metadata").mkdir(parents=True)
    nowhere = ["--set", f"store.url=chdb://{tmp_path}/none", "--set", "sql.enabled=false"]
    shown = terminal(["top", *nowhere], columns)

    picture = shown.until(lambda lines: "no service answers" in " ".join(lines))

    fits(picture, columns)
    assert "tried again: no service answers on" in " ".join(picture)
    assert shown.end(number) == 0
    assert os.listdir(tmp_path / "none") == ["metadata"], "the store was not opened"
    assert shown.text.endswith("\x1b[?25h\x1b[?1049l")


def test_a_wide_terminal_names_alerts_and_connections() -> None:
    row: Mapping[str, Any] = dict.fromkeys(COLUMNS, None) | {
        "src_vm": "a", "dst_vm": "b", "src_host": "h", "dst_host": "", "connections": 7, "alerts": ["x", "y"],
        "loss_evidence": "blind", "counted_at": "nowhere", "packets_per_second": 12.0,
    }  # fmt: skip
    wide = dict(zip((field.name for field in fields_of(160)), cells(row, 160), strict=True))
    assert wide == {
        "from": "a@h", "to": "b@?", "Mbit/s": "nowhere seen", "pkt/s": "12.0", "loss %": "blind", "ms": "-",
        "conns": "7", "alerts": "x y",
    }  # fmt: skip
    assert cells(row, 80)[-1] == "2"
