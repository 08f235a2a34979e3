"""What condition `anomaly` learned: a row per series, and its file, which survives a restart.

The file is written beside and renamed.  It begins with a line of JSON: version, what was learned, digest of the rest;
then the arrays as they are.  A file that is cut, damaged, older or of another rule is not used, and the stored windows
are replayed instead.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collector.alert.conditions import learn
from collector.alert.conditions.fleet import Fleet
from collector.alert.series import SECOND_US, Series

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]

VERSION = 3
"""Of columns and meaning of a row; another one is replayed."""
KEPT_SECONDS = 7 * 86_400
"""A series that is not seen for so long gives its row to another."""
FIRST_ROWS = 256
HEADER_BYTES = 4096
KEPT_ALERTS = 500
"""Alerts of which it is known what the series was before."""
GROUPS = 32
"""Of peers."""
BY_SERIES = ("keys", "last", "place", "masked", "why", "pause", "seen", "hidden", "rate", "rate_since")
"""Arrays with an item per series, beside `rows`."""


class UnfitError(Exception):
    """A file is not used; says why."""


class Memory:
    """The rows of at most `most` series."""

    def __init__(self, most: int, days: int) -> None:
        self._most = most
        self.fleet = Fleet(days)
        self.series = 0
        self.keys: Series = np.zeros(0, np.uint64)
        """Of the rows, in their order."""
        self._order: Numbers = np.zeros(0, np.int64)
        """Rows in the order of their keys."""
        self.rows = learn.empty(0)
        self.last: Numbers = np.zeros(0, np.int64)
        """End of the last window with a value, seconds since 1970."""
        self.place: Numbers = np.zeros(0, np.int64)
        """Hash of the hypervisors; 0 before the first."""
        self.masked: Numbers = np.zeros(0, np.int64)
        """Until when a known change explains what happens, seconds since 1970."""
        self.why: Numbers = np.zeros(0, np.int64)
        """Number of the change that masked it last; 0 before the first."""
        self.pause: Numbers = np.zeros(0, np.int64)
        """How long it is away at times, in seconds; 0 where it never was."""
        self.seen: Floats = np.zeros(0)
        """Windows with a value in the last day; what is longer ago counts ever less."""
        self.hidden: Floats = np.zeros(0)
        """Those of them that were masked."""
        self.rate: Numbers = np.zeros(0, np.int64)
        """Sampling rate; 0 where it is not known."""
        self.rate_since: Numbers = np.zeros(0, np.int64)
        """Since when, seconds since 1970."""
        self.kept = np.zeros((KEPT_ALERTS, learn.PEAKS), np.float32)
        """Streams of series before their last episodes began."""
        self.kept_keys: Series = np.zeros(KEPT_ALERTS, np.uint64)
        self.kept_times: Numbers = np.zeros((KEPT_ALERTS, 2), np.int64)
        """Begins of the first and the last window of each, seconds since 1970; 0 where there is none."""
        self.kept_at: Numbers = np.zeros(1, np.int64)
        self.tails = np.zeros((GROUPS, learn.STREAMS * 4), np.float32)
        """Thresholds and tails of peers, for new series."""
        self.tails_of: Numbers = np.zeros(GROUPS + 1, np.int64)
        """How many series each group has, 0 for none that is known; last, in which hour that was, since 1970."""
        self.read_us = 0
        """What lies before this is learned, µs since 1970."""

    def find(self, series: Series, now_seconds: int) -> tuple[Numbers, int]:
        """Return the row of each of these series, −1 where there is no room; and for how many there was none."""
        rows = self._find(series)
        fresh = np.unique(series[rows < 0])
        if len(fresh):
            self._add(fresh, now_seconds)
            rows = self._find(series)
        return rows, int(np.count_nonzero(rows < 0))

    def row_of(self, series: int) -> int:
        """Return the row of a series, −1 without one."""
        return int(self._find(np.array([series], np.uint64))[0])

    def take_before(self, series: int, since_us: int) -> learn.State | None:
        """Return what the streams of a series were before the alert that began then; None where that is not known.

        It is given once; what was kept of later episodes is dropped, since it holds what this one was about.
        """
        since, (first, last) = since_us // SECOND_US, self.kept_times.T
        own = (self.kept_keys == np.uint64(series)) & (first > 0)
        found = np.flatnonzero(own & (first <= since) & (since <= last))
        if not len(found):
            return None
        before = self.kept[found[0]].copy()
        self.kept_times[own & (first >= first[found[0]])] = 0
        return before  # type: ignore[no-any-return]

    def began_later(self, row: int, since_us: int) -> bool:
        """Return whether the present episode of a series is known to have begun after that time."""
        place = int(self.rows[row, learn.KEPT])
        own = self.rows[row, learn.EPISODE] != 0 and self.kept_keys[place] == self.keys[row]
        return bool(own and self.kept_times[place, 0] > since_us // SECOND_US)

    def set_back(self, now_us: int) -> None:
        """Keep what is learned where the clock was ahead and is set right: nothing in it lies in the future."""
        now = now_us // SECOND_US
        for times in (self.last, self.masked, self.rate_since, self.kept_times):
            np.minimum(times, now, out=times)
        self.tails_of[-1] = 0  # taken again
        self.fleet.set_back(now)
        self.read_us = now_us

    def _find(self, series: Series) -> Numbers:
        if not self.series:
            return np.full(len(series), -1, np.int64)
        found = np.searchsorted(self.keys[: self.series], series, sorter=self._order)
        rows = self._order[np.minimum(found, self.series - 1)]
        return np.where(self.keys[rows] == series, rows, -1)

    def _add(self, fresh: Series, now_seconds: int) -> None:
        needed = self.series + len(fresh)
        if needed > self._most:
            self._drop(self.last[: self.series] > now_seconds - KEPT_SECONDS)
            fresh = fresh[: max(0, self._most - self.series)]
            needed = self.series + len(fresh)
        if needed > len(self.keys):
            self._grow(min(self._most, max(FIRST_ROWS, needed, 2 * len(self.keys))))
        new = slice(self.series, needed)
        self.keys[new], self.rows[new] = fresh, learn.empty(len(fresh))
        for name in BY_SERIES[1:]:
            getattr(self, name)[new] = now_seconds if name == "last" else 0
        self.series = needed
        self._order = np.argsort(self.keys[:needed], kind="stable")

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self.keys)
        self.rows = np.concatenate((self.rows, learn.empty(more)))
        for name in BY_SERIES:
            former = getattr(self, name)
            setattr(self, name, np.concatenate((former, np.zeros(more, former.dtype))))

    def _drop(self, kept: NDArray[np.bool_]) -> None:
        places = np.flatnonzero(kept)
        self.rows = self.rows[places]
        for name in BY_SERIES:
            setattr(self, name, getattr(self, name)[places])
        self.series = len(places)
        self._order = np.argsort(self.keys, kind="stable")

    def _arrays(self) -> dict[str, NDArray[Any]]:
        count, fleet = self.series, self.fleet
        return {
            **{name: getattr(self, name)[:count] for name in BY_SERIES},
            "rows": self.rows[:count], "kept": self.kept, "kept_keys": self.kept_keys, "kept_times": self.kept_times,
            "kept_at": self.kept_at, "tails": self.tails, "tails_of": self.tails_of, "peaks": fleet.peaks,
            "exposure": fleet.exposure, "day": fleet.day,
        }  # fmt: skip

    def save(self, path: Path, about: str) -> None:
        """Write all to a file, or nothing.  `about`: what was learned.  Blocks; raises OSError."""
        arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        head = {
            "vmflow": "anomaly", "version": VERSION, "width": learn.WIDTH, "about": about, "read_us": self.read_us,
            "series": self.series,
        }  # fmt: skip
        digest = _digest(head)
        for array in arrays.values():
            digest.update(array.data.cast("B") if array.size else b"")
        head["blake2b"] = digest.hexdigest()
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with open(part, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n")
                for array in arrays.values():
                    file.write(array.data.cast("B") if array.size else b"")
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise

    def load(self, path: Path, about: str) -> None:
        """Read a file.  Blocks.  Raises FileNotFoundError, or UnfitError for one that is not used; then nothing is
        changed."""
        fresh = Memory(self._most, len(self.fleet.exposure) - 1)
        try:
            with open(path, "rb") as file:
                head = _head(file.readline(HEADER_BYTES), about)
                count = int(head["series"])
                if not 0 <= count <= self._most:
                    raise UnfitError(f"{count} series, of at most {self._most}")
                fresh._grow(count)
                fresh.series = count
                digest = _digest(head)
                for array in fresh._arrays().values():
                    octets = file.read(array.nbytes)
                    digest.update(octets)
                    if len(octets) != array.nbytes:
                        raise UnfitError("it is cut off")
                    array[...] = np.frombuffer(octets, array.dtype).reshape(array.shape)
                if file.read(1) or digest.hexdigest() != head["blake2b"]:
                    raise UnfitError("it is damaged")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnfitError(error.strerror or repr(error)) from error
        fresh.read_us = int(head["read_us"])
        fresh._order = np.argsort(fresh.keys, kind="stable")
        self.__dict__.update(fresh.__dict__)


def _digest(head: dict[str, Any]) -> Any:
    """Return a digest that has begun with the first line, but for the digest in it."""
    return blake2b(json.dumps({name: head[name] for name in sorted(head) if name != "blake2b"}).encode())


def _head(line: bytes, about: str) -> dict[str, Any]:
    """Return the first line of a file.  Raises UnfitError if it is not that of this version and rule."""
    try:
        head = json.loads(line)
        known = {name: head[name] for name in ("vmflow", "version", "width", "about")}
        if not all(type(head[name]) is int for name in ("series", "read_us")) or type(head["blake2b"]) is not str:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnfitError("it is no state of a rule") from error
    wanted = {"vmflow": "anomaly", "version": VERSION, "width": learn.WIDTH, "about": about}
    for name, value in known.items():
        if value != wanted[name]:
            raise UnfitError("it is of another rule" if name == "about" else "it is of another version of vmflow")
    return head  # type: ignore[no-any-return]
