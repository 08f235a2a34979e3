"""What a record adds to which windows, and how the groups of sums are found.

`schemas.pair_definition` is the definition; names here are those of its SQL, tests/rollup/definition.py.

The key of a group consists of internal numbers (`sums.Names`), which no sender can choose; its hash only says where to
search.  Connections are distinguished by a hash of 64 bits, equal for both directions, as in the SQL.  It is made with
a secret, since senders choose addresses and ports.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import schemas.pair_definition
from collector.rollup.tables import GROUPS
from decoders.hashes import GOLDEN, MURMUR_A, MURMUR_B, finish
from decoders.jit import inline_always, inline_unchecked, kernel
from schemas.flows import FLOWS

UNKNOWN, ASKED = -1, -2
"""In place of the number of a name: not looked up yet, and about to be looked up."""

U = np.uint64
ZERO, ONE, HALF = U(0), U(1), U(32)
LOW = U(0xFFFFFFFF)


@inline_always
def key_hash(a, b, c, d, e):
    """Return the hash of a key without its window; `e` is the stream's."""
    h = (a + GOLDEN) * MURMUR_A
    h = (h ^ (h >> HALF) ^ b) * MURMUR_B
    h = (h ^ (h >> HALF) ^ c) * MURMUR_A
    h = (h ^ (h >> HALF) ^ d + e) * MURMUR_B
    return h ^ (h >> HALF)


@inline_always
def stream_hash(high, low, domain):
    """Return the hash of the words of a key that name the stream that reported the packets."""
    return (high * GOLDEN + low) * MURMUR_A + domain * GOLDEN


@inline_always
def end_hash(high, low, port, seeds):
    """Return the hash of one end of a connection; the secret comes first, or collisions could be computed without
    it."""
    h = (high ^ seeds[0]) * MURMUR_A
    h = ((h ^ (h >> HALF)) + low ^ seeds[1]) * MURMUR_B
    h = ((h ^ (h >> HALF)) + port) * MURMUR_A
    return h ^ (h >> HALF)


@inline_always
def first_slot(slots, h, window):
    """Return where the search for a key begins."""
    return (h + U(window)) & U(slots.shape[0] - 1)


@inline_always
def tag_of(h, window):
    """Return the slot's tag of a key, which distinguishes most others without a look at the group."""
    return (((h >> HALF) + U(window)) & LOW) << HALF


@inline_always
def group_of(tables, key, window):
    """Return the group with the key of a plan; make it if there is none.  The caller has checked that it fits."""
    slots, h = tables.slots, key["hash"]
    slot = first_slot(slots, h, window)
    tag = tag_of(h, window)
    entry = slots[slot]
    while entry != ZERO:
        if (entry ^ tag) >> HALF == ZERO:
            number = (entry & LOW) - ONE
            group = tables.groups[number]
            if (
                group["vms"] == key["vms"]
                and group["uuids"] == key["uuids"]
                and group["hosts"] == key["hosts"]
                and group["network_sighting"] == key["network_sighting"]
                and group["reporter_low"] == key["reporter_low"]
                and group["reporter_high"] == key["reporter_high"]
                and group["domain"] == key["domain"]
                and group["window"] == window
            ):
                return number
        slot = (slot + ONE) & U(slots.shape[0] - 1)
        entry = slots[slot]
    number = U(tables.used[GROUPS])
    tables.used[GROUPS] += 1
    slots[slot] = tag | (number + ONE)
    group = tables.groups[number]
    group["vms"] = key["vms"]
    group["uuids"] = key["uuids"]
    group["hosts"] = key["hosts"]
    group["network_sighting"] = key["network_sighting"]
    group["reporter_high"] = key["reporter_high"]
    group["reporter_low"] = key["reporter_low"]
    group["domain"] = key["domain"]
    group["window"] = window
    return number


@kernel
def enter_groups(slots, groups, count):
    """Enter the first `count` groups into empty slots."""
    for number in range(count):
        group = groups[number]
        stream = stream_hash(group["reporter_high"], group["reporter_low"], group["domain"])
        h = key_hash(group["vms"], group["uuids"], group["hosts"], group["network_sighting"], stream)
        slot = first_slot(slots, h, group["window"])
        while slots[slot] != ZERO:
            slot = (slot + ONE) & U(slots.shape[0] - 1)
        slots[slot] = tag_of(h, group["window"]) | U(number + 1)


@kernel
def unknown_codes(codes, numbers, asked):
    """Write to `asked` which codes have no number yet, each once, and mark them; return how many."""
    for code in codes:
        if not 0 <= code < numbers.shape[0]:
            raise IndexError("a name's code is not in its dictionary")
    found = 0
    for code in codes:
        if numbers[code] == UNKNOWN:
            numbers[code] = ASKED
            asked[found] = code
            found += 1
    return found


WINDOW_US = schemas.pair_definition.WINDOW_US
LONGEST_US = schemas.pair_definition.LONGEST_SECONDS * 1_000_000
SMEAR_US = schemas.pair_definition.SMEAR_US

SFLOW5 = FLOWS["protocol"].code("sflow5")
NETFLOW5 = FLOWS["protocol"].code("netflow5")
UNSTATED = FLOWS["rate_source"].code("unstated")
TCP = 6
IPV4, IPV6 = 0x0800, 0x86DD
SYN_BIT, RST_BIT, ACK_BIT = U(1), U(2), U(4)
LATER_FRAGMENT = 2

DOUBLE = U(2)

OCTET = U(8)
"""Bits of a sighting; the protocol lies above it."""

UNSPECIFIED = U(0xFFFF0000)
"""The second word of `::ffff:0.0.0.0`, as it lies in memory."""

OPENED, ACCEPTED, WAS_RESET, FLAGLESS = U(1), U(2), U(4), U(8)
"""Bits of `events`."""


class Rows(NamedTuple):
    """The columns that the loop reads, [rows] each, addresses [2 × rows]; all read-only, so that one compiled loop
    serves all batches.  Names are codes of the batch's dictionaries."""

    time_received: NDArray[np.int64]
    flow_start: NDArray[np.int64]
    flow_end: NDArray[np.int64]
    protocol: NDArray[np.int8]
    rate_source: NDArray[np.int8]
    packets: NDArray[np.uint64]
    bytes: NDArray[np.uint64]
    frame_bytes: NDArray[np.uint64]
    sampling_rate: NDArray[np.uint32]
    samples: NDArray[np.uint32]
    drop_hint_packets: NDArray[np.uint64]
    ether_type: NDArray[np.uint16]
    ip_protocol: NDArray[np.uint8]
    tcp_flags: NDArray[np.uint16]
    tcp_seq: NDArray[np.uint32]
    fragment: NDArray[np.uint8]
    src_port: NDArray[np.uint16]
    dst_port: NDArray[np.uint16]
    src_ip: NDArray[np.uint64]
    dst_ip: NDArray[np.uint64]
    exporter: NDArray[np.uint64]
    agent: NDArray[np.uint64]
    domain: NDArray[np.uint32]
    sighting: NDArray[np.int8]
    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]
    src_vm_uuid: NDArray[np.int32]
    dst_vm_uuid: NDArray[np.int32]
    src_host: NDArray[np.int32]
    dst_host: NDArray[np.int32]
    network: NDArray[np.int32]


class Numbers(NamedTuple):
    """Number of each value of the dictionaries that the names in `Rows` refer to, [values] each; -1: not known yet."""

    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]
    src_vm_uuid: NDArray[np.int32]
    dst_vm_uuid: NDArray[np.int32]
    src_host: NDArray[np.int32]
    dst_host: NDArray[np.int32]
    network: NDArray[np.int32]


@inline_always
def number_of(numbers, code):
    """Return the number of a name, checking that its code is in the dictionary."""
    return numbers[code]


# What follows reads columns of `Rows` at a row's number, unchecked: checks would take a third of the time.  `PairSums`
# has checked that all of them have that many rows.
@inline_unchecked
def plan_times(rows, i, plan):
    """Plan when the record flowed, checked against the time of receipt, and its windows."""
    received, stated = rows.time_received[i], rows.flow_end[i]
    end = received if stated > received or stated < received - LONGEST_US else stated
    start = min(max(end - max(stated - rows.flow_start[i], 0), received - LONGEST_US), end)
    plan["start"] = start
    plan["end"] = end
    plan["first"] = start // WINDOW_US
    plan["last"] = max(end - 1, start) // WINDOW_US


@inline_unchecked
def plan_key(rows, numbers, i, plan):
    """Plan the pair; return False if one of its names has no number yet."""
    src_vm, dst_vm = number_of(numbers.src_vm, rows.src_vm[i]), number_of(numbers.dst_vm, rows.dst_vm[i])
    src_uuid = number_of(numbers.src_vm_uuid, rows.src_vm_uuid[i])
    dst_uuid = number_of(numbers.dst_vm_uuid, rows.dst_vm_uuid[i])
    src_host, dst_host = number_of(numbers.src_host, rows.src_host[i]), number_of(numbers.dst_host, rows.dst_host[i])
    network = number_of(numbers.network, rows.network[i])
    if src_vm | dst_vm | src_uuid | dst_uuid | src_host | dst_host | network < 0:
        return False
    plan["vms"] = U(src_vm) << HALF | U(dst_vm)
    plan["uuids"] = U(src_uuid) << HALF | U(dst_uuid)
    plan["hosts"] = U(src_host) << HALF | U(dst_host)
    plan["network_sighting"] = U(network) << HALF | U(rows.protocol[i]) << OCTET | U(rows.sighting[i])
    high, low = DOUBLE * i, DOUBLE * i + ONE
    # Open vSwitch states 0.0.0.0 where it knows no agent: then, as without one, it is the sender.
    stated = (rows.agent[low] != ZERO) & (rows.agent[low] != UNSPECIFIED) | (rows.agent[high] != ZERO)
    plan["reporter_high"] = rows.agent[high] if stated else rows.exporter[high]
    plan["reporter_low"] = rows.agent[low] if stated else rows.exporter[low]
    plan["domain"] = U(rows.domain[i])
    stream = stream_hash(plan["reporter_high"], plan["reporter_low"], plan["domain"])
    plan["hash"] = key_hash(plan["vms"], plan["uuids"], plan["hosts"], plan["network_sighting"], stream)
    return True


@inline_unchecked
def plan_amounts(rows, i, plan):
    """Plan how much the record stands for, with its variances."""
    count, length = np.float64(rows.packets[i]), np.float64(rows.bytes[i])
    rate = np.float64(rows.sampling_rate[i])
    packets, octets = count * rate, length * rate
    plan["rate"] = U(rows.sampling_rate[i])
    plan["packets"] = packets
    plan["bytes"] = octets
    plan["frame_bytes"] = np.float64(rows.frame_bytes[i]) * rate
    if rows.rate_source[i] != UNSTATED or rows.protocol[i] == NETFLOW5:
        plan["unstated"] = 0.0
        plan["samples"] = np.float64(rows.samples[i])
        plan["packets_variance"] = packets * (rate - 1.0)
        plan["bytes_variance"] = 0.0 if count == 0.0 else octets * length / count * (rate - 1.0)
    else:
        plan["unstated"] = 1.0
        plan["samples"] = 1.0
        plan["packets_variance"] = packets * packets
        plan["bytes_variance"] = octets * octets


@inline_unchecked
def plan_connection(rows, i, plan, seeds):
    """Plan the connection: a hash equal for both directions, 0 for none.  And the flow of a sample that may be part of
    a burst (`loop.add_burst`), 0 for others: a hash of exporter, flow and rate, different for the two directions."""
    high, low = DOUBLE * i, DOUBLE * i + ONE
    source = end_hash(rows.src_ip[high], rows.src_ip[low], U(rows.src_port[i]), seeds)
    destination = end_hash(rows.dst_ip[high], rows.dst_ip[low], U(rows.dst_port[i]), seeds)
    connection = max(finish(source + destination + U(rows.ip_protocol[i]) * GOLDEN), ONE)
    known = (rows.ether_type[i] == IPV4) | (rows.ether_type[i] == IPV6)
    plan["connection"] = connection * U(known & (rows.fragment[i] != LATER_FRAGMENT))
    plan["flow"] = ZERO
    if rows.protocol[i] == SFLOW5 and rows.ip_protocol[i] == TCP and rows.sampling_rate[i] > 1:
        agent = end_hash(rows.agent[high], rows.agent[low], U(rows.domain[i]), seeds)
        agent = finish(agent + U(rows.sampling_rate[i]) * GOLDEN)
        plan["flow"] = max(finish(source * GOLDEN + destination + agent), ONE)


@inline_unchecked
def plan_events(rows, i, plan):
    """Plan what counts in the first window only.  Without a branch: which of it a row has cannot be predicted."""
    plan["drop_hint"] = rows.drop_hint_packets[i] * U(rows.sampling_rate[i])
    tcp = U(rows.ip_protocol[i] == TCP)
    flags = U(rows.tcp_flags[i]) * tcp
    answers = (rows.protocol[i] == SFLOW5) | (rows.src_port[i] < rows.dst_port[i])
    answer = (flags >> ACK_BIT) & U(answers)
    syn = (flags >> SYN_BIT) & ONE
    flagless = tcp & U((flags == ZERO) & (rows.fragment[i] != LATER_FRAGMENT))
    plan["events"] = (
        (syn & ~answer) * OPENED
        + (syn & answer) * ACCEPTED
        + ((flags >> RST_BIT) & ONE) * WAS_RESET
        + flagless * FLAGLESS
    )
