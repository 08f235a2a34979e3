"""Interface statistics of Open vSwitch as rows of `interface_counters`; the values are those set with ovs-vsctl."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from collector.inventory.settings import OvsdbSettings
from collector.inventory.sources.ovsdb import Ovsdb
from schemas.column import Origin
from schemas.counters import COUNTERS, TOTALS
from tests.inventory.sources.ovsdb_server import OvsdbServer, needs_server

FIGURES = {
    "rx_bytes": ("in_bytes", 1_000),
    "rx_packets": ("in_unicast_packets", 10),
    "rx_dropped": ("in_discards", 3),
    "rx_errors": ("in_errors", 4),
    "tx_bytes": ("out_bytes", 2_000),
    "tx_packets": ("out_unicast_packets", 20),
    "tx_dropped": ("out_discards", 5),
    "tx_errors": ("out_errors", 6),
}
"""Key of Interface.statistics -> (column, value)."""
EXPORTER = ip_address("192.0.2.11")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OvsdbServer]:
    needs_server()
    with OvsdbServer(tmp_path) as started:
        started.vsctl("add-br", "br-int", "--", "add-port", "br-int", "vnet1")
        started.vsctl("set", "Interface", "vnet1", "ifindex=17")
        yield started


@pytest.fixture
def source(server: OvsdbServer) -> Iterator[Ovsdb]:
    # So short that they are due at each read; the shortest wait between two polls is then up to the test.
    settings = OvsdbSettings(remote=server.unix, counters_seconds=1e-6, exporters=(EXPORTER,))
    with closing(Ovsdb(settings)) as made:
        yield made


def count(server: OvsdbServer, **figures: int) -> None:
    server.vsctl("set", "Interface", "vnet1", *(f"statistics:{key}={value}" for key, value in figures.items()))


def polled(source: Ovsdb) -> dict[str, dict[str, Any]]:
    """Rows by name of the port."""
    counters = source.read().counters
    return {} if counters is None else {row["if_name"]: row for row in counters.to_pylist()}


def test_totals_stand_as_the_switch_sees_them(server: OvsdbServer, source: Ovsdb) -> None:
    count(server, **{key: value for key, (_, value) in FIGURES.items()}, rx_crc_err=9)

    row = polled(source)["vnet1"]

    totals = {name: row[name] for name, *_ in TOTALS}
    assert totals == dict.fromkeys(totals, None) | dict(FIGURES.values())
    assert (row["source"], row["if_index"], row["delta_state"], row["interval_us"]) == ("ovsdb", 17, "first", None)
    assert row["agent"] == bytes(10) + b"\xff\xff" + EXPORTER.packed
    assert all(row[f"{name}_delta"] is None for name in totals)


def test_rows_have_all_decoded_columns_and_a_time(server: OvsdbServer, source: Ovsdb) -> None:
    count(server, rx_bytes=1)

    counters = source.read().counters

    assert counters is not None
    assert counters.schema == COUNTERS.arrow(Origin.DECODE)
    assert all(time.timestamp() > 1.7e9 for time in counters["time_received"].to_pylist())


def test_differences_to_the_poll_before(server: OvsdbServer, source: Ovsdb) -> None:
    count(server, rx_bytes=1_000, tx_packets=5)
    polled(source)
    count(server, rx_bytes=1_600, tx_packets=5, tx_bytes=70)

    row = polled(source)["vnet1"]

    assert row["delta_state"] == "ok"
    assert row["interval_us"] > 0
    assert (row["in_bytes_delta"], row["out_unicast_packets_delta"], row["out_bytes_delta"]) == (600, 0, None)


def test_a_counter_that_falls_was_reset(server: OvsdbServer, source: Ovsdb) -> None:
    count(server, rx_bytes=1_000, tx_bytes=1)
    polled(source)
    count(server, rx_bytes=10, tx_bytes=2)

    row = polled(source)["vnet1"]

    assert (row["delta_state"], row["in_bytes"], row["in_bytes_delta"]) == ("reset", 10, None)
    assert row["out_bytes_delta"] is None


def test_another_device_under_the_same_port_begins_anew(server: OvsdbServer, source: Ovsdb) -> None:
    count(server, rx_bytes=1_000)
    polled(source)
    server.vsctl("set", "Interface", "vnet1", "ifindex=18", "statistics:rx_bytes=5000")

    assert polled(source)["vnet1"]["delta_state"] == "reset"


def test_a_port_of_the_same_name_is_another(server: OvsdbServer, source: Ovsdb) -> None:
    count(server, rx_bytes=1_000)
    polled(source)
    server.vsctl("del-port", "vnet1", "--", "add-port", "br-int", "vnet1")
    count(server, rx_bytes=5_000)

    assert polled(source)["vnet1"]["delta_state"] == "first"


def test_a_database_that_is_started_again_does_not_begin_anew(server: OvsdbServer, source: Ovsdb) -> None:
    """The counters are the switch's; rows keep their UUIDs."""
    count(server, rx_bytes=1_000)
    polled(source)
    source.close()
    count(server, rx_bytes=1_001)

    assert polled(source)["vnet1"]["in_bytes_delta"] == 1


def test_what_is_not_counted_has_no_row(server: OvsdbServer, source: Ovsdb) -> None:
    assert polled(source) == {}
    count(server, rx_crc_err=9)
    assert polled(source) == {}
    count(server, rx_bytes=-1, rx_packets=-5, tx_bytes=2**63 - 1)

    row = polled(source)["vnet1"]

    assert (row["in_bytes"], row["in_unicast_packets"], row["out_bytes"]) == (None, None, 2**63 - 1)
    assert row["in_errors"] is None


def test_counters_are_read_when_they_are_due(server: OvsdbServer) -> None:
    count(server, rx_bytes=1)
    with closing(Ovsdb(OvsdbSettings(remote=server.unix, counters_seconds=4))) as source:
        assert set(polled(source)) == {"vnet1"}
        assert polled(source) == {}
        # Ends when counters are due: not after an hour, nor with the change, which would make it True.
        much_later = threading.Timer(40, server.vsctl, ("add-port", "br-int", "vnet2"))
        much_later.start()
        assert not source.wait(3_600)
        much_later.cancel()
        assert set(polled(source)) == {"vnet1"}


def test_no_counters_unless_asked_for(server: OvsdbServer) -> None:
    count(server, rx_bytes=1)
    with closing(Ovsdb(OvsdbSettings(remote=server.unix))) as source:
        assert source.read().counters is None
