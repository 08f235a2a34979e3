"""Who is at each end of a flow, and from where it was seen: one rule a test, on rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from collector.inventory.history import History
from collector.inventory.join import N_FOREIGN
from collector.inventory.naming import Namer
from collector.inventory.sources.base import Host, Interface, PortKind
from schemas.column import Origin
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS
from schemas.inventory import Rank
from tests.inventory.support import GRACE_US, HISTORY_US, flow, history, name_one, namer

A, B, C = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
HOST_1, HOST_2 = "192.0.2.1", "192.0.2.2"
SECOND = 1_000_000


def number(text: str) -> int:
    return int(text.replace(":", ""), 16)


def vm(mac: str, name: str, host: str = "one", **more: Any) -> Interface:
    more.setdefault("vm_uuid", UUID(int=number(mac)))
    more["ips"] = tuple(map(ip_address, more.get("ips", ())))
    return Interface(mac=number(mac), vm=name, host=host, **more)


HOSTS = (
    Host(name="one", addresses=(ip_address(HOST_1), ip_address("198.51.100.1"))),
    Host(name="two", addresses=(ip_address(HOST_2), ip_address("198.51.100.2"))),
)


def known(*interfaces: Interface, at_us: int = 1) -> History:
    found = history()
    found.apply("test", Rank.LIBVIRT, interfaces, HOSTS, at_us=at_us)
    return found


def ends(row: dict[str, Any]) -> tuple[str, str]:
    return row["src_vm"], row["dst_vm"]


PAIR = known(
    vm(A, "a", "one", port_name="tap-a", if_index=11, ips=["10.0.0.1"], network="net", project="p"),
    vm(B, "b", "two", port_name="tap-b", if_index=22, ips=["10.0.0.2"], network="net", project="p"),
    Interface(host="one", port_name="vxlan0", if_index=5, kind=PortKind.TUNNEL),
)


def test_all_named_columns_of_a_pair() -> None:
    row = name_one(PAIR, agent=HOST_1, protocol="sflow5", src_mac=A, dst_mac=B, in_if=11, out_kind="multiple", out_if=1)

    assert {name: row[name] for name in FLOWS.arrow(Origin.ENRICH).names} == {
        "src_vm": "a", "dst_vm": "b", "src_project": "p", "dst_project": "p", "src_host": "one", "dst_host": "two",
        "network": "net", "src_vm_uuid": UUID(int=number(A)).bytes, "dst_vm_uuid": UUID(int=number(B)).bytes,
        "sighting": "source",
    }  # fmt: skip


def test_an_unknown_mac_stays_visible_as_address() -> None:
    row = name_one(
        PAIR, agent=HOST_2, protocol="sflow5", src_mac=C, dst_mac=B, src_ip="10.9.9.9", out_if=22, out_kind="index"
    )

    assert ends(row) == ("", "b")
    assert (row["src_mac"], row["src_vm_uuid"], row["src_host"]) == (number(C), bytes(16), "")
    assert row["sighting"] == "destination"


def test_multicast_has_no_vm() -> None:
    row = name_one(
        PAIR, agent=HOST_1, protocol="sflow5", src_mac=A, dst_mac="ff:ff:ff:ff:ff:ff", in_if=11, dst_ip="10.0.0.2"
    )

    assert ends(row) == ("a", "")
    assert row["sighting"] == "source"


@pytest.mark.parametrize(
    ("said", "sighting"),
    [
        ({"agent": HOST_1, "in_if": 11, "out_if": 1, "out_kind": "multiple"}, "source"),
        ({"agent": HOST_2, "in_if": 0, "out_if": 22, "out_kind": "index"}, "destination"),
        ({"agent": HOST_1, "in_if": 5, "out_if": 1, "out_kind": "multiple"}, "transit"),
        ({"agent": HOST_1, "in_if": 0, "out_if": 3, "out_kind": "index"}, "transit"),
        ({"agent": "192.0.2.77", "in_if": 11, "out_if": 22, "out_kind": "index"}, "unknown"),
        ({"agent": HOST_2, "in_if": 3, "out_if": 1, "out_kind": "multiple"}, "destination"),
        ({"agent": HOST_2, "in_if": 3, "out_if": 256, "out_kind": "discarded"}, "destination"),
        ({"agent": HOST_2, "in_if": 3, "out_kind": "local"}, "transit"),
    ],
    ids=["from the VM", "to the VM", "from a tunnel", "patch to uplink", "unknown exporter", "by a patch to its bridge",
         "drop hint after the tunnel", "for the switch itself"],
)  # fmt: skip
def test_sightings_of_sflow(said: dict[str, Any], sighting: str) -> None:
    row = name_one(PAIR, protocol="sflow5", src_mac=A, dst_mac=B, **said)

    assert ends(row) == ("a", "b")
    assert row["sighting"] == sighting


def test_one_switch_sees_both_ends() -> None:
    both = known(vm(A, "a", if_index=11), vm(B, "b", if_index=12))
    seen = {"agent": HOST_1, "protocol": "sflow5", "src_mac": A, "dst_mac": B, "in_if": 11}

    assert name_one(both, **seen, out_if=12, out_kind="index")["sighting"] == "both"
    # A hint of a drop between VMs of one switch: it was sent, nobody saw it delivered.
    assert name_one(both, **seen, out_if=256, out_kind="discarded")["sighting"] == "source"


@pytest.mark.parametrize(
    ("said", "sighting"),
    [
        ({"exporter": HOST_1, "direction": "ingress", "in_if_name": "tap-a"}, "source"),
        ({"exporter": HOST_1, "direction": "egress", "in_if_name": "tap-a", "out_if_name": "vxlan0"}, "transit"),
        ({"exporter": HOST_2, "direction": "ingress", "in_if_name": "vxlan9"}, "transit"),
        ({"exporter": HOST_2, "direction": "egress", "in_if_name": "vxlan9", "out_if_name": "tap-b"}, "destination"),
    ],
    ids=["input at the VM", "output of the same packet", "input from the tunnel", "output to the VM"],
)
def test_input_and_output_records_of_ipfix_count_once(said: dict[str, Any], sighting: str) -> None:
    assert name_one(PAIR, protocol="ipfix", src_mac=A, dst_mac=B, **said)["sighting"] == sighting


def test_an_exporter_without_ports_is_believed_by_its_host() -> None:
    """softflowd on a hypervisor: no interfaces in its records, no direction."""
    seen = {"protocol": "netflow9", "src_mac": A, "dst_mac": B}

    assert name_one(PAIR, exporter=HOST_1, **seen)["sighting"] == "source"
    assert name_one(PAIR, exporter=HOST_2, **seen)["sighting"] == "destination"


def test_a_port_that_is_not_the_vms_own_does_not_send() -> None:
    """br-phy sees the encapsulated packet come from its local port (ifIndex 7): counted on br-int already."""
    row = name_one(PAIR, agent=HOST_1, protocol="sflow5", src_mac=A, dst_mac=B, in_if=7, out_if=3, out_kind="index",
                   tunnel="vxlan", vni=9)  # fmt: skip

    assert row["sighting"] == "transit"


def test_the_underlay_is_not_the_source_where_no_port_is_known() -> None:
    """The same with a source that knows no ifIndex: the tunnel in the sampled header tells."""
    bare = known(vm(A, "a", "one"), vm(B, "b", "two"))
    seen = {"agent": HOST_1, "protocol": "sflow5", "src_mac": A, "dst_mac": B, "in_if": 7}

    assert name_one(bare, **seen, out_if=3, out_kind="index", tunnel="vxlan", vni=9)["sighting"] == "transit"
    assert name_one(bare, **seen, out_if=1, out_kind="multiple", tunnel="vxlan", vni=9)["sighting"] == "source"


TWO_NETS = {"vlan": [("vlan", 10), ("vlan", 20)], "vni": [("vni", 5001), ("vni", 5002)]}


@pytest.mark.parametrize("kind", sorted(TWO_NETS))
@pytest.mark.parametrize("mac_seen", [True, False], ids=["same MAC", "same address"])
def test_overlapping_networks_are_kept_apart(kind: str, mac_seen: bool) -> None:
    """Two tenants with the same MAC and IP address: the VLAN or VNI of the flow tells them apart."""
    (name, first), (_, second) = TWO_NETS[kind]
    tenants = known(
        vm(A, "blue", vm_uuid=UUID(int=1), ips=["10.0.0.1"], **{name: first}),
        vm(A if mac_seen else C, "red", vm_uuid=UUID(int=2), ips=["10.0.0.1"], **{name: second}),
    )
    seen: dict[str, Any] = {"src_mac": A} if mac_seen else {}

    assert name_one(tenants, src_ip="10.0.0.1", **seen, **{name: first})["src_vm"] == "blue"
    assert name_one(tenants, src_ip="10.0.0.1", **seen, **{name: second})["src_vm"] == "red"
    # Of neither, or without a network: nobody is better than the wrong one.
    assert name_one(tenants, src_ip="10.0.0.1", **seen)["src_vm"] == ""
    if not mac_seen:
        assert name_one(tenants, src_ip="10.0.0.1", **{name: 99})["src_vm"] == ""


def test_overlapping_networks_are_kept_apart_by_the_port() -> None:
    """NetFlow v5 shows neither MAC nor network, but the OpenFlow port; the network of one end holds for the other."""
    tenants = known(
        vm(A, "blue-1", of_port=3, bridge="br-int", network="blue", ips=["10.0.0.1"]),
        vm(B, "blue-2", "two", network="blue", ips=["10.0.0.2"]),
        vm(C, "red-2", "two", network="red", ips=["10.0.0.2"]),
    )
    seen = {"exporter": HOST_1, "protocol": "netflow5", "src_ip": "10.0.0.1", "dst_ip": "10.0.0.2"}

    assert ends(name_one(tenants, in_if=3, **seen)) == ("blue-1", "blue-2")
    assert ends(name_one(tenants, in_if=4, **seen))[1] == "blue-2"


def test_an_address_counts_in_its_own_network_or_project_only() -> None:
    tenants = known(
        vm(A, "a", ips=["10.0.0.1"], network="n1", project="p1"),
        vm(B, "b", ips=["10.1.0.1"], network="n2", project="p1"),
        vm(C, "c", ips=["10.2.0.1"], network="n3", project="p2"),
    )
    routed = {"src_mac": A, "src_ip": "10.0.0.1", "dst_mac": "fa:16:3e:00:00:01"}

    assert name_one(tenants, dst_ip="10.1.0.1", **routed)["dst_vm"] == "b"
    assert name_one(tenants, dst_ip="10.2.0.1", **routed)["dst_vm"] == ""


def test_the_port_names_a_sender_that_nothing_else_names() -> None:
    row = name_one(PAIR, agent=HOST_1, protocol="sflow5", src_mac=C, src_ip="10.7.7.7", dst_mac=B, in_if=11)

    assert ends(row) == ("a", "b")
    assert (row["src_mac"], row["sighting"]) == (number(C), "source")


@pytest.mark.parametrize("by_port", [True, False])
def test_an_unknown_mac_at_a_vms_port_is_counted_and_may_stay_unnamed(by_port: bool) -> None:
    """The sender's MAC is nobody's; the port is VM a's, which may run VMs of its own or make addresses up."""
    join = Namer(HISTORY_US, GRACE_US, by_port=by_port)
    join.snapshot = namer(PAIR).snapshot
    stranger = {"agent": HOST_1, "protocol": "sflow5", "src_ip": "10.7.7.7", "dst_mac": B, "in_if": 11, "bytes": 100}
    times = {"time_received": SECOND, "flow_end": SECOND, "sampling_rate": 2}

    (row,) = join.flows(flow(src_mac=C, **stranger, **times)).to_pylist()
    join.flows(flow(src_mac=A, **stranger, **times))

    assert row["src_vm"] == ("a" if by_port else "")
    assert (row["sighting"] == "source") is by_port
    assert join.totals[N_FOREIGN].tolist() == [1, 200]


def test_a_mac_from_another_vms_port_is_not_that_vms_traffic() -> None:
    """A VM that bridges or spoofs: the MAC names the sender, but this switch did not see it send."""
    row = name_one(PAIR, agent=HOST_1, protocol="sflow5", src_mac=B, dst_mac=A, in_if=11, out_if=11, out_kind="index")

    assert (row["src_vm"], row["sighting"]) == ("b", "destination")


def moved(at_us: int) -> History:
    """VM a moves from host one to host two."""
    found = history()
    found.apply("test", Rank.LIBVIRT, [vm(A, "a", "one", if_index=11)], HOSTS, at_us=1)
    found.apply("test", Rank.LIBVIRT, [vm(A, "a", "two", if_index=44)], HOSTS, at_us=at_us, changed_us=at_us)
    return found


MOVE = 1000 * SECOND


@pytest.mark.parametrize(
    ("received", "end", "host"),
    [
        (MOVE - SECOND, MOVE - SECOND, "one"),
        (MOVE + SECOND, MOVE + SECOND, "two"),
        (MOVE + 60 * SECOND, MOVE - SECOND, "one"),
        (MOVE - SECOND, MOVE + 60 * SECOND, "one"),
        (MOVE + 5000 * SECOND, MOVE - SECOND, "two"),
    ],
    ids=["before", "after", "late: at its own time", "exporter's clock ahead", "exporter's clock an hour behind"],
)
def test_flows_join_at_their_own_time(received: int, end: int, host: str) -> None:
    row = name_one(
        moved(MOVE), time_received=received, flow_end=end, exporter="192.0.2.99", protocol="ipfix", src_mac=A
    )

    assert (row["src_vm"], row["src_host"]) == ("a", host)


def test_evidence_of_the_place_beats_the_clock_within_the_grace() -> None:
    """Samples that arrive just after the move: where they were taken tells, by port or by tunnel end point."""
    after = {"time_received": MOVE + SECOND, "protocol": "sflow5", "src_mac": A}

    assert name_one(moved(MOVE), agent=HOST_1, in_if=11, **after)["src_host"] == "one"
    tunnelled = name_one(moved(MOVE), agent=HOST_2, tunnel="vxlan", outer_src_ip="198.51.100.1", **after)
    assert tunnelled["src_host"] == "one"
    early = {**after, "time_received": MOVE - SECOND}
    assert name_one(moved(MOVE), agent=HOST_2, in_if=44, **early)["src_host"] == "two"


def test_a_mac_used_again_is_the_vm_of_that_time() -> None:
    found = history()
    found.apply("test", Rank.LIBVIRT, [vm(A, "first", vm_uuid=UUID(int=1))], HOSTS, at_us=1)
    found.apply("test", Rank.LIBVIRT, [], HOSTS, at_us=MOVE)
    found.apply("test", Rank.LIBVIRT, [vm(A, "second", vm_uuid=UUID(int=2))], HOSTS, at_us=MOVE + 600 * SECOND)
    at = [MOVE - SECOND, MOVE + 100 * SECOND, MOVE + 700 * SECOND]

    named = [name_one(found, time_received=time, src_mac=A)["src_vm"] for time in at]

    # Polled: what is new has begun after the last look.
    assert named == ["first", "second", "second"]


def test_openflow_ports_with_the_id_of_the_engine_and_special_ports() -> None:
    """add_id_to_interface puts 7 bits of the engine id before 9 bits of port; 65535 is flood (ofproto/netflow.c)."""
    pair = known(
        vm(A, "a", of_port=3, bridge="br-int", ips=["10.0.0.1"]),
        vm(B, "b", of_port=4, bridge="br-int", ips=["10.0.0.2"]),
    )
    seen = {"exporter": HOST_1, "protocol": "netflow5", "src_ip": "10.0.0.1", "dst_ip": "10.0.0.2"}

    with_id = name_one(pair, in_if=5 << 9 | 3, out_if=5 << 9 | 4, out_kind="index", domain=5, **seen)
    flooded = name_one(pair, in_if=3, out_if=65535, out_kind="index", **seen)

    assert (with_id["sighting"], flooded["sighting"]) == ("both", "both")


def test_equal_openflow_ports_of_two_bridges_go_by_the_address() -> None:
    two = known(
        vm(A, "a", of_port=2, bridge="br-int", ips=["10.0.0.1"]),
        Interface(host="one", port_name="uplink", of_port=2, bridge="br-phy", kind=PortKind.OTHER),
        vm(B, "b", "two", ips=["10.0.0.2"]),
    )
    seen = {"exporter": HOST_1, "protocol": "netflow5", "in_if": 2}

    assert name_one(two, src_ip="10.0.0.1", dst_ip="10.0.0.2", **seen)["sighting"] == "source"
    assert name_one(two, src_ip="10.0.0.2", dst_ip="10.0.0.1", **seen)["src_vm"] == "b"
    assert name_one(two, src_ip="10.0.0.2", dst_ip="10.0.0.1", **seen)["sighting"] != "source"


def test_ends_are_counted_by_whether_they_have_a_name() -> None:
    join = namer(PAIR)
    join.flows(flow(src_mac=A, dst_mac=C, bytes=100, sampling_rate=10, time_received=5, flow_end=5))
    join.flows(flow(src_mac=A, dst_mac="ff:ff:ff:ff:ff:ff", bytes=7, sampling_rate=1, time_received=5, flow_end=5))

    assert join.totals[:2].tolist() == [[2, 1007], [1, 1000]]


@pytest.mark.parametrize(("octets", "rate"), [(2**63, 1), (2**64 - 1, 2**32 - 1), (2**40, 2)])
def test_a_forged_count_does_not_make_the_totals_run_over(octets: int, rate: int) -> None:
    join = namer(PAIR)
    batch = flow(src_mac=C, dst_mac="ff:ff:ff:ff:ff:ff", bytes=octets, sampling_rate=rate, time_received=5, flow_end=5)

    named = join.flows(batch)

    assert join.totals[:2].tolist() == [[0, 0], [1, 2**40]]
    assert named.column("bytes").to_pylist() == [octets]


def test_names_of_the_batch_may_change_between_snapshots() -> None:
    """The stream's names are numbered by the decoder, the inventory's by the snapshot: both may grow."""
    join = namer(PAIR)
    seen = {"exporter": HOST_1, "direction": "ingress", "src_mac": A, "time_received": 9, "flow_end": 9}
    first = join.flows(flow(in_if_name="tap-a", **seen))
    join.snapshot = namer(known(vm(A, "a", port_name="tap-new"))).snapshot
    second = join.flows(flow(in_if_name="tap-new", **seen))

    assert [batch.column("sighting").to_pylist() for batch in (first, second)] == [["source"], ["source"]]


def test_names_of_a_stream_are_looked_up_once_while_neither_they_nor_the_inventory_change() -> None:
    class Counted(dict[str, int]):
        asked = 0

        def get(self, *key: Any) -> Any:
            self.asked += 1
            return super().get(*key)

    join = namer(PAIR)
    numbers = Counted(join.snapshot.string_numbers)
    join.snapshot = replace(join.snapshot, string_numbers=numbers)
    seen = {"exporter": HOST_1, "direction": "ingress", "time_received": 10_000_000, "flow_end": 10_000_000}
    batch = flow(in_if_name="tap-a", **seen)
    first = join.flows(batch)
    assert numbers.asked == 2
    assert join.flows(batch) == first
    assert join.drops(_missing(DROPS, agent=HOST_1, in_if=11, src_mac=A, dst_mac=B)).num_rows == 1
    assert join.flows(batch.slice(0, 1)) == first
    assert numbers.asked == 2, "drops have no names, and do not displace those of flows"
    assert join.flows(flow(in_if_name="tap-b", **seen)) != first
    assert numbers.asked == 4
    join.snapshot = replace(join.snapshot)
    assert join.flows(batch) == first
    assert numbers.asked == 6


def test_the_batch_keeps_its_columns_and_order() -> None:
    batch = flow(src_mac=A, dst_mac=B, bytes=5, time_received=7, flow_end=7)

    named = namer(PAIR).flows(batch)

    assert named.schema == FLOWS.arrow(Origin.DECODE, Origin.ENRICH)
    assert named.select(batch.schema.names).equals(batch)
    assert namer(PAIR).flows(batch.slice(0, 0)).num_rows == 0


def test_a_slice_is_joined_by_its_own_rows() -> None:
    parts = pa.Table.from_batches([flow(src_mac=x, time_received=7, flow_end=7) for x in (C, A, B)])
    batch = parts.combine_chunks().to_batches()[0]

    assert namer(PAIR).flows(batch.slice(1, 2)).column("src_vm").to_pylist() == ["a", "b"]


def test_counters_and_drops_are_named() -> None:
    join = namer(PAIR)
    counters = _missing(COUNTERS, agent=HOST_2, if_index=22)
    drops = _missing(DROPS, agent=HOST_1, in_if=11, src_mac=A, dst_mac=B)

    counted, dropped = join.counters(counters).to_pylist()[0], join.drops(drops).to_pylist()[0]

    assert (counted["vm"], counted["host"], counted["network"], counted["mac"]) == ("b", "two", "net", number(B))
    assert (dropped["src_vm"], dropped["dst_vm"], dropped["sighting"]) == ("a", "b", "source")
    assert join.totals.sum() == 0


def _missing(table: Any, **values: Any) -> pa.RecordBatch:
    """One decoded row of a table, with the given columns taken from a flow of the same values."""
    like = flow(**{name: value for name, value in values.items() if name in FLOWS.arrow().names})
    arrays = []
    for column in table.stored:
        if column.origin is not Origin.DECODE:
            continue
        if column.name in like.schema.names:
            arrays.append(like.column(column.name))
        elif pa.types.is_dictionary(column.arrow):
            texts = column.names or ("",)
            kind = column.arrow.index_type
            arrays.append(pa.DictionaryArray.from_arrays(pa.array([0], kind), pa.array(texts, pa.string())))
        else:
            value = values.get(column.name, None if column.nullable else 0)
            arrays.append(pa.array([value], column.arrow))
    return pa.RecordBatch.from_arrays(arrays, schema=table.arrow(Origin.DECODE))


def test_an_empty_inventory_names_nobody() -> None:
    join = Namer(0, 0)

    row = join.flows(flow(src_mac=A, dst_mac=B, src_ip="10.0.0.1", time_received=1, flow_end=1)).to_pylist()[0]

    assert (row["src_vm"], row["dst_vm"], row["sighting"]) == ("", "", "external")
    assert np.all(join.totals[0] == 0)
