"""Intervals as rows of table `inventory`, asked back with FINAL from a real store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.inventory.history import History, Interval
from collector.inventory.rows import inventory_rows
from collector.inventory.sources.base import NO_UUID, Address, Host, Interface, PortKind
from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from schemas.inventory import INVENTORY, Rank
from tests.table_rows import NOW_US

SECOND = 1_000_000
START = NOW_US - 3_600 * SECOND
"""Old rows expire; these are an hour old."""
MAC = 0x5254_0000_0001
WEB, SHOP = UUID(int=0xA), UUID(int=0xB)
HERE = Interface(host="hv1", port_name="vnet1", if_index=7, mac=MAC, vm="web", vm_uuid=WEB)
THERE = replace(HERE, host="hv2", port_name="vnet5", if_index=15)
_numbers = count()


class Table:
    """A history, and the table that its rows go to."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.history = History(100, 3_600 * SECOND, short_names=True)

    def read(
        self, at: int, *interfaces: Interface, source: str = "libvirt", rank: Rank = Rank.LIBVIRT, event: int = 0
    ) -> None:
        """An answer of a source, `at` seconds after the start."""
        event_us = START + event * SECOND if event else 0
        self.history.apply(source, rank, interfaces, (Host(name="hv1"),), START + at * SECOND, event_us)

    def write(self, *, every: bool = False, agents: dict[str, Address] | None = None) -> None:
        """Rows that are due, as the stage asks for them."""
        changed, self.history.to_write = self.history.to_write, []
        intervals: list[Interval] = [*changed, *(self.history.intervals() if every else ())]
        rows = inventory_rows(self.history, intervals, agents or {})
        if rows is not None:
            insert(self.client, INVENTORY, [rows], f"written-{next(_numbers)}")

    def ask(self, columns: str, *, final: bool = True) -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM inventory {'FINAL' if final else ''} ORDER BY valid_from, valid_to, host, vm"
        return [tuple(row) for row in self.client.query(sql).result_rows]

    def spans(self) -> list[tuple[str, int, int, int]]:
        """Hypervisor, first and last second, and whether it still holds."""
        first, last = (
            f"intDiv(toUnixTimestamp64Micro({time}) - {START}, {SECOND})" for time in ("valid_from", "valid_to")
        )
        return self.ask(f"host, {first}, {last}, open")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def client(store_directory: Any) -> Iterator[Client]:
    store = StoreSettings(url=f"chdb://{store_directory}", database="inventory_written")
    opened = open_client(store)
    set_up(opened, store)
    opened.database = store.database
    # Parts stay as they were inserted: FINAL must do it, whether or not they have been merged.
    opened.command("SYSTEM STOP MERGES inventory")
    yield opened
    opened.close()


@pytest.fixture
def table(client: Client) -> Table:
    client.command("TRUNCATE TABLE inventory")
    return Table(client)


def test_every_column_holds_what_the_interface_says(table: Table) -> None:
    whole = replace(
        HERE, of_port=3, bridge="br-int", kind=PortKind.VM, project="Größe", network="front", vni=5001, vlan=10,
        ips=(ip_address("10.0.0.1"), ip_address("2001:db8::1")), port_id="p-1", speed=10**12,
    )  # fmt: skip
    table.read(0, whole)
    table.read(5, replace(whole, vm="other"), source="cloud", rank=Rank.OPENSTACK)
    table.write(agents={"hv1": ip_address("192.0.2.11")})
    columns = (
        "source, sources, toString(vm_uuid), vm, project, host, network, vni, vlan, mac_text, "
        "arrayMap(ip -> toString(ip), ips), port_name, if_index, of_port, bridge, port_id, speed, toString(agent), "
        "conflict"
    )
    assert table.ask(columns) == [
        (
            "libvirt", "libvirt,openstack", str(WEB), "web", "Größe", "hv1", "front", 5001, 10, "52:54:00:00:00:01",
            ["::ffff:10.0.0.1", "2001:db8::1"], "vnet1", 7, 3, "br-int", "p-1", 10**12, "::ffff:192.0.2.11",
            "vm: libvirt says web, openstack says other",
        )
    ]  # fmt: skip


def test_an_interval_is_one_row_however_often_it_is_confirmed(table: Table) -> None:
    for at in (0, 10, 20, 30):
        table.read(at, HERE)
        table.write(every=True)
    assert len(table.ask("host", final=False)) == 4
    assert table.spans() == [("hv1", 0, 30, 1)]


def test_confirmations_in_several_partitions_are_one_row(table: Table) -> None:
    days = 86_400
    for at in (0, 40 * days, 80 * days):
        table.read(at, HERE)
        table.write(every=True)
    partitions = (
        "SELECT uniqExact(partition) FROM system.parts WHERE active AND table = 'inventory' AND database = {d:String}"
    )
    assert table.client.query(partitions, {"d": table.client.database}).result_rows[0][0] == 3
    assert table.spans() == [("hv1", 0, 80 * days, 1)]


def test_a_move_is_an_interval_that_has_ended_and_one_that_holds(table: Table) -> None:
    table.read(0, HERE)
    table.write()
    table.read(30, THERE, event=27)
    table.write()
    table.read(60, THERE)
    table.write(every=True)
    assert table.spans() == [("hv1", 0, 27, 0), ("hv2", 27, 60, 1)]


def test_a_vm_that_goes_and_comes_back_has_two_intervals(table: Table) -> None:
    for at, interfaces in ((0, [HERE]), (30, []), (60, [HERE]), (90, [])):
        table.read(at, *interfaces)
        table.write()
    assert table.spans() == [("hv1", 0, 30, 0), ("hv1", 60, 90, 0)]


def test_an_end_that_a_slow_source_tells_replaces_what_a_quick_one_confirmed(table: Table) -> None:
    table.read(0, HERE)
    table.read(0, replace(HERE, project="red"), source="cloud", rank=Rank.OPENSTACK)
    table.read(90, HERE)
    table.write(every=True)
    assert table.spans() == [("hv1", 0, 90, 1)]
    table.read(60, replace(HERE, project="blue"), source="cloud", rank=Rank.OPENSTACK)  # asked at 60, answered at 91
    table.write()
    assert [(open_, last) for _, _, last, open_ in table.spans()] == [(0, 90), (1, 90)]
    assert table.ask("project, open") == [("red", 0), ("blue", 1)]


def test_a_confirmation_by_fewer_sources_replaces_one_by_more(table: Table) -> None:
    table.read(0, HERE)
    table.read(50, replace(HERE, speed=0), source="names", rank=Rank.INTERFACE_NAME)
    table.write()
    assert table.ask("sources") == [("libvirt,interface_name",)]
    table.read(51, source="names", rank=Rank.INTERFACE_NAME)
    table.write()
    assert table.ask("sources") == [("libvirt",)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (replace(HERE, vm_uuid=NO_UUID), HERE),
        (replace(HERE, host="", port_name=""), HERE),
        (replace(HERE, vm=""), HERE),
        (HERE, replace(HERE, network="front", vni=5001, vlan=10)),
    ],
    ids=["uuid", "place", "name", "network"],
)
def test_what_is_known_better_is_not_there_twice_at_any_time(table: Table, before: Interface, after: Interface) -> None:
    """Its row has another key, so the one of before must end."""
    table.read(0, before)
    table.write()
    table.read(30, after)
    table.write()
    table.read(60, after)
    table.write(every=True)
    (first, second) = table.spans()
    assert first[1:] == (0, 30, 0)
    assert second == ("hv1", 30, 60, 1)


def test_what_is_known_better_in_other_ways_stays_one_row(table: Table) -> None:
    table.read(0, HERE)
    table.write()
    table.read(30, replace(HERE, project="red", speed=5, of_port=3, ips=(ip_address("10.0.0.1"),)))
    table.write()
    assert table.spans() == [("hv1", 0, 30, 1)]
    assert table.ask("project, speed, of_port, length(ips)") == [("red", 5, 3, 1)]


def test_one_mac_in_two_networks_is_two_rows(table: Table) -> None:
    red, blue = Interface(mac=MAC, vm="web", vni=1), Interface(mac=MAC, vm="web", vni=2)
    table.read(0, red, blue, source="file", rank=Rank.STATIC)
    table.write()
    table.read(30, blue, source="file", rank=Rank.STATIC)
    table.write(every=True)
    assert sorted(table.ask("vm, vni, open")) == [("web", 1, 0), ("web", 2, 1)]


def test_ports_without_mac_and_what_found_no_room_are_no_rows(table: Table) -> None:
    table.history = History(1, 3_600 * SECOND, short_names=True)
    table.read(0, HERE, replace(THERE, mac=MAC + 1), Interface(host="hv1", port_name="vxlan0", if_index=4))
    table.write()
    assert len(table.ask("host")) <= 1
    assert inventory_rows(table.history, [], {}) is None


_steps = st.lists(
    st.tuples(
        st.sampled_from(["libvirt", "cloud"]),
        st.lists(
            st.sampled_from([HERE, THERE, replace(HERE, vm="shop", vm_uuid=SHOP), replace(HERE, project="red")]),
            max_size=2,
            unique=True,
        ),
        st.integers(0, 40),
        st.sampled_from(["nothing", "changes", "everything"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(_steps)
def test_after_any_answers_the_table_says_what_holds_and_nothing_else(
    client: Client, steps: list[tuple[str, list[Interface], int, str]]
) -> None:
    """Whatever was written on the way, and however late a source's answer was."""
    client.command("TRUNCATE TABLE inventory")
    table = Table(client)
    for number, (source, interfaces, lag, written) in enumerate(steps):
        at = 50 * (number + 1) - (lag if source == "cloud" else 0)
        rank = Rank.LIBVIRT if source == "libvirt" else Rank.OPENSTACK
        table.read(at, *interfaces, source=source, rank=rank)
        if written != "nothing":
            table.write(every=written == "everything")
    table.write()
    held = sorted(
        (i.placement.interface.host, i.placement.interface.vm, i.placement.interface.project)
        for i in table.history.intervals()
    )
    assert sorted(table.ask("host, vm, project", final=True)) or not held
    assert sorted(row[:3] for row in table.ask("host, vm, project, open") if row[3]) == held
    assert all(first <= last for _, first, last, _ in table.spans())
