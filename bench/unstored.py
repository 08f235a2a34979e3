"""vmflow without a store: receives, decodes and names, then drops the rows.

    python -m bench.unstored --inventory FILE

Prints one JSON object with its address once it is ready, and one with its counts when it is asked to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pyarrow as pa

from collector.decode.exporter_stats import OwnLoss
from collector.decode.settings import DecodeSettings
from collector.decode.stage import DecodeStage
from collector.decode.workers import stages
from collector.inventory.settings import InventorySettings, StaticSettings
from collector.inventory.sources.registry import threads
from collector.inventory.stage import InventoryStage
from collector.listen.settings import ListenSettings
from collector.listen.udp import Listener, wall_clock_us
from collector.metrics import Metrics
from collector.process import startup
from collector.threads import Bridge, run


class Nowhere:
    """Takes rows and keeps only their number."""

    def __init__(self) -> None:
        self.flows = 0

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        """Count and forget."""
        self.flows += batch.num_rows if table == "flows" else 0
        return True

    async def ready(self) -> None:
        """Return at once: there is always room."""


async def serve(file: Path | None, buffer_bytes: int, workers: int) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    metrics, sink = Metrics(), Nowhere()
    known = InventorySettings(static=(StaticSettings(file=file),) if file else ())
    bridge = Bridge(dict.fromkeys(stages(workers), 1) | threads(known))
    inventory = InventoryStage(known, metrics, bridge, sink, clock_us=wall_clock_us, workers=workers)
    decode = DecodeStage(
        DecodeSettings(decode_workers=workers), metrics, bridge, sink, inventory,
        clock_us=wall_clock_us, own_loss=OwnLoss, state_file=None,
    )  # fmt: skip
    listen = ListenSettings(addresses=("127.0.0.1:0",), receive_buffer_bytes=buffer_bytes)
    listener = Listener(listen, metrics, decode.offer)
    async with AsyncExitStack() as up:
        for component in (bridge, inventory, decode, listener):
            await up.enter_async_context(component)
        await decode.ready.wait()
        print(json.dumps({"address": str(listener.addresses[0])}), flush=True)
        await stopping.wait()
    counted = {
        "records": sink.flows,
        "kernel_drops": listener.kernel_drops,
        "queue_drops": decode.inbox.dropped_datagrams,
        "ends_named": metrics.value("inventory_ends_total", named="yes"),
        "ends_unnamed": metrics.value("inventory_ends_total", named="no"),
    }
    print(json.dumps(counted), flush=True)


def main() -> None:
    """Serve with the same event loop as the service."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", type=Path, help="a file as `inventory.static` takes it")
    parser.add_argument("--buffer-bytes", type=int, default=32 << 20)
    parser.add_argument("--workers", type=int, default=1, help="decode workers")
    args = parser.parse_args()
    startup.begin()
    run(serve(args.inventory, args.buffer_bytes, args.workers))


if __name__ == "__main__":
    main()
