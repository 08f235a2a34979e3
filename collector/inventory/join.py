"""Flows and interface counters joined with the inventory: who is at each end, and where a switch saw the packet.

For each row of flows (`join`), at the row's own time:

    exporter ──► its hypervisor ──► the ports that the packet came in and went out by
    source   ◄── MAC, with network and tunnel end point; else address within the network; else the port
    sighting ◄── did it come in from the source VM's own port, did it go out to the destination VM's own port

`sighting` decides what is counted.  Open vSwitch shows the same packet at several places; of these, exactly one is
where it came in from the sending VM (`source`), one where it goes out to the receiving VM (`destination`), and the
others (ingress from a tunnel or uplink when there is an egress record, patch ports, the underlay) are `transit` or
`external`.  Sources: ofproto-dpif-sflow.c, ofproto/netflow.c and ofproto-dpif-ipfix.c of Open vSwitch.

For a row of counters (`ports`) only the interface is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.inventory.lookup import find_host, find_ip, find_mac, find_port, has_ip
from collector.inventory.snapshot import (
    BY_INDEX,
    BY_NAME,
    BY_OF_PORT,
    SnapshotTables,
    require_rows,
    require_within,
)
from collector.inventory.sources.base import PortKind
from decoders.jit import inline_unchecked, unchecked_kernel
from schemas.flows import FLOWS


@unchecked_kernel
def ports(time, exporter, agent, if_index, if_name, names, tables, grace, known_host, rows):
    """Fill `rows` with the row of the inventory for each polled interface, 0 where not known; arrays [n], addresses [n,
    2].

    `known_host` is the number of the hypervisor where the poller knows it, else 0: it follows from the addresses.
    """
    nobody = np.uint64(0)
    for i in range(time.shape[0]):
        host = np.uint32(known_host)
        if host == 0:
            host = find_host(tables, agent[i, 0], agent[i, 1])
        if host == 0:
            host = find_host(tables, exporter[i, 0], exporter[i, 1])
        row = np.uint32(0)
        if names[if_name[i]] > 0:
            row = find_port(tables, host, BY_NAME, names[if_name[i]], time[i], grace, nobody, nobody)
        if row == 0:
            row = find_port(tables, host, BY_INDEX, if_index[i], time[i], grace, nobody, nobody)
        rows[i] = row


def name_ports(
    batch: pa.RecordBatch,
    values: Callable[[pa.Array], NDArray[Any]],
    tables: SnapshotTables,
    names: NDArray[np.int32],
    grace_us: int,
    known_host: int,
) -> NDArray[np.int32]:
    """Rows of the inventory's tables for a batch of `interface_counters`."""
    rows = np.zeros(batch.num_rows, np.int32)
    columns = [values(batch.column(n)) for n in ("time_received", "exporter", "agent", "if_index", "if_name")]
    require_rows("counters", batch.num_rows, *columns)
    require_within("interface names", len(names), columns[-1])
    ports(*columns, names, tables, grace_us, known_host, rows)
    return rows


_UNKNOWN, _SOURCE, _DESTINATION, _BOTH, _TRANSIT, _EXTERNAL = (
    FLOWS["sighting"].code(name) for name in ("unknown", "source", "destination", "both", "transit", "external")
)
_SFLOW5, _NETFLOW5 = (FLOWS["protocol"].code(name) for name in ("sflow5", "netflow5"))
_INGRESS, _EGRESS = (FLOWS["direction"].code(name) for name in ("ingress", "egress"))
_OUT_UNKNOWN, _OUT_INDEX, _OUT_DISCARDED, _OUT_MULTIPLE, _OUT_LOCAL = (
    FLOWS["out_kind"].code(name) for name in ("unknown", "index", "discarded", "multiple", "local")
)
_VM, _KIND_UNKNOWN = PortKind.VM.value, PortKind.UNKNOWN.value

AT_VM, AT_SWITCH, AT_UNKNOWN, AT_UNSTATED = range(4)
"""What is known of the port on one side: it is a VM's; it certainly is not; the inventory does not have it; the record
names no port."""

OF_PORT_SPECIAL = 65_533
"""In NetFlow of Open vSwitch, OpenFlow numbers from here on mean no single port: none, several or flood."""

BYTES_MOST = 1 << 40
"""What one row may add to the totals of /metrics: a forged count must not make them overflow.  A tebibyte is more than
a link of 100 Gbit/s carries in a minute; the row itself keeps what was reported."""

_MULTICAST = np.uint64(1 << 40)
"""The group bit of a MAC address."""

# Statistics of the ends of rows that could be a VM's, by whether one was found: rows and estimated octets of each.
# N_FOREIGN: ends at a VM's port whose MAC address is none of the interface that they are, or would be, named by.
N_NAMED, N_UNNAMED, N_FOREIGN, N_WORDS = range(4)


class Flows(NamedTuple):
    """The columns of a batch that the join reads, [n]; addresses [n, 2] words in memory order."""

    time_received: NDArray[np.int64]
    flow_end: NDArray[np.int64]
    octets: NDArray[np.uint64]
    sampling_rate: NDArray[np.uint32]
    exporter: NDArray[np.uint64]
    agent: NDArray[np.uint64]
    domain: NDArray[np.uint32]
    protocol: NDArray[np.int8]
    src_mac: NDArray[np.uint64]
    dst_mac: NDArray[np.uint64]
    vlan: NDArray[np.uint16]
    vni: NDArray[np.uint32]
    tunnel: NDArray[np.int8]
    outer_src_ip: NDArray[np.uint64]
    outer_dst_ip: NDArray[np.uint64]
    src_ip: NDArray[np.uint64]
    dst_ip: NDArray[np.uint64]
    in_if: NDArray[np.uint32]
    out_if: NDArray[np.uint32]
    in_if_name: NDArray[np.int32]
    out_if_name: NDArray[np.int32]
    out_kind: NDArray[np.int8]
    direction: NDArray[np.int8]


class Named(NamedTuple):
    """What the join finds, [n]: rows of the inventory's tables (0 = none), number of the network's name, sighting."""

    source: NDArray[np.int32]
    destination: NDArray[np.int32]
    network: NDArray[np.int32]
    sighting: NDArray[np.int8]


@inline_unchecked
def port_of(tables, host, name, number, of_ports, domain, time, grace, ip_high, ip_low):
    """Return (what is known of a port, its row), found by name, else by number; name −1 is one that the inventory
    lacks."""
    row = np.uint32(0)
    if name > 0:
        row = find_port(tables, host, BY_NAME, name, time, grace, ip_high, ip_low)
    if row == 0 and number != 0:
        by = BY_OF_PORT if of_ports else BY_INDEX
        row = find_port(tables, host, by, number, time, grace, ip_high, ip_low)
        if row == 0 and of_ports and number > 511 and (number >> np.uint32(9)) == (domain & np.uint32(0x7F)):
            # add_id_to_interface: 7 bits of the engine id before 9 bits of the port (ofproto/netflow.c).
            row = find_port(tables, host, by, number & np.uint32(511), time, grace, ip_high, ip_low)
    if row != 0:
        if tables.kind[row] == _VM:
            return AT_VM, row
        return (AT_UNKNOWN if tables.kind[row] == _KIND_UNKNOWN else AT_SWITCH), row
    return (AT_UNSTATED if name == 0 and number == 0 else AT_UNKNOWN), row


@inline_unchecked
def by_its_port(tables, row, host, state, name, number, of_ports):
    """Return whether a packet may have passed by the port of the VM in `row`, where the inventory does not have the
    port.

    The VM must be on this hypervisor, and its own port must not be known by the kind of name that the record gives: it
    would have been found.
    """
    if state == AT_SWITCH or host == 0 or tables.host_id[row] != host:
        return False
    if name != 0 and tables.port_name[row] != 0:
        return False
    known = tables.of_port[row] if of_ports else tables.if_index[row]
    return number == 0 or known == 0


@inline_unchecked
def end_of(tables, mac, high, low, time, grace, host, vni, vlan, near, port_state, port_row):
    """Return the row of the VM interface at one end of a flow, 0 if none is known there."""
    if port_state == AT_VM:
        if mac != 0:
            if tables.mac[port_row] == mac:
                return port_row
        elif has_ip(tables, port_row, high, low):
            return port_row
        near = port_row
    if mac & _MULTICAST != 0:
        return np.uint32(0)
    row = np.uint32(0)
    if mac != 0:
        row = find_mac(tables, mac, time, grace, host, vni, vlan, near)
    if row == 0:
        row = find_ip(tables, high, low, time, grace, host, vni, vlan, near)
    if row == 0 and port_state == AT_VM:
        row = port_row
    return row


@inline_unchecked
def sent_here(tables, row, host, state, port_row, name, number, of_ports, direction, encapsulated):
    """Return whether the packet came in by the port of the VM that sent it."""
    if row == 0 or direction == _EGRESS:
        # An egress record of Open vSwitch stands beside the ingress record of the same packet.
        return False
    if state == AT_VM:
        return tables.vm_id[port_row] == tables.vm_id[row]
    return not encapsulated and by_its_port(tables, row, host, state, name, number, of_ports)


@inline_unchecked
def delivered_here(tables, row, host, state, port_row, name, number, of_ports, direction, out_kind, sent):
    """Return whether the packet goes out to the port of the VM that it is addressed to."""
    if row == 0:
        return False
    if state == AT_VM:
        return tables.vm_id[port_row] == tables.vm_id[row]
    if direction == _INGRESS or not by_its_port(tables, row, host, state, name, number, of_ports):
        return False
    # Open vSwitch reports recirculated packets as "discarded", too: it is only a hint.  A packet that came from another
    # hypervisor counts as arrived, so that a hint does not become loss; one from a VM on the same hypervisor has been
    # counted where it was sent.  Otherwise: several ports, one without ifIndex (a patch to the VM's bridge), one not
    # known, or none stated.
    return out_kind != _OUT_LOCAL and not (out_kind == _OUT_DISCARDED and sent)


@inline_unchecked
def sighting_of(sent, delivered, source, destination, host):
    """Return where the switch saw the packet."""
    if sent:
        return _BOTH if delivered else _SOURCE
    if delivered:
        return _DESTINATION
    if source == 0 and destination == 0:
        return _EXTERNAL
    if host == 0:
        return _UNKNOWN
    return _TRANSIT if source != 0 and destination != 0 else _EXTERNAL


@inline_unchecked
def estimated(octets, rate):
    """Return octets × sampling rate for the totals, at most `BYTES_MOST`."""
    # Exact where it matters: a float holds all whole numbers up to 2^53.  A division would take a tenth of the join's
    # time.
    product = np.float64(octets) * np.float64(rate)
    return np.int64(BYTES_MOST) if product > BYTES_MOST else np.int64(product)


@inline_unchecked
def count_end(stats, row, mac, octets):
    """Count an end that could be a VM's."""
    if mac & _MULTICAST == 0:
        which = N_UNNAMED if row == 0 else N_NAMED
        stats[which, 0] += 1
        stats[which, 1] += octets


@inline_unchecked
def foreign(tables, row, mac, state):
    """Return whether an end at a VM's port has another MAC address than the interface found for it.

    So it is with a VM that runs VMs or containers of its own, and with one that forges addresses.
    """
    known = tables.mac[row]
    stated = mac != 0 and mac & _MULTICAST == 0 and known != 0
    return row != 0 and state == AT_VM and stated and known != mac


@inline_unchecked
def join_rows(flows, tables, names, history, grace, by_port, named, stats):
    """Run the loop of `join`; in a helper, because helpers keep no reference counts."""
    agent_high = agent_low = exporter_high = exporter_low = np.uint64(0)
    host = np.uint32(0)
    for i in range(np.uint64(flows.time_received.shape[0])):
        if (
            flows.agent[i, 1] != agent_low
            or flows.agent[i, 0] != agent_high
            or flows.exporter[i, 1] != exporter_low
            or flows.exporter[i, 0] != exporter_high
        ):
            agent_high, agent_low = flows.agent[i, 0], flows.agent[i, 1]
            exporter_high, exporter_low = flows.exporter[i, 0], flows.exporter[i, 1]
            host = find_host(tables, agent_high, agent_low)
            if host == 0:
                host = find_host(tables, exporter_high, exporter_low)
        time = min(flows.flow_end[i], flows.time_received[i])
        if time < flows.time_received[i] - history:
            # Older than anything that is kept: an error of the exporter's clock, more likely than of its cache.
            time = flows.time_received[i]
        src_high, src_low, dst_high, dst_low = (
            flows.src_ip[i, 0], flows.src_ip[i, 1], flows.dst_ip[i, 0], flows.dst_ip[i, 1],
        )  # fmt: skip
        of_ports = flows.protocol[i] == _NETFLOW5 and tables.host_of_ports[host] != 0
        domain = flows.domain[i]
        out_kind = flows.out_kind[i]
        out_if = flows.out_if[i] if out_kind in (_OUT_INDEX, _OUT_UNKNOWN) else np.uint32(0)
        if of_ports and out_if >= OF_PORT_SPECIAL:
            out_kind, out_if = np.int8(_OUT_MULTIPLE), np.uint32(0)
        in_if = flows.in_if[i]
        in_name, out_name = names[flows.in_if_name[i]], names[flows.out_if_name[i]]
        in_state, in_row = port_of(tables, host, in_name, in_if, of_ports, domain, time, grace, src_high, src_low)
        out_state, out_row = port_of(tables, host, out_name, out_if, of_ports, domain, time, grace, dst_high, dst_low)
        if in_state == AT_UNSTATED and flows.protocol[i] == _SFLOW5:
            # In sFlow, 0 is a port without ifIndex: a tunnel or a patch.
            in_state = AT_SWITCH
        vni, vlan = flows.vni[i], flows.vlan[i]
        src_host = find_host(tables, flows.outer_src_ip[i, 0], flows.outer_src_ip[i, 1])
        dst_host = find_host(tables, flows.outer_dst_ip[i, 0], flows.outer_dst_ip[i, 1])
        near = out_row if out_state == AT_VM else np.uint32(0)
        source = end_of(
            tables, flows.src_mac[i], src_high, src_low, time, grace, src_host, vni, vlan, near, in_state, in_row
        )
        octets = estimated(flows.octets[i], np.uint64(flows.sampling_rate[i]))
        if foreign(tables, source, flows.src_mac[i], in_state):
            stats[N_FOREIGN, 0] += 1
            stats[N_FOREIGN, 1] += octets
            if not by_port:
                source = np.uint32(0)
        near = source if source != 0 else in_row
        destination = end_of(
            tables, flows.dst_mac[i], dst_high, dst_low, time, grace, dst_host, vni, vlan, near, out_state, out_row
        )
        if foreign(tables, destination, flows.dst_mac[i], out_state):
            stats[N_FOREIGN, 0] += 1
            stats[N_FOREIGN, 1] += octets
            if not by_port:
                destination = np.uint32(0)
        # A tunnel and a plain output port: the underlay, where the packet is seen in its encapsulation.
        encapsulated = flows.tunnel[i] != 0 and out_kind == _OUT_INDEX and out_state != AT_VM
        direction = flows.direction[i]
        sent = sent_here(tables, source, host, in_state, in_row, in_name, in_if, of_ports, direction, encapsulated)
        delivered = delivered_here(
            tables, destination, host, out_state, out_row, out_name, out_if, of_ports, direction, out_kind, sent
        )
        named.source[i] = source
        named.destination[i] = destination
        named.sighting[i] = sighting_of(sent, delivered, source, destination, host)
        network = tables.network[source]
        if network == 0:
            network = tables.network[destination]
        named.network[i] = network
        count_end(stats, source, flows.src_mac[i], octets)
        count_end(stats, destination, flows.dst_mac[i], octets)


@unchecked_kernel
def join(flows, tables, names, history, grace, by_port, named, stats):
    """Fill `named` for all rows, and add to `stats` [N_WORDS, 2] (ends, estimated octets).

    `names` gives the inventory's number of each interface name of the batch, −1 where it has none; `history` and
    `grace` are in µs; `by_port`: what has an unknown MAC address at a VM's port gets that VM's name.
    """
    join_rows(flows, tables, names, history, grace, by_port, named, stats)


@unchecked_kernel
def pick(numbers, rows, picked):
    """Fill `picked` [n] with the values of `numbers`, a column of the inventory, for the `rows` that `join` found."""
    for i in range(np.uint64(rows.shape[0])):
        picked[i] = numbers[np.uint64(rows[i])]
