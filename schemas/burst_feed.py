"""Bursts, as SQL (see `schemas.flow_feed`): segments cut from one super-packet are one sample, not many.

The Linux datapath of Open vSwitch decides on sampling before it cuts a super-packet into segments; if sampled, every
segment becomes a sample.  So k samples come together or not at all: the estimate stays right, its variance
is N (N − 1) k² instead of N (N − 1) k, and N (N − 1) (Σ length)² for octets.  `pair_10s_from_flows` has added the part
of independent samples; this feed adds the rest.

A burst: samples of one TCP connection at one agent whose sequence numbers follow one another without a gap, reported
within a second.  Independent samples lie next to each other, too, if the rate N is low: k in a row by chance once in
N^(k − 1).  So only what chance makes less often than once in `LEAST_ODDS` is taken for a burst.

Bursts cut by the end of an inserted block are taken for two; blocks hold far more rows than bursts.
"""

from __future__ import annotations

from schemas.feed import Feed, names
from schemas.rollups import LEVELS, PAIR_KEYS, REPORTER, STREAM_KEYS

LEAST_ODDS = 64
LONGEST_US = 1_000_000
"""An sFlow agent sends at least once a second."""


def bursts_from_flows() -> Feed:
    """Only rows of bursts add anything; other traffic passes a filter and is gone."""
    keys = names((*PAIR_KEYS, *STREAM_KEYS))
    carried = ", ".join(f"any({column.name}) AS {column.name}" for column in (*PAIR_KEYS, *STREAM_KEYS))
    select = f"""SELECT
    time,
    {keys},
    sum(rate * (rate - 1) * (samples * samples - samples)) AS packets_variance,
    sum(rate * (rate - 1) * (octets * octets - squares)) AS octets_variance
FROM (
    SELECT
        toDateTime(toStartOfInterval(min(time_received), toIntervalSecond({LEVELS["10s"]})), 'UTC') AS time,
        {carried},
        toFloat64(any(sampling_rate)) AS rate,
        toFloat64(count()) AS samples,
        toFloat64(sum(bytes)) AS octets,
        sum(toFloat64(bytes) * bytes) AS squares
    FROM (
        SELECT *, sum(starts) OVER (PARTITION BY flow ORDER BY time_received, tcp_seq ROWS UNBOUNDED PRECEDING) AS burst
        FROM (
            SELECT
                {names(PAIR_KEYS)}, {REPORTER} AS reporter, domain, time_received, sampling_rate, bytes, tcp_seq,
                cityHash64(agent, domain, sampling_rate, src_ip, dst_ip, src_port, dst_port) AS flow,
                toUInt32(tcp_seq - lagInFrame(tcp_seq) OVER before) AS advance,
                NOT (advance BETWEEN 1 AND lagInFrame(bytes) OVER before
                    AND toUnixTimestamp64Micro(time_received)
                        - toUnixTimestamp64Micro(lagInFrame(time_received) OVER before) <= {LONGEST_US}) AS starts
            FROM flows${{local}}
            WHERE protocol = 'sflow5' AND ip_protocol = 6 AND sampling_rate > 1
            WINDOW before AS
                (PARTITION BY flow ORDER BY time_received, tcp_seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
        )
    )
    GROUP BY flow, burst
    HAVING samples > 1 AND pow(rate, samples - 1) >= {LEAST_ODDS}
)
GROUP BY time, {keys}
SETTINGS prefer_column_name_to_alias = 1"""
    return Feed("pair_10s_from_bursts", "flows", "pair_10s", select)
