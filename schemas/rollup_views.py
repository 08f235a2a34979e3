"""The materialised views that fill the rollups: what each inserted block of rows adds to which window.

**Windows.**  A record counts in the windows in which it flowed, in proportion to time.  Its time is the exporter's,
held against the time of receipt: a record cannot end after it was received, and one that ends more than
`LONGEST_SECONDS` before is of a wrong clock; both are moved so that they end when received.  What began more than
`LONGEST_SECONDS` before receipt is shared out over that time.  So a record touches at most
`LONGEST_SECONDS` / 10 + 1 windows, and the shares of a record add up to it.

**Grouping.**  ClickHouse groups by numbers several times faster than by names.  So rows are grouped by two independent
64-bit hashes of the key, and the key is carried along: with a million keys in a block two of them share both hashes
with a probability of 1 in 10²⁶.

**Variance.**  A sample of rate N stands for N packets; n of them have the variance N (N − 1) n, and their octets
Σ N (N − 1) length² (facts 1.7).  Where nobody states a rate, a record may stand for one sampled packet that the
exporter has multiplied (facts 4.1), so it counts as one sample: packets².  NetFlow v5 has a field for the rate; where
it is 0 nothing was sampled.  A record that spans windows gives each its share of the variance, so that levels add up.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.column import Column, mark_of
from schemas.rollups import CONNECTIONS, LEVELS, MEASURES, PAIR_KEYS

LONGEST_SECONDS = 600
"""How far back a record may reach: the default active timeout of NetFlow in Open vSwitch (facts 2.2)."""

EDGE_SECONDS = 1
"""What is seen this close to the end of a window may be reported in the next: sFlow agents send once a second."""


@dataclass(frozen=True)
class Feed:
    """A materialised view: from the blocks inserted into `source` to rows of `target`."""

    name: str
    source: str
    target: str
    select: str
    """The query, with holes as all statements (`schemas.render.fill`)."""

    @property
    def mark(self) -> str:
        """Stands in the view's comment."""
        return mark_of(self.select)


def group(keys: tuple[Column, ...], of: str = "") -> str:
    """Two hashes that stand for these columns.  Names are hashed once per distinct name of a block, not per row."""
    parts = []
    for column in keys:
        name = f"{of}{column.name}"
        parts.append(f"cityHash64({name})" if column.clickhouse == "LowCardinality(String)" else name)
    return f"cityHash64({', '.join(parts)}) AS key_1, xxHash64({', '.join(parts)}) AS key_2"


WINDOW_US = LEVELS["10s"] * 1_000_000
EDGE_US = EDGE_SECONDS * 1_000_000

_RECORD = f"""
    SELECT
        {", ".join(column.name for column in PAIR_KEYS)},
        {group(PAIR_KEYS)},
        toUnixTimestamp64Micro(time_received) AS received_us,
        toUnixTimestamp64Micro(flow_end) AS stated_us,
        if(stated_us > received_us OR stated_us < received_us - {LONGEST_SECONDS * 1_000_000}, received_us, stated_us)
            AS end_us,
        least(greatest(end_us - greatest(stated_us - toUnixTimestamp64Micro(flow_start), 0),
            received_us - {LONGEST_SECONDS * 1_000_000}), end_us) AS start_us,
        intDiv(start_us, {WINDOW_US}) AS first_window,
        intDiv(greatest(end_us - 1, start_us), {WINDOW_US}) AS last_window,
        rate_source != 'unstated' OR protocol = 'netflow5' AS rate_known,
        toFloat64(packets) * sampling_rate AS packets_all,
        toFloat64(bytes) * sampling_rate AS octets_all,
        toFloat64(frame_bytes) * sampling_rate AS frame_octets_all,
        rate_known ? toFloat64(samples) : 1. AS samples_all,
        rate_known ? packets_all * (sampling_rate - 1) : packets_all * packets_all AS packets_variance_all,
        rate_known ? (packets = 0 ? 0. : octets_all * bytes / packets * (sampling_rate - 1)) : octets_all * octets_all
            AS octets_variance_all,
        sampling_rate,
        drop_hint_packets * sampling_rate AS drop_hint_all,
        ip_protocol = 6 AS tcp,
        tcp AND bitAnd(tcp_flags, 2) AS syn,
        bitAnd(tcp_flags, 16) AND (protocol = 'sflow5' OR src_port < dst_port) AS answer,
        syn AND NOT answer ? sampling_rate : 0 AS opened_all,
        syn AND answer ? sampling_rate : 0 AS accepted_all,
        tcp AND bitAnd(tcp_flags, 4) ? sampling_rate : 0 AS reset_all,
        tcp AND tcp_flags = 0 AND fragment != 2 AS flagless,
        cityHash64(src_ip, src_port) + cityHash64(dst_ip, dst_port) + ip_protocol AS connection,
        ether_type IN (0x0800, 0x86DD) AND fragment != 2 AS connected
    FROM flows${{local}}"""

_SHARE = f"""
    SELECT
        *,
        arrayJoin(range(first_window, last_window + 1)) AS window,
        window * {WINDOW_US} AS begin_us,
        window = first_window AS begins,
        end_us - start_us AS length_us,
        length_us = 0 ? 1.
            : (least(end_us, begin_us + {WINDOW_US}) - greatest(start_us, begin_us)) / length_us AS share,
        length_us = 0 ? toFloat64(start_us < begin_us + {EDGE_US})
            : greatest(0, least(end_us, begin_us + {EDGE_US}) - greatest(start_us, begin_us)) / length_us AS share_first,
        length_us = 0 ? toFloat64(start_us >= begin_us + {WINDOW_US - EDGE_US})
            : greatest(0, least(end_us, begin_us + {WINDOW_US}) - greatest(start_us, begin_us + {WINDOW_US - EDGE_US}))
                / length_us AS share_last
    FROM ({_RECORD}
    )"""

_FROM_FLOWS = {
    "records": "sum(share)",
    "samples": "sum(samples_all * share)",
    "packets": "sum(packets_all * share)",
    "packets_variance": "sum(packets_variance_all * share)",
    "octets": "sum(octets_all * share)",
    "octets_variance": "sum(octets_variance_all * share)",
    "frame_octets": "sum(frame_octets_all * share)",
    "first_packets": "sum(packets_all * share_first)",
    "last_packets": "sum(packets_all * share_last)",
    "rate_unstated": "sum(rate_known ? 0. : share)",
    "sampling_rate_max": "max(sampling_rate)",
    "drop_hint_packets": "sum(begins ? drop_hint_all : 0)",
    "connections_opened": "sum(begins ? opened_all : 0)",
    "connections_accepted": "sum(begins ? accepted_all : 0)",
    "connections_reset": "sum(begins ? reset_all : 0)",
    "tcp_flags_missing": "sum(begins AND flagless)",
    "connections": f"{CONNECTIONS.replace('(', 'StateIf(')}(connection, connected)",
}


def _carried(keys: tuple[Column, ...]) -> str:
    return ", ".join(f"any({column.name}) AS {column.name}" for column in keys)


def pairs_from_flows() -> Feed:
    """Rows of `flows` to windows of 10 s."""
    measures = ",\n    ".join(f"{sql} AS {name}" for name, sql in _FROM_FLOWS.items())
    # The names of sums must not hide the columns that they sum.
    select = (
        f"SELECT\n    toDateTime(window * {LEVELS['10s']}, 'UTC') AS time,\n    {_carried(PAIR_KEYS)},\n    {measures}\n"
        f"FROM ({_SHARE}\n)\nGROUP BY key_1, key_2, window\n"
        "SETTINGS prefer_column_name_to_alias = 1"
    )
    return Feed("pair_10s_from_flows", "flows", "pair_10s", select)


def add_up(column: Column, of: str = "") -> str:
    """The aggregate that puts parts of a rollup's measure together, under its own name."""
    kind = column.clickhouse
    if kind.startswith("AggregateFunction"):
        aggregate = CONNECTIONS.replace("(", "MergeState(")
    else:
        aggregate = kind.removeprefix("SimpleAggregateFunction(").split(",")[0]
    return f"{aggregate}({of or column.name}) AS {column.name}"


def _coarser(name: str, keys: tuple[Column, ...], level: str, source: str) -> Feed:
    """From the windows of one level to those of the next."""
    window = f"toDateTime(toStartOfInterval(time, toIntervalSecond({LEVELS[level]})), 'UTC')"
    edges = {
        "first_packets": "if(time = window, first_packets, 0)",
        "last_packets": f"if(time + {LEVELS[source]} = window + {LEVELS[level]}, last_packets, 0)",
    }
    measures = ",\n    ".join(add_up(column, edges.get(column.name, "")) for column in MEASURES)
    select = (
        f"SELECT\n    window AS time,\n    {_carried(keys)},\n    {measures}\n"
        f"FROM (SELECT *, {window} AS window, {group(keys)} FROM {name}_{source}${{local}})\n"
        "GROUP BY key_1, key_2, window\nSETTINGS prefer_column_name_to_alias = 1"
    )
    return Feed(f"{name}_{level}_from_{source}", f"{name}_{source}", f"{name}_{level}", select)


FEEDS = (
    pairs_from_flows(),
    _coarser("pair", PAIR_KEYS, "1m", "10s"),
    _coarser("pair", PAIR_KEYS, "1h", "1m"),
)
