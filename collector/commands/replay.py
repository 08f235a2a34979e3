"""`vmflow replay`: arguments, progress bar, summary, exit code."""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from collector.capture.read import CaptureError
from collector.capture.replay import ReplaySummary, replay
from collector.capture.senders import SendError, TargetError, parse_target
from collector.terminal import Progress, print_error, say

DESCRIPTION = """
Send the UDP datagrams of captures (pcap, pcapng, also gzip-compressed; - is standard input) to a collector again.

To an IPv4 loopback address each original exporter sends from its own address 127.x.y.z (192.0.2.11 becomes 127.1.2.11);
to any other, from a port of its own, so that the collector keeps them apart.  With --loop, sequence numbers and times
begin again in each round, as after a restart of the exporter.
"""

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of the command."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", metavar="FILE", nargs="+", help="a capture; several are sent one after the other")
    parser.add_argument(
        "--to",
        metavar="HOST:PORT",
        required=True,
        help="the collector; HOST alone keeps each datagram's original destination port; IPv6 as [::1]:6343",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed",
        metavar="X",
        type=_speed,
        default=1.0,
        help="a factor on the capture's pace, or max for flat out (default: 1)",
    )
    pace.add_argument(
        "--rate", metavar="N", type=_positive, help="datagrams per second, whatever the capture's pace was"
    )
    parser.add_argument("--loop", metavar="N", type=_loops, default=1, help="rounds; 0 is without end (default: 1)")
    parser.add_argument(
        "--from-loopback",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="an address 127.x.y.z for each exporter (default: if the target is IPv4 loopback)",
    )


def run(args: argparse.Namespace) -> int:
    """Replay as `args` say; returns the exit code: 0 done, 1 sending failed, 2 wrong use, 130 interrupted."""
    summary = ReplaySummary()
    code, message = EXIT_DONE, ""
    try:
        host, port = parse_target(args.to)
        with _interrupts(), Progress("replay", "datagrams") as bar:
            asyncio.run(
                replay(
                    args.files,
                    host,
                    port,
                    speed=None if math.isinf(args.speed) else args.speed,
                    rate=args.rate,
                    loops=args.loop,
                    from_loopback=args.from_loopback,
                    summary=summary,
                    report=bar.report,
                )
            )
    except (CaptureError, TargetError) as error:
        code, message = EXIT_USAGE, str(error)
    except SendError as error:
        code, message = EXIT_FAILED, str(error)
    except KeyboardInterrupt:
        code, message = EXIT_INTERRUPTED, "interrupted"
    if code != EXIT_USAGE or summary.datagrams:
        say(summary)
    if message:
        print_error("replay", message)
    return code


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C break off at once, also while a file or pipe is read: asyncio's own handler waits for an `await`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _speed(text: str) -> float:
    return math.inf if text == "max" else _positive(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def _loops(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text[:9])
