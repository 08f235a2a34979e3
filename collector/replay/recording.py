"""The captures to replay, in windows: kept in memory where they fit, read again for each round where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from collector.capture import CapturedDatagram, CaptureProblems, read_capture

KEEP_OCTETS = 256 << 20
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
        """Read everything into memory; False if it is more than `KEEP_OCTETS`.  Raises CaptureError."""
        problems = CaptureProblems()
        kept: list[tuple[bool, Window]] = []
        total, cost = 0, 0
        for first, rows in self._read(problems):
            total += len(rows)
            cost += sum(len(row.payload) for row in rows) + DATAGRAM_COST * len(rows)
            if cost > KEEP_OCTETS:
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
