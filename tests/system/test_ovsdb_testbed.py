"""The OVSDB source on two real Open vSwitch hypervisors; judges: ovs-vsctl (`testbed inventory`) and the kernel."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.settings import OvsdbSettings
from collector.inventory.sources.base import NO_UUID, Interface, PortKind, Report, SourceError
from collector.inventory.sources.ovsdb import Ovsdb
from tests.system.testbed import Testbed, missing

pytestmark = pytest.mark.system

LONG = 60.0
KINDS = {"vxlan": PortKind.TUNNEL, "patch": PortKind.PATCH, "internal": PortKind.OTHER}


def plain(value: Any) -> Any:
    """A value of OVSDB's JSON (RFC 7047 section 5.1): sets of none or one, and maps."""
    if isinstance(value, list) and value[0] == "set":
        return value[1][0] if value[1] else 0
    return dict(value[1]) if isinstance(value, list) and value[0] == "map" else value


def listed(testbed: Testbed, host: str) -> dict[str, dict[str, Any]]:
    """Rows of Interface as `ovs-vsctl list` shows them, by name."""
    table = json.loads(testbed.run("inventory"))["hosts"][f"host-{host}"]["interfaces"]
    rows = [dict(zip(table["headings"], map(plain, row), strict=True)) for row in table["data"]]
    return {row["name"]: row for row in rows}


def vms(testbed: Testbed, host: str) -> dict[str, dict[str, Any]]:
    """The VMs on a hypervisor, by port."""
    every = json.loads(testbed.run("inventory"))["vms"].values()
    return {vm["port"]: vm for vm in every if vm["host"] == f"host-{host}"}


def expected(row: dict[str, Any]) -> tuple[Any, ...]:
    ids = row["external_ids"]
    kind = PortKind.VM if "attached-mac" in ids else KINDS.get(row["type"], PortKind.UNKNOWN)
    mac = int(ids.get("attached-mac", "0").replace(":", ""), 16)
    uuid = UUID(ids["vm-id"]) if "vm-id" in ids else NO_UUID
    return row["name"], row["ofport"], row["ifindex"], kind, mac, uuid, ids.get("iface-id", "")


def found(interface: Interface) -> tuple[Any, ...]:
    return (
        interface.port_name,
        interface.of_port,
        interface.if_index,
        interface.kind,
        interface.mac,
        interface.vm_uuid,
        interface.port_id,
    )


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    """A testbed of this module alone: migrations and restarts would disturb others, and theirs these."""
    if reason := missing():
        pytest.skip(reason)
    made = Testbed("od")
    try:
        made.run("up")
        yield made
    finally:
        made.run("down")


@pytest.fixture
def sources(testbed: Testbed) -> Iterator[dict[str, Ovsdb]]:
    made = {host: Ovsdb(OvsdbSettings(remote=testbed.ovsdb(host))) for host in "ab"}
    try:
        yield made
    finally:
        for source in made.values():
            source.close()


def on(report: Report) -> dict[UUID, str]:
    """Port by VM."""
    return {i.vm_uuid: i.port_name for i in report.interfaces if i.kind is PortKind.VM}


@pytest.mark.parametrize("host", ["a", "b"])
def test_interfaces_are_those_that_ovs_vsctl_lists(testbed: Testbed, sources: dict[str, Ovsdb], host: str) -> None:
    rows = listed(testbed, host)

    report = sources[host].read()

    assert {found(interface) for interface in report.interfaces} == {expected(row) for row in rows.values()}
    assert all(row["ifindex"] for row in rows.values() if "attached-mac" in row["external_ids"])
    assert {interface.host for interface in report.interfaces} == {report.hosts[0].name}


@pytest.mark.parametrize("host", ["a", "b"])
def test_networks_are_those_of_the_vms(testbed: Testbed, sources: dict[str, Ovsdb], host: str) -> None:
    """Tag 100 is VNI 5001 on the wire, tag 10 is VLAN 10 (README of the testbed)."""
    ports = {interface.port_name: interface for interface in sources[host].read().interfaces}
    here = vms(testbed, host)

    assert here
    for name, vm in here.items():
        segment = (10, 0) if vm["tag"] == 10 else (0, 5001)
        assert (ports[name].vlan, ports[name].vni) == segment, name
        assert ports[name].vm_uuid == UUID(vm["uuid"])


def test_the_host_is_known_by_its_sflow_agent_and_its_tunnel(testbed: Testbed, sources: dict[str, Ovsdb]) -> None:
    testbed.run("export-sflow", "192.0.2.1:6343", "agent=192.0.2.11", "host=a")
    try:
        addresses = sources["a"].read().hosts[0].addresses
    finally:
        testbed.run("export-off", "sflow")

    assert {ip_address("192.0.2.11"), ip_address("198.51.100.11")} <= set(addresses)


def test_a_migration_is_seen_by_events(testbed: Testbed, sources: dict[str, Ovsdb]) -> None:
    """a2 goes to host b, under another name of its port, and back."""
    uuid = UUID(next(vm["uuid"] for vm in vms(testbed, "a").values() if vm["vm"] == "a2"))
    assert uuid in on(sources["a"].read())
    assert uuid not in on(sources["b"].read())
    for before, after in (("a", "b"), ("b", "a")):
        began = time.time_ns() // 1_000
        testbed.run("migrate", "a2", after)

        reports = {host: followed(source, uuid, host == after) for host, source in sources.items()}

        moved = next(vm["port"] for vm in vms(testbed, after).values() if vm["vm"] == "a2")
        assert on(reports[after])[uuid] == moved
        assert uuid not in on(reports[before])
        assert all(began < report.changed_us <= time.time_ns() // 1_000 for report in reports.values())


def followed(source: Ovsdb, uuid: UUID, there: bool) -> Report:
    """The report after the event that says that the VM is there, or is no longer."""
    until = time.monotonic() + LONG
    while source.wait(until - time.monotonic()):
        report = source.read()
        if (uuid in on(report)) == there:
            return report
    raise AssertionError("no event reported it")


def test_a_restart_of_the_switch_is_survived(testbed: Testbed, sources: dict[str, Ovsdb]) -> None:
    """ovs-vswitchd stops and starts: the database stays, numbers of ports may be others."""
    before = on(sources["a"].read())
    testbed.run("restart", "a")
    until = time.monotonic() + LONG

    while True:
        sources["a"].wait(1)
        report = sources["a"].read()
        rows = listed(testbed, "a")
        if {found(interface) for interface in report.interfaces} == {expected(row) for row in rows.values()}:
            break
        assert time.monotonic() < until, "the source does not follow the switch"

    assert on(report) == before


def test_counters_are_those_of_the_kernel(testbed: Testbed) -> None:
    """After traffic has ended and the switch has written its statistics: what the VM's own device has sent."""
    settings = OvsdbSettings(remote=testbed.ovsdb("a"), counters_seconds=1)
    testbed.run("traffic", "--seconds", "1", "ping", "udp")
    with closing(Ovsdb(settings)) as source:
        until = time.monotonic() + LONG
        while True:
            kernel = {port: sent(testbed, vm["vm"]) for port, vm in vms(testbed, "a").items()}
            counters = source.read().counters
            rows = {} if counters is None else {row["if_name"]: row for row in counters.to_pylist()}
            switch = {
                port: (rows[port]["in_bytes"], rows[port]["in_unicast_packets"]) for port in kernel if port in rows
            }
            if switch == kernel:
                break
            assert time.monotonic() < until, (switch, kernel)
            source.wait(1)
    assert all(row["source"] == "ovsdb" for row in rows.values())


def sent(testbed: Testbed, vm: str) -> tuple[int, int]:
    """(octets, packets) that the VM's device has sent, by the kernel of the VM."""
    devices = json.loads(testbed.run("exec", vm, "ip", "-json", "-s", "link", "show", "dev", "eth0"))
    figures = devices[0]["stats64"]["tx"]
    return figures["bytes"], figures["packets"]


def test_a_hypervisor_that_is_not_there(testbed: Testbed) -> None:
    source = Ovsdb(OvsdbSettings(remote=f"unix:{testbed.state}/c/db.sock"))
    with closing(source), pytest.raises(SourceError, match="No such file"):
        source.read()
