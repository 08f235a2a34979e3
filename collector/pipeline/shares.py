"""Who may use how much of a queue that gets full: one sender that floods must not crowd out the others.

A sender may hold at most `TIMES_FREE` times what is still free (Choudhury and Hahne 1998: dynamic thresholds).  So one
alone gets nearly all of the queue, several that flood get equal parts, and one that sends little always finds room.
Senders are told apart by a hash: two may share an entry, and what addresses are made up fills all entries alike.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

ENTRIES = 4096
TIMES_FREE = 8
"""One sender that floods leaves a ninth of the queue to others."""

_SHIFT = np.uint64(64 - (ENTRIES - 1).bit_length())


class Shares:
    """Octets that each sender holds of a queue."""

    def __init__(self) -> None:
        self._held = np.zeros(ENTRIES, np.int64)
        # Odd, and secret: nobody can choose addresses that share the entry of another sender.
        self._factors = np.array([secrets.randbits(64) | 1 for _ in range(2)], np.uint64)

    def fits(self, address: NDArray[np.uint64], octets: NDArray[np.int64], free_octets: int) -> NDArray[np.bool_]:
        """Which of these datagrams may be queued while so much is free; all of a sender's or none.

        `address` is [n, 2] as in `Datagrams`, `octets` [n] what each holds of the queue.
        """
        entries = self._entries(address)
        wanted = np.bincount(entries, octets, ENTRIES)
        fits: NDArray[np.bool_] = (self._held + wanted <= TIMES_FREE * free_octets)[entries]
        return fits

    def add(self, address: NDArray[np.uint64], octets: NDArray[np.int64]) -> None:
        """Take note of datagrams that were queued."""
        np.add.at(self._held, self._entries(address), octets)

    def remove(self, address: NDArray[np.uint64], octets: NDArray[np.int64]) -> None:
        """Take note of datagrams that left the queue."""
        np.subtract.at(self._held, self._entries(address), octets)

    def _entries(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        mixed = address[:, 0] * self._factors[0] + address[:, 1] * self._factors[1]
        mixed ^= mixed >> np.uint64(29)
        entries: NDArray[np.int64] = ((mixed * self._factors[1]) >> _SHIFT).astype(np.int64)
        return entries
