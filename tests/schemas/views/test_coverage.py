"""95 % intervals hold the truth in 93 to 97 % of many draws.

Each draw is a VM pair of its own, so one question asks them all.  The truth is what was drawn before sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from bench.insert import batch
from collector.store.settings import StoreSettings
from schemas.column import TIME_US
from schemas.flows import FLOWS
from tests.flow_rows import BEGIN_US, ask, emptied, store, store_rows

DRAWS = 2_000
BLOCK = 500_000
"""Rows of one insert, as the writer makes them."""

Ints = NDArray[np.int64]


@pytest.fixture(scope="module")
def made(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="coverage")) as client:
        yield client


@pytest.fixture
def client(made: Client) -> Client:
    return emptied(made)


def enum(name: str, value: str, rows: int) -> pa.Array:
    column = FLOWS[name]
    codes = pa.array(np.full(rows, column.code(value), np.int8))
    return pa.DictionaryArray.from_arrays(codes, pa.array(column.names))


def add(client: Client, pair: Ints, seen: str, rate: int, **columns: Any) -> None:
    """Rows of the pairs with these numbers, as sFlow samples of this rate; `columns` as arrays."""
    rows = len(pair)
    names = pa.DictionaryArray.from_arrays(
        pa.array(pair.astype(np.int32)), pa.array([f"draw-{number}" for number in range(DRAWS)])
    )
    middle = pa.array(np.full(rows, BEGIN_US + 5_000_000)).cast(TIME_US)
    values = {
        "packets": np.ones(rows, np.uint64),
        "bytes": np.full(rows, 100, np.uint64),
        "sampling_rate": np.full(rows, rate, np.uint32),
        "time_received": middle,
        "flow_start": middle,
        "flow_end": middle,
    } | columns
    values.setdefault("samples", np.asarray(values["packets"]).astype(np.uint32))
    made = batch(
        FLOWS,
        rows,
        src_vm=names,
        dst_vm=names,
        sighting=enum("sighting", seen, rows),
        rate_source=enum("rate_source", "record", rows),
        protocol=enum("protocol", "sflow5", rows),
        **{name: value if isinstance(value, pa.Array) else pa.array(value) for name, value in values.items()},
    )
    for start in range(0, rows, BLOCK):
        store_rows(client, FLOWS, made.slice(start, BLOCK), f"{seen}-{rate}-{start}")


def answers(client: Client) -> dict[int, dict[str, Any]]:
    """Rows of the view by the number of the draw."""
    rows = ask(client, "SELECT * FROM pair_metrics")
    return {int(row["src_vm"].removeprefix("draw-")): row for row in rows}


def covered(rows: Mapping[int, Mapping[str, Any]], truth: NDArray[Any], name: str) -> float:
    """Share of the draws in which the truth lies between `<name>low` and `<name>high`."""
    return float(np.mean([row[f"{name}low"] <= truth[draw] <= row[f"{name}high"] for draw, row in rows.items()]))


@pytest.mark.parametrize(
    ("packets", "loss", "source_rate", "destination_rate"),
    [
        (6_400, 0.05, 64, 64),
        (6_400, 0.30, 64, 64),
        (640_000, 0.05, 64, 256),
        (4_000, 0.05, 2, 2),
        (20_000, 0.01, 8, 1),
        (2_000, 0.05, 64, 64),
    ],
)
def test_loss(client: Client, packets: int, loss: float, source_rate: int, destination_rate: int) -> None:
    rng = np.random.default_rng(packets + source_rate)
    pair = np.arange(DRAWS)
    lost = rng.binomial(packets, loss, DRAWS)
    for seen, rate, passing in (
        ("source", source_rate, np.full(DRAWS, packets)),
        ("destination", destination_rate, packets - lost),
    ):
        sampled = rng.binomial(passing, 1 / rate)
        add(client, pair, seen, rate, packets=sampled.astype(np.uint64), bytes=(sampled * 100).astype(np.uint64))

    rows = answers(client)

    reported = {draw: row for draw, row in rows.items() if row["loss_evidence"] == "measured"}
    assert {row["loss_evidence"] for row in rows.values()} <= {"measured", "insufficient"}
    # About 31 samples on each side: one half has the 60 that it takes, and of those 95 % are right as well.
    assert len(reported) == DRAWS if packets > 2_000 else DRAWS * 0.3 < len(reported) < DRAWS * 0.8
    assert 0.93 <= covered(reported, lost / packets, "loss_") <= 0.97
    assert all(row["loss_ratio"] is row["loss_low"] is None for draw, row in rows.items() if draw not in reported)


@pytest.mark.parametrize(("packets", "rate"), [(1, 8), (3, 8), (2, 64), (40, 64)])
def test_few_packets_of_which_one_was_sampled(client: Client, packets: int, rate: int) -> None:
    """There is a window only where something was sampled: then, too, the interval holds what was sent."""
    sampled = np.random.default_rng(rate).binomial(packets, 1 / rate, 400 * DRAWS)
    sampled = sampled[sampled > 0][:DRAWS]
    add(client, np.repeat(np.arange(len(sampled)), sampled), "source", rate)

    assert covered(answers(client), np.full(DRAWS, packets / 10), "packets_per_second_") >= 0.94


@pytest.mark.parametrize(("packets", "rate"), [(640, 64), (6_400, 64), (600, 2), (51_200, 256)])
def test_packets_and_bits(client: Client, packets: int, rate: int) -> None:
    """Packets of three sizes; each sample is a row, as in sFlow."""
    rng = np.random.default_rng(rate)
    sizes = np.array([60, 600, 1500])
    mix = rng.multinomial(packets, [0.5, 0.2, 0.3], DRAWS)
    sampled = rng.binomial(mix, 1 / rate)
    pair = np.repeat(np.arange(DRAWS), sampled.sum(1))
    octets = np.repeat(np.tile(sizes, DRAWS), sampled.ravel())
    add(client, pair, "source", rate, bytes=octets.astype(np.uint64))

    rows = answers(client)

    assert 0.93 <= covered(rows, np.full(DRAWS, packets / 10), "packets_per_second_") <= 0.97
    if packets // rate >= 100:  # the sizes of ten samples say little about those of all packets
        assert 0.93 <= covered(rows, (mix @ sizes) * 8 / 10, "bits_per_second_") <= 0.97


@pytest.mark.parametrize("rate", [64, 256])
def test_bursts_of_segments_count_as_one_sample(client: Client, rate: int) -> None:
    """TCP with segmentation offload: up to 45 segments are sampled together or not at all."""
    rng = np.random.default_rng(7)
    supers = 40 * rate  # super-packets sent by each pair
    taken = rng.binomial(supers, 1 / rate, DRAWS)
    size = 1448
    segments = rng.integers(1, 46, taken.sum())
    # Truth: what all super-packets hold on average; those that were not sampled are drawn as their sum.
    sampled_sum = np.add.reduceat(segments, np.concatenate([[0], taken.cumsum()[:-1]]))
    rest = rng.normal(23 * (supers - taken), np.sqrt((45**2 - 1) / 12 * (supers - taken)))
    truth = sampled_sum + rest
    pair = np.repeat(np.repeat(np.arange(DRAWS), taken), segments)
    order = np.arange(len(pair)) - np.repeat(segments.cumsum() - segments, segments)
    begin = np.repeat(rng.integers(0, 2**31, len(segments)), segments)
    stream = np.zeros((len(pair), 16), np.uint8)
    stream[:, 8:] = pair[:, None].astype(">i8").view(np.uint8).reshape(-1, 8)
    add(
        client,
        pair,
        "source",
        rate,
        bytes=np.full(len(pair), size + 52, np.uint64),
        ip_protocol=np.full(len(pair), 6, np.uint8),
        tcp_flags=np.full(len(pair), 16, np.uint16),
        tcp_seq=((begin + order * size) % 2**32).astype(np.uint32),
        src_ip=pa.Array.from_buffers(pa.binary(16), len(pair), [None, pa.py_buffer(stream.tobytes())]),
    )

    rows = answers(client)

    assert 0.93 <= covered(rows, truth / 10, "packets_per_second_") <= 0.97
    assert 0.93 <= covered(rows, truth * 1500 * 8 / 10, "bits_per_second_") <= 0.97
