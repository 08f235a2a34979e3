"""The cost of the rollups in the process and the service, and how fast the views answer.

    python -m bench.rollups [--pairs 1000 10000 100000]
    python -m bench.rollups --udp ipfix:500000 sflow:250000

With `--udp`, the real service takes datagrams at that rate, in turns without and with rollups.  Without it, made-up
rows are summed, half of them in two windows, each with its own connection: CPU of a row that is added, and of a sum
that is taken.  The sums go into a store, and the views are queried for one window in which every pair was active.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from bench import end_to_end
from bench.insert import VMS, flows
from bench.load import machine
from collector.rollup.groups import as_input
from collector.rollup.sums import PairSums, warm_up
from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.store.writer import INSERT_SETTINGS
from schemas.flows import FLOWS
from schemas.rollups import PAIR_INPUT

HOSTS = 60
NETWORKS = 40
WINDOW_US = 10_000_000
START_US = 1_700_000_000_000_000
LONGEST_FLOW_US = 10_000_000
"""Active timeout of the simulated exporters: records last up to this long, so half of them touch two windows."""


@dataclass(frozen=True)
class Pairs:
    """VMs that communicate: numbers of sender and receiver of each pair, and the VMs' UUIDs."""

    source: NDArray[np.int64]
    destination: NDArray[np.int64]
    uuids: NDArray[np.uint64]


def make_pairs(count: int) -> Pairs:
    """Make `count` different pairs of VMs."""
    rng = np.random.default_rng(5)
    chosen = rng.choice(VMS * VMS, count, replace=False)
    return Pairs(chosen // VMS, chosen % VMS, rng.integers(0, 2**63, (VMS, 2), dtype=np.uint64))


def _names(numbers: NDArray[np.int64], stem: str, count: int) -> pa.Array:
    keys = pa.array([f"{stem}-{number:04d}" for number in range(count)])
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), keys)


def _uuids(numbers: NDArray[np.int64], pairs: Pairs) -> pa.Array:
    keys = pa.Array.from_buffers(pa.binary(16), VMS, [None, pa.py_buffer(pairs.uuids.tobytes())])
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), keys)


def batch(pairs: Pairs, rows: int, start_us: int, span_us: int, seed: int) -> pa.RecordBatch:
    """Make `rows` IPFIX-like rows of these pairs, each seen at its source or its destination."""
    made = flows(rows, start_us, span_us, seed)
    rng = np.random.default_rng(seed)
    pair = rng.integers(0, len(pairs.source), rows)
    source, destination = pairs.source[pair], pairs.destination[pair]
    end = np.asarray(made.column("flow_end").cast(pa.int64()))
    begin = pa.array(end - rng.integers(0, LONGEST_FLOW_US, rows)).cast(pa.timestamp("us", tz="UTC"))
    sighting = FLOWS["sighting"]
    codes = np.array([sighting.code("source"), sighting.code("destination")], np.int8)[rng.integers(0, 2, rows)]
    columns = dict(zip(made.schema.names, made.columns, strict=True)) | {
        "flow_start": begin,
        "src_vm": _names(source, "vm", VMS),
        "dst_vm": _names(destination, "vm", VMS),
        "src_vm_uuid": _uuids(source, pairs),
        "dst_vm_uuid": _uuids(destination, pairs),
        "src_host": _names(source % HOSTS, "host", HOSTS),
        "dst_host": _names(destination % HOSTS, "host", HOSTS),
        "network": _names(source % NETWORKS, "net", NETWORKS),
        "sighting": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(sighting.names)),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in made.schema.names], schema=made.schema)


def one_window(pairs: int, rows: int, batches: int) -> list[pa.RecordBatch]:
    """Make batches of one window that share one dictionary per column, as joined batches share the inventory's."""
    known = make_pairs(pairs)
    span = WINDOW_US // batches
    made = [batch(known, rows, START_US + number * span, span, number) for number in range(batches)]
    for number, one in enumerate(made[1:], start=1):
        columns = [
            pa.DictionaryArray.from_arrays(column.indices, first.dictionary)
            if pa.types.is_dictionary(first.type)
            else column
            for column, first in zip(one.columns, made[0].columns, strict=True)
        ]
        made[number] = pa.RecordBatch.from_arrays(columns, schema=one.schema)
    return made


def compare(directory: str, count: int, rows: int, batches: int) -> None:
    """Sum rows of `count` pairs over 20 s, store the sums in two parts, query the views for a window in the middle."""
    pairs = make_pairs(count)
    start = (time.time_ns() // 1000 // WINDOW_US - 6) * WINDOW_US
    span = 2 * WINDOW_US // batches
    settings = StoreSettings(url=f"chdb://{directory}", database=f"pairs_{count}")
    client = open_client(settings, INSERT_SETTINGS)
    set_up(client, settings)
    sums = PairSums(2**20, 2**23)
    stored, adding, taking = 0, 0.0, 0.0
    for number in range(batches):
        made = batch(pairs, rows, start + WINDOW_US // 2 + number * span, span, number)
        began = time.thread_time()
        rest = sums.add(made)
        adding += time.thread_time() - began
        if rest is not None:
            raise SystemExit(f"{rest.num_rows} rows found no room: use fewer --rows")
        if number in (batches // 2 - 1, batches - 1):
            began = time.thread_time()
            taken = sums.take()
            taking += time.thread_time() - began
            stored += taken.num_rows
            insert(client, PAIR_INPUT, [as_input(taken)], f"sums-{number}")
    print(
        f"{count:7} pairs: {1e6 * adding / rows / batches:.3f} µs a row added, {1e6 * taking / stored:.2f} µs a sum "
        f"taken, {stored} sums stored",
        flush=True,
    )
    window = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(start / 1e6 + 10))
    for sql in VIEWS:
        _ask(client, sql.format(window=window), 3)
    client.command(f"DROP DATABASE {client.database} SYNC")
    client.close()


VIEWS = (
    "SELECT count(), sum(packets), max(loss_high) FROM pair_metrics WHERE time = '{window}'",
    "SELECT * FROM pair_metrics WHERE time = '{window}' ORDER BY bits_per_second DESC LIMIT 20",
    "SELECT * FROM pair_metrics WHERE time = '{window}' AND src_vm = 'vm-0007'",
    "SELECT * FROM vm_metrics WHERE time = '{window}' ORDER BY sent_bits_per_second DESC LIMIT 20",
    "SELECT * FROM host_metrics WHERE time = '{window}'",
)


def _ask(client: Client, sql: str, times: int) -> None:
    taken = []
    for _ in range(times):
        before = time.perf_counter()
        answer = client.query(sql).result_rows
        taken.append(time.perf_counter() - before)
    first = f", first column {answer[0][0]}" if answer else ""
    print(f"    {min(taken):5.2f} to {max(taken):5.2f} s: {sql} ({len(answer)} rows{first})", flush=True)


def udp(loads: Iterable[str], rounds: int) -> None:
    """Run the service under load, without and with rollups."""
    for load in loads:
        kind, rate = load.split(":")
        for _ in range(rounds):
            for enabled in ("false", "true"):
                run = end_to_end.measure(kind, float(rate), f"rollup.enabled={enabled}")
                print(f"rollups {enabled:5}:", run, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rows", type=int, default=125_000, help="rows of one batch")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--udp", nargs="*", metavar="KIND:RATE", help=f"kinds: {', '.join(end_to_end.RATES)}")
    parser.add_argument("--rounds", type=int, default=2, help="with --udp")
    args = parser.parse_args()
    print(machine())
    if args.udp:
        udp(args.udp, args.rounds)
        return
    warm_up()
    with tempfile.TemporaryDirectory() as directory:
        for count in args.pairs:
            compare(directory, count, args.rows, args.batches)


if __name__ == "__main__":
    main()
