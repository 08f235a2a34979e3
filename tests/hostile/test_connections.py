"""Ten thousand connections on which nothing comes, and few descriptors: others are served, no row is lost."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.process.descriptors import CLIENTS, ENGINE, FEWEST, LIBRARIES, DescriptorsError, connections, needed
from collector.settings import Settings
from tests.decoders.support import payloads, truth
from tests.service import ROOT, Service, running, send

SILENT = 10_000
DESCRIPTORS = 400
STEM = "ovs_netflow5"


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process open so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"{count} descriptors are needed, the system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


class Client:
    """One connection to the SQL endpoint that is used again and again."""

    def __init__(self, url: str) -> None:
        self._sock = socket.create_connection(address(url), timeout=60)
        self._file = self._sock.makefile("rb")

    def ask(self, sql: str) -> bytes:
        body = sql.encode()
        self._sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status, length = self._file.readline(), 0
        while (line := self._file.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answer = self._file.read(length)
        assert status.split()[1:2] == [b"200"], (status, answer)
        return answer

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def opened(up: ExitStack, target: tuple[str, int], count: int, first: bytes) -> None:
    """Open connections, each of which sends `first` and nothing more."""
    for number in range(count):
        sock = up.enter_context(socket.socket())
        sock.settimeout(30)
        sock.bind((f"127.0.{number % 200 + 1}.{number % 7 + 1}", 0))
        sock.connect(target)
        if first:
            with suppress(OSError):  # it gave way already
                sock.sendall(first)


def used(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


def test_ten_thousand_silent_connections_cost_no_row_and_nobody_an_answer(tmp_path: Path) -> None:
    good = [payload for payload, *_ in payloads(STEM)]
    expected = len(truth(STEM, "records"))
    begins = (b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", b"\0\x0a")
    with (
        descriptors(SILENT + 500),
        running(
            tmp_path, 'listen.streams=["tcp://127.0.0.1:0"]', "store.batch_age_seconds=0.2", descriptors=DESCRIPTORS
        ) as service,
        ExitStack() as up,
    ):
        targets = [address(str(service.ready[name])) for name in ("sql", "web", "streams")]
        kept = Client(str(service.ready["sql"]))
        up.callback(kept.close)
        assert kept.ask("SELECT 1") == b"1\n"
        rounds = 20
        for number in range(rounds):
            for target in targets:
                opened(up, target, SILENT // rounds // 3, begins[number % 4])
            send(service.udp[0], good[number::rounds], "127.77.0.1", 0)
            assert kept.ask("SELECT 2") == b"2\n"
            assert service.query("SELECT 3 AS n") == [{"n": 3}]
            assert json.loads(service.get("/health"))["status"] == "ok"
            assert used(service) < DESCRIPTORS
        rows = "SELECT count() AS n FROM flows WHERE exporter = toIPv6('::ffff:127.77.0.1')"
        assert service.wait_for_rows(rows, expected) == expected
        assert service.metric("vmflow_store_dropped_rows_total") == 0
        assert service.metric("vmflow_sql_connections_ended_total", reason="displaced") > 1000
        assert service.metric("vmflow_web_connections_ended_total", reason="displaced") > 1000
        assert service.metric("vmflow_listen_stream_closed_total", reason="displaced") > 1000
        assert service.metric("vmflow_sql_connections") + service.metric("vmflow_web_connections") < DESCRIPTORS
        assert service.stop() == 0
        assert [line for line in service.log if line.get("level") == "error"] == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "templates.json" in files
    assert {oct(stat.S_IMODE(path.stat().st_mode) & 0o077) for path in files} == {"0o0"}


def test_few_descriptors_are_reported_in_one_line(tmp_path: Path) -> None:
    command = f'ulimit -n 64; exec "{sys.executable}" -m collector run --set store.url=chdb://{tmp_path}/store'
    run = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 2
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("vmflow run: ")
    assert "the system allows 64: raise the limit (`ulimit -n 4096`" in line
    assert not (tmp_path / "store").exists()


def test_connections_get_what_the_rest_leaves(tmp_path: Path) -> None:
    embedded = Settings.model_validate({"store": {"url": f"chdb://{tmp_path}"}})
    assert needed(embedded) > ENGINE
    plenty = connections(embedded, 65_536)
    assert (plenty.web, plenty.sql, plenty.streams) == (200, 200, 0)
    few = connections(embedded, needed(embedded) + LIBRARIES + 100)
    assert (few.web, few.sql, few.streams) == (50, 50, 0)
    least = needed(embedded) + 2 * FEWEST
    assert connections(embedded, least).web == FEWEST
    with pytest.raises(DescriptorsError, match=f"{least} file descriptors are needed .* allows {least - 1}:"):
        connections(embedded, least - 1)

    server = Settings.model_validate({"store": {"url": "http://127.0.0.1:1"}, "web": {"enabled": False}})
    assert CLIENTS < needed(server) < ENGINE
    assert connections(server, needed(server)).sql == 0
    streams = Settings.model_validate(
        {"store": {"url": "http://127.0.0.1:1"}, "listen": {"streams": ["tcp://[::1]:0"]}}
    )
    assert connections(streams, needed(streams) + 228).streams == 128


def test_the_limit_is_raised_as_far_as_the_system_lets_us() -> None:
    code = (
        "import resource\n"
        "from collector.process.descriptors import raise_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 900))\n"
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["900", "900", "900"]
