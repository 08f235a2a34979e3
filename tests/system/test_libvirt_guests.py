"""The libvirt source against real guests; what is right is said by virsh, Open vSwitch and the kernel."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.sources.libvirt import Libvirt
from tests.system.guests import (
    HOST,
    LONG,
    external_id,
    macs,
    new_source,
    next_report,
    number,
    ovs,
    plugged_in,
    tap,
    virsh,
    vm,
)

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("guests")]


@pytest.fixture
def source() -> Iterator[Libvirt]:
    made = new_source(HOST)
    yield made
    made.close()


def test_interfaces_are_those_that_virsh_and_open_vswitch_know() -> None:
    mapped = json.loads(vm("map"))
    assert [guest["domain"] for guest in mapped] == ["guest-a", "guest-b"]
    for guest in mapped:
        made = new_source(guest["host"][-1])
        report = made.read()
        made.close()
        (found,) = report.interfaces
        assert (found.host, found.vm, found.vm_uuid) == (guest["host"], guest["domain"], UUID(guest["uuid"]))
        assert (found.mac, found.port_name, found.bridge) == (number(guest["mac"]), guest["tap"], "br-int")
        assert found.port_id == external_id(guest["host"][-1], guest["tap"], "iface-id")
        assert found.vlan == int(ovs(guest["host"][-1], "get", "Port", guest["tap"], "tag"))
        assert report.hosts[0].name == guest["host"]


def test_counters_are_the_taps_counters_seen_from_the_switch() -> None:
    made = new_source(HOST, counters_seconds=0.001)
    port = made.read().interfaces[0].port_name
    first, kernel_first = quiet_counters(made, HOST, port)

    loaded = json.loads(vm("load", HOST, "3"))
    second, kernel_second = quiet_counters(made, HOST, port)
    made.close()

    assert loaded["bytes"] > 0
    for row, kernel in ((first, kernel_first), (second, kernel_second)):
        for ours, theirs in (("in", kernel["rx"]), ("out", kernel["tx"])):
            assert row[f"{ours}_bytes"] == theirs["bytes"]
            assert row[f"{ours}_unicast_packets"] == theirs["packets"]
            assert row[f"{ours}_errors"] == theirs["errors"]
            assert row[f"{ours}_discards"] == theirs["dropped"]
    assert second["in_bytes"] - first["in_bytes"] >= loaded["bytes"]  # the guest is the one that sends


def quiet_counters(made: Libvirt, host: str, port: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row, and the kernel's counters, which were the same before it was read and after."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        before = tap(host, port)
        time.sleep(0.002)
        report = made.read()
        if report.counters is not None and tap(host, port) == before:
            row = next(row for row in report.counters.to_pylist() if row["if_name"] == port)
            return row, before
    raise AssertionError("the guest is never quiet")


def test_differences_add_up_to_what_the_kernel_counted() -> None:
    made = new_source(HOST, counters_seconds=0.001)
    port = made.read().interfaces[0].port_name
    _, kernel_first = quiet_counters(made, HOST, port)
    sums = dict.fromkeys(("in_bytes", "out_unicast_packets", "interval_us"), 0)
    for _ in range(5):
        time.sleep(0.3)
        report = made.read()
        assert report.counters is not None
        (row,) = report.counters.to_pylist()
        assert row["delta_state"] == "ok"
        sums["in_bytes"] += row["in_bytes_delta"]
        sums["out_unicast_packets"] += row["out_unicast_packets_delta"]
        sums["interval_us"] += row["interval_us"]
    made.close()

    assert kernel_first["rx"]["bytes"] + sums["in_bytes"] == row["in_bytes"]
    assert kernel_first["tx"]["packets"] + sums["out_unicast_packets"] == row["out_unicast_packets"]
    assert sums["interval_us"] >= 5 * 300_000
    assert sums["in_bytes"] > 0  # the guest pings each second


NETWORK = """<network><name>lvnet</name><forward mode='bridge'/><bridge name='br-int'/><virtualport type='openvswitch'/>
  <portgroup name='blue'><vlan><tag id='42'/></vlan></portgroup></network>"""
ON_NETWORK = """<interface type='network'><mac address='52:54:00:6b:00:32'/>
  <source network='lvnet' portgroup='blue'/><model type='virtio'/>
  <bandwidth><inbound average='1000' peak='2000' burst='128'/><outbound average='500'/></bandwidth></interface>"""
ON_NETWORK_IN_ONLY = ON_NETWORK.replace("<outbound average='500'/>", "")
ETHERNET = """<interface type='ethernet'><mac address='52:54:00:6b:00:31'/><target dev='lveth0'/>
  <model type='virtio'/></interface>"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[None]:
    """A libvirt network on the bridge, with a port group."""
    file = tmp_path / "network.xml"
    file.write_text(NETWORK)
    virsh(HOST, "net-create", str(file))
    yield
    virsh(HOST, "net-destroy", "lvnet")


@pytest.mark.parametrize("nic", [ON_NETWORK, ON_NETWORK_IN_ONLY])
def test_a_nic_plugged_in_and_out_is_seen_by_its_event(
    source: Libvirt, network: None, tmp_path: Path, nic: str
) -> None:
    source.read()
    before_us = time.time_ns() // 1_000
    with plugged_in(tmp_path / "nic.xml", nic):
        report = next_report(source, lambda report: len(report.interfaces) == 2)

        assert report.changed_us >= before_us
        new = next(interface for interface in report.interfaces if interface.mac == 0x5254006B0032)
        assert [new.port_name, f"{new.mac:012x}"] == plugged(HOST)
        assert (new.network, new.bridge) == ("lvnet", "br-int")
        assert new.vlan == int(ovs(HOST, "get", "Port", new.port_name, "tag"))
        assert new.port_id == external_id(HOST, new.port_name, "iface-id")
        assert new.speed == limit(HOST, new.port_name)

    next_report(source, lambda report: macs(report) == {0x5254006B0001})


def plugged(host: str) -> list[str]:
    """Device and MAC address of the guest's last interface, as virsh says."""
    device, *_, mac = virsh(host, "domiflist", "guest-a").strip().splitlines()[-1].split()
    return [device, mac.replace(":", "")]


def limit(host: str, port: str) -> int:
    """The smaller limit that Open vSwitch has for a port, in bit/s: of sending to it (QoS), of receiving (policing)."""
    sending = ovs(host, "--columns=other_config", "--bare", "find", "QoS", f"external_ids:ifname={port}")
    max_rate = re.search(r"max-rate=(\d+)", sending)
    receiving = int(ovs(host, "get", "Interface", port, "ingress_policing_rate")) * 1_000
    return min(rate for rate in (int(max_rate[1]) if max_rate else 0, receiving) if rate)


def test_an_ethernet_kind_is_counted_from_the_guests_side_too(tmp_path: Path) -> None:
    made = new_source(HOST, counters_seconds=0.001)
    with plugged_in(tmp_path / "nic.xml", ETHERNET):
        until = time.monotonic() + LONG
        while tap(HOST, "lveth0")["tx"]["bytes"] == 0:  # the host's own neighbour discovery
            assert time.monotonic() < until
            time.sleep(0.1)
        row, kernel = quiet_counters(made, HOST, "lveth0")
    made.close()

    assert kernel["tx"]["bytes"] > 0
    assert (row["in_bytes"], row["out_bytes"]) == (kernel["rx"]["bytes"], kernel["tx"]["bytes"])


def test_a_domain_started_again_has_a_new_device(source: Libvirt) -> None:
    (old,) = source.read().interfaces
    virsh(HOST, "destroy", "guest-a")
    next_report(source, lambda report: report.interfaces == ())
    virsh(HOST, "start", "guest-a")

    (new,) = next_report(source, lambda report: len(report.interfaces) == 1).interfaces

    assert new.port_name != old.port_name
    assert (new.vm_uuid, new.mac) == (old.vm_uuid, old.mac)
    assert [new.port_name, f"{new.mac:012x}"] == plugged(HOST)


def test_a_paused_guest_stays(source: Libvirt) -> None:
    source.read()
    virsh(HOST, "suspend", "guest-a")
    report = next_report(source, lambda _: True)
    virsh(HOST, "resume", "guest-a")

    assert virsh(HOST, "domstate", "guest-a").strip() == "running"
    assert macs(report) == {0x5254006B0001}
