"""Interface statistics of Open vSwitch into polls of `interface_counters`.

`rx` is what the switch receives from the port: `in_`.  Open vSwitch counts all packets in one number, which stands in
`in_unicast_packets` and `out_unicast_packets`, as in its sFlow.  ovs-vswitchd writes statistics every 5 s
(`other_config:stats-update-interval`): polls that are closer see no growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from collector.enrich.counter_rows import Poll
from collector.enrich.ovsdb_rows import name_of, small
from decoders.rows import ABSENT
from schemas.counters import TOTALS

_KEYS = {
    "in_octets": "rx_bytes",
    "in_unicast_packets": "rx_packets",
    "in_discards": "rx_dropped",
    "in_errors": "rx_errors",
    "out_octets": "tx_bytes",
    "out_unicast_packets": "tx_packets",
    "out_discards": "tx_dropped",
    "out_errors": "tx_errors",
}
"""Total of the table → key of Interface.statistics."""
MAX_IF_INDEX = 2**32 - 1


def counters(rows: Sequence[Any], wall_us: int, monotonic_us: int) -> Poll:
    """The statistics of all rows of Interface that have a name and at least one counter that is wanted."""
    told = [
        (row, name, statistics)
        for row in rows
        if (name := name_of(row)) and any(key in (statistics := row.statistics) for key in _KEYS.values())
    ]
    totals = np.full((len(TOTALS), len(told)), ABSENT, np.uint64)
    for number, (total, *_) in enumerate(TOTALS):
        if key := _KEYS.get(total):
            # Open vSwitch leaves out what a device does not count; a negative number is no total either.
            values = (max(statistics.get(key, -1), -1) for _, _, statistics in told)
            totals[number] = np.fromiter(values, np.int64, len(told)).view(np.uint64)
    indices = np.array([small(row.ifindex, MAX_IF_INDEX) for row, _, _ in told], np.uint32)
    return Poll(
        # A port that is deleted and made anew has another row.
        keys=[row.uuid for row, _, _ in told],
        names=[name for _, name, _ in told],
        if_index=indices,
        # A device that is made anew under a port that stays has another ifIndex.
        epochs=indices.astype(np.int64),
        totals=totals,
        wall_us=wall_us,
        monotonic_us=monotonic_us,
    )
