"""The feed from `interface_counters` to `interface_10s`: differences between polls, shared out over the time between.

A poll that has no valid difference (the first one, or after a reset) says nothing about a window.  `covered_seconds`
tells how much of a window lies between polls, so that a rate is octets / covered_seconds also at the ends.

**Packets.**  Open vSwitch counts all packets as unicast, multicast ones a second time, and broadcast not at all
(ofproto-dpif-sflow.c); libvirt has one for all.  Others count each packet once.  What tells them apart is the broadcast
counter, which Open vSwitch and libvirt do not have.
"""

from __future__ import annotations

from schemas.feed import Feed, names
from schemas.rollups import COUNTED, INTERFACE_KEYS, LEVELS

LONGEST_SECONDS = 3600
"""Polls further apart than this say too little about a window of 10 s."""

OVS_UNKNOWN_SPEED = 100_000_000
"""What Open vSwitch states as ifSpeed of a tap, and of all it does not know (ofproto-dpif-sflow.c)."""

WRAPPED_SPEEDS = tuple(
    gigabits * 10**9 % 2**32 for gigabits in (5, 10, 20, 25, 40, 50, 80, 100, 200, 400) if gigabits * 10**9 >= 2**32
)
"""Usual speeds without their upper bits: Open vSwitch since 3.2 computes ifSpeed in 32 bits (ofproto-dpif-sflow.c)."""

_WINDOW_US = LEVELS["10s"] * 1_000_000


def _delta(way: str, measure: str) -> str:
    if measure != "packets":
        return f"ifNull({way}_{measure}_delta, 0)"
    others = f"{way}_multicast_packets_delta + {way}_broadcast_packets_delta"
    return f"ifNull({way}_unicast_packets_delta, 0) + ifNull({others}, 0)"


def interfaces_from_counters() -> Feed:
    """Polls to windows of 10 s."""
    measures = [(way, measure) for way in ("in", "out") for measure in COUNTED]
    deltas = ",\n        ".join(f"{_delta(way, measure)} AS {way}_{measure}_all" for way, measure in measures)
    sums = ",\n    ".join(f"sum({way}_{measure}_all * share) AS {way}_{measure}" for way, measure in measures)
    wrapped = ", ".join(map(str, sorted(set(WRAPPED_SPEEDS))))
    keys = names(INTERFACE_KEYS)
    select = f"""SELECT
    toDateTime(window * {LEVELS["10s"]}, 'UTC') AS time,
    {keys},
    sum(share * length_us) / 1000000 AS covered_seconds,
    {sums},
    max(stated_speed) AS if_speed,
    max(if_direction = 2) AS half_duplex
FROM (
    SELECT
        *,
        arrayJoin(range(intDiv(start_us, {_WINDOW_US}), intDiv(end_us - 1, {_WINDOW_US}) + 1)) AS window,
        (least(end_us, (window + 1) * {_WINDOW_US}) - greatest(start_us, window * {_WINDOW_US})) / length_us AS share
    FROM (
        SELECT
            {keys},
            if_direction,
            if(if_speed IN ({wrapped}) OR (if_speed = {OVS_UNKNOWN_SPEED} AND (datapath_id != 0 OR of_port != 0)),
                0, if_speed) AS stated_speed,
            toInt64(assumeNotNull(interval_us)) AS length_us,
            toUnixTimestamp64Micro(time_received) AS end_us,
            end_us - length_us AS start_us,
            {deltas}
        FROM interface_counters${{local}}
        WHERE delta_state = 'ok' AND interval_us BETWEEN 1 AND {LONGEST_SECONDS * 1_000_000}
    )
)
GROUP BY window, {keys}
SETTINGS prefer_column_name_to_alias = 1"""
    return Feed("interface_10s_from_counters", "interface_counters", "interface_10s", select)
