"""Slow, silent and greedy HTTP clients of the server that both endpoints use: both event loops, plain and TLS."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from collector.http import server as http
from collector.http.gate import SCOPE_USER
from collector.metrics import Metrics

SHORT = 0.6
"""Seconds that a client may let the server wait, here."""
LARGE = 40_000_000
CONNECTIONS = 8


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body; `/large` with much; `/known` to somebody who is logged in."""
    if scope["path"] == "/known":
        scope[SCOPE_USER] = "ann"
    request = Request(scope, receive)
    try:
        octets = len(await request.body())
    except ClientDisconnect:
        return
    parts = [bytes(LARGE)] if scope["path"] == "/large" else [str(octets).encode()]
    await http.LargeResponse(parts)(scope, receive, send)


class Served:
    """A running server, and clients of it."""

    def __init__(self, metrics: Metrics, port: int, context: ssl.SSLContext | None, up: ExitStack) -> None:
        self.metrics = metrics
        self.port = port
        self._context = context
        self._up = up

    def connect(self, sent: bytes = b"", *, tls: bool = True) -> socket.socket:
        """A connection that has sent something."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        if self._context is not None and tls:
            sock = self._context.wrap_socket(sock, server_hostname="127.0.0.1")
        self._up.callback(sock.close)
        sock.sendall(sent)
        return sock

    def ask(self, path: str = "/") -> bytes:
        """The whole answer to a request on a connection of its own."""
        sock = self.connect(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        return ended(sock)

    def count(self, reason: str) -> float:
        return self.metrics.value("test_connections_ended_total", reason=reason) or 0

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def ended(sock: socket.socket) -> bytes:
    """What comes until the server closes, however it does."""
    got = b""
    with suppress(ConnectionError):
        while piece := sock.recv(1 << 16):
            got += piece
    return got


def answered(sock: socket.socket) -> None:
    """Read an answer of one octet."""
    got = b""
    while not got.endswith(b"\r\n\r\n0"):
        piece = sock.recv(1 << 16)
        assert piece, got
        got += piece


@contextmanager
def serving(loop: Callable[[], asyncio.AbstractEventLoop], tls: bool) -> Iterator[Served]:
    metrics = Metrics()
    started = threading.Event()
    found: dict[str, object] = {}
    authority = trustme.CA()
    context = client = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        client = ssl.create_default_context()
        authority.configure_trust(client)

    async def serve() -> None:
        listening, url = http.bind("127.0.0.1", 0)
        server = http.server(app, "test", metrics, context, CONNECTIONS)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        found.update(url=url, server=server, loop=asyncio.get_running_loop())
        started.set()
        await task

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(30)
    try:
        with ExitStack() as up:
            yield Served(metrics, int(str(found["url"]).rsplit(":", 1)[1]), client, up)
    finally:
        found["server"].should_exit = True  # type: ignore[attr-defined]
        thread.join(30)
        assert not thread.is_alive()


def loops() -> list[object]:
    try:
        import uvloop
    except ImportError:
        return [pytest.param(asyncio.new_event_loop, id="asyncio")]
    return [
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ]


@pytest.fixture(params=loops())
def loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    made: Callable[[], asyncio.AbstractEventLoop] = request.param
    return made


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def served(
    loop: Callable[[], asyncio.AbstractEventLoop], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    for phase in (http.Phase.HEAD, http.Phase.BODY, http.Phase.TAKE):
        monkeypatch.setitem(http.LIMITS, phase, SHORT)
    monkeypatch.setattr(http, "TAKE_SECONDS", SHORT)
    monkeypatch.setattr(http, "HANDSHAKE_SECONDS", SHORT)
    monkeypatch.setattr(http, "BODY_BYTES_PER_SECOND", 1 << 30)
    with serving(loop, bool(request.param)) as running:
        yield running


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize(
    ("sent", "drip", "reason"),
    [
        (b"", b"", "head"),
        (b"GET / HTTP/1.1\r\nX: ", b"a", "head"),
        (HEAD + b"\r\n", b"a", "body"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", "idle"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT", b"T", "head"),
    ],
    ids=["silent", "slow head", "slow body", "idle", "slow second head"],
)
def test_who_lets_us_wait_is_ended(
    served: Served, sent: bytes, drip: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(http.LIMITS, http.Phase.IDLE, SHORT)
    sock = served.connect(sent)
    stop = threading.Event()

    def send() -> None:
        while drip and not stop.wait(0.05):
            try:
                sock.sendall(drip)
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    served.until(lambda: served.count(reason) == 1)
    stop.set()
    thread.join()
    served.until(lambda: served.metrics.value("test_connections") == 0)
    assert served.ask().endswith(b"\r\n\r\n0")


def test_who_does_not_take_an_answer_is_ended_and_who_takes_it_slowly_has_it_all(served: Served) -> None:
    slow = served.connect(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    stuck = served.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    got = 0
    while piece := slow.recv(1 << 20):
        got += len(piece)
        time.sleep(0.002)
    assert got > LARGE
    served.until(lambda: served.count("take") == 1)
    assert len(ended(stuck)) < LARGE


def test_silent_connections_take_no_place_that_another_one_needs(served: Served) -> None:
    """With TLS they do not begin the handshake, which is counted all the same."""
    known = served.connect(b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n")
    answered(known)
    for number in range(100):
        served.connect(tls=number % 10 == 0)
        if number % 10 == 0:
            assert served.ask().endswith(b"\r\n\r\n0")
    served.until(lambda: served.count("displaced") >= 90)
    assert (served.metrics.value("test_connections") or 0) <= CONNECTIONS
    assert served.count("source") == served.count("connections") == 0
    known.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert ended(known).endswith(b"\r\n\r\n0")


def test_where_all_are_kept_one_more_is_refused(served: Served) -> None:
    kept = [served.connect(b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(CONNECTIONS // 2)]
    for sock in kept:
        answered(sock)
    one_more = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    answer = ended(one_more)
    one_more.close()
    assert answer == (b"" if served._context is not None else http.NO_PLACE)
    assert served.count("source") == 1
    kept[0].close()
    served.until(lambda: (served.metrics.value("test_connections") or 0) < CONNECTIONS // 2)
    assert served.ask().endswith(b"\r\n\r\n0")


@pytest.mark.parametrize("size", [3 * http.HEAD_BYTES, 8 * http.HEAD_BYTES])
def test_a_head_that_is_too_long_is_refused_also_if_it_comes_at_once(served: Served, size: int) -> None:
    sock = served.connect(b"GET / HTTP/1.1\r\nHost: x\r\n")
    with suppress(OSError):  # it was refused before the end
        sock.sendall(b"a:\r\n" * (size // 4) + b"\r\n")
    assert ended(sock)[:12] in (b"HTTP/1.1 400", b"")
    assert served.ask().endswith(b"\r\n\r\n0")
    short = served.connect(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + b"a: b\r\n" * 1000 + b"\r\n")
    assert ended(short).endswith(b"\r\n\r\n0")


def without_descriptors(loop: str) -> None:
    """In a process of its own: as many connections as there are descriptors, and more; then somebody asks."""
    import uvloop

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop

    async def serve() -> None:
        listening, url = http.bind("127.0.0.1", 0)
        metrics = Metrics()
        server = http.server(app, "test", metrics, None, 1000)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        print(url.rsplit(":", 1)[1], flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        server.should_exit = True
        await task
        print(int(metrics.value("test_connections_ended_total", reason="displaced") or 0))

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_without_descriptors_connections_give_way_and_the_server_lives(loop: str) -> None:
    """More places than descriptors: the limit was set too high, or something else took them."""
    pytest.importorskip("uvloop")
    code = f"from tests.http.test_server import without_descriptors; without_descriptors({loop!r})"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        ExitStack() as up,
    ):
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(150):
            up.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        asking = up.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        asking.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert ended(asking).endswith(b"\r\n\r\n0")
        out, _ = process.communicate("stop\n", timeout=60)
    assert process.returncode == 0
    assert int(out) > 0
