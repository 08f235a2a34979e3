"""The agent that runs for good: sends the probes of its sessions, answers those of others, hands results over."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

from agent import stamp
from agent.clock import OneWay, percentile
from agent.outbox import Outbox, Post, Row
from agent.reflector import Reflector, ReflectorSocket, Rules, listen
from agent.sender import EndlessSender, resolve
from agent.settings import AgentSettings, SessionSettings
from agent.text import read_key, target
from agent.windows import Window

LOOK_S = 1.0
"""How often windows that are final are looked for."""
AGAIN_S = 30.0
"""Pause before a session is tried again whose reflector has no address, or no way to it."""
LAST_S = 5.0
"""How long the end waits for the collector."""
Say = Callable[[str], None]


class AgentError(Exception):
    """The agent cannot start; the message says why."""


class _Running:
    """One session while it runs."""

    def __init__(self, settings: SessionSettings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._key = None if settings.key_file is None else read_key(settings.key_file)
        self._sender = EndlessSender(settings.plan(self._key))
        self._number = zlib.crc32(f"{settings.to} {settings.dscp} {settings.octets} {settings.plain}".encode())
        """The same after a restart, so that a session can be followed."""

    async def run(self) -> None:
        """Send for good; where there is no way, try again after a while, and say so once."""
        trouble = ""
        host, port = target(self._settings.to)
        while True:
            try:
                (family, address), *_ = await resolve(host, port)
                if trouble:
                    self._say(f"{self._settings.to} has an address again")
                trouble = ""
                await self._sender.run(family, address)
            except (OSError, UnicodeError) as error:
                found = getattr(error, "strerror", None) or str(error)
                if found != trouble:
                    self._say(f"{self._settings.to}: {found}; tried again every {AGAIN_S:.0f} s")
                trouble = found
            await asyncio.sleep(AGAIN_S)

    def rows(self) -> list[Row]:
        """Return what there is to hand over of windows that are final now."""
        return [self._row(window) for window in self._sender.final() if window.result.sent + window.result.unsent]

    def _row(self, window: Window) -> Row:
        settings, result = self._settings, window.result
        ends = self._sender.ends
        assert ends is not None  # noqa: S101 - it has sent
        times, delays = result.round_trips_us, result.one_way
        return {
            "time_us": window.start_ns // 1000, "interval_us": window.length_ns // 1000,
            "session": self._number, "reflector": settings.to,
            "src_ip": _plain(ends[0][0]), "dst_ip": _plain(ends[1][0]), "dst_port": ends[1][1],
            "dscp": settings.dscp, "octets": max(settings.octets, settings.least_octets),
            "authenticated": int(self._key is not None),
            **{name: getattr(result, name) for name in (
                "sent", "received", "lost", "late", "lost_forward", "lost_reverse", "duplicates", "reordered",
                "unreachable", "unsent",
            )},
            "refused": sum(result.refused.values()), "round_trips": len(times),
            **{f"rtt_{name}_us": _rounded(percentile(times, share) if times else None) for name, share in (
                ("min", 0.0), ("median", 0.5), ("p99", 0.99), ("max", 1.0),
            )},
            "jitter_us": _rounded(window.jitter_us), "residence_us": _rounded(result.residence_median_us),
            **_delays(delays), "clocks": result.clocks if times else "unknown", "hops": result.hops,
            "timestamps": "kernel" if result.kernel_times == result.received > 0 else "user",
            "reflector_timestamps": result.reflector_times, "reflector_mode": result.reflector,
        }  # fmt: skip


def _delays(found: OneWay | None) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for way in ("forward", "reverse"):
        low, middle, high = (None, None, None) if found is None else getattr(found, way)
        columns[f"{way}_us"] = _rounded(middle)
        columns[f"{way}_error_us"] = None if low is None or high is None else _rounded((high - low) / 2)
        columns[f"{way}_variation_us"] = _rounded(found and getattr(found, f"{way}_variation_p99_us"))
    columns["clock_offset_us"] = _rounded(found and found.offset_us)
    columns["clock_error_us"] = _rounded(found and found.offset_error_us)
    low, high = (found and found.skew_ppm) or (None, None)
    return columns | {"skew_low_ppm": _rounded(low), "skew_high_ppm": _rounded(high)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _plain(address: str) -> str:
    return address.partition("%")[0]


async def run(settings: AgentSettings, post: Post | None, say: Say) -> None:
    """Run until SIGTERM or SIGINT; `post` sends batches of results.  Raises AgentError; ValueError for a key."""
    outbox = None if post is None else Outbox(post, say)
    sessions = [_Running(one, say) for one in settings.sessions]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
            loop.add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as stack:
        answering = await _answer(settings, stack)
        handed = f"; results go to {settings.collector}" if post else ""
        say(f"{_count(len(sessions), 'session')}; {answering}{handed}")
        tasks = [asyncio.create_task(one.run()) for one in sessions]
        sending = asyncio.create_task(outbox.run()) if outbox is not None else None
        stopping = asyncio.create_task(stop.wait())
        watched = [*tasks, stopping, *([sending] if sending else [])]
        try:
            while not stop.is_set():
                done, _ = await asyncio.wait(watched, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopping}:
                    await task  # a defect: it must not go unnoticed
                if outbox is not None:
                    for row in (row for one in sessions for row in one.rows()):
                        outbox.add(row)
        finally:
            for task in tasks:
                task.cancel()
            stopping.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if outbox is not None and sending is not None:
            await outbox.finish(sending, LAST_S)
            rest = f"; {_count(outbox.waiting, 'row')} could not be handed over" if outbox.waiting else ""
            gone = f"; {_count(outbox.dropped, 'row')} dropped" if outbox.dropped else ""
            say(f"ended: the collector has {_count(outbox.taken, 'row')}{rest}{gone}")


async def _answer(settings: AgentSettings, stack: contextlib.ExitStack) -> str:
    """Answer probes until the stack ends; return where, in words."""
    own = settings.reflector
    if not own.listen:
        return "answers no probes"
    addresses = []
    for host, port in map(target, own.listen):
        try:
            addresses += await resolve(host, port)
        except (socket.gaierror, UnicodeError) as error:
            raise AgentError(f"agent.reflector.listen: no address is known of {host}") from error
    if not socket.has_dualstack_ipv6():
        addresses = [one for one in addresses if one[0] == socket.AF_INET] or addresses
    try:
        sockets = listen(addresses)
    except OSError as error:
        raise AgentError(f"agent.reflector.listen: {_text(error.filename)}: {error.strerror}") from error
    bound: list[tuple[Any, ...]] = [one.socket.getsockname() for one in sockets]
    ports = {stamp.PORT, *(address[1] for address in bound)}
    key = None if own.key_file is None else read_key(own.key_file)
    rules = Rules(own.allow, key, own.packets_per_second, own.per_source_per_second, ports)
    reflector = Reflector(rules, time.monotonic())
    for one in sockets:
        stack.enter_context(ReflectorSocket(reflector, one))
    return f"answers on {', '.join(map(_text, bound))}"


def _text(address: object) -> str:
    if not isinstance(address, tuple):
        return str(address)
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
