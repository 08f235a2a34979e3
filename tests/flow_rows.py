"""Named rows for tests: decoded captures with the names of their ground truth, and rows made up with known truth."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv6Address
from itertools import count
from typing import Any
from uuid import UUID

import pyarrow as pa
from clickhouse_connect.driver import Client

from collector.rollup.groups import as_input
from collector.rollup.sums import PairSums
from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from schemas.column import ENUM, NAME, Table
from schemas.flows import FLOWS
from schemas.render import STORED
from schemas.rollups import PAIR_INPUT
from schemas.tables import TABLES
from tests.decoders.support import PCAPS, address, mac, payloads, rows

HOSTS = {"192.0.2.11": "host-a", "192.0.2.12": "host-b"}
"""Exporters of the lab (fixtures/pcaps/README.md)."""

HOUR_US = 3_600_000_000
NOBODY = {"vm": "", "uuid": str(UUID(int=0)), "host": "", "tag": 0}

_labels = count(1)
_SUMS = PairSums(2**18, 2**20)


@contextmanager
def store(settings: StoreSettings) -> Iterator[Client]:
    """A store that is set up, and gone afterwards."""
    client = open_client(settings)
    try:
        set_up(client, settings)
        yield client
        client.command(f"DROP DATABASE {settings.database} SYNC")
    finally:
        client.close()


def emptied(client: Client) -> Client:
    """The same store without rows: making one takes seconds."""
    for table in STORED:
        if not table.holds_rows:
            continue
        client.command(f"TRUNCATE TABLE {table.name} SYNC")
    return client


def truth_of(stem: str) -> dict[str, Any]:
    """`X.truth.json`."""
    found: dict[str, Any] = json.loads((PCAPS / f"{stem}.truth.json").read_text(encoding="utf-8"))
    return found


def nic(stem: str, vm: str, direction: str) -> dict[str, int]:
    """Kernel counters of the VM's NIC: `tx` is what the VM sent."""
    found: dict[str, int] = next(
        card[direction] for card in truth_of(stem)["nic_counters"].values() if card["vm"] == vm
    )
    return found


def moved_us(first_us: int) -> int:
    """What to add to a capture's times so that it lies in the last whole hour: whole hours, so windows stay windows.

    Rollups of 10 s live for two days only, and the present hour is still open.
    """
    return (time.time_ns() // 1000 // HOUR_US - first_us // HOUR_US - 1) * HOUR_US


@cache
def named(stem: str) -> tuple[dict[str, Any], ...]:
    """The rows of a capture of the lab with both ends named by MAC, and from where each packet was seen."""
    vms = {card["mac"]: card for card in truth_of(stem)["nic_counters"].values()}
    by_mac = {mac(text): card for text, card in vms.items()}
    datagrams = payloads(stem)
    shift = moved_us(datagrams[0][3])
    found = rows(Decoder().decode(Datagrams.of(datagrams)).flows)
    for row in found:
        row.update({column: row[column] + shift for column in ("time_received", "flow_start", "flow_end")})
        source, destination = (by_mac.get(row[column], NOBODY) for column in ("src_mac", "dst_mac"))
        host = next(name for text, name in HOSTS.items() if address(text) == row["exporter"])
        row.update(ends(source, destination))
        row["sighting"] = sighting(source, destination, host, discarded=row["out_kind"] == "discarded")
    return tuple(found)


@cache
def polls(stem: str) -> tuple[dict[str, Any], ...]:
    """The interface counters of a capture, named by host and port."""
    cards = {(card["host"], card["port"]): card for card in truth_of(stem)["nic_counters"].values()}
    datagrams = payloads(stem)
    shift = moved_us(datagrams[0][3])
    found = rows(Decoder().decode(Datagrams.of(datagrams)).counters)
    for row in found:
        row["time_received"] += shift
        host = next(name for text, name in HOSTS.items() if address(text) == row["agent"])
        card = cards.get((host, row["if_name"]), NOBODY)
        row.update(
            {"host": host, "vm": card["vm"], "vm_uuid": UUID(card["uuid"]).bytes, "network": f"tenant-{card['tag']}"}
        )
    return tuple(found)


def ends(source: Mapping[str, Any], destination: Mapping[str, Any]) -> dict[str, Any]:
    """The named columns of a row."""
    return {
        "src_vm": source["vm"],
        "dst_vm": destination["vm"],
        "src_vm_uuid": UUID(source["uuid"]).bytes,
        "dst_vm_uuid": UUID(destination["uuid"]).bytes,
        "src_host": source["host"],
        "dst_host": destination["host"],
        "network": f"tenant-{source['tag'] or destination['tag']}",
    }


def sighting(source: Mapping[str, Any], destination: Mapping[str, Any], host: str, *, discarded: bool = False) -> str:
    """From where the switch on `host` saw a packet.  Its own VM dropped nothing that the switch says it discarded."""
    here = source["host"] == host, destination["host"] == host and not (discarded and source["host"] == host)
    return {(True, True): "both", (True, False): "source", (False, True): "destination"}.get(here, "transit")


def batch(table: Table, found: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Rows of `table`; columns that a row does not have are missing: zeros, empty names, nothing."""
    arrays = []
    for column in table.stored:
        values = [row.get(column.name, _missing(column.arrow, column.names, column.nullable)) for row in found]
        if column.arrow == ENUM:
            codes = pa.array([column.code(name) for name in values], pa.int8())
            arrays.append(pa.DictionaryArray.from_arrays(codes, pa.array(column.names, pa.string())))
        elif column.arrow == NAME:
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        elif pa.types.is_dictionary(column.arrow):
            arrays.append(pa.array(values, column.arrow.value_type).dictionary_encode())
        else:
            arrays.append(pa.array(values, column.arrow))
    return pa.RecordBatch.from_arrays(arrays, schema=table.arrow())


def _missing(kind: pa.DataType, names: Sequence[str], nullable: bool) -> Any:
    if nullable:
        return None
    if kind == ENUM:
        return names[0]
    if kind == NAME or pa.types.is_string(kind):
        return ""
    if pa.types.is_dictionary(kind):
        return _missing(kind.value_type, names, nullable)
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        return []
    return 0


def add(client: Client, found: Sequence[Mapping[str, Any]], table: str = "flows", label: str = "") -> None:
    """Insert rows as the writer does."""
    chosen = next(known for known in TABLES if known.name == table)
    store_rows(client, chosen, batch(chosen, found), label or f"test-{next(_labels)}")


def store_rows(client: Client, table: Table, made: pa.RecordBatch, label: str) -> None:
    """Insert rows, and their sums as the rollups do."""
    insert(client, table, [made], label)
    if table is FLOWS and made.num_rows:
        assert _SUMS.add(made) is None
        insert(client, PAIR_INPUT, [as_input(_SUMS.take())], f"sums-{label}")


def ask(client: Client, sql: str) -> list[dict[str, Any]]:
    """The rows of a query."""
    answer = client.query(sql)
    return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]


BEGIN_US = time.time_ns() // 1000 // HOUR_US * HOUR_US - HOUR_US
"""A full hour for rows made up: every window begins here, too."""


def vm(name: str, host: str = "host-1", tag: int = 1) -> dict[str, Any]:
    """A made-up VM."""
    return {"vm": name, "uuid": str(UUID(bytes=name.encode().ljust(16, b"."))), "host": host, "tag": tag}


def flow(source: Mapping[str, Any], destination: Mapping[str, Any], seen: str, **values: Any) -> dict[str, Any]:
    """A made-up row, an unsampled sFlow sample unless stated otherwise; times in seconds after BEGIN_US."""
    received = values.pop("received", 0.0)
    ended = values.pop("ended", received)
    started = values.pop("started", ended)
    row = {
        "exporter": IPv6Address("::ffff:192.0.2.1").packed,
        "protocol": "sflow5",
        "packets": 1,
        "samples": 1,
        "bytes": 100,
        "frame_bytes": 114,
        "sampling_rate": 1,
        "rate_source": "record",
        "ether_type": 0x0800,
        "ip_protocol": 17,
        "src_ip": address("10.0.0.1"),
        "dst_ip": address("10.0.0.2"),
        "src_port": 1000,
        "dst_port": 2000,
        **ends(source, destination),
        "sighting": seen,
        "time_received": BEGIN_US + round(received * 1e6),
        "flow_end": BEGIN_US + round(ended * 1e6),
        "flow_start": BEGIN_US + round(started * 1e6),
    }
    return row | values
