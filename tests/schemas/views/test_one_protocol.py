"""A switch that reports the same packets by several protocols: each packet counts once, whatever its reports say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.store.settings import StoreSettings
from tests.flow_rows import add, ask, emptied, flow, store, vm

A, B, C = vm("a", "host-1"), vm("b", "host-2"), vm("c", "host-2")
SAMPLED = {"protocol": "sflow5", "sampling_rate": 10, "rate_source": "record"}
WHOLE = {"protocol": "ipfix", "rate_source": "override"}
UNSTATED = {"protocol": "ipfix", "rate_source": "unstated"}
TOTALS = """
SELECT 'pair', sum(packets), sum(bytes), max(connections) FROM pair_metrics{level} WHERE src_vm = 'a'
UNION ALL SELECT 'vm', sum(sent_packets), sum(sent_bytes), max(connections) FROM vm_metrics{level} WHERE vm = 'a'
UNION ALL SELECT 'host', sum(sent_packets), sum(sent_bytes), max(connections) FROM host_metrics{level}
    WHERE host = 'host-1'
"""


@pytest.fixture(scope="module")
def made(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="protocols")) as client:
        yield client


@pytest.fixture
def client(made: Client) -> Client:
    return emptied(made)


def report(seen: str, packets: int, how: Mapping[str, Any], source: Any = A, receiver: Any = B) -> list[dict[str, Any]]:
    """Rows that stand for so many packets of 100 octets in second 5."""
    rate = how.get("sampling_rate", 1)
    assert packets % rate == 0
    return [flow(source, receiver, seen, received=5, **how) for _ in range(packets // rate)]


def pair(client: Client, end: str = "") -> dict[str, Any]:
    """What is stated of a → b."""
    (row,) = ask(client, f"SELECT * FROM pair_metrics{end} WHERE src_vm = 'a' AND dst_vm = 'b'")
    return row


@pytest.mark.parametrize("level", ["", "_1m", "_1h"])
def test_what_two_protocols_tell_counts_once_everywhere(client: Client, level: str) -> None:
    for how in (SAMPLED, WHOLE):
        add(client, report("source", 300, how) + report("destination", 300, how))

    reported = client.query(TOTALS.format(level=level)).result_rows
    assert sorted(reported) == [(what, 300, 30_000, 1) for what in ("host", "pair", "vm")]


def test_the_one_that_does_not_sample_is_believed(client: Client) -> None:
    """900 of 1000 arrive; samples that happen to say 950 and 800 are not asked."""
    add(client, report("source", 1000, WHOLE) + report("destination", 900, WHOLE))
    add(client, report("source", 950, SAMPLED) + report("destination", 800, SAMPLED))

    row = pair(client)
    assert (row["packets"], row["loss_evidence"], row["loss_ratio"]) == (1000, "exact", pytest.approx(0.1))
    assert row["sampling_rate"] == 1


def test_counts_that_may_be_multiplied_do_not_beat_samples_of_a_known_rate(client: Client) -> None:
    multiplied = UNSTATED | {"packets": 100, "samples": 1, "bytes": 10_000}
    add(client, report("source", 10, multiplied) + report("source", 900, SAMPLED))

    row = pair(client)
    assert (row["packets"], row["sampling_rate"], row["rate_unstated"]) == (900, 10, 0)


def test_a_protocol_that_tells_of_less_than_half_is_not_whole(client: Client) -> None:
    """Most records still lie in the cache of the switch, or were lost on the way here."""
    add(client, report("source", 140, WHOLE) + report("source", 300, SAMPLED))
    assert pair(client)["packets"] == 300

    add(client, report("source", 20, WHOLE))
    assert pair(client)["packets"] == 160


def test_the_choice_is_that_of_the_hypervisor_not_of_the_pair(client: Client) -> None:
    """Both protocols sample, each happens to see one of two small pairs only: their sum must not grow by that."""
    finer = {"protocol": "netflow9", "sampling_rate": 5, "rate_source": "record"}
    add(client, report("source", 100, finer, receiver=B) + report("source", 100, SAMPLED, receiver=C))

    assert ask(client, "SELECT dst_vm, packets FROM pair_metrics WHERE counted_at = 'source'") == [
        {"dst_vm": "b", "packets": 100}
    ]


def test_hypervisors_may_have_protocols_of_their_own(client: Client) -> None:
    """host-1 sends samples only, host-2 records of flows only: nothing is refused, and loss is stated."""
    add(client, report("source", 3000, SAMPLED) + report("destination", 3000, WHOLE))

    row = pair(client)
    assert (row["sent_packets"], row["received_packets"], row["loss_evidence"]) == (3000, 3000, "measured")


def test_windows_choose_for_themselves(client: Client) -> None:
    """IPFIX is switched on in the second window: the first one keeps its samples."""
    add(client, report("source", 300, SAMPLED))
    later = [row | {name: row[name] + 10_000_000 for name in ("time_received", "flow_start", "flow_end")}
             for row in report("source", 200, SAMPLED) + report("source", 210, WHOLE)]  # fmt: skip
    add(client, later)

    rows = ask(client, "SELECT packets FROM pair_metrics ORDER BY time")
    assert [row["packets"] for row in rows] == [300, 210]


@pytest.mark.parametrize("known", [True, False])
def test_where_no_hypervisor_is_known_each_vm_chooses(client: Client, known: bool) -> None:
    """Two VMs of unknown hypervisors, exported by different protocols: neither silences the other."""
    one, other = (vm(name, "host-9" if known else "") for name in ("a", "d"))
    add(client, report("source", 300, SAMPLED, one) + report("source", 500, WHOLE, other))

    rows = ask(client, "SELECT src_vm, packets FROM pair_metrics WHERE counted_at = 'source' ORDER BY src_vm")
    both = [{"src_vm": "a", "packets": 300}, {"src_vm": "d", "packets": 500}]
    assert rows == (both[1:] if known else both)


def test_drops_and_what_is_seen_in_between_stay(client: Client) -> None:
    add(client, report("source", 300, WHOLE) + report("source", 300, SAMPLED) + report("transit", 50, SAMPLED))
    notice = {"src_vm": "a", "dst_vm": "b", "src_host": "host-1", "dst_host": "host-2", "sighting": "source"}
    source = report("source", 10, SAMPLED)[0]
    add(client, [{name: source[name] for name in (*notice, "src_vm_uuid", "dst_vm_uuid", "network")}
                 | {"time_received": source["time_received"]}], "drops")  # fmt: skip

    row = pair(client)
    assert (row["packets"], row["elsewhere_packets"], row["drops"]) == (300, 50, 1)
