"""Results on their way to a collector that is away, slow, or refuses them."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent import outbox
from agent.outbox import PATH, Answer, Outbox, Poster


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LEAST_PAUSE_S", 0.0)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_S", 0.0)


class Collector:
    """Answers as it is told, then with 202."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    def __call__(self, body: bytes) -> Answer:
        self.bodies.append(body)
        return self.answers.pop(0) if self.answers else Answer(202, "")

    def rows(self) -> list[int]:
        """What it has, each batch once."""
        batches = {json.loads(body)["batch"]: json.loads(body) for body in self.bodies}
        return [number for batch in batches.values() for number in batch["columns"]["n"]]


def sent(collector: Collector, fill: Callable[[Outbox], None], **options: Any) -> tuple[Outbox, list[str]]:
    """Fill a box, let it send all, and end."""
    said: list[str] = []

    async def run() -> Outbox:
        box = Outbox(collector, said.append, **options)
        fill(box)
        running = asyncio.create_task(box.run())
        await box.finish(running, 30)
        return box

    return asyncio.run(run()), said


def numbers(count: int) -> Callable[[Outbox], None]:
    return lambda box: [box.add({"n": number}) for number in range(count)] and None


def test_a_batch_is_the_same_at_each_try_and_nothing_is_lost() -> None:
    away = [Answer(0, "Connection refused"), Answer(503, "no room", 2.0), Answer(401, "a login is needed")]
    collector = Collector(*away)
    box, said = sent(collector, numbers(1500))

    assert collector.bodies[0] == collector.bodies[1] == collector.bodies[2] == collector.bodies[3]
    assert collector.rows() == list(range(1500))
    assert (box.taken, box.waiting, box.dropped) == (1500, 0, 0)
    assert said == [
        "the collector takes no results (Connection refused): they wait",
        "the collector takes no results (503: no room): they wait",
        "the collector takes no results (401: a login is needed): they wait",
        "the collector takes results again",
    ]


def test_a_batch_that_is_known_is_done() -> None:
    collector = Collector(Answer(0, "timed out"), Answer(409, "the batch was taken before"))
    box, _ = sent(collector, numbers(3))

    assert (len(collector.bodies), box.taken) == (2, 3)


def test_a_batch_that_will_never_be_taken_is_dropped_and_the_next_one_goes() -> None:
    collector = Collector(Answer(422, "time_us: too old"))
    box, said = sent(collector, numbers(1001))

    assert (len(collector.bodies), box.taken, box.dropped) == (2, 1, 1000)
    assert said == [
        "the collector refuses a batch (422: time_us: too old): 1000 rows are dropped",
        "the collector takes results again; 1000 rows were dropped",
    ]


def test_the_oldest_rows_are_dropped_where_there_is_no_room() -> None:
    collector = Collector(Answer(0, "away"))
    box, said = sent(collector, numbers(1000), kept_octets=500)

    assert collector.rows() == list(range(900, 1000))
    assert (box.taken, box.dropped) == (100, 900)
    assert said[-1] == "the collector takes results again; 900 rows were dropped"


def test_batches_are_shorter_than_the_collector_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    sent(collector, lambda box: [box.add({"n": number, "text": "x" * 10_000}) for number in range(200)] and None)

    assert collector.rows() == list(range(200))
    assert max(map(len, collector.bodies)) < 600_000


def test_an_end_does_not_wait_for_a_collector_that_is_away() -> None:
    async def run() -> Outbox:
        box = Outbox(lambda body: Answer(0, "away"), lambda line: None)
        box.add({"n": 1})
        await box.finish(asyncio.create_task(box.run()), 0.1)
        return box

    assert asyncio.run(run()).waiting == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail": "wrong", "errors": ["a", "b"]}', "wrong; a; b"),
        (b"<html>" + b"x" * 500, "<html>" + "x" * 94),
        (b'{"detail": "' + b"y" * 400 + b'"}', "y" * 300),
        (b"[1]", "[1]"),
        (b"\xff", "�"),
    ],
)
def test_reasons_are_short_whatever_comes(body: bytes, text: str) -> None:
    assert outbox._reason(body) == text


class _Busy(BaseHTTPRequestHandler):
    """Says that it is busy, and what it got."""

    def do_POST(self) -> None:
        got = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.dumps({"detail": f"{self.path} {self.headers['Authorization']} {got}"}).encode()
        self.send_response(503)
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing is logged."""


def test_a_batch_goes_over_tls_to_those_whom_the_authority_signed(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    token = tmp_path / "token"
    token.write_text("abc\n")
    with HTTPServer(("127.0.0.1", 0), _Busy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"https://localhost:{server.server_port}"
            answer = Poster(f"{url}/x", token, tmp_path / "ca.crt")(b"{}")
            stranger = Poster(url, token, tmp_path / "other.crt")(b"{}")
            token.write_text("two words")
            wrong = Poster(url, token, tmp_path / "ca.crt")(b"{}")
        finally:
            server.shutdown()
            thread.join()

    assert answer == Answer(503, f"/x{PATH} Bearer abc {{}}", 7)
    assert stranger.status == wrong.status == 0
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.text
    assert "one line with a token is expected" in wrong.text
