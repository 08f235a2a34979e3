"""All materialised views that fill the rollups: what each inserted block of rows adds to which window."""

from __future__ import annotations

from itertools import pairwise

from schemas.burst_feed import bursts_from_flows
from schemas.feed import Feed, coarser, names
from schemas.flow_feed import pairs_from_flows
from schemas.interface_feed import interfaces_from_counters
from schemas.rollups import INTERFACES, LEVELS, PAIR_KEYS, PAIRS


def pairs_from_drops() -> Feed:
    """Discarded-packet notices count in the window in which they came."""
    window = f"toDateTime(toStartOfInterval(time_received, toIntervalSecond({LEVELS['10s']})), 'UTC')"
    keys = names(PAIR_KEYS)
    select = f"SELECT {window} AS time, {keys}, count() AS drops\nFROM drops${{local}}\nGROUP BY time, {keys}\n"
    return Feed("pair_10s_from_drops", "drops", "pair_10s", select)


FEEDS = (
    pairs_from_flows(),
    bursts_from_flows(),
    pairs_from_drops(),
    interfaces_from_counters(),
    *(coarser(coarse, fine) for tables in (PAIRS, INTERFACES) for fine, coarse in pairwise(tables)),
)
