"""Turn polls of interface counters into rows of `interface_counters`, with the differences to the previous poll."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.inventory.sources.base import Address, sixteen
from decoders.rows import ABSENT, batch, layout, new_rows
from schemas.counters import COUNTERS, TOTALS

_PLACES = layout(COUNTERS)
_TOTALS_AT = _PLACES["in_bytes"][1]
_DELTAS_AT = _PLACES["in_bytes_delta"][1]
_FIRST, _OK, _RESET = (COUNTERS["delta_state"].code(name) for name in ("first", "ok", "reset"))


class Poll(NamedTuple):
    """One poll of n interfaces."""

    keys: Sequence[Hashable]
    """[n] What identifies an interface from poll to poll; each occurs once."""
    names: Sequence[str]
    """[n] Names of the ports on the hypervisor."""
    if_index: NDArray[np.uint32]
    """[n] 0 where not known."""
    epochs: NDArray[np.int64]
    """[n] A number other than in the previous poll means that the counters were reset."""
    totals: NDArray[np.uint64]
    """[len(TOTALS), n] Running totals in the order of `schemas.counters.TOTALS`, `ABSENT` where not stated."""
    wall_us: int
    """Time of the poll, µs since 1970."""
    monotonic_us: int
    """The same by the monotonic clock."""


class CounterRows:
    """Maker of rows from one hypervisor's polls.  It keeps one poll, so its memory is bounded by the number of
    interfaces."""

    def __init__(self, source: str) -> None:
        """`source` is a value of the column of that name."""
        self._source = COUNTERS["source"].code(source)
        self._before: Poll | None = None

    def rows(self, poll: Poll, agent: Address | None) -> pa.RecordBatch | None:
        """Return all decoded columns of `interface_counters` for one poll; None if no interface has counters.

        `agent` is an address under which the hypervisor exports, None = not known (`::` in the rows).
        """
        count = len(poll.keys)
        state, deltas, interval = _differences(self._before, poll)
        self._before = poll
        if count == 0:
            return None
        rows = new_rows(COUNTERS, count)
        for column in COUNTERS.stored:
            if column.nullable:
                rows.u64[_PLACES[column.name][1]] = ABSENT
        rows.u64[_PLACES["time_received"][1]] = poll.wall_us
        rows.u64[_PLACES["interval_us"][1]] = interval
        rows.u64[_TOTALS_AT : _TOTALS_AT + len(TOTALS)] = poll.totals
        rows.u64[_DELTAS_AT : _DELTAS_AT + len(TOTALS)] = deltas
        rows.u8[_PLACES["source"][1]] = self._source
        rows.u8[_PLACES["delta_state"][1]] = state
        rows.u32[_PLACES["if_index"][1]] = poll.if_index
        # Name 0 is the empty one, as everywhere.
        rows.u32[_PLACES["if_name"][1]] = np.arange(1, count + 1)
        rows.address[_PLACES["agent"][1]] = np.frombuffer(sixteen(agent), np.uint64)
        return batch(COUNTERS, rows, count, pa.array(["", *poll.names], pa.string()))


def _differences(before: Poll | None, now: Poll) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return state [n], deltas [totals, n] and interval in µs [n] of `now` against `before`.

    Counters were reset where one of them fell or an epoch began: then no delta is valid.
    """
    count = len(now.keys)
    state = np.full(count, _FIRST, np.uint8)
    deltas = np.full((len(TOTALS), count), ABSENT, np.uint64)
    interval = np.full(count, ABSENT, np.uint64)
    if before is None or not before.keys or count == 0:
        return state, deltas, interval
    row = {key: number for number, key in enumerate(before.keys)}
    place = np.fromiter((row.get(key, -1) for key in now.keys), np.int64, count)
    old = before.totals[:, place]
    stated = (old != ABSENT) & (now.totals != ABSENT)
    reset = (stated & (now.totals < old)).any(axis=0) | (before.epochs[place] != now.epochs)
    known = place >= 0
    good = known & ~reset
    state[known & reset] = _RESET
    state[good] = _OK
    interval[good] = max(now.monotonic_us - before.monotonic_us, 0)
    holds = stated & good
    deltas[holds] = now.totals[holds] - old[holds]
    return state, deltas, interval
