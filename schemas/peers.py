"""VMs and their peers: table `known_peers`, which links of two VMs there are, and the views `vm_peers_…`.

    pair_figure_rows_… ──► known_peers ──► view vm_peers_1m   peers, new ones, how even the octets are
    pair_1m ───────────────────────────────┘

A link is a VM that sends to another one.  It is known from the first closed window that has it; it is forgotten 28 days
after the last one.  At most `MOST` links are known: of more, none is noted, and they stay new.
A peer that is no VM, as all that is outside, counts as one.
"""

from __future__ import annotations

from schemas.column import UINT64, Column, Table
from schemas.rollups import LEVELS, TIME_S
from schemas.views.common import counted_pairs

MOST = 2_000_000
LINK = "cityHash64(src_vm, dst_vm, src_vm_uuid, dst_vm_uuid)"
UNKNOWN = "src_vm_uuid = toUUID('00000000-0000-0000-0000-000000000000')"

KNOWN = Table(
    "known_peers",
    "One link: a VM sent to another one, or to what is no VM. Several rows of one add up.",
    (
        Column("link", UINT64, "Hash of the names and UUIDs of both.", codec="LZ4"),
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
    new = f" AND link GLOBAL NOT IN (SELECT link FROM {KNOWN.name})" if level != "1h" else ""
    # The last second: an hour that notes a link must not hide in which of its minutes it was new.
    return f"""INSERT INTO {KNOWN.name} (link, first, last)
SELECT DISTINCT {LINK} AS link, time + {LEVELS[level] - 1}, time FROM pair_figure_rows_{level}
WHERE time = toDateTime({{time:UInt32}}, 'UTC') AND version = {{version:UInt64}}
    AND (src_vm != '' OR NOT ({UNKNOWN})) AND (SELECT count() FROM {KNOWN.name}) < {MOST}{new}"""


def peers(level: str) -> str:
    """Return the query of the view for windows of this level."""
    own, other = "sighting IN ('source', 'both')", "sighting = 'destination'"
    return f"""SELECT
    time,
    vm,
    max(host) AS host,
    count() AS peers,
    countIf(first = toDateTime(0, 'UTC') OR first >= time) AS new_peers,
    -- −Σ p ln p = ln Σ b − Σ b ln b / Σ b, of the octets b to each peer.
    if(peers > 1 AND sum(octets) > 0,
        least(1, greatest(0, log(sum(octets)) - sum(octets * log(greatest(octets, 1))) / sum(octets)) / log(peers)),
        NULL) AS peer_entropy,
    sum(octets) AS sent_bytes,
    max(rate) AS sampling_rate,
    vm_uuid
FROM (
    SELECT time, src_vm AS vm, src_vm_uuid AS vm_uuid, {LINK} AS link, max(src_host) AS host,
        max(sampling_rate_max) AS rate,
        greatest(sumIf(bytes, {own}), sumIf(bytes, {other})) AS octets
    FROM {counted_pairs(level)}
    WHERE (src_vm != '' OR NOT ({UNKNOWN})) AND packets > 0
    GROUP BY time, src_vm, src_vm_uuid, dst_vm, dst_vm_uuid
) AS links
GLOBAL LEFT JOIN (SELECT link, min(first) AS first FROM {KNOWN.name} GROUP BY link) AS known USING (link)
GROUP BY time, vm, vm_uuid"""
