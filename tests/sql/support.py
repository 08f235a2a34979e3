"""The SQL endpoint in a thread of its own, and how tests ask it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from collector.http.gate import Entrance
from collector.http.settings import AccessSettings
from collector.metrics import Metrics
from collector.sql.endpoint import SqlEndpoint
from collector.store.settings import SqlSettings, StoreSettings

SETTINGS = SqlSettings(port=0)


@dataclass
class Endpoint:
    """A running endpoint and its metrics."""

    url: str
    metrics: Metrics
    settings: SqlSettings
    store: StoreSettings
    context: ssl.SSLContext | None = None
    """What the client trusts, where the endpoint speaks TLS."""

    def ask(
        self, sql: str | bytes | None = None, headers: dict[str, str] | None = None, path: str = "/", **parameters: str
    ) -> tuple[int, bytes, Message]:
        """Status, body and headers of a POST of `sql`, or of a GET."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        data = sql.encode() if isinstance(sql, str) else sql
        request = urllib.request.Request(url, data=data, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.context) as response:
                return response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers


@contextlib.contextmanager
def served(
    store: StoreSettings, access: AccessSettings | None = None, settings: SqlSettings = SETTINGS
) -> Iterator[Endpoint]:
    """The endpoint on an event loop of its own, in a thread."""
    metrics = Metrics()
    started = threading.Event()
    found: dict[str, object] = {}

    async def serve() -> None:
        stop = asyncio.Event()
        entrance = Entrance(access or AccessSettings(), metrics, asyncio.to_thread)
        async with SqlEndpoint(settings, store, metrics, asyncio.to_thread, entrance=entrance) as endpoint:
            found.update(url=endpoint.url, loop=asyncio.get_running_loop(), stop=stop)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(20)
    try:
        yield Endpoint(str(found["url"]), metrics, settings, store)
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)  # type: ignore[attr-defined]
        thread.join(20)
        assert not thread.is_alive()
