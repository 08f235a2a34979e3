"""When records began: a later record of a flow begins where its previous one ended.

Open vSwitch's NetFlow v5 keeps a flow's first time for as long as the flow lives, while its counts are those since the
last record (see its ofproto/netflow.c), as do other exporters with an active timeout.  Spread over all that time, a
steady flow would seem to rise, in windows that closed long ago.  So the last record of each long flow is remembered, in
a table of fixed size: an evicted flow costs only a wider interval, since its next record states how far back it
reaches.

The same loop notes how long records take from their begin to their receipt: windows must not close earlier.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders.hashes import mix
from decoders.jit import inline_always, kernel
from schemas.column import ADDRESS, ENUM, TIME_US
from schemas.flows import FLOWS

SECOND_US = 1_000_000

LEAST_US = SECOND_US
"""Shorter records are not remembered: losing a flow's begin displaces at most this much of it."""

WAYS = 8
SLOTS = 1 << 18
"""Flows that a worker remembers, in sets of `WAYS`: 8 MiB.  100,000 long flows leave most sets half empty."""

ROUNDED_US = 1_100_000
JITTER_US = 100_000
"""How far apart two records may state the same begin: NetFlow v9 counts from a time in whole seconds, others from one
in milliseconds."""

REACH_SECONDS = (0, 2, 5, 12, 22, 35, 65)
"""How long before their receipt records begin, in steps: for caches of 1, 10, 20, 30 and 60 s.  What takes longer is
late: otherwise windows would close minutes after their end."""

LATE_SHARE = 0.01
"""The share of the packets that may lie in records that reach further back."""

FADE = 0.97
"""The weight that the packets of a second keep after another second: half of it is left after 23 s."""

CONTINUED, EVICTED, N_COUNTS = range(3)

_SFLOW5, _NETFLOW5, _NETFLOW9 = (FLOWS["protocol"].code(name) for name in ("sflow5", "netflow5", "netflow9"))

U = np.uint64


class Columns(NamedTuple):
    """What the loop reads, [n]; addresses [2 n] words."""

    protocol: NDArray[np.int8]
    time_received: NDArray[np.int64]
    flow_start: NDArray[np.int64]
    flow_end: NDArray[np.int64]
    packets: NDArray[np.uint64]
    exporter: NDArray[np.uint64]
    domain: NDArray[np.uint32]
    src_ip: NDArray[np.uint64]
    dst_ip: NDArray[np.uint64]
    src_mac: NDArray[np.uint64]
    dst_mac: NDArray[np.uint64]
    src_port: NDArray[np.uint16]
    dst_port: NDArray[np.uint16]
    in_if: NDArray[np.uint32]
    out_if: NDArray[np.uint32]
    vni: NDArray[np.uint32]
    vlan: NDArray[np.uint16]
    ip_protocol: NDArray[np.uint8]
    tos: NDArray[np.uint8]
    direction: NDArray[np.int8]


class Memory(NamedTuple):
    """Flows by hash, [SLOTS]; 0 is a free place.  All times are µs since 1970."""

    flow: NDArray[np.uint64]
    stated: NDArray[np.int64]
    """When the flow began, as its records say."""
    began: NDArray[np.int64]
    """When its last record began."""
    ended: NDArray[np.int64]


@inline_always
def flow_hash(rows, i, seed):
    """Return the hash that identifies a flow at an observation point; never 0."""
    high, low = U(2) * U(i), U(2) * U(i) + U(1)
    h = mix(mix(seed, rows.exporter[high]), rows.exporter[low])
    h = mix(mix(h, rows.src_ip[high]), rows.src_ip[low])
    h = mix(mix(h, rows.dst_ip[high]), rows.dst_ip[low])
    h = mix(mix(h, rows.src_mac[i]), rows.dst_mac[i])
    h = mix(h, U(rows.src_port[i]) << U(48) | U(rows.dst_port[i]) << U(32) | U(rows.domain[i]))
    # NetFlow v5 of Open vSwitch continues a flow whose output has changed.
    out = U(0) if rows.protocol[i] == _NETFLOW5 else U(rows.out_if[i])
    h = mix(h, U(rows.in_if[i]) << U(32) | out)
    h = mix(h, U(rows.vni[i]) << U(32) | U(rows.vlan[i]) << U(16) | U(rows.tos[i]) << U(8) | U(rows.ip_protocol[i]))
    return mix(h, U(rows.direction[i]) << U(8) | U(rows.protocol[i])) | U(1)


@kernel
def follow(rows, memory, seed, since, begins, reach, weights, counts):
    """Write to `begins` [n] when each record began, add packets to `weights` by how far they reach back, and count.

    Nothing before `since` needs to be waited for: the service did not listen then.
    """
    sets = U(memory.flow.shape[0] // WAYS - 1)
    for i in range(rows.time_received.shape[0]):
        if rows.protocol[i] == _SFLOW5:
            continue
        start, end = rows.flow_start[i], rows.flow_end[i]
        if end - start >= LEAST_US:
            flow = flow_hash(rows, i, seed)
            first = int(np.int64(((flow >> U(20)) & sets) * U(WAYS)))
            place, oldest = -1, first
            for way in range(first, first + WAYS):
                if memory.flow[way] == flow:
                    place = way
                    break
                if memory.ended[way] < memory.ended[oldest]:
                    oldest = way
            if place < 0:
                if memory.flow[oldest] != U(0):
                    counts[EVICTED] += 1
                place = oldest
                memory.flow[place], memory.stated[place] = flow, start
            else:
                last, near = memory.ended[place], ROUNDED_US if rows.protocol[i] == _NETFLOW9 else JITTER_US
                if abs(start - memory.stated[place]) <= near and start + near < last <= end:
                    # The same end: counts too large for one record come in several.
                    start = last if last < end else memory.began[place]
                    begins[i] = start
                    counts[CONTINUED] += 1
                elif end < last:
                    place = -1  # a late one
                else:
                    memory.stated[place] = start
            if place >= 0:
                memory.began[place], memory.ended[place] = start, end
        step, back = 0, rows.time_received[i] - max(start, since)
        while step < reach.shape[0] and back > reach[step]:
            step += 1
        weights[step] += rows.packets[i]


class Continued:
    """The memory of one decode worker.  Not safe for threads: one call at a time; the loop releases the GIL."""

    def __init__(self, slots: int = SLOTS, seed: int | None = None) -> None:
        """Remember up to `slots` flows, a power of two.  Without a `seed`, hashes are random, since senders choose what
        is hashed."""
        self._memory = Memory(np.zeros(slots, np.uint64), *(np.zeros(slots, np.int64) for _ in range(3)))
        self._seed = U(secrets.randbits(64) if seed is None else seed)
        self._reach = np.array(REACH_SECONDS, np.int64) * SECOND_US
        self._weights = np.zeros(len(REACH_SECONDS) + 1)
        self.since_us = 0
        """When the service began to listen."""
        self.counts = np.zeros(N_COUNTS, np.int64)
        """Running totals: records that continue a flow; flows evicted for others."""

    def follow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the decoded rows of `flows` with each record's own begin."""
        if not batch.num_rows:
            return batch
        before = int(self.counts[CONTINUED])
        rows = Columns(*(_values(batch.column(name)) for name in Columns._fields))
        begins = rows.flow_start.copy()
        self._follow(rows, begins)
        if self.counts[CONTINUED] == before:
            return batch
        place = batch.schema.get_field_index("flow_start")
        return batch.set_column(place, batch.schema.field(place), pa.array(begins).cast(TIME_US))

    def reach_us(self) -> int:
        """Return how long before their receipt all but few records begin: the time to wait for."""
        beyond = np.cumsum(self._weights[::-1])[::-1]
        if not beyond[0]:
            return 0
        steps = np.flatnonzero(beyond[1:] <= LATE_SHARE * beyond[0])
        return int(self._reach[steps[0]] if len(steps) else self._reach[-1])

    def fade(self) -> None:
        """Note that a second has passed."""
        self._weights *= FADE

    def warm_up(self) -> None:
        """Compile the loop, or load it from the cache."""
        rows = Columns(*(np.zeros(0, _dtype(FLOWS[name].arrow)) for name in Columns._fields))
        for column in rows:
            column.flags.writeable = False
        self._follow(rows, np.zeros(0, np.int64))

    def _follow(self, rows: Columns, begins: NDArray[np.int64]) -> None:
        since = np.int64(self.since_us)
        follow(rows, self._memory, self._seed, since, begins, self._reach, self._weights, self.counts)


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    known = {ENUM: np.int8, TIME_US: np.int64, ADDRESS: np.uint64}
    return np.dtype(known[kind] if kind in known else kind.to_pandas_dtype())


def _values(array: pa.Array) -> NDArray[Any]:
    """Return the numbers of a column without nulls, not copied; two words per address."""
    numbers = array.indices if pa.types.is_dictionary(array.type) else array
    dtype, width = _dtype(array.type), 2 if array.type == ADDRESS else 1
    first = numbers.offset * width * dtype.itemsize
    values = np.frombuffer(numbers.buffers()[1], dtype, len(array) * width, first)
    values.flags.writeable = False
    return values
