"""Rows of pairs as exporters would have caused them, and a store for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import set_up

SECOND_US = 1_000_000
WINDOW_S = 10
HOSTS = 60
Numbers = NDArray[np.int64]
Parts = tuple[Numbers, Numbers, Numbers]


@contextmanager
def made() -> Iterator[Client]:
    """An embedded store that keeps all that is written here."""
    days = {"pair_10s": 30, "pair_1m": 30}
    with tempfile.TemporaryDirectory() as directory:
        settings = StoreSettings(url=f"chdb://{Path(directory) / 'store'}", ttl_days=days)
        client = open_client(settings)
        set_up(client, settings)
        yield client
        client.close()


def insert(
    client: Client, table: str, begins_s: Numbers, pair: Numbers, seen: str, **measures: NDArray[np.float64]
) -> None:
    """Rows of a rollup of pairs: one per window and pair, as one vantage point saw it."""
    count = len(pair)
    names = pa.array([f"vm-{number:06d}" for number in range(2 * (int(pair.max()) + 1))])
    hosts = pa.array([f"host-{number:02d}" for number in range(HOSTS)])
    columns = {
        "time": pa.array(begins_s.astype(np.uint32)),
        "src_vm": names.take(pa.array(2 * pair)),
        "dst_vm": names.take(pa.array(2 * pair + 1)),
        "src_host": hosts.take(pa.array(pair % HOSTS)),
        "dst_host": hosts.take(pa.array((pair * 7 + 1) % HOSTS)),
        "network": pa.array(np.full(count, "net")),
        "sighting": pa.array(np.full(count, seen)),
        **{name: pa.array(values) for name, values in measures.items()},
    }
    client.insert_arrow(table, pa.table(columns))


def parts(rng: np.random.Generator, packets: Numbers) -> Parts:
    """Packets of windows: those of the first second, of the eight in the middle, of the last one."""
    first = rng.binomial(packets, 1 / WINDOW_S)
    last = rng.binomial(packets - first, 1 / (WINDOW_S - 1))
    return first, packets - first - last, last


def report(rng: np.random.Generator, parts: Parts, rate: Numbers) -> dict[str, NDArray[np.float64]]:
    """What a switch reports of the packets of each window, sampled 1 in `rate`."""
    first, middle, last = (rng.binomial(part, 1 / rate) for part in parts)
    seen = first + middle + last
    variance = (rate * (rate - 1.0)) * seen
    return {
        "packets": (seen * rate).astype(np.float64),
        "packets_variance": variance,
        "bytes": (seen * rate * 800).astype(np.float64),
        "bytes_variance": variance * 800**2,
        "samples": seen.astype(np.float64),
        "first_packets": (first * rate).astype(np.float64),
        "last_packets": (last * rate).astype(np.float64),
    }
