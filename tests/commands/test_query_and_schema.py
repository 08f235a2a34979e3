"""`vmflow query` and `vmflow schema`, as processes: against a store of their own, and against a running endpoint."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clickhouse_connect.driver import exceptions as driver

from collector.commands.query import connect
from collector.http.settings import AccessSettings
from collector.store.client import open_client
from collector.store.errors import StoreError
from collector.store.settings import SqlSettings, StoreSettings, default_url
from collector.store_errors import first_line
from schemas.migrations import steps
from schemas.render import STORED, ddl, docs
from schemas.rollups import FEEDS
from schemas.views.all import VIEWS

ROOT = Path(__file__).resolve().parents[2]


def vmflow(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VMFLOW_")}
    return subprocess.run(
        [sys.executable, "-m", "collector", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=ROOT,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a store which exists, and which no service holds."""
    directory = tmp_path_factory.mktemp("commands") / "store"
    options = ["--set", f"store.url=chdb://{directory}", "--set", "sql.port=1"]
    assert f"there is no store in {directory}: start `vmflow run`" in vmflow("schema", "--state", *options).stderr
    applied = vmflow("schema", "--apply", *options)
    lines = [f"tables as of migration {steps()[-1].number}", "tuned flows"]
    views = ", ".join(view.name for view in (*FEEDS, *VIEWS))
    lines += [f"views {views}", f"columns of {len(STORED) + len(VIEWS)} tables and views described"]
    assert applied.stdout.splitlines() == lines, applied.stderr
    return options


def test_schema_prints_the_ddl() -> None:
    assert vmflow("schema").stdout == ";\n\n".join(ddl()) + ";\n"


def test_schema_writes_the_docs(tmp_path: Path) -> None:
    assert vmflow("schema", "--docs", str(tmp_path / "columns.md")).returncode == 0
    assert (tmp_path / "columns.md").read_text(encoding="utf-8") == docs()


def test_schema_applies_once_and_tells_the_state(store: list[str]) -> None:
    assert vmflow("schema", "--apply", *store).stdout == "nothing to do: the tables fit this release\n"
    answer = vmflow("schema", "--state", "--format", "csv", *store)
    lines = [f"{step.number},applied,{step.name}" for step in steps()]
    assert answer.stdout.splitlines() == ["migration,state,name", *lines]
    assert (answer.returncode, answer.stderr) == (0, "the tables fit this release\n")


SQL = "SELECT toIPv6('10.0.0.1') AS ip, 7 AS n, 'a,[b]' AS t"


def test_query_prints_tables_json_csv_and_any_format(store: list[str]) -> None:
    table = vmflow("query", *store, SQL + ";").stdout.splitlines()
    assert table[0].split() == ["ip", "┃", "n", "┃", "t"]
    assert table[2].split() == ["10.0.0.1", "│", "7", "│", "a,[b]"]
    assert json.loads(vmflow("query", *store, "-f", "json", SQL).stdout) == {"ip": "10.0.0.1", "n": 7, "t": "a,[b]"}
    rows = list(csv.reader(io.StringIO(vmflow("query", *store, "-f", "csv", "-", stdin=SQL).stdout)))
    assert rows == [["ip", "n", "t"], ["10.0.0.1", "7", "a,[b]"]]
    assert vmflow("query", *store, "-f", "TSV", SQL).stdout == "::ffff:10.0.0.1\t7\ta,[b]\n"
    assert vmflow("query", *store, "SELECT count() FROM flows").returncode == 0


def test_query_tells_mistakes_in_one_line(store: list[str]) -> None:
    answer = vmflow("query", *store, "SELECT nope")

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("vmflow query: Unknown expression identifier `nope`")
    assert answer.stderr.endswith("(UNKNOWN_IDENTIFIER)\n")
    assert answer.stderr.count("\n") == 1


URL = "http://127.0.0.1:8123"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            f"Received ClickHouse exception, code: 60, server response: Code: 60. DB::Exception: Unknown table `x`. "
            f"(UNKNOWN_TABLE) (version 26.2.4.23 (official build)) (for url {URL})",
            "Unknown table `x`. (UNKNOWN_TABLE)",
        ),
        ("Code: 62. DB::Exception: Syntax error: at 8 (`nope`)\nstack", "Syntax error: at 8 (`nope`)"),
        (
            f"HTTP driver received HTTP status 502, server response: <html>\n<h1>Bad</h1> (for url {URL})",
            "HTTP status 502",
        ),
        ("Setting x is readonly", "Setting x is readonly"),
        ("Unable to open: Code: 36. DB::Exception: No. (BAD_ARGUMENTS)", "No. (BAD_ARGUMENTS)"),
        ("Code: 1. DB::NetException: " + "x" * 1000, "x" * 500),
    ],
)  # fmt: skip
def test_an_error_is_reported_without_what_stands_around_it(said: str, expected: str) -> None:
    assert first_line(driver.DatabaseError(said)) == expected


def test_a_server_that_does_not_answer_is_reported_in_the_systems_words() -> None:
    with pytest.raises(
        StoreError, match=r"^no use of ClickHouse at http://127\.0\.0\.1:1: no answer: Connection refused$"
    ):
        open_client(StoreSettings(url="http://127.0.0.1:1"))


def test_query_without_service_or_store_says_what_to_do(tmp_path: Path) -> None:
    answer = vmflow("query", "--set", f"store.url=chdb://{tmp_path}/none", "--set", "sql.port=1", "SELECT 1")

    assert answer.returncode == 1
    assert "no service answers on 127.0.0.1:1" in answer.stderr
    assert "start `vmflow run`" in answer.stderr
    assert not (tmp_path / "none").exists()


def test_query_asks_the_endpoint_if_it_answers(clickhouse_url: str, tmp_path: Path) -> None:
    port = int(clickhouse_url.rsplit(":", 1)[1])

    client = connect(
        StoreSettings(url=f"chdb://{tmp_path}/none", database="system"), SqlSettings(port=port), AccessSettings()
    )

    assert client.query("SELECT count() FROM one").result_rows == [(1,)]
    client.close()
    with pytest.raises(StoreError, match="no service answers"):
        connect(StoreSettings(url=f"chdb://{tmp_path}/none"), SqlSettings(port=1), AccessSettings())


def test_the_default_store_is_where_the_service_may_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert default_url() == f"chdb://{tmp_path.resolve()}/vmflow/store"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/vmflow:/var/lib/other")
    assert default_url() == "chdb:///var/lib/vmflow/store"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "clickhouse://x"}, "must begin with chdb://, http://, https://"),
        ({"url": "chdb://relative/path"}, "three slashes"),
        ({"url": "http://"}, "server's name is missing"),
        ({"url": "http://user:secret@host"}, "setting `password`"),
        ({"ttl_days": {"nope": 1}}, "no such table: nope"),
        ({"ttl_days": {"flows": 0}}, "1 to 36500 days: flows"),
        ({"database": "a; DROP"}, "should match pattern"),
        ({"interface_speeds": {"vnet1": 5}}, "must be `host/interface`"),
        ({"interface_speeds": {"host/vnet1": 0}}, "a speed is 1 to"),
        ({"unknown": 1}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoreSettings.model_validate(values)


def test_the_password_is_not_shown() -> None:
    settings = StoreSettings.model_validate({"url": "https://db.example:8443/x", "user": "u", "password": "hush"})

    assert "hush" not in repr(settings) + settings.model_dump_json() + settings.shown_url
    assert settings.shown_url == "https://db.example:8443/x"
