"""Record batches in, the same with names out.  Runs on a decode worker; the snapshot is swapped under it at will."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.enrich.join import N_WORDS, Flows, Named, join, pick
from collector.enrich.kernels import require_rows, require_within
from collector.enrich.lookup_ports import name_ports
from collector.enrich.snapshot import Snapshot, empty
from decoders.blocks import BLOCKS
from schemas.column import ADDRESS, ENUM, NAME, TIME_US, Origin, Table
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS

_SIGHTINGS = pa.array(FLOWS["sighting"].names, pa.string())
_NUMPY = {NAME: np.int32, ENUM: np.int8, TIME_US: np.int64, ADDRESS: np.uint64}


def values(array: pa.Array) -> NDArray[Any]:
    """The values of a column without nulls as numpy, not copied: names and enumerations as their numbers, times as µs,
    addresses as [n, 2] words in memory order."""
    kind = _NUMPY.get(array.type)
    numbers = array.indices if pa.types.is_dictionary(array.type) else array
    dtype = np.dtype(kind if kind is not None else array.type.to_pandas_dtype())
    width = 2 if array.type == ADDRESS else 1
    data = numbers.buffers()[1]
    if data is None:
        return np.zeros((len(numbers), 2) if width == 2 else len(numbers), dtype)
    flat = np.frombuffer(data, dtype)[numbers.offset * width : (numbers.offset + len(numbers)) * width]
    return flat.reshape(-1, 2) if width == 2 else flat


class Namer:
    """Joins batches with the newest snapshot."""

    def __init__(self, history_us: int, grace_us: int) -> None:
        self.snapshot: Snapshot = empty()
        """What is joined with; assign another one at any time."""
        self.totals = np.zeros((N_WORDS, 2), np.int64)
        """Ends of flows that could be a VM's, named and not: [N_NAMED or N_UNNAMED][count, estimated octets]."""
        self.sightings = np.zeros(len(FLOWS["sighting"].names), np.int64)
        """Rows by sighting."""
        self._history_us = history_us
        self._grace_us = grace_us
        self._names: tuple[Any, Any, NDArray[np.int32]] = (None, None, np.zeros(1, np.int32))

    def flows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch of decoded `flows` with the columns that enrichment fills.

        Raises ValueError for columns that do not go together.
        """
        return self._with_names(FLOWS, batch, self.totals)

    def drops(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same for `drops`: the packets are named as those of flows are, but count as nothing."""
        return self._with_names(DROPS, batch, np.zeros_like(self.totals))

    def counters(self, batch: pa.RecordBatch, host: str = "") -> pa.RecordBatch:
        """A batch of `interface_counters` with the VM that each interface belongs to.

        `host` is the hypervisor that has them all, where that is known; else exporter and agent tell.
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
        flows = _columns(batch)
        *numbers, sightings = BLOCKS.arrays(*[((batch.num_rows,), np.int32)] * 9, ((batch.num_rows,), np.int8))
        found = Named(numbers[0], numbers[1], numbers[2], sightings)
        names = self._numbers(snapshot, _dictionary(batch))
        require_rows(table.name, batch.num_rows, *flows)
        require_within("interface names", len(names), flows.in_if_name, flows.out_if_name)
        with np.errstate(over="ignore"):  # hashes wrap on purpose; only uncompiled kernels would tell
            join(flows, snapshot.tables, names, self._history_us, self._grace_us, found, totals)
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
        """The inventory's number of each name of the stream; kept while neither changes."""
        if self._names[0] is not snapshot or self._names[1] is not names:
            known = snapshot.string_numbers
            numbers = [known.get(name, -1) for name in names.to_pylist()]
            self._names = (snapshot, names, np.array(numbers or [0], np.int32))
        return self._names[2]


def _columns(batch: pa.RecordBatch) -> Flows:
    """The columns that the join reads.

    Table `drops` has fewer: its rows come from sFlow, and a discarded packet is delivered to nobody (`local`).
    """
    present = set(batch.schema.names)
    rows = batch.num_rows
    constant = {"protocol": FLOWS["protocol"].code("sflow5"), "out_kind": FLOWS["out_kind"].code("local")}
    renamed = {"octets": "bytes", "flow_end": "flow_end" if "flow_end" in present else "time_received"}

    def column(field: str) -> NDArray[Any]:
        name = renamed.get(field, field)
        if name in present:
            return values(batch.column(name))
        kind = FLOWS[name].arrow
        dtype = _NUMPY[kind] if kind in _NUMPY else kind.to_pandas_dtype()
        return np.full((rows, 2) if kind == ADDRESS else rows, constant.get(name, 0), dtype)

    return Flows(*map(column, Flows._fields))


def _dictionary(batch: pa.RecordBatch) -> pa.Array:
    """The names that `in_if_name` and `out_if_name` refer to: decoders give all columns the same."""
    if "in_if_name" not in batch.schema.names:
        return pa.array([""], pa.string())
    return batch.column("in_if_name").dictionary


def _names_of(
    end: str, rows: NDArray[np.int32], snapshot: Snapshot, picked: list[NDArray[np.int32]]
) -> dict[str, pa.Array]:
    """The columns that name one end; `picked` are arrays for them."""
    columns = {}
    for name, numbers in zip(("vm", "project", "host"), picked, strict=True):
        pick(snapshot.names[name], rows, numbers)
        columns[f"{end}_{name}"] = _strings(numbers, snapshot)
    return columns


def _strings(numbers: NDArray[np.int32], snapshot: Snapshot) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), snapshot.strings, safe=False)


def _uuids(rows: NDArray[np.int32], snapshot: Snapshot) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), snapshot.uuids, safe=False)


def _joined(table: Table, batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    schema = table.arrow(Origin.DECODE, Origin.ENRICH)
    return pa.RecordBatch.from_arrays(
        [columns[name] if name in columns else batch.column(name) for name in schema.names], schema=schema
    )


ENRICHED = {table.name: table.arrow(Origin.ENRICH).names for table in (FLOWS, DROPS, COUNTERS)}
"""Columns that the join adds, by table."""
