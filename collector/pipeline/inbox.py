"""The queue between sockets and decoders: bounded in octets; full: newest dropped, first of those who send most."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from collector.pipeline.shares import ROW_OCTETS, Shares
from decoders.datagrams import Datagrams

ENOUGH_SHARE = 2
"""One part in this of what may be taken is worth taking: what a batch costs by itself is then a tenth of the whole."""
ALONE_SHARE = 16
"""One part in this of it is worth a batch of its own, where it would have to be copied to get into one with more."""


class Inbox:
    """Batches of datagrams in order of receipt.  All calls come from the event loop's thread."""

    def __init__(self, limit_octets: int) -> None:
        self.limit_octets = limit_octets
        self.octets = 0
        self.dropped_datagrams = 0
        self.dropped_octets = 0
        self._batches: deque[tuple[Datagrams, int]] = deque()
        """Each with the octets that it counts for."""
        self._shares = Shares()
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._enough_octets = 0
        self._closed = False

    def __len__(self) -> int:
        return sum(len(batch) for batch, _ in self._batches)

    def warm(self) -> None:
        """Compile what the first datagrams need, or load it compiled."""
        self._shares.warm()

    def offer(self, batch: Datagrams) -> int:
        """Queue `batch` but for the datagrams that do not fit: of senders that hold too much already, or all if the
        queue is full or closed.  These are dropped and counted; returns how many."""
        free = -1 if self._closed else self.limit_octets - self.octets
        fits, queued, refused = self._shares.admit(batch, free)
        dropped = len(fits) - int(np.count_nonzero(fits))
        if dropped:
            batch = batch.those(fits)
        self.dropped_datagrams += dropped
        self.dropped_octets += refused
        if len(batch):
            self._queue(batch, queued + ROW_OCTETS * len(batch))
        return dropped

    def _queue(self, batch: Datagrams, octets: int) -> None:
        self._batches.append((batch, octets))
        self.octets += octets
        self._arrived.set()
        if self.octets >= self._enough_octets:
            self._enough.set()

    async def take(self, limit_octets: int, gather_seconds: float = 0.0) -> Datagrams | None:
        """Wait for datagrams, then return as many as fit in `limit_octets` (one batch at least); None once closed.

        While there are few, more are waited for, up to `gather_seconds`.
        """
        while not self._batches:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        await self._gather(limit_octets // ENOUGH_SHARE, gather_seconds)
        batch, size = self._batches.popleft()
        taken = [batch]
        while self._batches and size + self._batches[0][1] <= limit_octets:
            batch, octets = self._batches[0]
            if batch.octets is not taken[-1].octets and size > limit_octets // ALONE_SHARE:
                break  # what is taken together lies in one piece of memory, and nothing has to be copied
            size += octets
            taken.append(batch)
            self._batches.popleft()
        self.octets -= size
        whole = taken[0] if len(taken) == 1 else concatenate(taken)
        self._shares.leave(whole)
        return whole

    async def _gather(self, enough_octets: int, seconds: float) -> None:
        if seconds <= 0 or self._closed or self.octets >= enough_octets:
            return
        self._enough_octets = enough_octets
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._enough.wait()

    def close(self) -> None:
        """Take nothing more; `take` gives what is left, then None."""
        self._closed = True
        self._arrived.set()
        self._enough.set()


def octets_of(batch: Datagrams) -> int:
    """What a batch counts for."""
    return int(batch.length.sum()) + ROW_OCTETS * len(batch)


def concatenate(batches: list[Datagrams]) -> Datagrams:
    """One batch of all datagrams, in order.  Payloads are copied unless all lie in one array."""
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
