"""Record batches → one ClickHouse Native block, straight from the Arrow buffers, and its insert.

A Native block is column after column: name, type, then the values as they lie in memory.  Arrow keeps fixed-width
values the same way, so most columns are passed on unchanged; several batches become one block by putting the buffers of
a column one after the other.  Compared with the Arrow format, this saves ClickHouse the conversion and the service the
concatenation (figures: bench/insert.py).

Layouts (ClickHouse documentation, "Native format", and its serialisation classes):

* block: varuint columns, varuint rows; per column: varuint length + name, varuint length + type, values
* DateTime64, Enum8, IPv6, numbers: little-endian values.  UUID: two little-endian halves of the 16 octets
* Nullable(T): one octet per row, 1 = NULL, then the values of all rows
* Array(T): UInt64 end offset per row, then the elements.  Map(K, V): as Array(Tuple(K, V)), keys before values
* LowCardinality(String or UUID): UInt64 1 before everything else of the column; then UInt64 index width | flags, UInt64
  number of keys, the keys, UInt64 rows, the indices
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from clickhouse_connect.driver import Client

from schemas.column import Column, Origin, Table

Buffer = bytes | memoryview | npt.NDArray[np.generic]


_LOW_CARDINALITY_VERSION = (1).to_bytes(8, "little")
_HAS_KEYS = 1 << 9
_NEED_UPDATE = 1 << 10
LARGE_DICTIONARY = 1024
ROWS_PER_KEY = 8
"""A dictionary with more keys than this, and more than one key per this many rows, is cut to the keys in use: the
inventory's has all names of a cloud.  With enough rows, looking at each costs more than unused keys."""
NOTHING = ("", bytes(16))
"""The empty name and UUID."""
PROBE = 64
"""Octets that usually show whether a column states anything, before all of it is read."""
_INDEX_TYPES = ((0, np.uint8, 1 << 8), (1, np.uint16, 1 << 16), (2, np.uint32, 1 << 32))


def block(table: Table, batches: Sequence[pa.RecordBatch]) -> tuple[list[str], list[memoryview]]:
    """Return the rows of `batches` as one Native block for `table`: its columns, and the buffers to write in order.

    Every batch must have the same columns: those of the table with their types, in order, of which only the decoded
    ones must not be left out.  ValueError otherwise, or if a value is NULL in a column that holds none.  Columns in
    which no row states anything are not in the block: ClickHouse takes its default, which is the same, in a fifth less
    time.  Without rows both lists are empty: there is no empty insert.
    """
    rows = sum(batch.num_rows for batch in batches)
    if rows == 0:
        return [], []
    columns = columns_of(table, batches[0].schema)
    names: list[str] = []
    out: list[Buffer] = []
    if any(batch.schema.names != batches[0].schema.names for batch in batches):
        raise ValueError(f"table {table.name}: the batches have different columns")
    for position, column in enumerate(columns):
        arrays = [batch.column(position) for batch in batches if batch.num_rows]
        for array in arrays:
            if array.type != column.arrow:
                raise ValueError(f"table {table.name}: column {column.name} is {array.type}, not {column.arrow}")
            if array.null_count and not column.nullable:
                raise ValueError(f"table {table.name}: column {column.name} has NULLs")
        if position and all(_states_nothing(column, array) for array in arrays):
            continue
        names.append(column.name)
        out.append(_text(column.name) + _text(column.clickhouse))
        out.extend(_column(column, arrays))
    head = _varuint(len(names)) + _varuint(rows)
    return names, [memoryview(head), *(_bytes(buffer) for buffer in out if len(buffer))]


def _states_nothing(column: Column, array: pa.Array) -> bool:
    """Return whether all values are ClickHouse's defaults for a missing column: zero, the first name, empty text.

    Lists, maps and nullable columns are not examined: few rows have them.
    """
    kind = array.type
    if column.nullable or pa.types.is_nested(kind) or pa.types.is_string(kind):
        return False
    if pa.types.is_dictionary(kind):
        if array.dictionary[0].as_py() not in (NOTHING if not column.names else column.names[:1]):
            return False
        array = array.indices
    (octets,) = _values([array])
    if any(octets[:PROBE]):
        return False
    return not np.frombuffer(octets, np.bool_).any()


def _bytes(buffer: Buffer) -> memoryview:
    return buffer.view(np.uint8).data if isinstance(buffer, np.ndarray) else memoryview(buffer)


def columns_of(table: Table, schema: pa.Schema) -> tuple[Column, ...]:
    """Return the table's columns that a batch has.  Raises ValueError, naming the columns, if they do not fit the
    table."""
    given = set(schema.names)
    columns = tuple(column for column in table.stored if column.name in given)
    if unknown := sorted(given - {column.name for column in columns}):
        raise ValueError(f"table {table.name}: columns unknown: {', '.join(unknown)}")
    if missing := [c.name for c in table.stored if c.name not in given and c.origin is Origin.DECODE]:
        raise ValueError(f"table {table.name}: columns missing: {', '.join(missing)}")
    if schema.names != [column.name for column in columns]:
        raise ValueError(f"table {table.name}: columns in another order")
    return columns


def _varuint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(0x80 | number & 0x7F)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _text(text: str) -> bytes:
    octets = text.encode()
    return _varuint(len(octets)) + octets


def _column(column: Column, arrays: list[pa.Array]) -> list[Buffer]:
    kind = column.arrow
    if column.clickhouse_type == "UUID":
        return [_uuids(view) for view in _values(arrays)]
    if pa.types.is_list(kind):
        return [*_offsets(arrays), *_values([_flat(array) for array in arrays])]
    if pa.types.is_map(kind):
        return _map(arrays)
    if pa.types.is_dictionary(kind):
        if kind.index_type == pa.int8():
            return list(_enum(column, arrays))
        return [_LOW_CARDINALITY_VERSION, *_low_cardinality(arrays)]
    if pa.types.is_string(kind):
        return [b"".join(_text(text) for text in chain.from_iterable(array.to_pylist() for array in arrays))]
    if column.nullable:
        return [*map(_null_map, arrays), *_values(arrays)]
    return list(_values(arrays))


def _uuids(octets: memoryview) -> npt.NDArray[np.generic]:
    """Turn two big-endian halves, as in Arrow, into two little-endian ones, as in ClickHouse."""
    return np.frombuffer(octets, dtype=">u8").astype("<u8")


def _values(arrays: Sequence[pa.Array]) -> list[memoryview]:
    """Return the raw values of fixed-width arrays, without copying."""
    views = []
    for array in arrays:
        width = array.type.byte_width
        data = array.buffers()[1]
        if data is None:
            views.append(memoryview(bytes(width * len(array))))
        else:
            views.append(memoryview(data)[array.offset * width : (array.offset + len(array)) * width])
    return views


def _null_map(array: pa.Array) -> npt.NDArray[np.generic]:
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return np.zeros(len(array), np.uint8)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)] ^ 1


def _enum(column: Column, arrays: Sequence[pa.Array]) -> list[Buffer]:
    """Return enumeration numbers.  The dictionary normally lists the names in order, so the indices are the numbers."""
    out: list[Buffer] = []
    for array in arrays:
        names = tuple(array.dictionary.to_pylist())
        if names == column.names[: len(names)]:
            out.append(_values([array.indices])[0])
        else:
            try:
                numbers = np.array([column.code(name) for name in names], np.int8)
            except ValueError:
                unknown = sorted(set(names) - set(column.names))
                raise ValueError(f"column {column.name} has no value {unknown}") from None
            out.append(numbers[array.indices.to_numpy()])
    return out


def _low_cardinality(arrays: Sequence[pa.Array]) -> list[Buffer]:
    """Return keys and indices, without the version that precedes the column; nothing without rows."""
    if not sum(map(len, arrays)):
        return []
    first = arrays[0].dictionary
    if not all(_same(array.dictionary, first) for array in arrays[1:]):
        arrays = pa.chunked_array(arrays).unify_dictionaries().chunks
    keys = arrays[0].dictionary
    if keys.null_count:
        raise ValueError("a dictionary of names holds NULL")
    indices = [_indices(array) for array in arrays]
    if len(keys) > max(LARGE_DICTIONARY, sum(map(len, arrays)) // ROWS_PER_KEY):
        keys, indices = used_only(keys, indices)
    code, width = next((code, width) for code, width, limit in _INDEX_TYPES if len(keys) <= limit)
    return [
        (code | _HAS_KEYS | _NEED_UPDATE).to_bytes(8, "little") + len(keys).to_bytes(8, "little"),
        _TEXTS.of(keys),
        sum(map(len, arrays)).to_bytes(8, "little"),
        *(numbers.astype(width, copy=False) for numbers in indices),
    ]


class _Texts:
    """The keys of dictionaries as octets; the last ones are cached, since all columns of names share one for a long
    time."""

    def __init__(self) -> None:
        self._kept: dict[pa.DataType, tuple[pa.Array, bytes]] = {}

    def of(self, keys: pa.Array) -> bytes:
        """Return each text with its length before it, and each UUID in ClickHouse's form."""
        last, octets = self._kept.get(keys.type, (None, b""))
        if last is not None and len(last) == len(keys) and _addresses(last) == _addresses(keys):
            return octets
        if pa.types.is_fixed_size_binary(keys.type):
            octets = _uuids(_values([keys])[0]).tobytes()
        else:
            octets = b"".join(map(_text, keys.to_pylist()))
        if len(keys) > LARGE_DICTIONARY:
            self._kept[keys.type] = (keys, octets)
        return octets


_TEXTS = _Texts()


def _same(one: pa.Array, other: pa.Array) -> bool:
    """Return whether two dictionaries are equal; those of one snapshot share their memory, and need not be compared."""
    shared = len(one) == len(other) and one.offset == other.offset and _addresses(one) == _addresses(other)
    return shared or bool(one.equals(other))


def _addresses(array: pa.Array) -> list[int]:
    return [0 if buffer is None else buffer.address for buffer in array.buffers()]


def used_only(
    keys: pa.Array, indices: list[npt.NDArray[np.integer[Any]]]
) -> tuple[pa.Array, list[npt.NDArray[np.integer[Any]]]]:
    """Return the keys that the rows refer to, and the indices into them."""
    used = np.zeros(len(keys), np.bool_)
    for numbers in indices:
        used[numbers] = True
    renumbered = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return keys.filter(pa.array(used)), [renumbered.take(numbers) for numbers in indices]


def _indices(array: pa.Array) -> npt.NDArray[np.integer[Any]]:
    indices = array.indices
    values: npt.NDArray[np.integer[Any]] = np.frombuffer(
        _values([indices])[0], np.dtype(indices.type.to_pandas_dtype())
    )
    return values


def _offsets(arrays: Sequence[pa.Array]) -> list[Buffer]:
    """Return the end offset of each row, counted through all arrays."""
    out: list[Buffer] = []
    before = 0
    for array in arrays:
        offsets = array.offsets.to_numpy().astype(np.uint64)
        out.append(offsets[1:] - offsets[0] + np.uint64(before))
        before += int(offsets[-1] - offsets[0])
    return out


def _flat(array: pa.Array) -> pa.Array:
    """Return the elements of a list array that its rows refer to."""
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    return array.values[first:last]


def _map(arrays: Sequence[pa.Array]) -> list[Buffer]:
    """Map(LowCardinality(String), UInt64).  The version of the keys precedes the offsets."""
    keys, values = [], []
    for array in arrays:
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        keys.append(array.keys[first:last].dictionary_encode())
        values.append(array.items[first:last])
    return [_LOW_CARDINALITY_VERSION, *_offsets(arrays), *_low_cardinality(keys), *_values(values)]


class _Buffers:
    """A file of buffers, from which clickhouse-connect copies without joining them first."""

    def __init__(self, buffers: list[memoryview]) -> None:
        self._left = iter(buffers)

    def read(self, _size: int = -1) -> memoryview | bytes:
        return next(self._left, b"")


def insert(client: Client, table: Table, batches: list[pa.RecordBatch], token: str, group: int = 0) -> None:
    """Insert the batches as one block; a second insert with the same token stores nothing.

    `group` goes into the column `rollup_group` of `flows`.  Blocks.  Raises ValueError if the batches do not fit the
    table, else the driver's errors.
    """
    if group:
        batches = [
            batch.append_column("rollup_group", pa.array(np.full(batch.num_rows, group, np.uint64)))
            for batch in batches
        ]
    names, buffers = block(table, batches)
    if not buffers:
        return
    settings = {"insert_deduplication_token": token}
    # The driver's types allow less than the driver.
    body: Any
    nowhere: Any = None
    if client.uri.startswith("chdb:"):
        body = _Buffers(buffers)
        client.raw_insert(table.name, names, body, settings, "Native")
    else:
        body = _request(table, names, buffers)
        client.raw_insert(nowhere, None, body, settings)


def _request(table: Table, names: list[str], buffers: list[memoryview]) -> memoryview:
    """Return the statement and its rows in one piece: a request whose connection breaks is sent again as a whole.

    numpy allocates memory without clearing it and copies while other threads run.  Joining bytes makes them wait 0.2 s,
    and a bytearray of that size 0.04 s, or 0.15 s on busy cores; the event loop, too.
    """
    columns = ", ".join(f"`{name}`" for name in names)
    parts = [memoryview(f"INSERT INTO {table.name} ({columns}) FORMAT Native\n".encode()), *buffers]
    body = np.empty(sum(part.nbytes for part in parts), np.uint8)
    at = 0
    for part in parts:
        body[at : at + part.nbytes] = np.frombuffer(part, np.uint8)
        at += part.nbytes
    return body.data
