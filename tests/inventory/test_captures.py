"""Names and sightings of real captures, judged by the kernel's counters of each VM's interface."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest

from collector.inventory.sources.base import Interface
from schemas.inventory import Rank
from tests.decoders.support import PCAPS, address, mac, truth
from tests.inventory.support import UUID, history, hosts, known_of, load, named, ovsdb

SENT = ("source", "both")
RECEIVED = ("destination", "both")
PROVIDER = {"a3", "b3"}
"""VMs on the VLAN: only the uplink bridge of the receiving host sees what is for them (README of the captures)."""


def totals(flows: list[dict[str, Any]], end: str, sightings: tuple[str, ...]) -> tuple[Counter[str], Counter[str]]:
    """(packets, samples) by VM at one end, in rows with these sightings, scaled."""
    packets: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for flow in flows:
        if flow["sighting"] in sightings and flow[f"{end}_vm"]:
            packets[flow[f"{end}_vm"]] += flow["packets"] * flow["sampling_rate"]
            samples[flow[f"{end}_vm"]] += flow["samples"]
    return packets, samples


def within(estimate: int, true: int, samples: int) -> bool:
    """Whether an estimate is as near to the truth as `samples` samples allow, at 99.9 %: ± 3.3 / √n of it."""
    return abs(estimate - true) <= 3.3 * estimate / max(samples, 1) ** 0.5 + 1


def test_an_unsampled_capture_gives_the_counters_of_every_interface() -> None:
    flows = named("ovs_sflow_exact_s1", known_of("ovs_sflow_exact_s1"))
    counters = load("ovs_sflow_exact_s1.truth.json")["nic_counters"].values()

    sent, _ = totals(flows, "src", SENT)
    received, _ = totals(flows, "dst", RECEIVED)

    assert sent == {vm["vm"]: vm["tx"]["packets"] for vm in counters if vm["tx"]["packets"]}
    assert received == {vm["vm"]: vm["rx"]["packets"] for vm in counters if vm["rx"]["packets"]}
    octets: Counter[str] = Counter()
    for flow in flows:
        octets[flow["src_vm"]] += flow["frame_bytes"] if flow["sighting"] in SENT else 0
    assert octets == {vm["vm"]: vm["tx"]["bytes"] for vm in counters if vm["tx"]["bytes"]}


def test_counting_every_sighting_counts_twice() -> None:
    """Traffic between two hypervisors is sampled by both: the sum of all rows is twice what was sent."""
    flows = named("ovs_sflow_exact_s1", known_of("ovs_sflow_exact_s1"))
    sent = load("ovs_sflow_exact_s1.truth.json")["nic_counters"]["tb-b1"]["tx"]["packets"]
    of_b1 = [flow for flow in flows if flow["src_vm"] == "b1"]

    assert sum(flow["packets"] for flow in of_b1 if flow["sighting"] in SENT) == sent
    assert sum(flow["packets"] for flow in of_b1) == 2 * sent


@pytest.mark.parametrize("stem", ["ovs_sflow_mixed", "ovs_sflow_tcp_udp_s64", "ovs_sflow_vlan", "ovs_sflow_lossy"])
def test_sampled_captures_agree_with_the_counters_within_the_sampling_error(stem: str) -> None:
    flows = named(stem, known_of(stem))
    counters = load(f"{stem}.truth.json")["nic_counters"].values()

    sent, samples = totals(flows, "src", SENT)

    checked = [vm["vm"] for vm in counters if samples[vm["vm"]] >= 30]
    assert checked
    for vm in counters:
        if vm["vm"] in checked:
            assert within(sent[vm["vm"]], vm["tx"]["packets"], samples[vm["vm"]]), (vm["vm"], sent, samples)


def test_provider_traffic_on_two_bridges_is_counted_once_at_each_end() -> None:
    """br-int and br-phy of both hosts export: out by the VM's port, in by the uplink and a patch port."""
    flows = named("ovs_sflow_vlan", known_of("ovs_sflow_vlan"))
    counters = {vm["vm"]: vm for vm in load("ovs_sflow_vlan.truth.json")["nic_counters"].values()}

    received, samples = totals(flows, "dst", RECEIVED)

    for vm in PROVIDER:
        assert within(received[vm], counters[vm]["rx"]["packets"], samples[vm])
    assert {flow["network"] for flow in flows if flow["src_vm"] in PROVIDER} == {"vlan10"}


IPFIX_MISSED = 10
"""Packets that Open vSwitch 3.1 leaves out of IPFIX at the edges of a capture (README: 6 of 16074)."""


@pytest.mark.parametrize("stem", ["ovs_ipfix_tunnel", "ovs_ipfix_input_only", "ovs_ipfix_nocache"])
def test_ipfix_of_input_and_output_gives_the_counters_once(stem: str) -> None:
    flows = named(stem, known_of(stem))
    counters = load(f"{stem}.truth.json")["nic_counters"].values()

    sent, _ = totals(flows, "src", SENT)
    received, _ = totals(flows, "dst", RECEIVED)

    for vm in counters:
        assert vm["tx"]["packets"] - IPFIX_MISSED <= sent[vm["vm"]] <= vm["tx"]["packets"]
        if stem != "ovs_ipfix_input_only":
            assert vm["rx"]["packets"] - IPFIX_MISSED <= received[vm["vm"]] <= vm["rx"]["packets"]
    if stem == "ovs_ipfix_input_only":
        # Without output records, nobody sees the packets go out to the VMs: that is said, not guessed.
        assert not received


NOT_IN_V5 = {"ovs_netflow5": 25, "ovs_netflow5_two_bridges": 23}
"""IPv6 (20 pings a pair of VMs) and ARP, which NetFlow v5 cannot report."""


@pytest.mark.parametrize("stem", sorted(NOT_IN_V5))
def test_netflow_5_names_by_openflow_port_and_address(stem: str) -> None:
    """No MAC addresses and no ifIndex: OpenFlow ports, of two bridges with the same numbers in the second capture."""
    flows = named(stem, known_of(stem))
    counters = load(f"{stem}.truth.json")["nic_counters"].values()

    sent, _ = totals(flows, "src", SENT)

    for vm in counters:
        if vm["tx"]["packets"] > 1:
            assert vm["tx"]["packets"] - NOT_IN_V5[stem] <= sent[vm["vm"]] <= vm["tx"]["packets"], vm["vm"]


def test_real_domains_of_libvirt() -> None:
    """The capture with libvirt guests: what `virsh domstats` counted of each guest, its tap being known by OVSDB."""
    stem = "ovs_sflow_libvirt"
    known = history()
    domains = [
        Interface(host=d["host"], port_name=d["tap"], mac=mac(d["mac"]), vm=d["domain"], vm_uuid=UUID(d["uuid"]))
        for d in load(f"{stem}.map.json")
    ]
    known.apply("libvirt", Rank.LIBVIRT, domains, hosts(), at_us=1)
    known.apply("ovsdb", Rank.OVSDB, ovsdb(load(f"{stem}.inventory.json")), (), at_us=1)

    flows = named(stem, known)

    sent, samples = totals(flows, "src", SENT)
    received, got = totals(flows, "dst", RECEIVED)
    for guest in ("guest-a", "guest-b"):
        grown = domstats(f"{stem}.domstats.after.tsv", guest) - domstats(f"{stem}.domstats.before.tsv", guest)
        assert within(sent[guest], grown["net.0.tx.pkts"], samples[guest])
        assert within(received[guest], grown["net.0.rx.pkts"], got[guest])
    assert {(flow["src_host"]) for flow in flows if flow["src_vm"] == "guest-b"} == {"host-b"}


def domstats(file: str, guest: str) -> Counter[str]:
    """Counters of a guest in a file of `virsh domstats`, guest's view."""
    lines = (line.split("\t") for line in (PCAPS / file).read_text().splitlines())
    return Counter({key: int(value) for name, key, value in lines if name == guest and value.isdigit()})


def test_a_migration_keeps_the_right_host_before_during_and_after() -> None:
    """VM a2 moves from host a to host b.

    Where it was for each sample is in the samples themselves: the agent, if the packet came in by a port of it,
    else the tunnel end point that it came from.
    """
    stem = "ovs_sflow_migrate"
    before, after = (load(f"{stem}.inventory.{when}.json") for when in ("before", "after"))
    moved_us = int(1e6 * (load(f"{stem}.truth.before.json")["end"] + load(f"{stem}.truth.after.json")["start"]) / 2)
    known = history()
    names = [Interface(mac=mac(vm["mac"]), vm=vm["vm"]) for vm in before["vms"].values()]
    known.apply("names", Rank.STATIC, names, (), at_us=1)
    known.apply("ovsdb", Rank.OVSDB, ovsdb(before), hosts(), at_us=1)
    known.apply("ovsdb", Rank.OVSDB, ovsdb(after), hosts(), at_us=moved_us, changed_us=moved_us)

    flows = named(stem, known)

    host_of = {address(f"192.0.2.{n}"): f"host-{h}" for h, n in (("a", 11), ("b", 12))}
    host_of |= {address(f"198.51.100.{n}"): f"host-{h}" for h, n in (("a", 11), ("b", 12))}
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for flow in flows:
        if flow["src_mac"] != mac("52:54:00:0a:00:02"):
            continue
        where = host_of[flow["agent"] if flow["in_if"] else flow["outer_src_ip"]]
        assert (flow["src_vm"], flow["src_host"]) == ("a2", where)
        seen["before" if flow["time_received"] < moved_us else "after"][where] += 1
    assert seen["before"]["host-a"] > 300
    assert seen["after"]["host-b"] > 80
    for flow in flows:
        if flow["dst_vm"] == "a2" and flow["out_kind"] == "index":
            assert flow["dst_host"] == host_of[flow["agent"]]


def test_totals_of_the_migrated_vm_are_those_of_its_interface() -> None:
    stem = "ovs_sflow_migrate"
    known = history()
    before, after = (load(f"{stem}.inventory.{when}.json") for when in ("before", "after"))
    truths = [load(f"{stem}.truth.{when}.json") for when in ("before", "after")]
    moved_us = int(1e6 * (truths[0]["end"] + truths[1]["start"]) / 2)
    known.apply("names", Rank.STATIC, [Interface(mac=mac("52:54:00:0a:00:02"), vm="a2")], (), at_us=1)
    known.apply("ovsdb", Rank.OVSDB, ovsdb(before), hosts(), at_us=1)
    known.apply("ovsdb", Rank.OVSDB, ovsdb(after), hosts(), at_us=moved_us, changed_us=moved_us)

    sent, samples = totals(named(stem, known), "src", SENT)

    true = sum(part["nic_counters"]["tb-a2"]["tx"]["packets"] for part in truths)
    assert within(sent["a2"], true, samples["a2"])


def test_the_ground_truth_has_as_many_samples_as_rows() -> None:
    """The tests above would say little if the join had lost rows."""
    assert len(named("ovs_sflow_vlan", known_of("ovs_sflow_vlan"))) == len(truth("ovs_sflow_vlan", "samples"))
