"""Which mapping held when: examples, and random reports against a model that knows no shortcuts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.inventory.history import FOREVER, History
from collector.inventory.sources.base import NO_UUID, Host, Interface, PortKind
from schemas.inventory import Rank

HISTORY_US = 1_000
MAC = 0x5254_0000_0001
WEB, SHOP = UUID(int=0xA), UUID(int=0xB)
HERE = Interface(host="hv1", port_name="vnet1", if_index=7, mac=MAC, vm="web", vm_uuid=WEB)
THERE = replace(HERE, host="hv2", port_name="vnet5", if_index=15)


class Held(NamedTuple):
    """A row of the columns."""

    host: str
    port: str
    vm: str
    mac: int
    valid_from: int
    valid_to: int


class Inventory:
    """A history and short words for what the tests do with it."""

    def __init__(self, capacity: int = 100) -> None:
        self.history = History(capacity, HISTORY_US, short_names=True)

    def read(
        self, at: int, *interfaces: Interface, source: str = "libvirt", rank: Rank = Rank.LIBVIRT, event: int = 0
    ) -> None:
        self.history.apply(source, rank, interfaces, (), at, event)

    def rows(self) -> list[Held]:
        """All rows in use, oldest first."""
        columns = self.history.columns
        names = columns.strings().to_pylist()
        used = columns.rows[1 : columns.used]
        return sorted(
            (
                Held(
                    names[row["host"]],
                    names[row["port_name"]],
                    names[row["vm"]],
                    *row[["mac", "valid_from", "valid_to"]].tolist(),
                )
                for row in used[used["valid_to"] != 0]
            ),
            key=lambda held: (held.valid_from, held.valid_to, held),
        )

    def spans(self) -> list[tuple[str, int, int]]:
        return [(held.host, held.valid_from, held.valid_to) for held in self.rows()]


@pytest.fixture
def inventory() -> Inventory:
    return Inventory()


def test_what_the_first_answer_says_has_held_since_ever(inventory: Inventory) -> None:
    inventory.read(500, HERE)
    assert inventory.rows() == [Held("hv1", "vnet1", "web", MAC, 0, FOREVER)]
    (interval,) = inventory.history.intervals()
    assert interval.known_from == 500  # what people are shown


def test_what_appears_later_holds_since_the_source_was_last_read(inventory: Inventory) -> None:
    inventory.read(500)
    inventory.read(530, HERE)
    assert inventory.spans() == [("hv1", 500, FOREVER)]
    # Another source that was read in between says nothing about this one.
    inventory.read(540, source="libvirt 2")
    inventory.read(560, HERE, THERE)
    assert inventory.spans() == [("hv1", 500, FOREVER), ("hv2", 530, FOREVER)]


def test_what_takes_the_place_of_another_begins_where_that_ends(inventory: Inventory) -> None:
    inventory.read(500, HERE)
    inventory.read(530, THERE)
    assert inventory.spans() == [("hv1", 0, 530), ("hv2", 530, FOREVER)]


def test_an_event_tells_the_time_of_a_change(inventory: Inventory) -> None:
    inventory.read(500, HERE)
    inventory.read(530, THERE, event=522)
    assert inventory.spans() == [("hv1", 0, 522), ("hv2", 522, FOREVER)]


@pytest.mark.parametrize(("event", "boundary"), [(499, 500), (1, 500), (531, 530), (10**15, 530)])
def test_an_event_changes_nothing_before_the_last_reading_and_nothing_after_this_one(
    inventory: Inventory, event: int, boundary: int
) -> None:
    """At 500 the source still said otherwise; clocks of hypervisors may be wrong, too."""
    inventory.read(500, HERE)
    inventory.read(530, THERE, event=event)
    assert inventory.spans() == [("hv1", 0, boundary), ("hv2", boundary, FOREVER)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (replace(HERE, host="", port_name="", if_index=0), HERE),
        (replace(HERE, vm_uuid=NO_UUID), HERE),
        (replace(HERE, vm=""), HERE),
        (replace(HERE, project=str(SHOP)), replace(HERE, project="red")),
        (HERE, replace(HERE, ips=(ip_address("10.0.0.1"),))),
        (HERE, replace(HERE, speed=10**9, vni=5001, network="front", of_port=3, bridge="br-int", port_id="p")),
    ],
)
def test_what_is_learnt_about_an_interface_begins_no_new_interval(
    inventory: Inventory, before: Interface, after: Interface
) -> None:
    inventory.read(500, before)
    inventory.read(530, after)
    (interval,) = inventory.history.intervals()
    assert interval.placement.interface == replace(after, kind=PortKind.VM)
    assert (interval.valid_from, interval.valid_to) == (0, FOREVER)
    assert len(inventory.rows()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"if_index": 8},
        {"port_name": "vnet2"},
        {"project": "blue"},
        {"ips": (ip_address("10.0.0.2"),)},
        {"ips": ()},
        {"speed": 5},
        {"vni": 0},
    ],
)
def test_what_differs_or_is_not_said_any_more_begins_a_new_interval(
    inventory: Inventory, change: dict[str, Any]
) -> None:
    whole = replace(HERE, project="red", ips=(ip_address("10.0.0.1"),), speed=10, vni=5001)
    inventory.read(500, whole)
    inventory.read(530, replace(whole, **change))
    assert inventory.spans() == [("hv1", 0, 530), ("hv1", 530, FOREVER)]


def test_another_vm_with_the_same_mac_is_another_interval(inventory: Inventory) -> None:
    inventory.read(500, HERE)
    inventory.read(530, replace(THERE, vm="shop", vm_uuid=SHOP))
    # When between the two readings it began is not known; the join tells the two apart by port, or not at all.
    assert inventory.rows() == [
        Held("hv1", "vnet1", "web", MAC, 0, 530),
        Held("hv2", "vnet5", "shop", MAC, 500, FOREVER),
    ]
    inventory.read(560, replace(HERE, host="hv2", port_name="vnet5", if_index=15))
    assert inventory.spans() == [("hv1", 0, 530), ("hv2", 500, 560), ("hv2", 560, FOREVER)]  # one port, at no time two


def test_a_vm_that_was_away_has_a_gap(inventory: Inventory) -> None:
    for at, interfaces in ((500, [HERE]), (530, []), (560, []), (590, [HERE])):
        inventory.read(at, *interfaces)
    assert inventory.spans() == [("hv1", 0, 530), ("hv1", 560, FOREVER)]


def test_a_source_that_does_not_answer_changes_nothing(inventory: Inventory) -> None:
    inventory.read(500, HERE)
    for at in range(510, 600, 10):
        inventory.read(at, source="other", rank=Rank.STATIC)
    (interval,) = inventory.history.intervals()
    assert inventory.history.heard_us(interval) == 500
    inventory.read(600, HERE)
    assert inventory.history.heard_us(interval) == 600


def test_ended_intervals_stay_for_late_flows_and_no_longer(inventory: Inventory) -> None:
    inventory.read(500, HERE)
    inventory.read(530)
    inventory.read(530 + HISTORY_US - 1)
    assert inventory.spans() == [("hv1", 0, 530)]
    inventory.read(530 + HISTORY_US)
    assert inventory.rows() == []
    assert len(inventory.history.columns) == 0


def test_what_finds_no_room_is_counted_and_comes_in_when_there_is_room_again() -> None:
    inventory = Inventory(capacity=3)
    vms = [replace(HERE, mac=MAC + n, port_name=f"vnet{n}", vm_uuid=UUID(int=n + 1)) for n in range(5)]
    inventory.read(500, *vms)
    assert len(inventory.rows()) == 3
    assert inventory.history.left_out == 2
    known = {held.mac for held in inventory.rows()}
    (gone, *_) = [vm for vm in vms if vm.mac in known]
    (never, late) = [vm for vm in vms if vm.mac not in known]
    inventory.read(530, *(vm for vm in vms if vm not in (gone, never)))
    # What holds now comes before what late flows might need.
    assert {held.mac for held in inventory.rows()} == (known | {late.mac}) - {gone.mac}
    assert {held.valid_to for held in inventory.rows()} == {FOREVER}
    assert inventory.history.left_out == 3


def test_a_port_that_flaps_takes_no_room_from_what_holds() -> None:
    inventory = Inventory(capacity=10)
    for at in range(500, 600):
        inventory.read(at, replace(HERE, if_index=at), source="names", rank=Rank.INTERFACE_NAME)
    assert len(inventory.rows()) == 10
    vms = [replace(THERE, mac=MAC + n, port_name=f"vnet{n}", vm_uuid=UUID(int=n + 1)) for n in range(1, 10)]
    inventory.read(600, *vms)
    assert {held.mac for held in inventory.rows() if held.valid_to == FOREVER} == {MAC, *(vm.mac for vm in vms)}


def test_a_port_is_in_the_columns_once_with_its_mac_while_a_vm_is_on_it(inventory: Inventory) -> None:
    port = Interface(host="hv1", port_name="vnet1", if_index=7, bridge="br-int")
    inventory.read(500, port, source="ovsdb", rank=Rank.OVSDB)
    assert inventory.rows() == [Held("hv1", "vnet1", "", 0, 0, FOREVER)]
    inventory.read(510, replace(HERE, if_index=0))
    (interval,) = inventory.history.intervals()
    assert (interval.placement.interface.mac, interval.placement.interface.if_index) == (MAC, 7)
    inventory.read(540)
    (interval,) = inventory.history.intervals()
    assert (interval.placement.interface.mac, interval.placement.interface.if_index) == (0, 7)
    inventory.read(550, replace(port, if_index=8), source="ovsdb", rank=Rank.OVSDB)
    inventory.read(560, replace(HERE, if_index=0))
    (interval,) = inventory.history.intervals()
    assert (interval.placement.interface.mac, interval.placement.interface.if_index) == (MAC, 8)


def test_an_interval_never_ends_before_it_was_last_confirmed(inventory: Inventory) -> None:
    """A slow source ends what a quick one has confirmed since: the later row must win in the table."""
    inventory.read(500, HERE)
    inventory.read(505, replace(HERE, host="", port_name="", project="red"), source="cloud", rank=Rank.OPENSTACK)
    (interval,) = inventory.history.intervals()
    inventory.read(590, HERE)
    assert inventory.history.heard_us(interval) == 590
    inventory.read(540, source="cloud", rank=Rank.OPENSTACK)  # its reading began at 540 and took a minute
    assert interval.valid_to == 540
    assert inventory.history.heard_us(interval) == 590


def test_addresses_of_hypervisors_come_from_the_best_source_that_agrees_with_its_equals() -> None:
    a, b, c = (ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
    history = History(10, HISTORY_US, short_names=True)
    history.apply("static", Rank.STATIC, (), [Host(name="old", addresses=(a,)), Host(name="hv3", addresses=(c,))], 1)
    history.apply("one", Rank.LIBVIRT, (), [Host(name="HV1.example.com", addresses=(a, b))], 2)
    history.apply("two", Rank.LIBVIRT, (), [Host(name="hv2", addresses=(b,))], 3)
    assert history.addresses() == {a: "hv1", c: "hv3"}
    assert history.addresses(better_than=Rank.STATIC) == {a: "hv1"}
    # The same (here empty) interfaces do not mean that the hypervisors are the same.
    history.apply("two", Rank.LIBVIRT, (), [], 4)
    assert history.addresses() == {a: "hv1", b: "hv1", c: "hv3"}


@pytest.mark.parametrize(
    ("given_", "short", "full"),
    [
        ("HV1.Example.com", "hv1", "hv1.example.com"),
        (" hv1 ", "hv1", "hv1"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1", "2001:db8::1"),
        ("", "", ""),
    ],
)
def test_hypervisors_go_by_one_name(given_: str, short: str, full: str) -> None:
    assert History(1, 1, short_names=True).host_name(given_) == short
    assert History(1, 1, short_names=False).host_name(given_) == full


class Model:
    """The rules of the intervals, applied to whole answers, for statements that leave nothing to learn."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[int, frozenset[Interface]]] = {}
        self.spans: list[tuple[Interface, int, int]] = []

    def apply(self, source: str, at: int, interfaces: Iterable[Interface], event: int) -> None:
        since, before = self.said.get(source, (0, frozenset()))
        now = frozenset(interfaces)
        self.said[source] = at, now
        boundary = max(since, min(event or at, at))
        for i, (what, first, last) in enumerate(self.spans):
            if last == FOREVER and what in before - now:
                self.spans[i] = what, first, max(boundary, first + 1)
        for new in now - before:
            replaced = any(
                old.mac == new.mac
                and (old.vm_uuid == new.vm_uuid or (old.host, old.port_name) == (new.host, new.port_name))
                for old in before - now
            )
            self.spans.append((new, boundary if replaced else since, FOREVER))
        self.spans = [span for span in self.spans if span[2] > at - HISTORY_US]

    def rows(self) -> list[Held]:
        return sorted(
            Held(what.host, what.port_name, what.vm, what.mac, first, last) for what, first, last in self.spans
        )


def _whole(source: str) -> st.SearchStrategy[list[Interface]]:
    """Answers of a hypervisor whose interfaces are known completely; a port carries one VM."""
    ports = [
        Interface(host=source, port_name=f"p{vm.int}-{mac}-{n}", if_index=n + 1, of_port=n + 1, mac=mac,
                  vm=f"vm{vm.int}", vm_uuid=vm, kind=PortKind.VM)
        for vm in (WEB, SHOP) for mac in (MAC, MAC + 1) for n in range(2)
    ]  # fmt: skip
    return st.lists(st.sampled_from(ports), max_size=4, unique=True)


_reports = st.lists(
    st.sampled_from(["hv1", "hv2", "hv3"]).flatmap(
        lambda source: st.tuples(
            st.just(source), st.sampled_from([1, 10, 300, HISTORY_US]), _whole(source), st.integers(0, 400)
        )
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(_reports)
def test_random_reports_give_the_intervals_of_the_model(
    reports: list[tuple[str, int, list[Interface], int]],
) -> None:
    inventory, model, at = Inventory(), Model(), 1_000
    for source, pause, interfaces, age in reports:
        at += pause
        event = at - age if age else 0
        inventory.read(at, *interfaces, source=source, event=event)
        model.apply(source, at, interfaces, event)
        assert sorted(inventory.rows()) == model.rows()


def _stated(host: str, truth: bool) -> st.SearchStrategy[Interface]:
    """What a source may say of two MAC addresses and two ports; one that lies may say anything of the VM."""
    vms = st.sampled_from([("web", WEB, 1), ("shop", SHOP, 2)])
    return st.builds(
        lambda vm, known, port, mac, where: Interface(
            host=where,
            port_name=port,
            if_index=int(port[-1:] or 0),
            # Only who knows a port without its VM knows its bridge.
            bridge="" if mac else "br-int",
            mac=mac,
            **({"vm": vm[0] if truth else "lie", "vm_uuid": vm[1] if truth else NO_UUID} if known and mac else {}),
        ),
        vms,
        st.booleans(),
        st.sampled_from(["", "vnet1", "vnet2"]),
        st.sampled_from([0, MAC, MAC + 1]),
        st.sampled_from([host, ""]) if not truth else st.just(host),
    ).filter(lambda interface: bool(interface.mac or (interface.host and interface.port_name)))


SOURCES = {
    "libvirt 1": (Rank.LIBVIRT, "hv1", True),
    "libvirt 2": (Rank.LIBVIRT, "hv2", True),
    "ovsdb 1": (Rank.OVSDB, "hv1", True),
    "openstack": (Rank.OPENSTACK, "hv2", True),
    "static": (Rank.STATIC, "hv1", False),
    "names": (Rank.INTERFACE_NAME, "hv1", False),
}
_answers = st.lists(
    st.sampled_from(sorted(SOURCES)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.lists(_stated(*SOURCES[name][1:]), max_size=3, unique_by=lambda i: (i.mac, i.port_name))
        )
    ),
    max_size=20,
)


def _known(inventory: Inventory) -> set[tuple[Interface, str]]:
    return {(i.placement.interface, i.placement.conflict) for i in inventory.history.intervals()}


@settings(max_examples=300)
@given(_answers)
def test_what_holds_now_follows_from_the_last_answers_alone(answers: list[tuple[str, list[Interface]]]) -> None:
    inventory, last = Inventory(), {}
    for at, (name, interfaces) in enumerate(answers, 1):
        inventory.read(at, *interfaces, source=name, rank=SOURCES[name][0])
        last[name] = interfaces
    at_once = Inventory()
    for name in sorted(last, reverse=True):
        at_once.read(1, *last[name], source=name, rank=SOURCES[name][0])
    assert _known(inventory) == _known(at_once)
    open_rows = sum(held.valid_to == FOREVER for held in inventory.rows())
    assert open_rows == len(list(inventory.history.intervals()))
