"""A stop under queries that the engine cannot cancel: the process ends by itself, and every row is there afterwards."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.service import Service, running
from tests.test_signals import datagram

PLACES = 4
ROWS = 200

LONG = {
    "blocks": "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)",
    # Minutes within one block of rows: neither max_execution_time nor KILL QUERY is looked at before its end.
    "one call": "WITH (SELECT groupArray(number) FROM numbers(1000000)) AS a "
    "SELECT sum(has(a, number + 2000000)) FROM numbers(10000)",
    # Minutes in the analyzer, before a row is read.
    "analysis": "SELECT count() FROM numbers(10) WHERE "
    + " AND ".join(f"(number={number} OR number={number + 1})" for number in range(3000)),
}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Asker(threading.Thread):
    """Asks from a loopback address of its own and keeps the answer; `leave` closes the connection before it comes."""

    def __init__(self, service: Service, sql: str, source: str = "127.0.0.1") -> None:
        super().__init__(daemon=True)
        parts = urlsplit(str(service.ready["sql"]))
        assert parts.hostname is not None
        assert parts.port is not None
        self._connection = socket.create_connection((parts.hostname, parts.port), 30, source_address=(source, 0))
        self._connection.settimeout(120)
        self._sql = sql.encode()
        self.answer = b""

    def run(self) -> None:
        head = f"POST /?database=vmflow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(self._sql)}\r\n"
        with self._connection, contextlib.suppress(OSError):
            self._connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + self._sql)
            while octets := self._connection.recv(65536):
                self.answer += octets

    def leave(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self.join()

    @property
    def status(self) -> int:
        return int(self.answer.split()[1])


def ask(service: Service, sql: str, count: int, source: str = "127.0.0.1") -> list[Asker]:
    """Ask so often and wait until all queries run, or are answered: the guard may refuse some functions."""
    before = service.metric("vmflow_sql_running_queries")
    askers = [Asker(service, sql, source) for _ in range(count)]
    for asker in askers:
        asker.start()
    wait_for(
        lambda: (
            service.metric("vmflow_sql_running_queries") - before + sum(bool(asker.answer) for asker in askers) >= count
        )
    )
    return askers


def send_rows(service: Service, first: int, count: int) -> None:
    host, port = service.udp[0].rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        for number in range(first, first + count):
            exporter.sendto(datagram(number), (host, int(port)))
            time.sleep(0.0005)


def stored(service: Service) -> list[int]:
    sql = "SELECT toUInt32(src_port) + 65536 * dst_port AS number FROM flows"
    return sorted(int(row["number"]) for row in service.query(sql))


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("kind", LONG)
def test_a_stop_waits_for_no_query_and_stores_what_came(tmp_path: Path, kind: str, signals: int) -> None:
    with running(tmp_path, f"sql.max_queries={PLACES}") as service:
        askers = ask(service, LONG[kind], PLACES)
        assert service.metric("vmflow_sql_running_queries") == PLACES
        send_rows(service, 0, ROWS)
        wait_for(lambda: service.metric("vmflow_decoded_rows_total", table="flows") >= ROWS)
        for _ in range(signals - 1):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert service.stop(signal.SIGTERM, 120) == 0
        if signals == 1:
            assert not [line for line in service.log if line.get("level") == "error"]
        for asker in askers:
            asker.join()
            assert (asker.status, b"(ABORTED)" in asker.answer) == (503, True), asker.answer
    with running(tmp_path) as again:
        assert again.wait_for_rows("SELECT count() AS n FROM flows", ROWS) == ROWS
        assert stored(again) == list(range(ROWS))
        assert again.stop() == 0


def test_queries_end_when_clients_leave_and_others_are_answered_meanwhile(tmp_path: Path) -> None:
    with running(tmp_path, "sql.max_queries=2", "sql.max_seconds=600") as service:
        askers = ask(service, LONG["blocks"], 2)
        waiting = Asker(service, "SELECT 'first'", "127.0.0.2")
        waiting.start()
        assert service.metric("vmflow_sql_running_queries") == 2
        assert service.metric("vmflow_sql_overdue_queries") == 0

        askers[0].leave()
        waiting.join()
        assert waiting.answer.endswith(b"first\n")
        assert service.query("SELECT 1 AS n") == [{"n": 1}]
        wait_for(lambda: service.metric("vmflow_sql_running_queries") == 1)
        askers[1].leave()
        wait_for(lambda: service.metric("vmflow_sql_running_queries") == 0)
        assert service.metric("vmflow_sql_queries_total", outcome="gone") == 2
        assert service.stop() == 0


def test_queries_that_do_not_end_give_their_places_back_up_to_a_bound_and_rows_are_stored(tmp_path: Path) -> None:
    with running(tmp_path, "sql.max_queries=2", "sql.max_seconds=2") as service:
        first = ask(service, LONG["one call"], 2)
        for asker in first:
            asker.join()
            assert (asker.status, b"(TIMEOUT_EXCEEDED)" in asker.answer) == (500, True)
        wait_for(lambda: service.metric("vmflow_sql_overdue_queries") == 2)
        # Whose they are gets no more; others do.
        again = Asker(service, "SELECT 1")
        again.run()
        assert again.status == 503
        assert b"2 of your queries were cancelled and have not ended" in again.answer
        other = Asker(service, "SELECT 'other'", "127.0.0.2")
        other.run()
        assert (other.status, other.answer[-6:]) == (200, b"other\n")

        for asker in ask(service, LONG["one call"], 2, "127.0.0.2"):
            asker.join()
        wait_for(lambda: service.metric("vmflow_sql_overdue_queries") == 4)
        third = Asker(service, "SELECT 1", "127.0.0.3")
        third.run()
        problem = "4 queries that were cancelled have not ended; others begin again when they have"
        assert third.status == 503
        assert problem.encode() in third.answer
        assert f'"sql":"{problem}"' in service.get("/health").replace('": "', '":"')

        # Meanwhile rows come, are stored and summed, and windows close.
        closed = service.metric("vmflow_windows_closed_total", level="10s")
        send_rows(service, 0, ROWS)
        wait_for(lambda: service.metric("vmflow_store_rows_total", table="flows") == ROWS)
        wait_for(lambda: service.metric("vmflow_rollup_rows_total") == ROWS)
        wait_for(lambda: service.metric("vmflow_windows_closed_total", level="10s") > closed)
        assert service.metric("vmflow_sql_overdue_queries") == 4
        assert service.stop(signal.SIGTERM, 120) == 0
    with running(tmp_path) as after:
        assert stored(after) == list(range(ROWS))
        assert after.stop() == 0
