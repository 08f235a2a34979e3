"""Routes below /api/v1: alerts, silences, exporters, rules.

Errors of the API: problem details as RFC 9457 says, whatever went wrong.

The API as an application.  Only `server.py` imports this, on a thread, after the start: FastAPI is slow to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from collector.http.gate import DEFECT, PROBLEM, SCOPE_USER, problem
from collector.interfaces import AlertCard, AlertQuery, AlertService, AlertServiceError
from collector.version import VERSION
from collector.web import models

PAGE = 1000
"""Most rows of one answer."""
HISTORY = 100_000
"""Furthest offset."""

CURSOR = "^([0-9]{1,18}-[0-9a-f]{32})?$"

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits.")]
Limit = Annotated[int, Query(ge=1, le=PAGE)]
Offset = Annotated[int, Query(ge=0, le=HISTORY)]
Rules = Annotated[list[models.Short], Query(max_length=200)]

Responses = dict[int | str, dict[str, Any]]


def _problems(texts: dict[int, str]) -> Responses:
    return {status: {"model": models.Problem, "description": text} for status, text in texts.items()}


_PROBLEMS = _problems(
    {
        400: "The request is malformed: Host, a header that comes twice, or a body that is no JSON.",
        401: "A login is needed.",
        403: "A page of another site asks, or a reader wants to change something.",
        421: "The Host header names somebody else.",
        422: "The request is not valid.",
        429: "Too many wrong logins: Retry-After says when to come again.",
        500: "A defect of vmflow: its log says more.",
        503: "The store does not answer, or alerts are off.",
    }
)
_BODY = _problems(
    {
        411: "The body comes without its length.",
        413: "The body is longer than 64 KiB.",
        415: "The body is not application/json.",
    }
)
_ABSENT = _problems({404: "None has this id."})
_OVER = _problems({409: "Its state does not allow it."})

router = APIRouter(prefix="/api/v1", responses=_PROBLEMS)


async def _desk(request: Request) -> AlertService:
    desk: AlertService = request.app.state.desk
    return desk


AlertApi = Annotated[AlertService, Depends(_desk)]


@dataclass(frozen=True, slots=True)
class _By:
    who: str
    comment: str


def _by(request: Request, act: models.Act) -> _By:
    """Who acts: whoever is logged in, else who the body says."""
    who = str(request.scope.get(SCOPE_USER) or act.who)
    if not who:
        raise HTTPException(422, "who: a name is expected, of the person who does this")
    return _By(who, act.comment)


@router.get("/alerts", tags=["alerts"])
async def list_alerts(
    desk: AlertApi,
    state: Annotated[list[models.State], Query(description="Any of these; all by default.")] = [],  # noqa: B006 - FastAPI copies it
    severity: Annotated[list[models.Severity], Query(description="Any of these; all by default.")] = [],  # noqa: B006
    rule: Annotated[Rules, Query(description="Names of rules; all by default.")] = [],  # noqa: B006
    vm: Annotated[str, Query(max_length=200, description="Name of a VM at either end; * and ? match.")] = "",
    id: Annotated[str, Query(pattern="^[0-9a-f]{0,32}$", description="How the id begins.")] = "",  # noqa: A002 - its name in the URL
    limit: Limit = 100,
    cursor: Annotated[str, Query(pattern=CURSOR, description="`next_cursor` of the page before.")] = "",
) -> models.AlertList:
    """Alerts, those that fired last first."""
    query = AlertQuery(tuple(state), tuple(severity), tuple(rule), vm, id, limit + 1, _before(cursor))
    cards = await desk.alerts(query)
    following = _cursor(cards[limit - 1]) if len(cards) > limit else None
    return models.AlertList(alerts=[models.Alert.model_validate(card) for card in cards[:limit]], next_cursor=following)


@router.get("/alerts/{alert_id}", tags=["alerts"], responses=_ABSENT)
async def show_alert(desk: AlertApi, alert_id: Id, limit: Limit = 100, offset: Offset = 0) -> models.AlertDetail:
    """One alert and what happened to it, oldest first; limit and offset are for the history."""
    card = await _card(desk, alert_id)
    events = await desk.history(card, limit, offset)
    return models.AlertDetail(
        alert=models.Alert.model_validate(card), history=[models.Event.model_validate(event) for event in events]
    )


@router.post("/alerts/{alert_id}/acknowledge", tags=["alerts"], responses=_ABSENT | _OVER | _BODY)
async def acknowledge(request: Request, desk: AlertApi, alert_id: Id, act: models.Act) -> models.Alert:
    """Take an alert on: it is not escalated any more."""
    by = _by(request, act)
    if not await desk.acknowledge(alert_id, by.who, by.comment):
        card = await _card(desk, alert_id)
        raise HTTPException(409, f"it is {card.state}, not firing")
    return models.Alert.model_validate(await _card(desk, alert_id))


@router.post("/alerts/{alert_id}/resolve", tags=["alerts"], responses=_ABSENT | _OVER | _BODY)
async def resolve(request: Request, desk: AlertApi, alert_id: Id, act: models.Act) -> models.Alert:
    """End an alert.  If its condition still holds, the next windows begin a new one."""
    by = _by(request, act)
    if not await desk.resolve(alert_id, by.who, by.comment):
        card = await _card(desk, alert_id)
        raise HTTPException(409, f"it is {card.state} already")
    return models.Alert.model_validate(await _card(desk, alert_id))


@router.get("/silences", tags=["silences"])
async def list_silences(
    desk: AlertApi,
    ended: Annotated[bool, Query(description="Former ones, too.")] = False,
    limit: Limit = 100,
    offset: Offset = 0,
) -> models.SilenceList:
    """Silences, newest first."""
    cards = await desk.silences(limit, offset, ended=ended)
    return models.SilenceList(silences=[models.Silence.model_validate(card) for card in cards])


@router.post("/silences", tags=["silences"], status_code=201, responses=_BODY)
async def make_silence(request: Request, desk: AlertApi, wanted: models.SilenceRequest) -> models.Made:
    """Keep messages of alerts that match back until a time.  States go on; what still fires then is told."""
    by = _by(request, wanted)
    try:
        until = models.micros(wanted.ends(datetime.now(UTC)))
        return models.Made(silence_id=await desk.silence(wanted.matchers, until, by.who, by.comment))
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


@router.post("/silences/{silence_id}/end", tags=["silences"], responses=_ABSENT | _BODY, status_code=204)
async def end_silence(request: Request, desk: AlertApi, silence_id: Id, act: models.Act) -> None:
    """End a silence now."""
    _by(request, act)
    if not await desk.end_silence(silence_id):
        raise HTTPException(404, "there is no such silence that lasts")


@router.post("/exporters/retire", tags=["exporters"], responses=_ABSENT | _BODY)
async def retire(request: Request, desk: AlertApi, wanted: models.RetireRequest) -> models.Retired:
    """Exporters that were taken away on purpose: nobody misses them any more, until they send again."""
    by = _by(request, wanted)
    found = await desk.retire(wanted.labels(), by.who, by.comment)
    if not found:
        raise HTTPException(404, "no such exporter is expected: it never sent data here, or is retired already")
    return models.Retired(retired=[models.Stream.model_validate(one) for one in found])


@router.get("/rules", tags=["rules"])
async def list_rules(desk: AlertApi) -> models.RuleList:
    """The rules that are evaluated, and how that goes."""
    return models.RuleList(rules=[models.Rule.model_validate(card) for card in desk.rules()])


async def _card(desk: AlertService, alert_id: str) -> AlertCard:
    card = await desk.alert(alert_id)
    if card is None:
        raise HTTPException(404, "there is no such alert")
    return card


def _cursor(card: AlertCard) -> str:
    return f"{card.fired}-{card.alert_id}"


def _before(cursor: str) -> tuple[int, str] | None:
    fired, _, alert_id = cursor.partition("-")
    return (int(fired), alert_id) if cursor else None


SHOWN = 20
"""Mistakes of one request that are told."""


def handle(app: FastAPI) -> None:
    """Have the app answer so."""
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(AlertServiceError, _desk_problem)
    app.add_exception_handler(Exception, _defect)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for it
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


async def _desk_problem(request: Request, error: Exception) -> Response:
    return problem(503, str(error))


async def _defect(request: Request, error: Exception) -> Response:
    """What the client is told; the gate, which hears of the error afterwards, counts and logs it."""
    return problem(500, DEFECT)


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


def application(desk: AlertService, pages: Sequence[BaseRoute]) -> ASGIApp:
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
    app.include_router(router)
    handle(app)
    app.middleware_stack = app.build_middleware_stack()  # else the first request does
    return app
