"""`vmflow agent`: measures the path between two machines with STAMP probes (RFC 8762).

Needs no settings, no service and no library: `agent/` does the work, this prints.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from agent import stamp
from agent.clock import percentile
from agent.reflector import PER_SECOND, PER_SOURCE, PRIVATE, REASONS, Network, Reflector, ReflectorSocket, Rules, listen
from agent.sender import MOST_PROBES, Plan, Sender, least_octets, resolve
from agent.session import Result
from collector.commands.output import add_format_argument, show_items
from collector.figures import figure, figures, number
from collector.terminal import print_error, say, tell

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
DEFAULT_LISTEN = (f"0.0.0.0:{stamp.PORT}", f"[::]:{stamp.PORT}")
SHARP_PPM = 100
"""Width of the bounds of a clock's rate that is printed for people."""
KEY_OCTETS = range(16, 65)
_TARGET = re.compile(r"(?:\[(?P<v6>[^]]+)\]|(?P<name>[^:]*))(?::(?P<port>\d{1,5}))?")
_INTERVAL = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = "Measure loss and delay between two machines: one reflects, the other sends (STAMP, RFC 8762)."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    probe = actions.add_parser("probe", help="send probes to a reflector, and print loss and delay")
    probe.description = (
        "Send STAMP probes to a reflector: `vmflow agent reflect`, a router, any TWAMP Light responder.  "
        "Ctrl-C prints what was measured so far."
    )
    probe.add_argument(
        "target", metavar="HOST[:PORT]", type=_target, help=f"the reflector (default port: {stamp.PORT})"
    )
    probe.add_argument(
        "-n", "--count", metavar="N", type=_number(1, MOST_PROBES), default=100, help="probes (default: 100)"
    )
    probe.add_argument(
        "--every", metavar="TIME", type=_interval, default=0.1, help="such as 10ms or 1s (default: 100ms; least: 1ms)"
    )
    probe.add_argument(
        "--octets", metavar="N", type=_number(stamp.OPEN_OCTETS, stamp.MOST_OCTETS), default=0,
        help="length of a probe without IP and UDP headers (default: as short as can be)",
    )  # fmt: skip
    probe.add_argument("--dscp", metavar="N", type=_number(0, 63), default=0, help="class of service (default: 0)")
    probe.add_argument(
        "--reflector", choices=("stateful", "stateless"), default="unknown",
        help="whether it counts its replies, so that loss has a direction (default: as its replies show)",
    )  # fmt: skip
    probe.add_argument(
        "--plain", action="store_true", help="no extensions of RFC 8972, for reflectors that refuse them"
    )
    _add_shared(probe)

    reflect = actions.add_parser("reflect", help="answer the probes of others until Ctrl-C")
    reflect.description = (
        "Answer STAMP probes until Ctrl-C, then say how many.  An answer is never longer than its probe, and other "
        "reflectors get none."
    )
    reflect.add_argument(
        "--listen", metavar="ADDRESS:PORT", type=_target, action="append",
        help=f"may be repeated (default: {' and '.join(DEFAULT_LISTEN)}); ports below 1024 need CAP_NET_BIND_SERVICE",
    )  # fmt: skip
    reflect.add_argument(
        "--allow", metavar="NETWORK", type=_network, action="append",
        help="whom to answer; may be repeated (default: private addresses); 0.0.0.0/0 is everybody with IPv4",
    )  # fmt: skip
    reflect.add_argument(
        "--per-second", metavar="N", type=_number(1, 1_000_000), default=PER_SECOND,
        help=f"most answers (default: {PER_SECOND})",
    )  # fmt: skip
    reflect.add_argument(
        "--per-source", metavar="N", type=_number(1, 1_000_000), default=PER_SOURCE,
        help=f"most answers a second to one address (default: {PER_SOURCE})",
    )  # fmt: skip
    reflect.add_argument("--seconds", metavar="N", type=_number(1, 10_000_000), help="end after this time")
    _add_shared(reflect)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file", metavar="FILE", type=Path,
        help="a file with the key of both ends in hex, 32 to 128 digits: authenticated mode",
    )  # fmt: skip
    parser.add_argument(
        "--timestamps", choices=("kernel", "user"), default="kernel",
        help="who takes times: the kernel where it can (default), or this process",
    )  # fmt: skip
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Probe or reflect; the exit code is 1 if nothing could be measured."""
    command = f"agent {args.action}"
    try:
        key = None if args.key_file is None else _key(args.key_file)
    except ValueError as error:
        print_error(command, str(error))
        return EXIT_USAGE
    try:
        return _probe(args, key) if args.action == "probe" else _reflect(args, key)
    except socket.gaierror as error:
        print_error(command, f"no address is known of {error.filename}: {error.strerror}")
        return EXIT_FAILED


def _probe(args: argparse.Namespace, key: bytes | None) -> int:
    plan = Plan(
        args.count, args.every, args.octets, args.dscp, key, not args.plain, args.timestamps == "kernel", args.reflector
    )
    try:
        sender = Sender(plan)
    except ValueError as error:
        print_error("agent probe", f"--octets {args.octets}: {error}")
        return EXIT_USAGE
    host, port = args.target
    port = stamp.PORT if port is None else port
    address: tuple[Any, ...] = (host, port)

    async def measure() -> None:
        nonlocal address
        (family, address), *_ = await _addresses(host, port)
        await sender.run(family, address)

    code, began = EXIT_DONE, time.monotonic()
    try:
        asyncio.run(measure())
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise
        print_error("agent probe", f"{_text(address)} cannot be reached: {error.strerror}")
        return EXIT_FAILED
    seconds = time.monotonic() - began
    result = sender.result()
    if result.sent and not sender.hopeless:
        item = _item(host, address, plan, result)
        show_items([item], args.format, lambda: _print(address, seconds, result, sender.refusal))
    if result.received + result.late or code == EXIT_INTERRUPTED:
        if result.lost and plan.every_s * PER_SOURCE < 1:
            tell(
                f"note: `vmflow agent reflect` answers an address {PER_SOURCE} times a second, or as --per-source says"
            )
        return code
    failure = "no answer from" if result.sent else "no probe could be sent to"
    print_error("agent probe", f"{failure} {_text(address)}: {_why(sender, result, key is not None)}")
    return EXIT_FAILED


def _why(sender: Sender, result: Result, signed: bool) -> str:
    """Return what may be the reason that no reply came."""
    if sender.error:
        refused = sender.error == os.strerror(errno.ECONNREFUSED)
        return sender.error.lower() + (", nothing listens there: `vmflow agent reflect` would" if refused else "")
    if result.refused:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.refused.items())
        return f"what came is no reply to these probes ({reasons})" + ("; is the key the same?" if signed else "")
    return "no reflector, a firewall, another key, or it does not allow this address"


def _reflect(args: argparse.Namespace, key: bytes | None) -> int:
    listening = args.listen or [_target(text) for text in DEFAULT_LISTEN]
    allow: Sequence[Network] = args.allow or PRIVATE
    counts = dict.fromkeys(REASONS, 0)

    async def serve() -> None:
        addresses = [found for host, port in listening for found in await _addresses(host, port)]
        if not args.listen and not socket.has_dualstack_ipv6():
            addresses = [found for found in addresses if found[0] == socket.AF_INET]
        sockets = listen(addresses, kernel=args.timestamps == "kernel")
        bound = [one.socket.getsockname() for one in sockets]
        ports = {stamp.PORT, *(address[1] for address in bound)}
        reflector = Reflector(Rules(allow, key, args.per_second, args.per_source, ports), time.monotonic())
        stop = asyncio.Event()
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: counts.update(reflector.counts))
            for one in sockets:
                stack.enter_context(ReflectorSocket(reflector, one))
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            times = "kernel" if all(one.kernel for one in sockets) else "user"
            tell(
                f"answers on {', '.join(map(_text, bound))}; {times} timestamps; "
                f"{'authenticated' if key else 'open'}; Ctrl-C ends it"
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), args.seconds)

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        pass
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise
        print_error("agent reflect", _why_not_bound(error))
        return EXIT_FAILED
    show_items([counts], args.format, lambda: _print_counts(counts))
    return EXIT_DONE


def _why_not_bound(error: OSError) -> str:
    where = _text(error.filename) if isinstance(error.filename, tuple) else ""
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another process; --listen names another port"
    if error.errno == errno.EACCES:
        return f"{where} needs root or CAP_NET_BIND_SERVICE; --listen names another port, such as 0.0.0.0:8620"
    return f"{where}: {error.strerror}"


def _print_counts(counts: dict[str, int]) -> None:
    shown = [(count, REASONS[reason]) for reason, count in counts.items() if count or reason == "answered"]
    width = max(len(f"{count:,}") for count, _ in shown)
    say(*(f"{count:>{width},} {'' if words == 'answers' else 'packets '}{words}" for count, words in shown))


def _item(host: str, address: tuple[Any, ...], plan: Plan, result: Result) -> dict[str, Any]:
    """Return what was measured, by name; times in µs."""
    times, delays = result.round_trips_us, result.one_way
    item: dict[str, Any] = {
        "reflector": host, "dst_ip": address[0], "dst_port": address[1], "dscp": plan.dscp,
        "octets": max(plan.octets, least_octets(plan)),
    }  # fmt: skip
    item |= {
        name: getattr(result, name)
        for name in (
            "sent", "received", "outstanding", "lost", "late", "lost_forward", "lost_reverse", "lost_unresolved",
            "loss", "loss_low", "loss_high", "duplicates", "reordered", "unreachable", "unsent", "refused",
        )
    }  # fmt: skip
    for name, share in (("min", 0.0), ("median", 0.5), ("p99", 0.99), ("max", 1.0)):
        item[f"rtt_{name}_us"] = _rounded(percentile(times, share) if times else None)
    item["residence_median_us"] = _rounded(result.residence_median_us)
    for way in ("forward", "reverse"):
        low, middle, high = (None, None, None) if delays is None else getattr(delays, way)
        item |= {f"{way}_us": _rounded(middle), f"{way}_low_us": _rounded(low), f"{way}_high_us": _rounded(high)}
        item[f"{way}_pdv_p99_us"] = _rounded(delays and getattr(delays, f"{way}_variation_p99_us"))
    return item | {
        "clock_offset_us": _rounded(delays and delays.offset_us),
        "clock_error_us": _rounded(delays and delays.offset_error_us),
        "clock_skew_low_ppm": _rounded(delays and delays.skew_ppm and delays.skew_ppm[0]),
        "clock_skew_high_ppm": _rounded(delays and delays.skew_ppm and delays.skew_ppm[1]),
        "clocks": result.clocks, "hops": result.hops, "timestamps": _timestamps(result),
        "reflector_timestamps": result.reflector_times, "reflector_mode": result.reflector,
    }  # fmt: skip


def _print(address: tuple[Any, ...], seconds: float, result: Result, refusal: str) -> None:
    """Print what was measured, for people."""
    say(f"{_text(address)}: {result.sent} probes in {seconds:.1f} s", "")
    rows = [("received", f"{result.received}")]
    if result.outstanding:
        rows.append(("outstanding", f"{result.outstanding}, sent less than 3 s ago"))
    if result.loss is not None and result.loss_low is not None and result.loss_high is not None:
        (loss, low, high), unit = figures([result.loss, result.loss_low, result.loss_high], "ratio", "")
        rows.append(("lost", f"{result.lost}: {loss} % ({low}–{high} {unit})"))
    if result.lost:
        rows.append(("  where", _where(result)))
    rows += [("duplicates", str(result.duplicates)), ("reordered", str(result.reordered))]
    if result.unreachable:
        rows.append(("unreachable", f"{result.unreachable} ICMP errors"))
    if result.unsent:
        rows.append(("unsent", f"{result.unsent} by this machine: {refusal.lower()}"))
    rows += [("refused", f"{count} ({reason})") for reason, count in result.refused.items()]
    if times := result.round_trips_us:
        texts, unit = figures([percentile(times, share) for share in (0, 0.5, 0.99, 1)], "µs", "")
        rows.append(("round trip", "min {}, median {}, 99 % {}, max {} {}".format(*texts, unit)))
        rows.append(("  without", f"{figure(result.residence_median_us, 'µs')} in the reflector (median)"))
    rows += _one_way_rows(result)
    if result.hops is not None:
        rows.append(("hops", str(result.hops)))
    rows.append(("timestamps", f"{_timestamps(result)}; of the reflector: {result.reflector_times}"))
    say(*(f"{name:<14}{text}" for name, text in rows))


def _one_way_rows(result: Result) -> list[tuple[str, str]]:
    delays = result.one_way
    if delays is None:
        return [("one way", "unknown: the clocks do not run evenly")] if result.round_trips_us else []
    rows = []
    for name, (low, middle, high), variation in (
        ("there", delays.forward, delays.forward_variation_p99_us),
        ("back", delays.reverse, delays.reverse_variation_p99_us),
    ):
        texts, unit = figures([middle, low, high], "µs", "")
        rows.append((name, "{} ({}–{}) {}".format(*texts, unit) + f"; 99 % vary by {figure(variation, 'µs')}"))
    texts, unit = figures([delays.offset_us, delays.offset_error_us], "µs", "")
    rows.append(("clocks", "{}: the reflector's is ahead by {} ± {} {}".format(result.clocks, *texts, unit)))
    if delays.skew_ppm and delays.skew_ppm[1] - delays.skew_ppm[0] < SHARP_PPM:
        rows.append(("  rate", f"faster by {number(delays.skew_ppm[0])} to {number(delays.skew_ppm[1])} ppm"))
    return rows


def _where(result: Result) -> str:
    late = f"; {result.late} came after 3 s" if result.late else ""
    if result.lost_forward is None or result.lost_reverse is None:
        counts = result.reflector == "stateful"
        why = "numbers of replies do not add up" if counts else "the reflector does not count replies"
        return f"unknown: {why}{late}"
    rest = f", {result.lost_unresolved} unknown" if result.lost_unresolved else ""
    return f"{result.lost_forward} on the way there, {result.lost_reverse} on the way back{rest}{late}"


def _timestamps(result: Result) -> str:
    return "kernel" if result.kernel_times == result.received > 0 else "user"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        return await resolve(host, port)
    except socket.gaierror as error:
        error.filename = host
        raise
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "it is no name", host) from error


def _text(address: Sequence[Any]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"


def _key(file: Path) -> bytes:
    """Return the key of a file.  Raises ValueError, which says nothing of what is in it; OSError."""
    with file.open("rb") as opened:
        text = opened.read(1024).strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) not in KEY_OCTETS:
        raise ValueError(f"{file}: a key is one line of 32 to 128 hexadecimal digits")
    return key


def _target(text: str) -> tuple[str, int | None]:
    """Return host and port of `host`, `host:port`, `[::1]:port` or `::1`."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, None
    found = _TARGET.fullmatch(text)
    host = found and (found["v6"] or found["name"])
    if found is None or not host or int(found["port"] or 0) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST or HOST:PORT; IPv6 as [::1]:{stamp.PORT}")
    return host, None if found["port"] is None else int(found["port"])


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _interval(text: str) -> float:
    found = _INTERVAL.fullmatch(text)
    seconds = float(found[1]) * (0.001 if found[2] == "ms" else 1) if found else 0.0
    if not 0.001 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time from 1ms to 3600s")
    return seconds


def _number(least: int, most: int) -> Any:
    """Return the type of an argument that is a whole number."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= most and len(text) <= 9):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, found {text!r}")
        return int(text)

    return whole
