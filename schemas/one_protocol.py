"""Each packet once where a switch reports by several protocols: sFlow and IPFIX of one bridge tell of the same packets.

Per window, each vantage point (column `vantage`) is believed by one protocol: the one with the least variance, so
unsampled before sampled, among those that saw at least half of what another one saw; with the same variance the later
one of the enumeration.  The choice does not look at single pairs: taking for each pair whichever protocol happened to
sample it would count too much.
"""

from __future__ import annotations

LEAST_SHARE = 0.5
"""A protocol that tells of less than this share of what another one tells is not whole: its cache still holds records,
or its datagrams are lost."""


def counted_pairs(level: str) -> str:
    """What stands behind FROM: the rows of `pair_…` that count, as `pairs`; a condition may follow."""
    return f"""pair_{level} AS pairs
    GLOBAL LEFT ANTI JOIN (
        SELECT
            time AS refused_time,
            vantage AS refused_vantage,
            arrayJoin(arraySlice(arraySort(
                feed -> (feed.seen < {LEAST_SHARE} * most, feed.weight, -feed.protocol), feeds), 2)) AS feed,
            feed.protocol AS refused_protocol
        FROM (
            SELECT
                time,
                vantage,
                groupArray(CAST(tuple(protocol, seen, weight), 'Tuple(protocol Int8, seen Float64, weight Float64)'))
                    AS feeds,
                max(seen) AS most
            FROM (
                SELECT time, vantage, protocol, sum(packets) AS seen, sum(packets_variance) / seen AS weight
                FROM pair_{level}
                WHERE vantage != 0
                GROUP BY time, vantage, protocol
            )
            GROUP BY time, vantage
            HAVING count() > 1
        )
    ) AS refused ON pairs.time = refused_time AND pairs.vantage = refused_vantage
        AND CAST(pairs.protocol, 'Int8') = refused_protocol"""
