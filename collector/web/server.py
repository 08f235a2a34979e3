"""HTTP server for /metrics, /health and the API, on the service's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import metadata
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from collector.access.entrance import Entrance
from collector.desk import AlertDesk
from collector.http import BindError, bind, server
from collector.web import api, problems
from collector.web.origin import OwnPagesOnly
from collector.web.settings import WebSettings

Health = Callable[[], dict[str, Any]]
"""Answers with the state of the service; key `status` is `ok`, `starting` or what is wrong."""


class WebError(Exception):
    """The web server cannot start; the message says why and what to do."""


class Web:
    """Serves until left.  Raises WebError from entering if the address cannot be bound."""

    def __init__(
        self, settings: WebSettings, registry: CollectorRegistry, health: Health, desk: AlertDesk, entrance: Entrance
    ) -> None:
        self._settings = settings
        self._entrance = entrance
        self._registry = registry
        self._health = health
        self._desk = desk
        self.url = ""
        """Where it answers; empty if it is off.  Known once entered."""

    async def __aenter__(self) -> Self:
        if not self._settings.enabled:
            return self
        context = self._entrance.context()
        try:
            listening, self.url = bind(self._settings.host, self._settings.port, self._entrance.scheme)
        except BindError as error:
            hint = "another vmflow? set web.port" if error.taken else "set web.host and web.port"
            raise WebError(f"web server on {error}; {hint}") from error
        self._server = server(self._entrance.gate(self._application()), context)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="web")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._settings.enabled:
            self._server.should_exit = True
            await self._task

    def _application(self) -> FastAPI:
        app = FastAPI(
            title="vmflow",
            summary="Alerts of VM-to-VM traffic: list, acknowledge, resolve, silence; rules and their state.",
            version=metadata.version("vmflow"),
            openapi_url="/api/openapi.json",
            docs_url=None,  # the usual pages load their scripts from elsewhere
            redoc_url=None,
            routes=[
                Route("/", self._home),
                Route("/metrics", self._metrics),
                Route("/health", self._answer_health),
            ],
        )
        app.state.desk = self._desk
        app.include_router(api.router)
        problems.handle(app)
        app.add_middleware(OwnPagesOnly, prefix="/api", names=(self._settings.host, *self._entrance.names))
        return app

    async def _home(self, request: Request) -> Response:
        return PlainTextResponse("vmflow\n\n/metrics  for Prometheus\n/health   is it well\n/api/openapi.json\n")

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=content_type)

    async def _answer_health(self, request: Request) -> Response:
        health = self._health()
        return JSONResponse(health, status_code=200 if health["status"] == "ok" else 503)
