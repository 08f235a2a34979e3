"""The queue between sockets and decoders: bounded in bytes.  When it is full, the newest are dropped, first those of
the senders that send most."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from decoders.datagrams import Datagrams
from decoders.jit import inline, kernel

ENTRIES = 4096
TIMES_FREE = 8
"""A single sender that floods leaves a ninth of the queue to others."""
ROW_BYTES = 56
"""What one datagram costs besides its payload: the entries in the arrays of `Datagrams`."""

_SHIFT = np.uint64(64 - (ENTRIES - 1).bit_length())


class Shares:
    """The bytes of a queue that each sender holds: one that floods must not crowd out the others.

    A sender may hold at most `TIMES_FREE` times what is still free (Choudhury and Hahne 1998: dynamic thresholds).  So
    a single one gets nearly all of the queue, several that flood get equal parts, and one that sends little always
    finds room.  Senders are distinguished by a hash: two may share an entry, and forged addresses fill all entries
    alike.
    """

    def __init__(self) -> None:
        self._held = np.zeros(ENTRIES, np.int64)
        self._wanted = np.zeros(ENTRIES, np.int64)
        """All 0 between two calls."""
        # Odd, and secret, so that no one can choose addresses that share the entry of another sender.
        self._factors = np.array([secrets.randbits(64) | 1 for _ in range(2)], np.uint64)

    def warm(self) -> None:
        """Compile the kernels, or load them compiled."""
        nothing = Datagrams.of(())
        self.admit(nothing, 0)
        self.leave(nothing)

    def admit(self, batch: Datagrams, free_bytes: int) -> tuple[NDArray[np.bool_], int]:
        """Return which of these datagrams, [n], are queued with this much free, and their octets of payload.

        All of a sender's or none, except what exceeds the free octets.  The end of a connection always fits, since it
        comes after a message of its connection that did, unless `free_bytes` is negative: the queue is closed.
        """
        fits = np.empty(len(batch), np.bool_)
        columns = (batch.address, batch.length, batch.connection)
        queued = admit(*columns, free_bytes, self._held, self._wanted, self._factors, fits)
        return fits, int(queued)

    def leave(self, batch: Datagrams) -> None:
        """Note the datagrams that left the queue."""
        leave(batch.address, batch.length, self._held, self._factors)


@inline
def entry_of(address, row, factors):
    """Return the entry of the sender of datagram `row`."""
    mixed = address[row, 0] * factors[0] + address[row, 1] * factors[1]
    mixed ^= mixed >> np.uint64(29)
    return np.int64((mixed * factors[1]) >> _SHIFT)


@kernel
def admit(address, length, connection, free, held, wanted, factors, fits):
    """Fill `fits` [n] and add to `held` what is queued; returns octets of payload that are queued."""
    for row in range(length.shape[0]):
        wanted[entry_of(address, row, factors)] += length[row] + ROW_BYTES
    taken = np.int64(0)
    queued = np.int64(0)
    for row in range(length.shape[0]):
        entry = entry_of(address, row, factors)
        size = length[row] + ROW_BYTES
        fits[row] = held[entry] + wanted[entry] <= TIMES_FREE * free and taken + size <= free
        if fits[row]:
            taken += size
            # What is wanted becomes what is held, so that the sum stays what it was for the sender's next datagram.
            wanted[entry] -= size
        if fits[row] or (length[row] == 0 and connection[row] != 0 and free >= 0):
            fits[row] = True
            held[entry] += size
            queued += length[row]
    for row in range(length.shape[0]):
        wanted[entry_of(address, row, factors)] = 0
    return queued


@kernel
def leave(address, length, held, factors):
    """Take what these datagrams held out of `held`."""
    for row in range(length.shape[0]):
        held[entry_of(address, row, factors)] -= length[row] + ROW_BYTES


ENOUGH_SHARE = 2
"""One part in this of what may be taken is worth taking: the fixed cost of a batch is then a tenth of the whole."""
ALONE_SHARE = 16
"""One part in this of it is worth a batch of its own, where joining it with more would need a copy."""


class Inbox:
    """The queue of batches of datagrams in order of receipt.  All calls come from the event loop's thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.octets = 0
        self.dropped_datagrams = 0
        self._batches: deque[tuple[Datagrams, int]] = deque()
        """Each with the octets that it counts for."""
        self._shares = Shares()
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._enough_bytes = 0
        self._closed = False

    @property
    def oldest_us(self) -> int:
        """When the first of the queued datagrams was received, µs since 1970; 0 if there are none."""
        return int(self._batches[0][0].time_received_us[0]) if self._batches else 0

    def __len__(self) -> int:
        return sum(len(batch) for batch, _ in self._batches)

    def warm(self) -> None:
        """Compile what the first datagrams need, or load it compiled."""
        self._shares.warm()

    def offer(self, batch: Datagrams) -> int:
        """Queue `batch` except the datagrams that do not fit: those of senders that hold too much already, or all if
        the queue is full or closed.  These are dropped and counted; return how many."""
        free = -1 if self._closed else self.limit_bytes - self.octets
        fits, queued = self._shares.admit(batch, free)
        dropped = len(fits) - int(np.count_nonzero(fits))
        if dropped:
            batch = batch.those(fits)
        self.dropped_datagrams += dropped
        if len(batch):
            self._queue(batch, queued + ROW_BYTES * len(batch))
        return dropped

    def _queue(self, batch: Datagrams, octets: int) -> None:
        self._batches.append((batch, octets))
        self.octets += octets
        self._arrived.set()
        if self.octets >= self._enough_bytes:
            self._enough.set()

    async def take(self, limit_bytes: int, gather_seconds: float = 0.0) -> Datagrams | None:
        """Wait for datagrams, then return as many as fit in `limit_bytes` (one batch at least); None once closed.

        While there are few, more are waited for, up to `gather_seconds`.
        """
        while not self._batches:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        await self._gather(limit_bytes // ENOUGH_SHARE, gather_seconds)
        batch, size = self._batches.popleft()
        taken = [batch]
        while self._batches and size + self._batches[0][1] <= limit_bytes:
            batch, octets = self._batches[0]
            if batch.octets is not taken[-1].octets and size > limit_bytes // ALONE_SHARE:
                break  # a batch is in one piece of memory, so that nothing is copied
            size += octets
            taken.append(batch)
            self._batches.popleft()
        self.octets -= size
        whole = taken[0] if len(taken) == 1 else concatenate(taken)
        self._shares.leave(whole)
        return whole

    async def _gather(self, enough_bytes: int, seconds: float) -> None:
        if seconds <= 0 or self._closed or self.octets >= enough_bytes:
            return
        self._enough_bytes = enough_bytes
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._enough.wait()

    def close(self) -> None:
        """Accept nothing more; `take` returns what is left, then None."""
        self._closed = True
        self._arrived.set()
        self._enough.set()


def concatenate(batches: list[Datagrams]) -> Datagrams:
    """Return one batch of all datagrams, in order.  Payloads are copied unless all lie in one array."""
    pieces: list[NDArray[np.uint8]] = []
    starts: list[NDArray[np.int64]] = []
    filled = 0
    for _, group in groupby(batches, key=lambda batch: id(batch.octets)):
        together = list(group)
        start = np.concatenate([batch.start for batch in together])
        length = np.concatenate([batch.length for batch in together])
        first, end = int(start.min()), int((start + length).max())
        pieces.append(together[0].octets[first:end])
        starts.append(start + (filled - first))
        filled += end - first
    return Datagrams(
        pieces[0] if len(pieces) == 1 else np.concatenate(pieces),
        starts[0] if len(starts) == 1 else np.concatenate(starts),
        np.concatenate([batch.length for batch in batches]),
        np.concatenate([batch.address for batch in batches]),
        np.concatenate([batch.port for batch in batches]),
        np.concatenate([batch.time_received_us for batch in batches]),
        np.concatenate([batch.connection for batch in batches]),
    )
