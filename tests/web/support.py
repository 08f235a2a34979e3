"""The alerts stage, its API and the web server over a real store, on a loop of their own: tests talk HTTP to them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import urllib3

from collector.alert.api import AlertApi
from collector.alert.settings import AlertSettings
from collector.http.gate import Entrance
from collector.http.settings import AccessSettings
from collector.sql.endpoint import SqlEndpoint
from collector.store.settings import SqlSettings, StoreSettings
from collector.store_reader import Reader
from collector.threads import Bridge, run
from collector.web import questions
from collector.web.events import Events
from collector.web.queries import ANSWER_SECONDS, BOUNDS
from collector.web.server import Web
from collector.web.settings import WebSettings
from tests.alert.support import Running, connect, running


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running web server and the stage behind it."""

    url: str
    live: Running
    loop: asyncio.AbstractEventLoop

    def close(self, level: str, numbers: range) -> None:
        """Close windows, and wait until their rules were evaluated."""
        asyncio.run_coroutine_threadsafe(self.live.close(level, numbers), self.loop).result(120)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        kind = {"Content-Type": "application/json"}
        return self.ask("POST", path, json.dumps(body).encode(), kind | headers)

    def ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        answer = urllib3.request(
            method, self.url + path, body=body, headers=dict(headers), timeout=60, retries=False, redirect=False
        )
        return Answer(answer.status, answer.headers, answer.data)


@contextmanager
def served(
    store: StoreSettings, settings: AlertSettings, access: AccessSettings | None = None, *, with_sql: bool = False
) -> Iterator[Served]:
    """Serve until left; without `access`, nobody has to log in."""
    ready: threading.Event = threading.Event()
    found: list[Served] = []
    stop: list[asyncio.Event] = []

    async def main() -> None:
        events = Events()
        live_stage = running(store, settings, on_notification=events.notified)
        async with live_stage as live, Bridge({"query": 2, "login": 1, "api": 2, "console": 2}) as bridge:
            alerts = AlertApi(live.alerts, settings.active())
            reader = Reader(partial(bridge.call, "query"), partial(connect, store), BOUNDS, wait_seconds=ANSWER_SECONDS)
            console = Reader(
                partial(bridge.call, "console"), partial(connect, store), questions.BOUNDS, at_once=questions.AT_ONCE
            )
            entrance = Entrance(access or AccessSettings(), live.metrics, partial(bridge.call, "login"))
            api = partial(bridge.call, "api")
            health = {"status": "ok"}
            sql = SqlEndpoint(
                SqlSettings(port=0, enabled=with_sql), store, live.metrics, asyncio.to_thread, entrance=entrance
            )
            web = Web(
                WebSettings(port=0), live.metrics, lambda: health, alerts, reader, console, events, entrance, api, sql
            )
            async with AsyncExitStack() as up:
                await up.enter_async_context(sql)
                await up.enter_async_context(web)
                found.append(Served(web.url, live, asyncio.get_running_loop()))
                stop.append(asyncio.Event())
                ready.set()
                await stop[0].wait()

    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        if found:
            found[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join()
