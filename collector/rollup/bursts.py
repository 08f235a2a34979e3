"""Bursts: samples of segments that were cut from one super-packet are one sample (`schemas.burst_feed`).

The last sample of each TCP connection is kept in a table without chains: a connection that falls on the place of
another one takes it.  A sample that goes on where the last one ended adds what the burst has now more than before, to
the group of the burst's first sample.

The SQL sorts the samples of an inserted block by time and sequence number first; here they count in the order in which
they arrived.  So the two differ where samples of a connection arrive in another order than they were sent in, where
sequence numbers wrap within a datagram, where two connections with one place alternate (the rest of a burst then counts
as independent samples), and where a burst goes over the end of an inserted block (here it is seen whole) or over the
taking of the sums (here it is cut).  Both take for granted what an sFlow sample is: it ends when it is received.
"""

from __future__ import annotations

import numpy as np

import schemas.burst_feed
from collector.rollup.lookup import LOW, ONE, ZERO, U
from collector.rollup.tables import BURSTS
from decoders.jit import forced

LONGEST_US = schemas.burst_feed.LONGEST_US
LEAST_ODDS = float(schemas.burst_feed.LEAST_ODDS)


@forced
def add_burst(rows, tables, i, flow, group):  # type: ignore[no-untyped-def]
    """A sample of TCP, which counts in `group`: go on with the burst of its connection, or begin another one."""
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
    octets_more = np.float64(burst["total"]) * np.float64(burst["total"]) - burst["squares"]
    if count > 1.0 and rate ** (count - 1.0) >= LEAST_ODDS:  # this was added when the sample before came
        packets_more -= count * (count - 1.0)
        octets_more -= total * total - squares
    sums = tables.groups[burst["group"]]
    sums["packets_variance"] += rate * (rate - 1.0) * packets_more
    sums["octets_variance"] += rate * (rate - 1.0) * octets_more
