"""Why nothing can be told of a series any more: what the window and the inventory say about those whose alert ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from clickhouse_connect.driver import Client

from collector.alert.conditions import Judge
from collector.alert.frame import Frame, Limits
from collector.alert.state import SECOND_US, Alert
from collector.alert.text import clock

MOST = 100
"""VMs that the inventory is asked about at once; of more it is only said what the window says."""

# Where each VM was last, and whether it is still there.
SQL = """
SELECT vm, max(open) AS there, argMax(host, valid_to) AS host, toInt64(toUnixTimestamp(max(valid_to))) AS until
FROM inventory FINAL WHERE vm IN {names:Array(String)} GROUP BY vm
"""


@dataclass(frozen=True, slots=True)
class Place:
    """What the inventory knows of a VM."""

    there: bool
    host: str
    until_us: int
    """Last time it was known to hold."""


def places(client: Client, alerts: Iterable[Alert], limits: Limits) -> dict[str, Place]:
    """Where the VMs of these alerts are.  Blocks; raises the driver's errors."""
    names = sorted({alert.labels.get(name, "") for alert in alerts for name in alert.rule.view.vms} - {""})[:MOST]
    if not names:
        return {}
    answer = client.query(SQL, parameters={"names": names}, settings=limits.settings())
    return {
        str(name): Place(bool(there), str(host), int(until) * SECOND_US)
        for name, there, host, until in answer.result_rows
    }


def why(alert: Alert, judge: Judge, frame: Frame, known: Mapping[str, Place]) -> str:
    """Why nothing was told of the series of this alert for so long, in words."""
    reasons = []
    for vm in alert.rule.view.vms:
        place = known.get(alert.labels.get(vm, ""))
        host = alert.labels.get(vm.replace("vm", "host"), "")
        if place is None:
            continue
        if not place.there:
            reasons.append(f"{alert.labels[vm]} is not in the inventory any more, since {clock(place.until_us)} UTC")
        elif host and place.host != host:
            reasons.append(f"{alert.labels[vm]} has moved from {host} to {place.host}")
    rows = np.flatnonzero(frame.series == np.uint64(alert.series))
    since = clock(alert.window_end_us)
    if len(rows):
        words = frame.texts.get(f"{judge.rule.measure}_evidence")
        word = f" ({words[int(rows[0])].as_py()})" if words is not None else ""
        reasons.append(f"its {judge.rule.measure} cannot be told since {since} UTC{word}")
    else:
        reasons.append(f"nothing is seen of it since {since} UTC")
    return "; ".join(reasons)
