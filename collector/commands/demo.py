"""`vmflow demo`: a service of its own that watches a made-up cloud with trouble, or captures; nothing of it stays.

The main thread shows and waits for signals; another one asks the service, which may take its time.  So a Ctrl-C ends it
at once, whatever is under way.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.commands import top
from collector.commands.demo_parts import TROUBLE, Demo, DemoError, own
from collector.commands.output import Result, show
from collector.commands.query import asking
from collector.store_reader import read_rows
from collector.terminal import CommandError, Screen, UsageError, leave, on_terminal, print_error, say, tell
from collector.version import ENGINE

LONGEST_SECONDS = 86_400
DEFAULT_SECONDS = 3600
"""The store grows by about 30 kB a second."""
REPLAY_RATE = 1000
"""Datagrams a second: a socket's smallest buffer holds that many."""
DRAW_SECONDS, FIRST_SECONDS, ASK_SECONDS = 0.5, 0.5, 2.0
"""Between two pictures; between two questions, before there are names and then."""
SHOWN_ALERTS, SHOWN_PAIRS = 2, 5
READ_PAIRS = 200

OPEN = """
SELECT src_vm, dst_vm, any(src_host) AS src_host, any(dst_host) AS dst_host, network,
    sum(bytes_estimated) * 8 AS bits, sum(packets_estimated) AS packets,
    date_diff('second', min(min(time_received)) OVER (), max(max(time_received)) OVER ()) AS seconds,
    count() OVER () AS pairs
FROM flows
WHERE src_vm != '' AND dst_vm != '' AND sighting IN ('source', 'both')
GROUP BY src_vm, dst_vm, network
ORDER BY bits DESC
LIMIT 50
"""
"""Pairs before the first window has closed: a few seconds of rows."""
ALERTS = f"""
SELECT alert_id, rule, toString(severity) AS severity, summary
FROM alerts FINAL WHERE status != 'resolved' ORDER BY severity DESC, time, summary LIMIT {top.MOST_ALERTS}
"""  # noqa: S608 - our own constant
EXPORTERS = """
SELECT exporter, protocol, count() AS rows, sum(packets_estimated) AS packets,
    formatReadableSize(sum(bytes_estimated)) AS volume
FROM flows GROUP BY exporter, protocol ORDER BY rows DESC LIMIT 20
"""
ENDS = """
SELECT if(src_vm != '', toString(src_vm), replaceOne(toString(src_ip), '::ffff:', '')) AS source,
    if(dst_vm != '', toString(dst_vm), replaceOne(toString(dst_ip), '::ffff:', '')) AS destination, protocol,
    sum(packets_estimated) AS packets, formatReadableSize(sum(bytes_estimated)) AS volume, count() AS rows
FROM flows WHERE ip_protocol > 0
GROUP BY source, destination, protocol ORDER BY sum(bytes_estimated) DESC LIMIT 10
"""
LOSSY = "SELECT time, src_vm, dst_vm, loss_ratio FROM pair_metrics WHERE loss_low > 0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Needs the embedded store, no privileges, and no settings: other services are left alone.\n\n"
        "examples:\n"
        "  vmflow demo\n"
        "  vmflow demo capture.pcap\n"
        "  vmflow demo --seconds 60 | cat     plain lines; exit code 1 if no pair of VMs was seen"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="captures to show instead of the cloud (pcap, pcapng)")
    parser.add_argument(
        "--seconds", type=int, default=DEFAULT_SECONDS, metavar="N", help="end by itself (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another number is another cloud")
    parser.add_argument(
        "--trouble", default=TROUBLE, metavar="LIST",
        help="what happens when, as NAME@START+LENGTH in seconds, or none (docs/demo.md; default: everything once)",
    )  # fmt: skip


@dataclass
class Seen:
    """What the service has said so far; written by the asking thread, whole values at a time."""

    sending: float = 0.0
    """When the cloud or the captures began, by the monotonic clock."""
    named: float = 0.0
    """When the first pair was seen with names."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Pairs, as `top` shows them."""
    heads: Sequence[str] = ()
    worst: Sequence[str] = ()
    picture: top.Picture | None = None
    alerts: Sequence[Mapping[str, Any]] = ()
    captures: Sequence[tuple[str, Result]] = ()
    """Title and table."""
    pairs: int = 0
    fired: set[str] = field(default_factory=set)
    """Identities of all alerts."""


def run(args: argparse.Namespace) -> int:
    """Run the demo.  Exit code 0 after Ctrl-C, or when the time is over and pairs were seen; 1 if not, 2 for a mistake
    in the call."""
    if mistake := wrong(args):
        raise UsageError(mistake)
    for name in [name for name in os.environ if not own(name)]:
        # Settings of a service of this user are not for the demo.
        del os.environ[name]
    # What it says of a service that is busy is shown among other things.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
    stopped = threading.Event()
    with stopping(stopped):
        try:
            with Demo(cloud=not args.files) as demo:
                code, words = watch(args, demo, stopped)
            tell(words)
        except DemoError as error:
            print_error(args.command, str(error))
            code = 1
        # Not later: a second Ctrl-C would end it with a traceback.
        leave(code)


def wrong(args: argparse.Namespace) -> str:
    """Return what is wrong with the call, or nothing."""
    if not 1 <= args.seconds <= LONGEST_SECONDS:
        return f"--seconds must be 1 to {LONGEST_SECONDS}"
    if args.seed < 0:
        return "--seed must not be negative"
    if not ENGINE:
        return "the embedded store is missing: pip install 'vmflow[embedded]'"
    absent = [name for name in args.files if not Path(name).is_file()]
    return f"{absent[0]}: no such file" if absent else ""


@contextmanager
def stopping(stopped: threading.Event) -> Iterator[None]:
    """Set `stopped` at Ctrl-C, SIGTERM and when the terminal goes; nothing is interrupted, so all is put in order."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, lambda *_: stopped.set()) for number in signals}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def watch(args: argparse.Namespace, demo: Demo, stopped: threading.Event) -> tuple[int, str]:
    """Start all, show what is seen until it ends.  Returns the exit code, and what was seen."""
    begun = time.monotonic()
    demo.start_service()
    if not args.files:
        demo.start_cloud(["--seed", str(args.seed), "--trouble", args.trouble])
    seen = Seen()
    threading.Thread(target=ask, args=(args, demo, seen, stopped), name="ask", daemon=True).start()
    live = on_terminal() and not args.files
    shown = Live(demo, seen, begun) if live else Lines(demo, seen, begun)
    ended = ""
    with shown:
        while not stopped.is_set() and time.monotonic() - begun < args.seconds and not (ended := demo.ended()):
            shown.draw()
            stopped.wait(DRAW_SECONDS)
        if not live:
            shown.draw()
    if ended and not stopped.is_set():
        raise DemoError(ended)
    return 0 if stopped.is_set() or seen.named or seen.captures else 1, summary(seen, begun)


def ask(args: argparse.Namespace, demo: Demo, seen: Seen, stopped: threading.Event) -> None:
    """Ask the service again and again."""
    while not demo.ready():
        if stopped.wait(0.1):
            return
    if args.files:
        demo.start_replay([os.path.abspath(name) for name in args.files], REPLAY_RATE)
    else:
        demo.begin_cloud()
    seen.sending = time.monotonic()
    while not stopped.is_set():
        try:
            if args.files:
                ask_captures(demo, seen)
            else:
                ask_pairs(demo, seen)
        except CommandError as error:
            # It is busy, or about to end; what was seen stays.
            seen.heads = seen.heads or [f"no answer yet: {' '.join(str(error).split())}"]
        stopped.wait(ASK_SECONDS if seen.named else FIRST_SECONDS)


def ask_pairs(demo: Demo, seen: Seen) -> None:
    """Read the newest closed window; before there is one, the rows so far.  Raises CommandError."""
    filters = dict.fromkeys(("vm", "host", "project", "network"))
    picture = top.read(argparse.Namespace(level="10s", sort="bits", limit=READ_PAIRS, **filters), demo.settings,
                       open_store=False)  # fmt: skip
    with asking(demo.settings, open_store=False) as client:
        if picture is None:
            found = read_rows(client, OPEN, {}, top.BOUNDS)
            seconds = max(1, found[0]["seconds"]) if found else 1
            seen.heads = opening(found, seconds)
            seen.rows, seen.worst = [unfinished(row, seconds) for row in found], [""] * len(found)
            seen.pairs = max(seen.pairs, found[0]["pairs"] if found else 0)
        seen.alerts = read_rows(client, ALERTS, {}, top.BOUNDS)
    seen.fired |= {str(alert["alert_id"]) for alert in seen.alerts}
    if picture is not None:
        # What alerts are about comes first: the lossy pair is not among the busiest.
        order = sorted(range(len(picture.rows)), key=lambda place: not picture.worst[place])
        seen.rows, seen.worst = [picture.rows[place] for place in order], [picture.worst[place] for place in order]
        seen.pairs = max(seen.pairs, picture.rows[0]["pairs"] if picture.rows else 0)
        seen.picture = picture
    if seen.rows and not seen.named:
        seen.named = time.monotonic()


def ask_captures(demo: Demo, seen: Seen) -> None:
    """Read who exported and the busiest pairs, once all is sent.  Raises CommandError."""
    if seen.captures or not demo.replayed():
        return
    time.sleep(2)  # rows wait up to a second for their insert
    with asking(demo.settings, open_store=False) as client:
        found = [(title, client.query(sql)) for title, sql in TABLES.items()]
        if found[0][1].result_rows:
            seen.captures = [(title, Result(list(one.column_names), one.result_rows)) for title, one in found]


TABLES = {
    "Who exported:": EXPORTERS,
    "The busiest pairs, names where exporters state them (each switch's sighting counts):": ENDS,
}


def opening(found: Sequence[Mapping[str, Any]], seconds: int) -> list[str]:
    """Say what the rows of a window that is still open are."""
    if not found:
        return ["exports arrive; the first rows take a second or two"]
    return [f"{found[0]['pairs']} pairs, rows of {seconds} s; the first window of 10 s is still open: loss and "
            "latency come when it closes"]  # fmt: skip


def unfinished(row: Mapping[str, Any], seconds: int) -> dict[str, Any]:
    """Return a pair of the open window with the columns that `top` shows."""
    bits, packets = row["bits"] / seconds, row["packets"] / seconds
    rates = {f"{name}_per_second{end}": value for name, value in (("bits", bits), ("packets", packets))
             for end in ("", "_low", "_high")}  # fmt: skip
    unknown = dict.fromkeys(("loss_ratio", "loss_low", "loss_high", "latency_us", "latency_missing"))
    return {**row, **rates, **unknown, "loss_evidence": "open", "counted_at": "source", "connections": "", "alerts": []}


def state(demo: Demo, seen: Seen, begun: float) -> str:
    """Say how far it is."""
    seconds = time.monotonic() - begun
    if not seen.sending:
        done = demo.last_words("service").rpartition("\n")[2]
        return f"{seconds:.0f} s: the service starts (the first start compiles its decoders); it says: {done or '…'}"
    return f"{seconds:.0f} s: a made-up cloud sends to {demo.target}; ^C ends and removes all"


def hints(demo: Demo) -> list[str]:
    """Say where the console is, and what to try in another terminal."""
    sql, web = (f"http://{at.host}:{at.port}" for at in (demo.settings.sql, demo.settings.web))
    lines = [
        f"In a browser: {web}/   In another terminal:",
        f"  curl '{sql}/?database=vmflow' -d '{LOSSY}'",
        f"  {program()} top --sort loss --config {demo.config}",
        f"  {program()} alerts list --config {demo.config}",
        f"  curl {web}/metrics",
    ]
    if demo.truth.exists():
        lines[-1] += f"      the truth: {demo.truth}"
    return lines


def program() -> str:
    """Return the command as it can be typed."""
    return "vmflow" if shutil.which("vmflow") or Path(sys.argv[0]).name != "vmflow" else sys.argv[0]


def summary(seen: Seen, begun: float) -> str:
    """Say what was seen."""
    if seen.captures:
        return "vmflow demo: all is removed"
    names = f"{seen.pairs} pairs by name after {seen.named - begun:.0f} s" if seen.named else "no pair by name"
    return f"vmflow demo: {names}; alerts: {len(seen.fired)}; all is removed"


class Live:
    """The picture in a terminal."""

    def __init__(self, demo: Demo, seen: Seen, begun: float) -> None:
        self._demo, self._seen, self._begun = demo, seen, begun
        self._screen = Screen()

    def __enter__(self) -> Live:
        self._screen.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._screen.__exit__(*error)

    def draw(self) -> None:
        """Show the newest picture."""
        seen, width = self._seen, self._screen.width
        lines = [state(self._demo, seen, self._begun)]
        lines += seen.picture.heads(time.time()) if seen.picture else seen.heads
        lines += [f"! {alert['severity']}: {alert['summary']}" for alert in seen.alerts[:SHOWN_ALERTS]]
        if len(seen.alerts) > SHOWN_ALERTS:
            lines.append(f"! and {len(seen.alerts) - SHOWN_ALERTS} more")
        rows = [(top.cells(row, width), worst) for row, worst in zip(seen.rows, seen.worst, strict=False)]
        foot = hints(self._demo) if seen.named else ()
        self._screen.show(lines, top.fields_of(width) if rows else (), rows, foot)


class Lines:
    """Plain lines: what is new."""

    def __init__(self, demo: Demo, seen: Seen, begun: float) -> None:
        self._demo, self._seen, self._begun = demo, seen, begun
        self._printed: set[object] = set()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def draw(self) -> None:
        """Print what was not printed yet."""
        seen = self._seen
        if self._new("state", bool(seen.sending)):
            tell(state(self._demo, seen, self._begun))
        if seen.rows and self._new("window", seen.picture.start if seen.picture else 0):
            say("", *(seen.picture.heads(time.time()) if seen.picture else seen.heads))
            plain = [top.plain(row) for row in seen.rows[:SHOWN_PAIRS]]
            show(Result(list(top.PLAIN), [list(row.values()) for row in plain]), "table")
        for alert in seen.alerts:
            if self._new("alert", alert["alert_id"]):
                say(f"! {alert['severity']}: {alert['summary']}")
        for title, table in seen.captures:
            if self._new("captures", title):
                say("", title)
                show(table, "table")
        if (seen.named or seen.captures) and self._new("hints", True):
            tell(*hints(self._demo))

    def _new(self, *what: object) -> bool:
        new = what not in self._printed
        self._printed.add(what)
        return new
