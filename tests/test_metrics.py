"""Metrics: names by rule, labels that are bounded, counters fed from running totals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from collector.metrics import OTHER, CappedLabels, Metrics, RunningTotals, address_text
from decoders.datagrams import address_halves


def test_a_service_says_what_it_is_made_of_and_what_it_takes() -> None:
    metrics = Metrics()
    metrics.describe(version="1.2", engine="", python="3.11.7")
    metrics.counter("decode_records_total", "Records decoded.").inc()

    text = generate_latest(metrics.registry).decode()
    assert 'vmflow_build_info{engine="",python="3.11.7",version="1.2"} 1.0' in text
    assert "_created" not in text
    resident = metrics.registry.get_sample_value("process_resident_memory_bytes")
    assert resident is not None
    assert resident > 2**20


def test_families_live_in_the_registry_that_was_passed_in() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.counter("decode_records_total", "Records decoded.", ("protocol",)).labels("ipfix").inc(np.int64(30))
    metrics.gauge("inbox_bytes", "Octets waiting.").set(5)
    metrics.histogram("insert_seconds", "Time of an insert.", (0.1, 1.0)).observe(0.5)

    assert registry.get_sample_value("vmflow_decode_records_total", {"protocol": "ipfix"}) == 30
    assert metrics.value("decode_records_total", protocol="ipfix") == 30
    assert metrics.value("inbox_bytes") == 5
    assert metrics.value("insert_seconds_bucket", le="0.1") == 0
    assert metrics.value("insert_seconds_bucket", le="1.0") == 1
    assert metrics.value("nothing") is None
    assert b"vmflow_decode_records_total" in generate_latest(registry)
    assert Metrics().value("inbox_bytes") is None


@pytest.mark.parametrize(
    "name", ["Records_total", "records__total", "vmflow_records_total", "1_total", "records", "a\n_total"]
)
def test_a_counter_named_against_the_rules_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Metrics().counter(name, "")


def test_a_gauge_is_not_named_like_a_counter_and_no_name_is_used_twice() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="ends in _total"):
        metrics.gauge("queue_total", "")
    metrics.gauge("queue_bytes", "")
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.gauge("queue_bytes", "")


def test_the_first_keys_keep_their_labels_and_the_rest_share_one() -> None:
    labels = CappedLabels(2)

    assert [labels.label(key) for key in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]
    assert len(labels) == 2


def test_newcomers_leave_half_of_the_labels_to_those_who_stay() -> None:
    labels = CappedLabels(4)

    assert [labels.label(key, newcomer=True) for key in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]
    assert [labels.label(key) for key in ("c", "d", "e")] == ["c", "d", OTHER]
    assert labels.label("c", newcomer=True) == "c"


def test_labels_from_several_threads_stay_bounded_and_agree() -> None:
    labels = CappedLabels(100)
    keys = [(0, number) for number in range(300)]

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda part: [labels.label(key) for key in keys], range(8)))

    assert len(labels) == 100
    assert all(row == seen[0] for row in seen)
    assert seen[0].count(OTHER) == 200


@pytest.mark.parametrize("address", ["192.0.2.7", "0.0.0.0", "2001:db8::7", "::1", "::"])
def test_an_exporter_is_labelled_as_people_write_it(address: str) -> None:
    halves = np.array([address_halves(address)], dtype=np.uint64)[0]
    pair = (halves[0], halves[1])

    assert address_text(*pair) == address
    assert CappedLabels().label(pair) == address
    assert CappedLabels().label(address) == address
    assert CappedLabels().label(IPv6Address(int(pair[0]) << 64 | int(pair[1]))) == address


def test_running_totals_add_their_growth() -> None:
    metrics = Metrics()
    totals = RunningTotals(metrics.counter("bytes_total", "", ("exporter",)))
    labels = [("a",), ("b",)]

    totals.advance(labels, np.array([10, 0]))
    totals.advance(labels, np.array([10, 4]))
    labels.append(("c",))
    totals.advance(labels, np.array([3, 5, 7]))  # the first began again

    assert metrics.value("bytes_total", exporter="a") == 13
    assert metrics.value("bytes_total", exporter="b") == 5
    assert metrics.value("bytes_total", exporter="c") == 7


def test_rows_that_share_a_label_share_a_counter() -> None:
    metrics = Metrics()
    totals = RunningTotals(metrics.counter("bytes_total", "", ("exporter",)))

    totals.advance([(OTHER,), (OTHER,)], np.array([1, 2]))
    totals.advance([(OTHER,), (OTHER,)], np.array([2, 4]))

    assert metrics.value("bytes_total", exporter=OTHER) == 6


def test_running_totals_do_not_follow_their_array() -> None:
    metrics = Metrics()
    totals = RunningTotals(metrics.counter("bytes_total", "", ("exporter",)))
    array = np.array([1])

    totals.advance([("a",)], array)
    array += 5
    totals.advance([("a",)], array)

    assert metrics.value("bytes_total", exporter="a") == 6


def test_running_totals_refuse_rows_that_do_not_match() -> None:
    totals = RunningTotals(Metrics().counter("bytes_total", "", ("exporter",)))
    totals.advance([("a",), ("b",)], np.array([1, 2]))

    with pytest.raises(ValueError, match="2 label rows, 1 totals"):
        totals.advance([("a",), ("b",)], np.array([1]))
    with pytest.raises(ValueError, match="1 label rows, 1 totals, 2 rows before"):
        totals.advance([("a",)], np.array([1]))
