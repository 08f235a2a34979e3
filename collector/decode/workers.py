"""Decode workers: each has a thread, a decoder and the streams of the senders assigned to it.

All datagrams of a sender go to the same worker, in order, whatever their port, so that its data meets its templates.  A
worker begins the next batch when all are done with the last one, so only the worker itself touches its decoder
meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from collector.decode.flow_starts import Continued
from collector.decode.settings import MOST_WORKERS
from collector.interfaces import Enricher
from collector.log import get_log
from collector.threads import Bridge
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.hashes import GOLDEN
from decoders.overrides import ExporterRule
from decoders.shared import Decoded

STAGE = "decode"
"""Name of the workers' threads, with the worker's number behind it."""

CORES_PER_WORKER = 4
"""One worker decodes what the inserts, sums and merges of four cores take: see docs/performance.md."""


T = TypeVar("T")

_log = get_log("decode")


def count_of(setting: int) -> int:
    """Return the number of workers; the setting 0 means one for every four cores."""
    return setting or max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // CORES_PER_WORKER))


def stages(count: int) -> list[str]:
    """Return the stages of the bridge that the workers need, with one thread each."""
    return [f"{STAGE}-{number}" for number in range(count)]


def worker_of(address: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Return which of `count` workers takes what these addresses send: [n, 2] halves of addresses -> [n]."""
    mixed = (address[:, 0] ^ address[:, 1]) * GOLDEN
    return (mixed >> np.uint64(32)) % np.uint64(count)


class Workers:
    """The workers, which decode and name batches at the same time."""

    def __init__(self, count: int, bridge: Bridge, enricher: Enricher, unnamed: Callable[[int], None]) -> None:
        """`unnamed` is called on the threads with rows that stay without names because of a defect of this service."""
        self._bridge = bridge
        self._enricher = enricher
        self._unnamed = unnamed
        self._stages = stages(count)
        self._rules: tuple[ExporterRule, ...] | None = None
        self._alone = asyncio.Lock()
        self.decoders: list[Decoder] = []
        """One per worker, once `prepare` was called."""
        self.continued = [Continued() for _ in self._stages]
        """One per worker."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._stages)

    def prepare(self, make: Callable[[], Decoder]) -> None:
        """Make the decoders, and compile or load what they need.  Blocks."""
        self.decoders = [make() for _ in self._stages]
        self.decoders[0].warm_up()
        self.continued[0].warm_up()
        self._enricher.warm_up()

    def replace_rules(self, rules: tuple[ExporterRule, ...]) -> None:
        """Apply the operator's rules before the next batch."""
        self._rules = rules

    async def decode(self, datagrams: Datagrams) -> list[Decoded]:
        """Decode and name a batch; return the results by worker."""
        async with self._alone:
            rules, self._rules = self._rules, None
            parts = self._parts(datagrams)
            calls = [
                self._bridge.call(self._stages[number], self._decode, number, part, rules)
                for number, part in enumerate(parts)
                if len(part) or rules is not None
            ]
            return list(await asyncio.gather(*calls))

    async def alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call `function` on the first worker's thread while all decoders are idle."""
        async with self._alone:
            return await self._bridge.call(self._stages[0], function, *arguments)

    def abandon(self) -> None:
        """At a stop, do not wait for what the first worker is doing."""
        self._bridge.abandon(self._stages[0])

    def _parts(self, datagrams: Datagrams) -> list[Datagrams]:
        """Return the datagrams of each worker; the payloads are shared, not copied."""
        if len(self._stages) == 1:
            return [datagrams]
        workers = worker_of(datagrams.address, len(self._stages))
        return [_picked(datagrams, np.flatnonzero(workers == np.uint64(number))) for number in range(len(self._stages))]

    def _decode(self, number: int, datagrams: Datagrams, rules: tuple[ExporterRule, ...] | None) -> Decoded:
        """Decode and name.  A defect in naming costs the names of one batch, never its rows."""
        decoder = self.decoders[number]
        if rules is not None:
            decoder.rules = rules
        decoded = decoder.decode(datagrams)
        decoded = replace(decoded, flows=[self.continued[number].follow(batch) for batch in decoded.flows])
        try:
            return self._enricher.name(decoded, number)
        except Exception as error:  # noqa: BLE001 - whatever it is, the rows go on
            self._unnamed(sum(batch.num_rows for batch in decoded.flows))
            _log.sampled("rows stay without names: a defect of ours", key=type(error).__name__, error=repr(error)[:500])
            return replace(decoded, inventory=[])


def _picked(datagrams: Datagrams, numbers: NDArray[np.int64]) -> Datagrams:
    """Return these datagrams with the payloads of all: only the other arrays are copied."""
    return Datagrams(
        datagrams.octets,
        datagrams.start[numbers],
        datagrams.length[numbers],
        datagrams.address[numbers],
        datagrams.port[numbers],
        datagrams.time_received_us[numbers],
        datagrams.connection[numbers],
    )
