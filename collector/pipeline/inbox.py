"""The queue between sockets and decoders: bounded in octets; full: newest dropped, first of those who send most."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from collector.pipeline.shares import Shares
from decoders.datagrams import Datagrams

ROW_OCTETS = 56
"""What one datagram costs beside its payload: the entries in the arrays of `Datagrams`."""
ENOUGH_SHARE = 2
"""One part in this of what may be taken is worth taking: what a batch costs by itself is then a tenth of the whole."""


class Inbox:
    """Batches of datagrams in order of receipt.  All calls come from the event loop's thread."""

    def __init__(self, limit_octets: int) -> None:
        self.limit_octets = limit_octets
        self.octets = 0
        self.dropped_datagrams = 0
        self.dropped_octets = 0
        self._batches: deque[Datagrams] = deque()
        self._shares = Shares()
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._enough_octets = 0
        self._closed = False

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def offer(self, batch: Datagrams) -> int:
        """Queue `batch` but for the datagrams that do not fit: of senders that hold too much already, or all if the
        queue is full or closed.  These are dropped and counted; returns how many."""
        offered, offered_octets = len(batch), int(batch.length.sum())
        batch = self._that_fits(batch)
        dropped = offered - len(batch)
        self.dropped_datagrams += dropped
        self.dropped_octets += offered_octets - int(batch.length.sum())
        if len(batch):
            self._queue(batch)
        return dropped

    def _that_fits(self, batch: Datagrams) -> Datagrams:
        free = 0 if self._closed else self.limit_octets - self.octets
        sizes = _sizes(batch)
        fits = self._shares.fits(batch.address, sizes, free)
        fits &= np.cumsum(sizes * fits) <= free
        if not self._closed:
            # The ends of connections always do: each comes after a message of its connection that did.
            fits |= (batch.length == 0) & (batch.connection != 0)
        return batch if fits.all() else batch.those(fits)

    def _queue(self, batch: Datagrams) -> None:
        self._batches.append(batch)
        self._shares.add(batch.address, _sizes(batch))
        self.octets += octets_of(batch)
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
        taken = [self._batches.popleft()]
        size = octets_of(taken[0])
        while self._batches and size + octets_of(self._batches[0]) <= limit_octets:
            size += octets_of(self._batches[0])
            taken.append(self._batches.popleft())
        self.octets -= size
        whole = taken[0] if len(taken) == 1 else concatenate(taken)
        self._shares.remove(whole.address, _sizes(whole))
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
    """Memory a batch holds."""
    return len(batch.octets) + ROW_OCTETS * len(batch)


def _sizes(batch: Datagrams) -> NDArray[np.int64]:
    """The same by datagram, without gaps between payloads."""
    return batch.length + ROW_OCTETS


def concatenate(batches: list[Datagrams]) -> Datagrams:
    """One batch of all datagrams, in order."""
    base = np.cumsum([0, *(len(batch.octets) for batch in batches[:-1])])
    return Datagrams(
        np.concatenate([batch.octets for batch in batches]),
        np.concatenate([batch.start + shift for batch, shift in zip(batches, base, strict=True)]),
        np.concatenate([batch.length for batch in batches]),
        np.concatenate([batch.address for batch in batches]),
        np.concatenate([batch.port for batch in batches]),
        np.concatenate([batch.time_received_us for batch in batches]),
        np.concatenate([batch.connection for batch in batches]),
    )
