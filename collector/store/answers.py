"""What the SQL endpoint answers over HTTP: types, statuses and compression, as ClickHouse's clients know them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from collector.http import LargeResponse, Octets
from collector.store.blocks import DEFAULT_METHOD, compress_blocks, readable_block
from collector.store.encodings import COMPRESSORS, compress
from collector.store.engine import Answer

CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNamesAndTypes": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8",
    "CSVWithNames": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Pretty": "text/plain; charset=UTF-8",
    "PrettyCompact": "text/plain; charset=UTF-8",
    "Native": "application/octet-stream",
}
HTTP_STATUS = {164: 403, 497: 403, 60: 404, 81: 404, 202: 503, 236: 503, 159: 500, 241: 500, 396: 500, 1002: 500}
"""Status for error codes, as ClickHouse sends it; 400 for the rest: the query's own mistakes."""
REFUSALS = {
    401: (516, "AUTHENTICATION_FAILED"),
    429: (516, "AUTHENTICATION_FAILED"),
    500: (1002, "UNKNOWN_EXCEPTION"),
    503: (236, "ABORTED"),
}
"""ClickHouse's words for what the gate answers by itself."""

NO = frozenset({"0", "false"})
"""Values of a parameter that is not to hold."""

_NEVER = re.compile(r"q\s*=\s*0(\.0*)?")
"""Stands behind an encoding that is not accepted: RFC 9110 section 12.4.2."""


def is_on(request: Request, name: str) -> bool:
    """Whether a request states a parameter that is off by default, such as `compress=1`."""
    return request.query_params.get(name, "0") not in NO


def success(answer: Answer, parts: Sequence[Octets], request: Request) -> Response:
    """The response with an answer whose body is `parts`, compressed as the client asks.  Blocks.

    ClickHouse's own compression comes first, that of HTTP around it, as ClickHouse has it.  Raises RefusedError.
    """
    headers = {}
    if is_on(request, "compress"):
        parts = compress_blocks(parts, request.query_params.get("network_compression_method", DEFAULT_METHOD))
    encoding = _encoding(request)
    if encoding is not None:
        parts, headers = compress(parts, encoding), {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return LargeResponse(
        parts, headers=headers, media_type=CONTENT_TYPES.get(answer.format, "application/octet-stream")
    )


def failure(message: str, code: int, request: Request | None = None) -> Response:
    """The response to a query that failed or was refused, with ClickHouse's error code.

    As in ClickHouse, `compress=1` holds for it, too: drivers unpack whatever comes.
    """
    headers = {"X-ClickHouse-Exception-Code": str(code)}
    text = message.rstrip() + "\n"
    response = PlainTextResponse(text, HTTP_STATUS.get(code, 400), headers)
    if request is not None and is_on(request, "compress"):
        response.body = readable_block(text.encode())
        response.headers["Content-Length"] = str(len(response.body))
    return response


def refusal(status: int, message: str) -> Response:
    """What the gate refuses, as ClickHouse says it."""
    code, name = REFUSALS.get(status, (497, "ACCESS_DENIED"))
    response = failure(f"Code: {code}. DB::Exception: {message}. ({name})", code)
    response.status_code = status
    return response


def _encoding(request: Request) -> str | None:
    """The encoding of HTTP in which the client takes an answer, None for none.

    Where one is accepted it is used, for short answers, too: some drivers take it for granted.
    `enable_http_compression=0` forbids it; its default is 1, as in ClickHouse since 26.
    """
    if request.query_params.get("enable_http_compression", "1") in NO:
        return None
    accepted = set()
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, *options = (text.strip() for text in part.split(";"))
        if not any(_NEVER.fullmatch(option) for option in options):
            accepted.add(name)
    return next((name for name in COMPRESSORS if name in accepted), None)
