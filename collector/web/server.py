"""HTTP server for the console, /metrics, /health and the API, on the service's own event loop.

The API's libraries take a quarter of a second to load, and the start does not wait for them: `LateApi` loads them on a
thread.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from collector.http.gate import READS, Entrance, asks_page, problem
from collector.http.server import CONNECTIONS, BindError, LargeResponse, bind, server
from collector.interfaces import AlertService, Call, ResultsService, SqlService
from collector.log import get_log
from collector.metrics import Metrics
from collector.store_reader import Reader
from collector.web.events import Events
from collector.web.packed import packed
from collector.web.pages import Pages
from collector.web.settings import WebSettings

LOAD_SECONDS = 30
"""How long a request waits for the API to be loaded, and after what time a client that got 503 may retry."""

GZIP_LEVEL = 1
"""The text of metrics shrinks to a tenth even with the fastest level."""

HOME = """vmflow

/         in a browser: the console
/metrics  for Prometheus
/health   is it well
/api/openapi.json
"""

Health = Callable[[], dict[str, Any]]
"""The state of the service; key `status` is `ok`, `starting` or what is wrong."""
WORKS = ("ok", "held", "templates")
"""States in which a restart would not help: it would lose the data that is held."""

_log = get_log("web")


def _page(encode: Callable[[CollectorRegistry], bytes], registry: CollectorRegistry, compress: bool) -> bytes:
    text = encode(registry)
    return gzip.compress(text, GZIP_LEVEL) if compress else text


class WebError(Exception):
    """The web server cannot start; the message says why and what to do."""


class LateApi:
    """The API, made by `make` on a thread when `load` is called or the first request comes."""

    def __init__(self, make: Callable[[], ASGIApp], call: Call) -> None:
        self._make = make
        self._call = call
        self._task: asyncio.Task[ASGIApp | None] | None = None

    def load(self) -> asyncio.Task[ASGIApp | None]:
        """Start loading, unless started; the task returns the API, None if it cannot be loaded."""
        if self._task is None:
            self._task = asyncio.create_task(self._load(), name="web-api")
        return self._task

    async def stop(self) -> None:
        """Give up loading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _load(self) -> ASGIApp | None:
        try:
            return await self._call(self._make)
        except Exception:  # noqa: BLE001 - flows, /metrics and /health do not need it
            _log.exception("the API cannot be loaded")
            return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI), once the API is loaded."""
        task = self.load()
        await asyncio.wait({task}, timeout=LOAD_SECONDS)
        app = task.result() if task.done() and not task.cancelled() else None
        if app is None:
            headers = {"Retry-After": str(LOAD_SECONDS)}
            app = problem(503, "the API is not loaded")
            app.headers.update(headers)
        await app(scope, receive, send)


class Web:
    """The web server, which serves until left.  Entering raises WebError if the address cannot be bound."""

    def __init__(
        self,
        settings: WebSettings,
        metrics: Metrics,
        health: Health,
        service: AlertService,
        reader: Reader,
        console: Reader,
        events: Events,
        entrance: Entrance,
        call: Call,
        sql: SqlService | None = None,
        results: ResultsService | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        """`reader` is for the API's routes, `console` for the page's questions; `events` go to open pages.  `call` is
        for loading the API, and for rendering metrics meanwhile: two threads.  `sql` answers people's SQL,
        `results` takes those of agents."""
        self._settings = settings
        self._entrance = entrance
        self._families = metrics
        self._connections = connections
        self._health = health
        self._service = service
        self._reader = reader
        self._console = console
        self._events = events
        self._sql = sql
        self._results = results
        self._files = Pages()
        self._call = call
        self._routes = [
            Route("/", self._home),
            Route("/metrics", self._metrics),
            Route("/health", self._answer_health),
        ]
        self._paths = {route.path for route in self._routes}
        self._pages = Router(self._routes)
        self._api = LateApi(self._application, call)
        self._packed_api = packed(self._api, call)
        self.url = ""
        """Where it is served; empty if it is off.  Known once entered."""

    async def __aenter__(self) -> Self:
        if not self._settings.enabled:
            return self
        context = self._entrance.context()
        try:
            listening, self.url = bind(self._settings.host, self._settings.port, self._entrance.scheme)
        except BindError as error:
            hint = "another vmflow? set web.port" if error.taken else "set web.host and web.port"
            raise WebError(f"web server on {error}; {hint}") from error
        self._server = server(
            self._entrance.gate(self._answer, self._settings.host), "web", self._families, context, self._connections
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="web")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._api.stop()
        self._events.end()
        if self._settings.enabled:
            await asyncio.sleep(0)  # listeners say bye
            self._server.should_exit = True
            await self._task

    async def load_api(self) -> None:
        """Load the API now rather than with the first request, and wait for it."""
        if self._settings.enabled:
            await asyncio.wait({self._api.load()})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI): the console and the pages directly, all others by the API."""
        if asks_page(scope):
            if not self._files.loaded:
                await self._call(self._files.load)
            page = self._files.file if scope["path"].startswith("/page/") else self._files.shell
            await page(Request(scope))(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] in READS and scope["path"] in self._paths:
            await self._pages(scope, receive, send)
        else:
            await self._packed_api(scope, receive, send)

    def _application(self) -> ASGIApp:
        """Return the API, and the pages for methods other than GET and HEAD.  Blocks: it loads FastAPI."""
        from collector.web.api import application  # noqa: PLC0415 - slow, see the module's text

        return application(
            self._service, self._reader, self._console, self._events, self._entrance, self._sql, self._results,
            self._routes,
        )  # fmt: skip

    async def _home(self, request: Request) -> Response:
        return PlainTextResponse(HOME)

    async def _metrics(self, request: Request) -> Response:
        """Render metrics on a thread: with a thousand exporters it takes 55 ms of CPU."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        compress = gzip_accepted(request.headers.get("accept-encoding", ""))
        body = await self._call(_page, encode, self._families.registry, compress)
        response = LargeResponse([body], media_type=content_type)
        response.headers["Vary"] = "Accept-Encoding"
        if compress:
            response.headers["Content-Encoding"] = "gzip"
        return response

    async def _answer_health(self, request: Request) -> Response:
        health = self._health()
        return JSONResponse(health, status_code=200 if health["status"] in WORKS else 503)
