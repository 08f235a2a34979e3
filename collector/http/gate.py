"""The gate in front of both HTTP servers: refuses pages of other sites, requires a login, answers requests that fail by
a defect.

A web page can send requests to whatever its viewer's browser reaches, including this machine's loopback.  No CORS
permission is ever given, and each request itself must show that it may come in:

- `Host` must be an IP address, localhost, or a name from the settings.  Otherwise a page could make its own name point
  here (DNS rebinding), and the browser would take both for one site.
- `Origin` and `Sec-Fetch-Site`, where a browser sends them, must say that the page is ours or that a person typed the
  address.  A link on another site may open what the web server shows, as a page of its own that the other site cannot
  read; it may never ask SQL, since the link would be the query.
- What changes something has a JSON body that says so: a form cannot send one.

Browsers get the console's files without a login, as text that is the same for everyone; the console asks for name and
password, and keeps a session's cookie (`sessions`), which only the web server accepts.  Programs log in with each
request.

Watchdogs request `MONITORED` paths by names that cannot be listed here.  For these any name is accepted, unless a
browser asks.  Pure ASGI.

`Entrance` creates the gates of the process: all servers share one login and one certificate.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
import urllib.parse
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from prometheus_client import Counter
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from collector.http.login import Credentials, DeniedError, Identity, Login
from collector.http.sessions import Sessions, cookie, secrets_of
from collector.http.settings import AccessSettings
from collector.interfaces import Call
from collector.log import get_log
from collector.metrics import Metrics
from collector.tls import replace_certificate, server_context

SCOPE_USER = "vmflow.user"
"""Key of the logged-in user's name in the ASGI scope."""
SCOPE_ROLE = "vmflow.role"
"""Key of their role."""
SESSION, SESSION_END, SQL = "/api/v1/session", "/api/v1/session/end", "/api/v1/sql"
FOR_READERS = frozenset({SESSION, SESSION_END, SQL})
"""Paths that readers may POST to: that changes nothing of the service."""
ASKED_BY_SCRIPT = "x-requested-with"
"""Header with which the console asks."""

READS = frozenset({"GET", "HEAD"})
METHODS = READS | {"POST", "OPTIONS"}
"""No other method does anything here, nor does OPTIONS, but routers answer it with the methods that a path has."""
HEALTH = frozenset({"/health", "/ping", "/replicas_status"})
"""Answered without a login: load balancers and watchdogs request these, and they reveal nothing of the traffic."""
MONITORED = HEALTH | {"/metrics"}
"""Paths that may be requested by any host name, or by none."""
BODY_BYTES = 64 * 1024
"""Longest body for the web server.  A silence with twenty matchers takes 8 kB."""
PROBLEM = "application/problem+json"
DEFECT = "a defect of ours: the log says more"
SHOWN = 100
"""Characters of a header that a refusal quotes."""

ONCE = frozenset({
    "host", "origin", "authorization", "content-type", "content-encoding", "content-length", "transfer-encoding",
    "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest",
    "x-clickhouse-user", "x-clickhouse-key", "x-clickhouse-database", "x-clickhouse-format",
})  # fmt: skip
"""Headers that decide something: if there were two, a proxy may have read one and this server the other."""
BROWSER = frozenset({"accept-language", "cookie", "origin", "referer", "upgrade-insecure-requests"})
"""A browser sends the first with every request, and its pages cannot take it away; monitoring tools send none."""

_HOST = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})(?:%[A-Za-z0-9._~%-]{1,32})?\]"
    r"|(?P<name>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?))(?::(?P<port>[0-9]{1,5}))?"
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#@\s]+)")

_log = get_log("access")

Refuse = Callable[[int, str], Response]


def problem(status: int, detail: str, errors: Iterable[str] = ()) -> Response:
    """Return problem details (RFC 9457); `errors` are those of an invalid request: where, what was found and why."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": list(errors),
    }
    return JSONResponse(body, status, media_type=PROBLEM)


class RequestRefusedError(Exception):
    """A refused request.  `reason` is the label by which it is counted."""

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


class Gate:
    """The gate, which passes requests on to `app`, with `scope["vmflow.user"]` set for a logged-in user.  `only_reads`:
    no method of this server changes anything, so readers may use all of them (the SQL endpoint, whose clients POST
    their queries).  ClickHouse's ways to send a password are accepted there, too.  `refuse` makes the answers;
    `refused` (by reason) and `failed` count them.
    """

    def __init__(
        self,
        app: ASGIApp,
        login: Login,
        names: Iterable[str],
        refused: Counter,
        failed: Counter,
        *,
        only_reads: bool = False,
        refuse: Refuse = problem,
        sessions: Sessions | None = None,
    ) -> None:
        self._app = app
        self._login = login
        self._sessions = sessions
        self._names = frozenset({"localhost", *(name.lower() for name in names)})
        self._refused = refused
        self._failed = failed
        self._only_reads = only_reads
        self._refuse = refuse
        self._open = HEALTH | ({"/metrics"} if login.settings.metrics_open else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            try:
                await self._check(scope)
            except RequestRefusedError as error:
                self._refused.labels(error.reason).inc()
                answer = self._refuse(error.status, str(error))
                answer.headers.update(error.headers)
                await answer(scope, receive, noted)
                return
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            # The server stops, and only this task is cancelled: without this, the server would log a trace.
            if not begun:
                await self._refuse(503, "the service stops")(scope, receive, send)
        except Exception:  # noqa: BLE001 - one request must not end a server, nor fill the log
            self._failed.inc()
            _log.exception("a request failed: a defect of ours")
            if not begun:
                await self._refuse(500, DEFECT)(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        """Raise RequestRefusedError for a request that must not come in."""
        headers = Headers(scope=scope)
        method, path = scope["method"], scope["path"]
        if method not in METHODS:
            allow = ", ".join(sorted(METHODS))
            raise RequestRefusedError(405, "method", f"only {allow} are understood", {"Allow": allow})
        _check_once(headers)
        host = self._check_host(headers, path)
        self._check_site(scope, headers, host)
        free = path in self._open or (self._sessions is not None and asks_page(scope))
        if self._login.settings.required and not free:
            who = await self._identify(scope, headers)
            if who is not None:
                scope[SCOPE_USER], scope[SCOPE_ROLE] = who.name, who.role
        if not self._only_reads and method == "POST":
            _check_body(headers)

    def _check_host(self, headers: Headers, path: str) -> str:
        """Return the requested host, empty if there is none; refuse one that is not this server's."""
        host = headers.get("host")
        any_name = path in MONITORED and not _browser(headers)
        if host is None and any_name:
            return ""  # HTTP/1.0, which load balancers still speak
        name = _host_name(host or "")
        if name is None:
            raise RequestRefusedError(
                400, "host", f"host {(host or '')[:SHOWN]!r}: a name or address is expected, and a port"
            )
        if not any_name and name not in self._names and not _is_address(name):
            raise RequestRefusedError(
                421,
                "host",
                f"host {name[:SHOWN]!r} is not a name of this service; set access.names to the names that it has",
            )
        return (host or "").lower()

    def _check_site(self, scope: Scope, headers: Headers, host: str) -> None:
        """Refuse requests from pages of other sites."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and not _same_origin(origin, scope["scheme"], host):
            raise RequestRefusedError(403, "origin", f"a page of {origin[:SHOWN]!r} must not ask here")
        if site not in (None, "same-origin", "none") and not (not self._only_reads and _link(scope["method"], headers)):
            raise RequestRefusedError(403, "site", "a page of another site must not ask here")
        if self._only_reads and site is None and origin is None and scope["path"] not in HEALTH and _browser(headers):
            # Old browsers, and all browsers over plain HTTP to another machine: the query could be the URL of a script.
            raise RequestRefusedError(
                403, "site", "a browser that does not say which page asks: use https, loopback, or no browser"
            )

    def _of_session(self, scope: Scope, headers: Headers) -> Identity | None:
        """Return whose cookie the request has."""
        if self._sessions is None or "cookie" not in headers:
            return None
        secret = _secret(scope)
        return self._sessions.find(secret) if secret else None

    async def _identify(self, scope: Scope, headers: Headers) -> Identity | None:
        """Return who asks; refuse those who may not.  None: nobody, who may ask about logins, and log in."""
        try:
            shown = self._shown(scope, headers)
            who = self._of_session(scope, headers) if shown is None else None
            if who is None and shown is None and self._sessions is not None and scope["path"] == SESSION:
                return None
            who = who or await self._login.identify(shown, (scope.get("client") or ("",))[0])
        except DeniedError as error:
            header = {"Retry-After": str(error.retry_seconds)} if error.status == 429 else {}
            # A browser would open a dialog of its own, where the console asks, or its stream of events begins again.
            scripted = ASKED_BY_SCRIPT in headers or headers.get("accept") == "text/event-stream"
            if error.status == 401 and not scripted:
                header = {"WWW-Authenticate": 'Basic realm="vmflow", charset="UTF-8"'}
            raise RequestRefusedError(error.status, "login", str(error), header) from error
        changes = scope["method"] == "POST" and scope["path"] not in FOR_READERS
        if not self._only_reads and who.role != "operator" and changes:
            raise RequestRefusedError(403, "role", f"{who.name} is a reader: an operator is needed to change anything")
        return who

    def _shown(self, scope: Scope, headers: Headers) -> Credentials | None:
        """Return the request's credentials; None without any.  Raises RequestRefusedError if there are several."""
        shown: list[Credentials | None] = []
        if "authorization" in headers:
            shown.append(_authorization(headers["authorization"]))
        if self._only_reads:
            if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
                shown.append(_named(headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")))
            asked = urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"))
            users = [value for name, value in asked if name == "user"]
            passwords = [value for name, value in asked if name == "password"]
            if users or passwords:
                shown.append(_named("".join(users[:1]), "".join(passwords[:1])))
            if max(len(users), len(passwords)) > 1:
                raise RequestRefusedError(400, "header", "parameters user and password: one of each is expected")
        if len(shown) > 1:
            raise RequestRefusedError(400, "header", "more than one way to log in: use one")
        return shown[0] if shown else None


def asks_page(scope: Scope) -> bool:
    """Return whether a browser asks for the console's files, which hold nothing of the service.

    The server asks this, too: what needs no login is answered as a page, and as nothing else.
    """
    path = scope["path"]
    if scope["type"] != "http" or scope["method"] not in READS:
        return False
    data = path in ("/metrics", "/health") or path.startswith("/api")
    return path.startswith("/page/") or (not data and "text/html" in Headers(scope=scope).get("accept", ""))


def _check_once(headers: Headers) -> None:
    seen = set()
    for name in headers.keys():  # noqa: SIM118 - of these headers, iteration leaves out what comes again
        if name in seen:
            raise RequestRefusedError(400, "header", f"header {name} comes twice")
        if name in ONCE:
            seen.add(name)
    if {"transfer-encoding", "content-length"} <= seen:
        raise RequestRefusedError(
            400, "header", "content-length and transfer-encoding: one of them says where a body ends"
        )


def _check_body(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestRefusedError(415, "body", f"content type {kind[:SHOWN]!r}: application/json is expected")
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not length.isascii() or not length.isdigit():
        raise RequestRefusedError(411, "body", "a body with its length is expected")
    octets = length.lstrip("0")[:10]
    if int(octets or "0") > BODY_BYTES:
        raise RequestRefusedError(413, "body", f"{octets} octets: at most {BODY_BYTES} are taken")


def _browser(headers: Headers) -> bool:
    """Return whether a browser asks, as far as headers show."""
    return any(name in BROWSER or name.startswith("sec-") for name in headers)


def _link(method: str, headers: Headers) -> bool:
    """Return whether a person follows a link: the browser shows the answer as a page of its own, not in a frame."""
    return (
        method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )


def _host_name(host: str) -> str | None:
    """Return the name or address in a `Host` header, in lower case; None if it is malformed."""
    found = _HOST.fullmatch(host)
    if found is None or not 1 <= int(found["port"] or 1) <= 65_535:
        return None
    if found["name"] is not None:
        return found["name"].lower()
    try:
        return str(IPv6Address(found["ipv6"]))
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(origin: str, scheme: str, host: str) -> bool:
    """Return whether a page of `origin` is one of this server's; a server of plain HTTP may have TLS in front of it."""
    found = _ORIGIN.fullmatch(origin.lower())
    return found is not None and found["host"] == host and found["scheme"] in (scheme, "https")


def _secret(scope: Scope) -> str:
    """Return the secret of the session that counts; empty if there is none."""
    return next(iter(secrets_of(Headers(scope=scope).get("cookie", ""), tls=_over_tls(scope))), "")


def _over_tls(scope: Scope) -> bool:
    """Return whether a browser speaks TLS, with us or with a proxy in front of us.

    Its own `Origin`, which the gate has checked, says so: no proxy has to be trusted for it.
    """
    return scope["scheme"] == "https" or Headers(scope=scope).get("origin", "").lower().startswith("https://")


def _authorization(value: str) -> Credentials | None:
    kind, _, secret = value.partition(" ")
    if kind.lower() == "bearer":
        return _named("", secret.strip())
    return _basic(secret) if kind.lower() == "basic" else None


def _named(user: str, secret: str) -> Credentials | None:
    """Return a name with a password; without a name it is a token, without a secret None."""
    return Credentials(user, secret) if secret else None


def _basic(value: str) -> Credentials | None:
    """Decode RFC 7617: base64 of name, colon, password, in UTF-8."""
    try:
        user, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise DeniedError("the credentials are not UTF-8") from error
        return None
    return _named(user, secret) if colon else None


SECTION = "access"


class Entrance:
    """The maker of gates and TLS contexts; it opens no file before a context is requested.  `call` is for checks of
    passwords."""

    def __init__(self, settings: AccessSettings, metrics: Metrics, call: Call) -> None:
        self._settings = settings
        self._login = Login(settings, metrics, call)
        self._sessions = Sessions()
        self._contexts: list[ssl.SSLContext] = []
        self._refused = metrics.counter(
            "requests_refused_total", "HTTP requests that were not let in, by reason.", ("reason",)
        )
        self._failed = metrics.counter("requests_failed_total", "HTTP requests that a defect of ours ended.")

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self._settings.certificate_file is not None else "http"

    def gate(self, app: ASGIApp, host: str, *, only_reads: bool = False, refuse: Refuse = problem) -> ASGIApp:
        """Put `app`, which listens at `host`, behind a gate."""
        names = (host, *self._settings.names)
        sessions = None if only_reads else self._sessions
        return Gate(
            app, self._login, names, self._refused, self._failed,
            only_reads=only_reads, refuse=refuse, sessions=sessions,
        )  # fmt: skip

    @property
    def required(self) -> bool:
        """Whether clients must log in."""
        return self._settings.required

    async def log_in(self, name: str, password: str, scope: Scope) -> tuple[Identity, str]:
        """Open a session for a browser: return who it is, and a `Set-Cookie` header.  Raises DeniedError."""
        who = await self._login.identify(Credentials(name, password), (scope.get("client") or ("",))[0])
        self.log_out(scope)  # the session that this browser had
        return who, cookie(self._sessions.open(who), tls=_over_tls(scope))

    def log_out(self, scope: Scope) -> str:
        """End a browser's sessions; return a `Set-Cookie` header that forgets the one that counts.

        Where it came by TLS and without, it has two: one that stayed would let it in again.
        """
        for secret in secrets_of(Headers(scope=scope).get("cookie", ""), tls=False):
            self._sessions.close(secret)
        return cookie("", tls=_over_tls(scope))

    def lasting(self, scope: Scope) -> Callable[[], bool]:
        """Return a function that says whether the session lasts with which a browser asked, if it was by one."""
        secret = _secret(scope)
        if not self._sessions.lasts(secret):
            return lambda: True  # it shows credentials with each request, or needs none
        return partial(self._sessions.lasts, secret)

    def context(self) -> ssl.SSLContext | None:
        """Return a TLS context for a server, None without a certificate.  Raises AccessError."""
        if self._settings.certificate_file is None or self._settings.key_file is None:
            return None
        context = server_context(SECTION, self._settings.certificate_file, self._settings.key_file)
        self._contexts.append(context)
        return context

    def read_again(self) -> Callable[[], None]:
        """Reload certificate and key.  Blocks.  Raises AccessError; then the old ones stay.

        Returns a function for the event loop's thread that applies them to new connections.
        """
        if not self._contexts or self._settings.certificate_file is None or self._settings.key_file is None:
            return lambda: None
        fresh = server_context(SECTION, self._settings.certificate_file, self._settings.key_file)
        return lambda: replace_certificate(self._contexts, fresh)
