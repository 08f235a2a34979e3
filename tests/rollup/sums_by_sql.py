"""What the SQL of the feeds makes of rows of `flows`: the definition that the sums in the process are held against."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client

from schemas.flows import FLOWS
from schemas.render import fill
from schemas.rollups import PAIR_KEYS, STREAM_KEYS
from tests.flow_rows import ask, batch, flow, vm
from tests.rollup.definition import bursts_from_flows, pairs_from_flows

KEYS = ("time", *(column.name for column in (*PAIR_KEYS, *STREAM_KEYS)))
VARIANCES = ("packets_variance", "bytes_variance")

Sums = dict[tuple[Any, ...], dict[str, float]]
"""Measures by key; a UUID as its octets, a time in seconds, connections as their number."""


def by_sql(client: Client) -> Sums:
    """The sums of all rows of `flows`, as if one insert had brought them; connections counted exactly."""
    keys = "toUnixTimestamp(time) AS time, " + ", ".join(
        f"toString({key}) AS {key}" if key == "sighting" else key for key in KEYS[1:]
    )
    select = fill(pairs_from_flows())
    exact = select.replace("uniqCombinedStateIf(12)(", "uniqExactIf(")
    assert exact != select
    found: Sums = {}
    for row in ask(client, f"SELECT {keys}, * EXCEPT ({', '.join(KEYS)}) FROM ({exact})"):
        found[_key(row)] = {name: value for name, value in row.items() if name not in KEYS}
    for row in ask(client, f"SELECT {keys}, {', '.join(VARIANCES)} FROM ({fill(bursts_from_flows())})"):
        for name in VARIANCES:
            found[_key(row)][name] += row[name]
    return found


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    octets = {"src_vm_uuid": "bytes", "dst_vm_uuid": "bytes", "reporter": "packed"}
    return tuple(getattr(row[key], octets[key]) if key in octets else row[key] for key in KEYS)


def by_process(taken: Iterable[pa.RecordBatch]) -> Sums:
    """What was taken, parts of a group added up."""
    found: Sums = {}
    connections: dict[tuple[Any, ...], set[int]] = {}
    for part in taken:
        for row in part.to_pylist():
            row["time"] = int(row["time"].timestamp())
            key = tuple(row.pop(name) for name in KEYS)
            connections.setdefault(key, set()).update(row.pop("connection_hashes"))
            sums = found.setdefault(key, dict.fromkeys(row, 0))
            for name, value in row.items():
                sums[name] = max(sums[name], value) if name == "sampling_rate_max" else sums[name] + value
    for key, sums in found.items():
        sums["connections"] = len(connections[key])
    return found


def assert_same(found: Sums, expected: Sums) -> None:
    """Every group, every column: whole numbers the same, others within 1e-9."""
    assert found.keys() == expected.keys()
    for key, sums in expected.items():
        assert found[key].keys() == sums.keys()
        for name, value in sums.items():
            near = pytest.approx(value, rel=1e-9, abs=1e-6) if isinstance(value, float) else value
            assert found[key][name] == near, (key, name)


VMS = [vm(f"vm-{number}", f"host-{number % 3}", tag=1 + number % 2) for number in range(5)]
VMS.append({"vm": "", "uuid": "00000000-0000-0000-0000-000000000000", "host": "", "tag": 0})
ADDRESSES = [bytes(10) + b"\xff\xff\x0a\x00\x00" + bytes([n]) for n in range(1, 5)] + [
    b"\x20\x01\x0d\xb8" + bytes(11) + bytes([n]) for n in range(3)
]


def draw(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows of all protocols, clocks, rates, flags, fragments; exporters' rows span up to an hour."""
    rng = random.Random(seed)
    return [_sample(rng) if rng.random() < 0.3 else _record(rng) for _ in range(count)]


def _common(rng: random.Random) -> dict[str, Any]:
    packets = rng.choice([0, 1, 1, rng.randrange(1, 1000), 2**40])
    return {
        "packets": packets,
        "bytes": packets * rng.randrange(40, 1500),
        "frame_bytes": rng.choice([0, packets * 60]),
        "samples": rng.randrange(0, 2**32 if rng.random() < 0.05 else 50),
        "sampling_rate": rng.choice([0, 1, 1, 2, 64, 1000, 2**32 - 1]),
        "drop_hint_packets": rng.choice([0, 0, 0, 7]),
        "rate_source": rng.choice(FLOWS["rate_source"].names),
        "ether_type": rng.choice([0x0800, 0x0800, 0x86DD, 0x0806]),
        "ip_protocol": rng.choice([1, 6, 6, 6, 17]),
        "tcp_flags": rng.choice([0, 2, 0x12, 0x10, 4, 0x1B, 0x102, 0x16]),
        "fragment": rng.choice([0, 0, 0, 1, 2]),
        "src_port": rng.choice([0, 80, 443, 5000]),
        "dst_port": rng.choice([0, 80, 443, 5000]),
        "src_ip": rng.choice(ADDRESSES),
        "dst_ip": rng.choice(ADDRESSES),
        "agent": rng.choice(ADDRESSES),
        "domain": rng.randrange(3),
        # Each key on its own, too: a VM that moves, two with one name, one with two networks.
        **({rng.choice(["src_host", "dst_host", "network"]): "other"} if rng.random() < 0.1 else {}),
        **({rng.choice(["src_vm_uuid", "dst_vm_uuid"]): bytes(15) + b"1"} if rng.random() < 0.1 else {}),
    }


def _record(rng: random.Random) -> dict[str, Any]:
    received = rng.choice([rng.uniform(0, 900), rng.randrange(0, 900), rng.randrange(0, 90) * 10])
    ended = received - rng.choice([0, rng.uniform(0, 5), rng.uniform(-30, 900), 86_400, -86_400, 660, 10])
    started = ended - rng.choice([0, 0.5, 10, rng.uniform(0, 60), rng.uniform(0, 3600), -5, 660])
    return flow(
        *rng.choices(VMS, k=2),
        rng.choice(FLOWS["sighting"].names),
        received=received,
        ended=ended,
        started=started,
        **_common(rng) | {"protocol": rng.choice([name for name in FLOWS["protocol"].names if name != "sflow5"])},
    )


def _sample(rng: random.Random) -> dict[str, Any]:
    """A sample on its own: the next one of its connection is far off."""
    return flow(
        *rng.choices(VMS, k=2),
        rng.choice(FLOWS["sighting"].names),
        received=rng.choice([rng.uniform(0, 900), rng.randrange(0, 90) * 10]),
        **_common(rng) | {"protocol": "sflow5", "tcp_seq": rng.randrange(2**32)},
    )


def draw_bursts(seed: int, count: int) -> list[dict[str, Any]]:
    """Samples of TCP in the order in which they arrive: bursts of several connections, some beside others by chance.

    Most come at one time, as those of a datagram do.  Where sequence numbers wrap, times differ: the SQL sorts by both.
    """
    rng = random.Random(seed)
    rows, at = [], 1.0
    seqs = {connection: rng.randrange(2**31) for connection in range(12)} | {0: 2**32 - 9000, 1: 2**32 - 100_000}
    while len(rows) < count:
        at += rng.choice([0.00001, 0.001, 0.2, 0.999, 1.001, 3])
        connection, rate = rng.choice(list(seqs)), rng.choice([1, 2, 8, 64, 5000])
        for _ in range(rng.choice([1, 1, 2, 3, 7, 17])):
            length = rng.choice([40, 1500, 1500, 9000])
            row = flow(VMS[connection % 3], VMS[3 + connection % 2], "source", received=at, bytes=length)
            of = {"src_port": 1000 + connection, "ip_protocol": 6, "sampling_rate": rate, "tcp_seq": seqs[connection]}
            rows.append(row | of)
            step = rng.choice([max(length - 40, 1), length, length, length + 1])
            seqs[connection] = (seqs[connection] + step) % 2**32
            at += 0.00001 if connection < 2 else rng.choice([0, 0, 0.00005, 0.4])
        seqs[connection] = (seqs[connection] + rng.choice([0, 1_000_000])) % 2**32
    return rows


def batches(rows: Sequence[dict[str, Any]], size: int) -> list[pa.RecordBatch]:
    """Rows in batches of `size`, each with dictionaries of its own."""
    return [batch(FLOWS, rows[first : first + size]) for first in range(0, len(rows), size)]
