"""The views that people, alerts and the web page read: each figure with its interval and its evidence.

A view is created again when its text changes, so it needs no migration.  `docs/vm-metrics.md` explains the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.anomalies import ANOMALIES
from schemas.figures import ENDS, FIGURE_LEVELS, stored_figures
from schemas.peers import peers
from schemas.rollups import LEVELS
from schemas.views.common import View, suffix
from schemas.views.ends import end_metrics, end_rows
from schemas.views.exporter import exporter_metrics
from schemas.views.interface import interface_metrics, speed_settings
from schemas.views.pair import pair_metrics, pair_traffic
from schemas.views.reconciliation import RECONCILIATION


def _views_of(level: str) -> tuple[View, ...]:
    per = f"per window of {LEVELS[level]} s"
    end = suffix(level)
    return (
        View(f"pair_metrics{end}", f"What one VM sends to another, {per}.", pair_metrics(level)),
        View(
            f"pair_traffic{end}",
            f"The columns of `pair_metrics{end}` without loss, latency and errors, for less, {per}.",
            pair_traffic(level),
        ),
        View(f"interface_metrics{end}", f"Counters of one interface, {per}.", interface_metrics(level)),
        View(f"vm_{level}", f"`pair_{level}` by VM: each row as sent and as received.", end_rows("vm", level)),
        View(
            f"host_{level}", f"`pair_{level}` by hypervisor: each row as sent and as received.", end_rows("host", level)
        ),
        View(f"vm_metrics{end}", f"What one VM sends and receives, {per}.", end_metrics("vm", level)),
        View(
            f"host_metrics{end}", f"What the VMs of one hypervisor send and receive, {per}.", end_metrics("host", level)
        ),
        View(f"vm_peers{end}", f"Which VMs one VM sends to, {per}.", peers(level)),
        View(
            f"exporter_metrics{end}",
            f"What one exporter reports and what of it is lost, {per}.",
            exporter_metrics(level),
        ),
    )


def views(interface_speeds: Mapping[str, int]) -> tuple[View, ...]:
    """Return all views in order of creation: a view comes after those that it queries."""
    return (
        speed_settings(interface_speeds),
        *(view for level in LEVELS for view in _views_of(level)),
        *(
            View(
                f"{what}_figures_{level}",
                f"Stored figures of closed windows of {LEVELS[level]} s.",
                stored_figures(what, level),
            )
            for what in ("pair", *ENDS)
            for level in FIGURE_LEVELS
        ),
        View("anomalies", "What rules with condition `anomaly` found unusual.", ANOMALIES),
        View(
            "reconciliation", "Samples against counters of the last hour, per interface and exporter.", RECONCILIATION
        ),
    )


VIEWS = views({})
"""The views when the settings state no speeds."""
