"""Sums of VM pairs per window of 10 s, made in the process from the batches that were stored.

    add(batch) ──► compiled loop ──► sums by (window, pair, sighting) ──► take() ──► rows of `pair_10s`

`schemas.pair_definition` says what every column means.  A materialised view with the same sums costs ten times as much.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.rollup import tables as layout
from collector.rollup.loop import add_rows, distinct_links
from collector.rollup.plan import UNKNOWN, Numbers, Rows, enter_groups, unknown_codes
from collector.rollup.tables import COUNTS, FLOATS, GROUP, GROUPS, KEYS, LINKS, MOST_WINDOWS, NAMELESS
from schemas.column import ADDRESS, ENUM, NAME, NAMED_UUID, TIME_US, UUID
from schemas.flows import FLOWS
from schemas.rollups import LEVELS, MEASURES, PAIR_KEYS, STREAM_KEYS, TIME_S

MOST_DICTIONARIES = 64
"""Dictionaries that are remembered; a batch has two after the join, eight at most."""


class Names:
    """The numbers of the values of dictionaries of one type, from 0 in the order of their first use.

    Batches bring dictionaries of their own.  Only what rows refer to is looked up, and only once: an inventory has more
    names than a batch has rows.  A known dictionary is recognised by the address of its memory, which is held so that
    it cannot be reused.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._numbers: dict[Any, int] = {}
        self._known: dict[tuple[int, ...], tuple[pa.Array, NDArray[np.int32]]] = {}

    def values(self) -> pa.Array:
        """All values by their numbers."""
        return pa.array(list(self._numbers), self._kind)

    def number(self, value: Any) -> int:
        """Return the number of one value."""
        return self._numbers.setdefault(value, len(self._numbers))

    def numbers(self, dictionary: pa.Array) -> NDArray[np.int32]:
        """Return the number of each value of a dictionary, [values]; `UNKNOWN` for those not looked up yet."""
        place = _place(dictionary)
        if place not in self._known:
            if len(self._known) >= MOST_DICTIONARIES:
                del self._known[next(iter(self._known))]
            self._known[place] = (dictionary, np.full(len(dictionary), UNKNOWN, np.int32))
        return self._known[place][1]

    def ask(self, dictionary: pa.Array, codes: NDArray[np.int32], numbers: NDArray[np.int32]) -> None:
        """Fill the `numbers` of a dictionary for all `codes` ([rows]).

        Raises IndexError, with nothing filled, for a code that the dictionary does not have.
        """
        asked = np.empty(min(len(codes), len(numbers)), np.int32)
        found = asked[: unknown_codes(codes, numbers, asked)]
        if len(found):
            known = self._numbers
            values = dictionary.take(pa.array(found)).to_numpy(zero_copy_only=False).tolist()  # faster than to_pylist()
            numbers[found] = [known.setdefault(value, len(known)) for value in values]

    def clear(self) -> None:
        """Forget all."""
        self._numbers.clear()
        self._known.clear()


def _place(array: pa.Array) -> tuple[int, ...]:
    """Return where an array is in memory: same address and same length mean the same array, as long as it is held."""
    return (array.offset, len(array), *(buffer.address if buffer is not None else 0 for buffer in array.buffers()))


HASHES = pa.list_(pa.uint64())

SUMMED = tuple(column for column in MEASURES if column.name in {*FLOATS, *COUNTS, "sampling_rate_max"})
"""The measures that come from rows of `flows`, but for the connections."""

SCHEMA = pa.schema(
    [
        pa.field("time", TIME_S, nullable=False),
        *(pa.field(column.name, column.arrow, nullable=False) for column in (*PAIR_KEYS, *STREAM_KEYS, *SUMMED)),
        pa.field("connection_hashes", HASHES, nullable=False),
    ]
)
"""Rows of `pair_10s`, with the distinct hashes of connections instead of the state that counts them."""

_NUMPY = {NAME: np.int32, NAMED_UUID: np.int32, ENUM: np.int8, TIME_US: np.int64, ADDRESS: np.uint64}
_KEY_OF = {
    "src_vm": ("vms", 32),
    "dst_vm": ("vms", 0),
    "src_vm_uuid": ("uuids", 32),
    "dst_vm_uuid": ("uuids", 0),
    "src_host": ("hosts", 32),
    "dst_host": ("hosts", 0),
    "network": ("network_sighting", 32),
    "protocol": ("network_sighting", 8),
    "sighting": ("network_sighting", 0),
}
"""The word of a group, and the first bit in it, of each key."""


FIRST_THINNING = 1 << 18
THINNING_GROWTH = 8
"""Links are deduplicated when there are this many; if more than half of them remain, next when there are this many
times as many."""


class _Layout(NamedTuple):
    """The memory layout of a column's values: `width` of `dtype` per row; `coded`: they are codes of a dictionary."""

    name: str
    kind: pa.DataType
    dtype: np.dtype[Any]
    width: int
    coded: bool


def _layout(name: str) -> _Layout:
    kind = FLOWS[name].arrow
    dtype = np.dtype(_NUMPY[kind] if kind in _NUMPY else kind.to_pandas_dtype())
    return _Layout(name, kind, dtype, 2 if kind == ADDRESS else 1, pa.types.is_dictionary(kind))


_LAYOUTS = {name: _layout(name) for name in Rows._fields}


class PairSums:
    """The sums of the rows added since sums were last taken.  Not thread-safe: one call at a time; the loop releases
    the GIL."""

    def __init__(self, most_groups: int, max_connections: int, *, key: int | None = None) -> None:
        """Hold up to `most_groups` sums (270 octets each, with their slots) and `max_connections` connections of them
        (12 octets each, and 8 more while they are sorted).  The same `key` (128 bits) gives the same hashes of
        connections; it must be secret, or senders could choose what collides.  Without one, it is random.

        Raises ValueError if one record may not fit.
        """
        if min(most_groups, max_connections) < MOST_WINDOWS:
            raise ValueError(f"one record needs room for {MOST_WINDOWS} groups and as many connections")
        self._most_groups = most_groups
        self._most_connections = max_connections
        key = secrets.randbits(128) if key is None else key
        seeds = np.array([key >> 64, key & (2**64 - 1)], np.uint64)
        self._tables = layout.make(most_groups, max_connections, seeds)
        self._links_before_thinning = min(FIRST_THINNING, max_connections)
        self._thinned = 0
        """Links that the last thinning left."""
        self._names = {NAME: Names(pa.string()), NAMED_UUID: Names(UUID)}
        self.rows = 0
        """Rows added since the sums were taken."""
        self.oldest_us = 0
        """Least `time_received` of these rows; 0 if there are none."""
        self.newest_us = 0
        """Greatest `time_received` of these rows; 0 if there are none."""

    @property
    def groups(self) -> int:
        """Sums that are held."""
        return int(self._tables.used[GROUPS])

    @property
    def connections(self) -> int:
        """Connections of these sums; repeated ones count again until they are deduplicated."""
        return int(self._tables.used[LINKS])

    @property
    def full(self) -> bool:
        """Three quarters of what may be held are in use: the next batch might not fit."""
        return 4 * self.groups > 3 * self._most_groups or 4 * self.connections > 3 * self._most_connections

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        """Add named rows of `flows`.  Return the rows that do not fit any more, None if all did: take the sums, then
        add those.

        A column that the batch lacks counts as missing.  Raises ValueError, with nothing added, for a column of
        another type than the table has, or with NULLs.
        """
        if not batch.num_rows:
            return None
        rows, numbers = self._columns(batch)
        first = 0
        while first < batch.num_rows:
            tables = self._tables
            groups = min(tables.slotted, self._most_groups)
            first = add_rows(rows, numbers, tables, first, groups, self._links_before_thinning)
            if tables.used[NAMELESS]:
                self._ask(batch, rows, numbers)
            elif first < batch.num_rows and not self._grow():
                break
        if self.full and 8 * (self.connections - self._thinned) > self._most_connections:
            self._thin()  # it might look full only because of repeated connections
        self._count(rows.time_received[:first])
        return batch.slice(first) if first < batch.num_rows else None

    def take(self) -> pa.RecordBatch:
        """Return all sums, one row per group in no order, and start again."""
        tables = self._tables
        groups = tables.groups[: self.groups]
        keys = layout.columns(groups, (*KEYS, "window"))
        columns = {"time": pa.array(keys["window"].view(np.int64) * LEVELS["10s"]).cast(TIME_S)}
        values = {kind: names.values() for kind, names in self._names.items()}
        for key in PAIR_KEYS:
            word, bit = _KEY_OF[key.name]
            codes = (keys[word] >> np.uint64(bit)).astype(_NUMPY[key.arrow])
            named = pa.array(key.names) if key.names else values[key.arrow]
            columns[key.name] = pa.DictionaryArray.from_arrays(pa.array(codes), named, safe=False)
        columns["reporter"] = _addresses(keys["reporter_high"], keys["reporter_low"])
        columns["domain"] = pa.array(keys["domain"].astype(np.uint32))
        sums = layout.columns(groups, tuple(column.name for column in SUMMED))
        for column in SUMMED:
            measure = sums[column.name].view(GROUP[column.name])
            columns[column.name] = pa.array(measure.astype(column.arrow.to_pandas_dtype(), copy=False))
        columns["connection_hashes"] = pa.ListArray.from_arrays(*(pa.array(part) for part in self._distinct()))
        self._tables = layout.emptied(tables)
        self._thinned = 0
        for names in self._names.values():
            names.clear()
        self.rows = self.oldest_us = self.newest_us = 0
        return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)

    def _grow(self) -> bool:
        """Make room for a record; return False if there is none."""
        tables = self._tables
        if self.groups + MOST_WINDOWS > min(tables.slotted, self._most_groups):
            if tables.slotted >= self._most_groups:
                return False
            self._tables = layout.with_more_slots(tables)
            enter_groups(self._tables.slots, self._tables.groups, self.groups)
            return True
        self._thin()
        if 2 * self._thinned > self._links_before_thinning:
            self._links_before_thinning = min(THINNING_GROWTH * self._links_before_thinning, self._most_connections)
        # Not the last bit of room: deduplicating after every few rows would take forever.
        return self._thinned + max(MOST_WINDOWS, self._links_before_thinning // 16) <= self._links_before_thinning

    def _thin(self) -> None:
        """Deduplicate the links."""
        tables = self._tables
        ends, hashes = self._distinct()
        layout.note_peaks(tables)
        kept = self._thinned = len(hashes)
        tables.link_hashes[:kept] = hashes
        tables.link_groups[:kept] = np.repeat(np.arange(self.groups, dtype=np.uint32), np.diff(ends))
        tables.used[LINKS] = kept

    def _distinct(self) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Return the distinct connections by group: where those of each begin and end ([groups + 1]), and their
        hashes."""
        tables, links = self._tables, self.connections
        ends, hashes = np.zeros(self.groups + 1, np.int32), np.empty(links, np.uint64)
        kept = distinct_links(tables.link_hashes, tables.link_groups, links, ends, hashes)
        return ends, hashes[:kept] if 2 * kept > links else hashes[:kept].copy()

    def _count(self, received: NDArray[np.int64]) -> None:
        """Note the rows that were added."""
        if len(received):
            oldest, newest = int(received.min()), int(received.max())
            self.oldest_us = min(oldest, self.oldest_us) if self.rows else oldest
            self.newest_us = max(newest, self.newest_us)
            self.rows += len(received)

    def _columns(self, batch: pa.RecordBatch) -> tuple[Rows, Numbers]:
        """Return what the loop reads of a batch."""
        schema = batch.schema
        places = ((name, schema.get_field_index(name)) for name in Rows._fields)
        columns = {name: batch.column(place) for name, place in places if place >= 0}
        rows = Rows(*(_values(columns.get(name), layout, batch.num_rows) for name, layout in _LAYOUTS.items()))
        return rows, Numbers(*(self._numbers(columns.get(name), name) for name in Numbers._fields))

    def _numbers(self, column: pa.Array | None, name: str) -> NDArray[np.int32]:
        """Return the numbers of a column's names."""
        kind = _LAYOUTS[name].kind
        names = self._names[kind]
        if column is not None:
            return names.numbers(column.dictionary)
        return np.array([names.number("" if kind == NAME else bytes(16))], np.int32)

    def _ask(self, batch: pa.RecordBatch, rows: Rows, numbers: Numbers) -> None:
        """Get numbers for all names of a batch: the loop has met one that has none."""
        for name in Numbers._fields:
            if name in batch.schema.names:
                dictionary = batch.column(name).dictionary
                self._names[FLOWS[name].arrow].ask(dictionary, getattr(rows, name), getattr(numbers, name))


def _values(column: pa.Array | None, layout: _Layout, rows: int) -> NDArray[Any]:
    """Return the values of a column, not copied: codes of names and enumerations, µs, two words in memory order per
    address.

    Raises ValueError for a column of the wrong type or with NULLs.
    """
    if column is None:
        values = np.zeros(rows * layout.width, layout.dtype)
    else:
        if column.type != layout.kind or column.null_count:
            raise ValueError(
                f"column {layout.name} is {column.type} with {column.null_count} NULLs, not {layout.kind} without"
            )
        numbers = column.indices if layout.coded else column
        first = numbers.offset * layout.width * layout.dtype.itemsize
        values = np.frombuffer(numbers.buffers()[1], layout.dtype, rows * layout.width, first)
    values.flags.writeable = False
    return values


def _addresses(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> pa.Array:
    """Return addresses of two words each in memory order."""
    return pa.Array.from_buffers(ADDRESS, len(high), [None, pa.py_buffer(np.stack((high, low), axis=1))])


def warm_up() -> None:
    """Compile all kernels before they are needed.  Blocks: for some seconds if nothing is cached."""
    sums = PairSums(1 << 20, 1 << 20)
    sums.add(FLOWS.empty_row())
    enter_groups(np.zeros_like(sums._tables.slots), sums._tables.groups, sums.groups)
    sums.take()
