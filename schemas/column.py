"""Column and Table: the one description from which Arrow schemas, DDL, insert order and docs are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from hashlib import sha256
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

UINT8 = pa.uint8()
UINT16 = pa.uint16()
UINT32 = pa.uint32()
UINT64 = pa.uint64()
TIME_US = pa.timestamp("us", tz="UTC")
ADDRESS = pa.binary(16)
UUID = pa.binary(16)
NAME = pa.dictionary(pa.int32(), pa.string())
NAMED_UUID = pa.dictionary(pa.int32(), UUID)
"""UUIDs of few things in many rows: stored as one number per row, as names are."""
ENUM = pa.dictionary(pa.int8(), pa.string())

_CLICKHOUSE_TYPES = {
    UINT8: "UInt8",
    UINT16: "UInt16",
    UINT32: "UInt32",
    UINT64: "UInt64",
    pa.float64(): "Float64",
    TIME_US: "DateTime64(6, 'UTC')",
    NAME: "LowCardinality(String)",
    NAMED_UUID: "LowCardinality(UUID)",
    pa.string(): "String",
}


class Origin(Enum):
    """Which part of vmflow fills a column."""

    DECODE = "decode"
    ENRICH = "enrich"
    STORE = "store"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `arrow` is the type between stages; `clickhouse` is derived from it unless given.  `names` are the values of an
    enumeration, numbered from 0 in this order: never reorder, only append.  `missing` says what the column holds when
    the exporter did not state the value.  `element` cites the registry element or structure the value comes from.
    """

    name: str
    arrow: pa.DataType
    doc: str
    unit: str = ""
    missing: str = "0"
    element: str = ""
    codec: str = ""
    names: tuple[str, ...] = ()
    clickhouse_type: str = ""
    nullable: bool = False
    alias: str = ""
    """SQL expression of an ALIAS column: computed when read, never stored."""
    origin: Origin = Origin.DECODE

    def __post_init__(self) -> None:
        if self.names and self.arrow != ENUM:
            raise ValueError(f"column {self.name}: value names belong to enumerations")
        if self.arrow == ENUM and not self.names:
            raise ValueError(f"column {self.name}: an enumeration needs its value names")
        if not self.doc.endswith("."):
            raise ValueError(f"column {self.name}: the meaning must be a sentence")

    @cached_property
    def clickhouse(self) -> str:
        """Return the ClickHouse type, without codec."""
        if self.clickhouse_type:
            kind = self.clickhouse_type
        elif self.arrow == ENUM:
            kind = "Enum8(" + ", ".join(f"'{name}' = {number}" for number, name in enumerate(self.names)) + ")"
        else:
            kind = _CLICKHOUSE_TYPES[self.arrow]
        return f"Nullable({kind})" if self.nullable else kind

    def code(self, name: str) -> int:
        """Return the number of an enumeration value.  Raises ValueError if the column has no such value."""
        return self.names.index(name)

    @property
    def nothing(self) -> Any:
        """Return the value of a row that does not state this column, as `Table.batch` takes it."""
        if self.nullable:
            return None
        if self.names:
            return self.names[0]
        if pa.types.is_nested(self.arrow) and not pa.types.is_dictionary(self.arrow):
            return []
        kind = self.arrow.value_type if pa.types.is_dictionary(self.arrow) else self.arrow
        if pa.types.is_string(kind):
            return ""
        return bytes(kind.byte_width) if pa.types.is_fixed_size_binary(kind) else 0

    def array(self, values: Sequence[Any] | NDArray[Any]) -> pa.Array:
        """Return values of the column as Arrow: enumerations by name, times in µs, addresses and UUIDs as 16 octets.

        Raises ValueError for what the column cannot hold.
        """
        if self.names:
            codes = pa.array([self.code(name) for name in values], pa.int8())
            return pa.DictionaryArray.from_arrays(codes, pa.array(self.names, pa.string()))
        if pa.types.is_dictionary(self.arrow):
            return pa.array(values, self.arrow.value_type).dictionary_encode()
        return pa.array(values, self.arrow)


@dataclass(frozen=True, eq=False)  # its hash would be that of all columns, computed again for every batch
class Table:
    """One table: its columns in insert order, how ClickHouse sorts and partitions it, and how long rows live."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    order_by: tuple[str, ...]
    time: str
    """The column that partitions and expires rows."""
    ttl_days: int
    partition: str = "toYYYYMMDD"
    engine: str = "MergeTree"
    primary_key: tuple[str, ...] = ()
    """The first columns of `order_by`, held in memory as an index, if not all of them are."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Settings of the table in ClickHouse where they differ from those of all tables (`schemas.render`)."""
    tuning: Mapping[str, str] = field(default_factory=dict)
    """More settings, as SQL literals, that only some supported versions of ClickHouse know: set on those."""
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False)
    _schemas: dict[tuple[Origin, ...], pa.Schema] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        by_name = {column.name: column for column in self.columns}
        if len(by_name) != len(self.columns):
            raise ValueError(f"table {self.name}: a column name stands twice")
        for name in (*self.order_by, self.time):
            if name not in by_name:
                raise ValueError(f"table {self.name}: no column {name!r}")
        object.__setattr__(self, "_by_name", by_name)

    def __getitem__(self, name: str) -> Column:
        return self._by_name[name]

    @property
    def holds_rows(self) -> bool:
        """Return whether the table keeps its rows; if not, it only feeds other tables."""
        return self.engine != "Null"

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """Return the columns that rows have, in insert order: all but aliases."""
        return tuple(column for column in self.columns if not column.alias)

    def arrow(self, *origins: Origin) -> pa.Schema:
        """Return the Arrow schema of the stored columns, only of these origins if any are given."""
        if origins not in self._schemas:  # needed for every batch
            self._schemas[origins] = pa.schema(
                pa.field(column.name, column.arrow, nullable=column.nullable)
                for column in self.stored
                if not origins or column.origin in origins
            )
        return self._schemas[origins]

    def batch(self, columns: Mapping[str, Any], *origins: Origin) -> pa.RecordBatch:
        """Make rows from the values of their stored columns, only of these origins if any are given.

        For few rows: each value is a Python object.  Raises KeyError if a column is left out, and what `Column.array`
        raises.
        """
        schema = self.arrow(*origins)
        return pa.RecordBatch.from_arrays([self[name].array(columns[name]) for name in schema.names], schema=schema)

    def empty_row(self, *origins: Origin) -> pa.RecordBatch:
        """Return one row without stated values, to compile the kernels that read such rows before they are needed."""
        return self.batch({column.name: [column.nothing] for column in self.stored}, *origins)


def mark_of(select: str) -> str:
    """Return the part of a view's comment that shows whether the view in the store has this text."""
    return f"vmflow {sha256(select.encode()).hexdigest()[:16]}"
