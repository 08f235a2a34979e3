"""When streams, or the service itself, did not report all packets: rows of table `gaps`.

Once a second the running totals of all streams are compared with those of the second before.  A gap reaches from the
last datagram before to the first one after, and further back by the time that records wait in caches: what was lost
with a cache had come before.  Reads the session arrays of a decoder; call it only while that is idle.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.decode.exporter_stats import PROTOCOL_BY_VERSION, SFLOW_VERSION, OwnLoss, addresses
from collector.interfaces import Watched
from collector.log import get_log
from decoders.sessions import (
    S_COUNTER_RECORDS,
    S_DATAGRAMS,
    S_LAST_SEEN_US,
    S_LOST,
    S_RECORDS,
    S_RESTARTS,
    Sessions,
    in_use,
)
from schemas.gaps import GAPS

SECOND_US = 1_000_000
WINDOW_US = 10 * SECOND_US

LOST_SHARE = 0.01
"""The share of what a stream sent in a second that may be missing before the second counts as not watched."""

SILENT_FACTOR, SILENT_US = 1.3, SECOND_US
"""A stream is silent after this many times its longest pause, plus a second: sooner than its windows close."""

LONGEST_PAUSE_US = 30 * SECOND_US
"""A stream whose pauses are about this long sometimes has nothing to report: its silence proves nothing."""

PAUSE_FADE = 0.99
"""What remains of the longest pause after a second in which the stream sent: half of it after a minute."""

QUIET_LOOKS = 5
"""A stream is reported at most once in this many looks; what came meanwhile is reported as one gap."""

MOST_ROWS = 4096
"""Rows of one look.  If more streams than that have gaps, the rest are reported as one gap of all streams."""

_log = get_log("decode")

Stream = tuple[bytes, int, int]
"""Reporter, domain, number of the protocol."""

ALL: Stream = (bytes(16), 0, 0)


@dataclass(slots=True)
class Gap:
    """One gap of one stream, µs since 1970."""

    begins_us: int
    ends_us: int
    reason: str


class Gaps:
    """Finder of the gaps of the streams of one decoder."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._stats = np.zeros_like(sessions.stats)
        self._generation = np.zeros_like(sessions.generation)
        self._known = np.zeros(len(sessions.generation), np.bool_)
        self._silent = np.zeros(len(sessions.generation), np.bool_)
        self._pause_us = np.full(len(sessions.generation), LONGEST_PAUSE_US, np.float64)
        self._pending: dict[Stream, Gap] = {}
        self._reported: dict[Stream, int] = {}
        """The look in which a stream was last reported."""
        self._look = 0

    def look(self, now_us: int, reach_us: int) -> list[tuple[Stream, Gap]]:
        """What to report now."""
        self._look += 1
        s = self._sessions
        changed = np.flatnonzero(s.generation != self._generation)
        self._known[changed] = self._silent[changed] = False
        self._stats[changed] = 0
        self._pause_us[changed] = LONGEST_PAUSE_US
        self._generation[changed] = s.generation[changed]
        numbers = np.asarray(in_use(s), np.int64)
        stats, before = s.stats[numbers], self._stats[numbers]
        seen = stats[:, S_LAST_SEEN_US].astype(np.int64)
        last = before[:, S_LAST_SEEN_US].astype(np.int64)
        known = self._known[numbers]
        fresh = ~known & (stats[:, S_RECORDS] + stats[:, S_COUNTER_RECORDS] > 0)
        heard = known & (stats[:, S_DATAGRAMS] > before[:, S_DATAGRAMS])
        restarted = heard & (stats[:, S_RESTARTS] > before[:, S_RESTARTS])
        lost = heard & ~restarted & self._lossy(numbers, stats, before)
        pause = np.where(heard, np.maximum(seen - last, 0), 0)
        longest = np.maximum(self._pause_us[numbers] * PAUSE_FADE ** (pause / SECOND_US), pause)
        quiet = longest * SILENT_FACTOR + SILENT_US

        for row in np.flatnonzero(fresh):
            self._opened(numbers[row], int(seen[row]), reach_us)
        silent = known & ~self._silent[numbers] & (quiet <= LONGEST_PAUSE_US) & (now_us - seen > quiet)
        for flags, reason in ((restarted, "restarted"), (lost, "lost")):
            for row in np.flatnonzero(flags):
                self._add(self._stream(numbers[row]), int(last[row]) - reach_us, int(seen[row]), reason)
        for row in np.flatnonzero(silent):
            ended = int(seen[row])
            self._add(self._stream(numbers[row]), ended - reach_us, ended + WINDOW_US, "silent")

        self._silent[numbers] = (self._silent[numbers] | silent) & ~heard
        self._pause_us[numbers] = longest
        self._known[numbers] |= fresh
        self._stats[numbers] = stats
        return self._due(reach_us, now_us)

    def _lossy(
        self, numbers: NDArray[np.int64], stats: NDArray[np.uint64], before: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return which streams miss too much of what they sent since the last look, by their own numbers."""
        version = self._sessions.key[numbers, 2] >> np.uint64(48)
        by_record = np.isin(version, (5, 7, 10))
        grown = stats - before
        units = np.where(by_record, grown[:, S_RECORDS], grown[:, S_DATAGRAMS])
        missing = np.maximum(stats[:, S_LOST], before[:, S_LOST]) - before[:, S_LOST]
        found: NDArray[np.bool_] = missing > LOST_SHARE * (units + missing)
        return found

    def _opened(self, number: int, seen_us: int, reach_us: int) -> None:
        """Take in sessions that report packets for the first time: new streams, or known ones from another port."""
        stream = self._stream(number)
        others = self._others(number)
        last_us = int(self._stats[others, S_LAST_SEEN_US].max(initial=0))
        self._silent[others] = True  # until they are heard from again
        if last_us:
            self._add(stream, min(last_us, seen_us) - reach_us, seen_us, "reopened")
        else:
            self._add(stream, seen_us - WINDOW_US - reach_us, seen_us, "started")

    def _others(self, number: int) -> NDArray[np.int64]:
        """Return the known sessions of the same stream, from other ports or connections."""
        known = np.flatnonzero(self._known)
        key, own = self._sessions.key[known], self._sessions.key[number]
        port = ~(np.uint64(0xFFFF) << np.uint64(32))
        same = (key[:, :2] == own[:2]).all(axis=1) & (key[:, 2] & port == own[2] & port)
        if _of_sflow(own[2]):
            same &= (key[:, 3:] == own[3:]).all(axis=1)
        found: NDArray[np.int64] = known[same]
        return found

    def _stream(self, number: int) -> Stream:
        key = self._sessions.key[number]
        sender, agent = addresses(key[None, 0:2])[0], addresses(key[None, 3:5])[0]
        unstated = not _of_sflow(key[2]) or agent in (bytes(16), bytes(10) + b"\xff\xff" + bytes(4))
        version = int(key[2] >> np.uint64(48))
        return sender if unstated else agent, int(key[2] & np.uint64(0xFFFFFFFF)), PROTOCOL_BY_VERSION.get(version, 0)

    def _add(self, stream: Stream, begins_us: int, ends_us: int, reason: str) -> None:
        gap = self._pending.get(stream)
        if gap is None:
            self._pending[stream] = Gap(max(begins_us, 0), ends_us, reason)
        else:
            gap.begins_us, gap.ends_us = min(gap.begins_us, max(begins_us, 0)), max(gap.ends_us, ends_us)

    def _due(self, reach_us: int, now_us: int) -> list[tuple[Stream, Gap]]:
        self._reported = {stream: look for stream, look in self._reported.items() if look > self._look - QUIET_LOOKS}
        due = [stream for stream in self._pending if stream not in self._reported]
        reported = [(stream, self._pending.pop(stream)) for stream in due]
        if len(reported) > MOST_ROWS:
            reported = [*reported[:MOST_ROWS], (ALL, Gap(now_us - SECOND_US - reach_us, now_us, "lost"))]
        self._reported.update(dict.fromkeys(due, self._look))
        return reported


class OwnGaps:
    """Finder of the gaps of the service: datagrams that it dropped, and the time in which it did not run.

    The service writes to `file` once a second that it runs, and what it has `watched`: since when, and until when
    windows are judged. Without a file, downtime is not known.
    """

    def __init__(self, file: Path | None, watched: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> None:
        self._file = file
        self._watched = watched
        self._own = OwnLoss()
        self._datagrams = 0
        self.reach_us = 0
        """How long before its receipt a record of the previous run began."""
        self.former = self._read()
        """What the previous run watched; None: not known."""

    def _read(self) -> Watched | None:
        if self._file is None:
            return None
        try:
            state = json.loads(self._file.read_text(encoding="ascii"))
            former = Watched(int(state["began_us"]), int(state["judged_us"]), int(state["alive_us"]))
            self.reach_us = max(0, int(state["reach_us"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            _log.warning("not known for how long the service was away", file=str(self._file), error=str(error))
            return None
        return former if former.alive_us >= 0 else None

    def away(self, listening_us: int) -> Gap | None:
        """Return the time from when the file was last written before this run to when it began to listen."""
        if self.former is None or self.former.alive_us >= listening_us:
            return None
        return Gap(max(0, self.former.alive_us - self.reach_us), listening_us, "away")

    def look(self, now_us: int, reach_us: int, own: OwnLoss, datagrams: int) -> Gap | None:
        """Return whether much was dropped since the last look, and note that the service runs."""
        dropped = own.kernel_drops + own.queue_drops - self._own.kernel_drops - self._own.queue_drops
        received = datagrams - self._datagrams
        self._own, self._datagrams = own, datagrams
        self._note(now_us, reach_us)
        if dropped <= LOST_SHARE * (received + dropped):
            return None
        return Gap(now_us - SECOND_US - reach_us, now_us, "dropped")

    def _note(self, now_us: int, reach_us: int) -> None:
        if self._file is None:
            return
        part = self._file.with_name(self._file.name + ".new")
        # A full disk must not stop anything, and is reported elsewhere.
        with contextlib.suppress(OSError):
            part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.unlink(missing_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                began_us, judged_us = self._watched()
                state = {"alive_us": now_us, "reach_us": reach_us, "began_us": began_us, "judged_us": judged_us}
                file.write(json.dumps(state).encode())
            part.replace(self._file)


def rows_of(gaps: list[tuple[Stream, Gap]]) -> pa.RecordBatch:
    """Return rows of table `gaps`."""
    protocols = GAPS["protocol"].names
    columns = {
        "begins": [gap.begins_us for _, gap in gaps],
        "ends": [gap.ends_us for _, gap in gaps],
        "reporter": [stream[0] for stream, _ in gaps],
        "domain": [stream[1] for stream, _ in gaps],
        "protocol": [protocols[stream[2]] for stream, _ in gaps],
        "reason": [gap.reason for _, gap in gaps],
    }
    return GAPS.batch(columns)


def _of_sflow(word: np.uint64) -> bool:
    return bool(word >> np.uint64(48) == SFLOW_VERSION)
