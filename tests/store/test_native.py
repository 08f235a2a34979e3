"""Native blocks against the engine's own reading of the same rows in the Arrow format."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client

from bench import insert as made_up
from collector.store.native import block, columns_of, insert
from collector.store.settings import StoreSettings
from schemas.alerts import ALERT_TABLES
from schemas.anomalies import SCORES
from schemas.column import ADDRESS, ENUM, Origin, Table
from schemas.counters import COUNTERS
from schemas.exporters import EXPORTERS
from schemas.flows import FLOWS
from schemas.inventory import INVENTORY
from schemas.tables import TABLES
from tests.flow_rows import emptied, store
from tests.table_rows import NOW_US, batch

WRITTEN = [table for table in TABLES if table not in (*ALERT_TABLES, SCORES)]
"""Rows of alerts are few: `collector.alert.store` inserts them through the driver."""


@pytest.fixture(scope="module")
def made(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="native_blocks")) as client:
        yield client


@pytest.fixture
def client(made: Client) -> Client:
    return emptied(made)


def stored(client: Client, table: Table) -> list[tuple[object, ...]]:
    names = ", ".join(column.name for column in table.stored)
    return sorted(client.query(f"SELECT {names} FROM {table.name}").result_rows, key=repr)


@pytest.mark.parametrize("table", WRITTEN, ids=lambda table: table.name)
def test_a_native_block_holds_what_the_arrow_format_holds(client: Client, table: Table) -> None:
    rows = batch(table, 1000)

    client.insert_arrow(table.name, pa.Table.from_batches([rows]))
    expected = stored(client, table)
    client.command(f"TRUNCATE TABLE {table.name}")
    insert(client, table, [rows], "token")

    assert len(expected) == 1000
    assert stored(client, table) == expected


@pytest.mark.parametrize("table", WRITTEN, ids=lambda table: table.name)
def test_several_batches_and_slices_become_one_block(client: Client, table: Table) -> None:
    """Dictionaries differ between batches; a slice begins in the middle of a bitmap's octet."""
    batches = [batch(table, 70, seed=1), batch(table, 300, seed=2).slice(13, 250), batch(table, 9, seed=3)]

    for number, part in enumerate(batches):
        client.insert_arrow(table.name, pa.Table.from_batches([part]), settings={"insert_deduplication_token": number})
    expected = stored(client, table)
    client.command(f"TRUNCATE TABLE {table.name}")
    insert(client, table, [batches[0], batches[0].slice(0, 0), *batches[1:]], "token")

    assert len(expected) == 329
    assert stored(client, table) == expected


def test_values_read_back_as_they_were_meant(client: Client) -> None:
    name = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
    rows = batch(
        FLOWS,
        1,
        src_ip=bytes(10) + b"\xff\xff\x0a\x00\x00\x01",
        src_vm_uuid=name.bytes,
        time_received=NOW_US,
        tunnel="geneve",
        src_vm="Größe",
        src_mac=0x5254000A0001,
    )

    insert(client, FLOWS, [rows], "token")

    answer = client.query(
        "SELECT toString(src_ip), src_vm_uuid, toUnixTimestamp64Micro(time_received), tunnel, src_vm, src_mac_text "
        "FROM flows"
    ).result_rows
    assert answer == [("::ffff:10.0.0.1", name, NOW_US, "geneve", "Größe", "52:54:00:0a:00:01")]


def test_columns_of_enrichment_may_be_left_out(client: Client) -> None:
    rows = batch(FLOWS, 5).select([column.name for column in FLOWS.stored if column.origin is not Origin.ENRICH])

    insert(client, FLOWS, [rows], "token")

    answer = client.query("SELECT DISTINCT src_vm, src_vm_uuid, sighting, count() OVER () FROM flows").result_rows
    assert answer == [("", uuid.UUID(int=0), "unknown", 5)]


@pytest.mark.parametrize("names", [255, 256, 257, 70_000])
def test_dictionaries_of_every_width(client: Client, names: int) -> None:
    keys = pa.array([f"name-{number}" for number in range(names)])
    rows = batch(FLOWS, names)
    position = rows.schema.get_field_index("network")
    values = pa.DictionaryArray.from_arrays(pa.array(range(names), pa.int32()), keys)
    rows = rows.set_column(position, rows.schema.field(position), values)

    insert(client, FLOWS, [rows], "token")

    answer = client.query("SELECT uniqExact(network), min(network), max(length(network)) FROM flows").result_rows
    assert answer == [(names, "name-0", len(f"name-{names - 1}"))]


def test_an_enumeration_with_another_dictionary_is_translated(client: Client) -> None:
    rows = batch(FLOWS, 2)
    position = rows.schema.get_field_index("tunnel")
    other = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["gre", "none"]))
    rows = rows.set_column(position, pa.field("tunnel", ENUM), other)

    insert(client, FLOWS, [rows], "token")

    assert sorted(client.query("SELECT tunnel FROM flows").result_rows) == [("gre",), ("none",)]


def test_rows_that_do_not_fit_are_named() -> None:
    rows = batch(FLOWS, 2)

    with pytest.raises(ValueError, match="table flows: columns missing: vni"):
        block(FLOWS, [rows.drop_columns(["vni"])])
    with pytest.raises(ValueError, match="columns unknown: nope"):
        columns_of(FLOWS, pa.schema([("nope", pa.int8())]))
    with pytest.raises(ValueError, match="another order"):
        block(FLOWS, [rows.select(rows.schema.names[::-1])])
    with pytest.raises(ValueError, match="different columns"):
        block(FLOWS, [rows, rows.drop_columns(["network"])])
    position = rows.schema.get_field_index("vni")
    with pytest.raises(ValueError, match="column vni is int64, not uint32"):
        block(FLOWS, [rows.set_column(position, "vni", pa.array([1, 2]))])
    with pytest.raises(ValueError, match="column vni has NULLs"):
        block(FLOWS, [rows.set_column(position, "vni", pa.array([1, None], pa.uint32()))])
    position = rows.schema.get_field_index("tunnel")
    unknown = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(["pigeon"]))
    with pytest.raises(ValueError, match=r"column tunnel has no value \['pigeon'\]"):
        block(FLOWS, [rows.set_column(position, "tunnel", unknown)])


def test_columns_that_state_nothing_are_left_out(client: Client) -> None:
    """One value in the last row of the last batch is enough for a column to be there; its first column always is."""
    # Rows of 1970 would be past their TTL: a merge may drop them before they are read.
    now = pa.array([NOW_US] * 1000, FLOWS["time_received"].arrow)
    nothing = made_up.batch(FLOWS, 1000, time_received=now)
    last = {
        "vni": pa.array([0] * 999 + [7], pa.uint32()),
        "dst_ip": pa.array([bytes(16)] * 999 + [bytes(15) + b"\x80"], ADDRESS),
        "tunnel": pa.DictionaryArray.from_arrays(pa.array([0] * 999 + [1], pa.int8()), pa.array(FLOWS["tunnel"].names)),
        "network": pa.DictionaryArray.from_arrays(pa.array([0] * 999 + [1], pa.int32()), pa.array(["", "blue"])),
        "dst_vm": pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["db"])),
        "direction": pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["egress"])),
    }
    stated = made_up.batch(FLOWS, 1000, time_received=now, **last)

    assert block(FLOWS, [made_up.batch(FLOWS, 5)])[0] == ["time_received"]
    assert block(FLOWS, [nothing, nothing])[0] == ["time_received"]
    assert set(block(FLOWS, [nothing.slice(3), stated])[0]) == {"time_received", *last}
    insert(client, FLOWS, [nothing, stated, nothing.slice(7, 5)], "token")

    names = ", ".join(last)
    counts = client.query(f"SELECT {names}, count() FROM flows GROUP BY ALL ORDER BY count() DESC, vni").result_rows
    zero, high = ipaddress.ip_address("::"), ipaddress.ip_address("::80")
    assert counts == [
        (0, zero, "none", "", "", "unknown", 1005),
        (0, zero, "none", "", "db", "egress", 999),
        (7, high, "vxlan", "blue", "db", "egress", 1),
    ]


def test_no_rows_make_no_block() -> None:
    assert block(EXPORTERS, [batch(EXPORTERS, 3).slice(0, 0)]) == ([], [])


def test_fixed_width_columns_are_not_copied() -> None:
    rows = batch(INVENTORY, 50)
    address = rows.column("mac").buffers()[1].address

    buffers = [pa.py_buffer(part).address for part in block(INVENTORY, [rows])[1]]

    assert address in buffers


def test_zero_in_all_rows_is_a_value_where_null_would_be_another(client: Client) -> None:
    """A column of nothing but zeros is left out of the block, unless it may be NULL, which is "not stated"."""
    (name, *_) = (column.name for column in COUNTERS.stored if column.nullable)
    insert(client, COUNTERS, [batch(COUNTERS, 3, **{name: 0})], "zeros")

    assert client.query(f"SELECT countIf({name} = 0), count() FROM {COUNTERS.name}").result_rows == [(3, 3)]
