"""Look-ups of the kernels: groups by exact key, connections by a hash that senders cannot foresee.

The key of a group is numbers of ours (`names.py`), which no sender can choose; its hash only says where to look.
Connections are told apart by a hash of 64 bits, alike for both directions, as the SQL does.  It is made with a secret,
since senders choose addresses and ports.
"""

from __future__ import annotations

import numpy as np

from collector.rollup.kernels import kernel
from collector.rollup.tables import GROUPS
from decoders.jit import forced

UNKNOWN, ASKED = -1, -2
"""Instead of the number of a name: nobody has asked for it, somebody is about to."""

U = np.uint64
ZERO, ONE, HALF = U(0), U(1), U(32)
LOW = U(0xFFFFFFFF)
MIX_A, MIX_B, MIX_C = U(0x9E3779B97F4A7C15), U(0xFF51AFD7ED558CCD), U(0xC4CEB9FE1A85EC53)
"""Odd numbers of MurmurHash3 and of the golden ratio."""


@forced
def mixed(h):  # type: ignore[no-untyped-def]
    """The finish of MurmurHash3: every bit of the input reaches every bit of the output."""
    h = (h ^ (h >> U(33))) * MIX_B
    h = (h ^ (h >> U(33))) * MIX_C
    return h ^ (h >> U(33))


@forced
def key_hash(a, b, c, d, e):  # type: ignore[no-untyped-def]
    """Hash of a key without its window; `e` is the stream's."""
    h = (a + MIX_A) * MIX_B
    h = (h ^ (h >> HALF) ^ b) * MIX_C
    h = (h ^ (h >> HALF) ^ c) * MIX_B
    h = (h ^ (h >> HALF) ^ d + e) * MIX_C
    return h ^ (h >> HALF)


@forced
def stream_hash(high, low, domain):  # type: ignore[no-untyped-def]
    """Hash of the words of a key that name who told of the packets."""
    return (high * MIX_A + low) * MIX_B + domain * MIX_A


@forced
def end_hash(high, low, port, seeds):  # type: ignore[no-untyped-def]
    """Hash of one end of a connection; the secret comes first, or collisions could be worked out without it."""
    h = (high ^ seeds[0]) * MIX_B
    h = ((h ^ (h >> HALF)) + low ^ seeds[1]) * MIX_C
    h = ((h ^ (h >> HALF)) + port) * MIX_B
    return h ^ (h >> HALF)


@forced
def first_slot(slots, h, window):  # type: ignore[no-untyped-def]
    """Where the search for a key begins."""
    return (h + U(window)) & U(slots.shape[0] - 1)


@forced
def tag_of(h, window):  # type: ignore[no-untyped-def]
    """What a slot says of its key: tells most others apart without a look at the group."""
    return (((h >> HALF) + U(window)) & LOW) << HALF


@forced
def group_of(tables, key, window):  # type: ignore[no-untyped-def]
    """The group with the key of a plan; makes it if there is none.  The caller has seen that it fits."""
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
def enter_groups(slots, groups, count):  # type: ignore[no-untyped-def]
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
def unknown_codes(codes, numbers, asked):  # type: ignore[no-untyped-def]
    """Write to `asked` which codes have no number yet, each once, and mark them; returns how many."""
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
