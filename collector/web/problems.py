"""Errors of the API: problem details as RFC 9457 says, whatever went wrong."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from collector.access.gate import DEFECT, problem
from collector.desk import DeskError

SHOWN = 20
"""Mistakes of one request that are told."""


def handle(app: FastAPI) -> None:
    """Have the app answer so."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DeskError, _desk)
    app.add_exception_handler(Exception, _defect)


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


async def _defect(request: Request, error: Exception) -> Response:
    """What the client is told; the gate, which hears of the error afterwards, counts and logs it."""
    return problem(500, DEFECT)
