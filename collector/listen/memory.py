"""Memory for payloads: reads fill one block after the other, so that what they brought can go on without being copied.

A block that nobody holds a batch of is filled anew.  Fresh memory costs more than the copy into it: the system clears
each page first.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

BLOCK_OCTETS = 8 << 20
"""As much as the pipeline takes at a time by default."""
SPARE_BLOCKS = 4
"""Blocks that are kept for later.  More are in use while the inbox is fuller than usual."""


class Memory:
    """Gives room for payloads.  One thread takes it; whatever thread drops the last batch of a block gives it back."""

    def __init__(self, block_octets: int = BLOCK_OCTETS) -> None:
        self._block_octets = block_octets
        self._spare: deque[mmap.mmap] = deque(maxlen=SPARE_BLOCKS)
        self._take_block()

    def room(self, octets: int) -> tuple[NDArray[np.uint8], NDArray[np.uint64], int]:
        """A block with room for so many octets: as octets, as words of 8 octets, and the first word that is free."""
        words = -(-octets // 8)
        if words > self._block_octets // 8:
            large = np.empty(words, np.uint64)
            return large.view(np.uint8), large, 0
        if self._filled + words > len(self._words):
            self._take_block()
        return self._octets, self._words, self._filled

    def use(self, words: NDArray[np.uint64], filled: int) -> None:
        """What `room` gave as `words` is in use up to word `filled`."""
        if words is self._words:
            self._filled = filled

    def _take_block(self) -> None:
        try:
            memory = self._spare.popleft()
        except IndexError:
            memory = mmap.mmap(-1, self._block_octets)
            with contextlib.suppress(AttributeError, OSError):  # a system without large pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        # Every array that is cut from this one refers to it, and not to what lies below: its end is that of all.
        self._octets = np.frombuffer(memory, np.uint8)
        self._words = self._octets.view(np.uint64)
        self._filled = 0
        weakref.finalize(self._octets, self._spare.append, memory).atexit = False
