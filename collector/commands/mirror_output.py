"""What `vmflow mirror` prints for people: a table of pairs or connections, and what was left out."""

from __future__ import annotations

from datetime import UTC, datetime

from collector.commands.output import show_items
from collector.figures import SECOND_US, figure
from collector.lines import csv_lines
from collector.terminal import data, say, table
from decoders.mirror.results import WAYS, Row, octets

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}
KEPT = ("client", "server")
"""Columns that are shown even where nothing is in them."""


class Output:
    """Prints the rows of one window after the other."""

    def __init__(self, kind: str, by: str, limit: int) -> None:
        self._kind = kind
        self._by = by
        self._limit = limit
        self._header = False
        self.rows = 0
        """Rows of all windows, those beyond the limit, too."""

    def show(self, rows: list[Row], *, window: bool) -> None:
        """Print the rows; `window`: of a window of the clock, whose begin stands above a table."""
        self.rows += len(rows)
        rows = [_with_time(row) for row in largest(rows, self._limit)]
        if self._kind == "csv":
            header = [] if self._header or not rows else [list(rows[0])]
            self._header |= bool(rows)
            data(csv_lines([*header, *(list(row.values()) for row in rows)]).encode())
            return
        if self._kind == "table" and window:
            if not rows:
                return
            say(f"{rows[0]['time'][:19]} UTC, {rows[0]['interval_us'] / SECOND_US:g} s")
        show_items(rows, self._kind, lambda: print_table(rows, self._by))
        if self._kind == "table" and window:
            say("")


def _with_time(row: Row) -> Row:
    """Return the row with its time as the store's rows have it."""
    time = datetime.fromtimestamp(row["time_us"] // SECOND_US, UTC)
    text = f"{time:%Y-%m-%d %H:%M:%S}.{row['time_us'] % SECOND_US:06d}"
    return {"time": text} | {name: value for name, value in row.items() if name != "time_us"}


def largest(rows: list[Row], limit: int) -> list[Row]:
    """Return the rows with the most octets, in the order that they have; all if `limit` is 0."""
    if not 0 < limit < len(rows):
        return rows
    chosen = sorted(range(len(rows)), key=lambda place: -octets(rows[place]))[:limit]
    return [rows[place] for place in sorted(chosen)]


def print_table(rows: list[Row], by: str) -> None:
    """Print what people look for; the other formats have all columns.  Columns without a figure are left out."""
    lines = [_cells(row, by) for row in rows]
    names = [name for name in (lines[0] if lines else KEPT) if name in KEPT or any(line[name] for line in lines)]
    table(names, [[line[name] for name in names] for line in lines], ruled=False)


def _cells(row: Row, by: str) -> dict[str, str]:
    if by == "pair":
        last = {
            "TCP": str(row["connections"] or ""),
            "failed": str(row["refused"] + row["unanswered"] or ""),
            "reset": str(row["reset"] or ""),
        }
    else:
        last = {"outcome": row["outcome"] or PROTOCOLS.get(row["ip_protocol"], f"protocol {row['ip_protocol']}")}
    return {
        "network": row["network"],
        "client": _end(row, "src"),
        "server": _end(row, "dst"),
        "octets": " / ".join(figure(row[f"octets_{way}"], "bytes") for way in WAYS),
        "round trip": _round_trips(row),
        "response": "" if row["response_median_us"] is None else figure(row["response_median_us"], "us"),
        "sent again": _both(row, "retransmitted_segments"),
        "lost before": _both(row, "lost_before_segments"),
        "reordered": _both(row, "reordered_segments"),
        "capture gap": _both(row, "capture_gap_octets", "bytes"),
        "out of window": _both(row, "out_of_window_segments"),
        "window 0": _both(row, "zero_window_us", "us"),
        **last,
    }


def _end(row: Row, end: str) -> str:
    address = row[f"{end}_ip"]
    port = row.get(f"{end}_port")
    if not port:
        return str(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _round_trips(row: Row) -> str:
    """Return the medians between mirror and server, and mirror and client; where no data was timed, of handshakes."""
    found = []
    for end in ("server", "client"):
        value = row[f"rtt_{end}_median_us"]
        if value is None:
            value = row.get(f"handshake_{end}_us", row.get(f"handshake_{end}_median_us"))
        found.append(value)
    return " / ".join(figure(value, "us") for value in found) if found != [None, None] else ""


def _both(row: Row, name: str, unit: str = "") -> str:
    """Return a figure of both directions, empty where both are 0; `?` is not known."""
    values = [row[f"{name}_{way}"] for way in WAYS]
    return " / ".join(figure(value, unit) for value in values) if any(value != 0 for value in values) else ""
