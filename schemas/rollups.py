"""Rollups: sums per window that ClickHouse keeps up to date as rows arrive.

    flows ──► collector/rollup ──► pair_10s_in ──► pair_10s ──► pair_1m ──► pair_1h
              sums rows in memory                     ▲      each arrow after `…_in`, `drops` and `interface_counters`
                                          drops ──────┘      is a materialised view (`FEEDS`)
    interface_counters ──► interface_10s ──► interface_1m ──► interface_1h

Rows of `flows` are summed in the process, once per 10 s: materialised views on each insert would take 1 to 3 CPU
seconds per million rows.

What VMs and hypervisors sent and received, `vm_10s` to `host_1h`, are plain views of the pairs (`schemas.views.ends`):
each materialised view costs 15 to 35 ms of every insert, however few the rows are.

Every row states in `sighting` where the packets were seen, so one packet is in several rows of a pair: at its source,
at its destination, in transit.  Nothing is counted twice as long as one sighting is summed at a time, as the views in
`schemas.views.all` do.  All levels hold partial sums: query them with GROUP BY, or query the views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pyarrow as pa

from schemas.column import ADDRESS, ENUM, NAME, NAMED_UUID, UINT8, UINT32, UINT64, Column, Table, mark_of
from schemas.counters import COUNTERS
from schemas.flows import FLOWS, LZ4, T64
from schemas.probes import LATENCY_FROM_PROBES

LEVELS = {"10s": 10, "1m": 60, "1h": 3600}
"""Seconds of a window, by the end of the table's name; shortest first.  Each divides the next, and a day."""
LEVEL_US = {level: seconds * 1_000_000 for level, seconds in LEVELS.items()}
"""The same in µs."""

TTL_DAYS = {"10s": 2, "1m": 30, "1h": 400}

PARTITIONS = {"10s": "toYYYYMMDD", "1m": "toYYYYMMDD", "1h": "toYYYYMM"}

CONNECTIONS = "uniqCombined(12)"
"""Distinct connections: nearly exact up to some hundreds, then with a standard error of 1.6 %; at most 3 kB a row."""

FLOAT = pa.float64()
FLOAT_CODEC = "LZ4"
TIME_S = pa.timestamp("s", tz="UTC")


def _time(level: str) -> Column:
    doc = f"Begin of the window of {LEVELS[level]} s."
    return Column("time", TIME_S, doc, unit="s since 1970", clickhouse_type="DateTime('UTC')", codec="DoubleDelta, LZ4")


def _name(name: str, doc: str) -> Column:
    return Column(name, NAME, doc, missing="''", codec=LZ4)


def _uuid(name: str, doc: str) -> Column:
    return Column(name, NAMED_UUID, doc, missing="zeros", codec=LZ4)


def _sum(name: str, unit: str, doc: str) -> Column:
    """Make a column of sums of shares: a record that spans windows gives each its part, so they are not whole."""
    return Column(
        name, FLOAT, doc, unit=unit, clickhouse_type="SimpleAggregateFunction(sum, Float64)", codec=FLOAT_CODEC
    )


def _count(name: str, unit: str, doc: str) -> Column:
    return Column(name, UINT64, doc, unit=unit, clickhouse_type="SimpleAggregateFunction(sum, UInt64)", codec=T64)


SIGHTING = Column(
    "sighting",
    FLOWS["sighting"].arrow,
    "From where the packets were seen; `unknown` for drops of unknown place.",
    names=FLOWS["sighting"].names,
    missing="unknown",
    codec=LZ4,
)

FEED_PROTOCOL = Column(
    "protocol",
    FLOWS["protocol"].arrow,
    "Export protocol that reported the packets: a switch may report each packet by several.  `unknown` for drops.",
    names=FLOWS["protocol"].names,
    missing="unknown",
    codec=LZ4,
)

PAIR_KEYS = (
    _name("src_vm", "Name of the sending VM; empty: not a VM that the inventory knows."),
    _name("dst_vm", "Name of the receiving VM; empty: not a VM that the inventory knows, or several."),
    _uuid("src_vm_uuid", "UUID of the sending VM."),
    _uuid("dst_vm_uuid", "UUID of the receiving VM."),
    _name("src_host", "Hypervisor of the sending VM; a VM that moves has a row for each."),
    _name("dst_host", "Hypervisor of the receiving VM."),
    _name("network", "Virtual network."),
    SIGHTING,
    FEED_PROTOCOL,
)

STREAM_KEYS = (
    Column(
        "reporter",
        ADDRESS,
        "Who reported the packets: the agent that sFlow names, else the sender of the records; `::` for drops.",
        clickhouse_type="IPv6",
        missing="`::`",
        codec=LZ4,
    ),
    Column("domain", UINT32, "Its observation domain, source id, sub-agent or engine; 0 for drops.", codec=LZ4),
)
"""With the protocol they identify the stream that reported the packets: one stream says nothing about another."""

PAIR = Column(
    "pair",
    UINT64,
    "Hash of the names and UUIDs of both VMs and the network, in this direction: compares faster than they do.",
    codec=LZ4,
)

VANTAGE = Column(
    "vantage",
    UINT64,
    "Hash of who saw the packets at the VM's port: the hypervisor's name, or the VM's where that is not known; 0 for "
    "packets seen in between.",
    codec=LZ4,
)

VANTAGE_OF = "cityHash64(if({end}_host != '', {end}_host, {end}_vm))"
"""SQL of the vantage point at one end: `src` or `dst`."""

VANTAGE_HASH = f"""multiIf(
        sighting IN ('source', 'both'), {VANTAGE_OF.format(end="src")},
        sighting = 'destination', {VANTAGE_OF.format(end="dst")},
        0)"""
"""SQL of `vantage`."""

PAIR_HASH = "cityHash64({src}_vm, {dst}_vm, {src}_vm_uuid, {dst}_vm_uuid, network)"
"""SQL of `pair`: `src` and `dst` in this order, or in the other for the answers."""

MEASURES = (
    _sum("records", "rows", "Rows of `flows`."),
    _sum("samples", "packets", "Sampled packets; a record whose rate is not stated counts as one."),
    _sum("packets", "packets", "Packets, estimated: counts × sampling rate."),
    _sum("packets_variance", "packets²", "Variance of `packets` that sampling causes; 0 if nothing was sampled."),
    _sum("bytes", "bytes", "Layer 3 bytes, estimated."),
    _sum("bytes_variance", "bytes²", "Variance of `bytes` that sampling causes."),
    _sum("frame_bytes", "bytes", "Layer 2 bytes without FCS, estimated; 0 where the exporter does not state them."),
    _sum("first_packets", "packets", "Of `packets`, those of the window's first second."),
    _sum("last_packets", "packets", "Of `packets`, those of the window's last second."),
    _sum("rate_unstated", "rows", "Rows whose sampling rate is not stated."),
    _sum(
        "first_smear",
        "packets",
        "How many packets the records that reach over the window's begin may have put on its wrong side: a record says "
        "how many packets came in its time, not when.",
    ),
    _sum("last_smear", "packets", "The same for the window's end."),
    _sum("first_smear_squares", "packets²", "Sum of the squares of what `first_smear` sums up."),
    _sum("last_smear_squares", "packets²", "Sum of the squares of what `last_smear` sums up."),
    Column(
        "sampling_rate_max",
        UINT32,
        "Highest sampling rate.",
        clickhouse_type="SimpleAggregateFunction(max, UInt32)",
        codec=LZ4,
    ),
    _count("drop_hint_packets", "packets", "Packets of which an exporter says it discarded them: a hint, no loss."),
    _count("drops", "packets", "Discarded-packet notices (table `drops`): a lower bound, agents limit them."),
    _count(
        "connections_opened", "connections", "TCP connections that the source asked for: SYN without ACK, estimated."
    ),
    _count("connections_accepted", "connections", "Answers to such: SYN with ACK, estimated."),
    _count("connections_reset", "packets", "TCP packets with RST, estimated."),
    _count("tcp_flags_missing", "rows", "TCP rows that show no flags: connections opened in them are not seen."),
    Column(
        "connections",
        pa.binary(),
        f"Distinct connections: 5-tuples, both directions alike. Read with {CONNECTIONS.replace('(', 'Merge(')}.",
        unit="state",
        clickhouse_type=f"AggregateFunction({CONNECTIONS}, UInt64)",
        missing="none",
    ),
)


INTERFACE_KEYS = (
    _name("host", "Hypervisor that has the interface."),
    *(COUNTERS[name] for name in ("agent", "source", "if_index", "if_name", "vm")),
    _uuid("vm_uuid", "UUID of the VM."),
    COUNTERS["network"],
)

COUNTED = {
    "bytes": "bytes",
    "packets": "packets",
    "discards": "packets",
    "errors": "packets",
}
"""What is counted in each direction, with its unit."""

INTERFACE_MEASURES = (
    _sum("covered_seconds", "s", "Part of the window that lies between two polls."),
    *(
        _sum(f"{way}_{name}", unit, f"{name.capitalize()} {meaning}.")
        for way, meaning in (
            ("in", "that the switch received from the interface (at a VM's port: that the VM sent)"),
            ("out", "that the switch sent to the interface"),
        )
        for name, unit in COUNTED.items()
    ),
    Column(
        "if_speed",
        UINT64,
        "Speed as the agent states it; 0 where it cannot be right (Open vSwitch states 100 Mbit/s for what it does not "
        "know, and since 3.2 speeds from 4.3 Gbit/s without their upper bits).",
        unit="bit/s",
        clickhouse_type="SimpleAggregateFunction(max, UInt64)",
        codec=T64,
    ),
    Column(
        "half_duplex",
        UINT8,
        "1 if both directions share the speed.",
        clickhouse_type="SimpleAggregateFunction(max, UInt8)",
        codec=LZ4,
    ),
)


def _table(name: str, doc: str, level: str, keys: tuple[Column, ...], measures: tuple[Column, ...]) -> Table:
    order = ("time", *(column.name for column in keys))
    # A column added to the order later cannot be added to the index of existing tables.
    later = (FEED_PROTOCOL.name, VANTAGE.name, *(column.name for column in STREAM_KEYS))
    index = tuple(column for column in order if column not in later)
    return Table(
        f"{name}_{level}",
        f"{doc} in {LEVELS[level]} s.",
        (_time(level), *keys, *measures),
        order_by=order,
        time="time",
        ttl_days=TTL_DAYS[level],
        partition=PARTITIONS[level],
        engine="AggregatingMergeTree",
        primary_key=index if index != order else (),
    )


def _levels(name: str, doc: str, keys: tuple[Column, ...], measures: tuple[Column, ...]) -> tuple[Table, ...]:
    return tuple(_table(name, doc, level, keys, measures) for level in LEVELS)


_PAIR_ORDER = (PAIR, *PAIR_KEYS, VANTAGE, *STREAM_KEYS)
PAIRS = _levels("pair", "What one VM sent to another, by where it was seen,", _PAIR_ORDER, MEASURES)
INTERFACES = _levels("interface", "What the counters of one interface say", INTERFACE_KEYS, INTERFACE_MEASURES)


def _plain(column: Column) -> Column:
    """Return a summed column as its values are inserted."""
    kind = column.clickhouse.removeprefix("SimpleAggregateFunction(").split(", ")[-1].rstrip(")")
    return replace(column, clickhouse_type=kind, codec="")


PAIR_INPUT = Table(
    "pair_10s_in",
    "Sums of `flows` on their way into `pair_10s`; holds nothing.",
    (
        replace(PAIRS[0]["time"], arrow=UINT32, codec=""),
        *(replace(column, codec="") for column in (*PAIR_KEYS, *STREAM_KEYS)),
        *(_plain(column) for column in MEASURES if column.name not in ("connections", "drops")),
        Column(
            "connection_hashes",
            pa.list_(UINT64),
            "Hashes of the distinct connections.",
            clickhouse_type="Array(UInt64)",
            missing="empty",
        ),
    ),
    order_by=("time",),
    time="time",
    ttl_days=1,
    engine="Null",
)

GROUPS = Table(
    "rollup_groups",
    "One state of one group of inserts of `flows` (column `rollup_group`): stored first as `open`, then as `done`.",
    (
        Column("time", pa.timestamp("us", tz="UTC"), "When the group came into this state.", unit="µs since 1970"),
        Column("rollup_group", UINT64, "The group: a number that no other has.", codec=LZ4),
        Column("service", pa.string(), "Which service made it (setting `rollup.service`).", codec=LZ4),
        Column(
            "state",
            ENUM,
            "`open`: rows are being stored; `done`: their sums are in the rollups; `failed`: they were refused.",
            names=("open", "done", "failed"),
            codec=LZ4,
        ),
        Column("flow_rows", UINT64, "Rows of `flows` in the group; 0 while it is open.", unit="rows", codec=T64),
    ),
    order_by=("time",),
    time="time",
    ttl_days=30,
    partition="toYYYYMM",
)
"""Lets a service that was killed find the rows that it stored but did not sum."""

ROLLUPS = (*PAIRS, *INTERFACES, PAIR_INPUT, GROUPS)


@dataclass(frozen=True)
class Feed:
    """A materialised view: from the blocks inserted into `source` to rows of `target`."""

    name: str
    source: str
    target: str
    select: str
    """The query, with holes as in all statements (`schemas.render.fill`)."""

    @property
    def mark(self) -> str:
        """Part of the view's comment."""
        return mark_of(self.select)


def names(keys: tuple[Column, ...]) -> str:
    """Return the names of key columns, for SELECT and GROUP BY."""
    return ", ".join(column.name for column in keys)


def keys_of(table: Table) -> tuple[Column, ...]:
    """Return the columns that a rollup is sorted by, without the time."""
    return tuple(table[name] for name in table.order_by[1:])


def sums_of(table: Table) -> tuple[Column, ...]:
    """Return the columns that a rollup adds up."""
    return tuple(column for column in table.columns if column.name not in table.order_by)


def add_up(column: Column, of: str = "") -> str:
    """Return the aggregate that combines parts of a rollup's measure, under its own name."""
    kind = column.clickhouse
    if kind.startswith("AggregateFunction"):
        aggregate = CONNECTIONS.replace("(", "MergeState(")
    else:
        aggregate = kind.removeprefix("SimpleAggregateFunction(").split(",")[0]
    return f"{aggregate}({of or column.name}) AS {column.name}"


def coarser(target: Table, source: Table) -> Feed:
    """Sum the windows of one level to those of the next."""
    fine, coarse = (LEVELS[table.name.rsplit("_", 1)[1]] for table in (source, target))
    window = f"toDateTime(toStartOfInterval(time, toIntervalSecond({coarse})), 'UTC')"
    # The first second of a minute is that of its first window of 10 s.
    edges = {
        "first_packets": "if(time = window, first_packets, 0)",
        "last_packets": f"if(time + {fine} = window + {coarse}, last_packets, 0)",
        "first_smear": "if(time = window, first_smear, 0)",
        "first_smear_squares": "if(time = window, first_smear_squares, 0)",
        "last_smear": f"if(time + {fine} = window + {coarse}, last_smear, 0)",
        "last_smear_squares": f"if(time + {fine} = window + {coarse}, last_smear_squares, 0)",
    }
    sums = ",\n    ".join(add_up(column, edges.get(column.name, "")) for column in sums_of(target))
    keys = names(keys_of(target))
    select = (
        f"SELECT\n    window AS time,\n    {keys},\n    {sums}\n"
        f"FROM (SELECT *, {window} AS window FROM {source.name}${{local}})\n"
        f"GROUP BY window, {keys}\nSETTINGS prefer_column_name_to_alias = 1"
    )
    return Feed(f"{target.name}_from_{source.name}", source.name, target.name, select)


LONGEST_SECONDS = 3600
"""Polls further apart than this say too little about a window of 10 s."""

OVS_UNKNOWN_SPEED = 100_000_000
"""What Open vSwitch states as ifSpeed of a tap, and of all interfaces of unknown speed (ofproto-dpif-sflow.c)."""

WRAPPED_SPEEDS = tuple(
    gigabits * 10**9 % 2**32 for gigabits in (5, 10, 20, 25, 40, 50, 80, 100, 200, 400) if gigabits * 10**9 >= 2**32
)
"""Common speeds without their upper bits: Open vSwitch since 3.2 computes ifSpeed in 32 bits (ofproto-dpif-sflow.c)."""

_WINDOW_US = LEVEL_US["10s"]


def _delta(way: str, measure: str) -> str:
    if measure != "packets":
        return f"ifNull({way}_{measure}_delta, 0)"
    others = f"{way}_multicast_packets_delta + {way}_broadcast_packets_delta"
    return f"ifNull({way}_unicast_packets_delta, 0) + ifNull({others}, 0)"


def interfaces_from_counters() -> Feed:
    """Turn polls into windows of 10 s: differences between polls, shared out over the time between them.

    A poll without a valid difference (the first one, or after a reset) says nothing about a window.  `covered_seconds`
    is how much of a window lies between polls, so that a rate is bytes / covered_seconds also at the ends.

    Open vSwitch counts all packets as unicast, multicast ones a second time, and broadcast not at all
    (ofproto-dpif-sflow.c); libvirt has one number for all.  Others count each packet once.  They are distinguished by
    the broadcast counter, which Open vSwitch and libvirt do not have.
    """
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


_HASH = PAIR_HASH.format(src="src", dst="dst")


def pairs_from_drops() -> Feed:
    """Count discarded-packet notices in the window in which they came."""
    window = f"toDateTime(toStartOfInterval(time_received, toIntervalSecond({LEVELS['10s']})), 'UTC')"
    keys = names(tuple(column for column in PAIR_KEYS if column is not FEED_PROTOCOL))
    select = (
        f"SELECT {window} AS time, {_HASH} AS pair, {keys}, count() AS drops\n"
        f"FROM drops${{local}}\nGROUP BY time, {keys}\n"
    )
    return Feed("pair_10s_from_drops", "drops", "pair_10s", select)


def pairs_from_sums() -> Feed:
    """Store the sums that the process made of rows of `flows`; connections become a state that can be merged."""
    columns = [column.name for column in PAIR_INPUT.stored if column.name != "connection_hashes"]
    state = f"arrayReduce('{CONNECTIONS.replace('(', 'State(')}', connection_hashes) AS connections"
    hashes = f"{_HASH} AS pair, {VANTAGE_HASH} AS vantage"
    select = f"SELECT {', '.join(columns)}, {hashes}, {state}\nFROM {PAIR_INPUT.name}${{local}}"
    return Feed("pair_10s_from_sums", PAIR_INPUT.name, "pair_10s", select)


FEEDS = (
    pairs_from_sums(),
    pairs_from_drops(),
    interfaces_from_counters(),
    Feed("latency_from_probes", "probes", "latency", LATENCY_FROM_PROBES),
    *(coarser(coarse, fine) for tables in (PAIRS, INTERFACES) for fine, coarse in pairwise(tables)),
)
"""All materialised views: what each inserted block of rows adds to which window of the rollups, and to `latency`."""
