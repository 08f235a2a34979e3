"""Columns and the tables over them after thousands of random changes, against look-ups that try every row."""

from __future__ import annotations

import random
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from collector.inventory import intervals as columns_module
from collector.inventory import lookup
from collector.inventory.intervals import Columns, address_words
from collector.inventory.merge import Placement
from collector.inventory.snapshot import BY_INDEX, BY_NAME, BY_OF_PORT, Snapshot, build, check
from collector.inventory.sources.base import NO_UUID, Address, Interface, PortKind
from decoders.jit import unchecked_kernel
from schemas.inventory import Rank
from tests.decoders.support import uncounted


@uncounted
@unchecked_kernel
def find_host(tables, high, low):  # type: ignore[no-untyped-def]
    return lookup.find_host(tables, high, low)


@uncounted
@unchecked_kernel
def find_mac(tables, mac, time, grace, host, vni, vlan, near):  # type: ignore[no-untyped-def]
    return lookup.find_mac(tables, mac, time, grace, host, vni, vlan, near)


@uncounted
@unchecked_kernel
def find_ip(tables, high, low, time, grace, host, vni, vlan, near):  # type: ignore[no-untyped-def]
    return lookup.find_ip(tables, high, low, time, grace, host, vni, vlan, near)


@uncounted
@unchecked_kernel
def find_port(tables, host, by, value, time, grace, high, low):  # type: ignore[no-untyped-def]
    return lookup.find_port(tables, host, by, value, time, grace, high, low)


FOREVER = (1 << 63) - 1
GRACE = 5
CHANGES = 10_000
MACS = [0x5254_0000_0000 + n for n in range(40)]
IPS = [ip_address(f"10.0.0.{n}") for n in range(20)] + [ip_address(f"2001:db8::{n}") for n in range(1, 20)]
HOSTS = {ip_address("192.0.2.1"): "hv0", ip_address("2001:db8:f::1"): "hv0", ip_address("192.0.2.2"): "hv1"}
NEAR, HELD = 1, 2


@dataclass
class Row:
    """What the test knows of a row."""

    interface: Interface
    valid_from: int
    valid_to: int

    @property
    def vm(self) -> object:
        return self.interface.vm_uuid if self.interface.vm_uuid != NO_UUID else self.interface.vm

    @property
    def kind(self) -> PortKind:
        return self.interface.kind or (PortKind.VM if self.interface.mac else PortKind.UNKNOWN)

    def held(self, time: int) -> int:
        if self.valid_from <= time < self.valid_to:
            return HELD
        return NEAR if self.valid_from - GRACE <= time < self.valid_to + GRACE else 0


class World:
    """Columns under random changes, and the same rows in a dictionary."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.columns = Columns()
        self.rows: dict[int, Row] = {}

    def interface(self) -> Interface:
        choose = self.random.choice
        if self.random.random() < 0.2:
            return Interface(
                host=choose(["hv0", "hv1"]), port_name=f"port{choose(range(30))}", if_index=choose(range(30)),
                of_port=choose(range(6)), bridge=choose(["br-int", "br-phy"]), kind=choose(list(PortKind)),
            )  # fmt: skip
        vm = choose(range(60))
        return Interface(
            host=choose(["", "hv0", "hv1"]), port_name=choose(["", f"port{choose(range(30))}"]),
            if_index=choose([0, choose(range(30))]), of_port=choose(range(6)), bridge=choose(["br-int", "br-phy"]),
            mac=choose(MACS), vm=f"vm{vm}", vm_uuid=UUID(int=vm) if vm % 2 else NO_UUID,
            project=f"project {self.random.random()}", network=choose(["", "front"]), vni=choose([0, 1, 2]),
            vlan=choose([0, 0, 10]), ips=tuple(self.random.sample(IPS, choose(range(4)))),
        )  # fmt: skip

    def change(self) -> None:
        """Begin, rewrite, end or forget a row."""
        what = self.random.random()
        if len(self.rows) < 50 or (what < 0.4 and len(self.rows) < 300):
            row = Row(self.interface(), self.random.choice([0, self.random.randrange(1000)]), FOREVER)
            number = self.columns.add(_placement(row), row.valid_from, row.valid_to)
            assert number not in self.rows
            self.rows[number] = row
            return
        number = self.random.choice(list(self.rows))
        row = self.rows[number]
        if what < 0.6:
            row.interface = self.interface()
            self.columns.set(number, _placement(row), row.valid_from, row.valid_to)
        elif what < 0.8:
            row.valid_to = row.valid_from + self.random.randrange(1, 500)
            self.columns.end(number, row.valid_to)
        else:
            del self.rows[number]
            self.columns.remove(number)

    def snapshot(self) -> Snapshot:
        assert len(self.columns) == len(self.rows)
        return build(self.columns, HOSTS)


def _placement(row: Row) -> Placement:
    return Placement(row.interface, (Rank.STATIC,))


@pytest.fixture(scope="module")
def worlds() -> list[tuple[dict[int, Row], Snapshot]]:
    """States on the way through the changes, each with its rows; taken before the changes that follow."""
    patch = pytest.MonkeyPatch()
    # Names are numbered again every few hundred changes.
    patch.setattr(columns_module, "_NAMES_KEPT", 500)
    world, states = World(7), []
    for number in range(1, CHANGES + 1):
        world.change()
        if number in (1, 60, 5_000) or number == CHANGES:
            states.append(
                ({n: Row(r.interface, r.valid_from, r.valid_to) for n, r in world.rows.items()}, world.snapshot())
            )
    patch.undo()
    assert len(world.columns.strings()) < 6 * CHANGES / 10, "names that no row has are thrown away"
    assert world.columns.used <= 302, "free rows are used again"
    assert world.columns.ips_used <= 302 * 3, "and free entries of addresses"
    return states


def test_every_row_holds_what_was_written_last(worlds: list[tuple[dict[int, Row], Snapshot]]) -> None:
    for rows, snapshot in worlds:
        strings = snapshot.strings.to_pylist()
        tables = snapshot.tables
        for number, row in rows.items():
            said = row.interface
            for name in ("vm", "host", "project", "network"):
                assert strings[snapshot.names[name][number]] == getattr(said, name)
            assert strings[tables.port_name[number]] == said.port_name
            assert strings[tables.bridge[number]] == said.bridge
            assert snapshot.uuids[number].as_py() == said.vm_uuid.bytes
            assert snapshot.mac[number] == tables.mac[number] == said.mac
            for name in ("if_index", "of_port", "vni", "vlan"):
                assert getattr(tables, name)[number] == getattr(said, name)
            assert (tables.valid_from[number], tables.valid_to[number]) == (row.valid_from, row.valid_to)
            assert tables.kind[number] == row.kind
        unused = [n for n in range(len(tables.mac)) if n not in rows]
        assert not tables.valid_to[unused].any()
        by_vm: dict[object, set[int]] = {}
        for number, row in rows.items():
            by_vm.setdefault(row.vm if row.interface.vm else "", set()).add(int(tables.vm_id[number]))
        assert all(len(ids) == 1 for ids in by_vm.values())
        assert len({next(iter(ids)) for ids in by_vm.values()}) == len(by_vm)


def _best(candidates: dict[int, Any], rows: dict[int, Row]) -> set[int]:
    """Rows with the highest score, none if they are of several VMs."""
    if not candidates:
        return {0}
    best = {number for number, score in candidates.items() if score == max(candidates.values())}
    return best if len({rows[number].vm for number in best}) == 1 else {0}


def _segment(said: Interface, vni: int, vlan: int) -> int:
    """3 for the same network, 1 where it is unknown, 0 for another one."""
    if (vni and said.vni == vni) or (vlan and said.vlan == vlan):
        return 3
    other = (vni and (said.vni or said.vlan)) or (vlan and said.vlan)
    return 0 if other else 1


def _times(rows: dict[int, Row]) -> list[int]:
    edges = sorted({time for row in rows.values() for time in (row.valid_from, row.valid_to) if time < FOREVER})
    return [edge + by for edge in random.Random(1).sample(edges, min(8, len(edges))) for by in (-GRACE, -1, 0, GRACE)]


def test_macs_are_found_as_by_trying_every_row(worlds: list[tuple[dict[int, Row], Snapshot]]) -> None:
    found = set()
    for rows, snapshot in worlds:
        for time in _times(rows):
            for mac in [*MACS, 0x5254_FFFF_0000]:
                for host, vni, vlan in (("", 0, 0), ("hv1", 0, 0), ("", 1, 0), ("hv0", 2, 0), ("", 0, 10)):
                    scores = {
                        number: (16 * bool(host and row.interface.host == host)) + 4 * row.held(time)
                        + _segment(row.interface, vni, vlan)
                        for number, row in rows.items()
                        if row.interface.mac == mac and row.held(time)
                        and not (vni and row.interface.vni and row.interface.vni != vni)
                    }  # fmt: skip
                    row = find_mac(
                        snapshot.tables, np.uint64(mac), np.int64(time), np.int64(GRACE),
                        np.int32(snapshot.hosts.get(host, 0)), np.uint32(vni), np.uint16(vlan), np.int32(0),
                    )  # fmt: skip
                    assert row in _best(scores, rows), (time, mac, host, vni, vlan)
                    found.add(row)
    assert len(found) > 100


def test_addresses_are_found_as_by_trying_every_row(worlds: list[tuple[dict[int, Row], Snapshot]]) -> None:
    found = set()
    for rows, snapshot in worlds:
        for time in _times(rows):
            for address in [*IPS, ip_address("10.9.9.9")]:
                for host, vni, vlan in (("", 0, 0), ("hv1", 0, 0), ("", 1, 0), ("hv0", 2, 0), ("", 0, 10)):
                    scores = {
                        number: 4 * _segment(row.interface, vni, vlan) + row.held(time)
                        + 2 * bool(host and row.interface.host == host)
                        for number, row in rows.items()
                        if address in row.interface.ips and row.held(time) and _segment(row.interface, vni, vlan)
                    }  # fmt: skip
                    row = find_ip(
                        snapshot.tables, *_words(address), np.int64(time), np.int64(GRACE),
                        np.int32(snapshot.hosts.get(host, 0)), np.uint32(vni), np.uint16(vlan), np.int32(0),
                    )  # fmt: skip
                    assert row in _best(scores, rows), (time, address, host, vni, vlan)
                    found.add(row)
    assert len(found) > 50


def _ports(rows: dict[int, Row], host: str, field: str, value: object, time: int, address: Address) -> set[int]:
    """Acceptable answers for a port."""
    held = {
        number: row.held(time)
        for number, row in rows.items()
        if row.interface.host == host and getattr(row.interface, field) == value and row.held(time)
    }
    best = [number for number, state in held.items() if state == max(held.values())]
    if not best:
        return {0}
    if max(held.values()) == HELD and len({rows[number].interface.bridge for number in best}) > 1:
        switch = {number for number in best if rows[number].kind != PortKind.VM}
        with_address = {row.vm for row in rows.values() if address in row.interface.ips}
        fitting = {n for n in best if rows[n].kind == PortKind.VM and rows[n].vm in with_address}
        return fitting or switch or {0}
    newest = max(rows[number].valid_from for number in best)
    best = [number for number in best if rows[number].valid_from == newest]
    return {number for number in best if rows[number].interface.mac} or set(best)


def test_ports_are_found_as_by_trying_every_row(worlds: list[tuple[dict[int, Row], Snapshot]]) -> None:
    found = set()
    address = IPS[3]
    for rows, snapshot in worlds:
        numbers = snapshot.string_numbers
        keys: list[tuple[int, str, object, int]] = [
            *((BY_NAME, "port_name", f"port{n}", numbers.get(f"port{n}", 0)) for n in range(31)),
            *((BY_INDEX, "if_index", n, n) for n in range(1, 31)),
            *((BY_OF_PORT, "of_port", n, n) for n in range(1, 7)),
        ]
        for time in _times(rows):
            for host in ("hv0", "hv1"):
                for by, field, value, number in keys:
                    row = find_port(
                        snapshot.tables, np.int32(snapshot.hosts.get(host, 0)), by, np.uint32(number), np.int64(time),
                        np.int64(GRACE), *_words(address),
                    )  # fmt: skip
                    assert row in _ports(rows, host, field, value, time, address), (time, host, field, value)
                    found.add(row)
    assert len(found) > 100


def test_hypervisors_are_found_by_their_addresses(worlds: list[tuple[dict[int, Row], Snapshot]]) -> None:
    for _, snapshot in worlds:
        for address, host in HOSTS.items():
            assert find_host(snapshot.tables, *_words(address)) == snapshot.hosts[host]
        assert find_host(snapshot.tables, *_words(ip_address("192.0.2.3"))) == 0
        assert find_host(snapshot.tables, np.uint64(0), np.uint64(0)) == 0


def _words(address: Address) -> tuple[np.uint64, np.uint64]:
    high, low = address_words(address)
    return np.uint64(high), np.uint64(low)


@pytest.mark.parametrize("vm_first", [False, True])
def test_of_two_rows_of_a_port_since_ever_the_one_with_a_vm_is_found(vm_first: bool) -> None:
    """OVSDB answered first, so its port stood alone for a moment; which row is free for which is chance."""
    port = Interface(host="hv1", port_name="vnet1", if_index=7)
    vm = Interface(host="hv1", port_name="vnet1", if_index=7, mac=MACS[0], vm="web")
    columns = Columns()
    rows = {}
    for interface, valid_to in ((vm, FOREVER), (port, 500)) if vm_first else ((port, 500), (vm, FOREVER)):
        rows[interface] = columns.add(Placement(interface, (Rank.OVSDB,)), 0, valid_to)
    snapshot = build(columns, {})
    host, nobody = np.int32(snapshot.hosts["hv1"]), np.uint64(0)
    row = find_port(snapshot.tables, host, BY_INDEX, np.uint32(7), np.int64(100), np.int64(GRACE), nobody, nobody)
    assert row == rows[vm]


@pytest.mark.parametrize("field", ["vm", "vm_uuid", "host"])
def test_names_of_rows_long_gone_are_thrown_away(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """host-sflow may come with a new UUID every time, and with no names."""
    monkeypatch.setattr(columns_module, "_NAMES_KEPT", 100)
    columns = Columns()
    keep = columns.add(Placement(Interface(mac=MACS[0], vm="kept", host="hv1"), (Rank.STATIC,)), 1, FOREVER)
    for number in range(1, 1_000):
        value: object = UUID(int=number) if field == "vm_uuid" else f"name {number}"
        columns.remove(columns.add(Placement(Interface(mac=1, **{field: value}), (Rank.SFLOW,)), 1, FOREVER))  # type: ignore[arg-type]
    assert columns.host_count() <= 103
    assert len(columns.strings()) <= 103
    assert columns.rows["vm_id"][: columns.used].max() <= 103
    last = columns.add(Placement(Interface(mac=1, vm_uuid=UUID(int=5000)), (Rank.SFLOW,)), 1, FOREVER)
    assert columns.rows["vm_id"][last] <= 103
    assert columns.strings()[int(columns.rows["vm"][keep])].as_py() == "kept"


@pytest.mark.parametrize(
    "table",
    [
        "mac_slots", "mac_next", "port_slots", "port_next", "port_row", "ip_slots", "ip_next", "ip_row", "host_slots",
        "host_of",
    ],
)  # fmt: skip
def test_tables_that_lead_out_of_themselves_are_refused(
    table: str, worlds: list[tuple[dict[int, Row], Snapshot]]
) -> None:
    """The join does not check each look-up."""
    tables = worlds[-1][1].tables
    check(tables)
    damaged = getattr(tables, table).copy()
    damaged[-1] = 1_000_000

    with pytest.raises(ValueError, match="below"):
        check(tables._replace(**{table: damaged}))


def test_tables_of_different_lengths_or_without_a_free_slot_are_refused() -> None:
    tables = build(Columns(), HOSTS).tables

    with pytest.raises(ValueError, match="columns"):
        check(tables._replace(vni=tables.vni[1:]))
    with pytest.raises(ValueError, match="free"):
        check(tables._replace(host_slots=np.ones_like(tables.host_slots)))
    with pytest.raises(ValueError, match="power of two"):
        check(tables._replace(host_slots=tables.host_slots[1:]))
