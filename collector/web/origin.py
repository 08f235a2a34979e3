"""Keeps pages of other sites from using a browser that can reach the API.

On loopback there may be no login, so a page that somebody looks at must not be able to end alerts.  Three checks, all
of them before the API sees the request:

- `Host` must be an IP address, localhost, or a name from the settings: a name of somebody else that points to
  this address (DNS rebinding) gets nothing.
- `Origin` and `Sec-Fetch-Site`, where a browser sends them, must say that the page is ours.
- What changes something has a JSON body that says so: a form cannot send one, and a script of another site needs a
  permission that is never given (no CORS headers).
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from collector.web.problems import problem

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_OCTETS = 64 * 1024
"""A silence with twenty matchers takes 8 kB."""


class OwnPagesOnly:
    """Refuses what the module's text says, for paths below `prefix`."""

    def __init__(self, app: ASGIApp, *, prefix: str, names: Collection[str]) -> None:
        self._app = app
        self._prefix = prefix
        self._names = frozenset({"localhost", *(name.lower() for name in names)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == "http" and scope["path"].startswith(self._prefix):
            refusal = self._refusal(scope["method"], Headers(scope=scope))
            if refusal is not None:
                await problem(*refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, or None."""
        host = headers.get("host", "")
        if not self._ours(host):
            return 421, f"host {host[:100]!r} is not a name of this service; set access.names to the names that it has"
        if method in SAFE:
            return None
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return 403, f"a page of {origin[:100]!r} must not change anything here"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "a page of another site must not change anything here"
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, f"content type {kind[:100]!r}: application/json is expected"
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not length.isascii() or not length.isdigit():
            return 411, "a body with its length is expected"
        octets = length.lstrip("0")[:10]
        if int(octets or "0") > BODY_OCTETS:
            return 413, f"{octets} octets: at most {BODY_OCTETS} are taken"
        return None

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _netloc(origin: str) -> str:
    """Host and port of an origin; of what is none, an empty text."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
