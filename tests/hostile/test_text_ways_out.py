"""Nasty names in a store, on a server, in files and arguments: no command lets one of them steer a terminal.

The rows are written as a release stored them that did not clean names, so what holds here holds without the entrance.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from collector.__main__ import main
from collector.analyze.doctor import Finding
from collector.commands import exporters
from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from schemas.inventory import INVENTORY
from tests.commands.test_inventory import EMPTY
from tests.hostile.nasty import NASTY, SURROGATE, harmless
from tests.service import FIXTURES, ROOT
from tests.table_rows import batch

STORED = [text for text in NASTY if len(text) < 256]
ALL = "".join(STORED)
WIDE = 1 << 20


@pytest.fixture(scope="module")
def store(clickhouse_url: str) -> StoreSettings:
    """Inventory rows that have every nasty text in every column of text."""
    settings = StoreSettings(url=clickhouse_url, database="nasty")
    client = open_client(settings)
    set_up(client, settings)
    now = time.time_ns() // 1000
    texts = ("vm", "project", "host", "network", "port_name", "bridge", "port_id", "conflict", "sources")
    rows = [
        batch(
            INVENTORY, 1,
            **{**EMPTY, **dict.fromkeys(texts, text), "mac": 0x525400000000 + number, "valid_from": now - 10_000_000,
               "valid_to": now},
        )
        for number, text in enumerate(STORED)
    ]  # fmt: skip
    for number, row in enumerate(rows):
        insert(client, INVENTORY, [row], f"nasty-{number}")
    client.close()
    return settings


def on_a_terminal(*arguments: str, code: int = 0, directory: Path = ROOT) -> str:
    """What a person's terminal is sent by `vmflow`, on both outputs; styles are off, so nothing may steer it."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VMFLOW_")}
    environment |= {"TERM": "dumb", "COLUMNS": "400", "PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "collector", *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=directory, env=environment,
    )  # fmt: skip
    os.close(theirs)
    read = bytearray()
    while True:
        try:
            read += os.read(ours, WIDE)
        except OSError:  # EIO: the other side is closed
            break
    os.close(ours)
    assert process.wait(60) == code, read
    return read.decode().replace("\r\n", "\n")


def of_store(settings: StoreSettings) -> list[str]:
    return ["--set", f"store.url={settings.url}", "--set", f"store.database={settings.database}"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "SELECT vm, project, map(host, network) AS m, [vm] AS l FROM inventory"],
        ["query", "SELECT vm, map(host, network) AS m FROM inventory", "-f", "json"],
        ["query", "SELECT vm, project FROM inventory", "-f", "csv"],
        ["query", "SELECT vm FROM inventory", "-f", "PrettyCompact"],
        ["query", "SELECT vm FROM inventory", "-f", "RawBLOB"],
        ["query", "SELECT vm FROM inventory", "-f", "Parquet"],
        ["inventory"],
        ["inventory", "--history", "--conflicts"],
        ["inventory", "-f", "csv"],
        ["inventory", "-f", "JSONEachRow"],
        ["inventory", "--vm", "\x1b[31mnobody"],
        ["query", "SELECT throwIf(1, 'a\x1b[31mb\u202e')"],
        ["query", "SELECT * FROM `no\x1b]0;such\x07`"],
    ],
    ids=lambda arguments: " ".join(arguments).encode("unicode_escape").decode(),
)
def test_what_a_store_holds(store: StoreSettings, arguments: list[str]) -> None:
    failing = arguments[0] == "query" and ("throwIf" in arguments[1] or "no\x1b" in arguments[1])

    shown = on_a_terminal(*arguments, *of_store(store), code=int(failing))

    assert harmless(shown, but="\n")
    if "Parquet" in arguments:
        assert shown.startswith("PAR1")
    elif failing:
        assert "\\x1b" in shown
    elif arguments[0] == "query":
        assert "\\x1b[31mred" in shown or "\\u001b[31mred" in shown.lower()
        assert "[bold red]rich[/]" in shown
    elif "--vm" not in arguments:
        assert len(shown.splitlines()) >= len(STORED)


def test_csv_is_read_again_and_runs_nothing(store: StoreSettings, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sql = "SELECT vm, mac, toInt64(0) - 5 AS n FROM inventory ORDER BY mac"
    assert main(["query", sql, "-f", "csv", *of_store(store)]) == 0

    text = capsysbinary.readouterr().out.decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert harmless(text, but="\n")
    assert (header, len(rows), len(text.splitlines())) == (["vm", "mac", "n"], len(STORED), len(STORED) + 1)
    assert {row[2] for row in rows} == {"-5"}
    names = {int(row[1]) - 0x525400000000: row[0] for row in rows}
    assert [names[STORED.index(text)] for text in ("=cmd|'/c calc'!A0", "-2+cmd|x", "@SUM(1)", "a;=1+1")] == [
        "'=cmd|'/c calc'!A0", "'-2+cmd|x", "'@SUM(1)", "a;'=1+1",
    ]  # fmt: skip
    assert len(set(names.values())) == len(STORED)


def test_json_loses_nothing(store: StoreSettings, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["query", "SELECT vm FROM inventory ORDER BY mac", "-f", "json", *of_store(store)]) == 0

    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert [json.loads(line)["vm"] for line in lines] == STORED
    assert all(harmless(line) for line in lines)


class Hostile(BaseHTTPRequestHandler):
    """A service, or what somebody put in its place: all that it says is nasty."""

    def do_GET(self) -> None:
        time_ = "2026-01-31T12:00:00+00:00"
        alert = {
            **dict.fromkeys(("alert_id", "fingerprint", "rule", "severity", "summary", "acknowledged_by", "resolved_by",
                             "measure", "unit", "evidence", "condition", "level", "scope", "held_back_by"),
                            ALL + SURROGATE),
            **dict.fromkeys(("since", "fired", "acknowledged", "resolved", "stale_since", "notified", "window_start",
                             "window_end"), time_),
            **dict.fromkeys(("value", "low", "high", "samples", "threshold", "worst"), 1.0),
            "state": "acknowledged", "labels": {text: text for text in STORED}, "held_back": True, "escalations": 0,
        }  # fmt: skip
        event = {"time": time_, "event": ALL, "value": None, "unit": ALL, "who": ALL, "comment": ALL}
        silence = {"matchers": {ALL: ALL}, "until": time_, "who": ALL, "comment": ALL, "silence_id": ALL}
        rule = {"name": ALL, "severity": ALL, "series": 1, "pending": 1, "firing": 1, "evaluated": None,
                "failed": time_, "error": ALL}  # fmt: skip
        answers = {
            "/api/v1/alerts": {"alerts": [alert]},
            f"/api/v1/alerts/{'0' * 32}": {"alert": alert, "history": [event]},
            "/api/v1/silences": {"silences": [silence]},
            "/api/v1/rules": {"rules": [rule]},
            "/health": {"inventory": {ALL: {"up": False, "age_seconds": None, "interfaces": 1, "error": ALL}}},
        }
        self._answer(200, answers[self.path.split("?")[0]])

    def do_POST(self) -> None:
        self._answer(422, {"detail": ALL, "errors": [ALL, "vmflow alerts: forged\nvmflow alerts: again"]})

    def _answer(self, status: int, body: object) -> None:
        octets = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[list[str]]:
    """Settings that name the hostile service."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield ["--set", f"web.port={server.server_address[1]}"]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["alerts", "list"], 0),
        (["alerts", "list", "--format", "json"], 0),
        (["alerts", "list", "--format", "csv"], 0),
        (["alerts", "rules", "--format", "csv"], 0),
        (["alerts", "show", "0" * 32], 0),
        (["alerts", "history", "0" * 32], 0),
        (["alerts", "silences"], 0),
        (["alerts", "rules"], 0),
        (["alerts", "ack", "0" * 32], 2),
        (["inventory", "--sources"], 0),
        (["inventory", "--sources", "-f", "csv"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_a_service_answers(service: list[str], arguments: list[str], code: int) -> None:
    shown = on_a_terminal(*arguments, *service, code=code)

    assert harmless(shown, but="\n")
    # A dumb terminal has 80 columns: tables are folded.
    assert "x1b[31m" in shown or "u001b[31m" in shown
    if code:
        assert len(shown.splitlines()) == 3  # what the server says is three lines of ours


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["decode", "\x1b[31mno-such\u202e"], 1),
        (["replay", "\x1b[31mno-such\u202e", "--to", "127.0.0.1:9"], 2),
        (["replay", "x", "--to", "\x1b[31mhost\u202e:1"], 2),
        (["replay", "x", "--to", "127.0.0.1:9", "--speed", "\x1b[31m\u202e"], 2),
        (["check", "--config", "\x1b[31mno-such\u202e"], 2),
        (["check", "--set", "\x1b[31mno.such\u202e=1"], 2),
        (["check", "--set", 'inventory.ovsdb=[{"host":"a\\u001b[31m\\u202e\\u007f"}]', "--dump"], 0),
        (["rules", "test", "\x1b[31mno-such\u202e"], 2),
        (["rules", "list", "--rule", "\x1b[31mno-such\u202e"], 2),
        (["alerts", "show", "\x1b[31mno-such\u202e"], 2),
        (["alerts", "silence", "\x1b[31m\u202e", "a=b"], 2),
        (["alerts", "test-receiver", "\x1b[31mno-such\u202e"], 2),
        (["passwd", "\x1b[31mno-such\u202e", "--token"], 2),
        (["query", "SELECT 1", "--set", "store.url=http://\x1b[31mhost\u202e:1"], 2),
        (["schema", "--docs", "x", "\x1b[31mleft over\u202e"], 2),
        (["\x1b[31mno-such\u202e"], 2),
    ],
    ids=lambda value: " ".join(value).encode("unicode_escape").decode() if isinstance(value, list) else None,
)
def test_what_a_person_is_made_to_type(arguments: list[str], code: int) -> None:
    """Names of files and texts to copy come from others, too."""
    shown = on_a_terminal(*arguments, code=code)

    assert harmless(shown, but="\n")
    assert "x1b[31m" in shown or "0000001b[31m" in shown or arguments[0] == "passwd"


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_capture_with_a_nasty_name(form: str) -> None:
    capture = FIXTURES / "crafted_sflow_nasty_vm.pcap"

    shown = on_a_terminal("decode", "--table", "inventory", "--format", form, str(capture))

    assert harmless(shown, but="\n")
    assert ("ev\\\\x1b[31mil" if form == "json" else "ev\\x1b[31mil") in shown


def test_findings_of_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("c", text, text, 1, text, text, (text,), (b"", b"", 1, "")) for text in [*STORED, SURROGATE]]
    for output in ("table", "json", "csv"):
        exporters._print(findings, output)

    assert harmless(capsys.readouterr().out, but="\n")


def test_a_defect_quotes_harmlessly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_args: object) -> int:
        raise LookupError(ALL + SURROGATE)

    monkeypatch.setattr("collector.commands.check.run", fail)

    assert main(["check"]) == 1
    said = capsys.readouterr().err
    assert harmless(said, but="\n")
    assert "LookupError: \\x1b[31mred" in said


def test_a_terminal_that_lacks_signs_gets_escapes() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "collector", "alerts", "show", "名"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, timeout=60, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith(b"vmflow alerts: \\u540d: an id is expected")


def test_libraries_that_warn(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import logging; from collector.terminal import begin; begin(); logging.getLogger('x').warning('a\\x1bb\\nc')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

    assert capfd.readouterr().err == "a\\x1bb\\nc\n"
