"""How much of each window went unwatched, from table `gaps`: by vantage point, and by the service itself."""

from __future__ import annotations

from schemas.rollups import LEVELS, TTL_DAYS

MOST_MISSED = 0.1
"""Share of a window that may go unwatched: more cannot be made up for."""

LONGEST_SECONDS = 86_400
"""A gap of more than a day touches no window of which anything is told: only its last day is looked at."""

STREAM_HOURS = 3
"""How far back it is known which streams tell of a vantage point."""


def missed_by_all(level: str) -> str:
    """Seconds of each window that the service did not watch; `vantage` is 0."""
    return _missed(level, "toUInt64(0)", "", "=")


def missed(level: str) -> str:
    """Seconds of each window that a vantage point (column `vantage`) was not watched."""
    streams = f"""
        INNER JOIN (
            SELECT DISTINCT reporter, domain, protocol, vantage
            FROM pair_1h
            WHERE vantage != 0 AND reporter != toIPv6('::') AND time > now() - INTERVAL {STREAM_HOURS} HOUR
        ) AS streams USING (reporter, domain, protocol)"""
    return _missed(level, "streams.vantage", streams, "!=")


def _missed(level: str, vantage: str, join: str, of_all: str) -> str:
    seconds = LEVELS[level]
    first, last = "toUnixTimestamp64Micro(begins) / 1e6", "toUnixTimestamp64Micro(ends) / 1e6"
    return f"""
    SELECT
        toDateTime(missed_window * {seconds}, 'UTC') AS time,
        missed_vantage AS vantage,
        least(sum(part), {seconds}) AS missed_seconds
    FROM (
        SELECT
            {vantage} AS missed_vantage,
            arrayJoin(range(toUInt32(floor(begin / {seconds})), toUInt32(floor(end / {seconds})) + 1)) AS missed_window,
            toFloat64(missed_window) * {seconds} AS opens,
            greatest(0, least(end, opens + {seconds}) - greatest(begin, opens)) AS part
        FROM (
            SELECT reporter, domain, protocol, {last} AS end,
                greatest({first}, {last} - {LONGEST_SECONDS}, 0) AS begin
            FROM gaps WHERE ends > now() - INTERVAL {TTL_DAYS[level]} DAY AND reporter {of_all} toIPv6('::')
        ) AS gap{join}
    )
    WHERE part > 0
    GROUP BY missed_window, missed_vantage"""
