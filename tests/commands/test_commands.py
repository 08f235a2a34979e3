"""Every command that is documented, against one running service with the embedded store, and against none running."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from collector.__main__ import COMMANDS, main
from schemas.tables import TABLES
from tests.commands.support import documented, parser_of
from tests.service import FIXTURES, ROOT, Service, replay, running

pytest.importorskip("chdb", reason="the embedded store needs chDB")

CAPTURE = FIXTURES / "ovs_sflow_exact_s1.pcap"
ALERTS = """
[alerts]
default_rules = false
settle_seconds = 1

[[alerts.rules]]
name = "exporter_busy"
scope = "exporter"
measure = "datagrams"
level = "10s"
above = 0

[[alerts.rules]]
name = "vm_rate_unusual"
scope = "vm"
condition = "anomaly"
measure = "sent_bits_per_second"
alerts_per_day = 1.0
least_change = 1e6
severity = "info"
"""
SETTINGS = """
[store]
url = "chdb://{directory}/store"

[sql]
port = {sql}

[web]
port = {web}

[notify.receivers.ops]
url = "json://127.0.0.1:{sink}"

[notify.receivers.operators]
url = "json://127.0.0.1:{sink}"

[[inventory.static]]
file = "{directory}/vms.csv"

[analyze]
traffic_metrics = true
traffic_level = "10s"
"""
READ_STORE = [
    ["top"],
    ["top", "--level", "1m", "--sort", "loss", "--limit", "5"],
    ["top", "--vm", "web*", "--host", "hv?", "--project", "shop", "--network", "*", "--sort", "latency"],
    ["exporters"],
    ["exporters", "--minutes", "5", "--most", "1"],
    ["exporters", "--doctor"],
    ["inventory"],
    ["inventory", "--history", "--vm", "web*", "--project", "shop"],
    ["inventory", "--mac", "52:54:00:00:00:01", "--ip", "10.0.0.1"],
    ["inventory", "--at", "2026-11-25T15:00"],
    ["inventory", "--conflicts", "--source", "static"],
    ["inventory", "--unattributed"],
    ["rules", "test", "FILE.toml", "--since", "10m", "--rule", "exporter_busy"],
    ["rules", "suggest", "--since", "10m"],
    ["schema", "--state"],
    ["query", "SELECT count() AS n FROM flows"],
    *(["query", f"SELECT count() AS n FROM {table.name}"] for table in TABLES),
]
"""Commands that read the store: they work with a running service and without."""
ASK_SERVICE = [
    ["inventory", "--sources"],
    ["alerts", "list", "--all", "--severity", "warning", "--rule", "exporter_busy", "--vm", "*"],
    ["alerts", "list"],
    ["alerts", "show", "3f2a91c0"],
    ["alerts", "history", "3f2a91c0"],
    ["alerts", "silences", "--all"],
    ["alerts", "rules"],
]
"""Commands that only a running service can answer."""
GIVE_ROWS = [
    ["exporters"],
    ["inventory"],
    ["rules", "test", "FILE.toml", "--since", "20m"],
    ["rules", "suggest", "--since", "20m"],
    ["schema", "--state"],
]
"""Those of which a row is expected."""
NEED_NOTHING = [["rules", "list"], ["rules"], ["check"], ["check", "--dump"], ["schema"]]
NO_SETTINGS = ("agent", "demo", "replay", "decode", "mirror", "init", "deploy", "passwd", "warmup")
REFUSED = [
    ["schema", "--apply"], ["exporters", "retire", "192.0.2.11", "--protocol", "sflow5"],
    ["mirror", "--interface", "mirror0"],
]  # fmt: skip
"""What needs the store for itself; what no rule of this service expects; an interface that is not here."""
INCOMPLETE = {
    ("alerts",), ("query",), ("passwd",), ("decode",), ("replay",), ("rules", "test"), ("exporters", "retire"),
    ("init",), ("deploy",), ("mirror",), ("mirror", "--interface"),
}  # fmt: skip
"""What the text only names: without its arguments it tells how it is used."""


def test_every_command_and_action_is_tried() -> None:
    tried = {tuple(arguments[:2]) for arguments in [*documented(), *READ_STORE, *ASK_SERVICE, *NEED_NOTHING]}
    commands = {first for first, *_ in tried if first != "COMMAND" and not first.startswith("-")}

    assert commands == set(COMMANDS)
    for command in COMMANDS:
        for action in actions(parser_of(command)):
            assert (command, action) in tried, f"vmflow {command} {action}"


def actions(parser: argparse.ArgumentParser) -> list[str]:
    """Actions of a command."""
    return [name for action in parser._actions if isinstance(action.choices, dict) for name in action.choices]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def run(arguments: list[str], stdin: str = "") -> Done:
    """Run one command."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdin = before
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined] # a BytesIO
    return Done(code, *said)


def run_elsewhere(commands: list[list[str]]) -> list[Done]:
    """Run commands one after the other in a process of their own: they open a store."""
    code = (
        "import dataclasses, json, sys; from tests.commands.test_commands import run; "
        "found = [dataclasses.astuple(run(arguments)) for arguments in json.load(sys.stdin)]; print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(commands), capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Done(*values) for values in json.loads(done.stdout)]


@dataclass
class Workplace:
    """A service and its settings, and what commands get in place of the examples of the documents."""

    service: Service
    directory: Path
    config: Path
    examples: dict[str, str]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Arguments with the examples replaced, and the settings."""
        replaced = [self.examples.get(argument, argument) for argument in arguments]
        if replaced[0] in NO_SETTINGS or replaced[0].startswith("--print") or "--config" in replaced:
            return replaced
        return [*replaced, "--config", str(self.config)]

    def vmflow(self, *arguments: str, stdin: str = "") -> Done:
        """Run a command in this process: it asks the service, and opens no store."""
        return run(self.command(arguments), stdin)


class Sink(BaseHTTPRequestHandler):
    """A receiver that takes everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture(scope="module")
def sink() -> Iterator[int]:
    """Port of a webhook."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody has now."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sink: int) -> Iterator[Workplace]:
    """A running service with rows in its store, a VM in its inventory and an alert that fires."""
    directory = tmp_path_factory.mktemp("commands")
    sql, web = free_ports(2)
    config = directory / "vmflow.toml"
    config.write_text(SETTINGS.format(directory=directory, sql=sql, web=web, sink=sink) + ALERTS)
    (directory / "rules.toml").write_text(ALERTS)
    (directory / "vms.csv").write_text("mac,ips,vm,project,host,network\n52:54:00:00:00:01,10.0.0.1,web-1,shop,hv1,n\n")
    with running(directory, f"sql.port={sql}", f"web.port={web}", config=config) as service:
        replay(service.udp[0], CAPTURE)
        service.wait_for_rows("SELECT count() AS n FROM flows", 1)
        alert = _alert(service)
        examples = {
            "SQL": "SELECT count() AS n FROM flows",
            "FILE": str(CAPTURE),
            "FILE…": str(CAPTURE),
            "FILE.toml": str(directory / "rules.toml"),
            "HOST:PORT": service.udp[0],
            "NAME": "ann",
            "DIR": str(directory / "deployed"),
            "COMMAND": "check",
            "7d": "20m",  # a query of seconds per hour and rule
            "3f2a91c0": alert["alert_id"][:8],
            "192.0.2.11": alert["labels"]["exporter"],
            "/etc/vmflow/vmflow.toml": str(config),
        }
        yield Workplace(service, directory, config, examples)


def _alert(service: Service) -> dict[str, Any]:
    """The alert of our rule, once it fires."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        # 503: the API is not loaded yet, or the store is busy.
        with contextlib.suppress(urllib.error.HTTPError):
            alerts = json.loads(service.get("/api/v1/alerts?state=firing&rule=exporter_busy"))["alerts"]
            if alerts:
                return dict(alerts[0])
        time.sleep(1)
    raise AssertionError(f"no alert: {service.log[-20:]}")


def _spoilt(done: Done, code: int = 0) -> str:
    """What is wrong with the end of a command; empty if nothing is."""
    noise = any(text in done.err for text in ("Traceback", "DB::Exception", "(version", "HTTPConnectionPool"))
    return f"exit code {done.code}, {done.err}" if done.code != code or noise else ""


def test_what_the_documents_name_works(place: Workplace) -> None:
    """In order: an alert that is resolved cannot be acknowledged any more; a verdict is possible then, too."""
    failures = {}
    for arguments in sorted(documented(), key=lambda arguments: "--false" in arguments):
        if arguments[0] in ("run", "demo", "agent"):
            continue  # it runs already; test_demo and tests/agent run the others
        if arguments[:3] == ["rules", "test", "FILE"]:
            arguments[2] = "FILE.toml"
        if "7d" in arguments:
            arguments[arguments.index("7d")] = "1h"  # the store is minutes old, and each window is replayed
        if "--loop" in arguments:
            arguments[arguments.index("--loop") + 1] = "1"  # not without end
        if arguments[:1] == ["deploy"] and len(arguments) > 1:
            arguments.append("--force")  # all into one folder
        if arguments[:2] == ["alerts", "unsilence"]:
            arguments[2] = place.vmflow("alerts", "silence", "1h", "src_vm=nobody").out.strip()
        code = 2 if tuple(arguments) in INCOMPLETE or arguments == ["alerts", "show"] else 0
        code = 1 if arguments in REFUSED else code
        stdin = "correct horse battery\n" if arguments[0] == "passwd" else ""
        if wrong := _spoilt(place.vmflow(*arguments, stdin=stdin), code):
            failures[" ".join(arguments)] = wrong

    assert not failures


def test_a_second_service_says_in_one_line_who_has_the_store(place: Workplace) -> None:
    others = [
        "sql.port=0",
        "web.port=0",
        'listen.addresses=["127.0.0.1:0"]',
        f"store.spool_directory={place.directory}/2",
    ]
    command = place.command(["run", *(word for other in others for word in ("--set", other))])
    done = subprocess.run(
        [sys.executable, "-m", "collector", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )

    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vmflow run: ")]
    assert line.startswith(f"vmflow run: the embedded store in {place.directory}/store is open in another process")


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_each_prints_in_each_format(place: Workplace, output: str) -> None:
    failures = {}
    for arguments in [*READ_STORE, *ASK_SERVICE, ["rules", "list"]]:
        done = place.vmflow(*arguments, "--format", output)
        if wrong := _spoilt(done, 0) or _unreadable(done.out, output):
            failures[" ".join(arguments)] = wrong

    assert not failures


def _unreadable(text: str, output: str) -> str:
    """Why the output is not in its format; empty if it is."""
    if output == "json":
        return "" if all(isinstance(json.loads(line), dict) for line in text.splitlines()) else text
    if output == "csv":
        widths = {len(row) for row in csv.reader(io.StringIO(text, newline=""))}
        return "" if len(widths) <= 1 else f"rows of {widths} cells"
    return ""


def test_reading_gives_rows(place: Workplace) -> None:
    """The tests above would pass over a service that has nothing to tell."""
    for arguments in [*GIVE_ROWS, ["alerts", "rules"]]:
        done = place.vmflow(*arguments, "--format", "json")
        assert done.out.splitlines(), (arguments, done.err)
    trial = ["rules", "test", "FILE.toml", "--since", "20m", "--rule", "exporter_busy", "--format", "json"]
    (tried,) = map(json.loads, place.vmflow(*trial).out.splitlines())
    assert tried["series"] == 2  # the two exporters of the capture
    assert tried["windows"] >= 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_promtool_finds_nothing_in_what_is_scraped(place: Workplace) -> None:
    """Of a service that has received, stored, judged and notified: families without samples are not looked at."""
    assert place.service.metric("vmflow_traffic_reads_total", result="ok") >= 1

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=place.service.get("/metrics"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(command)
    for action in ["", *actions(parser)]:
        with pytest.raises(SystemExit, match=r"^0$"):
            parser.parse_args([action, "--help"] if action else ["--help"])
        assert capsys.readouterr().out.startswith(f"usage: vmflow {f'{command} {action}'.strip()}")


@pytest.fixture(scope="module")
def stopped(place: Workplace) -> Workplace:
    """The store of the service, which does not run any more."""
    assert place.service.stop() == 0
    return place


def test_without_a_service_the_store_is_read(stopped: Workplace) -> None:
    commands = [stopped.command(arguments) for arguments in [*READ_STORE, *NEED_NOTHING]]

    done = run_elsewhere(commands)

    wrong = [(" ".join(arguments), _spoilt(one)) for arguments, one in zip(commands, done, strict=True)]
    assert not [reported for reported in wrong if reported[1]]
    assert done[READ_STORE.index(["query", "SELECT count() AS n FROM flows"])].out.split()[-1] != "0"


def test_without_a_service_nobody_answers_in_one_line(stopped: Workplace) -> None:
    for arguments in ASK_SERVICE:
        done = stopped.vmflow(*arguments)
        assert done.code == 1
        assert "no service answers" in done.err
        assert done.err.count("\n") == 1, done.err


def test_without_service_and_store_each_says_what_to_do(stopped: Workplace) -> None:
    for arguments in [*GIVE_ROWS, ["exporters", "--doctor"], ["query", "SELECT 1"]]:
        done = stopped.vmflow(*arguments, "--set", f"store.url=chdb://{stopped.directory}/none")
        assert done.code == 1
        assert "start `vmflow run`" in done.err
        assert done.err.count("\n") == 1, done.err
