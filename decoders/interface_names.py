"""Interning of short strings inside kernels: interface names become indices of a bounded table.

Index 0 is the empty string.  A string beyond the limits is stored as empty and counted in `Names.missed`.  A table that
is nearly full is emptied between two batches: names still in use come again, those of removed ports do not.  Container
hosts create a name for every new port.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders.hashes import mix
from decoders.jit import inline
from decoders.limits import Limits
from schemas.text import clean


class Names(NamedTuple):
    """The table of strings, filled by kernels; an index keeps its meaning until the table is emptied."""

    table: NDArray[np.int32]
    """Open-addressing hash table of indices, 0 = free; its size is a power of two."""
    count: NDArray[np.int64]  # type: ignore[assignment] # shadows tuple.count, which is not used
    """[2]: octets used, strings (the empty one included)."""
    octets: NDArray[np.uint8]
    """The strings back to back."""
    offset: NDArray[np.int32]
    """[capacity + 1]: where each string starts; string i ends where i + 1 starts."""
    missed: NDArray[np.int64]
    """[1]: strings not kept, for lack of room or for their length."""


def new_names(limits: Limits) -> Names:
    """Return an empty table for `limits.names` strings of 32 octets on average."""
    slots = 1 << (2 * limits.names).bit_length()
    return Names(
        np.zeros(slots, np.int32),
        np.array([0, 1], np.int64),
        np.zeros(limits.names * 32, np.uint8),
        np.zeros(limits.names + 2, np.int32),
        np.zeros(1, np.int64),
    )


@inline
def intern(names, octets, start, length):
    """Return the index of `octets[start:start + length]`, trailing NULs removed; 0 if it is empty or not kept."""
    while length > 0 and octets[start + length - 1] == 0:
        length -= 1
    if length <= 0:
        return np.uint32(0)
    h = np.uint64(length)
    for i in range(length):
        h = mix(h, np.uint64(octets[start + i]))
    mask = np.uint64(names.table.shape[0] - 1)
    slot = h & mask
    while True:
        index = np.int64(names.table[np.int64(slot)])
        if index == 0:
            break
        at = np.int64(names.offset[index])
        if np.int64(names.offset[index + 1]) - at == length:
            same = True
            for i in range(length):
                if names.octets[at + i] != octets[start + i]:
                    same = False
                    break
            if same:
                return np.uint32(index)
        slot = (slot + np.uint64(1)) & mask
    used = names.count[0]
    index = names.count[1]
    if index + 1 > names.offset.shape[0] - 1 or used + length > names.octets.shape[0] or length > 255:
        names.missed[0] += 1
        return np.uint32(0)
    for i in range(length):
        names.octets[used + i] = octets[start + i]
    names.count[0] = used + length
    names.count[1] = index + 1
    names.offset[index] = used
    names.offset[index + 1] = used + length
    names.table[np.int64(slot)] = index
    return np.uint32(index)


FULL = 1.25
"""Free room required for each string in the table when a batch begins."""


class NameList:
    """Arrow view of a `Names` table, rebuilt only when it grew.  Names are cleaned here."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known = [""]
        self._array = pa.array(self._known, pa.string())

    def begin_batch(self) -> None:
        """Empty the table if it is nearly full.  Batches handed out before keep their own array."""
        names = self._names
        octets, count = names.count.tolist()
        if FULL * (count + 1) < len(names.offset) - 1 and FULL * octets < len(names.octets):
            return
        names.table[:] = 0
        names.count[:] = (0, 1)
        names.offset[:] = 0
        self._known = [""]
        self._array = pa.array(self._known, pa.string())

    def array(self) -> pa.Array:
        """Return all strings so far, position = index."""
        count = int(self._names.count[1])
        if count > len(self._known):
            octets = self._names.octets.tobytes() if count - len(self._known) > 64 else self._names.octets
            for index in range(len(self._known), count):
                start, end = int(self._names.offset[index]), int(self._names.offset[index + 1])
                self._known.append(clean(bytes(octets[start:end])))
            self._array = pa.array(self._known, pa.string())
        return self._array
