"""95 % intervals as SQL expressions: what sampling leaves open of an estimate, and of the ratio of two.

Both were chosen by their coverage over many draws (tests/analyze/test_view_coverage.py); the usual rule of
"± 1.96 √(1/n)" covers 96 to 100 % of them: it forgets that of packets sampled 1 in N, 1/N are known.
"""

from __future__ import annotations

Z = 1.96
"""Standard deviations on either side that hold 95 % of a normal distribution."""

LEAST_SAMPLES_SIDE = 10
LEAST_SAMPLES_BOTH = 60
"""Effective samples below which a ratio of two estimates is not told, on each side and in both together.

The sum of both says nothing about their ratio, so asking for it does not favour some ratios: of the windows that pass,
95 % of the intervals are right, also where only one window in ten passes.  Asking much of each side alone would pick
the windows in which one side is too high by chance."""


def bound(estimate: str, variance: str, sign: str) -> str:
    """Lower (`-`) or upper (`+`) end of the interval of an estimate.

    Solves (estimate − truth)² = Z² · truth · w with w = variance / estimate, the packets (or octets) that one sample
    stands for: the score interval of a Poisson count.  Of one or two samples the lower end leaves one out, of more of
    them 2 / n of one: a window is looked at since there is a sample, which may be of the only packet.  Never below 0,
    and right for few samples, too.  Without variance it is the estimate itself.
    """
    weight = f"({variance} / {estimate})"
    left_out = f"{weight} * least(1, 2 * {weight} / {estimate})"
    counted = f"greatest({estimate} - {left_out}, 0)" if sign == "-" else estimate
    middle = f"{counted} + {Z * Z / 2:.4f} * {weight}"
    half = f"{Z} * sqrt({weight} * {counted} + {Z * Z / 4:.4f} * {weight} * {weight})"
    return f"if({estimate} > 0, greatest(0, {middle} {sign} {half}), 0)"


def smear(sums: str, squares: str) -> str:
    """How much may be on the wrong side of the window's ends: all that may be of each record, or, where the records are
    many, what they add up to by chance: none of them strays by more than what it may be off."""
    return f"least({sums}, {Z} * sqrt({squares}))"


MOST_PER_RECORD = 1.05
"""Packets per record up to which records hold single packets: those of more are shared out over their time."""

STRAY = 0.5
"""Share of what is seen in the first and the last second of a window that may belong beyond its end: records are shared
out evenly whatever the packets did, and a busy switch stamps packets when it comes to look at them."""


def stray(side: str) -> str:
    """How many packets of unsampled records may be on the wrong side of the window's ends, however short they are.

    Sampled ones vary by more than that.  `side`: begin of the names of the sums.
    """
    first, last = f"{side}_first_packets", f"{side}_last_packets"
    shared = f"{side}_packets_variance = 0 AND {side}_packets > {MOST_PER_RECORD} * {side}_records"
    return f"if({shared}, {STRAY} * sqrt({first} * {first} + {last} * {last}), 0)"


def effective_samples(estimate: str, variance: str) -> str:
    """Independent samples that would leave the same variance; infinity where nothing was sampled."""
    return f"if({variance} > 0, {estimate} * {estimate} / {variance}, if({estimate} > 0, inf, 0))"


def log_half_width(whole: str, whole_variance: str, part: str, part_variance: str) -> str:
    """Half the interval of ln(part / whole), for estimates that do not depend on each other, both above 0."""
    return f"{Z} * sqrt({whole_variance} / ({whole} * {whole}) + {part_variance} / ({part} * {part}))"
