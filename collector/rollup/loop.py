"""The compiled loop, which adds each record to the windows in which it flowed.

Rows go through it in blocks, each step for all rows of a block before the next step.  The steps are short and their
rows do not depend on each other, so the processor waits for the memory of many rows at once: most of the time is spent
on that.

    plan     what a row adds and to which pair (`plan.py`)
    place    which group it is in each window (`plan.group_of`)
    add      to the sums of that group; the row's connection to a log (`distinct_links`); bursts (`add_burst`)
"""

from __future__ import annotations

import numpy as np

import schemas.pair_definition
from collector.rollup.plan import (
    ACCEPTED,
    FLAGLESS,
    LOW,
    ONE,
    OPENED,
    SMEAR_US,
    WAS_RESET,
    WINDOW_US,
    ZERO,
    U,
    first_slot,
    group_of,
    plan_amounts,
    plan_connection,
    plan_events,
    plan_key,
    plan_times,
)
from collector.rollup.tables import BLOCK, BURSTS, ENTRIES, GROUPS, LINKS, MOST_WINDOWS, NAMELESS
from decoders.jit import inline_always, kernel

LONGEST_US = schemas.pair_definition.LONGEST_US
LEAST_ODDS = float(schemas.pair_definition.LEAST_ODDS)


@inline_always
def add_burst(rows, tables, i, flow, group):
    """Add a sample of TCP, which counts in `group`: continue the burst of its connection, or begin another one.

    Samples of segments of one super-packet are one sample (`schemas.pair_definition`).  The last sample of each TCP
    connection is kept in a table without chains: a connection that hashes to the place of another one takes it.  A
    sample that continues where the last one ended adds the burst's growth to the group of the burst's first sample.

    The SQL sorts the samples of an inserted block by time and sequence number first; here they count in the order in
    which they arrived.  So the two differ where samples of a connection arrive in another order than they were sent in,
    where sequence numbers wrap within a datagram, where two connections with one place alternate (the rest of a burst
    then counts as independent samples), and where a burst crosses the end of an inserted block (here it is seen whole)
    or the taking of the sums (here it is cut).  Both assume that an sFlow sample ends when it is received.
    """
    burst = tables.bursts[flow & U(BURSTS - 1)]
    octets, rate = rows.bytes[i], np.float64(rows.sampling_rate[i])
    advance = (U(rows.tcp_seq[i]) - burst["seq"]) & LOW
    goes_on = (
        burst["flow"] == flow
        and burst["count"] != ZERO
        and ONE <= advance <= burst["length"]
        and abs(rows.time_received[i] - burst["time"]) <= LONGEST_US
    )
    if not goes_on:
        burst["flow"] = flow
        burst["group"] = group
        burst["count"] = ZERO
        burst["total"] = ZERO
        burst["squares"] = 0.0
    count, total, squares = np.float64(burst["count"]), np.float64(burst["total"]), burst["squares"]
    burst["time"] = rows.time_received[i]
    burst["seq"] = U(rows.tcp_seq[i])
    burst["length"] = octets
    burst["count"] += ONE
    burst["total"] += octets
    burst["squares"] += np.float64(octets) * np.float64(octets)
    if not goes_on or rate**count < LEAST_ODDS:
        return
    packets_more = (count + 1.0) * count
    bytes_more = np.float64(burst["total"]) * np.float64(burst["total"]) - burst["squares"]
    if count > 1.0 and rate ** (count - 1.0) >= LEAST_ODDS:  # this was added when the sample before came
        packets_more -= count * (count - 1.0)
        bytes_more -= total * total - squares
    sums = tables.groups[burst["group"]]
    sums["packets_variance"] += rate * (rate - 1.0) * packets_more
    sums["bytes_variance"] += rate * (rate - 1.0) * bytes_more


PLACES, MANY = 4, 1 << 14
"""Places per hash in a table, at least: few hashes then share one, which the processor could not predict.  Half as many
for groups of many connections, which would need much memory."""


@inline_always
def first_place(places, one):
    """Return where the search for a hash begins."""
    return one & U(places.shape[0] - 1)


@inline_always
def entered(places, one):
    """Enter a hash into a table (a power of two of places, 0 = free); False if it is there already."""
    place = first_place(places, one)
    while places[place] != ZERO:
        if places[place] == one:
            return False
        place = (place + ONE) & U(places.shape[0] - 1)
    places[place] = one
    return True


@inline_always
def places_for(count):
    """Return the number of places of a table for this many hashes."""
    least = max(min(PLACES * count, PLACES * MANY), PLACES * count // 2)
    size = 1
    while size < least:
        size *= 2
    return size


@inline_always
def sort_links(hashes, groups, count, ends, out):
    """Write the first `count` hashes by group to `out`, and where each group ends, counted from 1, to `ends`, zeros at
    first.  Return how many the largest group has."""
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
def distinct_links(hashes, groups, count, ends, out):
    """Write those of the first `count` hashes that are distinct in their group to `out` by group ([count]), and where
    those of each group begin and end to `ends` ([groups + 1], zeros at first).  Return how many there are.

    The loop appends connections to a log, each a hash of 64 bits (`plan.plan_connection`); they are deduplicated later,
    group by group.  A table of all of them would be far larger than the processor's cache, and each look-up would wait
    for memory; a log is written sequentially, and the part of one group fits into the cache when it is processed.
    """
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


EDGE_US = schemas.pair_definition.EDGE_US


@inline_always
def plan_block(rows, numbers, tables, first):
    """Plan the rows from `first` on; return how many, fewer than a block if a name has no number."""
    count = min(BLOCK, rows.time_received.shape[0] - first)
    for k in range(count):
        i, plan = U(first + k), tables.plans[k]
        plan_times(rows, i, plan)
        if not plan_key(rows, numbers, i, plan):
            tables.used[NAMELESS] = 1
            return k
        plan_amounts(rows, i, plan)
        plan_connection(rows, i, plan, tables.seeds)
        plan_events(rows, i, plan)
    return count


@inline_always
def peek_block(tables, count):
    """Read from the groups that the planned rows most likely add to.  The values read are not used, but the groups are
    then in the cache."""
    slots, groups, bursts = tables.slots, tables.groups, tables.bursts
    entries, plans = tables.entries, tables.plans
    for k in range(count):
        plan = plans[k]
        plan["first_slot"] = slots[first_slot(slots, plan["hash"], plan["first"])] & LOW
        plan["last_slot"] = slots[first_slot(slots, plan["hash"], plan["last"])] & LOW
    for k in range(count):
        first, last = plans[k]["first_slot"], plans[k]["last_slot"]
        peek = ZERO
        if first != ZERO:
            group = groups[first - ONE]
            peek = group["vms"] ^ group["sampling_rate_max"] ^ group["connections_opened"]
        if last not in (ZERO, first):
            group = groups[last - ONE]
            peek ^= group["vms"] ^ group["sampling_rate_max"]
        if plans[k]["flow"] != ZERO:
            peek ^= bursts[plans[k]["flow"] & U(BURSTS - 1)]["flow"]
        entries[k]["peek"] = peek


@inline_always
def place_block(tables, count, groups, connections):
    """Find the group of each window of the planned rows; return how many rows fit, and how many windows they have."""
    placed = 0
    for k in range(count):
        if (
            placed + MOST_WINDOWS > ENTRIES
            or tables.used[GROUPS] + MOST_WINDOWS > groups
            or tables.used[LINKS] + placed + MOST_WINDOWS > connections
        ):
            return k, placed
        plan = tables.plans[k]
        for window in range(plan["first"], plan["last"] + 1):
            entry = tables.entries[placed]
            entry["group"] = group_of(tables, plan, window)
            entry["window"] = window
            entry["plan"] = k
            placed += 1
    return count, placed


@inline_always
def add_smear(group, plan, begin, length):
    """Add what a record that crosses an end of the window may have on the wrong side of it."""
    start, end, stop = plan["start"], plan["end"], begin + WINDOW_US
    if start < begin:
        smear = plan["packets"] * (np.float64(max(begin - start, end - begin)) / length)
        group["first_smear"] += smear
        group["first_smear_squares"] += smear * smear
    if end > stop:
        smear = plan["packets"] * (np.float64(max(stop - start, end - stop)) / length)
        group["last_smear"] += smear
        group["last_smear_squares"] += smear * smear


@inline_always
def add_part(group, plan, window):
    """Add the share of a record that lasted for some time."""
    start, end = plan["start"], plan["end"]
    begin, length = window * WINDOW_US, np.float64(end - start)
    share = np.float64(min(end, begin + WINDOW_US) - max(start, begin)) / length
    group["records"] += share
    group["packets"] += plan["packets"] * share
    group["bytes"] += plan["bytes"] * share
    group["samples"] += plan["samples"] * share
    group["packets_variance"] += plan["packets_variance"] * share
    group["bytes_variance"] += plan["bytes_variance"] * share
    group["frame_bytes"] += plan["frame_bytes"] * share
    group["rate_unstated"] += plan["unstated"] * share
    # No branches: which edges a record touches cannot be predicted.
    first = max(min(end, begin + EDGE_US) - max(start, begin), 0)
    last = max(min(end, begin + WINDOW_US) - max(start, begin + WINDOW_US - EDGE_US), 0)
    group["first_packets"] += plan["packets"] * (np.float64(first) / length)
    group["last_packets"] += plan["packets"] * (np.float64(last) / length)
    if end - start > SMEAR_US:
        add_smear(group, plan, begin, length)


@inline_always
def add_whole(group, plan, window):
    """Add a record of one moment."""
    group["records"] += 1.0
    group["packets"] += plan["packets"]
    group["bytes"] += plan["bytes"]
    group["samples"] += plan["samples"]
    group["packets_variance"] += plan["packets_variance"]
    group["bytes_variance"] += plan["bytes_variance"]
    group["frame_bytes"] += plan["frame_bytes"]
    group["rate_unstated"] += plan["unstated"]
    within = plan["start"] - window * WINDOW_US
    if within < EDGE_US:
        group["first_packets"] += plan["packets"]
    if within >= WINDOW_US - EDGE_US:
        group["last_packets"] += plan["packets"]


@inline_always
def add_once(group, plan):
    """Add what counts only in the first window of a record, undivided."""
    group["drop_hint_packets"] += plan["drop_hint"]
    events = plan["events"]
    if events & OPENED:
        group["connections_opened"] += plan["rate"]
    if events & ACCEPTED:
        group["connections_accepted"] += plan["rate"]
    if events & WAS_RESET:
        group["connections_reset"] += plan["rate"]
    if events & FLAGLESS:
        group["tcp_flags_missing"] += ONE


@inline_always
def add_block(rows, tables, first, placed):
    """Add the placed windows of the rows from `first` on."""
    link = tables.used[LINKS]
    for at in range(placed):
        entry = tables.entries[at]
        plan, group, window = tables.plans[entry["plan"]], tables.groups[entry["group"]], entry["window"]
        if plan["start"] == plan["end"]:
            add_whole(group, plan, window)
        else:
            add_part(group, plan, window)
        group["sampling_rate_max"] = max(group["sampling_rate_max"], plan["rate"])
        if plan["events"] | plan["drop_hint"] != ZERO and window == plan["first"]:
            add_once(group, plan)
        if plan["flow"] != ZERO and window == plan["last"]:
            add_burst(rows, tables, first + entry["plan"], plan["flow"], entry["group"])
        # Always written, and overwritten by the next one if there is no connection: cheaper than a branch.
        tables.link_hashes[link] = plan["connection"]
        tables.link_groups[link] = entry["group"]
        link += plan["connection"] != ZERO
    tables.used[LINKS] = link


@kernel
def add_rows(rows, numbers, tables, first, groups, connections):
    """Add rows from `first` on to tables for this many groups and connections.

    Return the number of rows, or the first row that is not certain to fit or has a name without a number; then
    `used[NAMELESS]` is 1.
    """
    count = rows.time_received.shape[0]
    while first < count:
        tables.used[NAMELESS] = 0
        planned = plan_block(rows, numbers, tables, first)
        peek_block(tables, planned)
        done, placed = place_block(tables, planned, groups, connections)
        add_block(rows, tables, first, placed)
        first += done
        if done == 0:
            return first
    return first
