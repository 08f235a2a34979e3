"""What each record of `flows` adds to which window of `pair_10s`: the definition.

`collector/rollup` computes these sums in the process; tests/rollup/definition.py states them in SQL and checks it.

**Windows.**  A record counts in the windows that its time covers, in proportion.  Its time is the exporter's, checked
against the time of receipt: a record cannot end after it was received, and one that ends more than `LONGEST_SECONDS`
before is from a wrong clock; both are moved so that they end when received.  A record that began more than
`LONGEST_SECONDS` before receipt is shared out over that time only.  So a record touches at most `LONGEST_SECONDS` / 10
+ 1 windows, and its shares add up to the whole.

**Variance.**  A sample of rate N represents N packets; n of them have the variance N (N − 1) n, and their bytes
Σ N (N − 1) length².  Where no rate is stated, a record may be one sampled packet that the exporter has multiplied, so
it counts as one sample: packets².  NetFlow v5 has a field for the rate; if it is 0, nothing was sampled.  A record that
spans windows gives each its share of the variance, so that levels add up.

**Smear.**  A record that crosses the start or end of a window states how many packets came in its time, not when: they
may all have come before, or all after.  The larger of the two parts can be on the wrong side.  Records of up to
`SMEAR_SECONDS` are covered by the allowance for the window's first and last second.

**Bursts.**  The Linux datapath of Open vSwitch decides on sampling before it cuts a super-packet into segments; if
sampled, every segment becomes a sample.  So k samples come together or not at all: the estimate stays right, but its
variance is N (N − 1) k² instead of N (N − 1) k, and N (N − 1) (Σ length)² for bytes.

A burst is a run of samples of one TCP connection at one agent whose sequence numbers follow one another without a gap,
reported within a second.  If the rate N is low, independent samples are adjacent, too: k in a row once in N^(k − 1) by
chance.  So only a run that is rarer than once in `LEAST_ODDS` by chance is taken for a burst.

A burst cut by the end of an inserted block is taken for two; blocks hold far more rows than bursts.
"""

from __future__ import annotations

from schemas.rollups import LEVELS

LEAST_ODDS = 64
LONGEST_US = 1_000_000
"""Longest time of a burst: an sFlow agent sends at least once a second."""

LONGEST_SECONDS = 660
"""How far back a record may reach: the default active timeout of NetFlow in Open vSwitch, and a minute."""

EDGE_SECONDS = 1
"""What is seen this close to the end of a window may be reported in the next: sFlow agents send once a second."""

SMEAR_SECONDS = 2
"""Records up to this length do not smear: a cache that is emptied every second leaves some a little longer."""

WINDOW_US = LEVELS["10s"] * 1_000_000
EDGE_US = EDGE_SECONDS * 1_000_000
SMEAR_US = SMEAR_SECONDS * 1_000_000
