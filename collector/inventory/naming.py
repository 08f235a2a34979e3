"""Add names to record batches.  Runs on a decode worker; the snapshot may be replaced at any time."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.inventory.ends import name_ends
from collector.inventory.join import N_WORDS, Flows, Named, join, name_ports, pick
from collector.inventory.snapshot import Snapshot, empty, require_rows, require_within
from decoders.memory import BLOCKS
from schemas.column import ADDRESS, ENUM, NAME, TIME_US, Origin, Table
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS
from schemas.probes import PROBES

_SIGHTINGS = pa.array(FLOWS["sighting"].names, pa.string())
_NUMPY = {NAME: np.int32, ENUM: np.int8, TIME_US: np.int64, ADDRESS: np.uint64}


def values(array: pa.Array) -> NDArray[Any]:
    """Return the values of a column without nulls as numpy, not copied: names and enumerations as their numbers, times
    as µs, addresses as [n, 2] words in memory order."""
    return _view(array, _dtype(array.type), 2 if array.type == ADDRESS else 1)


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    return np.dtype(_NUMPY[kind] if kind in _NUMPY else kind.to_pandas_dtype())


def _view(array: pa.Array, dtype: np.dtype[Any], width: int) -> NDArray[Any]:
    """Return the numbers of a column, also those of a dictionary's entries, as [n] or [n, width]."""
    data = array.buffers()[1]
    if data is None:
        return np.zeros((len(array), width) if width > 1 else len(array), dtype)
    flat = np.frombuffer(data, dtype)[array.offset * width : (array.offset + len(array)) * width]
    return flat.reshape(-1, width) if width > 1 else flat


class Namer:
    """The join of batches with the newest snapshot."""

    def __init__(self, history_us: int, grace_us: int, *, by_port: bool = True) -> None:
        """`by_port`: traffic with an unknown MAC address at a VM's port gets that VM's name."""
        self.snapshot: Snapshot = empty()
        """The snapshot to join with; it can be replaced at any time."""
        self.totals = np.zeros((N_WORDS, 2), np.int64)
        """Ends of flows, [count, estimated octets] each: N_NAMED and N_UNNAMED could be a VM's, and N_FOREIGN."""
        self.sightings = np.zeros(len(FLOWS["sighting"].names), np.int64)
        """Rows by sighting."""
        self._history_us = history_us
        self._grace_us = grace_us
        self._by_port = by_port
        self._known_names: tuple[Snapshot, pa.Array, NDArray[np.int32]] | None = None

    def flows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch of decoded `flows` with the columns that naming fills.

        Raises ValueError for columns that do not fit together.
        """
        return self._with_names(FLOWS, batch, self.totals)

    def drops(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Do the same for `drops`: the packets are named like those of flows, but are not counted."""
        return self._with_names(DROPS, batch, np.zeros_like(self.totals))

    def counters(self, batch: pa.RecordBatch, host: str = "") -> pa.RecordBatch:
        """Return a batch of `interface_counters` with the VM that each interface belongs to.

        `host` is the hypervisor that has them all, where it is known; else it follows from exporter and agent.
        """
        snapshot = self.snapshot
        names = self._numbers(snapshot, batch.column("if_name").dictionary)
        rows = name_ports(batch, values, snapshot.tables, names, self._grace_us, snapshot.hosts.get(host, 0))
        columns = {
            **{name: _strings(snapshot.names[name].take(rows), snapshot) for name in snapshot.names},
            "vm_uuid": _uuids(rows, snapshot),
            "mac": pa.array(snapshot.mac.take(rows), pa.uint64()),
        }
        return _joined(COUNTERS, batch, columns)

    def _with_names(self, table: Table, batch: pa.RecordBatch, totals: NDArray[np.int64]) -> pa.RecordBatch:
        if not batch.num_rows:
            return batch
        snapshot = self.snapshot
        flows = _columns(table, batch)
        *numbers, sightings = BLOCKS.arrays(*[((batch.num_rows,), np.int32)] * 9, ((batch.num_rows,), np.int8))
        found = Named(numbers[0], numbers[1], numbers[2], sightings)
        # Other tables have no interface names: all are "", which has number 0 in every inventory.
        stated = table is FLOWS
        names = self._numbers(snapshot, batch.column("in_if_name").dictionary) if stated else np.zeros(1, np.int32)
        require_rows(table.name, batch.num_rows, *flows)
        require_within("interface names", len(names), flows.in_if_name, flows.out_if_name)
        join(flows, snapshot.tables, names, self._history_us, self._grace_us, self._by_port, found, totals)
        if table is FLOWS:
            self.sightings += np.bincount(found.sighting, minlength=len(self.sightings))
        columns = {
            **_names_of("src", found.source, snapshot, numbers[3:6]),
            **_names_of("dst", found.destination, snapshot, numbers[6:9]),
            "network": _strings(found.network, snapshot),
            "src_vm_uuid": _uuids(found.source, snapshot),
            "dst_vm_uuid": _uuids(found.destination, snapshot),
            "sighting": pa.DictionaryArray.from_arrays(pa.array(found.sighting, pa.int8()), _SIGHTINGS, safe=False),
        }
        return _joined(table, batch, columns)

    def _numbers(self, snapshot: Snapshot, names: pa.Array) -> NDArray[np.int32]:
        """Return the inventory's number of each name in the stream; kept while neither changes."""
        kept = self._known_names
        if kept is None or kept[0] is not snapshot or not _same_memory(kept[1], names):
            known = snapshot.string_numbers
            numbers = [known.get(name, -1) for name in names.to_pylist()]
            kept = self._known_names = (snapshot, names, np.array(numbers or [0], np.int32))
        return kept[2]


def _same_memory(one: pa.Array, other: pa.Array) -> bool:
    """Return whether two arrays are views of the same values.  Arrow makes a new object at each access."""
    return (len(one), one.offset, _places(one)) == (len(other), other.offset, _places(other))


def _places(array: pa.Array) -> list[tuple[int, int] | None]:
    """Return address and octets of each buffer.  The caller must hold both arrays, or the memory may already be
    reused."""
    return [None if buffer is None else (buffer.address, buffer.size) for buffer in array.buffers()]


class _Source(NamedTuple):
    """Where the join finds one of its columns."""

    position: int
    """Position of the column in the batch; −1: the table lacks it, and all rows have the same value."""
    dtype: np.dtype[Any]
    width: int
    constant: int


@cache
def _sources(table: Table) -> tuple[_Source, ...]:
    """Return the columns that the join reads, in the order of `Flows`.  Computed once: Python per batch is costly.

    Table `drops` has fewer: its rows come from sFlow, and a discarded packet is delivered nowhere (`local`).
    """
    present = table.arrow(Origin.DECODE).names
    constant = {"protocol": FLOWS["protocol"].code("sflow5"), "out_kind": FLOWS["out_kind"].code("local")}
    renamed = {"octets": "bytes", "flow_end": "flow_end" if "flow_end" in present else "time_received"}
    sources = []
    for field in Flows._fields:
        name = renamed.get(field, field)
        position = present.index(name) if name in present else -1
        kind = FLOWS[name].arrow
        sources.append(_Source(position, _dtype(kind), 2 if kind == ADDRESS else 1, constant.get(name, 0)))
    return tuple(sources)


def _columns(table: Table, batch: pa.RecordBatch) -> Flows:
    """Return the columns that the join reads of a batch that has the decoded columns of `table`."""
    rows = batch.num_rows
    return Flows(
        *(
            _view(batch.column(position), dtype, width)
            if position >= 0
            else np.full((rows, width) if width > 1 else rows, constant, dtype)
            for position, dtype, width, constant in _sources(table)
        )
    )


def _names_of(
    end: str, rows: NDArray[np.int32], snapshot: Snapshot, picked: list[NDArray[np.int32]]
) -> dict[str, pa.Array]:
    """Return the columns that name one end; `picked` are arrays for them."""
    columns = {}
    for name, numbers in zip(("vm", "project", "host"), picked, strict=True):
        pick(snapshot.names[name], rows, numbers)
        columns[f"{end}_{name}"] = _strings(numbers, snapshot)
    return columns


def _strings(numbers: NDArray[np.int32], snapshot: Snapshot) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), snapshot.strings, safe=False)


def _uuids(rows: NDArray[np.int32], snapshot: Snapshot) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), snapshot.uuids, safe=False)


@cache
def _order(table: Table) -> tuple[tuple[str, int], ...]:
    """Return the columns of a named batch: name, and position in the decoded one, −1 for those that naming adds."""
    decoded = table.arrow(Origin.DECODE).names
    names = table.arrow(Origin.DECODE, Origin.ENRICH).names
    return tuple((name, decoded.index(name) if name in decoded else -1) for name in names)


def _joined(table: Table, batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [columns[name] if name in columns else batch.column(position) for name, position in _order(table)],
        schema=table.arrow(Origin.DECODE, Origin.ENRICH),
    )


def warm_up() -> None:
    """Compile the kernels of naming before they are needed: name a row of nothing in each table.

    Blocks: half a minute where nothing is cached.
    """
    namer = Namer(history_us=0, grace_us=0)
    namer.flows(FLOWS.empty_row(Origin.DECODE))
    namer.drops(DROPS.empty_row(Origin.DECODE))
    namer.counters(COUNTERS.empty_row(Origin.DECODE))
    name_ends(PROBES.empty_row(Origin.DECODE), namer.snapshot, 0)
