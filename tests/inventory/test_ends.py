"""Both ends of probes are named by their addresses, at the time of the window."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.ends import name_ends
from collector.inventory.history import History
from collector.inventory.snapshot import Snapshot, build
from collector.inventory.sources.base import Host, Interface, PortKind
from collector.probe.results import parse
from schemas.inventory import Rank
from schemas.probes import NAMED
from tests.probe.support import NOW_US, body

SECOND = 1_000_000


def interface(number: int, ip: str, network: str, host: str = "hv1", vlan: int = 0) -> Interface:
    return Interface(
        host=host, port_name=f"tap{number}", kind=PortKind.VM, mac=0x5254_0000_0000 + number, vm=f"vm{number}",
        vm_uuid=UUID(int=number), project="p", network=network, vlan=vlan, ips=(ip_address(ip),),
    )  # fmt: skip


def snapshot(*interfaces: Interface, later: tuple[Interface, ...] | None = None) -> Snapshot:
    history = History(100, 3600 * SECOND, True)
    hosts = tuple(Host(name=f"hv{number}", addresses=(ip_address(f"192.0.2.{number}"),)) for number in (1, 2))
    history.apply("test", Rank.STATIC, interfaces, hosts, NOW_US - 600 * SECOND)
    if later is not None:
        history.apply("test", Rank.STATIC, later, hosts, NOW_US - 300 * SECOND)
    return build(history.columns, history.addresses())


def named(known: Snapshot, src: str, dst: str, ago_s: int = 13) -> dict[str, Any]:
    row = {"src_ip": src, "dst_ip": dst, "time_us": NOW_US - ago_s * SECOND}
    rows = name_ends(parse(body(row), NOW_US).table("hv1"), known, SECOND).to_pylist()
    found = {name: rows[0][name] for name in NAMED}
    return {name: value for name, value in found.items() if value not in ("", bytes(16))}


def test_vms_and_hypervisors() -> None:
    known = snapshot(interface(1, "10.0.0.1", "red"), interface(2, "10.0.0.2", "red", "hv2"))

    assert named(known, "10.0.0.1", "10.0.0.2") == {
        "src_vm": "vm1", "dst_vm": "vm2", "src_project": "p", "dst_project": "p", "src_host": "hv1", "dst_host": "hv2",
        "network": "red", "src_vm_uuid": UUID(int=1).bytes, "dst_vm_uuid": UUID(int=2).bytes,
    }  # fmt: skip
    assert named(known, "192.0.2.1", "192.0.2.2") == {"src_host": "hv1", "dst_host": "hv2"}
    assert named(known, "192.0.2.1", "198.51.100.7") == {"src_host": "hv1"}


def test_an_address_of_two_networks_is_told_by_the_other_end() -> None:
    known = snapshot(
        interface(1, "10.0.0.1", "red", vlan=1), interface(2, "10.0.0.2", "red", vlan=1),
        interface(3, "10.0.0.2", "blue", vlan=2),
    )  # fmt: skip

    assert named(known, "10.0.0.1", "10.0.0.2")["dst_vm"] == "vm2"
    assert named(known, "10.0.0.2", "10.0.0.1")["src_vm"] == "vm2"
    assert "dst_vm" not in named(known, "198.51.100.7", "10.0.0.2")


def test_what_is_a_hypervisor_and_a_vm_is_neither() -> None:
    known = snapshot(interface(1, "192.0.2.1", "red"))

    assert named(known, "192.0.2.1", "192.0.2.2") == {"dst_host": "hv2"}


@pytest.mark.parametrize(("ago_s", "vm"), [(700, "vm1"), (200, "vm2")])
def test_the_name_is_that_of_the_time(ago_s: int, vm: str) -> None:
    known = snapshot(interface(1, "10.0.0.1", "red"), later=(interface(2, "10.0.0.1", "red"),))

    assert named(known, "10.0.0.1", "198.51.100.7", ago_s)["src_vm"] == vm
