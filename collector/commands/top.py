"""`vmflow top`: the VM pairs of the last closed window, the busiest first; in a terminal, refreshed at intervals.

What is read is bounded: one window, with limits on rows and seconds.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from collector.commands.common import add_settings_arguments, load_settings
from collector.commands.output import Result, add_format_argument, show
from collector.commands.query import asking
from collector.settings import Settings
from collector.store_reader import Bounds, read_rows
from collector.terminal import CommandError, Field, Screen, UsageError, on_terminal, print_error, tell
from schemas.rollups import LEVELS
from schemas.text import like
from schemas.views.common import suffix

SORTS = {
    "bits": "bits_per_second",
    "packets": "packets_per_second",
    "loss": "loss_ratio",
    "latency": "latency_us",
    "connections": "connections",
}
BACK_SECONDS = {"10s": 3600, "1m": 6 * 3600, "1h": 2 * 86_400}
"""How far back the newest window may be: this much is read of the times of the sums."""
QUIET_SECONDS = 120
PATIENCE = {"connect_seconds": 5, "insert_seconds": 20}
"""How long to wait for a store that does not answer: nothing else is shown meanwhile."""
MOST_ROWS, MOST_ALERTS = 10_000, 1000
BOUNDS = Bounds(seconds=15, rows=MOST_ROWS)
"""Of each query."""
RETRY_SECONDS = 5.0
"""With a store that is away, if `--interval` is not shorter."""
WIDE = 110
"""Columns from which a terminal has room for connections and for names of alerts."""

COLUMNS = (
    "time", "src_vm", "dst_vm", "src_host", "dst_host", "network",
    "bits_per_second", "bits_per_second_low", "bits_per_second_high",
    "packets_per_second", "packets_per_second_low", "packets_per_second_high",
    "loss_ratio", "loss_low", "loss_high", "loss_evidence",
    "latency_us", "latency_spread_us", "latency_method", "latency_missing",
    "connections", "connections_evidence", "counted_at", "watched_seconds",
)  # fmt: skip

NEWEST = """
SELECT max(time) AS newest, count() AS found FROM pair_{level}
WHERE time > now() - toIntervalSecond({{back:UInt32}}) AND time <= now() - toIntervalSecond({{closed:UInt32}})
    AND (time + toIntervalSecond({seconds} + 10) <= (
            SELECT max(time) FROM pair_10s WHERE time > now() - toIntervalSecond({{back:UInt32}}))
        OR time <= now() - toIntervalSecond({{closed:UInt32}} + {quiet}))
"""
"""A service that falls behind, as on its first start, stores rows of a window long after it has ended: it is whole once
rows of the window after next are there, or none came for `QUIET_SECONDS`."""
PAIRS = """
SELECT {columns},
    count() OVER () AS pairs, sum(bits_per_second) OVER () AS all_bits,
    min(watched_seconds) OVER () AS least_watched, countIf(watched_seconds < {seconds}) OVER () AS less_watched
FROM pair_metrics{suffix}
WHERE time = toDateTime({{start:UInt32}}, 'UTC') AND src_vm != '' AND dst_vm != ''{conditions}
ORDER BY {sort} DESC NULLS LAST, src_vm, dst_vm, network
LIMIT {{most:UInt32}}
"""
FILTERS = {
    "vm": "{end}_vm LIKE {{vm:String}} OR toString({end}_vm_uuid) LIKE {{vm:String}}",
    "host": "{end}_host LIKE {{host:String}}",
    "project": "({end}_vm, {end}_vm_uuid) GLOBAL IN (SELECT vm, vm_uuid FROM inventory WHERE project LIKE "
    "{{project:String}} AND valid_from < toDateTime({{start:UInt32}}, 'UTC') + toIntervalSecond({seconds}) "
    "AND (open = 1 OR valid_to > toDateTime({{start:UInt32}}, 'UTC')))",
}
"""Option -> condition on one end of a pair."""
ALERTS = f"""
SELECT rule, toString(severity) AS badness, toString(scope) AS scope, labels
FROM alerts FINAL WHERE status != 'resolved' ORDER BY severity DESC, rule LIMIT {MOST_ALERTS}
"""  # noqa: S608 - our own constants


@dataclass(frozen=True)
class Picture:
    """The pairs of one window."""

    level: str
    start: int
    """Seconds since 1970."""
    rows: Sequence[Mapping[str, Any]]
    """Columns of the view, and `alerts`: names of rules, the worst first."""
    worst: Sequence[str]
    """The severity of the first alert of each row, or nothing."""
    firing: int
    """Alerts, of whatever they are."""

    def heads(self, now: float) -> list[str]:
        """Which window it is, how old, how much of it was watched, and what is in it."""
        seconds = LEVELS[self.level]
        end = self.start + seconds
        first, last = (datetime.fromtimestamp(at, UTC) for at in (self.start, end))
        window = f"window of {self.level}, {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} UTC, ended {age(now - end)} ago"
        if not self.rows:
            return [window, f"no pair is like that; alerts firing: {self.firing}"]
        row = self.rows[0]
        watched = "watched whole"
        if row["less_watched"]:
            least = f"{row['least_watched']:.3g} of {seconds} s"
            watched = f"not watched whole: {row['less_watched']} of the pairs, at worst {least}"
        total = "unknown" if row["all_bits"] is None else f"{short(row['all_bits'] / 1e6)} Mbit/s"
        return [window, f"{row['pairs']} pairs, {total}; {watched}; alerts firing: {self.firing}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Figures have their 95 % interval in brackets.  Where loss is not known, a word says why "
        "(docs/vm-metrics.md).\n\nexamples:\n"
        "  vmflow top\n"
        "  vmflow top --sort loss --vm 'web*' --level 1m\n"
        "  vmflow top --once --format json --limit 100"
    )
    add_settings_arguments(parser)
    parser.add_argument("--sort", choices=tuple(SORTS), default="bits", help="the highest first (default: bits)")
    parser.add_argument("--level", choices=tuple(LEVELS), default="10s", help="length of the window (default: 10s)")
    for name in (*FILTERS, "network"):
        also = ", or UUID" if name == "vm" else ""
        of = "" if name == "network" else " at either end"
        parser.add_argument(f"--{name}", metavar="PATTERN", help=f"only this {name}{of}: name{also}, with * and ?")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="pairs at most (default: 50)")
    parser.add_argument("--interval", type=float, default=10, metavar="SECONDS", help="ask so often (default: 10)")
    parser.add_argument("--once", action="store_true", help="print once and end; so it is without a terminal")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Query and show; exit code 1 if neither service nor store answers and nothing is shown, 2 for a mistake in the
    call."""
    settings = load_settings(args)
    if not 1 <= args.limit <= MOST_ROWS or not 1 <= args.interval <= 86_400:
        raise UsageError(f"--limit must be 1 to {MOST_ROWS}, --interval 1 to 86400 seconds")
    if on_terminal() and not args.once and args.format == "table":
        return watch(args, settings)
    picture = read(args, settings)
    if picture is None:
        print_error(args.command, nothing(args.level))
        return 0
    if args.format == "table":
        tell(*picture.heads(time.time()))
        show(Result(list(PLAIN), [list(plain(row).values()) for row in picture.rows]), "table")
    else:
        show(Result([*COLUMNS, "alerts"], list(values(picture.rows, args.format))), args.format)
    return 0


def watch(args: argparse.Namespace, settings: Settings) -> int:
    """Show the newest picture until the user ends it.  While the store is away, the old one stays, with its age."""
    picture: Picture | None = None
    message, due = "asking …", 0.0

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    # The terminal is restored, whatever ends the display.
    former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with Screen() as screen:
            while True:
                heads = picture.heads(time.time()) if picture else []
                fields = fields_of(screen.width) if picture else ()
                rows = [(cells(row, screen.width), severity) for row, severity in _rated(picture)]
                screen.show([*heads, *([message] if message else [])], fields, rows)
                if time.monotonic() < due:
                    time.sleep(min(1.0, max(0.0, due - time.monotonic())))
                    continue
                due = time.monotonic() + args.interval
                try:
                    # A service that starts again must find its store free.
                    found = read(args, settings, open_store=False)
                    picture, message = found or picture, "" if found else nothing(args.level)
                except CommandError as error:
                    message = f"{datetime.now(UTC):%H:%M:%S} UTC, tried again: {' '.join(str(error).split())}"
                    due = time.monotonic() + min(args.interval, RETRY_SECONDS)
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _rated(picture: Picture | None) -> Iterator[tuple[Mapping[str, Any], str]]:
    return zip(picture.rows, picture.worst, strict=True) if picture else iter(())


def nothing(level: str) -> str:
    """Why there may be no window."""
    hours = BACK_SECONDS[level] // 3600
    back = f"{hours} hours" if hours > 1 else "hour"
    return (
        f"no window of {level} with traffic between VMs closed in the last {back} (`vmflow exporters` says who sends)"
    )


def read(args: argparse.Namespace, settings: Settings, *, open_store: bool = True) -> Picture | None:
    """The newest closed window that has traffic, or None; `open_store` as in `connect`.  Raises CommandError."""
    # A window is whole once late records have come: that is when the rules of alerts look at it, too.
    late = settings.analyze.lateness_seconds + settings.alerts.settle_seconds
    settings = settings.model_copy(update={"store": settings.store.model_copy(update=PATIENCE)})
    with asking(settings, open_store=open_store) as client:
        back, closed = (round(late) + seconds for seconds in (BACK_SECONDS[args.level], LEVELS[args.level]))
        newest = NEWEST.format(level=args.level, seconds=LEVELS[args.level], quiet=QUIET_SECONDS)
        (times,) = read_rows(client, newest, {"back": back, "closed": closed}, BOUNDS)
        if not times["found"]:
            return None
        start = round(times["newest"].replace(tzinfo=UTC).timestamp())
        sql, parameters = query(args, start)
        rows, alerts = read_rows(client, sql, parameters, BOUNDS), read_rows(client, ALERTS, {}, BOUNDS)
    fitting = [[alert for alert in alerts if concerns(alert, row)] for row in rows]
    return Picture(
        args.level,
        start,
        [row | {"alerts": list(dict.fromkeys(alert["rule"] for alert in found))}
         for row, found in zip(rows, fitting, strict=True)],
        [found[0]["badness"] if found else "" for found in fitting],
        len(alerts),
    )  # fmt: skip


def query(args: argparse.Namespace, start: int) -> tuple[str, dict[str, Any]]:
    """SQL and its parameters for the pairs of a window."""
    parameters: dict[str, Any] = {"start": start, "most": args.limit}
    conditions = []
    for name, condition in FILTERS.items():
        if (pattern := getattr(args, name)) is not None:
            parameters[name] = like(pattern.lower() if name == "host" else pattern)
            ends = (condition.format(end=end, seconds=LEVELS[args.level]) for end in ("src", "dst"))
            conditions.append(f" AND ({' OR '.join(ends)})")
    if args.network is not None:
        parameters["network"] = like(args.network)
        conditions.append(" AND network LIKE {network:String}")
    sql = PAIRS.format(
        columns=", ".join(COLUMNS),
        seconds=LEVELS[args.level],
        suffix=suffix(args.level),
        conditions="".join(conditions),
        sort=SORTS[args.sort],
    )
    return sql, parameters


def concerns(alert: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether an alert is about this pair, or about an end of it."""
    labels = alert["labels"]
    if alert["scope"] == "pair":
        return all(labels.get(name) == row[name] for name in ("src_vm", "dst_vm", "network"))
    if alert["scope"] in ("vm", "interface"):
        return labels.get("vm") in (row["src_vm"], row["dst_vm"])
    return alert["scope"] == "host" and labels.get("host") in (row["src_host"], row["dst_host"])


def values(rows: Iterable[Mapping[str, Any]], output: str) -> Iterator[list[Any]]:
    """Rows for programs: the columns of the view, and alerts as a list; in CSV with blanks between them."""
    for row in rows:
        alerts = row["alerts"] if output == "json" else " ".join(row["alerts"])
        yield [*(row[name] for name in COLUMNS), alerts]


def age(seconds: float) -> str:
    """How long ago, in the unit that people would take."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def short(value: float) -> str:
    """A figure with about three digits that count."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    if value < 0.001:
        return "<0.001"
    return f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"


def figure(row: Mapping[str, Any], names: Sequence[str], factor: float, missing: str) -> str:
    """A value with its interval in brackets where it has one, or why there is none."""
    value, low, high = (row[name] for name in names)
    if value is None:
        return missing
    interval = "" if low == value == high else f" [{short(low * factor)}–{short(high * factor)}]"
    return short(value * factor) + interval


def bits(row: Mapping[str, Any]) -> str:
    """Mbit/s."""
    missing = "nowhere seen" if row["counted_at"] == "nowhere" else "not watched"
    return figure(row, ("bits_per_second", "bits_per_second_low", "bits_per_second_high"), 1e-6, missing)


def loss(row: Mapping[str, Any]) -> str:
    """Percent, or the state of the evidence."""
    return figure(row, ("loss_ratio", "loss_low", "loss_high"), 100, str(row["loss_evidence"]))


def _number(value: float | None, factor: float = 1) -> str:
    return "-" if value is None else short(value * factor)


PLAIN: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "source": lambda row: row["src_vm"],
    "source host": lambda row: row["src_host"],
    "destination": lambda row: row["dst_vm"],
    "destination host": lambda row: row["dst_host"],
    "network": lambda row: row["network"],
    "Mbit/s": bits,
    "packets/s": lambda row: _number(row["packets_per_second"]),
    "loss %": loss,
    "latency ms": lambda row: row["latency_missing"] or _number(row["latency_us"], 1e-3),
    "connections": lambda row: row["connections"],
    "alerts": lambda row: " ".join(row["alerts"]),
}
"""What is printed once: column -> cell."""


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is printed once."""
    return {name: cell(row) for name, cell in PLAIN.items()}


def fields_of(width: int) -> tuple[Field, ...]:
    """The columns of a terminal of this width."""
    ends = (Field("from", 0), Field("to", 0))
    if width < WIDE:
        figures = (Field("Mbit/s", 18, True), Field("pkt/s", 6, True), Field("loss %", 15, True), Field("ms", 5, True))
        return (*ends, *figures, Field("!", 2))
    figures = (Field("Mbit/s", 21, True), Field("pkt/s", 9, True), Field("loss %", 20, True), Field("ms", 7, True))
    return (*ends, *figures, Field("conns", 7, True), Field("alerts", 0))


def cells(row: Mapping[str, Any], width: int) -> list[str]:
    """What stands in them.  The host is behind the VM: it is the first to be cut."""
    ends = [f"{row[f'{end}_vm']}@{row[f'{end}_host'] or '?'}" for end in ("src", "dst")]
    figures = [bits(row), _number(row["packets_per_second"]), loss(row), _number(row["latency_us"], 1e-3)]
    if width < WIDE:
        return [*ends, *figures, str(len(row["alerts"]) or "")]
    return [*ends, *figures, str(row["connections"]), " ".join(row["alerts"])]
