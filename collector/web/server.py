"""HTTP server for /metrics and /health, on the service's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from collector.web.settings import WebSettings

Health = Callable[[], dict[str, Any]]
"""Answers with the state of the service; key `status` is `ok`, `starting` or what is wrong."""


class WebError(Exception):
    """The web server cannot start; the message says why and what to do."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the service."""
        yield


class Web:
    """Serves until left.  Raises WebError from entering if the address cannot be bound."""

    def __init__(self, settings: WebSettings, registry: CollectorRegistry, health: Health) -> None:
        self._settings = settings
        self._registry = registry
        self._health = health
        self.url = ""
        """Where it answers; empty if it is off.  Known once entered."""

    async def __aenter__(self) -> Self:
        if not self._settings.enabled:
            return self
        listening = _bind(self._settings)
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(
            self._application(), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=3
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="web")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._settings.enabled:
            self._server.should_exit = True
            await self._task

    def _application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._home),
                Route("/metrics", self._metrics),
                Route("/health", self._answer_health),
            ]
        )

    async def _home(self, request: Request) -> Response:
        return PlainTextResponse("vmflow\n\n/metrics  for Prometheus\n/health   is it well\n")

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=content_type)

    async def _answer_health(self, request: Request) -> Response:
        health = self._health()
        return JSONResponse(health, status_code=200 if health["status"] == "ok" else 503)


def _bind(settings: WebSettings) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(info[4][:2], family=info[0], backlog=128)
    except OSError as error:
        hint = "another vmflow? set web.port" if error.errno == errno.EADDRINUSE else "set web.host and web.port"
        raise WebError(f"web server on {where}: {error.strerror or error}; {hint}") from error
    listening.setblocking(False)
    return listening
