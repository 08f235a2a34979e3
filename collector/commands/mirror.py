"""`vmflow mirror`: who talked, and what TCP shows of the network, from a capture of mirrored packets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from collector.capture.files import CaptureError, CaptureProblems
from collector.capture.mirrored import read_mirrored
from collector.commands.output import add_format_argument, show_items
from collector.figures import figure
from collector.terminal import print_error, table, tell
from decoders import jit
from decoders.mirror import state
from decoders.mirror.meter import count
from decoders.mirror.results import Row, connections, mirrors, pairs

DESCRIPTION = """
Count the packets of a mirror per VM pair or connection: octets, round trips of TCP on both sides of the mirror,
segments sent again, lost before the mirror or reordered, windows of zero, resets, opens that failed.

FILE is a pcap or pcapng (also gzip-compressed; - is standard input) of an Open vSwitch mirror, of ERSPAN, GRE or
VXLAN to this host, or of a VM's port.  A packet that was mirrored twice counts once.
"""
CONNECTIONS = 262_144
"""Connections at once, about 1 KiB each."""
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="+", metavar="FILE", help="a capture; several are taken as one, in this order")
    parser.add_argument(
        "--by", choices=("pair", "connection"), default="pair", help="a row per pair (default) or per connection"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the N rows with the most octets only")
    parser.add_argument("--quiet", action="store_true", help="no summary on standard error")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Count all files as one mirror; the exit code is 1 if a file could not be read."""
    if args.limit < 0:
        print_error("mirror", "--limit takes a number from 1 on")
        return 2
    if not (jit.INTERPRETED or jit.cached()):
        tell("compiling the meter, once per version: this takes a minute")
    meter = state.new_meter(CONNECTIONS)
    problems = CaptureProblems()
    failures = 0
    for file in args.files:
        try:
            for frames, ethernet in read_mirrored(file, problems):
                count(meter, frames, ethernet)
        except CaptureError as error:
            print_error("mirror", str(error))
            failures += 1
    rows = pairs(meter) if args.by == "pair" else connections(meter)
    shown = _largest(rows, args.limit)
    show_items(shown, args.format, lambda: _table(shown, args.by))
    if not args.quiet:
        _summary(meter, problems, len(rows), args.by)
    return 1 if failures else 0


def _largest(rows: list[Row], limit: int) -> list[Row]:
    """Return the rows with the most octets, in the order that they have."""
    if not 0 < limit < len(rows):
        return rows
    least = sorted((_octets(row) for row in rows), reverse=True)[limit - 1]
    return [row for row in rows if _octets(row) >= least][:limit]


def _octets(row: Row) -> int:
    return int(row["octets_to_server"] + row["octets_to_client"])


def _table(rows: Sequence[Row], by: str) -> None:
    """Print what people look for; the other formats have all columns."""
    names = ["network"] if any(row["network"] for row in rows) else []
    ends = ["client", "server", "octets", "rtt to server", "rtt to client", "sent again", "lost before", "reordered"]
    names += [*ends, "capture gap", "no window", *(("TCP", "failed", "reset") if by == "pair" else ("outcome",))]
    lines: list[list[Any]] = []
    for row in rows:
        line = [row["network"]] if names[0] == "network" else []
        line += [
            _end(row, "src"),
            _end(row, "dst"),
            " / ".join(figure(row[f"octets_{way}"], "bytes") for way in ("to_server", "to_client")),
            _round_trip(row, "server"),
            _round_trip(row, "client"),
            *(_both(row, f"{name}_segments") for name in ("retransmitted", "lost_before", "reordered")),
            _both(row, "capture_gap_octets"),
            _both(row, "zero_windows"),
        ]
        if by == "pair":
            line += [
                str(row["connections"] or ""),
                str(row["refused"] + row["unanswered"] or ""),
                str(row["reset"] or ""),
            ]
        else:
            line.append(row["outcome"] or PROTOCOLS.get(row["ip_protocol"], f"protocol {row['ip_protocol']}"))
        lines.append(line)
    used = [
        place for place, name in enumerate(names) if name in ("client", "server") or any(line[place] for line in lines)
    ]
    table([names[place] for place in used], [[line[place] for place in used] for line in lines], ruled=False)


def _end(row: Row, end: str) -> str:
    address = row[f"{end}_ip"]
    port = row.get(f"{end}_port")
    if not port:
        return str(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _round_trip(row: Row, end: str) -> str:
    """Return the median of the data, else the handshake's."""
    value = row[f"rtt_{end}_median_us"]
    if value is None:
        value = row.get(f"handshake_{end}_us", row.get(f"handshake_{end}_median_us"))
    return "" if value is None else figure(value, "us")


def _both(row: Row, name: str) -> str:
    """Return a figure of both directions, empty where both are 0."""
    values = [row[f"{name}_{way}"] for way in ("to_server", "to_client")]
    return " / ".join("?" if value is None else str(value) for value in values) if any(v != 0 for v in values) else ""


def _summary(meter: state.Meter, problems: CaptureProblems, rows: int, by: str) -> None:
    totals = meter.totals
    left_out = {
        "second copies": state.T_DUPLICATES,
        "not IP": state.T_NOT_IP,
        "without room": state.T_NO_ROOM,
        "with a cut TCP header": state.T_CUT,
        "nested too deeply": state.T_NESTED,
    }
    told = [f"{int(totals[place])} {name}" for name, place in left_out.items() if totals[place]]
    tell(
        f"{int(totals[state.T_FRAMES])} frames, {int(totals[state.T_COUNTED])} packets counted, {rows} {by}s; "
        f"{', '.join(told) or 'nothing left out'}; frames skipped: {problems}"
    )
    for mirror in mirrors(meter):
        tell(
            f"mirror {mirror['address']}, session {mirror['session']}: {mirror['received']} packets came, "
            f"{mirror['lost']} were lost on the way here, {mirror['late']} came late"
        )
