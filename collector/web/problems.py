"""Errors of the API: problem details as RFC 9457 says, whatever went wrong."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from collector.desk import DeskError
from collector.web.models import Problem

MEDIA_TYPE = "application/problem+json"
SHOWN = 20
"""Mistakes of one request that are told."""


def problem(status: int, detail: str, errors: list[str] | None = None) -> Response:
    """The answer."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors or [])
    return JSONResponse(body.model_dump(), status, media_type=MEDIA_TYPE)


def handle(app: FastAPI) -> None:
    """Have the app answer so."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DeskError, _desk)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    answer = problem(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    lines = []
    for found in error.errors()[:SHOWN]:
        where = ".".join(str(part) for part in found["loc"])
        given = "" if isinstance(found.get("input"), dict) else f" = {str(found.get('input'))[:100]!r}"
        lines.append(f"{where}{given}: {found['msg']}")
    return problem(422, "the request is not valid", lines)


async def _desk(request: Request, error: Exception) -> Response:
    return problem(503, str(error))
