"""The sums made in the process are those that the SQL of the feeds defines, whatever batches bring the rows."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client

from collector.rollup import loop, plan
from collector.rollup.sums import MOST_DICTIONARIES, PairSums
from collector.store.settings import StoreSettings
from schemas.column import Origin
from schemas.flows import FLOWS
from tests.flow_rows import BEGIN_US, add, emptied, flow, named, store
from tests.rollup.sums_by_sql import VMS, Sums, assert_same, batches, by_process, by_sql, draw, draw_bursts

ROOT = Path(__file__).resolve().parents[2]
ENRICHED = FLOWS.arrow(Origin.ENRICH).names


@pytest.fixture(scope="module")
def client(store_directory: Any) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="sums")) as client:
        yield client


@pytest.fixture
def empty(client: Client) -> Client:
    return emptied(client)


def sums() -> PairSums:
    """Room enough, and the same places in hash tables every time."""
    return PairSums(100_000, 100_000, key=1)


@pytest.mark.parametrize("seed", range(4))
def test_random_rows_sum_up_as_the_sql_says(empty: Client, seed: int) -> None:
    rows = draw(seed, 1500)
    add(empty, rows)
    made = sums()
    for batch in batches(rows, 170):
        assert made.add(batch) is None

    assert made.rows == len(rows)
    assert made.oldest_us == min(row["time_received"] for row in rows)
    assert made.newest_us == max(row["time_received"] for row in rows)
    assert_same(by_process([made.take()]), by_sql(empty))


@pytest.mark.parametrize("seed", range(3))
def test_bursts_widen_variances_as_the_sql_says(empty: Client, seed: int) -> None:
    rows = draw_bursts(seed, 600)
    add(empty, rows)
    made = sums()
    for batch in batches(rows, 47):
        made.add(batch)

    assert_same(by_process([made.take()]), by_sql(empty))


@pytest.mark.parametrize("stem", ["ovs_sflow_tcp_udp_s64", "ovs_sflow_lossy", "ovs_ipfix_s16", "ovs_netflow5"])
def test_captures_sum_up_as_the_sql_says(empty: Client, stem: str) -> None:
    rows = named(stem)
    add(empty, rows)
    made = sums()
    for batch in batches(rows, 100):
        made.add(batch)

    assert_same(by_process([made.take()]), by_sql(empty))


def summed(parts: list[pa.RecordBatch], made: PairSums | None = None) -> Sums:
    """What is taken after these batches."""
    made = made or sums()
    for part in parts:
        assert made.add(part) is None
    return by_process([made.take()])


def test_slices_and_missing_columns_count_as_the_sql_says(empty: Client) -> None:
    """Rows without names and with an offset: what a batch lacks is missing, not an error."""
    lacking = [*ENRICHED, "drop_hint_packets", "frame_bytes"]
    rows = [{name: value for name, value in row.items() if name not in lacking} for row in draw(11, 300)]
    add(empty, rows)
    whole = batches(rows, 1000)[0].drop_columns(lacking)
    found = summed([whole.slice(0, 7), whole.slice(7, 1), whole.slice(8)])

    assert_same(found, by_sql(empty))
    assert {key[1:-3] for key in found} == {("", "", bytes(16), bytes(16), "", "", "", "unknown")}
    assert {key[-3] for key in found} == {row["protocol"] for row in rows}


def test_windows_add_up_to_the_records() -> None:
    rows = [row | {"drop_hint_packets": 3} for row in draw(12, 2000)]
    found = list(summed(batches(rows, 500)).values())

    def total(name: str) -> float:
        return sum(one[name] for one in found)

    assert total("records") == pytest.approx(2000, rel=1e-9)
    for name, column in (("packets", "packets"), ("bytes", "bytes"), ("frame_bytes", "frame_bytes")):
        assert total(name) == pytest.approx(sum(row[column] * row["sampling_rate"] for row in rows), rel=1e-9)
    assert total("drop_hint_packets") == sum(3 * row["sampling_rate"] for row in rows)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 5000])
def test_order_and_cutting_of_batches_do_not_matter(size: int) -> None:
    rows = [row for row in draw(13, 700) if row["protocol"] != "sflow5"]
    expected = summed(batches(rows, 700))
    random.Random(size).shuffle(rows)

    assert_same(summed(batches(rows, size)), expected)


def test_taking_starts_anew() -> None:
    rows = draw_bursts(7, 300)
    made = sums()
    first = summed(batches(rows, 100), made)

    assert (made.rows, made.oldest_us, made.newest_us, made.groups, made.connections) == (0, 0, 0, 0, 0)
    nothing = made.take()
    assert (nothing.num_rows, len(nothing.column("src_vm").dictionary)) == (0, 0)
    assert_same(summed(batches(rows, 100), made), first)


def test_memory_that_few_rows_do_not_need_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.rollup.tables._KEPT_BYTES", 0)
    many, few, made = batches(draw(20, 900), 300), batches(draw(21, 10), 10), sums()
    expected = summed(many, made)
    large = made._tables
    assert_same(summed(few, made), summed(few))

    assert made._tables.groups is not large.groups
    assert made._tables.link_hashes is not large.link_hashes
    assert_same(summed(many, made), expected)


def test_a_burst_goes_over_batches_and_is_cut_by_taking() -> None:
    """Six segments of one super-packet, sampled at 1 in 64: k samples have the variance 64 × 63 × k²."""
    sample = {"received": 1, "sampling_rate": 64, "ip_protocol": 6, "bytes": 1500}
    rows = [flow(*VMS[:2], "source", tcp_seq=1448 * number, **sample) for number in range(6)]
    three, other_three = batches(rows, 3)
    made = sums()

    def variances(parts: list[pa.RecordBatch]) -> list[tuple[float, float]]:
        return [(one["packets_variance"], one["bytes_variance"]) for one in summed(parts, made).values()]

    assert variances([three, other_three]) == [(64 * 63 * 36, 64 * 63 * 9000**2)]
    assert variances([three]) == [(64 * 63 * 9, 64 * 63 * 4500**2)]
    assert variances([other_three]) == [(64 * 63 * 9, 64 * 63 * 4500**2)]


def test_what_does_not_fit_is_given_back_and_nothing_is_lost() -> None:
    rows = draw(14, 900)
    expected = summed(batches(rows, 900))
    bounded, taken = PairSums(200, 150, key=1), []
    added = 0
    for batch in batches(rows, 300):
        rest: pa.RecordBatch | None = batch
        while rest is not None:
            before, given = bounded.rows, rest.num_rows
            rest = bounded.add(rest)
            added += bounded.rows - before
            assert bounded.rows - before == given - (rest.num_rows if rest is not None else 0)
            assert bounded.groups <= 200
            assert bounded.connections <= 150
            if rest is not None:
                # A record may need 67 more.
                assert bounded.groups > 200 - 67 or bounded.connections > 150 - 67
                taken.append(bounded.take())
    taken.append(bounded.take())

    assert len(taken) > 5
    assert added == len(rows)
    assert_same(by_process(taken), expected)


def repeated(count: int, connections: int) -> list[pa.RecordBatch]:
    """Rows of some connections of two pairs, which come again and again."""
    ends = [{"src_port": number, "ip_protocol": 6} for number in range(connections // 2)]
    rows = [flow(VMS[number], VMS[2], "source", received=1, **end) for end in ends for number in range(2)]
    return batches(rows * (count // len(rows)), 500)


def test_connections_that_come_again_need_no_room() -> None:
    """Thirty times as many rows as connections have room; nothing is given back, nothing looks full."""
    made = PairSums(200, 400, key=1)
    for batch in repeated(12_000, 200):
        assert made.add(batch) is None
        assert not made.full
        assert made.connections <= 400
    found = made.take()

    assert found.num_rows == 2
    assert [len(set(hashes)) for hashes in found.column("connection_hashes").to_pylist()] == [100, 100]
    assert [len(hashes) for hashes in found.column("connection_hashes").to_pylist()] == [100, 100]
    assert found.column("records").to_pylist() == [6_000, 6_000]


def test_connections_that_fill_the_room_make_it_full() -> None:
    made = PairSums(200, 400, key=1)
    for batch in repeated(310, 310):
        assert made.add(batch) is None

    assert made.connections == 310
    assert made.full


def test_many_links_are_thinned_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned for the first time after 200 of them, some of them new: none is lost or gets into another group."""
    rows = draw(19, 3000)
    expected = summed(batches(rows, 500))
    monkeypatch.setattr("collector.rollup.sums.FIRST_THINNING", 200)
    made = sums()
    for batch in batches(rows, 500):
        assert made.add(batch) is None

    assert_same(by_process([made.take()]), expected)


def test_full_tells_before_rows_are_given_back() -> None:
    made = PairSums(2000, 2000, key=1)
    while not made.full:
        assert made.groups <= 1500
        assert made.add(batches(draw(made.rows, 20), 20)[0]) is None

    assert made.groups > 1500


def test_one_record_must_fit() -> None:
    with pytest.raises(ValueError, match="67"):
        PairSums(66, 1000)
    with pytest.raises(ValueError, match="67"):
        PairSums(1000, 66)


def test_many_connections_are_kept_apart_in_every_window() -> None:
    """More than the tables begin with: 5-tuples by pair and window, both directions alike, counted here by sets."""
    rng = random.Random(15)
    rows, truth = [], {}
    for _ in range(12_000):
        one, other = (
            (bytes(15) + bytes([rng.randrange(20)]), rng.randrange(40)),
            (bytes(15) + bytes([rng.randrange(20)]), rng.randrange(40)),
        )
        pair, received, protocol = rng.choices(VMS[:3], k=2), rng.choice([5, 15]), rng.choice([6, 17])
        ends = {"src_ip": one[0], "src_port": one[1], "dst_ip": other[0], "dst_port": other[1]}
        rows.append(flow(*pair, "source", received=received, ip_protocol=protocol, ether_type=0x86DD, **ends))
        of = truth.setdefault((received, pair[0]["vm"], pair[1]["vm"]), set())
        of.add((frozenset([one, other]), protocol))
    found = summed(batches(rows, 3000))

    counted = {(key[0] - BEGIN_US // 1_000_000 + 5, *key[1:3]): one["connections"] for key, one in found.items()}
    assert counted == {key: len(of) for key, of in truth.items()}
    assert sum(counted.values()) > 10_000


def test_dictionaries_come_and_go() -> None:
    """Names are the same by whatever number a batch calls them, also after more dictionaries than are remembered."""
    rows = draw(16, 3 * MOST_DICTIONARIES)
    expected = summed(batches(rows, len(rows)))
    large = batches(rows, len(rows))[0]
    names = pa.array([f"nobody-{number}" for number in range(100_000)] + large.column("src_vm").dictionary.to_pylist())
    codes = pa.array(large.column("src_vm").indices.to_numpy() + np.int32(100_000))
    position = large.schema.get_field_index("src_vm")
    with_large = large.set_column(position, large.schema.field(position), pa.DictionaryArray.from_arrays(codes, names))

    assert_same(summed(batches(rows, 1)), expected)
    assert_same(summed([with_large.slice(first, 10) for first in range(0, len(rows), 10)]), expected)


def test_columns_of_another_type_and_nulls_are_refused() -> None:
    batch = batches(draw(17, 5), 5)[0]
    position = batch.schema.get_field_index("packets")
    made = sums()
    for wrong in (pa.array([1, 2, 3, 4, 5], pa.uint32()), pa.array([1, 2, None, 4, 5], pa.uint64())):
        with pytest.raises(ValueError, match="packets"):
            made.add(batch.set_column(position, "packets", wrong))
    strange = pa.DictionaryArray.from_arrays(pa.array([0, 0, 9, 0, 0], pa.int32()), pa.array([""]), safe=False)
    with pytest.raises(IndexError):
        made.add(batch.set_column(batch.schema.get_field_index("network"), "network", strange))

    assert (made.rows, made.take().num_rows) == (0, 0)


def test_a_code_outside_of_a_known_dictionary_is_refused() -> None:
    """Names are asked for once, so the loop itself must see it; what it has added by then is not taken back."""
    batch = batches(draw(22, 1500), 1500)[0]
    position = batch.schema.get_field_index("network")
    codes = batch.column("network").indices.to_numpy().copy()
    codes[1400] = len(batch.column("network").dictionary)
    wrong = pa.DictionaryArray.from_arrays(pa.array(codes), batch.column("network").dictionary, safe=False)
    made = sums()
    made.add(batch)

    with pytest.raises(IndexError):
        made.add(batch.set_column(position, "network", wrong))


def apart() -> list[dict[str, Any]]:
    """Rows that differ in one key each, which makes a group of every one."""
    one = flow(*VMS[:2], "source", received=1)
    names = ("src_vm", "dst_vm", "src_host", "dst_host", "network")
    others = [one | {name: "other"} for name in names]
    others += [one | {name: bytes(16)} for name in ("src_vm_uuid", "dst_vm_uuid")]
    return [one, *others, one | {"sighting": "transit"}, flow(*VMS[:2], "source", received=11)]


def test_every_key_makes_a_group_of_its_own() -> None:
    assert [one["records"] for one in summed(batches(apart(), 100)).values()] == [1] * 10


def fingerprint() -> str:
    """Everything that some rows add up to, in exact digits; times in seconds after BEGIN_US."""
    found = summed([*batches(apart(), 5), *batches(draw(18, 150), 70), *batches(draw_bursts(18, 60), 60)])
    return repr(sorted((key[0] - BEGIN_US // 1_000_000, key[1:], sorted(one.items())) for key, one in found.items()))


def with_one_hash() -> str:
    """The fingerprint where all groups look for their place in the same slot, and so do its connections."""
    plan.key_hash = lambda *_: np.uint64(0)
    loop.first_place = lambda *_: np.uint64(0)
    plan.tag_of = lambda *_: np.uint64(0)
    plan.first_slot = loop.first_slot = lambda *_: np.uint64(0)
    return fingerprint()


@pytest.mark.parametrize("function", ["fingerprint", "with_one_hash"])
def test_uncompiled_kernels_and_equal_hashes_give_the_same_sums(function: str) -> None:
    """Uncompiled, the hashes can be taken away: then only comparing keys tells groups and connections apart."""
    code = f"from tests.rollup.test_sums import {function}; print({function}())"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2_000:]
    assert run.stdout.strip() == fingerprint()
