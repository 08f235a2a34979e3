"""The cost of an insert of flows: ways to hand over the rows, codecs, sort order, parts, merges.

    python -m bench.insert [--rows 500000] [--rounds 3] [CASE…]

Prints CPU and wall seconds per million rows (the best of the rounds) and bytes on disk per row, in the embedded store.
Background merges are off except in the last column, which adds one merge of all parts.  The rows are made up, and
compress and sort like real ones: many addresses and ports, few exporters and names.
"""

from __future__ import annotations

import argparse
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client

from bench.load import machine
from collector.store.client import open_client
from collector.store.native import block, insert
from collector.store.settings import StoreSettings
from schemas.column import Column, Table
from schemas.flows import FLOWS
from schemas.render import create_table, fill

BATCHES = 4
CODEC = re.compile(r"CODEC\((?:[^()]|\([^()]*\))*\)")
Insert = Callable[[Client, pa.RecordBatch, str], None]
VMS = 2000
EXPORTERS = 40


def _addresses(rng: np.random.Generator, rows: int, count: int, net: int) -> pa.Array:
    pool = np.zeros((count, 16), np.uint8)
    pool[:, 10:12] = 255
    pool[:, 12] = 10
    pool[:, 13] = net
    pool[:, 14:] = np.arange(count, dtype=">u2").view(np.uint8).reshape(-1, 2)
    return pa.Array.from_buffers(
        pa.binary(16), rows, [None, pa.py_buffer(pool[rng.integers(0, count, rows)].tobytes())]
    )


def _names(rng: np.random.Generator, rows: int, stem: str, count: int) -> pa.Array:
    keys = ["", *(f"{stem}-{number:04d}" for number in range(count))]
    indices = rng.integers(0, len(keys), rows).astype(np.int32)
    return pa.DictionaryArray.from_arrays(indices, pa.array(keys))


def _missing(column: Column, rows: int) -> pa.Array:
    kind = column.arrow
    if pa.types.is_dictionary(kind):
        indices = pa.array(np.zeros(rows, np.dtype(kind.index_type.to_pandas_dtype())))
        if column.names:
            return pa.DictionaryArray.from_arrays(indices, pa.array(column.names))
        none = "" if pa.types.is_string(kind.value_type) else bytes(kind.value_type.byte_width)
        return pa.DictionaryArray.from_arrays(indices, pa.array([none], kind.value_type))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(bytes(kind.byte_width * rows))])
    return pa.array(np.zeros(rows, np.int64)).cast(kind)


def batch(table: Table, rows: int, **columns: pa.Array) -> pa.RecordBatch:
    """Make `rows` rows of `table`: the given columns, all others missing."""
    return pa.RecordBatch.from_arrays(
        [columns.get(column.name, _missing(column, rows)) for column in table.stored], schema=table.arrow()
    )


def flows(rows: int, start_us: int, span_us: int = 200_000, seed: int = 1, datagram: int = 30) -> pa.RecordBatch:
    """Make `rows` IPFIX-like flow rows received within `span_us`; `datagram` rows share a time and an exporter."""
    rng = np.random.default_rng(seed)
    datagrams = -(-rows // datagram)
    received = np.repeat(start_us + np.sort(rng.integers(0, span_us, datagrams)), datagram)[:rows]
    exporters = np.zeros((EXPORTERS, 16), np.uint8)
    exporters[:, 10:12] = 255
    exporters[:, 12:] = (192, 0, 2, 0)
    exporters[:, 15] = np.arange(EXPORTERS)
    exporter = exporters[np.repeat(rng.integers(0, EXPORTERS, datagrams), datagram)[:rows]]
    duration = rng.integers(0, 60_000_000, rows)
    end = received - rng.integers(0, 2_000_000, rows)
    packets = rng.geometric(0.05, rows).astype(np.uint64)
    size = packets * rng.integers(40, 1500, rows).astype(np.uint64)
    time = pa.timestamp("us", tz="UTC")
    protocol = FLOWS["protocol"]
    uuids = rng.integers(0, 2**63, (VMS, 2), dtype=np.uint64)

    def uuid() -> pa.Array:
        keys = pa.Array.from_buffers(pa.binary(16), VMS, [None, pa.py_buffer(uuids.tobytes())])
        return pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, VMS, rows).astype(np.int32)), keys)

    def mac() -> pa.Array:
        return pa.array((0x525400000000 + rng.integers(0, VMS, rows)).astype(np.uint64))

    def port(share: float) -> pa.Array:
        known = rng.choice(np.array([53, 80, 443, 5432, 3306, 6379, 22], np.uint16), rows)
        return pa.array(np.where(rng.random(rows) < share, known, rng.integers(1024, 65535, rows)).astype(np.uint16))

    return batch(
        FLOWS,
        rows,
        time_received=pa.array(received, pa.int64()).cast(time),
        exporter=pa.Array.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(exporter.tobytes())]),
        domain=pa.array(exporter[:, 15].astype(np.uint32)),
        protocol=pa.DictionaryArray.from_arrays(
            np.full(rows, protocol.code("ipfix"), np.int8), pa.array(protocol.names)
        ),
        flow_start=pa.array(end - duration, pa.int64()).cast(time),
        flow_end=pa.array(end, pa.int64()).cast(time),
        packets=pa.array(packets),
        bytes=pa.array(size),
        frame_bytes=pa.array(size + packets * np.uint64(14)),
        sampling_rate=pa.array(np.ones(rows, np.uint32)),
        samples=pa.array(np.ones(rows, np.uint32)),
        src_mac=mac(),
        dst_mac=mac(),
        ether_type=pa.array(np.full(rows, 0x0800, np.uint16)),
        vlan=pa.array(rng.integers(100, 140, rows).astype(np.uint16)),
        src_ip=_addresses(rng, rows, 20_000, 1),
        dst_ip=_addresses(rng, rows, 20_000, 2),
        ip_protocol=pa.array(rng.choice(np.array([6, 6, 6, 17, 1], np.uint8), rows)),
        src_port=port(0.2),
        dst_port=port(0.8),
        tcp_flags=pa.array(rng.choice(np.array([0x1B, 0x02, 0x12, 0x18], np.uint16), rows)),
        tos=pa.array(rng.choice(np.array([0, 0, 0, 0xB8], np.uint8), rows)),
        ttl=pa.array(rng.choice(np.array([64, 63, 128], np.uint8), rows)),
        in_if=pa.array(rng.integers(1, 200, rows).astype(np.uint32)),
        out_if=pa.array(rng.integers(1, 200, rows).astype(np.uint32)),
        src_vm=_names(rng, rows, "vm", VMS),
        dst_vm=_names(rng, rows, "vm", VMS),
        src_project=_names(rng, rows, "project", 50),
        dst_project=_names(rng, rows, "project", 50),
        src_host=_names(rng, rows, "host", 60),
        dst_host=_names(rng, rows, "host", 60),
        network=_names(rng, rows, "net", 40),
        src_vm_uuid=uuid(),
        dst_vm_uuid=uuid(),
    )


def native(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """Insert as the writer does."""
    insert(client, FLOWS, [rows], token)


def arrow(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """Insert with clickhouse-connect's own method for Arrow data."""
    client.insert_arrow("flows", pa.Table.from_batches([rows]), settings={"insert_deduplication_token": token})


def native_without_token(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """Insert without a token: the engine hashes all rows to recognise a repeated insert."""
    names, buffers = block(FLOWS, [rows])
    client.raw_insert("flows", names, b"".join(buffers), None, "Native")


def encode(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """Do only our own part: make the Native block and discard it."""
    block(FLOWS, [rows])


@dataclass(frozen=True)
class Case:
    """A way to insert, and how the table differs from the real one."""

    insert: Insert = native
    change: Callable[[str], str] = lambda ddl: ddl


def _codec(codec: str) -> Callable[[str], str]:
    return lambda ddl: CODEC.sub(f"CODEC({codec})", ddl)


def _wide_from(rows: int) -> Callable[[str], str]:
    return lambda ddl: re.sub(r"min_rows_for_wide_part = \d+", f"min_rows_for_wide_part = {rows}", ddl)


CASES = {
    "as vmflow does it": Case(),
    "encode only": Case(encode),
    "parse only (Null engine)": Case(
        change=lambda ddl: re.sub(r"ENGINE = MergeTree.*", "ENGINE = Null", ddl, flags=re.S)
    ),
    "insert_arrow": Case(arrow),
    "no token": Case(native_without_token),
    "sorted by time, exporter": Case(
        change=lambda ddl: ddl.replace("(time_received)\nTTL", "(time_received, exporter)\nTTL")
    ),
    "wide parts": Case(change=_wide_from(0)),
    "compact parts": Case(change=_wide_from(10**9)),
    "all ZSTD(1)": Case(change=_codec("ZSTD(1)")),
    "all LZ4": Case(change=_codec("LZ4")),
    "no compression": Case(change=_codec("NONE")),
}


def cpu_seconds() -> float:
    """Return the CPU time of this process, engine included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(client: Client, case: Case, batches: list[pa.RecordBatch]) -> tuple[float, float, float, float]:
    """Return CPU and wall seconds per million rows, bytes per row, CPU seconds per million rows with a merge."""
    client.command("DROP TABLE IF EXISTS flows SYNC")
    ddl = case.change(fill(create_table(FLOWS)))
    client.command(ddl)
    stored = "ENGINE = Null" not in ddl
    if stored:
        client.command("SYSTEM STOP MERGES flows")
    rows = sum(batch.num_rows for batch in batches) / 1e6
    wall, cpu = time.perf_counter(), cpu_seconds()
    for batch in batches:
        case.insert(client, batch, str(time.monotonic_ns()))
    wall, inserted = time.perf_counter() - wall, cpu_seconds() - cpu
    found: Any = client.query(
        "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts WHERE active AND table = 'flows'"
    ).result_rows[0][0]
    merged = float("nan")
    if stored and case.insert is not encode:
        client.command("SYSTEM START MERGES flows")
        client.command("OPTIMIZE TABLE flows FINAL")
        merged = (cpu_seconds() - cpu) / rows
    return inserted / rows, wall / rows, float(found), merged


def main() -> None:
    """Measure the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="rows of one insert")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("cases", nargs="*", help=f"of: {', '.join(CASES)}")
    args = parser.parse_args()
    names = args.cases or list(CASES)
    now = time.time_ns() // 1000
    batches = [flows(args.rows, now + number * 1_000_000, seed=number) for number in range(BATCHES)]
    with tempfile.TemporaryDirectory() as directory:
        client = open_client(StoreSettings(url=f"chdb://{directory}"))
        print(f"{machine()}, ClickHouse {client.server_version}")
        print(f"{BATCHES} inserts of {args.rows} rows, {batches[0].nbytes / args.rows:.0f} bytes a row in memory\n")
        best: dict[str, tuple[float, ...]] = {}
        for _ in range(args.rounds):
            for name in names:
                result = measure(client, CASES[name], batches)
                best[name] = tuple(map(min, best.get(name, result), result))
        print(f"{'per 1 M rows':28}{'CPU s':>8}{'wall s':>8}{'bytes/row':>12}{'CPU s + merge':>15}")
        for name, (cpu, wall, disk, merged) in best.items():
            print(f"{name:28}{cpu:8.2f}{wall:8.2f}{disk:12.1f}{merged:15.2f}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"\npeak memory {peak:.0f} MiB, of which the made-up rows {sum(b.nbytes for b in batches) / 2**20:.0f} MiB"
        )
        client.close()


if __name__ == "__main__":
    main()
