"""The memory of the sums: numpy arrays that the kernels fill, and how they grow.

    slots [2^k]      tag << 32 | group + 1, 0 = free; the windows of a pair lie in slots next to each other
    groups [n]       four cache lines each: key and sums that every record adds to, more such sums, rare counts
    link_… [n]       a log of connections and their groups; what repeats is taken out now and then (`loop.py`)
    bursts [2^14]    the last sample of each TCP connection, and what its burst adds up to
    plans, entries   a block of rows on its way through the loop (`loop.py`)

Slots start few, so that they stay in the processor's cache with little traffic, and grow up to a limit.  Groups and
links are written sequentially, so their arrays have their full size from the start: untouched memory takes none.
Elements are records: an access to one is checked once, not once per field.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.pair_definition import LONGEST_SECONDS
from schemas.rollups import LEVELS

MOST_WINDOWS = LONGEST_SECONDS // LEVELS["10s"] + 1
"""Most windows that one record touches."""

BLOCK = 512
"""Rows that go through the loop together: enough to wait for many cache misses at once, and to read long runs of each
column; few enough for the level 2 cache."""

ENTRIES = 2 * BLOCK + MOST_WINDOWS
"""Most windows that a block touches; its last rows wait for the next block if they are too many."""

_LINE = 64
"""Octets of a cache line."""

KEYS = ("vms", "uuids", "hosts", "network_sighting", "reporter_high", "reporter_low", "domain")
"""Words of a key: two numbers of 32 bits each, then an address in memory order and a number."""

FLOATS = (
    "records", "packets", "bytes",
    "samples", "packets_variance", "bytes_variance", "frame_bytes", "first_packets", "last_packets", "rate_unstated",
    "first_smear", "last_smear", "first_smear_squares", "last_smear_squares",
)  # fmt: skip
COUNTS = ("drop_hint_packets", "connections_opened", "connections_accepted", "connections_reset", "tcp_flags_missing")
"""Measures of a group, besides `sampling_rate_max`, in the order of their memory."""

_F, _U, _I = np.float64, np.uint64, np.int64

GROUP = np.dtype(
    [
        *((name, _U) for name in KEYS),
        ("window", _I),
        *((name, _F) for name in FLOATS),
        ("sampling_rate_max", _U),
        *((name, _U) for name in COUNTS),
        ("_rest", _U, 4),
    ]
)
BURST = np.dtype(
    [("flow", _U), ("time", _I), ("seq", _U), ("length", _U), ("group", _U), ("count", _U), ("total", _U),
     ("squares", _F)]
)  # fmt: skip
PLAN = np.dtype(
    [
        *(
            (name, _U)
            for name in (*KEYS, "hash", "first_slot", "last_slot", "connection", "flow", "rate", "drop_hint", "events")
        ),
        *((name, _I) for name in ("start", "end", "first", "last")),
        *((name, _F) for name in ("packets", "bytes", "frame_bytes", "samples", "packets_variance")),
        *((name, _F) for name in ("bytes_variance", "unstated")),
    ]
)
"""What a row adds to its windows; see `plan.py`."""
ENTRY = np.dtype([("group", _U), ("window", _I), ("plan", _I), ("peek", _U)])
"""One window of one row of a block."""

BURSTS = 1 << 14
"""Connections whose last sample is known: 1 MB.  The samples of a burst come nearly always in one datagram."""

GROUPS, LINKS, NAMELESS, PEAK_GROUPS, PEAK_LINKS, N_USED = range(6)
"""Places in `used`: number of groups, of links, 1 if the loop met a name without a number; the most groups and links so
far, which show how much memory was touched."""

_LEAST_SLOTS = 1 << 11
_GROWTH = 4
_LINK_BYTES = 12
_CACHED_GROUPS = 4096
_KEPT_BYTES = 1 << 22
"""Touched memory that is always kept when tables are emptied."""

Records = NDArray[np.void]


class SumTables(NamedTuple):
    """What the kernels work on."""

    slots: NDArray[np.uint64]
    groups: Records
    link_hashes: NDArray[np.uint64]
    link_groups: NDArray[np.uint32]
    bursts: Records
    plans: Records
    entries: Records
    used: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    """[2]: secret numbers in the hashes of what senders choose, so that no one can choose what collides."""

    @property
    def slotted(self) -> int:
        """Groups for which there are slots enough: half of them stay free."""
        return len(self.slots) // 2


def _aligned(count: int, dtype: np.dtype[np.void]) -> Records:
    """Return zeros aligned to a cache line."""
    memory = np.zeros(count * dtype.itemsize + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + count * dtype.itemsize].view(dtype)


def make(groups: int, links: int, seeds: NDArray[np.uint64]) -> SumTables:
    """Return empty tables for this many groups and links, with few slots."""
    return SumTables(
        slots=np.zeros(_LEAST_SLOTS, np.uint64),
        groups=_aligned(groups, GROUP),
        link_hashes=np.empty(links, np.uint64),
        link_groups=np.empty(links, np.uint32),
        bursts=_aligned(BURSTS, BURST),
        plans=_aligned(BLOCK, PLAN),
        entries=_aligned(ENTRIES, ENTRY),
        used=np.zeros(N_USED, np.int64),
        seeds=seeds,
    )


def with_more_slots(tables: SumTables) -> SumTables:
    """Return tables with more slots, none of them filled yet."""
    most = 1 << (2 * len(tables.groups) - 1).bit_length()
    return tables._replace(slots=np.zeros(min(_GROWTH * len(tables.slots), most), np.uint64))


def note_peaks(tables: SumTables) -> None:
    """Note how many groups and links there are, before some are removed."""
    used = tables.used
    used[PEAK_GROUPS] = max(used[PEAK_GROUPS], used[GROUPS])
    used[PEAK_LINKS] = max(used[PEAK_LINKS], used[LINKS])


def emptied(tables: SumTables) -> SumTables:
    """Return empty tables: the same memory if it was well used, new memory if not."""
    note_peaks(tables)
    used = tables.used
    groups, links = int(used[GROUPS]), int(used[LINKS])
    if used[PEAK_GROUPS] * GROUP.itemsize > max(8 * groups * GROUP.itemsize, _KEPT_BYTES):
        tables = tables._replace(groups=_aligned(len(tables.groups), GROUP))
        used[PEAK_GROUPS] = 0
    else:
        _clear(tables.groups[:groups])
    if used[PEAK_LINKS] * _LINK_BYTES > max(8 * links * _LINK_BYTES, _KEPT_BYTES):
        count = len(tables.link_hashes)
        tables = tables._replace(link_hashes=np.empty(count, np.uint64), link_groups=np.empty(count, np.uint32))
        used[PEAK_LINKS] = 0
    if tables.slotted > max(8 * groups, _LEAST_SLOTS):
        tables = tables._replace(slots=np.zeros(max(_LEAST_SLOTS, 1 << (4 * groups).bit_length()), np.uint64))
    else:
        tables.slots[:] = 0
    _clear(tables.bursts)
    used[[GROUPS, LINKS]] = 0
    return tables


def _clear(records: Records) -> None:
    """Fill with zeros, as octets, which is fast."""
    records.view(np.uint8)[:] = 0


def columns(groups: Records, names: tuple[str, ...]) -> dict[str, NDArray[np.uint64]]:
    """Return words of groups, each as its own array.  Copied some groups at a time, while they are in the cache."""
    words = groups.view(np.uint64).reshape(len(groups), GROUP.itemsize // 8)
    places = [GROUP.fields[name][1] // 8 for name in names]  # type: ignore[index] # it has fields
    out = np.empty((len(names), len(groups)), np.uint64)
    for first in range(0, len(groups), _CACHED_GROUPS):
        part = slice(first, first + _CACHED_GROUPS)
        for column, place in zip(out, places, strict=True):
            column[part] = words[part, place]
    return dict(zip(names, out, strict=True))
