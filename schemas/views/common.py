"""What several views share: 95 % intervals, unwatched time, and the choice of one protocol where two report the same.

Intervals are SQL expressions for the sampling error of an estimate, and of the ratio of two.  Both were chosen by their
coverage over many draws (tests/schemas/views/test_coverage.py).  The usual rule of "± 1.96 √(1/n)" covers 96 to 100 %
of them: it ignores that of packets sampled 1 in N, 1/N are known.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.column import mark_of
from schemas.rollups import LEVELS, TTL_DAYS

MOST_MISSED = 0.1
"""Share of a window that may go unwatched: for more, scaling up is not enough."""

LONGEST_SECONDS = 86_400
"""Only the last day of a longer gap is read: nothing is stated for the windows that it covers anyway."""

STREAM_HOURS = 3
"""How far back it is known which streams report from a vantage point."""


def missed_by_all(level: str) -> str:
    """Return a query of the seconds of each window that the service did not watch; `vantage` is 0.

    They are those of table `gaps`, and in a window that is still open those to come.
    """
    to_come = f"""
            UNION ALL
            SELECT any(reporter), any(domain), any(protocol), toFloat64(now()) + {LEVELS[level]}, 0, 0, toFloat64(now())
            FROM gaps WHERE 0"""
    return _missed(level, "toUInt64(0)", "", "=", to_come)


def missed(level: str) -> str:
    """Return a query of the seconds of each window that a vantage point (`vantage`) was not watched (table `gaps`)."""
    streams = f"""
        INNER JOIN (
            SELECT DISTINCT reporter, domain, protocol, vantage
            FROM pair_1h
            WHERE vantage != 0 AND reporter != toIPv6('::') AND time > now() - INTERVAL {STREAM_HOURS} HOUR
        ) AS streams USING (reporter, domain, protocol)"""
    return _missed(level, "streams.vantage", streams, "!=")


def _missed(level: str, vantage: str, join: str, of_all: str, more: str = "") -> str:
    seconds = LEVELS[level]
    first, last = "toUnixTimestamp64Micro(begins) / 1e6", "toUnixTimestamp64Micro(ends) / 1e6"
    return f"""
    SELECT
        toDateTime(missed_window * {seconds}, 'UTC') AS time,
        missed_vantage AS vantage,
        least(sum(part), {seconds}) AS missed_seconds,
        max(begins_again) AS renewed,
        max(begins_again OR was_away) AS restarted
    FROM (
        SELECT
            {vantage} AS missed_vantage,
            arrayJoin(range(toUInt32(floor(begin / {seconds})), toUInt32(floor(end / {seconds})) + 1)) AS missed_window,
            toFloat64(missed_window) * {seconds} AS opens,
            greatest(0, least(end, opens + {seconds}) - greatest(begin, opens)) AS part,
            begins_again,
            was_away
        FROM (
            SELECT reporter, domain, protocol, {last} AS end,
                reason IN ('started', 'reopened', 'restarted') AS begins_again, reason = 'away' AS was_away,
                greatest({first}, {last} - {LONGEST_SECONDS}, 0) AS begin
            FROM gaps WHERE ends > now() - INTERVAL {TTL_DAYS[level]} DAY AND reporter {of_all} toIPv6('::'){more}
        ) AS gap{join}
    )
    WHERE part > 0
    GROUP BY missed_window, missed_vantage"""


LEAST_SHARE = 0.5
"""A protocol that reports less than this share of what another one reports is incomplete: its cache still holds
records, or its datagrams are lost."""


def refused(level: str) -> str:
    """Return a query of the protocols that are not trusted in a window, by vantage point."""
    return f"""
        SELECT
            time AS refused_time,
            vantage AS refused_vantage,
            arrayJoin(arraySlice(arraySort(
                feed -> (feed.seen < {LEAST_SHARE} * most, feed.weight, -feed.protocol), feeds), 2)) AS feed,
            feed.protocol AS refused_protocol
        FROM (
            SELECT
                time,
                vantage,
                groupArray(CAST(tuple(protocol, seen, weight), 'Tuple(protocol Int8, seen Float64, weight Float64)'))
                    AS feeds,
                max(seen) AS most
            FROM (
                SELECT time, vantage, protocol, sum(packets) AS seen, sum(packets_variance) / seen AS weight
                FROM pair_{level}
                WHERE vantage != 0
                GROUP BY time, vantage, protocol
            )
            GROUP BY time, vantage
            HAVING count() > 1
        )"""


def counted_pairs(level: str) -> str:
    """Return what follows FROM: the rows of `pair_…` that count, as `pairs`; a condition may follow."""
    return f"""pair_{level} AS pairs
    GLOBAL LEFT ANTI JOIN ({refused(level)}
    ) AS refused ON pairs.time = refused_time AND pairs.vantage = refused_vantage
        AND CAST(pairs.protocol, 'Int8') = refused_protocol"""


@dataclass(frozen=True)
class View:
    """A named query that the store offers."""

    name: str
    doc: str
    select: str

    @property
    def mark(self) -> str:
        """Part of the view's comment: shows whether a store has this text."""
        return mark_of(self.select)


def suffix(level: str) -> str:
    """Return the suffix of a view's name: nothing for windows of 10 s, else the level."""
    return "" if level == "10s" else f"_{level}"


Z = 1.96
"""Standard deviations on either side of the mean that hold 95 % of a normal distribution."""

LEAST_SAMPLES_SIDE = 10
LEAST_SAMPLES_BOTH = 60
"""Effective samples below which a ratio of two estimates is not stated, on each side and in both together.

The sum of both says nothing about their ratio, so a limit on it favours no ratio: of the windows that pass, 95 % of the
intervals are right, even where only one window in ten passes.  A high limit on each side alone would select the windows
in which one side is too high by chance."""


def bound(estimate: str, variance: str, sign: str) -> str:
    """Return the lower (`-`) or upper (`+`) end of the interval of an estimate.

    Solves (estimate − truth)² = Z² · truth · w with w = variance / estimate, the packets (or octets) that one sample
    represents: the score interval of a Poisson count.  The lower end leaves out one sample of one or two, and 2 / n of
    one sample of n: only windows with a sample are read, and it may be of the only packet.  Never below 0, and right
    for few samples, too.  Without variance it is the estimate itself.
    """
    weight = f"({variance} / {estimate})"
    left_out = f"{weight} * least(1, 2 * {weight} / {estimate})"
    counted = f"greatest({estimate} - {left_out}, 0)" if sign == "-" else estimate
    middle = f"{counted} + {Z * Z / 2:.4f} * {weight}"
    half = f"{Z} * sqrt({weight} * {counted} + {Z * Z / 4:.4f} * {weight} * {weight})"
    return f"if({estimate} > 0, greatest(0, {middle} {sign} {half}), 0)"


def smear(sums: str, squares: str) -> str:
    """Return how much may be on the wrong side of the window's ends: the sum over all records or, if they are many,
    what their parts add up to by chance, since none is off by more than its own part."""
    return f"least({sums}, {Z} * sqrt({squares}))"


MOST_PER_RECORD = 1.05
"""Packets per record up to which records hold single packets: larger ones are shared out over their time."""

STRAY = 0.5
"""Share of what is seen in the first and the last second of a window that may belong beyond its end: records are shared
out evenly whenever their packets came, and a busy switch stamps packets only when it processes them."""


def stray(side: str) -> str:
    """Return how many packets of unsampled records, however short, may be on the wrong side of the window's ends.

    Sampled ones vary by more than that.  `side`: prefix of the names of the sums.
    """
    first, last = f"{side}_first_packets", f"{side}_last_packets"
    shared = f"{side}_packets_variance = 0 AND {side}_packets > {MOST_PER_RECORD} * {side}_records"
    return f"if({shared}, {STRAY} * sqrt({first} * {first} + {last} * {last}), 0)"


def effective_samples(estimate: str, variance: str) -> str:
    """Return the number of independent samples with the same variance; infinity if nothing was sampled."""
    return f"if({variance} > 0, {estimate} * {estimate} / {variance}, if({estimate} > 0, inf, 0))"


def log_half_width(whole: str, whole_variance: str, part: str, part_variance: str) -> str:
    """Return half the interval of ln(part / whole), for independent estimates, both above 0."""
    return f"{Z} * sqrt({whole_variance} / ({whole} * {whole}) + {part_variance} / ({part} * {part}))"
