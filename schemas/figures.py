"""Stored figures: what the views say of closed windows, evaluated once, so that lists and series cost no sums.

    pair_1m ──► view pair_metrics_1m ──► pair_figure_rows_1m ──┐
                evaluated when a window has closed             ├──► view pair_figures_1m
                figure_windows_1m: which version counts ───────┘    (vm, host and cloud: `schemas.end_figures`)

A window whose sums changed since (late rows) is evaluated again under a higher version.  First its rows are stored,
then one row of `figure_windows_…`, so a reader of the view sees all rows of one version, or none.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.column import NAME, NAMED_UUID, UINT8, UINT32, UINT64, Column, Table
from schemas.descriptions import of_view
from schemas.end_figures import KEYS, MORE, SUMMED
from schemas.flows import LZ4, T64, ZSTD
from schemas.rollups import FLOAT, LEVELS, PARTITIONS, TIME_S

FIGURE_LEVELS = ("1m", "1h")
"""Windows of 10 s are too many: their views are asked for short times."""
FIGURE_TTL_DAYS = {"1m": 3, "1h": 400}
"""At 85,594 pairs a day of minutes is 8 GB."""

GRANULARITY = 1024
"""Rows that the index leads to: of one pair, about two such pieces are read of each window."""

_INT64 = pa.int64()
_INTERVAL = ("", "_low", "_high")

_PAIR: tuple[tuple[pa.DataType, bool, tuple[str, ...]], ...] = (
    (UINT64, False, ("pair",)),
    (NAME, False, ("src_vm", "dst_vm", "src_host", "dst_host", "network")),
    (FLOAT, True, tuple(f"bits_per_second{end}" for end in _INTERVAL)),
    (FLOAT, True, tuple(f"packets_per_second{end}" for end in _INTERVAL)),
    (FLOAT, True, ("loss_ratio", "loss_low", "loss_high", "loss_delay_allowance")),
    (NAME, False, ("loss_evidence",)),
    (_INT64, True, ("latency_us",)),
    (UINT64, True, ("latency_spread_us",)),
    (NAME, False, ("latency_method", "latency_trip")),
    (UINT64, True, ("jitter_us",)),
    (NAME, False, ("latency_missing",)),
    (UINT64, False, ("connections",)),
    (NAME, False, ("connections_evidence",)),
    (FLOAT, True, tuple(f"new_connections_per_second{end}" for end in _INTERVAL)),
    (FLOAT, True, ("failed_connections", "error_ratio", "error_low", "error_high")),
    (UINT64, True, ("resets",)),
    (UINT64, False, ("drops", "drop_hint_packets")),
    (NAME, False, ("counted_at",)),
    (FLOAT, False, ("watched_seconds",)),
    (UINT8, False, ("restarted",)),
    (FLOAT, True, ("packets", "packets_variance", "bytes", "bytes_variance", "frame_bytes")),
    (FLOAT, False, ("sent_packets", "sent_packets_variance", "received_packets", "received_packets_variance")),
    (FLOAT, False, ("within_packets", "elsewhere_packets")),
    (FLOAT, True, ("packets_per_record",)),
    (FLOAT, False, ("samples",)),
    (UINT32, False, ("sampling_rate",)),
    (FLOAT, False, ("rate_unstated",)),
    (NAMED_UUID, False, ("src_vm_uuid", "dst_vm_uuid")),
)
"""Type, whether it can be NULL, and names of the columns of `pair_metrics_…`, all but `time`."""


def _column(name: str, kind: pa.DataType, nullable: bool) -> Column:
    codec = {UINT64: "" if name == "pair" else T64, _INT64: T64, UINT32: T64}.get(kind, ZSTD)
    missing = "NULL" if nullable else "''" if kind == NAME else "zeros" if kind == NAMED_UUID else "0"
    typed = "Int64" if kind == _INT64 else ""
    return Column(
        name, kind, of_view([name])[name], missing=missing, nullable=nullable, codec=codec, clickhouse_type=typed
    )


TAKEN = tuple(_column(name, kind, nullable) for kind, nullable, names in _PAIR for name in names)
"""Columns that are taken from the view as they are."""

ADDED = (
    Column("src_project", NAME, "Project of the sending VM in this window.", missing="''", codec=ZSTD),
    Column("dst_project", NAME, "Project of the receiving VM in this window.", missing="''", codec=ZSTD),
    Column(
        "version", UINT64, "When the window was evaluated: of several, the highest counts.", "µs since 1970", codec=LZ4
    ),
)


def _time(level: str) -> Column:
    doc = f"Begin of the window of {LEVELS[level]} s."
    return Column("time", TIME_S, doc, unit="s since 1970", clickhouse_type="DateTime('UTC')", codec="DoubleDelta, LZ4")


def rows_table(level: str) -> Table:
    """Return the table of the figures of pairs for windows of this level, of all versions."""
    return Table(
        f"pair_figure_rows_{level}",
        f"Figures of a VM pair in a closed window of {LEVELS[level]} s, all versions: ask view `pair_figures_{level}`.",
        (_time(level), *TAKEN, *ADDED),
        order_by=("time", "pair"),
        time="time",
        ttl_days=FIGURE_TTL_DAYS[level],
        partition=PARTITIONS[level],
        settings={"index_granularity": GRANULARITY},
    )


def windows_table(level: str) -> Table:
    """Return the table of the windows of this level that are evaluated."""
    return Table(
        f"figure_windows_{level}",
        f"Evaluations of closed windows of {LEVELS[level]} s: the highest version counts.",
        (
            _time(level),
            ADDED[-1],
            Column("pairs", UINT64, "Rows of `pair_figure_rows_…` with this version.", unit="rows", codec=T64),
            Column("records", FLOAT, "Rows of `flows` and `drops` that the sums held.", unit="rows", codec=LZ4),
            Column("readings", UINT64, "Readings of latency in the window.", unit="readings", codec=T64),
            Column("gaps", UINT64, "Rows of table `gaps` that touch the window.", unit="rows", codec=T64),
        ),
        order_by=("time", "version"),
        time="time",
        ttl_days=FIGURE_TTL_DAYS[level],
        partition=PARTITIONS[level],
    )


def end_table(what: str, level: str) -> Table:
    """Return the table of the figures of `what` (vm, host or cloud) for windows of this level, of all versions."""
    one = {"vm": "a VM in one direction", "host": "a pair of hypervisors", "cloud": "all pairs of named VMs"}[what]
    return Table(
        f"{what}_figure_rows_{level}",
        f"Figures of {one} in a closed window of {LEVELS[level]} s, all versions: ask view `{what}_figures_{level}`.",
        (_time(level), *KEYS[what], *MORE[what], *SUMMED, ADDED[-1]),
        order_by=("time", *(column.name for column in KEYS[what])),
        time="time",
        ttl_days=FIGURE_TTL_DAYS[level],
        partition=PARTITIONS[level],
        settings={"index_granularity": GRANULARITY},
    )


ENDS = tuple(KEYS)
"""What has figures beside pairs."""

FIGURE_TABLES = tuple(
    table
    for level in FIGURE_LEVELS
    for table in (rows_table(level), *(end_table(what, level) for what in ENDS), windows_table(level))
)


def stored_figures(what: str, level: str) -> str:
    """Return the query of the view of the figures of `what` (pair, vm, host or cloud) that count."""
    return (
        f"SELECT *\nFROM {what}_figure_rows_{level}\nWHERE (time, version) GLOBAL IN (\n"
        f"    SELECT time, max(version) FROM figure_windows_{level} GROUP BY time)"
    )


_WINDOW = "toDateTime({time:UInt32}, 'UTC')"


def _projects(end: str, level: str) -> str:
    """Return a query of the projects of VMs in the window, for one end of pairs."""
    return f"""SELECT vm AS {end}_vm, vm_uuid AS {end}_vm_uuid, argMax(project, valid_from) AS {end}_project
    FROM inventory FINAL
    WHERE vm != '' AND valid_from < {_WINDOW} + {LEVELS[level]} AND (open OR valid_to >= {_WINDOW})
    GROUP BY vm, vm_uuid"""


def evaluate(level: str) -> str:
    """Return the statement that stores the figures of the pairs from `{low}` to `{high}` of a window.

    Its parameters: `time` (s since 1970), `low`, `high`, `version`.
    """
    taken = ", ".join(column.name for column in TAKEN)
    added = ", ".join(column.name for column in ADDED)
    return f"""INSERT INTO pair_figure_rows_{level} (time, {taken}, {added})
SELECT time, {taken}, src_project, dst_project, {{version:UInt64}}
FROM (SELECT * FROM pair_metrics_{level}
    WHERE time = {_WINDOW} AND pair BETWEEN {{low:UInt64}} AND {{high:UInt64}}) AS figures
GLOBAL LEFT JOIN ({_projects("src", level)}) AS senders USING (src_vm, src_vm_uuid)
GLOBAL LEFT JOIN ({_projects("dst", level)}) AS receivers USING (dst_vm, dst_vm_uuid)"""


def due(level: str) -> str:
    """Return the query of windows from `{begin}` to before `{end}` that are not evaluated, or changed since.

    Its columns: begin of the window (s since 1970), how often it was evaluated, the last version, rows of sums, and
    what the sums rest on (`records`, `readings`, `gaps`).  The newest window comes first.
    """
    seconds = LEVELS[level]
    begin, end = (f"toDateTime({{{name}:UInt32}}, 'UTC')" for name in ("begin", "end"))

    def between(column: str) -> str:
        return f"{column} >= {begin} AND {column} < {end}"

    window = f"toDateTime(toStartOfInterval(time, toIntervalSecond({seconds})), 'UTC')"
    # What a gap covers before `begin` is no concern here.
    first = f"intDiv(toUnixTimestamp(greatest(toDateTime(begins, 'UTC'), {begin})), {seconds})"
    last = f"intDiv(toUnixTimestamp(least(toDateTime(ends, 'UTC'), {end} - 1)), {seconds})"
    return f"""SELECT toUnixTimestamp(time) AS start, times, newest, sums, records, readings, gaps
FROM (
    SELECT time, count() AS sums, sum(records) + sum(drops) AS records FROM pair_{level}
    WHERE {between("time")} GROUP BY time
) AS summed
GLOBAL LEFT JOIN (
    SELECT window AS time, sum(samples) AS readings
    FROM (SELECT {window} AS window, samples FROM latency WHERE {between("time")}) GROUP BY window
) AS measured USING (time)
GLOBAL LEFT JOIN (
    SELECT toDateTime(arrayJoin(range({first}, {last} + 1)) * {seconds}, 'UTC') AS time, count() AS gaps
    FROM gaps WHERE ends >= {begin} AND begins < {end} GROUP BY time
) AS unwatched USING (time)
GLOBAL LEFT JOIN (
    SELECT time, count() AS times, max(version) AS newest,
        argMax(tuple(records, readings, gaps), version) AS former
    FROM figure_windows_{level} WHERE {between("time")} GROUP BY time
) AS known USING (time)
WHERE times = 0 OR abs(records - former.1) > {SAME} * records OR readings != former.2 OR gaps != former.3
ORDER BY time DESC"""


SAME = 1e-10
"""Share by which sums of the same numbers differ, depending on the order in which merges added them."""
