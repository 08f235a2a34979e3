"""A rule of the settings, and the rules that are on by default."""

from __future__ import annotations

import math
import re
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from collector.alert.scopes import Measure, ScopeView, measures_of, view_of
from collector.figures import figure
from collector.interfaces import Scope, Severity
from schemas.rollups import LEVELS

Condition = Literal["threshold", "absent", "trend", "baseline", "anomaly"]
"""Each is a module in `conditions`."""
Level = Literal["10s", "1m", "1h"]

LEAST_TREND_WINDOWS = 12
"""Fewer windows say little about a slope: six differences over half of the look-back."""
MOST_TREND_WINDOWS = 240
"""Series × windows × 4 octets are kept in memory: 100,000 series take 96 MB."""

FIGURES = frozenset(
    {"rule", "severity", "measure", "value", "low", "high", "threshold", "samples", "evidence", "since", "level"}
)
"""What a text template may name, beside the labels of the scope."""

FORGET_SILENT_SECONDS = 86_400
"""A hypervisor may be away for a night."""
FORGET_UNMEASURED_SECONDS = 900
"""A VM that talks now and then says something in a quarter of an hour."""
LEAST_UNMEASURED_WINDOWS = 3

SILENCE = Measure("s")
"""What `absent` measures."""

COUNTS = frozenset({"connections", "peers", "packets", "bytes", "problems", "datagrams", "restarts"})
"""Units of measures that grow with the length of the window."""

Pattern = Annotated[str, Field(min_length=1, max_length=200)]


class Filter(BaseModel, frozen=True, extra="forbid"):
    """Which series a rule is about: each kind that has patterns must match.  `*` and `?` stand for any characters."""

    vm: tuple[Pattern, ...] = ()
    """Names of VMs; of a pair either end may match."""
    project: tuple[Pattern, ...] = ()
    """Projects of the VMs, as the inventory names them."""
    host: tuple[Pattern, ...] = ()
    """Hypervisors; of a pair either may match."""
    network: tuple[Pattern, ...] = ()
    """Virtual networks."""


class Rule(BaseModel, frozen=True, extra="forbid"):
    """When to raise an alert, and when to end it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """Names the rule in messages, tables and settings; a rule with the name of a default rule replaces it."""
    enabled: bool = True
    """False removes a default rule."""
    scope: Scope
    """What a series is: pair, vm, interface, host, exporter, or the service itself."""
    condition: Condition = "threshold"
    """`threshold`: beyond a limit.  `absent`: nothing comes any more.  `trend`: will reach a limit.  `baseline`: unlike
    the same hour of other days.  `anomaly`: rare, by what was learned of each series."""
    measure: str = ""
    """Column of the scope's view; none for `absent`."""
    level: Level = "1m"
    """Length of the windows that are evaluated."""
    above: float | None = None
    """Limit: fires where the whole 95 % interval is above, or the value where the measure has no interval."""
    below: float | None = None
    """The same, for what must not fall."""
    clear: float | None = None
    """The alert ends only when the value is back within this (hysteresis).  None: within the limit."""
    for_seconds: float = Field(default=0, ge=0, le=86_400)
    """Consecutive windows beyond the limit, of this many seconds in all.  0: one window is enough."""
    certain_windows: float | None = Field(default=None, ge=1000, le=1e15)
    """`threshold` of a measure with an interval: add up the evidence from window to window, and fire without
    `for_seconds` if it would be wrong once in this many windows of a series.  Many weak windows then fire, too."""
    clear_seconds: float = Field(default=60, ge=0, le=86_400)
    """Consecutive clear windows of this many seconds in all end the alert."""
    windows: int = Field(default=3, ge=1, le=1000)
    """`absent`: silent windows after which the alert is raised."""
    forget_seconds: float | None = Field(default=None, ge=60, le=31 * 86_400)
    """A series that is silent or unknown for this long counts as gone; its alert ends as `forgotten`, with a message
    that states why.  None: a day for `absent`, else 15 minutes, and three windows at least."""
    replaced: bool = False
    """`absent` of exporters: true for those that another stream of the same sender replaced, false for the others."""
    look_back: int = Field(default=60, ge=LEAST_TREND_WINDOWS, le=MOST_TREND_WINDOWS)
    """`trend`: windows of which the slope is taken; two thirds of them must have a value."""
    within_seconds: float = Field(default=3 * 3600, gt=0, le=31 * 86_400)
    """`trend`: fires if the limit will be reached within this time."""
    deviations: float = Field(default=8, ge=1, le=100)
    """`baseline`: how many robust standard deviations (1.48 × median deviation) from the median are too many."""
    min_spread: float = Field(default=0.1, ge=0, le=10)
    """`baseline`: the standard deviation counts as at least this share of the median: few days differ little by
    chance."""
    min_change: float = Field(default=0, ge=0)
    """`baseline`: a deviation smaller than this, in the measure's unit, is of no interest."""
    direction: Literal["above", "below", "both"] = "both"
    """`baseline`, `anomaly`: which side."""
    alerts_per_day: float = Field(default=1.0, ge=0.001, le=1000)
    """`anomaly`: false alerts a day and 1,000 series that are borne."""
    least_change: float = Field(default=0, ge=0)
    """`anomaly`: less off what is expected than this, in the measure's unit, is of no interest."""
    severity: Severity = "warning"
    """info, warning or critical: routes choose receivers by it."""
    only: Filter = Filter()
    """Which series; all by default."""
    inhibited_by: tuple[str, ...] = ()
    """Rules whose alerts inhibit this one's messages: of the same scope for the same series, of another scope where
    both name the same VM or hypervisor.  An alert about the service itself concerns everything."""
    text: str = Field(default="", max_length=1000)
    """Sentence of the message; {value}, {src_vm} and so on are filled in."""
    runbook: str = Field(default="", max_length=500)
    """Link for the receiver of the message."""

    @field_validator("runbook")
    @classmethod
    def _check_runbook(cls, link: str) -> str:
        if link and not re.match(r"https?://\S+$", link):
            raise ValueError("expected a link that begins with http:// or https://")
        return link

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.condition == "absent":
            self._check_absent()
        else:
            self._check_measure()
            self._check_limits()
        if self.only.vm and not self.view.vms:
            raise ValueError(f"only.vm = {list(self.only.vm)}: scope {self.scope} has no VM")
        if self.only.project and not self.view.uuids:
            raise ValueError(f"only.project = {list(self.only.project)}: scope {self.scope} has no VM")
        if self.only.host and not self.view.hosts:
            raise ValueError(f"only.host = {list(self.only.host)}: scope {self.scope} has no hypervisor")
        if self.only.network and "network" not in self.view.labels:
            raise ValueError(f"only.network = {list(self.only.network)}: scope {self.scope} has no network")
        check_template(self.text, frozenset(self.view.labels) | FIGURES)
        return self

    def _check_absent(self) -> None:
        if self.replaced and not self.view.rhythm:
            raise ValueError(f"replaced = true: only exporters are replaced, scope {self.scope} is not")
        if self.measure or self.above is not None or self.below is not None or self.clear is not None:
            raise ValueError("condition absent takes windows, no measure, above, below or clear")
        if self.windows * LEVELS[self.level] >= self.forget_after:
            raise ValueError(f"forget_seconds = {self.forget_after:g}: must be longer than {self.windows} windows")

    def _check_measure(self) -> None:
        if self.replaced:
            raise ValueError("replaced = true: expected with condition absent")
        if self.about.own and (self.condition != "threshold" or self.level != "10s"):
            raise ValueError(f"measure = {self.measure}: evaluated every 10 s; expected condition threshold, level 10s")
        if self.measure not in self.view.measures:
            raise ValueError(
                f"measure = {self.measure!r}: view {self.view.view} of scope {self.scope} has no such measure; "
                f"expected one of {', '.join(sorted(measures_of(self.scope)))}"
            )
        if self.certain_windows is not None and (self.condition != "threshold" or not self.about.low):
            bounded = ", ".join(name for name, one in self.view.measures.items() if one.low) or "none in this scope"
            raise ValueError(
                f"certain_windows = {self.certain_windows:g}: expected with condition threshold and a measure that has "
                f"an interval: {bounded}"
            )

    def _check_limits(self) -> None:
        if self.condition == "baseline":
            if self.above is not None or self.below is not None or self.clear is not None:
                raise ValueError("condition baseline takes deviations and direction, no above, below or clear")
            if self.level != "1h" and self.about.unit in COUNTS:
                raise ValueError(
                    f"level = {self.level!r}: baselines are made of hours, and {self.measure} counts per window; "
                    "expected level 1h, or a measure per second"
                )
            return
        if self.condition == "anomaly":
            if self.above is not None or self.below is not None or self.clear is not None:
                raise ValueError("condition anomaly takes alerts_per_day and direction, no above, below or clear")
            return
        if (self.above is None) == (self.below is None):
            raise ValueError(f"condition {self.condition} takes exactly one of above and below")
        for name in ("above", "below", "clear"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} = {value}: a finite number is expected")
        if not self.can_pass(self.limit):
            raise ValueError(f"above = {self.limit:g}: {self.measure} is a share of all, at most 1; less is expected")
        if self.clear is not None and (self.clear - self.limit) * self.sign > 0:
            side = "at or below above" if self.above is not None else "at or above below"
            raise ValueError(f"clear = {self.clear:g}: must lie {side} = {self.limit:g}")

    @property
    def view(self) -> ScopeView:
        """Where the series come from."""
        return view_of(self.scope, self.measure)

    @property
    def about(self) -> Measure:
        """Return what is known of the measure; for `absent`, seconds."""
        return self.view.measures.get(self.measure, SILENCE)

    @property
    def limit(self) -> float:
        """The limit of a threshold or trend.  Raises ValueError where there is none."""
        limit = self.above if self.above is not None else self.below
        if limit is None:
            raise ValueError(f"rule {self.name} has no limit")
        return limit

    @property
    def in_words(self) -> str:
        """When it fires."""
        if self.condition == "absent":
            return f"silent for {self.windows} windows"
        if self.condition == "baseline":
            return f"{self.measure} {self.deviations:g} deviations {self.direction} of what is usual"
        if self.condition == "anomaly":
            side = "" if self.direction == "both" else f" {self.direction}"
            return f"{self.measure} unusual{side}, {self.alerts_per_day:g} a day and 1,000 series"
        side = "above" if self.sign > 0 else "below"
        words = f"{self.measure} {side} {figure(self.limit, self.about.unit)}"
        if self.condition == "trend":
            words += f" within {self.within_seconds / 3600:g} h"
        return words + (f" for {self.for_seconds:g} s" if self.for_seconds else "")

    @property
    def forget_after(self) -> float:
        """Seconds after which a silent or unmeasured series is dropped."""
        if self.forget_seconds is not None:
            return self.forget_seconds
        if self.condition == "absent":
            return FORGET_SILENT_SECONDS
        return max(FORGET_UNMEASURED_SECONDS, LEAST_UNMEASURED_WINDOWS * LEVELS[self.level])

    def can_pass(self, limit: float) -> bool:
        """Whether any value can be beyond such a limit: no share of what was sent is more than all of it."""
        return not (self.about.survival and self.sign > 0 and limit >= 1)

    @property
    def sign(self) -> int:
        """1 where high values are bad, −1 where low ones are."""
        return 1 if self.below is None else -1

    @property
    def windows_to_fire(self) -> int:
        """Consecutive windows beyond the limit that raise the alert."""
        return max(1, math.ceil(self.for_seconds / LEVELS[self.level]))

    @property
    def windows_to_clear(self) -> int:
        """Consecutive clear windows that end it."""
        return max(1, math.ceil(self.clear_seconds / LEVELS[self.level]))


def check_template(text: str, names: frozenset[str]) -> None:
    """Raise ValueError unless all placeholders of `text` are `{name}` with one of these names and nothing else."""
    try:
        placeholders = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"text = {text!r}: {error}; write {{{{ and }}}} for braces") from error
    for _, name, form, conversion in placeholders:
        if name is not None and (name not in names or form or conversion):
            raise ValueError(
                f"text = {text!r}: {{{name}}} cannot be filled in; expected one of {', '.join(sorted(names))}"
            )


DEFAULTS = (
    # A day of 1,000 pairs has 8.6 million windows of 10 s.  By chance the 95 % interval is beyond in 1 of 40 of them,
    # in six one after the other in 1 of 4 · 10⁹; the evidence adds up to too much in 1 of 10⁸ (bench/alerts.py).
    Rule(
        name="pair_loss",
        scope="pair",
        measure="loss_ratio",
        level="10s",
        above=0.01,
        clear=0.005,
        for_seconds=60,
        certain_windows=1e8,
        clear_seconds=60,
        severity="critical",
        inhibited_by=("service_kernel_drops", "service_queue_drops"),
        text="{src_vm} → {dst_vm} loses {value} [{low} – {high}] of its packets",
    ),
    # Where few packets are sampled, 10 s hold too few of them.
    Rule(
        name="pair_loss_lasting",
        scope="pair",
        measure="loss_ratio",
        level="1m",
        above=0.01,
        clear=0.005,
        for_seconds=300,
        certain_windows=1e7,
        clear_seconds=180,
        severity="warning",
        inhibited_by=("pair_loss", "service_kernel_drops", "service_queue_drops"),
        text="{src_vm} → {dst_vm} loses {value} [{low} – {high}] of its packets",
    ),
    # Within one data centre round trips take less than 1 ms; 20 ms is felt by every application.
    Rule(
        name="pair_latency",
        scope="pair",
        measure="latency_us",
        level="1m",
        above=20_000,
        clear=10_000,
        for_seconds=120,
        clear_seconds=180,
        text="{src_vm} → {dst_vm}: latency {value}",
    ),
    Rule(
        name="interface_utilisation",
        scope="interface",
        measure="utilisation",
        level="1m",
        above=0.9,
        clear=0.8,
        clear_seconds=120,
        text="{interface} on {host} is used at {value}",
    ),
    # One frame in a thousand: 10 times what the worst cable in specification does.
    Rule(
        name="interface_errors",
        scope="interface",
        measure="error_ratio",
        level="1m",
        above=0.001,
        clear=0.0001,
        for_seconds=120,
        clear_seconds=300,
        text="{interface} on {host}: errors in {value} of the packets",
    ),
    # sFlow counters come every 20 to 30 s, IPFIX of an idle host now and then: three minutes are more than a pause.
    Rule(
        name="exporter_absent",
        scope="exporter",
        condition="absent",
        level="1m",
        windows=3,
        severity="critical",
        text="Exporter {exporter} ({protocol}, domain {domain}) sends nothing since {value}",
    ),
    # Someone changed it: worth a message, but not at night.
    Rule(
        name="exporter_replaced",
        scope="exporter",
        condition="absent",
        level="1m",
        windows=2,
        replaced=True,
        severity="info",
        text="Exporter {exporter} sends {evidence} instead of {protocol}, domain {domain}",
    ),
    # Templates come with the data, or with its next announcement: Open vSwitch repeats them every 600 s by default.
    Rule(
        name="exporter_held",
        scope="exporter",
        measure="held_bytes",
        level="10s",
        above=0,
        for_seconds=30,
        clear_seconds=20,
        text="Exporter {exporter} ({protocol}, domain {domain}): {value} wait for their template and are in no table; "
        "`vmflow exporters --doctor` says what to do",
    ),
    Rule(
        name="service_kernel_drops",
        scope="service",
        measure="kernel_drops",
        level="10s",
        above=0,
        clear_seconds=60,
        severity="critical",
        text="vmflow itself lost {value} at its sockets: figures are too low",
    ),
    Rule(
        name="service_queue_drops",
        scope="service",
        measure="queue_drops",
        level="10s",
        above=0,
        clear_seconds=60,
        severity="critical",
        text="vmflow itself lost {value} in its queues: figures are too low",
    ),
    Rule(
        name="service_store_away",
        scope="service",
        measure="store_away_seconds",
        level="10s",
        above=30,
        clear_seconds=20,
        severity="critical",
        text="The store has taken no rows for {value}: they wait in the spool, and no other rule is evaluated",
    ),
    Rule(
        name="service_spool_fills",
        scope="service",
        measure="spool_ratio",
        level="10s",
        above=0.5,
        clear=0.4,
        clear_seconds=20,
        severity="critical",
        text="The spool is {value} full: once it is full, the oldest rows are lost",
    ),
    # What is rare for a series, within a budget of false alerts: worth a look, nothing to be woken by.
    Rule(
        name="vm_rate_unusual",
        scope="vm",
        condition="anomaly",
        measure="sent_bits_per_second",
        least_change=1e6,
        severity="info",
        text="{vm} sends {value}: {evidence}",
    ),
    # On made-up networks it finds two thirds of the scans that are not sampled (bench/anomaly_peers.py).
    Rule(
        name="vm_peers_unusual",
        scope="vm",
        condition="anomaly",
        measure="peers",
        direction="above",
        least_change=10,
        alerts_per_day=3,
        severity="info",
        text="{vm} sends to {value}, as a scan does: {evidence}",
    ),
    Rule(
        name="host_rate_unusual",
        scope="host",
        condition="anomaly",
        measure="sent_bits_per_second",
        least_change=1e7,
        severity="info",
        text="VMs on {host} send {value}: {evidence}",
    ),
    Rule(
        name="interface_rate_unusual",
        scope="interface",
        condition="anomaly",
        measure="in_bits_per_second",
        least_change=1e6,
        severity="info",
        text="{interface} on {host} takes {value}: {evidence}",
    ),
    Rule(
        name="pair_latency_unusual",
        scope="pair",
        condition="anomaly",
        measure="latency_us",
        direction="above",
        least_change=1000,
        alerts_per_day=0.1,
        severity="info",
        text="{src_vm} → {dst_vm}: latency {value}: {evidence}",
    ),
)
"""Rules that are on unless a rule of the same name replaces them."""
