"""The definition of the sums as SQL: what `schemas.pair_definition` says, and what the sums of the process must be."""

from __future__ import annotations

from schemas.pair_definition import (
    EDGE_US,
    LEAST_ODDS,
    LONGEST_SECONDS,
    LONGEST_US,
    SMEAR_US,
    WINDOW_US,
)
from schemas.rollups import CONNECTIONS, LEVELS, PAIR_KEYS, STREAM_KEYS, names

REPORTER = "if(agent IN (toIPv6('::'), toIPv6('::ffff:0.0.0.0')), exporter, agent)"
"""Open vSwitch states 0.0.0.0 where it knows no agent."""
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


def pairs_from_flows() -> str:
    """Rows of `flows` to windows of 10 s, samples taken as independent."""
    measures = ",\n    ".join(f"{sql} AS {name}" for name, sql in _FROM_FLOWS.items())
    return (
        f"SELECT\n    toDateTime(window * {LEVELS['10s']}, 'UTC') AS time,\n    {_KEYS},\n    {measures}\n"
        f"FROM ({_SHARE}\n)\nGROUP BY window, {_KEYS}\n"
        "SETTINGS prefer_column_name_to_alias = 1"  # the names of sums hide the columns that they sum
    )


def bursts_from_flows() -> str:
    """What bursts add to the variances, by window and keys."""
    carried = ", ".join(f"any({column.name}) AS {column.name}" for column in (*PAIR_KEYS, *STREAM_KEYS))
    return f"""SELECT
    time,
    {_KEYS},
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
GROUP BY time, {_KEYS}
SETTINGS prefer_column_name_to_alias = 1"""
