"""Settings of alerts: rules, routes and limits."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from collector.alert.rules import DEFAULTS, Rule
from collector.interfaces import Scope, Severity


class Route(BaseModel, frozen=True, extra="forbid"):
    """One route: who gets which alerts.  All matching routes apply."""

    severities: tuple[Severity, ...] = ()
    """Empty: all."""
    scopes: tuple[Scope, ...] = ()
    """Empty: all."""
    rules: tuple[str, ...] = ()
    """Names of rules; empty: all."""
    receivers: tuple[str, ...] = Field(min_length=1)
    """Names of receivers that get every message."""
    escalate_to: tuple[str, ...] = ()
    """Receivers that are notified one after the other until someone acknowledges."""
    escalate_seconds: float = Field(default=900, ge=10, le=86_400)
    """Time before the first of them, and between each two."""


class AnomalySettings(BaseModel, frozen=True, extra="forbid"):
    """What rules with condition `anomaly` remember."""

    learn_days: int = Field(default=7, ge=1, le=31)
    """Days of which it is counted how rare something is."""
    save_seconds: float = Field(default=900, ge=10, le=86_400)
    """Time between two writes of the state, in `learned` beside the spool: 1.9 kB per series."""
    mask_seconds: float = Field(default=600, ge=0, le=86_400)
    """No alert for so long after a VM moved or came back, its sampling rate changed, or its exporter or vmflow began
    again: the change explains what happens.  At most a quarter of a series' windows of a day."""
    scores_least: float = Field(default=-1, ge=-3, le=10)
    """Least score that is stored in `anomaly_scores`: −1 is what happens ten times a day among 1,000 series."""
    scores_per_window: int = Field(default=1000, ge=0, le=100_000)
    """Most rows of a rule and window in `anomaly_scores`: the rarest.  0: none is stored."""


class AlertSettings(BaseModel, frozen=True, extra="forbid"):
    """What raises alerts and who is notified of them."""

    enabled: bool = True
    """False: no rule is evaluated."""
    rules: tuple[Rule, ...] = Field(default=(), max_length=200)
    """Rules besides the default ones, or in place of those with the same name."""
    default_rules: bool = True
    """False: only the rules given here."""
    routes: tuple[Route, ...] = Field(default=(), max_length=100)
    """Without one, alerts are in the tables and no message is sent."""
    settle_seconds: float = Field(default=10, ge=0, le=3600)
    """A window is evaluated this long after its end: exporters report flows up to their active timeout (10 s
    recommended) late, and what only one side has reported looks like loss."""
    query_seconds: float = Field(default=8, gt=0, le=300)
    """Longest time of one query: less than the shortest window, so that evaluation cannot fall behind for long."""
    query_bytes: int = Field(default=512 * 2**20, ge=2**20)
    """Memory of one query."""
    series: int = Field(default=200_000, ge=1, le=2_000_000)
    """Series of one scope in one window that are read; more are left out, and that is counted."""
    states: int = Field(default=20_000, ge=1, le=1_000_000)
    """Alerts that are pending or firing at a time; more are not begun, and that is counted."""
    waiting_windows: int = Field(default=400, ge=1, le=10_000)
    """Closed windows that wait for their evaluation: an hour of the shortest ones.  More are skipped and counted."""
    pending_seconds: float = Field(default=600, ge=10)
    """A pending alert is dropped if nothing is measured for this long."""
    flap_count: int = Field(default=3, ge=2, le=100)
    """An alert that was raised this often within `flap_seconds` flaps: it ends only after `flap_clear_seconds`."""
    flap_seconds: float = Field(default=3600, ge=60, le=86_400)
    """See `flap_count`."""
    flap_clear_seconds: float = Field(default=1800, ge=10, le=86_400)
    """This many seconds of clear windows end an alert that flaps, instead of the rule's `clear_seconds`."""
    baseline_days: int = Field(default=28, ge=3, le=366)
    """How far a baseline looks back."""
    min_baseline_days: int = Field(default=3, ge=3, le=28)
    """Days with a value in the same hour that a baseline needs; three of the same weekday are taken alone, so that a
    Sunday is compared with Sundays."""
    anomaly: AnomalySettings = AnomalySettings()
    """What rules with condition `anomaly` remember."""
    group_by: Literal["host", "rule", "none"] = "host"
    """How simultaneous alerts of one rule are grouped into one message: those of one hypervisor (of a pair: either of
    its two, whichever has more of them), all, or none."""
    max_group: int = Field(default=200, ge=1, le=1000)
    """Alerts in one message; more make another one."""
    silences: int = Field(default=1000, ge=1, le=100_000)
    """Silences at a time."""
    outbox_seconds: float = Field(default=86_400, ge=60, le=31 * 86_400)
    """A message that is not delivered after this time is not offered again at the next start."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rules: the name {name!r} stands twice")
        known = {rule.name for rule in (*DEFAULTS, *self.rules)}
        for rule in self.rules:
            for other in rule.inhibited_by:
                if other not in known or other == rule.name:
                    raise ValueError(
                        f"rule {rule.name}: inhibited_by = {other!r}: expected the name of another rule, "
                        f"one of {', '.join(sorted(known - {rule.name}))}"
                    )
        try:
            TopologicalSorter({rule.name: rule.inhibited_by for rule in (*DEFAULTS, *self.rules)}).prepare()
        except CycleError as error:
            # Each would inhibit the others, and no message would be sent.
            raise ValueError(f"inhibited_by: rules keep one another back: {' ← '.join(error.args[1])}") from error
        for route in self.routes:
            for name in route.rules:
                if name not in known:
                    raise ValueError(f"route: rule = {name!r}: expected one of {', '.join(sorted(known))}")
        return self

    def active(self) -> tuple[Rule, ...]:
        """Return the rules that are evaluated."""
        own = {rule.name for rule in self.rules}
        defaults = tuple(rule for rule in DEFAULTS if rule.name not in own) if self.default_rules else ()
        return tuple(rule for rule in (*defaults, *self.rules) if rule.enabled)
