"""Column batches as text: how addresses, MACs and times print in JSON and CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from schemas.column import Column, Table

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
"""As ClickHouse prints a DateTime64; Arrow adds the microseconds."""


@lru_cache(maxsize=65_536)
def address_text(octets: bytes) -> str:
    """16 octets as an address in its usual form, mapped IPv4 as IPv4."""
    address = IPv6Address(octets)
    return str(address.ipv4_mapped or address)


@lru_cache(maxsize=65_536)
def mac_text(number: int) -> str:
    """A 48-bit number as `52:54:00:0a:00:01`."""
    return number.to_bytes(6, "big").hex(":")


def printable(table: Table, batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """The stored columns of `table` as lists of values that JSON and CSV can hold.

    Columns that `batch` does not have (names that only enrichment knows) hold their missing value.
    """
    columns: dict[str, list[Any]] = {}
    for column in table.stored:
        index = batch.schema.get_field_index(column.name)
        if index < 0:
            columns[column.name] = [_missing(column)] * batch.num_rows
        else:
            columns[column.name] = _values(column, batch.column(index))
    return columns


def rows(table: Table, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """One dictionary per row, keys in the order of the table."""
    columns = printable(table, batch)
    names = tuple(columns)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Column, array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.arrow):
        texts: list[Any] = pc.strftime(array, TIME_FORMAT).to_pylist()
        return texts
    values: list[Any] = array.to_pylist()
    convert = _converter(column)
    return values if convert is None else [convert(value) for value in values]


def _converter(column: Column) -> Callable[[Any], Any] | None:
    if column.clickhouse_type == "IPv6":
        return address_text
    if column.clickhouse_type == "Array(IPv6)":
        return lambda addresses: [address_text(address) for address in addresses]
    if "UUID" in column.clickhouse:
        return lambda octets: str(UUID(bytes=octets))
    if column.name == "mac" or column.name.endswith("_mac"):
        return mac_text
    if pa.types.is_map(column.arrow):
        return dict
    return None


def _missing(column: Column) -> Any:
    if column.names:
        return column.names[0]
    if "UUID" in column.clickhouse:
        return str(UUID(int=0))
    return "" if pa.types.is_dictionary(column.arrow) else 0
