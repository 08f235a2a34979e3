"""Metrics: one registry that is passed in, families declared by the components they describe, bounded labels.

    metrics = Metrics()
    problems = metrics.counter("decode_problems_total", "Problems by exporter and reason.", ("exporter", "reason"))
    problems.labels(metrics.exporters.label(address), "no_template").inc(3)

Names are snake case and begin with `vmflow_`, which is added here.  Counters end in `_total`; amounts are in base units
that the name states (octets, seconds).  Nothing here runs per datagram: stages add a batch's sum at a time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Hashable, Sequence
from ipaddress import IPv6Address

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from schemas.text import clean

PREFIX = "vmflow_"
EXPORTERS_LABELLED = 1000
"""Exporters with a label value of their own.  A cloud's hypervisors fit; a label value costs Prometheus a few kB per
family, and sender addresses may be forged."""
LABEL_CHARACTERS = 100
OTHER = "other"
"""The label value shared by all others."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter, which no one needs

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")


class CappedLabels:
    """Up to `limit` label values, then `other`.

    The first `limit` keys used have values of their own for as long as the process runs, so that a series never changes
    its meaning.  Thread-safe.
    """

    def __init__(self, limit: int = EXPORTERS_LABELLED) -> None:
        self._limit = limit
        self._known: dict[Hashable, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def label(self, key: Hashable, *, newcomer: bool = False) -> str:
        """Return the label value for `key`: its text, or `other`.  A pair of numbers is an IP address in two halves.

        Newcomers get a value only from the first half of the limit: forged addresses leave the other half to keys that
        stay.
        """
        known = self._known.get(key)
        if known is not None:
            return known
        with self._lock:
            if len(self._known) >= (max(1, self._limit // 2) if newcomer else self._limit):
                return self._known.get(key, OTHER)
            return self._known.setdefault(key, _text(key))


class RunningTotals:
    """The feeder of a counter from totals that only grow, one per row of an array.

    A row's label values are given once, when it appears; after that, only changed rows cost time.
    """

    def __init__(self, family: Counter) -> None:
        self._family = family
        self._children: list[Counter] = []
        self._last = np.zeros(0, dtype=np.int64)

    def advance(self, labels: Sequence[Sequence[str]], totals: NDArray[np.int64]) -> None:
        """Add each row's growth since the last call to the counter with the row's label values.

        `labels` and `totals` have the same rows as before, and perhaps new ones at the end.  A total that shrank
        restarted at 0.  Raises ValueError if the lengths differ or rows are missing.
        """
        if len(labels) != len(totals) or len(totals) < len(self._last):
            raise ValueError(f"{len(labels)} label rows, {len(totals)} totals, {len(self._last)} rows before")
        for values in labels[len(self._children) :]:
            self._children.append(self._family.labels(*values))
        growth = np.array(totals, dtype=np.int64)
        shared = len(self._last)
        growth[:shared] -= self._last
        growth = np.where(growth < 0, totals, growth)
        for row in np.nonzero(growth)[0].tolist():
            self._children[row].inc(int(growth[row]))
        self._last = np.array(totals, dtype=np.int64)


class Metrics:
    """The metric families, declared in `registry` (a new one if none is given)."""

    def __init__(self, registry: CollectorRegistry | None = None, exporters_labelled: int = EXPORTERS_LABELLED) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.exporters = CappedLabels(exporters_labelled)
        """Label values for exporters, shared by all families so that one exporter is known in all or in none."""

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Declare a counter.  Raises ValueError for a name that breaks the rules above or is taken."""
        if not name.endswith("_total"):
            raise ValueError(f"the name of counter {name!r} does not end in _total")
        return Counter(_checked(name), documentation, labels, registry=self.registry)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare a gauge.  Raises ValueError like `counter`."""
        if name.endswith("_total"):
            raise ValueError(f"the name of gauge {name!r} ends in _total")
        return Gauge(_checked(name), documentation, labels, registry=self.registry)

    def histogram(
        self, name: str, documentation: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """Declare a histogram with upper bounds `buckets`, in the name's unit.  Raises ValueError like `counter`."""
        return Histogram(_checked(name), documentation, labels, registry=self.registry, buckets=buckets)

    def describe(self, **build: str) -> None:
        """Add `vmflow_build_info` with these labels, and what the system reports of the process (`process_…`)."""
        Info(f"{PREFIX}build", "What this service is made of.", registry=self.registry).info(build)
        ProcessCollector(registry=self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a sample, named without the prefix; None if it does not exist."""
        return self.registry.get_sample_value(PREFIX + name, labels)


def label_text(text: str) -> str:
    """Return a foreign name as a label value: visible, and of bounded length."""
    return clean(text, LABEL_CHARACTERS)


def address_text(high: int, low: int) -> str:
    """Write an address that comes in two halves as people write it: IPv4 without the mapping."""
    address = IPv6Address(int(high) << 64 | int(low))
    return str(address.ipv4_mapped or address)


def _text(key: Hashable) -> str:
    if isinstance(key, tuple) and len(key) == 2:
        return address_text(*key)
    if isinstance(key, IPv6Address):
        return str(key.ipv4_mapped or key)
    return label_text(str(key))


def _checked(name: str) -> str:
    if not _NAME.match(name) or name.startswith(PREFIX):
        raise ValueError(f"metric name {name!r}: snake case without the prefix {PREFIX} is expected")
    return PREFIX + name
