"""Odd HTTP by the hundred to both servers of a real service: clean refusals, the same headers, and a short log."""

from __future__ import annotations

import json
import random
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.http.server import HEADERS, NO_PLACE
from tests.service import Service, running

LINES = 40
"""More than the service writes by itself while the tests run, far less than the requests that are sent."""
PATHS = ("/", "/health", "/metrics", "/ping", "/api/v1/alerts", "/api/openapi.json", "/nothing")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")  # no datagram comes: it need not compile the decoders
        with running(tmp_path_factory.mktemp("odd")) as started:
            yield started


@pytest.fixture(params=["web", "sql"])
def url(request: pytest.FixtureRequest, service: Service) -> str:
    return str(service.ready[request.param])


def sent(url: str, *pieces: bytes, end: bool = False) -> list[bytes]:
    """Heads of the answers to one connection's octets, until the server closes; `end`: say that no more will come."""
    parts = urlsplit(url)
    received = bytearray()
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionError:
            pass  # it was closed while octets were on their way
    heads = []
    for part in received.split(b"HTTP/1.1 ")[1:]:
        heads.append(bytes(part.partition(b"\r\n\r\n")[0]))
    return heads


def check(heads: list[bytes], request: object) -> list[int]:
    """What must hold for every answer; their status codes."""
    codes = []
    for head in heads:
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = [line.partition(": ") for line in lines]
        held = {name.lower(): value for name, _, value in fields}
        code = int(first.split()[0])
        assert code < 500, (request, head)
        if code >= 200:
            assert {name: held.get(name.lower()) for name, _ in HEADERS} == dict(HEADERS), (request, head)
            assert len(fields) == len(held), (request, head)
        assert not [name for name in held if name.startswith("access-control-")], (request, head)
        codes.append(code)
    return codes


def request(line: str, *headers: str, body: str = "") -> bytes:
    """A request, `Connection: close` included; octets above 127 as they are."""
    return "\r\n".join([line, *headers, "Connection: close", "", body]).encode("latin-1")


OURS = "Host: 127.0.0.1"
REFUSED = {
    "two hosts": request("GET / HTTP/1.1", OURS, OURS),
    "two different hosts": request("GET / HTTP/1.1", OURS, "Host: attacker.example"),
    "no host": request("GET / HTTP/1.1"),
    "no host in 1.0": request("GET / HTTP/1.0"),
    "empty host": request("GET / HTTP/1.1", "Host:"),
    "userinfo": request("GET / HTTP/1.1", "Host: a@127.0.0.1"),
    "trailing dot": request("GET / HTTP/1.1", "Host: localhost."),
    "port junk": request("GET / HTTP/1.1", "Host: localhost:80x"),
    "port too large": request("GET / HTTP/1.1", "Host: localhost:99999"),
    "not ASCII": request("GET / HTTP/1.1", "Host: l\xf6calhost"),
    "long host": request("GET / HTTP/1.1", f"Host: {'a' * 9_000}"),
    "two origins": request("GET / HTTP/1.1", OURS, "Origin: http://127.0.0.1", "Origin: http://attacker.example"),
    "same origin twice": request("GET / HTTP/1.1", OURS, "Origin: http://127.0.0.1", "Origin: http://127.0.0.1"),
    "broken origin": request("GET / HTTP/1.1", OURS, "Origin: http://["),
    "origin not ASCII": request("GET / HTTP/1.1", OURS, "Origin: http://\xff"),
    "two logins": request("GET / HTTP/1.1", OURS, "Authorization: Basic YTpi", "Authorization: Bearer x"),
    "two sites": request("GET / HTTP/1.1", OURS, "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"),
    "other site": request("GET / HTTP/1.1", OURS, "Sec-Fetch-Site: cross-site"),
    "TRACE": request("TRACE / HTTP/1.1", OURS),
    "CONNECT": request("CONNECT 127.0.0.1:22 HTTP/1.1", OURS),
    "CONNECT to a path": request("CONNECT / HTTP/1.1", OURS),
    "DELETE": request("DELETE / HTTP/1.1", OURS),
    "preflight": request("OPTIONS / HTTP/1.1", OURS, "Origin: http://attacker.example",
                         "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"),
    "preflight for this machine": request("OPTIONS / HTTP/1.1", OURS, "Access-Control-Request-Private-Network: true"),
    "unknown method": request("FLOWS / HTTP/1.1", OURS),
    "small letters": request("get / HTTP/1.1", OURS),
    "two lengths": request("POST / HTTP/1.1", OURS, "Content-Length: 3", "Content-Length: 4", body="abcd"),
    "length and chunks": request("POST / HTTP/1.1", OURS, "Content-Length: 3",
                                 "Transfer-Encoding: chunked", body="8\r\nSELECT 1\r\n0\r\n\r\n"),
    "negative length": request("POST / HTTP/1.1", OURS, "Content-Length: -1"),
    "two codings": request("POST / HTTP/1.1", OURS, "Content-Encoding: gzip", "Content-Encoding: identity", body=""),
    "tunnel of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "garbage": b"\x00\xff" * 50 + b"\r\n\r\n",
    "white space before a colon": b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n attacker.example\r\n\r\n",
    "endless head": b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_malformed_is_refused(url: str, name: str) -> None:
    codes = check(sent(url, REFUSED[name]), name)

    assert len(codes) == 1
    assert 400 <= codes[0] < 500


def test_watchdogs_need_no_name(service: Service) -> None:
    for server, path in (("web", "/health"), ("web", "/metrics"), ("sql", "/ping")):
        url = str(service.ready[server])
        for host in ((), ("Host: prometheus-target.example:8080",)):
            version = "1.1" if host else "1.0"
            assert check(sent(url, request(f"GET {path} HTTP/{version}", *host)), path) == [200]
            assert check(sent(url, request(f"HEAD {path} HTTP/{version}", *host)), path) == [200]


def test_garbage_after_an_answer_has_begun(url: str) -> None:
    """The refusal is sent before the body ends, and the body then turns out to be none."""
    head = "POST /api/v1/silences?query=SELECT+1 HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for rest in (b"zz\r\n", b"3\r\nabc\r\nzz\r\n", b"5\r\nab", b"GET / HTTP/1.1\r\n\r\n"):
        check(sent(url, head.encode(), rest, end=True), rest)
        check(sent(url, head.encode() + rest, end=True), rest)
    two = request("GET /health HTTP/1.1", OURS).replace(b"Connection: close\r\n", b"") + b"\x00\x01\r\n\r\n"
    assert check(sent(url, two), "second") in ([200, 400], [404, 400])


def test_requests_that_break_off(service: Service, url: str) -> None:
    """Hundreds at each length: a client that waits for the rest learns that it will not come, and logs none of it."""
    body = '{"matchers": {"rule": "x"}, "seconds": 60, "who": "a"}'
    kind, length = "Content-Type: application/json", f"Content-Length: {len(body)}"
    whole = request("POST /api/v1/silences HTTP/1.1", OURS, kind, length, body=body)
    for cut in range(0, len(whole) - 1, 3):
        assert check(sent(url, whole[:cut], end=True), cut) in ([], [400], [404])


def test_mutations_of_good_requests(url: str) -> None:
    """Octets changed, lines repeated, dropped and moved, from a seed that stays."""
    chosen = random.Random(20)
    good = [request(f"{method} {path}?query=SELECT+1 HTTP/1.1", OURS, "Accept: */*", "Origin: http://127.0.0.1",
                    "Content-Type: application/json", "Content-Length: 2", "Authorization: Basic YTpi",
                    "Upgrade: websocket", "X-ClickHouse-Key: x", "Expect: 100-continue", body="{}")
            for method in ("GET", "POST", "HEAD", "OPTIONS") for path in PATHS]  # fmt: skip
    for _ in range(300):
        lines = chosen.choice(good).split(b"\r\n")
        for _ in range(chosen.randint(1, 3)):
            at = chosen.randrange(len(lines))
            kind = chosen.randrange(4)
            if kind == 0:
                lines.insert(chosen.randrange(len(lines)), lines[at])
            elif kind == 1 and len(lines) > 1:
                del lines[at]
            else:
                line = bytearray(lines[at] or b":")
                for _ in range(kind):
                    line[chosen.randrange(len(line))] = chosen.randrange(256)
                lines[at] = bytes(line)
        changed = b"\r\n".join(lines)
        check(sent(url, changed + b"\r\n\r\n", end=True), changed)


def test_the_log_stays_short_and_the_counters_tell(service: Service) -> None:
    """Last: what all of the above, and a flood of the worst of it, has written."""
    for server in ("web", "sql"):
        url = str(service.ready[server])
        for name in ("broken origin", "garbage", "two hosts", "unknown method"):
            for _ in range(100):
                sent(url, REFUSED[name])
        for _ in range(100):
            sent(url, request("GET / HTTP/1.1", OURS, "Upgrade: websocket").replace(b": close", b": upgrade, close"))

    def total(name: str) -> float:
        return service.metric(f"vmflow_{name}")

    assert total("requests_refused_total") >= 400  # the rest is no HTTP and gets no further than the parser
    assert total("requests_failed_total") == 0
    written = service.log[service.log.index(service.ready) :]
    assert not [line for line in written if "exception" in line or "text" in line], written
    assert len(written) <= LINES, written
    with urllib.request.urlopen(f"{service.ready['web']}/health", timeout=30) as answer:
        assert json.load(answer)["status"] == "ok"


def test_silent_connections_give_way_and_a_refusal_has_the_same_headers(service: Service) -> None:
    url = urlsplit(str(service.ready["web"]))
    silent = [socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=60) for _ in range(220)]
    try:
        (head,) = sent(url.geturl(), request("GET /health HTTP/1.1", OURS))
        assert head.startswith(b"200 ")
        held = NO_PLACE.decode().lower()
        assert all(f"\r\n{name}: {value}".lower() in held for name, value in HEADERS)
    finally:
        for connection in silent:
            connection.close()


def test_the_service_ends_well(service: Service, tmp_path: Path) -> None:
    """The last of this file: an orderly stop with a connection open whose request does not end."""
    url = urlsplit(str(service.ready["web"]))
    with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=60) as connection:
        connection.sendall(b"POST /api/v1/silences HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 9\r\n\r\n{")  # fmt: skip
        assert service.stop() == 0
    assert not [line for line in service.log if "exception" in line or "text" in line], service.log
