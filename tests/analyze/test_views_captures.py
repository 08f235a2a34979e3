"""The views over real captures say what the machines and the wire between them really did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.store.settings import StoreSettings
from tests.analyze.named import add, ask, named, nic, store, truth_of

Ask = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def client(any_store: StoreSettings) -> Iterator[Client]:
    with store(any_store) as client:
        yield client


def test_an_unsampled_capture_is_exact_and_equals_the_nic_counters(client: Client) -> None:
    add(client, named("ovs_sflow_exact_s1"))

    pairs = {(row["src_vm"], row["dst_vm"]): row for row in ask(client, "SELECT * FROM pair_metrics_1m")}

    # The VMs' own 802.1Q frames to a1 were dropped at the port: nobody saw them arrive.
    assert set(pairs) == {("a1", "b1"), ("b1", "a1"), ("a2", "b1"), ("b1", "a2"), ("a2", "a1")}
    for pair, row in pairs.items():
        if pair == ("a2", "a1"):
            assert (row["loss_evidence"], row["loss_ratio"]) == ("blind", None)
            continue
        assert row["loss_evidence"] == "exact"
        assert (row["loss_ratio"], row["loss_low"], row["loss_high"]) == (0, 0, 0)
        assert row["bits_per_second_low"] == row["bits_per_second"] == row["bits_per_second_high"]
        assert row["connections_evidence"] == "exact"
    for vm, direction, end in (("a1", "tx", 0), ("a2", "tx", 0), ("b1", "tx", 0), ("b1", "rx", 1), ("a2", "rx", 1)):
        of = [row for pair, row in pairs.items() if pair[end] == vm]
        counted = nic("ovs_sflow_exact_s1", vm, direction)
        assert sum(row["packets"] for row in of) == counted["packets"]
        assert sum(row["frame_octets"] for row in of) == counted["bytes"]


def test_the_loss_of_the_wire_lies_within_its_interval(client: Client) -> None:
    add(client, named("ovs_sflow_lossy"))
    sent = nic("ovs_sflow_lossy", "a2", "tx")["packets"]
    received = nic("ovs_sflow_lossy", "b2", "rx")["packets"]
    wire = next(entry["result"] for entry in truth_of("ovs_sflow_lossy")["traffic"] if entry["kind"] == "lossy-wire")
    true_loss = 1 - received / sent
    assert true_loss == pytest.approx(wire["lost"][0] / (wire["lost"][0] + wire["forwarded"][0]), abs=0.005)

    rows = {(row["src_vm"], row["dst_vm"]): row for row in ask(client, "SELECT * FROM pair_metrics_1h")}

    lossy = rows["a2", "b2"]
    assert lossy["loss_evidence"] == "measured"
    assert lossy["loss_low"] <= true_loss <= lossy["loss_high"]
    assert lossy["loss_high"] < 0.25
    assert lossy["packets_per_second_low"] * 3600 <= sent <= lossy["packets_per_second_high"] * 3600
    # Three samples and two: nobody can say.
    assert rows["a1", "b1"]["loss_evidence"] == "insufficient"
    assert rows["a1", "b1"]["loss_ratio"] is None
