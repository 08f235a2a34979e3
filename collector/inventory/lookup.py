"""Look-ups in the inventory's tables, for the join: which interface has this MAC, this address, this port, at this
time.

Each returns a row of the tables, 0 where none is known or the evidence does not distinguish two VMs: an unknown end is
better than a wrong one.  All parts are compiled into the join.
"""

from __future__ import annotations

import numpy as np

from collector.inventory.snapshot import port_key
from collector.inventory.sources.base import PortKind
from decoders.hashes import hash_pair
from decoders.jit import inline_unchecked

_VM = PortKind.VM.value

HELD, NEAR, NOT_HELD = 2, 1, 0
"""A mapping holds at a time, held or will hold within the grace of it, or does not."""

SEGMENT_SAME, SEGMENT_ROUTED, SEGMENT_OPEN, SEGMENT_OTHER = 3, 2, 1, 0
"""How a candidate's network fits the flow's: the same, another one of the same project, not known, another one."""


@inline_unchecked
def holds(tables, row, time, grace):
    """Return whether a mapping holds at `time`."""
    if tables.valid_from[row] <= time < tables.valid_to[row]:
        return HELD
    # The grace is applied to the time: an interval that still holds ends at the largest number there is.
    if tables.valid_from[row] <= time + grace and time - grace < tables.valid_to[row]:
        return NEAR
    return NOT_HELD


@inline_unchecked
def find_host(tables, high, low):
    """Return the hypervisor that has an address, 0 if none."""
    if high == 0 and low == 0:
        return np.uint32(0)
    mask = np.uint64(tables.host_slots.shape[0] - 1)
    slot = hash_pair(high, low) & mask
    while tables.host_slots[slot] != 0:
        entry = tables.host_slots[slot]
        if tables.host_high[entry] == high and tables.host_low[entry] == low:
            return tables.host_of[entry]
        slot = (slot + np.uint64(1)) & mask
    return np.uint32(0)


@inline_unchecked
def first_ip(tables, high, low):
    """Return the first entry with an address, 0 if none."""
    mask = np.uint64(tables.ip_slots.shape[0] - 1)
    slot = hash_pair(high, low) & mask
    while tables.ip_slots[slot] != 0:
        entry = tables.ip_slots[slot]
        if tables.ip_high[entry] == high and tables.ip_low[entry] == low:
            return entry
        slot = (slot + np.uint64(1)) & mask
    return np.uint32(0)


@inline_unchecked
def has_ip(tables, row, high, low):
    """Return whether the VM of `row` has an address, on any interface and at any time."""
    entry = first_ip(tables, high, low)
    while entry != 0:
        if tables.vm_id[tables.ip_row[entry]] == tables.vm_id[row]:
            return True
        entry = tables.ip_next[entry]
    return False


@inline_unchecked
def find_port(tables, host, by, value, time, grace, ip_high, ip_low):
    """Return the row of a hypervisor's port, 0 if none.

    OpenFlow numbers repeat from bridge to bridge: where several ports match, a VM's must have the address that the
    packet shows on that side, and switch ports of several bridges are alike.
    """
    if host == 0 or value == 0:
        return np.uint32(0)
    key = port_key(host, by, value)
    mask = np.uint64(tables.port_slots.shape[0] - 1)
    slot = hash_pair(key, np.uint64(0)) & mask
    while tables.port_slots[slot] != 0 and tables.port_key[tables.port_slots[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    entry = tables.port_slots[slot]
    if entry != 0 and tables.port_next[entry] == 0:
        row = tables.port_row[entry]
        return np.uint32(0) if holds(tables, row, time, grace) == NOT_HELD else row
    best = np.uint32(0)
    best_holds = NOT_HELD
    several = False
    while entry != 0:
        row = tables.port_row[entry]
        held = holds(tables, row, time, grace)
        if held > best_holds:
            best, best_holds, several = row, held, False
        elif held == HELD and tables.bridge[row] != tables.bridge[best]:
            several = True
        entry = tables.port_next[entry]
    if not several:
        return best
    best = np.uint32(0)
    entry = tables.port_slots[slot]
    while entry != 0:
        row = tables.port_row[entry]
        if holds(tables, row, time, grace) == HELD:
            if tables.kind[row] != _VM:
                best = row
            elif has_ip(tables, row, ip_high, ip_low):
                return row
        entry = tables.port_next[entry]
    return best


@inline_unchecked
def segment(tables, row, vni, vlan, near):
    """Return how the network of `row` fits the flow's VNI and VLAN and with an interface `near` it (0: none)."""
    differs = False
    if vni != 0 and tables.vni[row] != 0:
        if tables.vni[row] == vni:
            return SEGMENT_SAME
        differs = True
    if vlan != 0 and tables.vlan[row] != 0:
        if tables.vlan[row] == vlan:
            return SEGMENT_SAME
        differs = True
    if vni != 0 and tables.vni[row] == 0 and tables.vlan[row] != 0:
        differs = True
    if near != 0:
        if tables.network[near] != 0 and tables.network[row] != 0:
            if tables.network[near] == tables.network[row]:
                return SEGMENT_SAME
            differs = True
        else:
            if tables.vni[near] != 0 and tables.vni[near] == tables.vni[row]:
                return SEGMENT_SAME
            if tables.vlan[near] != 0 and tables.vlan[near] == tables.vlan[row]:
                return SEGMENT_SAME
            if (tables.vni[near] != 0 or tables.vlan[near] != 0) and (tables.vni[row] != 0 or tables.vlan[row] != 0):
                differs = True
        if tables.project[near] != 0 and tables.project[near] == tables.project[row]:
            return SEGMENT_ROUTED
    return SEGMENT_OTHER if differs else SEGMENT_OPEN


@inline_unchecked
def find_mac(tables, mac, time, grace, host, vni, vlan, near):
    """Return the row of the interface with a MAC address; `host` is the hypervisor of the tunnel end point (0: not
    stated).

    A MAC address is nearly always one VM's, so a VLAN that differs (it may be local to a bridge) refutes nothing; a VNI
    that differs does.  Where several VMs remain, the best match wins only if no other VM matches as well.
    """
    m = np.uint64(tables.mac_slots.shape[0] - 1)
    slot = hash_pair(mac, np.uint64(0)) & m
    while tables.mac_slots[slot] != 0 and tables.mac[tables.mac_slots[slot]] != mac:
        slot = (slot + np.uint64(1)) & m
    row = tables.mac_slots[slot]
    if row != 0 and tables.mac_next[row] == 0:
        # The usual case: one interface, whose mapping holds or not.
        distinct = vni != 0 and tables.vni[row] != 0 and tables.vni[row] != vni
        return np.uint32(0) if distinct or holds(tables, row, time, grace) == NOT_HELD else row
    best = np.uint32(0)
    best_score = -1
    unsure = False
    while row != 0:
        held = holds(tables, row, time, grace)
        if held != NOT_HELD and not (vni != 0 and tables.vni[row] != 0 and tables.vni[row] != vni):
            score = 4 * held + segment(tables, row, vni, vlan, near)
            if host != 0 and tables.host_id[row] == host:
                score += 16
            if score > best_score:
                best, best_score, unsure = row, score, False
            elif score == best_score and tables.vm_id[row] != tables.vm_id[best]:
                unsure = True
        row = tables.mac_next[row]
    return np.uint32(0) if unsure else best


@inline_unchecked
def find_ip(tables, high, low, time, grace, host, vni, vlan, near):
    """Return the row of the interface with an address, arguments as for `find_mac`.

    Addresses of tenants overlap, so a candidate of another network counts only within the same project (routed
    traffic), and one of two VMs that match equally well not at all.
    """
    if high == 0 and low == 0:
        return np.uint32(0)
    entry = first_ip(tables, high, low)
    best = np.uint32(0)
    best_score = -1
    unsure = False
    while entry != 0:
        row = tables.ip_row[entry]
        held = holds(tables, row, time, grace)
        network = segment(tables, row, vni, vlan, near)
        if held != NOT_HELD and network != SEGMENT_OTHER:
            score = 4 * network + held
            if host != 0 and tables.host_id[row] == host:
                score += 2
            if score > best_score:
                best, best_score, unsure = row, score, False
            elif score == best_score and tables.vm_id[row] != tables.vm_id[best]:
                unsure = True
        entry = tables.ip_next[entry]
    return np.uint32(0) if unsure else best
