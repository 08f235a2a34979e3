"""Names that exporters send of their own interfaces, read from real sFlow datagrams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from uuid import UUID

import pytest

from collector.inventory.exporters import HOST_FORGOTTEN_US, VMS_PER_MAC, InBand
from collector.inventory.history import FOREVER, History
from collector.inventory.sources.base import Address, Host, Interface
from schemas.inventory import Rank
from tests.decoders.sflow.support import (
    counters_sample,
    datagram,
    host_adapters,
    host_descr,
    interface_counters,
    item,
    text,
    words,
)
from tests.decoders.support import Sflow

HV1, HV2 = "192.0.2.11", "192.0.2.12"
START = 1_700_000_000_000_000
SECOND = 1_000_000
WEB, SHOP = UUID(int=0xA), UUID(int=0xB)
MAC = 0x5254_0000_0001


class Exporters:
    """Hypervisors that send sFlow, and what is learnt from them."""

    def __init__(self, capacity: int = 100) -> None:
        self.in_band = InBand(capacity)
        self.sflow = Sflow()
        self.sequence = 0
        self.now = START

    def send(self, agent: str, *samples: bytes) -> None:
        self.sequence += 1
        message = datagram(*samples, agent=agent, sequence=self.sequence, uptime=self.sequence)
        decoded = self.sflow.decode(message, sender=agent, time_us=self.now)
        self.in_band.observe(decoded.counters, decoded.inventory)

    def polls(self, agent: str, **ports: int) -> None:
        """Counters of ports: ifIndex by name."""
        samples = (
            counters_sample(
                interface_counters(index), item(1005, text(name)), source=(0, index), sequence=self.sequence + 1
            )
            for name, index in ports.items()
        )
        self.send(agent, *samples)

    def host(self, agent: str, name: str) -> None:
        """host-sflow tells the hypervisor's name."""
        self.send(agent, counters_sample(host_descr(name, bytes(16)), source=(2, 1)))

    def vm(self, agent: str, name: str, uuid: UUID, *adapters: tuple[int, int]) -> None:
        """host-sflow tells a VM and its adapters: ifIndex and MAC."""
        records = (
            host_descr(name, uuid.bytes),
            host_adapters(*((index, (mac,)) for index, mac in adapters)),
            item(2002, words(2, 1)),
        )
        self.send(agent, counters_sample(*records, source=(3, 100_000 + uuid.int % 1000)))

    def changed(self) -> bool:
        return self.in_band.take(self.now)

    def ports(self, **known: str) -> set[tuple[str, str, int]]:
        interfaces, _ = self.in_band.ports({ip_address(a): name for name, a in known.items()})
        assert len(set(interfaces)) == len(interfaces)
        return {(i.host, i.port_name, i.if_index) for i in interfaces}

    def vms(self, **known: str) -> set[tuple[str, str, int, int]]:
        interfaces, _ = self.in_band.vms({ip_address(a): name for name, a in known.items()})
        return {(i.host, i.vm, i.mac, i.if_index) for i in interfaces}


@pytest.fixture
def exporters() -> Exporters:
    return Exporters()


def test_ports_of_two_agents_are_kept_apart_and_named_as_the_inventory_names_them(exporters: Exporters) -> None:
    exporters.polls(HV1, vnet1=7, vnet2=8)
    exporters.polls(HV2, vnet1=9)
    assert exporters.changed()
    assert not exporters.changed()
    assert exporters.ports() == {(HV1, "vnet1", 7), (HV1, "vnet2", 8), (HV2, "vnet1", 9)}
    assert exporters.ports(hv1=HV1) == {("hv1", "vnet1", 7), ("hv1", "vnet2", 8), (HV2, "vnet1", 9)}
    _, hosts = exporters.in_band.ports({ip_address(HV1): "hv1"})
    assert set(hosts) == {
        Host(name="hv1", addresses=(ip_address(HV1),)),
        Host(name=HV2, addresses=(ip_address(HV2),)),
    }


def test_counters_without_name_or_ifindex_say_nothing(exporters: Exporters) -> None:
    exporters.send(HV1, counters_sample(interface_counters(7)))
    exporters.send(HV1, counters_sample(interface_counters(0), item(1005, text("vnet1")), source=(0, 0)))
    assert not exporters.changed()
    assert exporters.ports() == set()


def test_the_same_names_again_are_no_change(exporters: Exporters) -> None:
    exporters.polls(HV1, vnet1=7, vnet2=8)
    assert exporters.changed()
    for _ in range(3):
        exporters.polls(HV1, vnet1=7, vnet2=8)
    assert not exporters.changed()


@pytest.mark.parametrize(
    ("later", "known"),
    [
        ({"vnet1": 9}, {("vnet1", 9), ("vnet2", 8)}),  # the VM was started again: its name has a new ifIndex
        ({"vnet9": 7}, {("vnet9", 7), ("vnet2", 8)}),  # another port has got its ifIndex
        ({"vnet2": 7}, {("vnet2", 7)}),  # both at once: nothing is left of vnet1
    ],
)
def test_a_name_and_an_ifindex_belong_to_one_port(
    exporters: Exporters, later: dict[str, int], known: set[tuple[str, int]]
) -> None:
    exporters.polls(HV1, vnet1=7, vnet2=8)
    exporters.polls(HV2, vnet1=7)
    exporters.changed()
    exporters.polls(HV1, **later)
    assert exporters.changed()
    assert exporters.ports() == {*((HV1, *port) for port in known), (HV2, "vnet1", 7)}


def test_what_was_so_before_may_become_so_again(exporters: Exporters) -> None:
    """After each boot of a hypervisor its ports may have other numbers, and one day those of before."""
    for _ in range(3):
        for ports in ({"vnet1": 7, "vnet2": 8}, {"vnet1": 8, "vnet2": 7}):
            exporters.polls(HV1, **ports)
            exporters.polls(HV1, **ports)  # the first poll may come in any order
            assert exporters.changed()
            assert exporters.ports() == {(HV1, name, index) for name, index in ports.items()}


def test_random_polls_leave_what_was_said_last(exporters: Exporters) -> None:
    import random

    rng, names, indices = random.Random(3), [f"vnet{n}" for n in range(12)], range(1, 15)
    said: dict[int, str] = {}
    for _ in range(400):
        name, index = rng.choice(names), rng.choice(indices)
        exporters.polls(HV1, **{name: index})
        said = {i: n for i, n in said.items() if n != name} | {index: name}
        assert exporters.ports() == {(HV1, n, i) for i, n in said.items()}


def test_names_are_bounded_and_a_port_that_is_known_may_still_change() -> None:
    exporters = Exporters(capacity=3)
    exporters.polls(HV1, vnet1=1, vnet2=2, vnet3=3, vnet4=4, vnet5=5)
    assert exporters.ports() == {(HV1, "vnet1", 1), (HV1, "vnet2", 2), (HV1, "vnet3", 3)}
    assert exporters.in_band.left_out == 2
    exporters.polls(HV1, vnet1=1, vnet4=4)
    assert exporters.in_band.left_out == 2  # counted once
    exporters.polls(HV1, vnet9=1)
    exporters.polls(HV1, vnet2=12)
    assert exporters.ports() == {(HV1, "vnet9", 1), (HV1, "vnet2", 12), (HV1, "vnet3", 3)}
    for number in range(100, 200):
        exporters.polls(HV1, **{f"vnet{number}": number})
    assert exporters.ports() == {(HV1, "vnet9", 1), (HV1, "vnet2", 12), (HV1, "vnet3", 3)}
    assert len(exporters.in_band._seen) <= 6


def test_vms_of_host_sflow_with_their_hypervisor(exporters: Exporters) -> None:
    exporters.host(HV1, "hv1.example.com")
    exporters.vm(HV1, "web", WEB, (7, MAC), (8, MAC + 1))
    exporters.vm(HV2, "shop", SHOP, (7, MAC))
    assert exporters.changed()
    expected = {("hv1.example.com", "web", MAC, 7), ("hv1.example.com", "web", MAC + 1, 8), (HV2, "shop", MAC, 7)}
    assert exporters.vms() == expected
    assert exporters.vms(lab=HV2) == {*list(expected - {(HV2, "shop", MAC, 7)}), ("lab", "shop", MAC, 7)}
    interfaces, hosts = exporters.in_band.vms({})
    assert {i.vm_uuid for i in interfaces} == {WEB, SHOP}
    assert Host(name="hv1.example.com", addresses=(ip_address(HV1),)) in hosts


def test_a_vm_that_moves_is_where_it_was_named_last(exporters: Exporters) -> None:
    exporters.vm(HV1, "web", WEB, (7, MAC))
    exporters.changed()
    exporters.vm(HV1, "web", WEB, (7, MAC))
    assert not exporters.changed()
    exporters.vm(HV2, "web", WEB, (17, MAC))
    assert exporters.changed()
    assert exporters.vms() == {(HV2, "web", MAC, 17)}


def test_a_vm_that_is_not_named_any_more_is_forgotten(exporters: Exporters) -> None:
    exporters.vm(HV1, "web", WEB, (7, MAC))
    exporters.changed()
    exporters.now += HOST_FORGOTTEN_US // 2
    exporters.vm(HV1, "shop", SHOP, (8, MAC + 1))
    exporters.changed()
    exporters.now = START + HOST_FORGOTTEN_US
    assert not exporters.changed()
    exporters.now += 1
    assert exporters.changed()
    assert exporters.vms() == {(HV1, "shop", MAC + 1, 8)}
    assert not exporters.changed()


@pytest.mark.parametrize("mac", [0, 0x0100_5E00_0001, 0xFFFF_FFFF_FFFF])
def test_a_mac_that_no_interface_has_is_nobodys(exporters: Exporters, mac: int) -> None:
    exporters.vm(HV1, "web", WEB, (7, mac))
    assert not exporters.changed()
    assert exporters.vms() == set()


def test_vms_are_bounded_in_all_and_for_each_mac() -> None:
    exporters = Exporters(capacity=VMS_PER_MAC + 10)
    for number in range(VMS_PER_MAC + 5):
        exporters.vm(HV1, "forged", UUID(int=number + 1), (7, MAC))
    assert len(exporters.vms()) == 1
    interfaces, _ = exporters.in_band.vms({})
    assert len(interfaces) == VMS_PER_MAC
    assert exporters.in_band.left_out == 5
    for number in range(15):
        exporters.vm(HV1, "web", WEB, (7, MAC + 1 + number))
    assert len(exporters.in_band.vms({})[0]) == VMS_PER_MAC + 10
    assert exporters.in_band.left_out == 10
    exporters.now += HOST_FORGOTTEN_US + SECOND
    exporters.changed()
    for number in range(VMS_PER_MAC):
        exporters.vm(HV1, "again", UUID(int=number + 1), (7, MAC))
    assert len(exporters.in_band.vms({})[0]) == VMS_PER_MAC
    assert exporters.in_band.left_out == 10


def test_a_move_stated_by_host_sflow_in_the_history(exporters: Exporters) -> None:
    """The stream is a source as any other: its whole state each time."""
    history = History(100, 3_600 * SECOND, short_names=True)

    def learn() -> None:
        assert exporters.changed()
        for name, rank, (interfaces, hosts) in (
            ("hosts", Rank.SFLOW, exporters.in_band.vms({})),
            ("names", Rank.INTERFACE_NAME, exporters.in_band.ports({ip_address(HV1): "hv1", ip_address(HV2): "hv2"})),
        ):
            history.apply(name, rank, interfaces, hosts, exporters.now)

    exporters.host(HV1, "hv1")
    exporters.host(HV2, "hv2")
    exporters.polls(HV1, vnet1=7)
    exporters.vm(HV1, "web", WEB, (7, MAC))
    learn()
    exporters.now += 30 * SECOND
    exporters.vm(HV2, "web", WEB, (17, MAC))
    learn()
    rows = history.columns.rows[1 : history.columns.used]
    spans = sorted((int(r["if_index"]), int(r["valid_from"]), int(r["valid_to"])) for r in rows[rows["mac"] == MAC])
    assert spans == [(7, 0, START + 30 * SECOND), (17, START + 30 * SECOND, FOREVER)]
    assert history.addresses() == {ip_address(HV1): "hv1", ip_address(HV2): "hv2"}


@contextmanager
def _busy(work: object) -> Iterator[list[BaseException]]:
    """Runs `work` again and again on another thread."""
    ending, failures = threading.Event(), list[BaseException]()

    def body() -> None:
        try:
            while not ending.is_set():
                work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield failures
    finally:
        ending.set()
        thread.join()


def test_the_decode_thread_and_the_inventorys_thread_do_not_meet(exporters: Exporters) -> None:
    known: dict[Address, str] = {IPv4Address(HV1): "hv1"}

    def read() -> None:
        exporters.in_band.take(exporters.now)
        for interfaces, _ in (exporters.in_band.ports(known), exporters.in_band.vms(known)):
            assert all(isinstance(interface, Interface) for interface in interfaces)

    with _busy(read) as failures:
        for number in range(300):
            exporters.polls(HV1, **{f"vnet{number % 7}": number % 11 + 1})
            exporters.vm(HV1, "web", UUID(int=number % 90 + 1), (7, MAC + number % 3))
    assert failures == []


def test_names_collide_in_no_key(exporters: Exporters) -> None:
    """Every port of many hypervisors has a key of its own."""
    for agent in range(1, 21):
        exporters.polls(f"192.0.2.{agent}", **{f"vnet{n}": n + 1 for n in range(5)})
    assert len(exporters.ports()) == 100
    assert len(exporters.in_band._seen) == 100
    assert VMS_PER_MAC == 64
