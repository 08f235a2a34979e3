"""Large blocks of memory that are reused.

Fresh memory costs more than writing to it: the system clears each page first, in the thread that touches it.  For a
record of 53 octets that becomes a row of 277, this was a fifth of the cost of receiving, decoding and naming.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_BYTES = 1 << 20
"""Smaller blocks are not worth it: the allocator already has them."""
ALIGNMENT = 64
"""The alignment that Arrow recommends for columns."""
SPARE_BYTES = 256 << 20
"""Most memory kept for later.  More is in use while the store is slow; then it goes back to the system."""
IDLE_TURNS = 60
"""A block unused for this many calls of `trim` goes back, too: a burst has ended."""


class MemoryPool:
    """Gives blocks of undefined content to any thread.  A block comes back with the last array that was cut from it."""

    def __init__(self, spare_bytes: int = SPARE_BYTES, idle_turns: int = IDLE_TURNS) -> None:
        self._most = spare_bytes
        self._idle_turns = idle_turns
        self._turn = 0
        self._spare: dict[int, deque[tuple[int, mmap.mmap]]] = {}
        """Unused blocks by size, each with the turn since which it is unused, the newest last."""

    @property
    def spare_bytes(self) -> int:
        """Octets kept for later now."""
        return sum(size * len(blocks) for size, blocks in list(self._spare.items()))

    def take(self, octets: int) -> NDArray[np.uint8]:
        """Return a block of at least this many octets, at most twice as many: sizes are powers of two."""
        size = max(mmap.PAGESIZE, 1 << (octets - 1).bit_length())
        try:
            _, memory = self._spare[size].pop()
        except (KeyError, IndexError):
            memory = mmap.mmap(-1, size)
            with contextlib.suppress(AttributeError, OSError):  # a system without large pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        # Every array cut from this one refers to it, not to the memory below: it lives as long as any of them.
        block = np.frombuffer(memory, np.uint8)
        weakref.finalize(block, self._give_back, memory).atexit = False
        return block

    def arrays(self, *wanted: tuple[tuple[int, ...], type[np.generic]]) -> list[NDArray[Any]]:
        """Return arrays of these shapes and types, content undefined, from one block where it is worth it."""
        sizes = [math.prod(shape) * np.dtype(kind).itemsize for shape, kind in wanted]
        begins = [0, *itertools.accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
        if begins[-1] < SMALLEST_BYTES:
            return [np.empty(shape, kind) for shape, kind in wanted]
        block = self.take(begins[-1])
        return [
            block[begin : begin + size].view(kind).reshape(shape)
            for begin, size, (shape, kind) in zip(begins, sizes, wanted, strict=False)
        ]

    def _give_back(self, memory: mmap.mmap) -> None:
        """Take a block back.  Runs on any thread, at any time: no lock, or it might wait for itself."""
        if self.spare_bytes + len(memory) <= self._most:
            self._spare.setdefault(len(memory), deque()).append((self._turn, memory))

    def trim(self) -> None:
        """Give back to the system what has been idle for long enough.  One thread calls this about once a second."""
        self._turn += 1
        latest = self._turn - self._idle_turns
        for blocks in list(self._spare.values()):
            # Another thread may take a block between check and removal: then a younger one goes, which does no harm.
            with contextlib.suppress(IndexError):
                while blocks[0][0] <= latest:
                    blocks.popleft()


BLOCKS = MemoryPool()
"""The blocks of the process."""
