"""sFlow version 5: datagrams in, rows of `flows`, `interface_counters`, `drops` and `inventory` out.

Strategy: a first kernel counts the samples of each datagram, so that rows are made in the right number; datagrams are
then decoded in slices that stay within the limits, each by one call of `walk`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders import rows as columns
from decoders.datagrams import Datagrams
from decoders.decoder import PROBLEM_FIELDS, Decoded, Shared
from decoders.drop_reasons import DROP_REASONS, name_indices
from decoders.names import intern
from decoders.rows import layout, new_rows
from decoders.sflow_hosts import HostReader
from decoders.sflow_records import COUNTER_RECORDS, RECORDS
from decoders.sflow_samples import EXTRAS, X_CLASS, X_FUNCTION, X_INDEX, X_LINUX, X_SUPPRESSED, X_TRAP
from decoders.sflow_state import LOG_COUNT, forget_sources, new_sources
from decoders.sflow_walk import (
    COUNTS,
    HOST_WORDS,
    N_COUNTERS,
    N_DROPS,
    N_FLOWS,
    N_HOSTS,
    Work,
    count_samples,
    walk,
)
from schemas.column import Origin
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS

HOSTS_PER_SLICE = 4_096
"""Counter samples with host structures read in one slice."""


class SflowDecoder:
    """Decodes sFlow datagrams; keeps the last numbers of each data source."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._sources = new_sources(shared.limits)
        self._hosts = HostReader(shared.limits.sessions, shared.sessions)
        self._found = np.zeros((max(RECORDS, COUNTER_RECORDS), 2), np.int64)
        self._text = np.zeros(2 * shared.limits.name_octets + 1, np.uint8)
        self._reasons = name_indices({name: self._intern(name) for name in sorted(set(DROP_REASONS.values()))})

    @property
    def sources_displaced(self) -> int:
        """Data sources whose state gave way to others: above 0, `Limits.sources` is too small."""
        return int(self._sources.clock[1])

    def decode(self, batch: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64]) -> Decoded:
        """Decode the datagrams `picked` of `batch` in this order; `session` [len(batch)] numbers their streams.

        The datagrams are at least as long as their headers (`decoders.decoder.assign` sees to that).
        """
        decoded = Decoded()
        bounds = np.zeros((len(picked), 3), np.int64)
        count_samples(batch.octets, batch.start, batch.length, picked, bounds)
        room = self._shared.limits.problems_per_batch
        for part in self._slices(bounds):
            room -= self._decode(batch, picked[part], session, bounds[part].sum(axis=0), decoded, room)
        return decoded

    def forget(self, numbers: NDArray[np.int64]) -> None:
        """Drop what is kept of these sessions: their numbers will stand for others."""
        forget_sources(self._sources, numbers)

    def _slices(self, bounds: NDArray[np.int64]) -> Iterator[slice]:
        """Runs of datagrams whose rows stay within the limit, each of at least one datagram."""
        ends = np.cumsum(bounds.sum(axis=1))
        first = 0
        before = 0
        while first < len(ends):
            limit = before + self._shared.limits.rows_per_batch
            last = max(int(np.searchsorted(ends, limit, side="right")), first + 1)
            yield slice(first, last)
            before = int(ends[last - 1])
            first = last

    def _decode(
        self,
        batch: Datagrams,
        picked: NDArray[np.int64],
        session: NDArray[np.int64],
        bound: NDArray[np.int64],
        decoded: Decoded,
        room: int,
    ) -> int:
        """Decode one slice into `decoded`; `room`: problems that may be listed.  Returns how many were."""
        shared = self._shared
        work = Work(
            flows=new_rows(FLOWS, int(bound[N_FLOWS]) + 1),
            drops=new_rows(FLOWS, int(bound[N_DROPS]) + 1),
            counters=new_rows(COUNTERS, int(bound[N_COUNTERS]) + 1),
            extra=np.zeros((EXTRAS, int(bound[N_DROPS]) + 1), np.int64),
            hosts=np.zeros((min(int(bound[N_COUNTERS]), HOSTS_PER_SLICE), HOST_WORDS), np.int64),
            counts=np.zeros(COUNTS, np.int64),
            log=np.zeros((1 + max(room, 0), PROBLEM_FIELDS), np.int64),
            found=self._found,
            text=self._text,
            sessions=shared.sessions,
            sources=self._sources,
            names=shared.names,
        )
        with np.errstate(over="ignore"):  # hashes wrap on purpose; only uncompiled kernels would tell
            walk(
                batch.octets,
                batch.start,
                batch.length,
                batch.address,
                batch.time_received_us,
                picked,
                session,
                shared.limits.sflow_records_per_sample,
                work,
            )
        self._finish(work, batch, session, decoded)
        return int(work.log[0, LOG_COUNT])

    def _finish(self, work: Work, batch: Datagrams, session: NDArray[np.int64], decoded: Decoded) -> None:
        """Rows to Arrow."""
        counts = work.counts
        names = self._shared.name_list.array()
        if counts[N_FLOWS]:
            decoded.flows.append(columns.batch(FLOWS, work.flows, int(counts[N_FLOWS]), names))
        if counts[N_COUNTERS]:
            decoded.counters.append(columns.batch(COUNTERS, work.counters, int(counts[N_COUNTERS]), names))
        if counts[N_DROPS]:
            decoded.drops.append(self._drops(work, int(counts[N_DROPS]), names))
        if counts[N_HOSTS]:
            inventory = self._hosts.read(batch, session, work.hosts[: counts[N_HOSTS]])
            if inventory is not None:
                decoded.inventory.append(inventory)
        if work.log[0, LOG_COUNT]:
            decoded.problems.append(work.log[1 : 1 + work.log[0, LOG_COUNT]].copy())

    def _drops(self, work: Work, count: int, names: pa.Array) -> pa.RecordBatch:
        """Notices: packet columns from their rows laid out as `flows`, the others from `extra`."""
        rows = new_rows(DROPS, count)
        flow_places = layout(FLOWS)
        extra = work.extra[:, :count]
        group, index = flow_places["drop_reason"]
        codes = np.minimum(work.drops[group][index, :count], len(self._reasons) - 1)
        others = {
            "reason_name": self._reasons[codes],
            "source_class": extra[X_CLASS],
            "source_index": extra[X_INDEX],
            "suppressed": extra[X_SUPPRESSED],
            "function": extra[X_FUNCTION],
            "trap": extra[X_TRAP],
            "linux_reason": extra[X_LINUX],
        }
        for column in DROPS.stored:
            if column.origin is not Origin.DECODE:
                continue
            group, index = layout(DROPS)[column.name]
            if column.name in others:
                rows[group][index] = others[column.name]
            else:
                from_group, from_index = flow_places[column.name]
                rows[group][index] = work.drops[from_group][from_index, :count]
        return columns.batch(DROPS, rows, count, names)

    def _intern(self, name: str) -> int:
        octets = np.frombuffer(bytearray(name.encode()), np.uint8)
        with np.errstate(over="ignore"):
            return int(intern(self._shared.names, octets, 0, len(octets)))
