"""Sending the datagrams of captures again: paced by their times, at a given rate, or flat out.

Captures are kept in memory where they fit, and read again for each round where they do not (`Recording`).  Paced replay
awaits one datagram after the other (asyncio-dgram); the other two send a window of datagrams at once, exporter by
exporter, with one system call each.  Either way the order of each exporter's datagrams stays.

Sequence numbers and times inside the datagrams are sent as captured.  In the second round of a loop they begin again,
which a collector must take for a restart of the exporter.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Generic, TypeVar

import asyncio_dgram
from asyncio_dgram.aio import DatagramClient

from collector.capture.read import CapturedDatagram, CaptureProblems, read_capture
from collector.capture.senders import Key, Pool, SendError, Senders, TargetError, resolve
from collector.capture.sendmmsg import BATCH_LIMIT, Batch

KEEP_BYTES = 256 << 20
"""Payload octets, with `DATAGRAM_COST` for each datagram, that are kept in memory."""
DATAGRAM_COST = 400

Window = TypeVar("Window")
Convert = Callable[[list[CapturedDatagram]], Window]


class Recording(Generic[Window]):
    """Datagrams of some capture files as windows of at most `size`, each as `convert` makes it.

    A window never holds datagrams of two files.
    """

    def __init__(
        self, files: Sequence[str | Path], size: int, convert: Convert[Window], problems: CaptureProblems
    ) -> None:
        self.total: int | None = None
        """Datagrams of one round, once `load` has succeeded."""
        self._files = files
        self._size = size
        self._convert = convert
        self._problems = problems
        self._kept: list[tuple[bool, Window]] | None = None

    def load(self) -> bool:
        """Read everything into memory; False if it is more than `KEEP_BYTES`.  Raises CaptureError."""
        problems = CaptureProblems()
        kept: list[tuple[bool, Window]] = []
        total, cost = 0, 0
        for first, rows in self._read(problems):
            total += len(rows)
            cost += sum(len(row.payload) for row in rows) + DATAGRAM_COST * len(rows)
            if cost > KEEP_BYTES:
                return False
            kept.append((first, self._convert(rows)))
        self._problems.add(problems)
        self._kept, self.total = kept, total
        return True

    def round(self, number: int) -> Iterator[tuple[bool, Window]]:
        """The windows once more, each with whether a file begins with it.  Problems count in round 0 only.

        Raises CaptureError.
        """
        if self._kept is not None:
            yield from self._kept
            return
        for first, rows in self._read(CaptureProblems() if number else self._problems):
            yield first, self._convert(rows)

    def _read(self, problems: CaptureProblems) -> Iterator[tuple[bool, list[CapturedDatagram]]]:
        for file in self._files:
            first = True
            datagrams = read_capture(file, problems)
            while rows := list(islice(datagrams, self._size)):
                yield first, rows
                first = False


STEP_SECONDS = 0.005
"""At a given rate, datagrams are sent in groups this far apart."""
LAG_SECONDS = 0.25
"""A sender that is later than this does not hurry to catch up: the burst would be lost at the receiver."""
PATIENCE_SECONDS = 2.0
"""How long the system may be out of buffers before that is an error."""
TELL_SECONDS = 0.1
"""Time between two reports of a paced replay."""
AWAIT_EVERY = 64
"""Datagrams sent without waiting before other tasks get a turn."""

Report = Callable[[int, int | None], None]
"""Called at intervals with (datagrams sent, datagrams in all if known)."""


@dataclass(slots=True)
class ReplaySummary:
    """What was sent so far; current at any time, also after an error."""

    datagrams: int = 0
    octets: int = 0
    """Of UDP payload."""
    seconds: float = 0.0
    exporters: int = 0
    unsendable: int = 0
    """Datagrams that the system refused: too long for the path or the address family, or to port 0."""
    refused: int = 0
    """Times that a port was closed, where each datagram goes to its original port."""
    problems: CaptureProblems = field(default_factory=CaptureProblems)

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-9)
        skipped = [
            f"{number} {name}"
            for number, name in ((self.unsendable, "unsendable"), (self.refused, "refused"))
            if number
        ]
        skipped += [str(self.problems)] if self.problems.skipped.total() else []
        return (
            f"sent {self.datagrams:,} datagrams, {self.octets:,} octets, of {self.exporters:,} exporters"
            f" in {self.seconds:.2f} s ({self.datagrams / seconds:,.0f} datagrams/s,"
            f" {self.octets * 8 / seconds / 1e6:,.1f} Mbit/s); skipped: {', '.join(skipped) or 'none'}"
        )


async def replay(
    files: Sequence[str | Path],
    host: str,
    port: int | None = None,
    *,
    speed: float | None = 1.0,
    rate: float | None = None,
    loops: int = 1,
    from_loopback: bool | None = None,
    summary: ReplaySummary | None = None,
    report: Report | None = None,
) -> ReplaySummary:
    """Send the datagrams of capture files to `host`, one file after the other.

    `port` None sends each to its original destination port.  `speed` is a factor on the capture's pace, None is flat
    out; `rate` (datagrams per second) replaces it.  `loops` 0 repeats without end.  `from_loopback` gives each exporter
    an address 127.x.y.z of its own; None does so if the target is on IPv4 loopback.  Otherwise each has its own port.
    `summary` is filled as it goes, for who wants to see it after an error.  Files are read first as far as they fit
    into memory, so that nothing is sent of unreadable ones.

    Raises CaptureError, TargetError, SendError (no listener, network unreachable).
    """
    summary = ReplaySummary() if summary is None else summary
    under_way = _Replay(Senders(resolve(host, port), from_loopback), summary, report or (lambda _sent, _total: None))
    size = BATCH_LIMIT if rate is None else max(1, min(BATCH_LIMIT, int(rate * STEP_SECONDS)))
    live = loops == 1 and any(str(file) == "-" for file in files)
    if live:
        size = 1  # a datagram is not kept back until more have come through the pipe
    if speed is not None and rate is None:
        rows: Recording[list[CapturedDatagram]] = Recording(files, size, list, summary.problems)
        _load(rows, live, files)
        await under_way.paced(_rounds(rows, loops), speed, _in_all(rows.total, loops))
    else:
        batches = Recording(files, size, under_way.batches, summary.problems)
        _load(batches, live, files)
        await under_way.flat_out(_rounds(batches, loops), rate, _in_all(batches.total, loops))
    return summary


def _load(recording: Recording[Window], live: bool, files: Sequence[str | Path]) -> None:
    """Read the files ahead, unless a pipe is to be sent as it flows."""
    if not live and not recording.load() and any(str(file) == "-" for file in files):
        raise TargetError("standard input is too large to be repeated; save it to a file first")


def _rounds(recording: Recording[Window], loops: int) -> Iterator[tuple[bool, Window]]:
    for number in range(loops) if loops else count():
        empty = True
        for window in recording.round(number):
            empty = False
            yield window
        if empty:
            return  # an endless loop over nothing would hang


def _in_all(total: int | None, loops: int) -> int | None:
    return total * loops if total is not None and loops else None


class _Stream:
    """A socket as asyncio-dgram has it."""

    def __init__(self, client: DatagramClient, sender: socket.socket) -> None:
        self.client = client
        self.sender = sender

    @classmethod
    async def of(cls, sender: socket.socket) -> _Stream:
        client = await asyncio_dgram.from_socket(sender)
        assert isinstance(client, DatagramClient)  # noqa: S101 (a connected socket makes one; for the type checker)
        return cls(client, sender)

    async def send(self, payload: bytes) -> OSError | None:
        """Send one datagram.  What the system answers is returned, since it may be about an earlier one."""
        if payload:
            await self.client.send(payload)
            return self.take_error()
        try:
            self.sender.send(payload)  # asyncio's transports swallow empty datagrams before Python 3.12
        except OSError as error:
            return error
        return None

    def take_error(self) -> OSError | None:
        try:
            _ = self.client.exception
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        self.client.close()


class _Replay:
    """One replay under way."""

    def __init__(self, senders: Senders, summary: ReplaySummary, report: Report) -> None:
        self._senders = senders
        self._summary = summary
        self._report = report
        self._begun = time.monotonic()

    def batches(self, rows: list[CapturedDatagram]) -> list[tuple[Key, Batch]]:
        """Sort a window by exporter; each exporter's datagrams stay in order."""
        payloads: dict[Key, list[bytes]] = {}
        for row in rows:
            payloads.setdefault(self._senders.key(row), []).append(row.payload)
        return [(key, Batch(group)) for key, group in payloads.items()]

    async def flat_out(
        self, windows: Iterator[tuple[bool, list[tuple[Key, Batch]]]], rate: float | None, total: int | None
    ) -> None:
        pool: Pool[socket.socket] = Pool()
        self._begun = due = time.monotonic()
        try:
            for _, batches in windows:
                before = self._summary.datagrams
                for key, batch in batches:
                    self._send(pool.get(key) or pool.put(key, self._senders.open(key)), batch)
                self._show_progress(total)
                wait = 0.0
                if rate is not None:
                    due = max(due + (self._summary.datagrams - before) / rate, time.monotonic() - LAG_SECONDS)
                    wait = max(0.0, due - time.monotonic())
                await asyncio.sleep(wait)
            for sender in pool.items():
                self._check(sender)
        finally:
            pool.close()
            self._show_progress(total)

    def _send(self, sender: socket.socket, batch: Batch) -> None:
        first, give_up = 0, time.monotonic() + PATIENCE_SECONDS
        while first < len(batch):
            try:
                sent = batch.send(sender, first)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.ENOBUFS and time.monotonic() < give_up:
                    time.sleep(0.001)
                else:
                    first += self._failed(error)
                continue
            self._summary.datagrams += sent
            self._summary.octets += sum(map(len, batch.payloads[first : first + sent]))
            first += sent

    def _failed(self, error: OSError) -> int:
        """Count an error that the replay survives: the number of datagrams it cost.  Raises SendError for any other."""
        if error.errno in (errno.EMSGSIZE, errno.EINVAL):
            self._summary.unsendable += 1
            return 1
        target = self._senders.target
        if error.errno != errno.ECONNREFUSED:
            raise SendError(f"cannot send to {target}: {error.strerror}") from error
        if target.port is not None:
            raise SendError(f"nothing listens on UDP {target} (port unreachable); start the receiver first") from error
        self._summary.refused += 1  # of an earlier datagram: the one at hand can still be sent
        return 0

    def _check(self, sender: socket.socket) -> None:
        """See whether an answer "port unreachable" to the last datagrams is waiting at the socket."""
        number = sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._failed(OSError(number, os.strerror(number)))

    async def paced(
        self, windows: Iterator[tuple[bool, list[CapturedDatagram]]], speed: float, total: int | None
    ) -> None:
        pool: Pool[_Stream] = Pool()
        self._begun = reported = time.monotonic()
        latest_us, elapsed_us, unslept = 0, 0, 0
        try:
            for file_begins, rows in windows:
                if file_begins:
                    latest_us = rows[0].time_us
                for row in rows:
                    # Times that step back (several capturing queues) cost no time; the pace follows the latest.
                    elapsed_us += max(0, row.time_us - latest_us)
                    latest_us = max(latest_us, row.time_us)
                    now = time.monotonic()
                    wait = self._begun + elapsed_us / 1e6 / speed - now
                    unslept += 1
                    if now - reported > TELL_SECONDS:
                        reported = now
                        self._show_progress(total)
                    if wait > 0 or unslept >= AWAIT_EVERY:
                        unslept = 0
                        await asyncio.sleep(max(0.0, wait))
                    key = self._senders.key(row)
                    stream = pool.get(key)
                    if stream is None:
                        stream = pool.put(key, await _Stream.of(self._senders.open(key)))
                    await self._send_one(stream, row.payload)
            await asyncio.sleep(0)
            for stream in pool.items():
                if error := stream.take_error():
                    self._failed(error)
                self._check(stream.sender)
        finally:
            pool.close()
            self._show_progress(total)
            await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    async def _send_one(self, stream: _Stream, payload: bytes) -> None:
        while True:
            if error := stream.take_error():
                self._failed(error)  # of an earlier datagram
            error = await stream.send(payload)
            if error is None:
                self._summary.datagrams += 1
                self._summary.octets += len(payload)
                return
            if self._failed(error):
                return

    def _show_progress(self, total: int | None) -> None:
        self._summary.seconds = time.monotonic() - self._begun
        self._summary.exporters = self._senders.exporters
        self._report(self._summary.datagrams, total)
