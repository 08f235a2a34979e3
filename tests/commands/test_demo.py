"""`vmflow demo`: named pairs, the alert of the lossy link, and nothing left in the end."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from collector.__main__ import main
from collector.commands import demo
from collector.commands.demo_parts import LOOPBACK, SERVICE, free_port
from collector.commands.output import Result
from collector.settings import Settings
from tests.commands.support import documented, parser_of
from tests.commands.terminal import SECONDS, Start, fits
from tests.service import FIXTURES, ROOT

LONG = 3 * SECONDS
"""A first start compiles kernels."""


def processes_of(directory: Path | str) -> list[str]:
    """Command lines that name a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(directory) in line and process.name != str(os.getpid()):
            found.append(line)
    return found


@contextmanager
def started(temporary: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run it without a terminal, with its directory in `temporary`; ended if it takes too long."""
    command = [sys.executable, "-m", "collector", "demo", *arguments]
    environment = os.environ | {"TMPDIR": str(temporary), "VMFLOW_WEB__PORT": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment) as process:
        patience = threading.Timer(LONG, process.terminate)
        patience.start()
        yield process
        patience.cancel()


def test_in_a_terminal_it_shows_the_lossy_pair_and_leaves_nothing(tmp_path: Path, terminal: Start) -> None:
    """At 80 columns; what it proposes to type is right."""
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    shown = terminal(["demo", "--trouble", "loss@1+900"], 80, TMPDIR=str(tmp_path))

    shown.until(lambda lines: any(re.match(r"\S+@hv\d", line) for line in lines), LONG)
    picture = shown.until(lambda lines: any(line.startswith("! critical: ") for line in lines), LONG)
    fits(picture, 80)
    text = " ".join(picture)
    loses = r"! critical: \S+@hv[56] → \S+@hv[56] loses [\d.]+ % \[[\d.]+ % – [\d.]+ %\] of its packets"
    assert re.search(loses, text), text
    (directory,) = tmp_path.iterdir()
    assert len(processes_of(directory)) == 2
    asked = subprocess.run(
        [sys.executable, "-m", "collector", "query", "SELECT count() > 0 FROM pair_metrics", "--config",
         str(directory / "vmflow.toml"), "--format", "csv"],
        capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=True,
    )  # fmt: skip
    assert asked.stdout.splitlines()[-1] == "1"
    assert shown.end(signal.SIGINT) == 0
    assert re.search(r"vmflow demo: \d+ pairs by name after \d+ s; alerts: [1-9]\d*; all is removed", shown.text)
    assert shown.text.rfind("\x1b[?1049l") > shown.text.rfind("\x1b[?1049h")
    assert shown.text.rfind("\x1b[?25h") > shown.text.rfind("\x1b[?25l")
    assert "Traceback" not in shown.text
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_while_the_service_starts(tmp_path: Path, terminal: Start, number: int) -> None:
    """Also at two signals."""
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    shown = terminal(["demo"], 80, TMPDIR=str(tmp_path))
    shown.until(lambda lines: "the service starts" in " ".join(lines))
    shown.process.send_signal(number)

    assert shown.end(number) == 0
    assert "no pair by name" in shown.text
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_a_capture_is_shown_in_plain_lines(tmp_path: Path) -> None:
    """By what exporters say, the counts being those of the capture."""
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    with started(tmp_path, str(FIXTURES / "ovs_netflow5.pcap")) as process:
        assert process.stderr is not None
        said = list(takewhile(lambda line: "In another terminal:" not in line, process.stderr))
        process.send_signal(signal.SIGINT)
        shown, rest = process.communicate()

    assert process.returncode == 0, [*said, rest]
    assert "Who exported:" in shown
    assert "netflow5" in shown
    assert "\x1b" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seen", "code"), [({"captures": [("Who exported:", Result(["n"], [[1]]))]}, 0), ({}, 1)])
def test_the_end_of_its_time_is_a_success_if_something_was_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seen: dict[str, object], code: int
) -> None:
    def ask(_args: object, _demo: object, found: demo.Seen, _stopped: object) -> None:
        for name, value in seen.items():
            setattr(found, name, value)

    monkeypatch.setattr(demo, "ask", ask)
    silent = {
        "start_service": lambda: None,
        "ended": lambda: "",
        "last_words": lambda _: "",
        "settings": Settings(),
        "config": "vmflow.toml",
    }
    running = cast("demo.Demo", SimpleNamespace(**silent, truth=Path("/no/where")))
    arguments = argparse.Namespace(files=["a.pcap"], seconds=0.2)

    assert demo.watch(arguments, running, threading.Event())[0] == code
    assert ("Who exported:" in capsys.readouterr().out) == (code == 0)


def test_a_time_too_short_for_names_is_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    with started(tmp_path, "--seconds", "1") as process:
        _, said = process.communicate()

    assert process.returncode == 1
    assert "no pair by name" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds must be 1 to 86400"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["/no/where.pcap"], "/no/where.pcap: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 2
    assert capsys.readouterr().err == f"vmflow demo: {message}\n"


def test_what_the_documents_type_is_right() -> None:
    lines = [list(takewhile(lambda word: word != "|", line)) for line in documented() if line[0] == "demo"]

    for line in lines:
        parser_of("demo").parse_args(line[1:])
    assert len(lines) >= 3


def test_a_port_that_is_taken_is_left_alone() -> None:
    for kind, udp in ((socket.SOCK_STREAM, False), (socket.SOCK_DGRAM, True)):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind((LOOPBACK, 0))
            if not udp:
                taken.listen()
            port = int(taken.getsockname()[1])
            assert free_port(port, udp=udp) not in (0, port)
        assert free_port(port, udp=udp) == port


def test_its_rules_take_the_place_of_the_usual_ones() -> None:
    settings = Settings(**SERVICE)
    mine = {rule["name"] for rule in SERVICE["alerts"]["rules"]}

    assert len(settings.alerts.active()) == len(Settings().alerts.active())
    assert {rule.name for rule in settings.alerts.active() if "@{src_host}" in rule.text} == mine
