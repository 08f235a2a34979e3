"""libvirt's statistics into rows of `interface_counters`; the statistics are those of a real QEMU guest, typed in."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pyarrow as pa

from collector.inventory.sources import libvirt_domains
from collector.inventory.sources.counters import CounterRows
from collector.inventory.sources.libvirt_domains import DomainStats
from schemas.column import Origin
from schemas.counters import COUNTERS, ETHERNET, TOTALS

A, B = bytes.fromhex("1776d58350a44e498ab7aa6f7a49b1fe"), bytes(range(16))
AGENT = ip_address("192.0.2.11")
NOW_US = 1_790_000_000_000_000


def nic(number: int, name: str, tx: tuple[int, int], rx: tuple[int, int]) -> dict[str, object]:
    """libvirt's parameters of one interface that lost and broke nothing; (octets, packets) as the guest sees them."""
    values: dict[str, object] = {f"net.{number}.name": name}
    for way, (octets, packets) in (("rx", rx), ("tx", tx)):
        values |= {f"net.{number}.{way}.bytes": octets, f"net.{number}.{way}.pkts": packets}
        values |= {f"net.{number}.{way}.errs": 0, f"net.{number}.{way}.drop": 0}
    return values


def guest(tx: tuple[int, int] = (3544, 38), rx: tuple[int, int] = (4764, 56), run: int = 1) -> DomainStats:
    return DomainStats(A, run, {"state.state": 1, "net.count": 1} | nic(0, "vnet0", tx, rx))


def new() -> CounterRows:
    return CounterRows("libvirt")


def poll(counters: CounterRows, *domains: DomainStats, monotonic_us: int = 0) -> list[dict[str, Any]]:
    batch = counters.rows(libvirt_domains.poll(domains, NOW_US, monotonic_us), AGENT)
    assert isinstance(batch, pa.RecordBatch)
    batch.validate(full=True)
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def test_a_row_has_every_decoded_column() -> None:
    batch = new().rows(libvirt_domains.poll([guest()], NOW_US, 0), AGENT)

    assert batch is not None
    assert batch.schema.equals(COUNTERS.arrow(Origin.DECODE))


def test_what_the_guest_sends_the_switch_receives() -> None:
    (row,) = poll(new(), guest())

    assert (row["in_bytes"], row["in_unicast_packets"]) == (3544, 38)
    assert (row["out_bytes"], row["out_unicast_packets"]) == (4764, 56)


def test_errors_and_drops_have_their_own_columns() -> None:
    values: dict[str, object] = {"net.count": 1, "net.0.name": "vnet0"}
    names = ("bytes", "pkts", "errs", "drop")
    values |= {f"net.0.{way}.{name}": n for n, (way, name) in enumerate((w, n) for w in ("rx", "tx") for n in names)}

    (row,) = poll(new(), DomainStats(A, 1, values))

    stated = {name: row[name] for name, *_ in TOTALS if row[name] is not None}
    assert stated == {
        "out_bytes": 0,
        "out_unicast_packets": 1,
        "out_errors": 2,
        "out_discards": 3,
        "in_bytes": 4,
        "in_unicast_packets": 5,
        "in_errors": 6,
        "in_discards": 7,
    }


def test_the_first_poll_has_totals_only() -> None:
    (row,) = poll(new(), guest(), monotonic_us=5)

    assert row["delta_state"] == "first"
    assert row["interval_us"] is None
    assert all(row[f"{name}_delta"] is None for name, *_ in TOTALS)
    assert all(row[f"eth_{name}"] is None for name in ETHERNET)
    assert (row["source"], row["if_name"], row["if_index"], row["domain"]) == ("libvirt", "vnet0", 0, 0)
    assert row["agent"] == bytes(10) + b"\xff\xff\xc0\x00\x02\x0b"
    assert row["exporter"] == bytes(16)
    assert row["time_received"].timestamp() * 1e6 == NOW_US


def test_an_address_is_ipv6_or_unknown() -> None:
    for agent, octets in ((ip_address("2001:db8::11"), ip_address("2001:db8::11").packed), (None, bytes(16))):
        batch = new().rows(libvirt_domains.poll([guest()], NOW_US, 0), agent)
        assert batch is not None
        assert batch.column("agent").to_pylist() == [octets]


def test_the_second_poll_has_differences() -> None:
    counters = new()
    poll(counters, guest(), monotonic_us=1_000_000)

    (row,) = poll(counters, guest(tx=(4000, 40), rx=(4764, 57)), monotonic_us=11_500_000)

    assert (row["delta_state"], row["interval_us"]) == ("ok", 10_500_000)
    assert (row["in_bytes_delta"], row["in_unicast_packets_delta"]) == (456, 2)
    assert (row["out_bytes_delta"], row["out_unicast_packets_delta"]) == (0, 1)
    assert (row["in_errors_delta"], row["in_multicast_packets_delta"]) == (0, None)


def test_a_counter_that_falls_was_reset() -> None:
    counters = new()
    poll(counters, guest())

    (row,) = poll(counters, guest(tx=(9000, 90), rx=(4763, 57)), monotonic_us=1)
    (after,) = poll(counters, guest(tx=(9001, 91), rx=(4763, 57)), monotonic_us=2)

    assert (row["delta_state"], row["interval_us"], row["in_bytes_delta"]) == ("reset", None, None)
    assert (after["delta_state"], after["in_bytes_delta"]) == ("ok", 1)


def test_a_domain_started_again_was_reset_even_if_it_counted_further() -> None:
    counters = new()
    poll(counters, guest(run=1))

    (row,) = poll(counters, guest(tx=(90_000, 900), rx=(90_000, 900), run=2), monotonic_us=1)

    assert (row["delta_state"], row["in_bytes_delta"]) == ("reset", None)


def test_interfaces_are_kept_apart_by_domain_and_device_not_by_number() -> None:
    counters = new()
    first = {"net.count": 2} | nic(0, "vnet0", (100, 1), (0, 0)) | nic(1, "vnet1", (1000, 10), (0, 0))
    poll(counters, DomainStats(A, 1, first))
    swapped = {"net.count": 2} | nic(0, "vnet1", (1001, 11), (0, 0)) | nic(1, "vnet0", (102, 3), (0, 0))
    other = DomainStats(B, 7, {"net.count": 1} | nic(0, "vnet1", (5000, 50), (0, 0)))

    rows = poll(counters, other, DomainStats(A, 1, swapped), monotonic_us=1)

    assert [(row["if_name"], row["delta_state"], row["in_bytes_delta"]) for row in rows] == [
        ("vnet1", "first", None),
        ("vnet1", "ok", 1),
        ("vnet0", "ok", 2),
    ]


def test_an_interface_that_was_away_begins_anew() -> None:
    counters = new()
    poll(counters, guest())
    assert counters.rows(libvirt_domains.poll([], NOW_US, 1), AGENT) is None

    (row,) = poll(counters, guest(tx=(9000, 90)), monotonic_us=2)

    assert row["delta_state"] == "first"


def test_a_counter_that_is_not_stated_is_null_and_so_is_its_difference() -> None:
    counters = new()
    values = dict(guest().values)
    del values["net.0.rx.drop"]
    poll(counters, DomainStats(A, 1, values))

    (row,) = poll(counters, guest(), monotonic_us=1)
    (gone,) = poll(counters, DomainStats(A, 1, values), monotonic_us=2)

    assert (row["delta_state"], row["out_discards"], row["out_discards_delta"]) == ("ok", 0, None)
    assert (gone["delta_state"], gone["out_discards"], gone["out_discards_delta"]) == ("ok", None, None)


def test_interfaces_without_device_or_counters_have_no_row() -> None:
    """A hostdev has no name; of a vhost-user port whose switch does not answer libvirt tells only the name."""
    values = {"net.count": 3, "net.1.name": "vhu0"} | nic(2, "vnet5", (1, 1), (2, 2))

    (row,) = poll(new(), DomainStats(A, 1, values), DomainStats(B, 2, {"state.state": 1}))

    assert row["if_name"] == "vnet5"


def test_a_daemon_that_counts_too_many_interfaces_is_not_followed() -> None:
    values = {"net.count": 10**18} | nic(0, "vnet0", (1, 1), (2, 2))

    assert len(poll(new(), DomainStats(A, 1, values))) == 1


def test_what_is_no_counter_is_null() -> None:
    values = dict(guest().values) | {"net.0.rx.bytes": -1, "net.0.tx.bytes": "many", "net.0.rx.pkts": 2**64}

    (row,) = poll(new(), DomainStats(A, 1, values))

    assert (row["in_bytes"], row["out_bytes"], row["out_unicast_packets"]) == (None, None, None)
    assert row["in_unicast_packets"] == 38


def test_large_counters_keep_every_digit() -> None:
    counters = new()
    poll(counters, guest(tx=(2**63, 2**40)))

    (row,) = poll(counters, guest(tx=(2**63 + 1, 2**40 + 1)), monotonic_us=1)

    assert (row["in_bytes"], row["in_bytes_delta"], row["in_unicast_packets_delta"]) == (2**63 + 1, 1, 1)
