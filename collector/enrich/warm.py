"""Compile the kernels of the join before they are needed."""

from __future__ import annotations

import pyarrow as pa

from collector.enrich.naming import Namer
from schemas.column import ADDRESS, ENUM, NAME, Column, Origin, Table
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS


def warm_up() -> None:
    """Name a row of nothing in each table.  Blocks: half a minute where nothing is cached."""
    namer = Namer(history_us=0, grace_us=0)
    namer.flows(_row(FLOWS))
    namer.drops(_row(DROPS))
    namer.counters(_row(COUNTERS))


def _row(table: Table) -> pa.RecordBatch:
    """One row in which everything is missing."""
    schema = table.arrow(Origin.DECODE)
    columns = [_nothing(column) for column in table.stored if column.origin is Origin.DECODE]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _nothing(column: Column) -> pa.Array:
    kind = column.arrow
    if kind == NAME:
        return pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([""], pa.string()))
    if kind == ENUM:
        return pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(column.names, pa.string()))
    if kind == ADDRESS:
        return pa.array([bytes(16)], ADDRESS)
    if column.nullable:
        return pa.array([None], kind)
    return pa.array([0], kind)
