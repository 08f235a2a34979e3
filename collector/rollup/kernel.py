"""The compiled loop: each record to the windows in which it flowed.

What is added is defined by the SQL of `schemas.flow_feed` and `schemas.burst_feed`; names here are theirs.

**Groups** are found by exact keys: a hash only says where to look.  The key is numbers of ours (`names.py`), which
no sender can choose.

**Connections** are told apart by a hash of 64 bits, alike for both directions, as the SQL does.  It is made with a
secret, since senders choose addresses and ports.

**Bursts.**  The last sample of each TCP connection is kept in a table without chains: a connection that falls on the
place of another one takes it.  Each sample that goes on where the last one ended adds what the burst has now more than
before, to the group of the burst's first sample.  The SQL sorts the samples of an inserted block by time and sequence
number first; here they count in the order in which they arrived.  So the two differ where samples of a connection
arrive in another order than they were sent in, where two connections with one place alternate (the rest of a burst then
counts as independent samples), and where a burst goes over the end of an inserted block (here it is seen whole) or
over the taking of the sums (here it is cut).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import schemas.burst_feed
import schemas.flow_feed
import schemas.rollups
from collector.rollup import tables as layout
from collector.rollup.tables import BURST_WIDTH, BURSTS, GROUPS, KEY_WORDS, LINKS, MOST_WINDOWS, WIDTH, WORD
from decoders import jit
from decoders.jit import forced
from schemas import flows as flow_table
from schemas.flows import FLOWS

kernel = jit.kernel_of(
    *(
        Path(file)
        for module in (layout, flow_table, schemas.flow_feed, schemas.burst_feed, schemas.rollups, jit)
        if (file := module.__file__)
    ),
    Path(__file__),
)
"""Compile and cache a function of this module under the digest of all that it is made of."""

U = np.uint64
ONE, TWO, MINUS_ONE = U(1), U(2), U(2**64 - 1)
H32 = U(32)
LOW = U(0xFFFFFFFF)
MIX_A, MIX_B, MIX_C = U(0x9E3779B97F4A7C15), U(0xFF51AFD7ED558CCD), U(0xC4CEB9FE1A85EC53)

WINDOW_US = schemas.flow_feed.WINDOW_US
EDGE_US = schemas.flow_feed.EDGE_US
LONGEST_US = schemas.flow_feed.LONGEST_SECONDS * 1_000_000
BURST_LONGEST_US = schemas.burst_feed.LONGEST_US
LEAST_ODDS = float(schemas.burst_feed.LEAST_ODDS)

SFLOW5 = FLOWS["protocol"].code("sflow5")
NETFLOW5 = FLOWS["protocol"].code("netflow5")
UNSTATED = FLOWS["rate_source"].code("unstated")
TCP = 6
IPV4, IPV6 = 0x0800, 0x86DD
FIN_NOT_ASKED = 0
SYN, RST, ACK = 2, 4, 16
LATER_FRAGMENT = 2

U_WIDTH = U(WIDTH)
U_BURST_WIDTH = U(BURST_WIDTH)
RECORDS, PACKETS, OCTETS, SAMPLES = (U(WORD[name]) for name in ("records", "packets", "octets", "samples"))
PACKETS_VARIANCE, OCTETS_VARIANCE = U(WORD["packets_variance"]), U(WORD["octets_variance"])
FRAME_OCTETS, RATE_UNSTATED = U(WORD["frame_octets"]), U(WORD["rate_unstated"])
FIRST_PACKETS, LAST_PACKETS = U(WORD["first_packets"]), U(WORD["last_packets"])
RATE_MAX, DROP_HINT = U(WORD["sampling_rate_max"]), U(WORD["drop_hint_packets"])
OPENED, ACCEPTED = U(WORD["connections_opened"]), U(WORD["connections_accepted"])
RESET, FLAGLESS = U(WORD["connections_reset"]), U(WORD["tcp_flags_missing"])
KEYS = tuple(U(number) for number in range(KEY_WORDS))
FLOW, TIME, SEQ, LENGTH, GROUP, COUNT, TOTAL, SQUARES = (U(number) for number in range(BURST_WIDTH))


class Rows(NamedTuple):
    """The columns that the loop reads, [rows] each, addresses [2 × rows]; all read-only, so that one compiled loop
    serves all batches.  Names are numbers of this process."""

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
    """Number of each value of the dictionaries that the names in `Rows` refer to, [values] each."""

    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]
    src_vm_uuid: NDArray[np.int32]
    dst_vm_uuid: NDArray[np.int32]
    src_host: NDArray[np.int32]
    dst_host: NDArray[np.int32]
    network: NDArray[np.int32]


@kernel
def unknown_codes(codes, numbers, asked):  # type: ignore[no-untyped-def]
    """Write to `asked` which codes have no number yet, each once, and mark them; returns how many."""
    found = 0
    for code in codes:
        if numbers[code] == -1:
            numbers[code] = 0
            asked[found] = code
            found += 1
    return found


@forced
def mixed(h):  # type: ignore[no-untyped-def]
    """The finish of MurmurHash3: every bit of the input reaches every bit of the output."""
    h = (h ^ (h >> U(33))) * MIX_B
    h = (h ^ (h >> U(33))) * MIX_C
    return h ^ (h >> U(33))


@forced
def key_hash(a, b, c, d):  # type: ignore[no-untyped-def]
    """Hash of a key without its window."""
    h = (a + MIX_A) * MIX_B
    h = (h ^ (h >> H32) ^ b) * MIX_C
    h = (h ^ (h >> H32) ^ c) * MIX_B
    h = (h ^ (h >> H32) ^ d) * MIX_C
    return h ^ (h >> H32)


@forced
def end_hash(high, low, port, seeds):  # type: ignore[no-untyped-def]
    """Hash of one end of a connection; the secret comes first, or collisions could be worked out without it."""
    h = (high ^ seeds[0]) * MIX_B
    h = ((h ^ (h >> H32)) + low ^ seeds[1]) * MIX_C
    h = ((h ^ (h >> H32)) + port) * MIX_B
    return h ^ (h >> H32)


@forced
def same_key(words, at, a, b, c, d, window):  # type: ignore[no-untyped-def]
    """Whether the group whose words begin at `at` has this key."""
    return (
        words[at] == a
        and words[at + KEYS[1]] == b
        and words[at + KEYS[2]] == c
        and words[at + KEYS[3]] == d
        and words[at + KEYS[4]] == window
    )


@forced
def tag_of(h, window):  # type: ignore[no-untyped-def]
    """What a slot says of its key: tells most others apart without a look at their words."""
    return (((h >> H32) + window) & LOW) << H32


@forced
def group_of(tables, h, a, b, c, d, window):  # type: ignore[no-untyped-def]
    """Where the words of a group begin; makes the group if there is none.  The caller has seen that it fits."""
    mask = U(tables.slots.shape[0] - 1)
    slot = (h + window) & mask
    tag = tag_of(h, window)
    while tables.slots[slot] != U(0):
        entry = tables.slots[slot]
        if (entry ^ tag) >> H32 == U(0):
            at = ((entry & LOW) - ONE) * U_WIDTH
            if same_key(tables.words, at, a, b, c, d, window):
                return at
        slot = (slot + ONE) & mask
    group = U(tables.used[GROUPS])
    tables.used[GROUPS] += 1
    tables.slots[slot] = tag | (group + ONE)
    at = group * U_WIDTH
    tables.words[at] = a
    tables.words[at + KEYS[1]] = b
    tables.words[at + KEYS[2]] = c
    tables.words[at + KEYS[3]] = d
    tables.words[at + KEYS[4]] = window
    return at


@kernel
def enter_groups(tables):  # type: ignore[no-untyped-def]
    """Fill empty slots with all groups."""
    mask = U(tables.slots.shape[0] - 1)
    words = tables.words
    for group in range(tables.used[GROUPS]):
        at = U(group) * U_WIDTH
        h = key_hash(words[at], words[at + KEYS[1]], words[at + KEYS[2]], words[at + KEYS[3]])
        window = words[at + KEYS[4]]
        slot = (h + window) & mask
        while tables.slots[slot] != U(0):
            slot = (slot + ONE) & mask
        tables.slots[slot] = tag_of(h, window) | U(group + 1)


@forced
def link(links, used, connection, group):  # type: ignore[no-untyped-def]
    """Enter a connection of a group, once.  The caller has seen that it fits."""
    mask = U((links.shape[0] >> 1) - 1)
    slot = mixed(connection + group * MIX_A) & mask
    while True:
        at = slot << ONE
        if links[at] == U(0):
            links[at] = connection
            links[at + ONE] = group
            used[LINKS] += 1
            return
        if links[at] == connection and links[at + ONE] == group:
            return
        slot = (slot + ONE) & mask


@kernel
def enter_links(old, links, used):  # type: ignore[no-untyped-def]
    """Enter all connections of one table into an empty one."""
    used[LINKS] = 0
    for at in range(0, old.shape[0], 2):
        if old[at] != U(0):
            link(links, used, old[at], old[at + 1])


@kernel
def sorted_links(links, ends, hashes):  # type: ignore[no-untyped-def]
    """Connections by group: where those of each group end to `ends` ([groups + 1], zeros), hashes to `hashes`."""
    for at in range(0, links.shape[0], 2):
        if links[at] != U(0):
            ends[np.int64(links[at + 1]) + 1] += 1
    for group in range(1, ends.shape[0]):
        ends[group] += ends[group - 1]
    # Filling moves the begin of each group to its end, which is the begin of the next.
    for at in range(0, links.shape[0], 2):
        if links[at] != U(0):
            group = np.int64(links[at + 1])
            hashes[ends[group]] = links[at]
            ends[group] += 1
    for group in range(ends.shape[0] - 1, 0, -1):
        ends[group] = ends[group - 1]
    ends[0] = 0


@forced
def extra_octets(total, squares):  # type: ignore[no-untyped-def]
    """Σ length over a burst, squared, more than Σ length²."""
    return total * total - squares


@forced
def add_burst(rows, tables, i, at):  # type: ignore[no-untyped-def]
    """A sample of TCP: go on with the burst of its connection, or begin a new one in the group at `at`."""
    octets, rate = rows.bytes[i], np.float64(rows.sampling_rate[i])
    source = end_hash(rows.src_ip[2 * i], rows.src_ip[2 * i + 1], U(rows.src_port[i]), tables.seeds)
    destination = end_hash(rows.dst_ip[2 * i], rows.dst_ip[2 * i + 1], U(rows.dst_port[i]), tables.seeds)
    agent = end_hash(rows.agent[2 * i], rows.agent[2 * i + 1], U(rows.domain[i]), tables.seeds)
    # Not alike for both directions: a burst has one.
    flow = mixed(source * MIX_A + destination + mixed(agent + U(rows.sampling_rate[i]) * MIX_A))
    place = (flow & U(BURSTS - 1)) * U_BURST_WIDTH
    words, sums = tables.bursts, tables.burst_sums
    before = np.int64(words[place + TIME])
    advance = U((U(rows.tcp_seq[i]) - words[place + SEQ]) & LOW)
    goes_on = (
        words[place + COUNT] != U(0)
        and words[place + FLOW] == flow
        and U(1) <= advance <= words[place + LENGTH]
        and abs(rows.time_received[i] - before) <= BURST_LONGEST_US
    )
    if not goes_on:
        words[place + FLOW] = flow
        words[place + GROUP] = at
        words[place + COUNT] = U(0)
        words[place + TOTAL] = U(0)
        sums[place + SQUARES] = 0.0
    count, total, squares = np.float64(words[place + COUNT]), np.float64(words[place + TOTAL]), sums[place + SQUARES]
    words[place + TIME] = U(rows.time_received[i])
    words[place + SEQ] = U(rows.tcp_seq[i])
    words[place + LENGTH] = octets
    words[place + COUNT] += ONE
    words[place + TOTAL] += octets
    sums[place + SQUARES] += np.float64(octets) * np.float64(octets)
    if not goes_on or rate**count < LEAST_ODDS:
        return
    group = words[place + GROUP]
    packets_more = (count + 1.0) * count
    octets_more = extra_octets(np.float64(words[place + TOTAL]), sums[place + SQUARES])
    if count > 1.0 and rate ** (count - 1.0) >= LEAST_ODDS:  # what was added for the samples before
        packets_more -= count * (count - 1.0)
        octets_more -= extra_octets(total, squares)
    tables.sums[group + PACKETS_VARIANCE] += rate * (rate - 1.0) * packets_more
    tables.sums[group + OCTETS_VARIANCE] += rate * (rate - 1.0) * octets_more


@forced
def add_once(rows, words, i, at):  # type: ignore[no-untyped-def]
    """What counts in the first window of a record only, whole."""
    rate = U(rows.sampling_rate[i])
    if rows.drop_hint_packets[i] != U(0):
        words[at + DROP_HINT] += rows.drop_hint_packets[i] * rate
    if rows.ip_protocol[i] != TCP:
        return
    flags = rows.tcp_flags[i]
    if flags & SYN:
        if flags & ACK and (rows.protocol[i] == SFLOW5 or rows.src_port[i] < rows.dst_port[i]):
            words[at + ACCEPTED] += rate
        else:
            words[at + OPENED] += rate
    if flags & RST:
        words[at + RESET] += rate
    if flags == 0 and rows.fragment[i] != LATER_FRAGMENT:
        words[at + FLAGLESS] += ONE


@forced
def connection_of(rows, i, seeds):  # type: ignore[no-untyped-def]
    """Hash of a connection, alike for both directions, 0 where a record shows none."""
    ether_type = rows.ether_type[i]
    if (ether_type != IPV4 and ether_type != IPV6) or rows.fragment[i] == LATER_FRAGMENT:
        return U(0)
    source = end_hash(rows.src_ip[2 * i], rows.src_ip[2 * i + 1], U(rows.src_port[i]), seeds)
    destination = end_hash(rows.dst_ip[2 * i], rows.dst_ip[2 * i + 1], U(rows.dst_port[i]), seeds)
    return max(mixed(source + destination + U(rows.ip_protocol[i]) * MIX_A), ONE)


@forced
def add_shares(rows, tables, i, start, end, h, a, b, c, d):  # type: ignore[no-untyped-def]
    """A record to each of its windows; returns the group of the last one."""
    known = rows.rate_source[i] != UNSTATED or rows.protocol[i] == NETFLOW5
    rate = np.float64(rows.sampling_rate[i])
    packets, octets = np.float64(rows.packets[i]) * rate, np.float64(rows.bytes[i]) * rate
    frame_octets = np.float64(rows.frame_bytes[i]) * rate
    samples, packets_variance, octets_variance = 1.0, packets * packets, octets * octets
    if known:
        samples = np.float64(rows.samples[i])
        packets_variance = packets * (rate - 1.0)
        octets_variance = 0.0
        if rows.packets[i] != U(0):
            octets_variance = octets * np.float64(rows.bytes[i]) / np.float64(rows.packets[i]) * (rate - 1.0)
    connection = connection_of(rows, i, tables.seeds)
    first, last = start // WINDOW_US, max(end - 1, start) // WINDOW_US
    length = end - start
    sums, words = tables.sums, tables.words
    at = U(0)
    for window in range(first, last + 1):
        at = group_of(tables, h, a, b, c, d, U(window))
        begin = window * WINDOW_US
        if length == 0:
            share = 1.0
            share_first = np.float64(start < begin + EDGE_US)
            share_last = np.float64(start >= begin + WINDOW_US - EDGE_US)
        else:
            share = (min(end, begin + WINDOW_US) - max(start, begin)) / length
            share_first = max(0, min(end, begin + EDGE_US) - max(start, begin)) / length
            share_last = max(0, min(end, begin + WINDOW_US) - max(start, begin + WINDOW_US - EDGE_US)) / length
        sums[at + RECORDS] += share
        sums[at + PACKETS] += packets * share
        sums[at + OCTETS] += octets * share
        sums[at + SAMPLES] += samples * share
        sums[at + PACKETS_VARIANCE] += packets_variance * share
        sums[at + OCTETS_VARIANCE] += octets_variance * share
        sums[at + FRAME_OCTETS] += frame_octets * share
        sums[at + FIRST_PACKETS] += packets * share_first
        sums[at + LAST_PACKETS] += packets * share_last
        if not known:
            sums[at + RATE_UNSTATED] += share
        words[at + RATE_MAX] = max(words[at + RATE_MAX], U(rows.sampling_rate[i]))
        if window == first:
            add_once(rows, words, i, at)
        if connection != U(0):
            link(tables.links, tables.used, connection, at // U_WIDTH)
    return at


@kernel
def add_rows(rows, numbers, tables, first, groups, connections):  # type: ignore[no-untyped-def]
    """Add rows from `first` on to tables for so many groups and connections; returns the first row that is not sure to
    fit, or the number of rows."""
    for i in range(first, rows.time_received.shape[0]):
        if tables.used[GROUPS] + MOST_WINDOWS > groups or tables.used[LINKS] + MOST_WINDOWS > connections:
            return i
        received, stated = rows.time_received[i], rows.flow_end[i]
        end = received if stated > received or stated < received - LONGEST_US else stated
        start = min(max(end - max(stated - rows.flow_start[i], 0), received - LONGEST_US), end)
        a = U(numbers.src_vm[rows.src_vm[i]]) << H32 | U(numbers.dst_vm[rows.dst_vm[i]])
        b = U(numbers.src_vm_uuid[rows.src_vm_uuid[i]]) << H32 | U(numbers.dst_vm_uuid[rows.dst_vm_uuid[i]])
        c = U(numbers.src_host[rows.src_host[i]]) << H32 | U(numbers.dst_host[rows.dst_host[i]])
        d = U(numbers.network[rows.network[i]]) << H32 | U(rows.sighting[i])
        at = add_shares(rows, tables, i, start, end, key_hash(a, b, c, d), a, b, c, d)
        if rows.protocol[i] == SFLOW5 and rows.ip_protocol[i] == TCP and rows.sampling_rate[i] > 1:
            add_burst(rows, tables, i, at)
    return rows.time_received.shape[0]
