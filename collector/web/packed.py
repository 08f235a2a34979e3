"""Answers in JSON, packed with gzip for clients that take it: a list of pairs shrinks to a seventh.

Nothing secret stands beside what others may write in an answer, and no page of another site can ask (`http.gate`), so
the length of a packed answer betrays nothing.
"""

from __future__ import annotations

import gzip

from prometheus_client.exposition import gzip_accepted
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from collector.http.server import in_pieces
from collector.interfaces import Call

LEAST, MOST = 1024, 8 * 2**20
"""Octets of answers that are packed: shorter ones gain nothing, longer ones would be held twice for long."""
AT_ONCE = 16 * 1024
"""More octets are packed on a thread: they take more than a tenth of a millisecond."""
LEVEL = 1
"""The fastest: the others take three times as long for a fifth less."""


def packed(app: ASGIApp, call: Call) -> ASGIApp:
    """Return the same app, whose answers in JSON are packed.  `call` runs a function on a thread."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and gzip_accepted(Headers(scope=scope).get("accept-encoding", "")):
            await app(scope, receive, _Packer(send, call))
        else:
            await app(scope, receive, send)

    return answer


class _Packer:
    """What an answer is sent through: it is collected to its end, unless it is to go out as it is."""

    def __init__(self, send: Send, call: Call) -> None:
        self._send, self._call = send, call
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Take one message (ASGI)."""
        if message["type"] == "http.response.start" and _suits(message):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        plain = b"".join(self._parts)
        self._parts.clear()
        if len(plain) <= AT_ONCE:
            body = gzip.compress(plain, LEVEL)
        else:
            body = await self._call(gzip.compress, plain, LEVEL)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-encoding"], headers["content-length"] = "gzip", str(len(body))
        await self._send({**start, "headers": headers.raw})
        for piece in in_pieces([body]):
            await self._send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _suits(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    length = headers.get("content-length", "")
    json = headers.get("content-type", "").startswith("application/json")
    return json and "content-encoding" not in headers and length.isdigit() and LEAST <= int(length) <= MOST
