"""What the sums of VM pairs cost in the process: CPU µs a row of `add`, and a row of the result of `take`.

    python -m bench.sums [--pairs 1000 10000 100000] [--rows 50000] [--batches 40]

Rows are those of bench/rollups.py: IPFIX-like, half of them in two windows, each with a connection of its own.  All
batches are of one window of 10 s, so the sums grow as they do in service.  The last line has a pair of its own for
every row.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa

from bench.__main__ import machine
from bench.rollups import WINDOW_US, batch, make_pairs
from collector.rollup.sums import PairSums, warm_up

START_US = 1_700_000_000_000_000
SETS = 3


def measure(label: str, batches: list[pa.RecordBatch], links: int) -> str:
    """Add all batches and take; the median of several sets."""
    sums = PairSums(1 << 23, links)
    adds, takes, groups, connections = [], [], 0, 0
    for _ in range(SETS):
        begun = time.thread_time()
        for rows in batches:
            assert sums.add(rows) is None
        added = time.thread_time()
        groups, connections = sums.groups, sums.connections
        rows_added = sums.rows
        sums.take()
        takes.append(1e6 * (time.thread_time() - added))
        adds.append(1e6 * (added - begun) / rows_added)
    take = sorted(takes)[SETS // 2]
    return (
        f"{label:24} add {sorted(adds)[SETS // 2]:6.3f} µs/row (sets: {', '.join(f'{one:.3f}' for one in adds)}), "
        f"take {take / 1000:6.1f} ms = {take / groups:5.2f} µs/group; {groups} groups, {connections} connections"
    )


def made(pairs: int, rows: int, batches: int) -> list[pa.RecordBatch]:
    """Batches of one window, with one dictionary a column, as the join gives batches that of the inventory."""
    known = make_pairs(pairs)
    span = WINDOW_US // batches
    out = [batch(known, rows, START_US + number * span, span, number) for number in range(batches)]
    first = out[0]
    return [
        pa.RecordBatch.from_arrays(
            [
                pa.DictionaryArray.from_arrays(column.indices, like.dictionary)
                if pa.types.is_dictionary(like.type)
                else column
                for column, like in zip(one.columns, first.columns, strict=True)
            ],
            schema=first.schema,
        )
        for one in out
    ]


def few_connections(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The same with one address and port a VM: connections repeat as often as pairs do."""
    out = []
    for rows in batches:
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        for end in ("src", "dst"):
            vm = np.asarray(rows.column(f"{end}_vm").indices)
            octets = np.zeros((len(vm), 16), np.uint8)
            octets[:, 10:12], octets[:, 12] = 255, 10
            octets[:, 14:] = vm.astype(">u2").view(np.uint8).reshape(-1, 2)
            columns[f"{end}_ip"] = pa.Array.from_buffers(pa.binary(16), len(vm), [None, pa.py_buffer(octets.tobytes())])
            columns[f"{end}_port"] = pa.array(np.full(len(vm), 443, np.uint16))
        out.append(pa.RecordBatch.from_arrays([columns[name] for name in rows.schema.names], schema=rows.schema))
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rows", type=int, default=50_000, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=40)
    args = parser.parse_args()
    warm_up()
    print(machine())
    links = 1 << 23
    for pairs in args.pairs:
        batches = made(pairs, args.rows, args.batches)
        print(measure(f"{pairs} pairs", batches, links), flush=True)
        print(measure(f"{pairs}, few connections", few_connections(batches), links), flush=True)
    own = made(args.rows * 10, args.rows, 10)
    print(measure("a pair of its own a row", own, links), flush=True)


if __name__ == "__main__":
    main()
