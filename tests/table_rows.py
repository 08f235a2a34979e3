"""Made-up rows of any table: every column holds values that tell a mistake in its layout."""

from __future__ import annotations

import random
import time
from typing import Any

import pyarrow as pa

from schemas.column import ADDRESS, ENUM, NAME, NAMED_UUID, TIME_US, Column, Table

HOUR_US = 3_600_000_000
NOW_US = time.time_ns() // 1000
"""Not a fixed time: old rows expire."""


def value(column: Column, rng: random.Random) -> Any:
    """One random value of a column."""
    kind = column.arrow
    if column.nullable and rng.random() < 0.3:
        return None
    if kind == ENUM:
        return rng.choice(column.names)
    if kind == NAME:
        return rng.choice(["", "vm-1", "Größe", "a" * 200, f"vm-{rng.randrange(500)}"])
    if kind == TIME_US:
        return NOW_US - 2 * HOUR_US + rng.randrange(HOUR_US)  # its windows have closed
    if kind in (ADDRESS, NAMED_UUID):  # UUIDs, too
        return rng.randbytes(16)
    if pa.types.is_list(kind):
        return [rng.randbytes(16) for _ in range(rng.randrange(4))]
    if pa.types.is_map(kind):
        return [(f"reason_{key}", rng.randrange(2**40)) for key in range(rng.randrange(4))]
    if pa.types.is_signed_integer(kind):
        return rng.randrange(-(2**40), 2**40)
    if pa.types.is_floating(kind):
        return rng.randrange(2**20) / 8
    if pa.types.is_string(kind):
        return "".join(rng.choices("aé名\n'", k=rng.randrange(20)))
    return rng.randrange(2 ** (kind.bit_width - (column.name in ("src_mac", "dst_mac", "mac")) * 16))


def batch(table: Table, rows: int, seed: int = 1, **fixed: Any) -> pa.RecordBatch:
    """`rows` rows of `table`; `fixed` columns hold one value."""
    rng = random.Random(seed)
    arrays = []
    for column in table.stored:
        values = [fixed[column.name] if column.name in fixed else value(column, rng) for _ in range(rows)]
        if column.arrow == ENUM:
            codes = pa.array([column.code(name) for name in values], pa.int8())
            arrays.append(pa.DictionaryArray.from_arrays(codes, pa.array(column.names, pa.string())))
        elif column.arrow == NAME:
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        elif column.arrow == NAMED_UUID:
            arrays.append(pa.array(values, ADDRESS).dictionary_encode())
        else:
            arrays.append(pa.array(values, column.arrow))
    return pa.RecordBatch.from_arrays(arrays, schema=table.arrow())
