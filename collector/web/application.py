"""The API as an application.  Only `server.py` imports this, on a thread, after the start: FastAPI is slow to load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from collector.access.gate import PROBLEM
from collector.desk import AlertDesk
from collector.version import VERSION
from collector.web import api, problems


class Api(FastAPI):
    """FastAPI, which takes it that errors are described in the media type of answers."""

    def openapi(self) -> dict[str, Any]:
        """The description: errors are problem details."""
        if self.openapi_schema is None:
            described = super().openapi()
            for methods in described["paths"].values():
                for about in methods.values():
                    for status, answer in about["responses"].items():
                        if int(status) >= 400:
                            answer["content"] = {PROBLEM: answer["content"]["application/json"]}
        assert self.openapi_schema is not None  # noqa: S101 - just made
        return self.openapi_schema


def application(desk: AlertDesk, pages: Sequence[BaseRoute]) -> ASGIApp:
    """The API in front of `desk`, with `pages` beside it."""
    app = Api(
        title="vmflow",
        summary="Alerts of VM-to-VM traffic: list, acknowledge, resolve, silence; rules and their state.",
        version=VERSION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # the usual pages load their scripts from elsewhere
        redoc_url=None,
        routes=list(pages),
    )
    app.state.desk = desk
    app.include_router(api.router)
    problems.handle(app)
    app.middleware_stack = app.build_middleware_stack()  # else the first request does
    return app
