"""All materialised views that fill the rollups: what each inserted block of rows adds to which window."""

from __future__ import annotations

from itertools import pairwise

from schemas.feed import Feed, coarser, names
from schemas.interface_feed import interfaces_from_counters
from schemas.rollups import (
    CONNECTIONS,
    FEED_PROTOCOL,
    INTERFACES,
    LEVELS,
    PAIR_HASH,
    PAIR_INPUT,
    PAIR_KEYS,
    PAIRS,
    VANTAGE_HASH,
)

_HASH = PAIR_HASH.format(src="src", dst="dst")


def pairs_from_drops() -> Feed:
    """Discarded-packet notices count in the window in which they came."""
    window = f"toDateTime(toStartOfInterval(time_received, toIntervalSecond({LEVELS['10s']})), 'UTC')"
    keys = names(tuple(column for column in PAIR_KEYS if column is not FEED_PROTOCOL))
    select = (
        f"SELECT {window} AS time, {_HASH} AS pair, {keys}, count() AS drops\n"
        f"FROM drops${{local}}\nGROUP BY time, {keys}\n"
    )
    return Feed("pair_10s_from_drops", "drops", "pair_10s", select)


def pairs_from_sums() -> Feed:
    """Sums that the process has made of rows of `flows`; connections become a state that can be merged."""
    columns = [column.name for column in PAIR_INPUT.stored if column.name != "connection_hashes"]
    state = f"arrayReduce('{CONNECTIONS.replace('(', 'State(')}', connection_hashes) AS connections"
    hashes = f"{_HASH} AS pair, {VANTAGE_HASH} AS vantage"
    select = f"SELECT {', '.join(columns)}, {hashes}, {state}\nFROM {PAIR_INPUT.name}${{local}}"
    return Feed("pair_10s_from_sums", PAIR_INPUT.name, "pair_10s", select)


FEEDS = (
    pairs_from_sums(),
    pairs_from_drops(),
    interfaces_from_counters(),
    *(coarser(coarse, fine) for tables in (PAIRS, INTERFACES) for fine, coarse in pairwise(tables)),
)
