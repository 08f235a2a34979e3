"""Views that people, alerts and the web page read: each figure with its interval and its evidence.

A view is made anew when its text changes, so it needs no migration.  `docs/metrics-of-vms.md` explains the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.column import mark_of
from schemas.pair_view import pair_metrics
from schemas.reconciliation import RECONCILIATION
from schemas.rollups import LEVELS


@dataclass(frozen=True)
class View:
    """A named query."""

    name: str
    doc: str
    select: str

    @property
    def mark(self) -> str:
        """Stands in the view's comment: tells whether a store has this text."""
        return mark_of(self.select)


def suffix(level: str) -> str:
    """End of a view's name: nothing for windows of 10 s, else the level."""
    return "" if level == "10s" else f"_{level}"


_PAIRS = tuple(
    View(f"pair_metrics{suffix(level)}", f"What one VM sends to another, per window of {seconds} s.", pair_metrics(level))
    for level, seconds in LEVELS.items()
)

VIEWS = (
    *_PAIRS,
    View("reconciliation", "Samples against counters of the last hour, per interface and exporter.", RECONCILIATION),
)
