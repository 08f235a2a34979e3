"""What each record of `flows` adds to which window of `pair_10s`: the definition, as SQL.

The service sums in the process (`collector/rollup`); this text says what, and judges it in tests/rollup.

**Windows.**  A record counts in the windows in which it flowed, in proportion to time.  Its time is the exporter's,
held against the time of receipt: a record cannot end after it was received, and one that ends more than
`LONGEST_SECONDS` before is of a wrong clock; both are moved so that they end when received.  What began more than
`LONGEST_SECONDS` before receipt is shared out over that time.  So a record touches at most
`LONGEST_SECONDS` / 10 + 1 windows, and the shares of a record add up to it.

**Variance.**  A sample of rate N stands for N packets; n of them have the variance N (N − 1) n, and their octets
Σ N (N − 1) length².  Where nobody states a rate, a record may stand for one sampled packet that the exporter has
multiplied, so it counts as one sample: packets².  NetFlow v5 has a field for the rate; where it is 0 nothing was
sampled.  A record that spans windows gives each its share of the variance, so that levels add up.

**Smear.**  A record that reaches over the begin or end of a window says how many packets came in its time, not when:
they may all have come before, or all after.  What can be on the wrong side is the greater of the two parts.  Records
of up to `SMEAR_SECONDS` are left to what is told of the window's first and last second.

**Bursts.**  Segments cut from one super-packet are one sample, not many: see `bursts_from_flows`.
"""

from __future__ import annotations

from schemas.rollups import CONNECTIONS, LEVELS, PAIR_KEYS, REPORTER, STREAM_KEYS, Feed, names

LEAST_ODDS = 64
LONGEST_US = 1_000_000
"""An sFlow agent sends at least once a second."""


def bursts_from_flows() -> Feed:
    """What bursts of samples add to the variance; other traffic passes a filter and is gone.

    The Linux datapath of Open vSwitch decides on sampling before it cuts a super-packet into segments; if sampled,
    every segment becomes a sample.  So k samples come together or not at all: the estimate stays right, its variance is
    N (N − 1) k² instead of N (N − 1) k, and N (N − 1) (Σ length)² for octets.  `pairs_from_flows` has added the part of
    independent samples; this feed adds the rest.

    A burst: samples of one TCP connection at one agent whose sequence numbers follow one another without a gap,
    reported within a second.  Independent samples lie next to each other, too, if the rate N is low: k in a row by
    chance once in N^(k − 1).  So only what chance makes less often than once in `LEAST_ODDS` is taken for a burst.

    Bursts cut by the end of an inserted block are taken for two; blocks hold far more rows than bursts.
    """
    keys = names((*PAIR_KEYS, *STREAM_KEYS))
    carried = ", ".join(f"any({column.name}) AS {column.name}" for column in (*PAIR_KEYS, *STREAM_KEYS))
    select = f"""SELECT
    time,
    {keys},
    sum(rate * (rate - 1) * (samples * samples - samples)) AS packets_variance,
    sum(rate * (rate - 1) * (octets * octets - squares)) AS bytes_variance
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


LONGEST_SECONDS = 660
"""How far back a record may reach: the default active timeout of NetFlow in Open vSwitch, and a minute."""

EDGE_SECONDS = 1
"""What is seen this close to the end of a window may be reported in the next: sFlow agents send once a second."""

SMEAR_SECONDS = 2
"""Records up to this length do not smear: a cache that is emptied every second leaves some a little longer."""

WINDOW_US = LEVELS["10s"] * 1_000_000
EDGE_US = EDGE_SECONDS * 1_000_000
SMEAR_US = SMEAR_SECONDS * 1_000_000

_KEYS = names((*PAIR_KEYS, *STREAM_KEYS))

_RECORD = f"""
    SELECT
        {names(PAIR_KEYS)}, {REPORTER} AS reporter, domain,
        toUnixTimestamp64Micro(time_received) AS received_us,
        toUnixTimestamp64Micro(flow_end) AS stated_us,
        if(stated_us > received_us OR stated_us < received_us - {LONGEST_SECONDS * 1_000_000}, received_us, stated_us)
            AS end_us,
        least(greatest(end_us - greatest(stated_us - toUnixTimestamp64Micro(flow_start), 0),
            received_us - {LONGEST_SECONDS * 1_000_000}), end_us) AS start_us,
        intDiv(start_us, {WINDOW_US}) AS first_window,
        intDiv(greatest(end_us - 1, start_us), {WINDOW_US}) AS last_window,
        rate_source != 'unstated' OR protocol = 'netflow5' AS rate_known,
        toFloat64(packets) * sampling_rate AS packets_all,
        toFloat64(bytes) * sampling_rate AS bytes_all,
        toFloat64(frame_bytes) * sampling_rate AS frame_bytes_all,
        rate_known ? toFloat64(samples) : 1. AS samples_all,
        rate_known ? packets_all * (sampling_rate - 1) : packets_all * packets_all AS packets_variance_all,
        rate_known ? (packets = 0 ? 0. : bytes_all * bytes / packets * (sampling_rate - 1)) : bytes_all * bytes_all
            AS bytes_variance_all,
        sampling_rate,
        drop_hint_packets * sampling_rate AS drop_hint_all,
        ip_protocol = 6 AS tcp,
        tcp AND bitAnd(tcp_flags, 2) AS syn,
        bitAnd(tcp_flags, 16) AND (protocol = 'sflow5' OR src_port < dst_port) AS answer,
        (syn AND NOT answer) * sampling_rate AS opened_all,
        (syn AND answer) * sampling_rate AS accepted_all,
        (tcp AND bitAnd(tcp_flags, 4)) * sampling_rate AS reset_all,
        tcp AND tcp_flags = 0 AND fragment != 2 AS flagless,
        cityHash64(src_ip, src_port) + cityHash64(dst_ip, dst_port) + ip_protocol AS connection,
        ether_type IN (0x0800, 0x86DD) AND fragment != 2 AS connected
    FROM flows${{local}}"""

_SHARE = f"""
    SELECT
        *,
        arrayJoin(range(first_window, last_window + 1)) AS window,
        window * {WINDOW_US} AS begin_us,
        window = first_window AS begins,
        end_us - start_us AS length_us,
        length_us = 0 ? 1.
            : (least(end_us, begin_us + {WINDOW_US}) - greatest(start_us, begin_us)) / length_us AS share,
        length_us = 0 ? toFloat64(start_us < begin_us + {EDGE_US})
            : greatest(0, least(end_us, begin_us + {EDGE_US}) - greatest(start_us, begin_us)) / length_us
            AS share_first,
        length_us = 0 ? toFloat64(start_us >= begin_us + {WINDOW_US - EDGE_US})
            : greatest(0, least(end_us, begin_us + {WINDOW_US}) - greatest(start_us, begin_us + {WINDOW_US - EDGE_US}))
                / length_us AS share_last,
        length_us <= {SMEAR_US} OR start_us >= begin_us ? 0.
            : greatest(begin_us - start_us, end_us - begin_us) / length_us AS smear_first,
        length_us <= {SMEAR_US} OR end_us <= begin_us + {WINDOW_US} ? 0.
            : greatest(begin_us + {WINDOW_US} - start_us, end_us - begin_us - {WINDOW_US}) / length_us AS smear_last
    FROM ({_RECORD}
    )"""

_FROM_FLOWS = {
    "records": "sum(share)",
    "samples": "sum(samples_all * share)",
    "packets": "sum(packets_all * share)",
    "packets_variance": "sum(packets_variance_all * share)",
    "bytes": "sum(bytes_all * share)",
    "bytes_variance": "sum(bytes_variance_all * share)",
    "frame_bytes": "sum(frame_bytes_all * share)",
    "first_packets": "sum(packets_all * share_first)",
    "last_packets": "sum(packets_all * share_last)",
    "rate_unstated": "sum((NOT rate_known) * share)",
    "first_smear": "sum(packets_all * smear_first)",
    "last_smear": "sum(packets_all * smear_last)",
    "first_smear_squares": "sum(pow(packets_all * smear_first, 2))",
    "last_smear_squares": "sum(pow(packets_all * smear_last, 2))",
    "sampling_rate_max": "max(sampling_rate)",
    "drop_hint_packets": "sum(begins * drop_hint_all)",
    "connections_opened": "sum(begins * opened_all)",
    "connections_accepted": "sum(begins * accepted_all)",
    "connections_reset": "sum(begins * reset_all)",
    "tcp_flags_missing": "sum(begins * flagless)",
    "connections": f"{CONNECTIONS.replace('(', 'StateIf(')}(connection, connected)",
}


def pairs_from_flows() -> Feed:
    """Rows of `flows` to windows of 10 s."""
    measures = ",\n    ".join(f"{sql} AS {name}" for name, sql in _FROM_FLOWS.items())
    select = (
        f"SELECT\n    toDateTime(window * {LEVELS['10s']}, 'UTC') AS time,\n    {_KEYS},\n    {measures}\n"
        f"FROM ({_SHARE}\n)\nGROUP BY window, {_KEYS}\n"
        "SETTINGS prefer_column_name_to_alias = 1"  # the names of sums hide the columns that they sum
    )
    return Feed("pair_10s_from_flows", "flows", "pair_10s", select)
