"""Connections of groups: appended to a log by the loop, told apart later, group by group.

A connection is told by a hash of 64 bits (`lookup.py`).  A table of all of them would be far larger than the
processor's cache, and each look-up would wait for memory; a log is written one element after the other, and what
belongs to one group fits into the cache when its turn comes.
"""

from __future__ import annotations

import numpy as np

from collector.rollup.kernels import kernel
from collector.rollup.lookup import ONE, ZERO, U
from decoders.jit import forced

PLACES, MANY = 4, 1 << 14
"""Places a hash in a table, at least: few hashes share one, which the processor could not foresee.  Half as many for
groups of many connections, which would need much memory."""


@forced
def first_place(places, one):  # type: ignore[no-untyped-def]
    """Where the search for a hash begins."""
    return one & U(places.shape[0] - 1)


@forced
def entered(places, one):  # type: ignore[no-untyped-def]
    """Enter a hash into a table (a power of two of places, 0 = free); False if it is there already."""
    place = first_place(places, one)
    while places[place] != ZERO:
        if places[place] == one:
            return False
        place = (place + ONE) & U(places.shape[0] - 1)
    places[place] = one
    return True


@forced
def places_for(count):  # type: ignore[no-untyped-def]
    """Places of a table for so many hashes."""
    least = max(min(PLACES * count, PLACES * MANY), PLACES * count // 2)
    size = 1
    while size < least:
        size *= 2
    return size


@forced
def sort_links(hashes, groups, count, ends, out):  # type: ignore[no-untyped-def]
    """The first `count` hashes by group to `out`, and where each group ends, counted from 1, to `ends`, zeros at first.
    Returns how many the largest group has."""
    for at in range(count):
        ends[groups[at] + ONE] += 1
    most = 0
    for group in range(1, ends.shape[0]):
        most = max(most, ends[group])
        ends[group] += ends[group - 1]
    # Filling moves the begin of each group to its end, which is the begin of the next.
    for at in range(count):
        to = ends[groups[at]]
        out[to] = hashes[at]
        ends[groups[at]] = to + 1
    for group in range(ends.shape[0] - 1, 0, -1):
        ends[group] = ends[group - 1]
    ends[0] = 0
    return most


@kernel
def distinct_links(hashes, groups, count, ends, out):  # type: ignore[no-untyped-def]
    """Of the first `count` hashes those that are distinct in their group, to `out` by group ([count]); where those of
    each group begin and end to `ends` ([groups + 1], zeros at first).  Returns how many there are."""
    most = sort_links(hashes, groups, count, ends, out)
    memory = np.empty(places_for(most), np.uint64)
    kept, begin = 0, 0
    for group in range(1, ends.shape[0]):
        end = ends[group]
        places = memory[: places_for(end - begin)]
        places[:] = ZERO
        for at in range(begin, end):
            one = out[at]
            if entered(places, one):
                out[kept] = one
                kept += 1
        begin = end
        ends[group] = kept
    return kept
