"""The cost of each stage of the data path, on one stream: `python -m bench.stages [--save FILE] [KIND …]`.

CPU time per datagram and per record, and bytes that the stage writes or copies per record.  Every stage is the
service's own code and gets the output of the stage before:

  receive, kernel   recvmmsg itself: from the socket's queue to our buffer
  receive, ours     pack a read into one batch, event loop included
  decode, name      batches of 2,048 datagrams
  sum               rows into the sums of VM pairs, and the sums taken out at the end
  encode, insert    blocks of some 250,000 rows for the embedded store; background merges are off
  merge             of all parts into one: a running service does less of it, and later
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench import traffic
from bench.growth import HISTORY_US, inventoried
from bench.insert import cpu_seconds
from bench.load import command, machine, records, save
from collector.inventory.naming import Namer
from collector.inventory.naming import warm_up as warm_up_names
from collector.listen import recvmmsg
from collector.listen.settings import ListenSettings
from collector.listen.udp import Listener
from collector.log import LogSettings, setup
from collector.metrics import Metrics
from collector.rollup.sums import PairSums
from collector.rollup.sums import warm_up as warm_up_sums
from collector.store.client import open_client
from collector.store.native import block, insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.store.writer import INSERT_SETTINGS
from collector.threads import run
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from schemas.flows import FLOWS

KINDS = ("ipfix", "netflow9", "netflow5", "sflow_switch")
EXPORTERS = 16
DATAGRAMS = 2_048
ROUNDS = 12
INTERFACES = 10_000
RECEIVE_RATE = 60_000
"""Datagrams per second while receiving is measured: more than half a gigabit."""
RECEIVE_SECONDS = 3.0
BLOCK_ROWS = 250_000
INSERTS = 4


@dataclass(frozen=True)
class Stage:
    """CPU time in µs, bytes written or copied."""

    name: str
    per_datagram: float
    per_record: float
    bytes_per_record: float


class InKernel:
    """Sums the CPU time of this thread in the system call."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._call: Any = recvmmsg._recvmmsg

    def __call__(self, *arguments: object) -> int:
        began = time.thread_time()
        count: int = self._call(*arguments)
        self.seconds += time.thread_time() - began
        return count


async def _receive(kind: str, per_datagram: float, kernel: InKernel) -> tuple[float, float, float]:
    """Return µs in the kernel and above it, and bytes, per datagram."""
    metrics = Metrics()
    async with Listener(ListenSettings(addresses=("127.0.0.1:0",)), metrics, lambda datagrams: True) as listener:
        address = str(listener.addresses[0])
        sender = await asyncio.create_subprocess_exec(
            *command(kind, address, RECEIVE_RATE * per_datagram, RECEIVE_SECONDS), stdout=asyncio.subprocess.PIPE
        )
        began, before = time.thread_time(), kernel.seconds
        await sender.communicate()
        await asyncio.sleep(0.1)
        took, inside = time.thread_time() - began, kernel.seconds - before
        await listener.stop()
    count = metrics.value("listen_datagrams_total", address=address) or 0
    received = metrics.value("listen_bytes_total", address=address) or 0
    return 1e6 * inside / count, 1e6 * (took - inside) / count, received / count


def _decoded(kind: str) -> tuple[list[pa.RecordBatch], float, float]:
    """Return named batches, and µs of decoding and of naming per batch."""
    decoder, namer = Decoder(), Namer(HISTORY_US, 3_000_000)
    namer.snapshot = inventoried(INTERFACES)
    each = DATAGRAMS // EXPORTERS
    batches, decoding, naming = [], [], []
    for turn in range(ROUNDS):
        batch = Datagrams.of(
            (payload, f"127.9.0.{exporter}", 2055, time.time_ns() // 1000)
            for exporter in range(EXPORTERS)
            for payload in traffic.payloads(kind, exporter, each, turn * each)
        )
        began = time.thread_time()
        flows = decoder.decode(batch).flows
        decoded = time.thread_time()
        batches += [namer.flows(part) for part in flows]
        naming.append(1e6 * (time.thread_time() - decoded))
        decoding.append(1e6 * (decoded - began))
    return batches, median(decoding[1:]), median(naming[1:])


def alone(kinds: list[str]) -> None:
    """Print rates of decoding and of naming."""
    Decoder().warm_up()
    warm_up_names()
    for kind in kinds:
        batches, decoding, naming = _decoded(kind)
        rows = sum(batch.num_rows for batch in batches) / ROUNDS
        print(
            f"{kind:12} decode {rows / decoding:6.2f} M rows/s, {decoding / DATAGRAMS:6.2f} µs a datagram of "
            f"{rows / DATAGRAMS:.1f} rows; name {rows / naming:6.2f} M rows/s",
            flush=True,
        )


def _summed(batches: list[pa.RecordBatch]) -> float:
    """Return µs per record of adding all to the sums and taking them out, the last of three times."""
    for _ in range(3):
        sums = PairSums(2**19, 2**21)
        began = time.thread_time()
        for batch in batches:
            assert sums.add(batch) is None
        sums.take()
        took = time.thread_time() - began
    return 1e6 * took / sum(batch.num_rows for batch in batches)


def _later(batch: pa.RecordBatch, seconds: int) -> pa.RecordBatch:
    """Return the same flows, shifted in time: parts follow each other as those of a service do."""
    moved = batch
    for name in ("time_received", "flow_start", "flow_end"):
        column = pc.add(batch.column(name), pa.scalar(timedelta(seconds=seconds), pa.duration("us")))
        moved = moved.set_column(moved.schema.get_field_index(name), batch.schema.field(name), column)
    return moved


def _stored(batches: list[pa.RecordBatch]) -> tuple[float, float, float, float, float]:
    """Return µs per record of encoding, inserting, merging; bytes per record handed over, and on disk."""
    blocks: list[list[pa.RecordBatch]] = [[]]
    for turn in range(-(-BLOCK_ROWS * INSERTS // sum(batch.num_rows for batch in batches))):
        for batch in batches:
            if sum(part.num_rows for part in blocks[-1]) >= BLOCK_ROWS:
                blocks.append([])
            blocks[-1].append(_later(batch, turn))
    rows = sum(part.num_rows for parts in blocks for part in parts)
    began = time.thread_time()
    handed = sum(len(buffer) for parts in blocks for buffer in block(FLOWS, parts)[1])
    encoded = 1e6 * (time.thread_time() - began) / rows
    with tempfile.TemporaryDirectory() as directory:
        settings = StoreSettings(url=f"chdb://{directory}")
        client = open_client(settings, INSERT_SETTINGS)
        set_up(client, settings)
        client.command("SYSTEM STOP MERGES flows")
        began = cpu_seconds()
        for number, parts in enumerate(blocks):
            insert(client, FLOWS, parts, f"stage-{number}", 1)
        inserted = 1e6 * (cpu_seconds() - began) / rows - encoded
        disk = client.query(
            "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts WHERE active AND table = 'flows'"
        ).result_rows[0][0]
        client.command("SYSTEM START MERGES flows")
        began = cpu_seconds()
        client.command("OPTIMIZE TABLE flows FINAL")
        merged = 1e6 * (cpu_seconds() - began) / rows
        client.close()
    return encoded, inserted, merged, handed / rows, float(disk)


def measure(kind: str, kernel: InKernel) -> list[Stage]:
    """Measure all stages of one kind."""
    sample = traffic.payloads(kind, 0, 256)
    each = sum(records(kind, payload) for payload in sample) / len(sample)
    inside, above, received = run(_receive(kind, each, kernel))
    batches, decoding, naming = _decoded(kind)
    rows = sum(batch.num_rows for batch in batches)
    decoded = sum(
        batch.column(name).nbytes for batch in batches for name in batch.schema.names if name not in namer_columns()
    )
    named = sum(batch.column(name).indices.nbytes for batch in batches for name in namer_columns())
    encoded, inserted, merged, handed, disk = _stored(batches)
    costs = (
        ("receive, kernel", inside / each, received / each),
        ("receive, ours", above / each, received / each),
        ("decode", decoding / DATAGRAMS / each, decoded / rows),
        ("name", naming / DATAGRAMS / each, named / rows),
        ("sum", _summed(batches), 0.0),
        ("encode", encoded, handed),
        ("insert", inserted, disk),
        ("merge", merged, disk),
    )
    return [Stage(name, cost * each, cost, written) for name, cost, written in costs]


def namer_columns() -> list[str]:
    """Return the columns that naming adds: numbers of names."""
    return [
        name for end in ("src", "dst") for name in (f"{end}_vm", f"{end}_project", f"{end}_host", f"{end}_vm_uuid")
    ] + ["network", "sighting"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write the figures there, as JSON")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {', '.join(KINDS)}")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    setup(LogSettings(level="error"))
    Decoder().warm_up()
    warm_up_names()
    warm_up_sums()
    kernel = InKernel()
    recvmmsg._recvmmsg = kernel
    print(machine())
    results = {}
    for kind in args.kinds or KINDS:
        stages = measure(kind, kernel)
        results[kind] = [asdict(stage) for stage in stages]
        print(f"\n| {kind} | µs/datagram | µs/record | bytes/record |\n|---|---|---|---|")
        for stage in stages:
            print(
                f"| {stage.name} | {stage.per_datagram:.2f} | {stage.per_record:.3f} | {stage.bytes_per_record:.0f} |"
            )
        whole = sum(stage.per_record for stage in stages[:-1])
        print(
            f"| all but merge | {whole * stages[0].per_datagram / stages[0].per_record:.2f} | {whole:.3f} | |",
            flush=True,
        )
    if args.save:
        save(args.save, results)


if __name__ == "__main__":
    main()
