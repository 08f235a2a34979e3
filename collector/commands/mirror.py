"""`vmflow mirror`: who talked, and what TCP shows of the network, from mirrored packets in a file or as they come."""

from __future__ import annotations

import argparse
import math
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING

from collector.capture.files import CaptureError, CaptureProblems
from collector.commands.output import add_format_argument
from collector.terminal import UsageError, print_error, tell

if TYPE_CHECKING:
    from collector.capture.ring import Lost
    from decoders.mirror.state import Meter
    from decoders.mirror.windows import Windows

DESCRIPTION = """
Count the packets of a mirror per VM pair or connection: octets, round trips of TCP on both sides of the mirror,
segments sent again, lost before the mirror or reordered, windows of zero, resets, opens that failed.

FILE is a pcap or pcapng (also gzip-compressed; - is standard input) of an Open vSwitch mirror, of ERSPAN, GRE or
VXLAN to this host, or of a VM's port; --interface takes packets as they come, until Ctrl-C.  A packet that was
mirrored twice counts once.
"""
CONNECTIONS = 262_144
"""Connections at once, about 1 KiB each."""
WINDOW_SECONDS = 10
LEAST_RING_MIB, MOST_RING_MIB = 2, 1024
WAIT_SECONDS = 0.5
FULL, HALVE_SECONDS = 0.5, 1.0
"""Part of the ring that waits when half of the connections are left out, and the least time until half of the rest."""
REPORT_SECONDS = 10.0
"""Between two lines about packets that did not come."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="*", metavar="FILE", help="a capture; several are taken as one, in this order")
    parser.add_argument("--interface", metavar="NAME", help="packets that come in there, instead of files; as root")
    parser.add_argument(
        "--outgoing", action="store_true", help="with --interface: those that go out, too, as at a VM's own tap"
    )
    parser.add_argument("--seconds", type=float, default=0, metavar="N", help="with --interface: end after N seconds")
    parser.add_argument(
        "--ring", type=int, default=64, metavar="MIB", help="with --interface: memory for packets, in MiB (default: 64)"
    )
    parser.add_argument(
        "--by", choices=("pair", "connection"), default="pair", help="a row per pair (default) or per connection"
    )
    parser.add_argument(
        "--window", type=int, metavar="SECONDS",
        help="rows for each window of the clock; 0: one for all (default: 10 with --interface, 0 with files)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the N rows with the most octets only")
    parser.add_argument("--quiet", action="store_true", help="no summary on standard error")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Count files, or what comes in; the exit code is 1 if that cannot be read, 2 if the call is wrong."""
    if mistake := _mistake(args):
        raise UsageError(mistake)
    from collector.commands.mirror_output import Output  # noqa: PLC0415 - kernels, which nobody else needs
    from decoders.mirror import meter, results, state, windows  # noqa: PLC0415

    if not meter.is_compiled():
        tell("compiling the meter, once per version: this may take a minute")
    meter.warm_up()
    made = state.new_meter(CONNECTIONS)
    output = Output(args.format, args.by, args.limit)
    rows_of = results.pairs if args.by == "pair" else results.connections
    counted = windows.Windows(
        made, _window_seconds(args), lambda window: output.show(rows_of(made, window), window=True)
    )
    problems = CaptureProblems()
    lost: Lost | None = None
    failures = 0
    if args.interface:
        lost, failures = _count_interface(args, counted)
    else:
        failures = _count_files(args.files, counted, problems)
    counted.close()
    if not _window_seconds(args):
        output.show(rows_of(made), window=False)
    if not args.quiet:
        _summary(made, problems, output.rows, args.by)
        if lost is not None:
            tell(f"not received: {lost.ring} packets, the ring was full; {lost.interface}, dropped by the interface")
    return 1 if failures else 0


def _mistake(args: argparse.Namespace) -> str:
    """Return what is wrong with the arguments; empty if nothing is."""
    if bool(args.files) == bool(args.interface):
        return "give files, or --interface NAME"
    if args.limit < 0 or (args.window or 0) < 0 or not args.seconds >= 0:
        return "--limit, --window and --seconds take numbers from 0 on"
    if not LEAST_RING_MIB <= args.ring <= MOST_RING_MIB:
        return f"--ring takes {LEAST_RING_MIB} to {MOST_RING_MIB} MiB"
    return ""


def _window_seconds(args: argparse.Namespace) -> int:
    if args.window is None:
        return WINDOW_SECONDS if args.interface else 0
    return int(args.window)


def _count_files(files: list[str], windows: Windows, problems: CaptureProblems) -> int:
    """Count the files as one mirror; returns how many could not be read."""
    from collector.capture.mirrored import read_mirrored  # noqa: PLC0415

    failures = 0
    for file in files:
        try:
            for frames, ethernet in read_mirrored(file, problems):
                windows.count(frames, ethernet)
        except CaptureError as error:
            print_error("mirror", str(error))
            failures += 1
    return failures


def _count_interface(args: argparse.Namespace, windows: Windows) -> tuple[Lost, int]:
    """Count what comes in until the time is over, or until Ctrl-C or SIGTERM.

    Returns what was lost, and 1 if the interface went away.
    """
    from collector.capture.ring import Ring, warm_up  # noqa: PLC0415

    warm_up()
    stop: list[int] = []

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        stop.append(number)

    with Ring(args.interface, args.ring << 20, outgoing=args.outgoing) as ring:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask_to_stop)
        now = time.monotonic()
        end, report_at, reported = now + (args.seconds or math.inf), now + REPORT_SECONDS, 0
        halve_at = now
        up, failures = True, 0
        while not stop and now < end:
            try:
                was_up, up = up, ring.is_up()
            except OSError as error:
                print_error("mirror", f"{args.interface}: {error.strerror}")
                failures = 1
                break
            if up != was_up:
                tell(f"{args.interface} is {'up again' if up else 'down: nothing comes until it is up'}")
            for frames in ring.read(min(WAIT_SECONDS, end - now)):
                windows.count(frames)
                if ring.filled() > FULL and time.monotonic() >= halve_at:
                    windows.halve()
                    halve_at = time.monotonic() + HALVE_SECONDS
            windows.advance(time.time_ns())
            now = time.monotonic()
            if now >= report_at:
                report_at, lost = now + REPORT_SECONDS, sum(ring.lost())
                if lost > reported and not args.quiet:
                    tell(f"{lost - reported} packets of the last {REPORT_SECONDS:g} s were not received")
                reported = lost
        for frames in ring.read(WAIT_SECONDS):  # what came last is not handed over yet
            windows.count(frames)
        return ring.lost(), failures


def _summary(meter: Meter, problems: CaptureProblems, rows: int, by: str) -> None:
    from decoders.mirror import results, state  # noqa: PLC0415

    totals = meter.totals
    left_out = {
        "second copies": state.T_DUPLICATES,
        "not IP": state.T_NOT_IP,
        "without room": state.T_NO_ROOM,
        "of connections left out, since there were too many packets": state.T_NOT_CHOSEN,
        "with a cut TCP header": state.T_CUT,
        "nested too deeply": state.T_NESTED,
        "from more mirrors than are followed": state.T_SOURCES_FULL,
    }
    parts = [
        f"{int(totals[state.T_FRAMES])} frames, {int(totals[state.T_COUNTED])} packets counted, {rows} rows by {by}",
        ", ".join(f"{int(totals[place])} {name}" for name, place in left_out.items() if totals[place])
        or "nothing left out",
    ]
    if totals[state.T_EVICTED]:
        parts.append(f"{int(totals[state.T_EVICTED])} connections forgotten, since they were idle")
    if problems.skipped:
        parts.append(f"frames skipped: {problems}")
    tell("; ".join(parts))
    for mirror in results.mirrors(meter):
        tell(
            f"mirror {mirror['address']}, session {mirror['session']}: {mirror['received']} packets came, "
            f"{mirror['lost']} were lost on the way here, {mirror['late']} came late, {mirror['duplicates']} came twice"
        )
