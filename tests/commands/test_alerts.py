"""`vmflow alerts` against the API over a real store."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import time
from typing import Any

import pytest

from collector.__main__ import main
from collector.commands.api_client import url_of
from collector.terminal import UsageError
from collector.web.settings import WebSettings
from tests.flow_rows import BEGIN_US
from tests.web.support import Served


class Shell:
    """Runs the command and keeps what it says."""

    def __init__(self, server: Served, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.capsys = capsys
        self.err = ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        assert main(["alerts", arguments[0], "--url", self.server.url, *arguments[1:]]) == code, (
            self.capsys.readouterr()
        )
        said = self.capsys.readouterr()
        self.err = said.err
        return said.out

    def json(self, *arguments: str) -> Any:
        return [json.loads(line) for line in self(*arguments, "--format", "json").splitlines()]


@pytest.fixture
def shell(server: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    return Shell(server, capsys)


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Any:
    yield
    monkeypatch.undo()
    time.tzset()


def test_alerts_are_listed_in_local_time(shell: Shell) -> None:
    lines = shell("list", "--vm", "vm5", "--rule", "pair_loss").splitlines()

    assert lines[0].split() == ["fired", "state", "severity", "rule", "what", "note", "id"]
    (line,) = lines[1:]
    # BEGIN_US is a whole hour, and China is eight hours before UTC without a summer time.
    hour = (BEGIN_US // 3_600_000_000 + 8) % 24
    assert re.match(rf"\d{{4}}-\d\d-\d\d {hour:02}:00:10 CST +firing +critical +pair_loss +vm4 → vm5 loses 20 %", line)


def test_json_is_what_the_api_says(shell: Shell) -> None:
    assert shell.json("list") == shell.server.get("/api/v1/alerts?state=firing&state=acknowledged").json["alerts"]
    assert shell.json("rules") == shell.server.get("/api/v1/rules").json["rules"]


def test_csv_has_the_same_fields_and_nested_ones_as_json(shell: Shell) -> None:
    rows = list(csv.DictReader(io.StringIO(shell("list", "--format", "csv"), newline="")))

    items = shell.json("list")
    assert [row["alert_id"] for row in rows] == [item["alert_id"] for item in items]
    assert [json.loads(row["labels"]) for row in rows] == [item["labels"] for item in items]
    assert set(rows[0]) == set(items[0])


def test_from_the_list_to_the_end(shell: Shell) -> None:
    (alert,) = shell.json("list", "--vm", "vm3")
    begin = alert["alert_id"][:8]

    shell.server.live.now_us += 1_000_000
    assert "acknowledged (ann)" in shell("ack", begin, "a cable", "--who", "ann")
    shell("ack", begin, code=1)
    assert shell.err == "vmflow alerts: it is acknowledged, not firing (HTTP 409)\n"
    shown = shell("show", begin)
    assert f"id            {alert['alert_id']}" in shown
    assert re.search(r"^loss_ratio +20 % \[", shown, re.MULTILINE)
    assert re.search(r"^limit +1 % *$", shown, re.MULTILINE)
    assert re.search(r"^acknowledged +\d{4}-.* CST by ann *$", shown, re.MULTILINE)
    shell.server.live.now_us += 1_000_000
    assert [one["state"] for one in shell.json("resolve", begin, "--who", "ann")] == ["resolved"]
    history = shell("history", begin).splitlines()
    assert [line.split()[3] for line in history[1:]] == ["firing", "notified", "acknowledged", "resolved"]
    assert history[3].rstrip().endswith("ann  a cable")
    assert [alert["state"] for alert in shell.json("list", "--all", "--vm", "vm3")] == ["resolved"]
    assert shell.json("list", "--vm", "vm3") == []
    judged = shell.json("resolve", begin, "--false", "a test", "--who", "eve")
    assert [(one["state"], one["verdict"], one["resolved_by"]) for one in judged] == [("resolved", "false", "ann")]
    assert shell("history", begin).splitlines()[-1].rstrip().endswith("eve  a test")


def test_silences(shell: Shell) -> None:
    silence_id = shell("silence", "2h", "src_vm=web-*", "rule=pair_loss", "--comment", "moving", "--who", "ann").strip()

    assert re.fullmatch("[0-9a-f]{32}", silence_id)
    (line,) = shell("silences").splitlines()[1:]
    assert re.match(r"(rule=pair_loss src_vm=web-\*|src_vm=web-\* rule=pair_loss) .*CST +ann +moving +", line)
    assert shell("unsilence", silence_id) == "ended\n"
    assert shell.json("silences") == []
    assert [one["silence_id"] for one in shell.json("silences", "--all")] == [silence_id]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["silence", "soon", "rule=x"], "soon: a duration such as 30m, 2h or 7d is expected"),
        (["silence", "2h", "rule"], "rule: name=pattern is expected, each name once, such as src_vm=web-*"),
        (["silence", "2h", "colour=red"], "matchers {'colour': 'red'}: expected at least one of"),
        (["silence", "999d", "rule=x"], "at most 366 days are expected"),
        (["show", "XYZ"], "XYZ: an id is expected, of up to 32 hexadecimal digits"),
        (["ack", "ffff00"], "ffff00: no alert has an id that begin so"),
        (["list", "--url", "vmflow:8080"], "--url vmflow:8080: http://host:port or https://host:port is expected"),
        (["list", "--most", "0"], "query.limit = '0': Input should be greater than or equal to 1"),
    ],
)
def test_mistakes_have_exit_code_2(shell: Shell, arguments: list[str], expected: str) -> None:
    assert shell(*arguments, code=2) == ""
    assert expected in shell.err


def test_no_service_answers(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert main(["alerts", "list", "--set", f"web.port={port}"]) == 1
    said = shell.capsys.readouterr().err
    assert said.startswith(f"vmflow alerts: no service answers at http://127.0.0.1:{port}: ")
    assert "Connection refused; is `vmflow run` running there?" in said


def test_where_the_service_is() -> None:
    assert url_of(WebSettings(host="0.0.0.0", port=1)) == "http://127.0.0.1:1"
    assert url_of(WebSettings(host="::", port=1)) == "http://[::1]:1"
    assert url_of(WebSettings(host="2001:db8::1", port=1)) == "http://[2001:db8::1]:1"
    assert url_of(WebSettings(host="vmflow.example", port=1)) == "http://vmflow.example:1"
    for wrong in (WebSettings(port=0), WebSettings(enabled=False)):
        with pytest.raises(UsageError, match="give --url"):
            url_of(wrong)
