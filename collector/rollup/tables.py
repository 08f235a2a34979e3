"""The memory of the sums: hash tables in numpy arrays that the kernel fills, and how they grow.

    slots [2^k]      tag << 32 | group + 1, 0 = free; the windows of a pair lie in slots next to each other
    words [groups]   WIDTH words a group, in cache lines of 8: keys and what every record adds to, the rest of what
                     every record adds to, what few records add to.  `sums` is the same memory read as float64
    links [2^k]      two words a slot: hash of a connection (0 = free), group
    bursts           BURST_WIDTH words a sample: the last one of each TCP connection, and what its burst adds up to

Tables start small, so that little traffic stays in the processor's cache, and double up to a limit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.flow_feed import LONGEST_SECONDS
from schemas.rollups import LEVELS

MOST_WINDOWS = LONGEST_SECONDS // LEVELS["10s"] + 1
"""Windows that one record touches at most."""

KEY_WORDS = 5
"""The key of a group: VMs, UUIDs, hypervisors (two numbers each), network and sighting, window."""

IN_LINES = (
    "records", "packets", "octets",
    "samples", "packets_variance", "octets_variance", "frame_octets", "first_packets", "last_packets", "rate_unstated",
    "sampling_rate_max",
    "drop_hint_packets", "connections_opened", "connections_accepted", "connections_reset", "tcp_flags_missing",
)  # fmt: skip
"""Measures in the order of their words, behind the key."""

WORD = {name: KEY_WORDS + number for number, name in enumerate(IN_LINES)}
"""Number of each measure's word."""

WIDTH = 24
LINE = 64
"""Octets of a cache line."""

BURSTS = 1 << 14
"""Connections whose last sample is known: 1 MB.  The samples of a burst come nearly always in one datagram."""
BURST_WIDTH = 8

GROUPS, LINKS, N_USED = range(3)
"""Places in `used`: number of groups and of connections."""

_LEAST_GROUPS = 1 << 10
_LEAST_LINKS = 1 << 12


class Tables(NamedTuple):
    """What the kernel works on.  All arrays have one dimension: that is one check of bounds an access."""

    slots: NDArray[np.uint64]
    words: NDArray[np.uint64]
    sums: NDArray[np.float64]
    """`words`, read as float64."""
    links: NDArray[np.uint64]
    bursts: NDArray[np.uint64]
    burst_sums: NDArray[np.float64]
    """`bursts`, read as float64."""
    used: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    """[2]: secret numbers in the hashes of what senders choose, so that nobody can choose what collides."""

    @property
    def groups(self) -> int:
        """Groups that fit."""
        return len(self.words) // WIDTH

    @property
    def connections(self) -> int:
        """Connections that fit: three quarters of the slots."""
        return len(self.links) // 2 * 3 // 4


def _aligned(words: int) -> NDArray[np.uint64]:
    """Zeros that begin with a cache line."""
    memory = np.zeros(words + LINE // 8, np.uint64)
    first = -memory.ctypes.data % LINE // 8
    return memory[first : first + words]


def _group_memory(groups: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Slots for twice as many groups as fit, and their words."""
    slots = 1 << (2 * groups - 1).bit_length()
    return np.zeros(slots, np.uint64), _aligned(groups * WIDTH)


def _link_memory(connections: int) -> NDArray[np.uint64]:
    """Slots of which `connections` fill at most three quarters."""
    return _aligned(2 << (connections * 4 // 3).bit_length())


def make(seeds: NDArray[np.uint64]) -> Tables:
    """Empty tables of the least size."""
    slots, words = _group_memory(_LEAST_GROUPS)
    bursts = _aligned(BURSTS * BURST_WIDTH)
    return Tables(
        slots,
        words,
        words.view(np.float64),
        _link_memory(_LEAST_LINKS),
        bursts,
        bursts.view(np.float64),
        np.zeros(N_USED, np.int64),
        seeds,
    )


def with_groups(tables: Tables, groups: int) -> Tables:
    """The same groups in memory for `groups` of them; their slots are not filled yet."""
    slots, words = _group_memory(groups)
    filled = int(tables.used[GROUPS]) * WIDTH
    words[:filled] = tables.words[:filled]
    return tables._replace(slots=slots, words=words, sums=words.view(np.float64))


def with_links(tables: Tables, connections: int) -> Tables:
    """Tables with empty memory for `connections` connections."""
    return tables._replace(links=_link_memory(connections))


def emptied(tables: Tables) -> Tables:
    """Empty tables: the same memory if it was used well, less if not."""
    groups, links = (int(number) for number in tables.used)
    tables.used[:] = 0
    tables.bursts[:] = 0
    if tables.groups > max(8 * groups, _LEAST_GROUPS):
        tables = with_groups(tables, max(2 * groups, _LEAST_GROUPS))
    else:
        tables.slots[:] = 0
        tables.words[: groups * WIDTH] = 0
    if tables.connections > max(8 * links, 2 * _LEAST_LINKS):
        return with_links(tables, max(2 * links, _LEAST_LINKS))
    tables.links[:] = 0
    return tables
