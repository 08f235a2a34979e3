"""Memory for payloads: reads fill one block after the other, so that what they brought can go on without being copied.

A block that nobody holds a batch of is filled anew (`decoders.blocks`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decoders.blocks import BLOCKS, Blocks

BLOCK_OCTETS = 8 << 20
"""As much as the pipeline waits for by default: a batch is one block, so nothing has to be copied together."""


class Memory:
    """Gives room for payloads.  One thread takes it; whatever thread drops the last batch of a block gives it back."""

    def __init__(self, block_octets: int = BLOCK_OCTETS, blocks: Blocks = BLOCKS) -> None:
        self._block_octets = block_octets
        self._blocks = blocks
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
        self._octets = self._blocks.take(self._block_octets)
        self._words = self._octets.view(np.uint64)
        self._filled = 0
