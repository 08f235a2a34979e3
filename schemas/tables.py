"""All tables, in the order in which they are created and documented."""

from __future__ import annotations

from schemas.alerts import ALERT_TABLES
from schemas.anomalies import SCORES
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.exporters import EXPORTERS
from schemas.flows import FLOWS
from schemas.gaps import GAPS
from schemas.inventory import INVENTORY
from schemas.latency import LATENCY
from schemas.probes import PROBES

TABLES = (FLOWS, COUNTERS, DROPS, EXPORTERS, GAPS, INVENTORY, LATENCY, PROBES, *ALERT_TABLES, SCORES)
