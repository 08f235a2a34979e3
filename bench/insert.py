"""What an insert of flows costs: ways to hand over the rows, codecs, sort order, parts, merges.

    python -m bench.insert [--rows 500000] [--rounds 3] [CASE…]

Prints CPU and wall seconds per million rows (the best of the rounds) and octets on disk per row, in the embedded store.
Background merges are off except in the last column, which adds one merge of all parts.
"""

from __future__ import annotations

import argparse
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver import Client

from bench.rows import flows
from collector.store.client import open_client
from collector.store.native import block, insert
from collector.store.settings import StoreSettings
from schemas.flows import FLOWS
from schemas.render import create_table, fill

BATCHES = 4
CODEC = re.compile(r"CODEC\((?:[^()]|\([^()]*\))*\)")
Insert = Callable[[Client, pa.RecordBatch, str], None]


def native(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """As the writer does it."""
    insert(client, FLOWS, [rows], token)


def arrow(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """clickhouse-connect's own way for Arrow data."""
    client.insert_arrow("flows", pa.Table.from_batches([rows]), settings={"insert_deduplication_token": token})


def native_without_token(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """Without a token the engine hashes all rows to know a repeated insert."""
    names, buffers = block(FLOWS, [rows])
    client.raw_insert("flows", names, b"".join(buffers), None, "Native")


def encode(client: Client, rows: pa.RecordBatch, token: str) -> None:
    """Only our own part: the Native block, thrown away."""
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
    """CPU time of this process, engine included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(client: Client, case: Case, batches: list[pa.RecordBatch]) -> tuple[float, float, float, float]:
    """CPU and wall seconds per million rows, octets per row, CPU seconds per million rows with a merge."""
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
        print(f"{platform.machine()}, Python {platform.python_version()}, ClickHouse {client.server_version}")
        print(f"{BATCHES} inserts of {args.rows} rows, {batches[0].nbytes / args.rows:.0f} octets a row in memory\n")
        best: dict[str, tuple[float, ...]] = {}
        for _ in range(args.rounds):
            for name in names:
                result = measure(client, CASES[name], batches)
                best[name] = tuple(map(min, best.get(name, result), result))
        print(f"{'per 1 M rows':28}{'CPU s':>8}{'wall s':>8}{'octets/row':>12}{'CPU s + merge':>15}")
        for name, (cpu, wall, octets, merged) in best.items():
            print(f"{name:28}{cpu:8.2f}{wall:8.2f}{octets:12.1f}{merged:15.2f}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"\npeak memory {peak:.0f} MiB, of which the made-up rows {sum(b.nbytes for b in batches) / 2**20:.0f} MiB"
        )
        client.close()


if __name__ == "__main__":
    main()
