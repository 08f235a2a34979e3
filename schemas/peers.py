"""VMs and their peers: table `known_peers`, which links of two VMs there are, and the views `vm_peers_…`.

    pair_figure_rows_… ──► known_peers ──► view vm_peers_1m   peers, new ones, how even the octets are
    pair_1m ───────────────────────────────┘

A link is a VM that sends to another one.  It is known from the first closed window that has it; it is forgotten 28 days
after the last one.  At most `MOST` links are known, and those of one window more: of others, none is noted, and they
stay new; the known ones stay known.  A new name of a VM whose UUID is known makes no link new.
A peer that is no VM, as all that is outside, counts as one.
"""

from __future__ import annotations

from schemas.column import UINT64, Column, Table
from schemas.rollups import LEVELS, TIME_S
from schemas.views.common import counted_pairs, missed, missed_by_all

MOST = 2_000_000
NIL = "toUUID('00000000-0000-0000-0000-000000000000')"
LINK = f"cityHash64(src_vm_uuid, if(src_vm_uuid = {NIL}, src_vm, ''), dst_vm_uuid, if(dst_vm_uuid = {NIL}, dst_vm, ''))"
UNKNOWN = f"src_vm_uuid = {NIL}"

KNOWN = Table(
    "known_peers",
    "One link: a VM sent to another one, or to what is no VM. Several rows of one add up.",
    (
        Column("link", UINT64, "Hash of the UUIDs of both, of the name where no UUID is known.", codec="LZ4"),
        Column(
            "first", TIME_S, "Last second of the first window that has it.", unit="s since 1970",
            clickhouse_type="SimpleAggregateFunction(min, DateTime('UTC'))", codec="LZ4",
        ),
        Column(
            "last", TIME_S, "Begin of the last one that noted it: those of hours do.", unit="s since 1970",
            clickhouse_type="SimpleAggregateFunction(max, DateTime('UTC'))", codec="LZ4",
        ),
    ),
    order_by=("link",),
    time="last",
    ttl_days=28,
    partition="toYYYYMM",
    engine="AggregatingMergeTree",
)  # fmt: skip


def note_peers(level: str) -> str:
    """Return the statement that notes the links of a closed window: of an hour all, of a minute those not known yet.

    Its parameters: `time` (s since 1970), `version` (of the rows of pairs).
    """
    # Several rows of a link count once; of the number of links, 1 % more or less is good enough.
    known, room = f"(SELECT link FROM {KNOWN.name})", f"(SELECT uniq(link) FROM {KNOWN.name}) < {MOST}"
    wanted = f"({room} OR link GLOBAL IN {known})" if level == "1h" else f"{room} AND link GLOBAL NOT IN {known}"
    # The last second: an hour that notes a link must not hide in which of its minutes it was new.
    return f"""INSERT INTO {KNOWN.name} (link, first, last)
SELECT DISTINCT {LINK} AS link, time + {LEVELS[level] - 1}, time FROM pair_figure_rows_{level}
WHERE time = toDateTime({{time:UInt32}}, 'UTC') AND version = {{version:UInt64}}
    AND (src_vm != '' OR NOT ({UNKNOWN})) AND {wanted}"""


def peers(level: str) -> str:
    """Return the query of the view for windows of this level."""
    own, other = "sighting IN ('source', 'both')", "sighting = 'destination'"
    return f"""SELECT
    time,
    vm,
    host,
    peers,
    new_peers,
    peer_entropy,
    sent_bytes,
    sampling_rate,
    here_restarted OR all_restarted AS restarted,
    vm_uuid
FROM (
    SELECT
        time,
        vm,
        vm_uuid,
        max(links.host) AS host,
        count() AS peers,
        countIf(first = toDateTime(0, 'UTC') OR first >= time) AS new_peers,
        -- −Σ p ln p = ln Σ b − Σ b ln b / Σ b, of the octets b to each peer.
        if(peers > 1 AND sum(octets) > 0,
            least(1, greatest(0, log(sum(octets)) - sum(octets * log(greatest(octets, 1))) / sum(octets)) / log(peers)),
            NULL) AS peer_entropy,
        sum(octets) AS sent_bytes,
        max(rate) AS sampling_rate,
        cityHash64(if(host != '', host, vm)) AS vantage,
        toUInt64(0) AS everywhere
    FROM (
        SELECT time, src_vm AS vm, src_vm_uuid AS vm_uuid, {LINK} AS link, max(src_host) AS host,
            max(sampling_rate_max) AS rate,
            greatest(sumIf(bytes, {own}), sumIf(bytes, {other})) AS octets
        FROM {counted_pairs(level)}
        WHERE (src_vm != '' OR NOT ({UNKNOWN})) AND packets > 0
        GROUP BY time, src_vm, src_vm_uuid, link
    ) AS links
    GLOBAL LEFT JOIN (SELECT link, min(first) AS first FROM {KNOWN.name} GROUP BY link) AS known USING (link)
    GROUP BY time, vm, vm_uuid
) AS seen
LEFT JOIN (SELECT time, vantage, restarted AS here_restarted FROM ({missed(level)}
)) AS here USING (time, vantage)
LEFT JOIN (SELECT time, vantage AS everywhere, restarted AS all_restarted FROM ({missed_by_all(level)}
)) AS all USING (time, everywhere)"""
