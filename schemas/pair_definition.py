"""What each record of `flows` adds to which window of `pair_10s`: the definition.

`collector/rollup` sums so, in the process.  tests/rollup/definition.py says the same as SQL, and judges it.

**Windows.**  A record counts in the windows in which it flowed, in proportion to time.  Its time is the exporter's,
held against the time of receipt: a record cannot end after it was received, and one that ends more than
`LONGEST_SECONDS` before is of a wrong clock; both are moved so that they end when received.  What began more than
`LONGEST_SECONDS` before receipt is shared out over that time.  So a record touches at most
`LONGEST_SECONDS` / 10 + 1 windows, and the shares of a record add up to it.

**Variance.**  A sample of rate N stands for N packets; n of them have the variance N (N − 1) n, and their bytes
Σ N (N − 1) length².  Where nobody states a rate, a record may stand for one sampled packet that the
exporter has multiplied, so it counts as one sample: packets².  NetFlow v5 has a field for the rate; where
it is 0 nothing was sampled.  A record that spans windows gives each its share of the variance, so that levels add up.

**Smear.**  A record that reaches over the begin or end of a window says how many packets came in its time, not when:
they may all have come before, or all after.  What can be on the wrong side is the greater of the two parts.  Records
of up to `SMEAR_SECONDS` are left to what is told of the window's first and last second.

**Bursts.**  The Linux datapath of Open vSwitch decides on sampling before it cuts a super-packet into segments; if
sampled, every segment becomes a sample.  So k samples come together or not at all: the estimate stays right, its
variance is N (N − 1) k² instead of N (N − 1) k, and N (N − 1) (Σ length)² for bytes.

A burst: samples of one TCP connection at one agent whose sequence numbers follow one another without a gap, reported
within a second.  Independent samples lie next to each other, too, if the rate N is low: k in a row by chance once in
N^(k − 1).  So only what chance makes less often than once in `LEAST_ODDS` is taken for a burst.

Bursts cut by the end of an inserted block are taken for two; blocks hold far more rows than bursts.
"""

from __future__ import annotations

from schemas.rollups import LEVELS

LEAST_ODDS = 64
LONGEST_US = 1_000_000
"""Of a burst: an sFlow agent sends at least once a second."""

LONGEST_SECONDS = 660
"""How far back a record may reach: the default active timeout of NetFlow in Open vSwitch, and a minute."""

EDGE_SECONDS = 1
"""What is seen this close to the end of a window may be reported in the next: sFlow agents send once a second."""

SMEAR_SECONDS = 2
"""Records up to this length do not smear: a cache that is emptied every second leaves some a little longer."""

WINDOW_US = LEVELS["10s"] * 1_000_000
EDGE_US = EDGE_SECONDS * 1_000_000
SMEAR_US = SMEAR_SECONDS * 1_000_000
