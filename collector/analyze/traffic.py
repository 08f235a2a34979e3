"""Figures of the traffic for `/metrics`, off by default: the hypervisors and the busiest VM pairs of the last window.

What Prometheus gets is bounded: a limited number of hypervisors and pairs, however many there are.  The store has all
of them.  After each closed window the views are queried once, on a thread of their own; a scrape sends no query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from clickhouse_connect.driver import Client
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US
from collector.interfaces import Call, Clock, WindowClosed
from collector.log import get_log
from collector.metrics import PREFIX, Metrics, label_text
from collector.stopping import cancel
from collector.store_errors import first_line
from collector.store_reader import Bounds, Reader
from schemas.rollups import LEVEL_US
from schemas.views.common import suffix

STALE_WINDOWS = 3
"""Older figures are not shown: none are better than those of an hour ago."""

_log = get_log("analyze")


@dataclass(frozen=True, slots=True)
class Figure:
    """A family of `/metrics`, with its interval where the view has one."""

    name: str
    help: str
    values: tuple[str, str, str]
    """SQL of the value and of both ends of its interval."""
    labels: tuple[str, ...] = ()
    """Values of the labels that the rows do not have."""

    def families(self) -> Iterator[tuple[str, str]]:
        """Name and documentation of each family."""
        for end, note in (("", ""), ("_low", " Lower end of the 95 % interval."), ("_high", " Upper end of it.")):
            yield f"{PREFIX}{self.name}{end}", self.help + note


def _column(name: str, factor: str = "") -> tuple[str, str, str]:
    return (f"{name}{factor}", f"{name}_low{factor}", f"{name}_high{factor}")


_HOST = "What the VMs of a hypervisor send and receive, in the last closed window; times 8 for bits."
HOSTS = tuple(
    Figure("traffic_host_bytes_per_second", _HOST, _column(f"{way}_bits_per_second", " / 8"), (way,))
    for way in ("sent", "received")
)
PAIRS = (
    Figure(
        "traffic_pair_bytes_per_second",
        "What one VM sends to another, in the last closed window; times 8 for bits.",
        _column("bits_per_second", " / 8"),
    ),
    Figure(
        "traffic_pair_loss_ratio",
        "Share of the packets between two VMs that got lost, where it is known.",
        ("loss_ratio", "loss_low", "loss_high"),
    ),
    Figure(
        "traffic_pair_latency_seconds",
        "Latency between two VMs, where it is known.",
        (
            "latency_us / 1e6",
            # Of NULL and 0, the greatest is 0.
            "if(latency_us IS NULL, NULL, greatest(0, latency_us - latency_spread_us) / 1e6)",
            "(latency_us + latency_spread_us) / 1e6",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is shown of one kind: rows of a view, the busiest first."""

    view: str
    labels: Mapping[str, str]
    """Name of a label -> column."""
    further: tuple[str, ...]
    """Names of the labels that figures bring."""
    known: str
    """SQL condition of rows that have a name."""
    busy: str
    """SQL of their order."""
    figures: tuple[Figure, ...]

    def query(self, level: str) -> str:
        """Return the query for the rows of a window; the last column is the number of rows in all."""
        values = [sql for figure in self.figures for sql in figure.values]
        # Each value has its own name: the view's columns must not be shadowed.
        columns = [*self.labels.values(), *(f"{sql} AS v{number}" for number, sql in enumerate(values))]
        return (
            f"SELECT {', '.join(columns)}, count() OVER () AS every FROM {self.view}{suffix(level)} "  # noqa: S608 - ours
            f"WHERE time = toDateTime({{start:UInt32}}, 'UTC') AND {self.known} "
            f"ORDER BY {self.busy} DESC, {', '.join(self.labels.values())} LIMIT {{most:UInt32}}"
        )


SCOPES = {
    "hosts": Scope(
        "host_metrics", {"host": "host"}, ("direction",), "host != ''",
        "ifNull(sent_bits_per_second, 0) + ifNull(received_bits_per_second, 0)", HOSTS,
    ),
    "pairs": Scope(
        "pair_metrics", {"src_vm": "src_vm", "dst_vm": "dst_vm", "network": "network"}, (),
        "src_vm != '' AND dst_vm != ''", "ifNull(bits_per_second, 0)", PAIRS,
    ),
}  # fmt: skip

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Shown:
    """One window's figures, as shown."""

    end_us: int
    rows: Mapping[str, Rows]


class Traffic(Collector):
    """The reader of the figures of each window that closes, which serves them to scrapes.  A component.

    `connect` opens a client with the service's database selected; it blocks, and is called through `call`.
    `settle_seconds` is how long after a window's end its late records may come.
    """

    def __init__(
        self,
        settings: AnalyzeSettings,
        metrics: Metrics,
        call: Call,
        connect: Callable[[], Client],
        *,
        clock_us: Clock,
        settle_seconds: float = 0,
    ) -> None:
        self._settings = settings
        bounds = Bounds(settings.traffic_seconds, rows=max(1, settings.traffic_hosts, settings.traffic_pairs))
        self._reader = Reader(call, connect, bounds)
        self._clock_us = clock_us
        self._settle_seconds = settle_seconds
        self._most = {"hosts": settings.traffic_hosts, "pairs": settings.traffic_pairs}
        self._shown: Shown | None = None
        self._task: asyncio.Task[None] | None = None
        if settings.traffic_metrics:
            self._reads = metrics.counter(
                "traffic_reads_total",
                "Windows whose traffic was read for these metrics (ok), or not: the store answered with an error "
                "(failed) or was still busy with the window before (busy).",
                ("result",),
            )
            for result in ("ok", "failed", "busy"):
                self._reads.labels(result)
            metrics.registry.register(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        task, self._task = self._task, None
        await cancel(task)
        await self._reader.close()

    async def window_closed(self, window: WindowClosed) -> None:
        """Read a window of the configured level, once its late records have arrived; nothing waits for it."""
        if not self._settings.traffic_metrics or window.level != self._settings.traffic_level:
            return
        if self._task is not None and not self._task.done():
            self._reads.labels("busy").inc()
            return
        self._task = asyncio.create_task(self._read(window), name="traffic")

    async def _read(self, window: WindowClosed) -> None:
        await asyncio.sleep(self._settle_seconds)
        try:
            self._shown = Shown(window.end_us, await self._ask(window.start_us))
        except Exception as error:  # noqa: BLE001 - whatever the store says, the service goes on
            self._reads.labels("failed").inc()
            _log.sampled("traffic not read for metrics", key=type(error).__name__, error=first_line(error))
        else:
            self._reads.labels("ok").inc()

    async def _ask(self, start_us: int) -> dict[str, Rows]:
        shown: dict[str, Rows] = {}
        for name, scope in SCOPES.items():
            if self._most[name]:
                parameters = {"start": start_us // SECOND_US, "most": self._most[name]}
                found = await self._reader.rows(scope.query(self._settings.traffic_level), parameters)
                shown[name] = [tuple(row.values()) for row in found]
        return shown

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: the registry need not query the store for names."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the figures of the last window that was read.  May be called on any thread."""
        shown = self._shown
        length_us = LEVEL_US[self._settings.traffic_level]
        if shown is None or self._clock_us() > shown.end_us + STALE_WINDOWS * length_us:
            return
        yield _gauge(
            "traffic_window_seconds", "End of the window that is shown; seconds since 1970.", shown.end_us / 1e6
        )
        for name, rows in shown.rows.items():
            left_out = max(0, int(rows[0][-1]) - len(rows)) if rows else 0
            yield _gauge(
                f"traffic_{name}_left_out", f"Of {name} with traffic in the window, those not shown.", left_out
            )
            yield from families(SCOPES[name], rows)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value)


def families(scope: Scope, rows: Rows) -> list[GaugeMetricFamily]:
    """Return families with a sample for each row that has a value.

    Names are cleaned, and cut to the length of a label; of two rows with the same names (but different UUIDs) the first
    one counts: a duplicate series would invalidate the whole scrape.
    """
    found: dict[str, GaugeMetricFamily] = {}
    labels = (*scope.labels, *scope.further)
    seen = set()
    for row in rows:
        names = [label_text(str(text)) for text in row[: len(scope.labels)]]
        if tuple(names) in seen:
            continue
        seen.add(tuple(names))
        values = iter(row[len(scope.labels) : -1])
        for figure in scope.figures:
            for name, text in figure.families():
                value = next(values)
                family = found.setdefault(name, GaugeMetricFamily(name, text, labels=labels))
                if value is not None:
                    family.add_metric([*names, *figure.labels], float(value))
    return list(found.values())
