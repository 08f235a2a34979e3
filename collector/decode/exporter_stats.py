"""Statistics of exporter streams: rows of table `exporters` per interval, and running totals for /metrics.

Reads the session arrays of decoders; call it only while they are idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.metrics import OTHER, Metrics
from decoders.errors import REASONS
from decoders.netflow.messages import Held, waits
from decoders.netflow.templates import Table as TemplateTable
from decoders.sessions import (
    ESTABLISHED_US,
    NO_SKEW,
    S_AGENT_DROPS,
    S_BYTES,
    S_COUNTER_RECORDS,
    S_DATAGRAMS,
    S_DATAPATH_LOST,
    S_DUPLICATES,
    S_FIRST_SEEN_US,
    S_HELD_BYTES,
    S_LAST_SEEN_US,
    S_LOST,
    S_NAMED,
    S_RECORDS,
    S_REORDERED,
    S_RESTARTS,
    S_SAMPLES_LOST,
    S_SAMPLING_RATE,
    S_TEMPLATES,
    Sessions,
    in_use,
)
from schemas.column import Origin
from schemas.exporters import EXPORTERS

TOTALS = {
    "datagrams": S_DATAGRAMS,
    "bytes": S_BYTES,
    "records": S_RECORDS,
    "counter_records": S_COUNTER_RECORDS,
    "export_lost": S_LOST,
    "samples_lost": S_SAMPLES_LOST,
    "agent_drops": S_AGENT_DROPS,
    "datapath_lost": S_DATAPATH_LOST,
    "duplicates": S_DUPLICATES,
    "reordered": S_REORDERED,
    "restarts": S_RESTARTS,
}
"""Columns that count up: an interval holds the difference."""

COUNTED = list(TOTALS.values())

GAUGES = {"templates": S_TEMPLATES, "held_bytes": S_HELD_BYTES, "sampling_rate": S_SAMPLING_RATE}
"""Columns that hold the state at the end of the interval."""

NEVER = -1

HELD_SECONDS = 30
"""Data held for longer than this is reported: templates that come with the data come within seconds."""

TEMPLATES_PER_SESSION = 65_536
"""Template ids: a key of the template table is session × this + id."""

SFLOW_VERSION = 0x85
PROTOCOL_BY_VERSION = {SFLOW_VERSION: 1, 1: 2, 5: 3, 7: 4, 9: 5, 10: 6}
"""Version in a session key -> number in the enumeration `protocol`; anything else is 0, unknown."""


METRIC_NAMES = {"counter_records": "polled_records"}
"""Names for columns whose own name is no good metric name: Prometheus wants no type in it."""


@dataclass(frozen=True, slots=True)
class OwnLoss:
    """Losses of the collector itself, running totals."""

    kernel_drops: int = 0
    queue_drops: int = 0


@dataclass(frozen=True, slots=True)
class StatsDelta:
    """Growth since the last look, of the streams that counted anything."""

    numbers: NDArray[np.int64]
    """[n] session numbers; 0 stands for senders beyond the limit, and for streams dropped since."""
    stats: NDArray[np.uint64]
    """[n, S_STATS] growth of the running totals; meaningless for gauges."""
    problems: NDArray[np.uint64]
    """[n, reasons] growth."""


class Growths:
    """The differences of the sessions' running totals between two looks.

    A session number may pass to another stream in between, many times in a flood of senders. The sessions keep one sum
    of the totals of all dropped streams; less what was already reported of them, it is what is still unreported.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._stats = np.zeros_like(sessions.stats)
        self._problems = np.zeros_like(sessions.problems)
        self._generation = np.zeros_like(sessions.generation)
        self._gone_stats = np.zeros_like(sessions.gone_stats)
        self._gone_problems = np.zeros_like(sessions.gone_problems)

    def take(self) -> StatsDelta:
        """Return the growth since the last call."""
        s = self._sessions
        gone = np.flatnonzero(s.generation != self._generation)
        gone_stats = _unreported(s.gone_stats, self._gone_stats, self._stats[gone])
        gone_problems = _unreported(s.gone_problems, self._gone_problems, self._problems[gone])
        self._stats[gone], self._problems[gone] = 0, 0
        self._generation[gone] = s.generation[gone]
        self._gone_stats, self._gone_problems = s.gone_stats.copy(), s.gone_problems.copy()

        used = np.append(in_use(s), 0)
        before, problems_before = self._stats[used], self._problems[used]
        # Loss may be taken back when a late datagram comes; what was reported stays, and is not reported again.
        self._stats[used] = np.maximum(s.stats[used], before)
        self._problems[used] = np.maximum(s.problems[used], problems_before)
        stats, problems = self._stats[used] - before, self._problems[used] - problems_before
        stats[-1] += gone_stats
        problems[-1] += gone_problems
        grown = stats[:, COUNTED].any(axis=1) | problems.any(axis=1)
        return StatsDelta(used[grown], stats[grown], problems[grown])


def _unreported(
    total: NDArray[np.uint64], before: NDArray[np.uint64], reported: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return the growth of the totals of dropped streams, without what was reported of them ([n, …]) while they were
    known."""
    growth = total - before
    growth -= np.minimum(growth, reported.sum(axis=0, dtype=np.uint64))
    return growth


class Findings(Protocol):
    """Returns what is known to be wrong with a stream; called on a decode worker's thread."""

    def __call__(self, exporter: bytes, agent: bytes, domain: int, protocol: str, /) -> str:
        """Return codes joined by commas; addresses have 16 octets."""


def no_findings(_exporter: bytes, _agent: bytes, _domain: int, _protocol: str, /) -> str:
    """Finds nothing."""
    return ""


class StreamReporter:
    """Maker of the rows of table `exporters`."""

    def __init__(
        self, sessions: Sessions, templates: TemplateTable | None = None, findings: Findings = no_findings
    ) -> None:
        """`templates` is the decoder's table of templates; without it, their age is not reported."""
        self._sessions = sessions
        self._templates = templates
        self._findings = findings
        self._growths = Growths(sessions)
        self._time_us = 0
        self._own = OwnLoss()

    def report(self, time_us: int, own: OwnLoss | None) -> pa.RecordBatch | None:
        """Return rows for all streams that counted anything since the last report, and one for the collector unless
        `own` is None: then another instance reports it.

        Streams dropped meanwhile, and senders beyond the limit, share a row without exporter.  None at the first call.
        """
        first, since_us, before = self._time_us == 0, self._time_us, self._own
        now = own or OwnLoss()
        self._time_us, self._own = time_us, now
        growth = self._growths.take() if not first else None
        if growth is None:
            return None
        lost = OwnLoss(now.kernel_drops - before.kernel_drops, now.queue_drops - before.queue_drops)
        rows = self._rows(growth, time_us, time_us - since_us, lost)
        return rows if own is not None else rows.slice(0, len(growth.numbers))

    def _rows(self, growth: StatsDelta, time_us: int, interval_us: int, own: OwnLoss) -> pa.RecordBatch:
        numbers = growth.numbers
        count = len(numbers) + 1
        key = self._sessions.key[numbers]
        skews = self._sessions.skew_us[numbers]
        exporters, agents = addresses(key[:, 0:2]), addresses(np.where(_of_sflow(key), key[:, 3:5], np.uint64(0)))
        domains = (key[:, 2] & np.uint64(0xFFFFFFFF)).tolist()
        columns: dict[str, Any] = {
            "time": np.full(count, time_us),
            "interval_us": np.full(count, interval_us),
            "exporter": [*exporters, bytes(16)],
            "agent": [*agents, bytes(16)],
            "domain": [*domains, 0],
            "source_port": np.append((key[:, 2] >> np.uint64(32)) & np.uint64(0xFFFF), 0),
            "protocol": [*protocols(key), EXPORTERS["protocol"].names[0]],
            "problems": [*_problem_maps(growth.problems), []],
            "clock_skew_us": [*(None if skew == NO_SKEW else int(skew) for skew in skews), None],
            "kernel_drops": np.append(np.zeros(count - 1), own.kernel_drops),
            "queue_drops": np.append(np.zeros(count - 1), own.queue_drops),
            "template_age_us": [*self._template_ages(numbers, time_us), None],
            "findings": [*map(self._findings, exporters, agents, domains, protocols(key)), ""],
        }
        columns |= {name: np.append(growth.stats[:, index], 0) for name, index in TOTALS.items()}
        columns |= {name: np.append(self._sessions.stats[numbers, index], 0) for name, index in GAUGES.items()}
        return EXPORTERS.batch(columns, Origin.DECODE)

    def _template_ages(self, numbers: NDArray[np.int64], time_us: int) -> list[int | None]:
        """Return for each session the time since its last template came; None where it has none."""
        if self._templates is None:
            return [None] * len(numbers)
        newest = np.full(len(self._sessions.key), NEVER, np.int64)
        used = self._templates.key >= 0
        np.maximum.at(newest, self._templates.key[used] // TEMPLATES_PER_SESSION, self._templates.refreshed_us[used])
        return [None if when == NEVER else max(0, time_us - when) for when in newest[numbers].tolist()]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Data that waits for its template."""

    streams: int = 0
    """Streams whose data has waited for longer than `HELD_SECONDS`."""
    seconds: float = 0
    """How long the oldest has waited."""


def waiting_data(held: Sequence[Held], now_us: int) -> Waiting:
    """Return what waits in these queues."""
    ages = [np.maximum(0, now_us - since_us) / 1e6 for _, since_us in map(waits, held)]
    late = sum(int((one > HELD_SECONDS).sum()) for one in ages)
    return Waiting(late, max((float(one.max()) for one in ages if len(one)), default=0.0))


class StreamMetrics:
    """Feeder of the metrics of exporter streams; labels are capped by `Metrics.exporters`."""

    def __init__(self, sessions: Sequence[Sessions], metrics: Metrics, held: Sequence[Held] = ()) -> None:
        """`sessions` and `held` are those of all decoders."""
        self._sessions = sessions
        self._held = held
        self.waiting = Waiting()
        self._metrics = metrics
        self._growths = [Growths(one) for one in sessions]
        labels = ("exporter", "protocol")
        self._counters = {
            index: metrics.counter(
                f"exporter_{METRIC_NAMES.get(name, name)}_total", f"{EXPORTERS[name].doc} By exporter.", labels
            )
            for name, index in TOTALS.items()
        }
        self._problems = metrics.counter(
            "decode_problems_total", "Pieces of datagrams that were not decoded, by reason.", ("exporter", "reason")
        )
        self._gauges = {
            index: metrics.gauge(name, doc)
            for index, name, doc in (
                (S_TEMPLATES, "templates", "Templates known."),
                (S_HELD_BYTES, "held_bytes", "Octets of data held until their template arrives."),
            )
        }
        self._streams = metrics.gauge("exporter_streams", "Exporter streams known.")
        self._held_seconds = metrics.gauge(
            "held_seconds", "How long the oldest data has waited for its template; 0 where none waits."
        )

    def advance(self, now_us: int = 0) -> None:
        """Add what came since the last call; the age of held data is reckoned at `now_us`."""
        self.waiting = waiting_data(self._held, now_us)
        self._held_seconds.set(self.waiting.seconds)
        for sessions, growths in zip(self._sessions, self._growths, strict=True):
            self._add(sessions, growths.take())
        used = [in_use(sessions) for sessions in self._sessions]
        self._streams.set(sum(map(len, used)))
        for index, gauge in self._gauges.items():
            gauge.set(sum(int(s.stats[numbers, index].sum()) for s, numbers in zip(self._sessions, used, strict=True)))

    def _add(self, s: Sessions, growth: StatsDelta) -> None:
        names = protocols(s.key[growth.numbers])
        newcomers = ~established(s, growth.numbers)
        for row, number in enumerate(growth.numbers):
            address = (int(s.key[number, 0]), int(s.key[number, 1]))
            exporter = self._metrics.exporters.label(address, newcomer=bool(newcomers[row])) if number else OTHER
            for index, counter in self._counters.items():
                if growth.stats[row, index]:
                    counter.labels(exporter, names[row]).inc(int(growth.stats[row, index]))
            for reason in np.flatnonzero(growth.problems[row]):
                self._problems.labels(exporter, REASONS[reason]).inc(int(growth.problems[row, reason]))


def established(s: Sessions, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of these sessions have given records for some time or are named in the settings."""
    stats = s.stats[numbers]
    served = stats[:, S_LAST_SEEN_US] >= stats[:, S_FIRST_SEEN_US] + np.uint64(ESTABLISHED_US)
    gave = (stats[:, S_RECORDS] + stats[:, S_COUNTER_RECORDS]) > 0
    found: NDArray[np.bool_] = (served & gave) | (stats[:, S_NAMED] != 0)
    return found


def addresses(words: NDArray[np.uint64]) -> list[bytes]:
    """Convert [n, 2] numbers to n addresses of 16 octets."""
    packed = words.astype(">u8").tobytes()
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]


def _of_sflow(key: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of these session keys name an agent, [n, 1]."""
    named: NDArray[np.bool_] = (key[:, 2:3] >> np.uint64(48)) == np.uint64(SFLOW_VERSION)
    return named


def protocols(key: NDArray[np.uint64]) -> list[str]:
    """Return the protocol names of session keys."""
    names = EXPORTERS["protocol"].names
    return [names[PROTOCOL_BY_VERSION.get(int(version), 0)] for version in key[:, 2] >> np.uint64(48)]


def _problem_maps(problems: NDArray[np.uint64]) -> list[list[tuple[str, int]]]:
    return [[(REASONS[reason], int(row[reason])) for reason in np.flatnonzero(row)] for row in problems]
