"""Models of the API's requests and answers.  Times are RFC 3339; null where something has not happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from schemas.text import clean

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
    stale_since: When = Field(description="Since when nothing is measured of it: its state stays.")
    told: When = Field(description="When its message was handed over to delivery.")
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
        description="firing, told, acknowledged, escalated, resolved; stale, measured (nothing is measured, again "
        "something); silenced, inhibited (its message is kept back)."
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


class RuleList(BaseModel):
    """The rules that are evaluated, by name."""

    rules: list[Rule]


class Act(BaseModel, extra="forbid"):
    """The person who does something, and why."""

    who: Who = Field(default="", description="Needed where vmflow knows no login; else the login's name counts.")
    comment: Comment = ""


class SilenceRequest(Act):
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


class RetireRequest(Act):
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


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[str] = Field(default=[], description="Of a request that is not valid: where, what was found and why.")
