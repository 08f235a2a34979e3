"""The gate in front of the SQL endpoint and the web server, over real sockets, with TLS and without."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import httpx
import pytest
import trustme
from clickhouse_connect.driver import exceptions as driver
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from collector.commands.query import connect
from collector.http import server
from collector.http.gate import Entrance
from collector.http.settings import AccessError, AccessSettings
from collector.metrics import Metrics
from collector.store.client import open_client
from collector.store.errors import StoreError
from collector.store.settings import SqlSettings, StoreSettings
from collector.tls import server_context
from tests.http.test_login import HASH, PASSWORD, SETTINGS, TOKEN
from tests.sql.support import Endpoint, served


@pytest.fixture(scope="module")
def store(store_directory: Path) -> Iterator[StoreSettings]:
    settings = StoreSettings(url=f"chdb://{store_directory}", database="default")
    client = open_client(settings)
    yield settings
    client.close()


@pytest.fixture(scope="module")
def guarded(store: StoreSettings) -> Iterator[Endpoint]:
    with served(store, SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def unguarded(store: StoreSettings) -> Iterator[Endpoint]:
    with served(store, AccessSettings.model_validate({"names": ["flows.example.net"]})) as running:
        yield running


def basic(user: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()}


def test_without_a_login_sql_is_refused_as_clickhouse_does(guarded: Endpoint) -> None:
    status, body, headers = guarded.ask("SELECT 1")

    assert (status, headers["X-ClickHouse-Exception-Code"]) == (401, "516")
    assert headers["WWW-Authenticate"].startswith("Basic ")
    assert body.startswith(b"Code: 516. DB::Exception: ")
    assert guarded.ask(path="/ping")[:2] == (200, b"Ok.\n")


@pytest.mark.parametrize(
    "headers",
    [
        basic("ann", PASSWORD),
        basic("grafana", TOKEN),
        {"Authorization": f"Bearer {TOKEN}"},
        {"X-ClickHouse-User": "ann", "X-ClickHouse-Key": PASSWORD},
        {"X-ClickHouse-Key": TOKEN},
    ],
)
def test_every_way_of_a_clickhouse_client_to_log_in(guarded: Endpoint, headers: dict[str, str]) -> None:
    assert guarded.ask("SELECT 1", headers)[:2] == (200, b"1\n")


def test_parameters_log_in_too(guarded: Endpoint) -> None:
    assert guarded.ask("SELECT 1", user="ann", password=PASSWORD)[:2] == (200, b"1\n")
    assert guarded.ask("SELECT 1", user="ann", password="wrong")[0] == 401


@pytest.mark.parametrize(
    "value",
    [
        "Basic",
        "Basic ?",
        "Basic " + base64.b64encode(b"ann").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Bearer",
        "Bearer " + HASH,
        "Digest x",
        "Negotiate x",
    ],
)
def test_broken_headers_let_nobody_in(guarded: Endpoint, value: str) -> None:
    assert guarded.ask("SELECT 1", {"Authorization": value})[0] in (401, 429)


def test_clickhouse_connect_logs_in(guarded: Endpoint) -> None:
    parts = urlsplit(guarded.url)
    client = clickhouse_connect.get_client(host=parts.hostname, port=parts.port, username="ann", password=PASSWORD)
    assert client.query("SELECT 1").result_rows == [(1,)]
    client.close()
    with pytest.raises(driver.DatabaseError):
        clickhouse_connect.get_client(host=parts.hostname, port=parts.port, username="ann", password="wrong")


PERSON = {"Accept-Language": "en", "User-Agent": "Mozilla/5.0"}
LINK = PERSON | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 421),
        ({"Host": "127.0.0.1.attacker.example"}, 421),
        ({"Host": "localhost.attacker.example"}, 421),
        ({"Host": "0x7f000001"}, 421),
        ({"Host": ""}, 400),
        ({"Host": "localhost."}, 400),
        ({"Host": "127.0.0.1:x"}, 400),
        ({"Host": "127.0.0.1:"}, 400),
        ({"Host": "127.0.0.1:0"}, 400),
        ({"Host": "127.0.0.1:65536"}, 400),
        ({"Host": "attacker@127.0.0.1"}, 400),
        ({"Host": "127.0.0.1@attacker.example"}, 400),
        ({"Host": "[::1"}, 400),
        ({"Host": "[127.0.0.1]"}, 400),
        ({"Host": "\u0131ocalhost".encode().decode("latin-1")}, 400),
        ({"Host": "127.0.0.1, attacker.example"}, 400),
        ({"Host": "flows.example.net:8123"}, 200),
        ({"Host": "FLOWS.example.net"}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "[fe80::1%eth0]:1"}, 200),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "https://localhost"}, 200),  # TLS may end at a proxy
        ({"Host": "localhost", "Origin": "ftp://localhost"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost@localhost"}, 403),
        ({"Host": "localhost:8123", "Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
        ({"Sec-Fetch-Site": "same-origin, none"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"} | PERSON, 200),
        (PERSON, 403),  # it does not say which page asks: a script's address, for example
        (LINK, 403),
    ],
)
def test_pages_of_other_sites_get_nothing(unguarded: Endpoint, headers: dict[str, str], status: int) -> None:
    """DNS rebinding: the page's own name points to this machine, so the browser takes both for one site."""
    for asked in (
        unguarded.ask("SELECT 1", headers),
        unguarded.ask(None, headers, query="SELECT 1"),
        unguarded.ask(None, headers, query="SELECT 1", user="default"),
    ):
        assert asked[0] == status
        assert (asked[1] == b"1\n") == (status == 200)
        assert {name: asked[2][name] for name, _ in server.HEADERS} == dict(server.HEADERS)
        assert not [name for name in asked[2] if name.lower().startswith("access-control-")]


def test_the_name_of_the_server_must_be_ours_with_a_login_too(guarded: Endpoint) -> None:
    assert guarded.ask("SELECT 1", basic("ann", PASSWORD) | {"Host": "flows.example.net"})[0] == 421
    assert guarded.ask(path="/ping", headers={"Host": "flows.example.net"})[0] == 200


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        (basic("ann", PASSWORD) | {"X-ClickHouse-Key": TOKEN}, {}),
        (basic("ann", PASSWORD), {"user": "ann", "password": PASSWORD}),
        ({"X-ClickHouse-Key": TOKEN}, {"password": TOKEN}),
    ],
)
def test_two_ways_to_log_in_at_once_are_one_too_many(
    guarded: Endpoint, headers: dict[str, str], parameters: dict[str, str]
) -> None:
    assert guarded.ask("SELECT 1", headers, **parameters)[0] == 400


def test_an_answer_that_nobody_takes_is_given_up(store: StoreSettings) -> None:
    """The client reads nothing: the answer does not fit into the buffers of the sockets."""
    impatient = SqlSettings(port=0, max_seconds=0.5, max_result_bytes=64 * 2**20)
    with served(store, settings=impatient) as running:
        parts = urlsplit(running.url)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((str(parts.hostname), int(parts.port or 0)))
            sql = b"SELECT repeat('x', 1000) FROM numbers(30000)"
            head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(sql)}\r\n\r\n"
            connection.sendall(head.encode() + sql)
            for _ in range(400):
                if running.metrics.value("sql_queries_total", outcome="not_taken"):
                    break
                assert running.ask("SELECT 1")[1] == b"1\n"
        assert running.metrics.value("sql_queries_total", outcome="not_taken") == 1


class _App:
    """A web server of our own kind, with a route that changes something."""

    def __init__(self, access: AccessSettings) -> None:
        async def change(request: Request) -> JSONResponse:
            return JSONResponse({"who": request.scope.get("vmflow.user")})

        async def defect(request: Request) -> JSONResponse:
            raise LookupError("a defect")

        app = Router(
            routes=[
                Route("/metrics", change),
                Route("/health", change),
                Route("/x", change, methods=["GET", "POST"]),
                Route("/defect", defect),
            ]
        )
        self.metrics = Metrics()
        self.app = Entrance(access, self.metrics, asyncio.to_thread).gate(app, "web.example.net")

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, content: bytes = b""
    ) -> tuple[int, Any]:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, headers=headers, content=content)

        answer = asyncio.run(run())
        return answer.status_code, answer.json() if answer.status_code == 200 else answer.json()["detail"]


def test_readers_read_and_operators_change() -> None:
    app = _App(SETTINGS)
    reader, operator = {"Authorization": f"Bearer {TOKEN}"}, basic("ann", PASSWORD)

    assert app.ask("GET", "/x")[0] == 401
    assert app.ask("POST", "/x")[0] == 401
    assert app.ask("GET", "/x", reader) == (200, {"who": "grafana"})
    assert app.ask("POST", "/x", reader) == (403, "grafana is a reader: an operator is needed to change anything")
    json = {"Content-Type": "application/json"}
    assert app.ask("POST", "/x", operator | json, b"{}") == (200, {"who": "ann"})
    assert app.ask("POST", "/x", operator)[0] == 415
    assert app.ask("GET", "/health") == (200, {"who": None})
    assert app.ask("GET", "/metrics")[0] == 401
    # ClickHouse's ways are for the SQL endpoint: a link must not carry a login.
    assert app.ask("GET", f"/x?user=ann&password={PASSWORD}")[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/x", {}, 200),
        ("GET", "/x", LINK, 200),  # a link in a mail: the browser shows it, the other site cannot read it
        ("GET", "/x", LINK | {"Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", "/x", LINK | {"Sec-Fetch-Mode": "no-cors"}, 403),
        ("HEAD", "/x", LINK, 403),
        ("POST", "/x", LINK | {"Content-Type": "application/json"}, 403),
        ("GET", "/x", PERSON, 200),
        ("GET", "/x", {"Host": "web.example.net"}, 200),
        ("GET", "/x", {"Host": "vmflow"}, 421),
        ("GET", "/metrics", {"Host": "vmflow:8080"}, 200),
        ("GET", "/health", {"Host": "balancer.example"}, 200),
        ("GET", "/metrics", {"Host": "attacker.example"} | PERSON, 421),
        ("GET", "/metrics", {"Host": "attacker.example", "Sec-Fetch-Site": "same-origin"}, 421),
        ("GET", "/metrics", {"Host": "attacker.example", "Referer": "http://attacker.example/"}, 421),
        ("GET", "/metrics", {"Host": "attacker.example:x"}, 400),
        ("GET", "/metrics", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", "/health", {"Origin": "http://attacker.example"}, 403),
        ("OPTIONS", "/x", {}, 405),
        ("TRACE", "/x", {}, 405),
        ("CONNECT", "/x", {}, 405),
        ("PUT", "/x", {}, 405),
        ("BREW", "/x", {}, 405),
        ("get", "/x", {}, 405),
    ],
)
def test_who_may_ask_the_web_server(method: str, path: str, headers: dict[str, str], status: int) -> None:
    app = _App(AccessSettings())
    assert asyncio.run(asgi(app, method, path, headers)) == status
    refused = app.metrics.registry.collect()
    total = sum(
        sample.value for family in refused for sample in family.samples
        if sample.name == "vmflow_requests_refused_total"
    )  # fmt: skip
    assert total == (status != 200 and method != "OPTIONS")  # which the router answers


async def asgi(app: _App, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of an answer to a request as it is, which httpx would mend."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"Host": "127.0.0.1"} | headers
    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http", "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    await app.app(scope, None, send)  # type: ignore[arg-type]
    return int(sent[0]["status"])


def test_a_defect_is_answered_counted_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    app = _App(AccessSettings())
    for _ in range(20):
        assert app.ask("GET", "/defect") == (500, "a defect of ours: the log says more")
    assert app.metrics.value("requests_failed_total") == 20
    assert [record.message for record in caplog.records] == ["a request failed: a defect of ours"]


def test_metrics_can_be_left_open() -> None:
    app = _App(SETTINGS.model_copy(update={"metrics_open": True}))
    assert app.ask("GET", "/metrics")[0] == 200
    assert app.ask("GET", "/x")[0] == 401


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _files(authority: trustme.CA, directory: Path, name: str) -> tuple[Path, Path]:
    made = authority.issue_cert("127.0.0.1", common_name=name)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    made.cert_chain_pems[0].write_to_path(str(certificate))
    made.private_key_pem.write_to_path(str(key))
    return certificate, key


def _trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_sql_over_tls(store: StoreSettings, authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = _files(authority, tmp_path, "one")
    access = SETTINGS.model_copy(update={"certificate_file": certificate, "key_file": key})
    with served(store, access) as running:
        assert running.url.startswith("https://127.0.0.1:")
        running.context = _trust(authority)
        assert running.ask("SELECT 1", basic("ann", PASSWORD))[:2] == (200, b"1\n")
        old = _trust(authority)
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        parts = urlsplit(running.url)
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            socket.create_connection((str(parts.hostname), int(parts.port or 0))) as plain,
        ):
            old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_query_command_shows_its_token_over_tls(
    store: StoreSettings, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate, key = _files(authority, tmp_path, "one")
    ca = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(str(ca))
    files = {"certificate_file": certificate, "key_file": key, "ca_file": ca}
    access = SETTINGS.model_copy(update={**files, "client_token": SecretStr(TOKEN)})
    with served(store, access) as running:
        here = SqlSettings(port=int(urlsplit(running.url).port or 0))
        client = connect(store, here, access)
        assert client.query("SELECT 1").result_rows == [(1,)]
        client.close()
        with pytest.raises(StoreError):
            connect(store, here, access.model_copy(update={"client_token": SecretStr("wrong")}))


def test_a_new_certificate_is_taken_over_while_running(authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = _files(authority, tmp_path, "one")
    access = AccessSettings(certificate_file=certificate, key_file=key)

    async def run() -> list[int]:
        entrance = Entrance(access, Metrics(), asyncio.to_thread)
        app = Starlette(routes=[Route("/health", lambda request: JSONResponse({"status": "ok"}))])
        listening, url = server.bind("127.0.0.1", 0, entrance.scheme)
        web = server.server(entrance.gate(app, "127.0.0.1"), "test", Metrics(), entrance.context())
        serving = asyncio.create_task(web.serve(sockets=[listening]))
        parts = urlsplit(url)
        serials = []
        try:
            for step in range(3):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port, ssl=_trust(authority), server_hostname="127.0.0.1"
                )
                serials.append(int(writer.get_extra_info("peercert")["serialNumber"], 16))
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2]) == {"status": "ok"}
                writer.close()
                if step == 0:
                    fresh, fresh_key = _files(authority, tmp_path, "two")
                    fresh.replace(certificate)
                    fresh_key.replace(key)
                    entrance.read_again()()
                else:
                    certificate.write_text("nonsense")
                    with pytest.raises(AccessError, match="no certificate in"):
                        entrance.read_again()
        finally:
            web.should_exit = True
            await serving
        return serials

    first, second, third = asyncio.run(run())
    assert first != second == third


def test_errors_name_the_file(authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = _files(authority, tmp_path, "one")
    _, other = _files(authority, tmp_path, "two")
    encrypted, empty = tmp_path / "encrypted.key", tmp_path / "empty"
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted], check=True)
    empty.touch()
    for files, message in {
        (tmp_path / "absent", key): r"access\.certificate_file = .*absent: No such file",
        (certificate, tmp_path / "absent"): r"access\.key_file = .*absent: No such file",
        (certificate, other): "not the key of the certificate",
        (certificate, encrypted): "the key is encrypted",
        (empty, key): "PEM files are expected",
        (certificate, empty): "PEM files are expected",
    }.items():
        with pytest.raises(AccessError, match=message):
            server_context("access", *files)
    with pytest.raises(AccessError, match="no PEM certificates"):
        server_context("access", certificate, key, empty)


def _vmflow(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "collector", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_makes_lines_that_the_settings_take(tmp_path: Path) -> None:
    user = _vmflow("passwd", "ann", "--role", "operator", text=PASSWORD + "\n")
    token = _vmflow("passwd", "grafana", "--token")
    assert (user.returncode, token.returncode) == (0, 0)
    assert PASSWORD not in user.stdout + user.stderr
    file = tmp_path / "vmflow.toml"
    file.write_text(
        f"[access]\nusers = [{user.stdout.strip()}]\ntokens = [{token.stdout.strip()}]\n[web]\nhost = '0.0.0.0'\n"
    )

    assert _vmflow("check", "--config", str(file)).returncode == 0
    shown = _vmflow("check", "--dump", "--config", str(file)).stdout
    assert "$argon2id$" not in shown
    assert "sha256:" not in shown
    assert _vmflow("passwd", "a b", text=PASSWORD).returncode == 2
    assert "8 to 1024 characters" in _vmflow("passwd", "ann", text="short\n").stderr


def test_the_service_does_not_start_open_to_others() -> None:
    for setting in ("web.host=0.0.0.0", "sql.host=::"):
        ended = _vmflow("run", "--set", setting)
        assert ended.returncode == 2
        assert setting.partition("=")[0] in ended.stderr
        assert "vmflow passwd" in ended.stderr
