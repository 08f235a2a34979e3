"""Who may use how much of a queue that gets full: one sender that floods must not crowd out the others.

A sender may hold at most `TIMES_FREE` times what is still free (Choudhury and Hahne 1998: dynamic thresholds).  So one
alone gets nearly all of the queue, several that flood get equal parts, and one that sends little always finds room.
Senders are told apart by a hash: two may share an entry, and what addresses are made up fills all entries alike.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from decoders.datagrams import Datagrams
from decoders.jit import inline, kernel

ENTRIES = 4096
TIMES_FREE = 8
"""One sender that floods leaves a ninth of the queue to others."""
ROW_OCTETS = 56
"""What one datagram costs beside its payload: the entries in the arrays of `Datagrams`."""

_SHIFT = np.uint64(64 - (ENTRIES - 1).bit_length())


class Shares:
    """Octets that each sender holds of a queue."""

    def __init__(self) -> None:
        self._held = np.zeros(ENTRIES, np.int64)
        self._wanted = np.zeros(ENTRIES, np.int64)
        """All 0 between two calls."""
        # Odd, and secret: nobody can choose addresses that share the entry of another sender.
        self._factors = np.array([secrets.randbits(64) | 1 for _ in range(2)], np.uint64)

    def warm(self) -> None:
        """Compile the kernels, or load them compiled."""
        nothing = Datagrams.of(())
        self.admit(nothing, 0)
        self.leave(nothing)

    def admit(self, batch: Datagrams, free_octets: int) -> tuple[NDArray[np.bool_], int, int]:
        """Which of these datagrams, [n], are queued while so much is free, and how many payload octets are and are not.

        All of a sender's or none, but for what is beyond the free octets.  The end of a connection always fits, for it
        comes after a message of its connection that did, unless `free_octets` is negative: the queue is closed.
        """
        fits = np.empty(len(batch), np.bool_)
        with np.errstate(over="ignore"):  # hashes wrap on purpose; only uncompiled kernels would tell
            columns = (batch.address, batch.length, batch.connection)
            queued, refused = admit(*columns, free_octets, self._held, self._wanted, self._factors, fits)
        return fits, int(queued), int(refused)

    def leave(self, batch: Datagrams) -> None:
        """Take note of datagrams that left the queue."""
        with np.errstate(over="ignore"):
            leave(batch.address, batch.length, self._held, self._factors)


@inline
def entry_of(address, row, factors):  # type: ignore[no-untyped-def]
    """The entry of the sender of datagram `row`."""
    mixed = address[row, 0] * factors[0] + address[row, 1] * factors[1]
    mixed ^= mixed >> np.uint64(29)
    return np.int64((mixed * factors[1]) >> _SHIFT)


@kernel
def admit(address, length, connection, free, held, wanted, factors, fits):  # type: ignore[no-untyped-def]
    """Fill `fits` [n] and add to `held` what is queued; returns octets of payload that are queued and that are not."""
    for row in range(length.shape[0]):
        wanted[entry_of(address, row, factors)] += length[row] + ROW_OCTETS
    taken = np.int64(0)
    queued = np.int64(0)
    refused = np.int64(0)
    for row in range(length.shape[0]):
        entry = entry_of(address, row, factors)
        size = length[row] + ROW_OCTETS
        fits[row] = held[entry] + wanted[entry] <= TIMES_FREE * free and taken + size <= free
        if fits[row]:
            taken += size
            # What is wanted becomes what is held, so that the sum stays what it was for the sender's next datagram.
            wanted[entry] -= size
        if fits[row] or (length[row] == 0 and connection[row] != 0 and free >= 0):
            fits[row] = True
            held[entry] += size
            queued += length[row]
        else:
            refused += length[row]
    for row in range(length.shape[0]):
        wanted[entry_of(address, row, factors)] = 0
    return queued, refused


@kernel
def leave(address, length, held, factors):  # type: ignore[no-untyped-def]
    """Take what these datagrams held out of `held`."""
    for row in range(length.shape[0]):
        held[entry_of(address, row, factors)] -= length[row] + ROW_OCTETS
