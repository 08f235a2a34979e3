"""The API: routes below /api/v1 for alerts, silences, exporters and rules; every error as problem details (RFC 9457).

Only `server.py` imports this, on a thread, after the start: FastAPI is slow to load.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from collector.http.gate import DEFECT, PROBLEM, SCOPE_ROLE, SCOPE_USER, SESSION, Entrance, problem
from collector.http.login import DeniedError
from collector.http.server import HeldResponse, LargeResponse
from collector.interfaces import (
    AlertService,
    AlertServiceError,
    ResultsRefusedError,
    ResultsService,
    Row,
    SqlService,
)
from collector.store_errors import first_line
from collector.store_reader import Reader
from collector.version import VERSION
from collector.web import queries, questions
from collector.web.events import Events, TooManyListenersError
from schemas.text import clean

PAGE = 1000
"""Most rows of one answer."""
HISTORY = 100_000
"""Largest offset."""
MISTAKES = 20
"""Most mistakes of one request that an answer lists."""

NUMBER = "^[0-9]{0,20}$"
CURSOR = "^([0-9]{1,18}-[0-9a-f]{32})?$"

State = Literal["firing", "acknowledged", "resolved"]
Severity = Literal["info", "warning", "critical"]
Scope = Literal["pair", "vm", "interface", "host", "exporter", "service"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_SILENCE = timedelta(days=366)


def moment(time_us: object) -> object:
    """Return µs since 1970 as a time; 0 as None."""
    if isinstance(time_us, int):
        return _EPOCH + timedelta(microseconds=time_us) if time_us else None
    return time_us


def micros(time: datetime) -> int:
    """Return a time as µs since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


When = Annotated[datetime | None, BeforeValidator(moment)]
# Texts from people are cleaned (`schemas.text`), so that readers see everything in them.
Who = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), AfterValidator(partial(clean, most=100))]
Comment = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=1000), AfterValidator(partial(clean, most=1000))
]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(partial(clean, most=200))]
Protocol = Literal["sflow5", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix"]


def address(text: object) -> object:
    """Return an IP address in the form of alerts' labels: IPv4 is not mapped.  Raises ValueError."""
    parsed = ip_address(str(text))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


Address = Annotated[str, BeforeValidator(address)]


class Alert(BaseModel):
    """One alert.  `unit` is that of value, low, high, threshold and worst: ratio (0 to 1), bit/s, µs, s and so on."""

    alert_id: str = Field(description="32 hexadecimal digits, for one alert from its begin to its end.")
    fingerprint: str = Field(description="Of rule and series: the next alert of the same series has it, too.")
    rule: str
    severity: Severity
    scope: Scope
    labels: dict[str, str] = Field(description="Names of the series: src_vm, dst_vm, vm, host, interface, exporter.")
    state: State = Field(validation_alias="status")
    summary: str = Field(description="Sentence of the rule, filled in.")
    since: When = Field(description="Begin of the first window beyond the limit.")
    fired: When = Field(validation_alias="time")
    acknowledged: When
    acknowledged_by: str
    resolved: When
    resolved_by: str = Field(description="Who or what ended it: a person, clear, forgotten, rule removed.")
    verdict: Literal["none", "true", "false"] = Field(description="Whether it was right to fire, as a person said.")
    judged: When = Field(description="When they said so.")
    stale_since: When = Field(description="Since when nothing is measured of it: its state stays.")
    notified: When = Field(description="When its message was handed over to delivery.")
    held_back: bool = Field(description="A silence or another alert keeps its message back.")
    held_back_by: str = Field(description="Which: the name of a rule, or a silence, its id and who made it.")
    escalations: int
    measure: str = Field(description="Column of the view; empty for absence.")
    unit: str
    value: float | None
    low: float | None = Field(description="Lower end of the 95 % interval; null where there is none.")
    high: float | None
    samples: float | None = Field(description="What the value rests on.")
    threshold: float | None
    worst: float | None = Field(description="Value furthest beyond the limit so far.")
    evidence: str
    condition: str
    level: str = Field(description="Length of the windows: 10s, 1m or 1h.")
    window_start: When = Field(description="Begin of the window of the value.")
    window_end: When


class AlertList(BaseModel):
    """One page of alerts, the last fired first."""

    alerts: list[Alert]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page; null on the last one.")


class Event(BaseModel):
    """One change of an alert."""

    time: When
    event: str = Field(
        description="firing, notified, acknowledged, escalated, resolved; stale, measured (nothing is measured, again "
        "something); silenced, inhibited (its message is kept back); judged (a verdict on one that had ended)."
    )
    who: str
    comment: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    window_end: When


class AlertDetail(BaseModel):
    """One alert and what happened to it, oldest first."""

    alert: Alert
    history: list[Event]


class Anomaly(BaseModel):
    """One window of one series that a rule with condition anomaly found unusual."""

    time: When = Field(description="Begin of the window.")
    level: str
    rule: str
    scope: Scope
    series: Annotated[str, BeforeValidator(str)] = Field(description="Hash of the series: asks for what is expected.")
    labels: dict[str, str]
    measure: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    expected: float | None
    expected_low: float | None
    expected_high: float | None
    score: float = Field(description="0: once a day among 1,000 series; 1: once in ten days; −1: ten times a day.")
    evidence: str
    beyond: bool = Field(description="It was rare enough for the rule to fire.")


class AnomalyList(BaseModel):
    """What was unusual, the newest first, of one window the rarest first."""

    anomalies: list[Anomaly]


class Band(BaseModel):
    """What is usual of a series at a time, in the unit of the rule's measure."""

    time: When
    expected: float
    low: float
    high: float


class Expected(BaseModel):
    """What is usual of a series today, as the rule knows it now."""

    expected: list[Band]


class Silence(BaseModel):
    """One silence: messages of matching alerts are held back."""

    silence_id: str
    matchers: dict[str, str]
    made: When = Field(validation_alias="time")
    until: When
    who: str
    comment: str


class SilenceList(BaseModel):
    """Silences, newest first."""

    silences: list[Silence]


class Rule(BaseModel):
    """One rule that is evaluated.  `unit` is that of above and below."""

    name: str
    scope: Scope
    condition: str
    measure: str
    unit: str
    level: str
    severity: Severity
    above: float | None
    below: float | None
    pending: int = Field(description="Series beyond the limit, but not for long enough.")
    firing: int = Field(description="Alerts that have fired and not ended, acknowledged ones, too.")
    series: int = Field(description="Series that it looked at last.")
    evaluated: When = Field(validation_alias="evaluated_us")
    window_end: When = Field(validation_alias="window_end_us", description="End of the last window that it looked at.")
    failed: When = Field(validation_alias="failed_us", description="When it was last not evaluated.")
    error: str = Field(description="Why not; stays until another error.")
    in_words: str = Field(description="When it fires.")
    toml: str = Field(description="As settings have it, without what is the default.")


class TrialRequest(BaseModel, extra="forbid"):
    """A rule to try."""

    text: str = Field(min_length=1, max_length=20_000, description="TOML with one [[alerts.rules]].")
    seconds: int = Field(default=3600, gt=0, le=31 * 86_400, description="How far to look back.")


class TrialAlert(BaseModel):
    """One alert that there would have been."""

    labels: dict[str, str]
    since: When
    fired: When
    resolved: When
    worst: float | None


class Trial(BaseModel):
    """What a rule would have done."""

    rule: str
    in_words: str
    unit: str
    windows: int = Field(description="Windows with at least one series.")
    fired: int
    refused: int = Field(description="Alerts not begun for lack of room: with these, `fired` is too low.")
    series: int = Field(description="Series that fired.")
    per_day: float
    begin: When = Field(description="Begin of the first window with a series.")
    until: When
    complete: bool = Field(description="False: time was up before the newest window.")
    alerts: list[TrialAlert] = Field(description="The first 200.")


class RuleList(BaseModel):
    """The rules that are evaluated, by name."""

    rules: list[Rule]


class PersonAction(BaseModel, extra="forbid"):
    """The person who does something, and why."""

    who: Who = Field(default="", description="Needed where vmflow knows no login; else the login's name counts.")
    comment: Comment = ""


class Ending(PersonAction):
    """The end of an alert."""

    verdict: Literal["true", "false"] | None = Field(
        default=None,
        description="Whether it was right to fire. A rule that learns does not learn what was right as usual, and of a "
        "series with a false alert it fires only on what is rarer. May be said of an alert that has ended, too.",
    )


class SilenceRequest(PersonAction):
    """A new silence.  Exactly one of `until` and `seconds` states when it ends."""

    matchers: dict[Short, Short] = Field(
        min_length=1,
        max_length=20,
        description="Label (src_vm, dst_vm, vm, host ...), rule, severity or scope, and a pattern with * and ?. "
        "All must match.",
    )
    until: AwareDatetime | None = None
    seconds: float | None = Field(default=None, gt=0, description="From now.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.until is None) == (self.seconds is None):
            raise ValueError("exactly one of until and seconds is expected")
        return self

    def ends(self, now: datetime) -> datetime:
        """Return when it ends.  Raises ValueError for a time in the past, or more than 366 days away."""
        if self.seconds is not None and self.seconds > LONGEST_SILENCE.total_seconds():
            raise ValueError(f"seconds = {self.seconds:g}: at most 366 days are expected")
        end = self.until or now + timedelta(seconds=self.seconds or 0)
        if not now < end <= now + LONGEST_SILENCE:
            raise ValueError(f"until = {end.isoformat()}: a time within the next 366 days is expected")
        return end


class RetireRequest(PersonAction):
    """Exporters that are not expected any more; fields left out do not restrict."""

    exporter: Address = Field(description="Address that the datagrams come from.")
    agent: Address | None = Field(default=None, description="sFlow agent.")
    domain: int | None = Field(default=None, ge=0, lt=2**32, description="Observation domain, sub-agent, engine.")
    protocol: Protocol | None = None

    def labels(self) -> dict[str, str]:
        """Return the labels as alerts have them."""
        wanted = {"exporter": self.exporter, "agent": self.agent, "domain": self.domain, "protocol": self.protocol}
        return {name: str(value) for name, value in wanted.items() if value is not None}


class Stream(BaseModel):
    """One exporter stream."""

    exporter: str
    agent: str
    domain: str
    protocol: str


class Retired(BaseModel):
    """Exporters that are not expected any more, until they send again."""

    retired: list[Stream]


class Made(BaseModel):
    """What was created."""

    silence_id: str


class Session(BaseModel):
    """Who asks."""

    user: str = Field(description="Name of the login; empty where vmflow knows none: then changes need `who`.")
    role: str = Field(description="`reader` may look, `operator` may also act; who needs no login may do both.")
    needed: bool = Field(description="A login is needed, and nobody is logged in.")
    version: str


class Credentials(BaseModel, extra="forbid"):
    """Name and password of a user."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    password: SecretStr = Field(min_length=1, max_length=1024)


class Sql(BaseModel, extra="forbid"):
    """SQL of a person."""

    sql: Annotated[str, StringConstraints(min_length=1, max_length=50_000)] = Field(description="One SELECT.")


class Taken(BaseModel):
    """A batch that was taken."""

    rows: int


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[str] = Field(default=[], description="Of a request that is not valid: where, what was found and why.")


Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits.")]
Limit = Annotated[int, Query(ge=1, le=PAGE)]
Offset = Annotated[int, Query(ge=0, le=HISTORY)]
Rules = Annotated[list[Short], Query(max_length=200)]

Responses = dict[int | str, dict[str, Any]]


def _problems(texts: dict[int, str]) -> Responses:
    return {status: {"model": Problem, "description": text} for status, text in texts.items()}


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

_BUSY = _problems({503: "Too many ask at once: Retry-After says when to come again. Or the store does not answer."})

router = APIRouter(prefix="/api/v1", responses=_PROBLEMS)


async def _service(request: Request) -> AlertService:
    service: AlertService = request.app.state.service
    return service


Service = Annotated[AlertService, Depends(_service)]


async def _reader(request: Request) -> Reader:
    reader: Reader = request.app.state.reader
    return reader


Store = Annotated[Reader, Depends(_reader)]


@dataclass(frozen=True, slots=True)
class _By:
    """The person who does something, and why."""

    who: str
    comment: str


def _by(request: Request, action: PersonAction) -> _By:
    """Return who acts: the logged-in user, else the person named in the body."""
    who = str(request.scope.get(SCOPE_USER) or action.who)
    if not who:
        raise HTTPException(422, "who: a name is expected, of the person who does this")
    return _By(who, action.comment)


@router.get("/alerts", tags=["alerts"])
async def list_alerts(
    reader: Store,
    state: Annotated[list[State], Query(description="Any of these; all by default.")] = [],  # noqa: B006 - FastAPI copies it
    severity: Annotated[list[Severity], Query(description="Any of these; all by default.")] = [],  # noqa: B006
    rule: Annotated[Rules, Query(description="Names of rules; all by default.")] = [],  # noqa: B006
    vm: Annotated[str, Query(max_length=200, description="Name of a VM at either end; * and ? match.")] = "",
    id: Annotated[str, Query(pattern="^[0-9a-f]{0,32}$", description="How the id begins.")] = "",  # noqa: A002 - its name in the URL
    limit: Limit = 100,
    cursor: Annotated[str, Query(pattern=CURSOR, description="`next_cursor` of the page before.")] = "",
) -> AlertList:
    """List alerts, the last fired first."""
    rows = await queries.alerts(
        reader, states=state, severities=severity, rules=rule, vm=vm, begin=id, limit=limit + 1, before=_before(cursor)
    )
    following = _cursor(rows[limit - 1]) if len(rows) > limit else None
    return AlertList.model_validate({"alerts": rows[:limit], "next_cursor": following})


@router.get("/alerts/{alert_id}", tags=["alerts"], responses=_ABSENT)
async def show_alert(reader: Store, alert_id: Id, limit: Limit = 100, offset: Offset = 0) -> AlertDetail:
    """Show one alert and its history, oldest first; limit and offset apply to the history."""
    row = await _row(reader, alert_id)
    events = await queries.history(reader, row, limit, offset)
    return AlertDetail.model_validate({"alert": row, "history": events})


@router.post("/alerts/{alert_id}/acknowledge", tags=["alerts"], responses=_ABSENT | _OVER | _BODY)
async def acknowledge(request: Request, service: Service, reader: Store, alert_id: Id, action: PersonAction) -> Alert:
    """Acknowledge an alert: it is not escalated any more."""
    by = _by(request, action)
    if not await service.acknowledge(alert_id, by.who, by.comment):
        row = await _row(reader, alert_id)
        raise HTTPException(409, f"it is {row['status']}, not firing")
    return Alert.model_validate(await _row(reader, alert_id))


@router.post("/alerts/{alert_id}/resolve", tags=["alerts"], responses=_ABSENT | _OVER | _BODY)
async def resolve(request: Request, service: Service, reader: Store, alert_id: Id, action: Ending) -> Alert:
    """Resolve an alert.  If its condition still holds, the next windows begin a new one."""
    by = _by(request, action)
    if not await service.resolve(alert_id, by.who, by.comment, action.verdict or "none"):
        row = await _row(reader, alert_id)
        raise HTTPException(409, f"it is {row['status']} already")
    return Alert.model_validate(await _row(reader, alert_id))


@router.get("/silences", tags=["silences"])
async def list_silences(
    reader: Store,
    ended: Annotated[bool, Query(description="Former ones, too.")] = False,
    limit: Limit = 100,
    offset: Offset = 0,
) -> SilenceList:
    """List silences, newest first."""
    after_us = 0 if ended else micros(datetime.now(UTC))
    return SilenceList.model_validate({"silences": await queries.silences(reader, limit, offset, after_us)})


@router.post("/silences", tags=["silences"], status_code=201, responses=_BODY)
async def make_silence(request: Request, service: Service, wanted: SilenceRequest) -> Made:
    """Hold back messages of matching alerts until a time.  States still change; alerts that still fire then are
    notified."""
    by = _by(request, wanted)
    try:
        until = micros(wanted.ends(datetime.now(UTC)))
        return Made(silence_id=await service.silence(wanted.matchers, until, by.who, by.comment))
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


@router.post("/silences/{silence_id}/end", tags=["silences"], responses=_ABSENT | _BODY, status_code=204)
async def end_silence(request: Request, service: Service, silence_id: Id, action: PersonAction) -> None:
    """End a silence now."""
    _by(request, action)
    if not await service.end_silence(silence_id):
        raise HTTPException(404, "there is no such silence that lasts")


@router.post("/exporters/retire", tags=["exporters"], responses=_ABSENT | _BODY)
async def retire(request: Request, service: Service, wanted: RetireRequest) -> Retired:
    """Stop expecting exporters that were removed on purpose, until they send again."""
    by = _by(request, wanted)
    found = await service.retire(wanted.labels(), by.who, by.comment)
    if not found:
        raise HTTPException(404, "no such exporter is expected: it never sent data here, or is retired already")
    return Retired.model_validate({"retired": found})


@router.get("/anomalies", tags=["anomalies"])
async def list_anomalies(
    reader: Store,
    rule: Annotated[Rules, Query(description="Names of rules; all by default.")] = [],  # noqa: B006
    series: Annotated[str, Query(pattern=NUMBER, description="One series, as an answer names it.")] = "",
    vm: Annotated[str, Query(max_length=200, description="Name of a VM at either end; * and ? match.")] = "",
    hours: Annotated[float, Query(gt=0, le=720, description="How far back.")] = 24,
    least: Annotated[float, Query(ge=-3, le=10, description="Least score.")] = -1,
    limit: Limit = 100,
) -> AnomalyList:
    """List what rules with condition anomaly found unusual, whether or not they fired."""
    after_us = micros(datetime.now(UTC) - timedelta(hours=hours))
    rows = await queries.anomalies(
        reader, rules=rule, series=series, vm=vm, after_us=after_us, least=least, limit=limit
    )
    return AnomalyList.model_validate({"anomalies": rows})


@router.get("/anomalies/expected", tags=["anomalies"], responses=_ABSENT)
async def show_expected(
    service: Service, rule: Short, series: Annotated[str, Query(pattern=NUMBER, min_length=1)]
) -> Expected:
    """Show what is usual of a series in the day around now: a band for a chart."""
    if int(series) >= 2**64:
        raise HTTPException(422, "query.series: the hash of a series has 64 bits")
    found = await service.expected(rule, int(series))
    if not found:
        raise HTTPException(404, "the rule does not learn, or knows too little of this series")
    return Expected.model_validate({"expected": found})


@router.get("/rules", tags=["rules"])
async def list_rules(service: Service) -> RuleList:
    """List the evaluated rules, and the state of their evaluation."""
    return RuleList.model_validate({"rules": service.rules()})


@router.post("/rules/try", tags=["rules"], responses=_BODY)
async def try_rule(service: Service, wanted: TrialRequest) -> Trial:
    """Try a rule over stored windows, for 20 s at most: it is not evaluated, and no setting changes."""
    until = micros(datetime.now(UTC))
    try:
        return Trial.model_validate(await service.try_rule(wanted.text, until - wanted.seconds * 1_000_000, until))
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


@router.get("/ask/{question}", tags=["console"], responses=_BUSY)
async def ask(
    request: Request, question: Annotated[str, Path(pattern="^[a-z_]{1,40}$")], level: str = "1m"
) -> Response:
    """Answer a question of the console: `data` has its columns by name, times in seconds since 1970; `sql` and `values`
    are what was asked."""
    reader: Reader = request.app.state.console
    events: Events = request.app.state.events
    given = {name: value for name, value in request.query_params.items() if name != "level"}
    try:
        sql, values = questions.prepare(question, level, given, events.closed_until(level))
    except questions.QuestionError as error:
        raise HTTPException(422, str(error)) from error
    try:
        text, seconds = await reader.ask(partial(questions.ask, sql=sql, values=values))
    except TimeoutError as error:
        raise HTTPException(503, "too many questions at once", {"Retry-After": "2"}) from error
    except Exception as error:
        raise queries.NoAnswerError(f"the store does not answer: {first_line(error)}") from error
    shown = {name: str(one) if isinstance(one, int) and one > questions.EXACT else one for name, one in values.items()}
    head = {"question": question, "level": level, "sql": sql, "values": shown, "seconds": round(seconds, 4)}
    return LargeResponse([json.dumps(head)[:-1].encode(), b', "data": ', text, b"}"], media_type="application/json")


@router.post("/sql", tags=["console"], responses=_BUSY | _BODY)
async def sql(request: Request, wanted: Sql) -> Response:
    """Answer SQL as ClickHouse's format JSONCompact, read only, within the limits of the SQL endpoint and 10,000 rows;
    64-bit numbers are text."""
    service: SqlService | None = request.app.state.sql
    if service is None:
        raise HTTPException(503, "SQL is off")
    answer = await service.ask(wanted.sql, request)
    if answer.status != 200:
        raise HTTPException(answer.status, bytes(answer.body).decode(errors="replace"))
    return HeldResponse([answer.body], service.held)


@router.get("/events", tags=["console"], responses=_BUSY)
async def listen(request: Request) -> Response:
    """Say what is new, as server-sent events: `window`, `alerts`, and `bye` when service or session end."""
    events: Events = request.app.state.events
    entrance: Entrance = request.app.state.entrance
    try:
        return StreamingResponse(events.listen(entrance.lasting(request.scope)), media_type="text/event-stream")
    except TooManyListenersError as error:
        raise HTTPException(503, "too many pages listen", {"Retry-After": "10"}) from error


@router.get("/session", tags=["console"])
async def session(request: Request) -> Session:
    """Say who is logged in, and whether somebody must."""
    entrance: Entrance = request.app.state.entrance
    user, role = (str(request.scope.get(key) or "") for key in (SCOPE_USER, SCOPE_ROLE))
    needed = entrance.required and not user
    known = VERSION if not needed else ""
    return Session(user=user, role=role or ("" if needed else "operator"), needed=needed, version=known)


@router.post("/session", tags=["console"], responses=_BODY)
async def log_in(request: Request, response: Response, wanted: Credentials) -> Session:
    """Log a browser in: it gets a cookie for some hours.  Programs send their credentials with each request."""
    entrance: Entrance = request.app.state.entrance
    if not entrance.required:
        raise HTTPException(422, "no login is needed here")
    try:
        who, cookie = await entrance.log_in(wanted.name, wanted.password.get_secret_value(), request.scope)
    except DeniedError as error:
        wait = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds else None
        raise HTTPException(error.status, str(error), wait) from error
    response.headers["Set-Cookie"] = cookie
    return Session(user=who.name, role=who.role, needed=False, version=VERSION)


@router.post("/session/end", tags=["console"], status_code=204, responses=_BODY)
async def log_out(request: Request, response: Response) -> None:
    """Log a browser out."""
    entrance: Entrance = request.app.state.entrance
    response.headers["Set-Cookie"] = entrance.log_out(request.scope)


_REFUSED = _problems(
    {
        409: "The batch was taken before.",
        413: "The batch is longer than 1 MiB.",
        422: "The batch holds what cannot be: it must not be sent again.",
        429: "Too many rows of this agent: Retry-After says when to come again.",
        503: "There is no room, or the store was not asked yet what it has: Retry-After says when to come again.",
    }
)


@router.post("/agent/results", tags=["agents"], status_code=202, responses=_BODY | _REFUSED)
async def take_results(request: Request) -> Taken:
    """Take a batch of an agent's results: `boot` and `batch`, which distinguish it from others, and `columns`."""
    service: ResultsService | None = request.app.state.results
    if request.scope.get(SCOPE_ROLE) != "agent":
        raise HTTPException(403, "a token of role agent is needed: `vmflow passwd NAME --token --role agent`")
    if service is None:
        raise HTTPException(503, "results of agents are not taken here")
    try:
        with service.place():
            return Taken(rows=await service.take(str(request.scope[SCOPE_USER]), await request.body()))
    except ResultsRefusedError as error:
        wait = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds else None
        raise HTTPException(error.status, str(error), wait) from error


async def _row(reader: Reader, alert_id: str) -> Row:
    row = await queries.alert(reader, alert_id)
    if row is None:
        raise HTTPException(404, "there is no such alert")
    return row


def _cursor(row: Row) -> str:
    return f"{row['time']}-{row['alert_id']}"


def _before(cursor: str) -> tuple[int, str] | None:
    fired, _, alert_id = cursor.partition("-")
    return (int(fired), alert_id) if cursor else None


def handle(app: FastAPI) -> None:
    """Make the app answer every error with problem details."""
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(AlertServiceError, _unavailable)
    app.add_exception_handler(queries.NoAnswerError, _unavailable)
    app.add_exception_handler(Exception, _defect)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for it
    answer = problem(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    lines = []
    for found in error.errors()[:MISTAKES]:
        where = ".".join(str(part) for part in found["loc"])
        # Of what was meant as a password nothing is said again, wherever in the request it stands.
        quiet = isinstance(found.get("input"), dict) or request.url.path == SESSION
        given = "" if quiet else f" = {str(found.get('input'))[:100]!r}"
        lines.append(f"{where}{given}: {found['msg']}")
    return problem(422, "the request is not valid", lines)


async def _unavailable(request: Request, error: Exception) -> Response:
    return problem(503, str(error))


async def _defect(request: Request, error: Exception) -> Response:
    """Answer without details; the gate, which gets the error afterwards, counts and logs it."""
    return problem(500, DEFECT)


class Api(FastAPI):
    """The app, which describes errors in their own media type; FastAPI itself gives them that of answers."""

    def openapi(self) -> dict[str, Any]:
        """Return the description: errors are problem details."""
        if self.openapi_schema is None:
            described = super().openapi()
            for methods in described["paths"].values():
                for about in methods.values():
                    for status, answer in about["responses"].items():
                        if int(status) >= 400:
                            answer["content"] = {PROBLEM: answer["content"]["application/json"]}
        assert self.openapi_schema is not None  # noqa: S101 - just made
        return self.openapi_schema


def application(
    service: AlertService,
    reader: Reader,
    console: Reader,
    events: Events,
    entrance: Entrance,
    sql: SqlService | None,
    results: ResultsService | None,
    pages: Sequence[BaseRoute],
) -> ASGIApp:
    """Return the API of `service` and of the store, with `pages` beside it; `console` is the reader of its questions,
    `sql` answers those that people write, `results` takes what agents measured."""
    app = Api(
        title="vmflow",
        summary="Alerts of VM-to-VM traffic: list, acknowledge, resolve, silence; rules and their state.",
        version=VERSION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # the usual pages load scripts from other sites
        redoc_url=None,
        routes=list(pages),
    )
    app.state.service, app.state.reader = service, reader
    app.state.console, app.state.events, app.state.sql, app.state.entrance = console, events, sql, entrance
    app.state.results = results
    app.include_router(router)
    handle(app)
    app.middleware_stack = app.build_middleware_stack()  # otherwise the first request does this
    return app
