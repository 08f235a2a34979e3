"""What several sources say of one MAC address, put together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from ipaddress import IPv4Address, ip_address
from itertools import combinations, permutations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.inventory.merge import MAX_CONFLICT, Placement, Statement, merge_interface, merge_port
from collector.inventory.sources.base import MAX_IPS, NO_UUID, Interface, PortKind
from schemas.inventory import Rank

MAC = 0x5254_0000_0001
WEB, SHOP = UUID(int=0xA), UUID(int=0xB)
PortsOf = dict[tuple[str, str], list[Statement]]


def says(rank: Rank, source: str = "", **values: Any) -> Statement:
    """A statement about `MAC` unless stated otherwise."""
    return Statement(rank, Interface(**{"mac": MAC, **values}), source or rank.name)


def merged(*statements: Statement, ports: PortsOf | None = None) -> list[Placement]:
    """Placements of the statements, by hypervisor, port and UUID."""
    known = ports or {}
    found = merge_interface(statements, lambda host, name: known.get((host, name), ()))
    return sorted(found, key=lambda p: (p.interface.host, p.interface.port_name, p.interface.vm_uuid))


def one(*statements: Statement, ports: PortsOf | None = None) -> Placement:
    (placement,) = merged(*statements, ports=ports)
    return placement


@pytest.mark.parametrize(("better", "worse"), list(combinations(sorted(Rank), 2)))
@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("vm", "web", "shop"),
        ("project", "red", "blue"),
        ("network", "front", "back"),
        ("speed", 10, 20),
        ("host", "hv1", "hv2"),
        ("port_name", "vnet1", "vnet2"),
        ("if_index", 7, 8),
        ("of_port", 3, 4),
    ],
)
def test_the_better_source_is_believed(better: Rank, worse: Rank, field: str, right: Any, wrong: Any) -> None:
    same = {"vm_uuid": WEB, "host": "hv1"}
    statements = [says(better, **{**same, field: right}), says(worse, **{**same, field: wrong})]
    for order in permutations(statements):
        placement = one(*order)
        assert getattr(placement.interface, field) == right
        assert placement.ranks[0] == better


def test_each_source_adds_what_the_better_ones_do_not_know() -> None:
    placement = one(
        says(Rank.INTERFACE_NAME, host="hv1", port_name="vnet1", if_index=7),
        says(Rank.OPENSTACK, vm_uuid=WEB, vm="web", project="red", network="front", vni=5001, port_id="p-1",
             ips=(ip_address("10.0.0.1"),)),
        says(Rank.LIBVIRT, vm_uuid=WEB, host="hv1", port_name="vnet1", port_id="p-1", speed=10**9),
        says(Rank.OVSDB, vm_uuid=WEB, host="hv1", port_name="vnet1", of_port=3, bridge="br-int", port_id="p-1"),
    )  # fmt: skip
    assert placement.interface == Interface(
        host="hv1", port_name="vnet1", if_index=7, of_port=3, bridge="br-int", kind=PortKind.VM, mac=MAC, vm="web",
        vm_uuid=WEB, project="red", network="front", vni=5001, ips=(ip_address("10.0.0.1"),), port_id="p-1",
        speed=10**9,
    )  # fmt: skip
    assert placement.ranks == (Rank.LIBVIRT, Rank.OVSDB, Rank.OPENSTACK, Rank.INTERFACE_NAME)
    # OpenStack knows the VM, but not where it is.
    assert placement.sources == {"LIBVIRT", "OVSDB", "INTERFACE_NAME"}
    assert placement.conflict == ""


@pytest.mark.parametrize("field", ["vm", "project", "network"])
def test_an_id_gives_way_to_a_name_without_a_conflict(field: str) -> None:
    bare = str(UUID(int=0x1234_5678_9ABC_DEF0))
    for text in (bare, bare.replace("-", "")):
        placement = one(
            says(Rank.LIBVIRT, vm_uuid=WEB, host="hv1", **{field: text}),
            says(Rank.OPENSTACK, vm_uuid=WEB, **{field: "for people"}),
        )
        assert getattr(placement.interface, field) == "for people"
        assert placement.conflict == ""


def test_a_vm_without_a_name_goes_by_its_uuid_until_one_is_known() -> None:
    assert one(says(Rank.OVSDB, vm_uuid=WEB, host="hv1")).interface.vm == str(WEB)
    assert one(says(Rank.OVSDB, vm_uuid=WEB), says(Rank.STATIC, vm="web")).interface.vm == "web"
    assert one(says(Rank.OVSDB, host="hv1")).interface.vm == ""


def test_a_source_with_names_only_speaks_of_the_vm_that_another_knows_by_uuid() -> None:
    placement = one(says(Rank.STATIC, vm="web server", project="red"), says(Rank.LIBVIRT, vm_uuid=WEB, vm="i-0001"))
    assert (placement.interface.vm, placement.interface.vm_uuid, placement.interface.project) == ("i-0001", WEB, "red")
    assert placement.conflict == "vm: libvirt says i-0001, static says web server"


SAME_RANK = (Rank.LIBVIRT, Rank.LIBVIRT)
TWO_RANKS = (Rank.LIBVIRT, Rank.STATIC)


@pytest.mark.parametrize(
    ("ranks", "first", "second"),
    [
        # Two kinds of sources may name one VM differently; one kind does not.
        (SAME_RANK, {"vm": "web"}, {"vm": "shop"}),
        *(
            (ranks, *networks)
            for ranks in (SAME_RANK, TWO_RANKS)
            for networks in (
                ({"vm_uuid": WEB}, {"vm_uuid": SHOP}),
                ({"vm": "web", "vni": 1}, {"vm": "web", "vni": 2}),
                ({"vlan": 10}, {"vlan": 20}),
                ({"vlan": 10}, {"vni": 10}),
            )
        ),
    ],
)
def test_one_mac_in_two_networks_is_two_vms(
    ranks: tuple[Rank, Rank], first: dict[str, Any], second: dict[str, Any]
) -> None:
    placements = merged(says(ranks[0], "one", host="hv1", **first), says(ranks[1], "two", host="hv2", **second))
    assert [p.interface.host for p in placements] == ["hv1", "hv2"]
    for placement, said in zip(placements, (first, second), strict=True):
        assert {name: getattr(placement.interface, name) for name in said} == said
        assert placement.conflict == ""


@pytest.mark.parametrize(
    "hint",
    [{"vm": "shop"}, {"port_id": "p-b"}, {"vni": 2}, {"host": "hv2"}, {"host": "hv2", "port_name": "tap-b"}],
    ids="+".join,
)
def test_what_names_no_uuid_goes_to_the_vm_that_it_fits(hint: dict[str, Any]) -> None:
    vms = [
        says(Rank.LIBVIRT, "1", vm_uuid=WEB, vm="web", vni=1, host="hv1", port_name="tap-a", port_id="p-a"),
        says(Rank.LIBVIRT, "2", vm_uuid=SHOP, vm="shop", vni=2, host="hv2", port_name="tap-b", port_id="p-b"),
    ]
    for order in permutations([*vms, says(Rank.STATIC, project="blue", **hint)]):
        web, shop = merged(*order)
        assert (web.interface.project, shop.interface.project) == ("", "blue")
        assert web.conflict == shop.conflict == ""


def test_two_sources_that_name_different_vms_on_one_port_differ() -> None:
    """A port carries one VM: that is no second network, but a mistake of one of them."""
    there = {"host": "hv1", "port_name": "vnet1"}
    for better, worse in combinations((Rank.LIBVIRT, Rank.OVSDB, Rank.OPENSTACK, Rank.STATIC), 2):
        placement = one(
            says(worse, vm_uuid=SHOP, vm="shop", project="blue", **there),
            says(better, vm_uuid=WEB, vm="web", project="red", **there),
        )
        assert (placement.interface.vm, placement.interface.vm_uuid) == ("web", WEB)
        assert placement.interface.project == "red"
        assert re.match(r"vm: \w+ says web, \w+ says shop; vm_uuid: ", placement.conflict)


def test_a_migrating_vm_is_on_both_hypervisors_each_with_its_own_port() -> None:
    statements = [
        says(Rank.LIBVIRT, "hv1", vm_uuid=WEB, vm="web", host="hv1", port_name="vnet1"),
        says(Rank.LIBVIRT, "hv2", vm_uuid=WEB, vm="web", host="hv2", port_name="vnet9"),
        says(Rank.OVSDB, "o1", vm_uuid=WEB, host="hv1", port_name="vnet1", if_index=7, of_port=3, bridge="br-int"),
        says(Rank.OVSDB, "o2", vm_uuid=WEB, host="hv2", port_name="vnet9", if_index=17, of_port=13, bridge="br-int"),
        says(Rank.STATIC, vm="web", project="red", ips=(ip_address("10.0.0.1"),)),
    ]
    for order in permutations(statements):
        here, there = merged(*order)
        assert (here.interface.host, here.interface.port_name, here.interface.if_index) == ("hv1", "vnet1", 7)
        assert (there.interface.host, there.interface.port_name, there.interface.if_index) == ("hv2", "vnet9", 17)
        assert here.interface.project == there.interface.project == "red"
        assert here.interface.ips == there.interface.ips == (ip_address("10.0.0.1"),)
        assert here.conflict == there.conflict == ""


def test_libvirt_decides_the_place_and_a_leftover_port_elsewhere_is_none() -> None:
    placement = one(
        says(Rank.OVSDB, "o1", vm_uuid=WEB, host="hv1", port_name="vnet1", if_index=7),
        says(Rank.LIBVIRT, vm_uuid=WEB, vm="web", host="hv2", port_name="vnet9"),
        says(Rank.OPENSTACK, vm_uuid=WEB, vm="web", host="hv3"),
    )
    assert (placement.interface.host, placement.interface.port_name) == ("hv2", "vnet9")
    assert placement.interface.if_index == 0  # of a port on another hypervisor: not this one's
    assert placement.conflict == "host: libvirt says hv2, ovsdb says hv1, openstack says hv3"
    assert placement.sources == {"LIBVIRT"}


def test_a_second_port_that_only_ovsdb_has_on_the_hypervisor_is_ignored() -> None:
    placement = one(
        says(Rank.LIBVIRT, vm_uuid=WEB, host="hv1", port_name="vnet1"),
        says(Rank.OVSDB, vm_uuid=WEB, host="hv1", port_name="vnet8", if_index=8, of_port=8),
        says(Rank.OVSDB, vm_uuid=WEB, host="hv1", port_name="vnet1", if_index=7, of_port=3),
    )
    assert (placement.interface.port_name, placement.interface.if_index) == ("vnet1", 7)
    assert placement.interface.of_port == 3


def test_without_libvirt_the_next_source_with_a_hypervisor_decides() -> None:
    placement = one(
        says(Rank.LIBVIRT, vm_uuid=WEB, vm="web"),
        says(Rank.OPENSTACK, vm_uuid=WEB, host="hv2"),
        says(Rank.STATIC, vm_uuid=WEB, host="hv1", port_name="vnet1"),
    )
    assert (placement.interface.host, placement.interface.port_name) == ("hv2", "")


def test_a_port_without_mac_adds_to_the_interface_on_it_and_to_no_other() -> None:
    ports = {
        ("hv1", "vnet1"): [
            Statement(Rank.INTERFACE_NAME, Interface(host="hv1", port_name="vnet1", if_index=70), "names"),
            Statement(Rank.OVSDB, Interface(host="hv1", port_name="vnet1", if_index=7, bridge="br-int"), "ovsdb"),
        ],
        ("hv2", "vnet1"): [Statement(Rank.OVSDB, Interface(host="hv2", port_name="vnet1", if_index=9), "ovsdb 2")],
    }
    placement = one(says(Rank.STATIC, vm="web", host="hv1", port_name="vnet1"), ports=ports)
    assert (placement.interface.if_index, placement.interface.bridge) == (7, "br-int")
    assert placement.ranks == (Rank.OVSDB, Rank.STATIC, Rank.INTERFACE_NAME)
    assert one(says(Rank.STATIC, vm="web", port_name="vnet1"), ports=ports).interface.if_index == 0


def test_a_switch_port_of_several_sources_is_one() -> None:
    placement = merge_port(
        [
            says(Rank.INTERFACE_NAME, mac=0, host="hv1", port_name="vxlan0", if_index=4),
            says(Rank.OVSDB, mac=0, host="hv1", port_name="vxlan0", of_port=1, bridge="br-int", kind=PortKind.TUNNEL),
        ]
    )
    assert placement.interface == Interface(
        host="hv1", port_name="vxlan0", if_index=4, of_port=1, bridge="br-int", kind=PortKind.TUNNEL
    )


def test_addresses_of_all_sources_best_first_within_the_limit() -> None:
    many = tuple(IPv4Address(0x0A00_0000 + n) for n in range(MAX_IPS))
    few = (ip_address("192.0.2.1"), many[3], ip_address("2001:db8::1"))
    placement = one(says(Rank.STATIC, ips=many), says(Rank.LIBVIRT, ips=few))
    assert placement.interface.ips == (*few, *(ip for ip in many if ip != many[3]))[:MAX_IPS]
    assert one(says(Rank.STATIC, ips=(*many, *few))).interface.ips == many


def test_the_text_of_a_conflict_is_bounded() -> None:
    placement = one(says(Rank.LIBVIRT, vm="a" * 250, vm_uuid=WEB), says(Rank.STATIC, vm="b" * 250))
    assert placement.conflict.startswith("vm: libvirt says aaa")
    assert len(placement.conflict) == MAX_CONFLICT


_statements = st.builds(
    says,
    st.sampled_from(Rank),
    vm=st.sampled_from(["", "web", "shop"]),
    vm_uuid=st.sampled_from([NO_UUID, WEB, SHOP]),
    host=st.sampled_from(["", "hv1", "hv2"]),
    port_name=st.sampled_from(["", "vnet1", "vnet2"]),
    port_id=st.sampled_from(["", "p-1", "p-2"]),
    vni=st.sampled_from([0, 1, 2]),
    vlan=st.sampled_from([0, 10]),
    if_index=st.sampled_from([0, 7, 8]),
    project=st.sampled_from(["", "red", "blue"]),
)


@given(st.lists(_statements, min_size=1, max_size=6))
def test_whatever_is_said_nothing_is_invented(statements: Sequence[Statement]) -> None:
    placements = merged(*statements)
    assert placements
    places = {s.interface.host for s in statements} - {""}
    assert {p.interface.host for p in placements} <= places | {""}
    derived = {"vm": {str(WEB), str(SHOP)}, "kind": {PortKind.VM}}
    for placement in placements:
        for field in fields(Interface):
            stated = {getattr(s.interface, field.name) for s in statements}
            assert getattr(placement.interface, field.name) in stated | {field.default} | derived.get(field.name, set())
        assert set(placement.ranks) <= {s.rank for s in statements}


@given(_statements)
def test_a_statement_that_stands_alone_is_taken_as_it_is(statement: Statement) -> None:
    said = statement.interface
    name = said.vm or (str(said.vm_uuid) if said.vm_uuid.int else "")
    expected = replace(said, kind=PortKind.VM, vm=name)
    assert one(statement) == Placement(expected, (statement.rank,), frozenset([statement.source]), conflict="")
    # A second source that knows nothing but the MAC address adds nothing, either.
    assert one(statement, says(Rank.INTERFACE_NAME)).interface == expected


@given(st.lists(_statements, min_size=1, max_size=6, unique_by=lambda statement: statement.rank), st.randoms())
def test_the_order_in_which_sources_answer_says_nothing(statements: list[Statement], random: Any) -> None:
    expected = merged(*statements)
    random.shuffle(statements)
    assert merged(*statements) == expected


def test_hybrid_plug_is_one_port_with_the_numbers_of_open_vswitch() -> None:
    """libvirt knows the tap on the Linux bridge, Open vSwitch its own end of the cable: exporters name the latter."""
    tap = Interface(mac=1, vm="web", vm_uuid=UUID(int=5), host="h", port_name="tap0123abcd-ef", port_id="p-1")
    qvo = Interface(
        mac=1, vm_uuid=UUID(int=5), host="h", port_name="qvo0123abcd-ef", port_id="p-1", if_index=17, of_port=4,
        bridge="br-int",
    )  # fmt: skip

    (placed,) = merge_interface([Statement(Rank.LIBVIRT, tap), Statement(Rank.OVSDB, qvo)], lambda _host, _name: ())

    found = placed.interface
    assert (found.vm, found.port_name, found.if_index, found.of_port) == ("web", "qvo0123abcd-ef", 17, 4)
