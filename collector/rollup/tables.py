"""The memory of the sums: hash tables in numpy arrays that the kernels fill, and how they grow.

    slots [2^k]      tag << 32 | group + 1, 0 = free; the windows of a pair lie in slots next to each other
    groups [n]       three cache lines each: key and sums that every record adds to, more such sums, rare counts
    links [2^k]      distinct connections of groups; hash 0 = free
    bursts [2^14]    the last sample of each TCP connection, and what its burst adds up to
    plans, entries   a block of rows on its way through the loop (`loop.py`)

Tables start small, so that little traffic stays in the processor's cache, and double up to a limit.  Elements are
records: an access to one is checked once, not once per field.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.flow_feed import LONGEST_SECONDS
from schemas.rollups import LEVELS

MOST_WINDOWS = LONGEST_SECONDS // LEVELS["10s"] + 1
"""Windows that one record touches at most."""

BLOCK = 64
"""Rows that go through the loop together: enough to wait for many cache misses at once, few enough for the first
level of the cache."""

ENTRIES = 2 * BLOCK + MOST_WINDOWS
"""Windows that a block touches at most; its last rows wait for the next block if they are too many."""

_LINE = 64
"""Octets of a cache line."""

KEYS = ("vms", "uuids", "hosts", "network_sighting")
"""Words of a key: two numbers of 32 bits each."""

FLOATS = (
    "records", "packets", "octets",
    "samples", "packets_variance", "octets_variance", "frame_octets", "first_packets", "last_packets", "rate_unstated",
)  # fmt: skip
COUNTS = ("drop_hint_packets", "connections_opened", "connections_accepted", "connections_reset", "tcp_flags_missing")
"""Measures of a group, besides `sampling_rate_max`, in the order in which they lie."""

_F, _U, _I = np.float64, np.uint64, np.int64

GROUP = np.dtype(
    [
        *((name, _U) for name in KEYS),
        ("window", _I),
        *((name, _F) for name in FLOATS),
        ("sampling_rate_max", _U),
        *((name, _U) for name in COUNTS),
        ("_rest", _U, 3),
    ]
)
LINK = np.dtype([("hash", _U), ("group", _U)])
BURST = np.dtype(
    [("flow", _U), ("time", _I), ("seq", _U), ("length", _U), ("group", _U), ("count", _U), ("total", _U),
     ("squares", _F)]
)  # fmt: skip
PLAN = np.dtype(
    [
        *(
            (name, _U)
            for name in (*KEYS, "hash", "first_slot", "last_slot", "connection", "rate", "drop_hint", "events")
        ),
        *((name, _I) for name in ("start", "end", "first", "last")),
        *((name, _F) for name in ("packets", "octets", "frame_octets", "samples", "packets_variance")),
        *((name, _F) for name in ("octets_variance", "unstated")),
    ]
)
"""What a row adds to its windows; see `plan.py`."""
ENTRY = np.dtype([("group", _U), ("window", _I), ("plan", _I), ("peek", _U), ("connection", _U), ("slot", _U)])
"""One window of one row of a block."""

BURSTS = 1 << 14
"""Connections whose last sample is known: 1 MB.  The samples of a burst come nearly always in one datagram."""

GROUPS, LINKS, NAMELESS, N_USED = range(4)
"""Places in `used`: number of groups, of connections, and 1 if the loop met a name without a number."""

_LEAST_GROUPS = 1 << 10
_LEAST_LINKS = 1 << 12

Records = NDArray[np.void]


class Tables(NamedTuple):
    """What the kernels work on."""

    slots: NDArray[np.uint64]
    groups: Records
    links: Records
    bursts: Records
    plans: Records
    entries: Records
    used: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    """[2]: secret numbers in the hashes of what senders choose, so that nobody can choose what collides."""

    @property
    def connections(self) -> int:
        """Connections that fit: three quarters of the slots."""
        return len(self.links) * 3 // 4


def _aligned(count: int, dtype: np.dtype[np.void]) -> Records:
    """Zeros that begin with a cache line."""
    memory = np.zeros(count * dtype.itemsize + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + count * dtype.itemsize].view(dtype)


def _slots(groups: int) -> NDArray[np.uint64]:
    """Slots for twice as many groups."""
    return np.zeros(1 << (2 * groups - 1).bit_length(), np.uint64)


def _links(connections: int) -> Records:
    """Slots of which `connections` fill at most three quarters."""
    return _aligned(1 << (connections * 4 // 3).bit_length(), LINK)


def make(seeds: NDArray[np.uint64]) -> Tables:
    """Empty tables of the least size."""
    return Tables(
        slots=_slots(_LEAST_GROUPS),
        groups=_aligned(_LEAST_GROUPS, GROUP),
        links=_links(_LEAST_LINKS),
        bursts=_aligned(BURSTS, BURST),
        plans=_aligned(BLOCK, PLAN),
        entries=_aligned(ENTRIES, ENTRY),
        used=np.zeros(N_USED, np.int64),
        seeds=seeds,
    )


def with_groups(tables: Tables, groups: int) -> Tables:
    """The same groups in memory for `groups` of them; their slots are not filled yet."""
    memory, used = _aligned(groups, GROUP), int(tables.used[GROUPS])
    memory[:used] = tables.groups[:used]
    return tables._replace(slots=_slots(groups), groups=memory)


def with_links(tables: Tables, connections: int) -> Tables:
    """Tables with empty memory for `connections` connections."""
    return tables._replace(links=_links(connections))


def emptied(tables: Tables) -> Tables:
    """Empty tables: the same memory if it was used well, less if not."""
    groups, links = int(tables.used[GROUPS]), int(tables.used[LINKS])
    tables.used[:] = 0
    _clear(tables.bursts)
    if len(tables.groups) > max(8 * groups, _LEAST_GROUPS):
        tables = with_groups(tables, max(2 * groups, _LEAST_GROUPS))
    else:
        tables.slots[:] = 0
        _clear(tables.groups[:groups])
    if tables.connections > max(8 * links, 2 * _LEAST_LINKS):
        return with_links(tables, max(2 * links, _LEAST_LINKS))
    _clear(tables.links)
    return tables


def _clear(records: Records) -> None:
    """Zeros everywhere; as octets, which is the fast way."""
    records.view(np.uint8)[:] = 0
