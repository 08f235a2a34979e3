"""The gate in front of an HTTP server: asks for a login, and keeps pages of other sites out.  Pure ASGI."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from collector.access.login import Credentials, DeniedError, Identity, Login

SCOPE_USER = "vmflow.user"
"""Where the name of who is logged in stands in the ASGI scope."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HEALTH = frozenset({"/health", "/ping", "/replicas_status"})
"""Answered without a login: load balancers and watchdogs ask for these, and they say nothing of the traffic."""

Refuse = Callable[[int, str], Response]


def plain_refusal(status: int, message: str) -> Response:
    """The refusal as text."""
    return PlainTextResponse(message + "\n", status)


class Gate:
    """Lets requests through to `app`, with `scope["vmflow.user"]` set where somebody is logged in.

    `only_reads`: no method of this server changes anything, so readers may use all of them (the SQL endpoint, whose
    clients POST their queries).  ClickHouse's ways to show a password are understood there, too.
    """

    def __init__(self, app: ASGIApp, login: Login, *, only_reads: bool = False, refuse: Refuse = plain_refusal) -> None:
        self._app = app
        self._login = login
        self._only_reads = only_reads
        self._refuse = refuse
        self._names = frozenset({"localhost", *(name.lower() for name in login.settings.names)})
        self._open = HEALTH | ({"/metrics"} if login.settings.metrics_open else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            refusal = await self._check(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._only_reads and (foreign := self._foreign(headers)):
            return self._refuse(403, foreign)
        if not self._login.settings.required or scope["path"] in self._open:
            return None
        try:
            who = await self._login.identify(self._shown(scope, headers), (scope.get("client") or ("",))[0])
        except DeniedError as error:
            return self._denied(error)
        except UnicodeError:
            return self._denied(DeniedError("the credentials are not UTF-8"))
        if not self._may(who, scope["method"]):
            return self._refuse(403, f"{who.name} is a reader: an operator is needed to change anything")
        scope[SCOPE_USER] = who.name
        return None

    def _may(self, who: Identity, method: str) -> bool:
        return self._only_reads or who.role == "operator" or method in SAFE_METHODS

    def _denied(self, error: DeniedError) -> Response:
        answer = self._refuse(error.status, str(error))
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="vmflow", charset="UTF-8"'
        else:
            answer.headers["Retry-After"] = str(error.retry_seconds)
        return answer

    def _foreign(self, headers: Headers) -> str:
        """Why a browser's request is not from one of our own pages; empty if it may be."""
        host = headers.get("host", "")
        if not self._login.settings.required and not self._ours(host):
            return f"host {host[:100]!r} is not a name of this service; set access.names to the names that it has"
        origin = headers.get("origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc.lower() != host.lower():
            return f"a page of {origin[:100]!r} must not ask here"
        return ""

    def _ours(self, host: str) -> bool:
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname or ""
            if name not in self._names:
                ip_address(name)
        except ValueError:
            return False
        return True

    def _shown(self, scope: Scope, headers: Headers) -> Credentials | None:
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return Credentials("", value.strip())
        if kind.lower() == "basic":
            return _basic(value)
        if not self._only_reads:
            return None
        if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
            return _named(headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", ""))
        asked = dict(urllib.parse.parse_qsl(scope["query_string"].decode("latin-1")))
        if "user" in asked or "password" in asked:
            return _named(asked.get("user", ""), asked.get("password", ""))
        return None


def _named(user: str, secret: str) -> Credentials | None:
    """A name with a password; without a name it is a token, without a secret nothing."""
    return Credentials(user, secret) if secret else None


def _basic(value: str) -> Credentials | None:
    """RFC 7617: base64 of name, colon, password.  Raises UnicodeError if they are not UTF-8."""
    try:
        user, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise
        return None
    return _named(user, secret) if colon else None
