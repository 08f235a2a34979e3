"""Latency of VM pairs: from start times in unsampled Open vSwitch IPFIX records, and as TCP states it in sFlow.

`tcp_info`, sFlow with 2209: a sample of a host's own connection comes with the round trip time that this host's TCP has
measured (smoothed, RFC 6298) and its mean deviation.  The result, per pair, direction of the packets and exporter, is
the median of both; the deviation is taken as the uncertainty.  Busy connections are sampled more often, and weigh more.

What is read: the *first* record of each flow at each exporter.  A flow is new if there were no records of it for
`quiet`, by time of receipt, and if its exporter was known before that: what remains are first packets, not later parts
of a long flow (the cache of Open vSwitch reports a flow again and again).  A reading belongs to the window in which the
later of its two records was received, so that each is made once, however long the exporter's cache delays records.

`handshake`, one switch, one clock: start of the answer − start of the connection, at the switch of the VM that asks.
TCP only, and only below `max_latency_us`: TCP repeats a lost SYN or its answer after 1 s (RFC 6298), never before.

`one_way`, two switches: start at the receiver's switch − start at the sender's = latency + offset of the two clocks.
No latency is below 0, so with d(A→B) the least difference seen one way and d(B→A) the other,

    −d(B→A) ≤ offset(clock B − clock A) ≤ d(A→B)

over all flows between these two switches in the window (the minimum filter).  The interval of the previous window,
widened by the drift of the clocks since, is equally true: the two are intersected.  If they contradict each other, a
clock was set, and only the new one is used.  The middle of the interval is subtracted from the readings; its half width
is part of `spread_us`.  A detour in one direction only is hidden in it: no passive method can see that.

Resolution: Open vSwitch takes the time of a sampled packet from a clock of whole milliseconds (seen in 3.1), and states
it relative to the message's export time, rounded up to a second, by the same clock: the difference of the two is exact,
the start is truncated to 1 ms.  The resolution of each exporter is inferred from its start times.

Unsampled: either the operator sets a rate of 1 (`decode.exporters`), or a record proves it: Open vSwitch multiplies
counts by its sampling rate and states the rate nowhere, so one record of a single packet shows that nothing is
multiplied.  Open vSwitch is known by the interface's name in each record.  Exporters that lost records within the
look-back are left out: the first record could be among the lost ones.

The SQL follows from the innermost query outwards.  All parts are aggregated where the rows are and joined where the
query was sent (`GLOBAL`), so that they mean the same on the embedded store, on a server and on a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from clickhouse_connect.driver import Client

from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US
from collector.store_reader import Bounds

WINDOW_US = 10_000_000
"""Length of the windows in which readings are combined."""
MOST = 1000
"""Readings of one pair in one window whose median is taken; of more, an arbitrary choice."""

NAMES = ("network", "src_project", "dst_project", "src_host", "dst_host")
PAIR = ("src_vm", "dst_vm", "src_vm_uuid", "dst_vm_uuid", *NAMES)
"""Columns that identify the pair that a latency belongs to."""
EACH = (*PAIR, "src_exporter", "dst_exporter", "one_switch", "clock_ahead", "clock_error")
"""What the readings of one row have in common."""


def _time(parameter: str) -> str:
    return f"fromUnixTimestamp64Micro({{{parameter}:Int64}}, 'UTC')"


SCOPE = f"""
    time_received >= {_time("oldest")} AND time_received < {_time("end")}
    AND protocol = 'ipfix' AND in_if_name != '' AND sampling_rate = 1 AND packets > 0
    AND src_vm != '' AND dst_vm != '' AND fragment = 0
    AND sighting IN ('source', 'destination', 'both', 'transit')"""
"""Records of Open vSwitch between two VMs in the look-back."""

RECORDS = f"""
SELECT sum(records) FROM exporters
WHERE protocol = 'ipfix' AND time >= {_time("oldest")} AND time < {_time("end")}"""  # noqa: S608 - nothing from outside
"""The approximate number of records to read."""

STREAMS = f"""
SELECT
    exporter, domain, known_us,
    multiIf(
        max(toUnixTimestamp64Micro(flow_start) % 1000000) = 0, 1000000,
        max(toUnixTimestamp64Micro(flow_start) % 1000) = 0, 1000,
        1
    ) AS resolution,
    uniqCombined(12)(bitXor(cityHash64(src_ip, src_port), cityHash64(dst_ip, dst_port)), src_port < dst_port) AS flows
FROM flows
GLOBAL INNER JOIN
(
    SELECT
        exporter,
        min(toUnixTimestamp64Micro(time)) AS known_us,
        sumIf(export_lost, time >= {_time("oldest")}) AS lost
    FROM exporters
    WHERE time >= {_time("known")} AND time < {_time("end")} AND datagrams > 0
    GROUP BY exporter
    HAVING lost = 0
) AS heard USING (exporter)
WHERE {SCOPE}
GROUP BY exporter, domain, known_us
HAVING min(packets) = 1 OR countIf(rate_source = 'unstated') = 0
ORDER BY exporter, domain"""  # noqa: S608
"""Streams that are certainly unsampled and have lost no records, and how many flows each has."""

FIRSTS = f"""
    SELECT
        exporter, src_vm_uuid, dst_vm_uuid, src_vm, dst_vm, src_ip, dst_ip, src_port, dst_port, ip_protocol,
        toUnixTimestamp64Micro(min(time_received)) AS arrived,
        min((toUnixTimestamp64Micro(flow_start), toUnixTimestamp64Micro(time_received), packets, bytes)) AS earliest,
        max(sighting IN ('source', 'both')) AS sourced,
        max(sighting IN ('destination', 'both')) AS delivered,
        max(stream.3) AS resolution,
        max((network, src_project, dst_project, src_host, dst_host)) AS names
    FROM flows
    GLOBAL INNER JOIN
    (
        SELECT
            arrayJoin(arrayZip(
                {{exporters:Array(String)}}, {{domains:Array(UInt32)}}, {{resolutions:Array(Int64)}},
                {{known_us:Array(Int64)}}
            )) AS stream,
            toIPv6(stream.1) AS exporter,
            stream.2 AS domain
    ) AS unsampled USING (exporter, domain)
    WHERE {SCOPE}
        AND bitXor(cityHash64(src_ip, src_port), cityHash64(dst_ip, dst_port)) % {{thin:UInt64}} = 0
    GROUP BY exporter, src_vm_uuid, dst_vm_uuid, src_vm, dst_vm, src_ip, dst_ip, src_port, dst_port, ip_protocol
    HAVING arrived >= greatest({{oldest:Int64}}, {{since:Int64}}, max(stream.4)) + {{quiet:Int64}}"""  # noqa: S608
"""The first record of each new flow at each exporter."""

CONNECTIONS = f"""
    SELECT
        ip_protocol,
        (src_ip, src_port, src_vm_uuid, src_vm) <= (dst_ip, dst_port, dst_vm_uuid, dst_vm) AS ahead,
        if(
            ahead,
            (src_ip, src_port, src_vm_uuid, src_vm, dst_ip, dst_port, dst_vm_uuid, dst_vm),
            (dst_ip, dst_port, dst_vm_uuid, dst_vm, src_ip, src_port, src_vm_uuid, src_vm)
        ) AS ends,
        CAST(
            (
                ahead, exporter, earliest.1, earliest.2, earliest.3, earliest.4,
                arrived, sourced, delivered, resolution,
                src_vm_uuid, dst_vm_uuid, src_vm, dst_vm, names.1, names.2, names.3, names.4, names.5
            ),
            'Tuple(ahead UInt8, exporter IPv6, start Int64, received Int64, packets UInt64, bytes UInt64,
            arrived Int64, sourced UInt8, delivered UInt8, resolution Int64, src_vm_uuid UUID, dst_vm_uuid UUID,
            src_vm LowCardinality(String), dst_vm LowCardinality(String), network LowCardinality(String),
            src_project LowCardinality(String), dst_project LowCardinality(String),
            src_host LowCardinality(String), dst_host LowCardinality(String))'
        ) AS seen
    FROM
    ({FIRSTS}
    )"""  # noqa: S608
"""The same, with the same `ends` for both directions of a connection."""

# `b` is where the packet arrives if the receiver sends from there (all input is `transit` where only the input is
# sampled), or if it goes out to the receiver's port.
READINGS = f"""
    SELECT
        {", ".join(f"a.{name} AS {name}" for name in PAIR)},
        a.exporter AS src_exporter, b.exporter AS dst_exporter,
        a.start AS start, a.received AS received,
        a.exporter = b.exporter AS one_switch,
        b.start - a.start AS reading,
        greatest(a.resolution, b.resolution) AS resolution,
        a.exporter < b.exporter AS ahead,
        least(a.exporter, b.exporter) AS x,
        greatest(a.exporter, b.exporter) AS y,
        if(ahead, a.start, b.start) AS at_x
    FROM
    (
        SELECT ip_protocol, records, a
        FROM
        (
            SELECT ip_protocol, groupArray(seen) AS records
            FROM
            ({CONNECTIONS}
            )
            GROUP BY ends, ip_protocol
            HAVING length(records) > 1 AND arrayMax(s -> s.arrived, records) >= {{start:Int64}}
        )
        ARRAY JOIN records AS a
        WHERE a.sourced
    )
    ARRAY JOIN records AS b
    WHERE greatest(a.arrived, b.arrived) >= {{start:Int64}} AND if(
        one_switch,
        ip_protocol = 6 AND a.ahead != b.ahead AND (a.start, a.received) < (b.start, b.received)
            AND reading < {{longest:Int64}},
        a.ahead = b.ahead
            AND (b.delivered OR arrayExists(s -> s.exporter = b.exporter AND s.ahead != b.ahead AND s.sourced, records))
            AND (a.packets != 1 OR b.packets != 1 OR a.bytes = b.bytes)
    )"""  # noqa: S608
"""Pairs of first records that were complete in this window: `reading` is a latency, plus an offset with two switches.

Two records of one packet each that differ in length are not the same packet."""

# Offsets are those of clock y − clock x; x is the lower address of the two.
BEFORE = f"""
        SELECT
            least(src_exporter, dst_exporter) AS x,
            greatest(src_exporter, dst_exporter) AS y,
            argMax(
                (if(src_exporter < dst_exporter, clock_offset_us, -clock_offset_us), clock_error_us, time),
                (time, -toInt64(clock_error_us))
            ) AS newest,
            1 AS known,
            toInt64(ceil({{drift:Float64}} * ({{end:Int64}} - toUnixTimestamp64Micro(newest.3)) / 1000000)) AS drifted,
            assumeNotNull(newest.1) - toInt64(assumeNotNull(newest.2)) - drifted AS low,
            assumeNotNull(newest.1) + toInt64(assumeNotNull(newest.2)) + drifted AS high
        FROM latency
        WHERE method = 'one_way' AND clock = 'bounded' AND clock_offset_us IS NOT NULL
            AND time >= {_time("remembered")} AND time < {_time("end")}
        GROUP BY x, y"""  # noqa: S608
"""The bounds of two clocks' offset from earlier windows, widened by their drift since."""

BOUNDED = f"""
    SELECT
        *,
        countIf(ahead) OVER two > 0 AS any_up,
        countIf(NOT ahead) OVER two > 0 AS any_down,
        toInt64(ceil({{drift:Float64}} * (max(at_x) OVER two - min(at_x) OVER two) / 1000000)) AS drifting,
        minIf(reading + resolution, ahead) OVER two + drifting AS up,
        -(minIf(reading + resolution, NOT ahead) OVER two + drifting) AS down,
        known AND (NOT any_up OR low <= up) AND (NOT any_down OR high >= down) AS believed,
        if(any_down, if(believed, greatest(down, low), down), low) AS least_offset,
        if(any_up, if(believed, least(up, high), up), high) AS most_offset,
        (any_up OR believed) AND (any_down OR believed) AS two_sided,
        two_sided AND most_offset - least_offset BETWEEN 0 AND {{longest:Int64}} AS bounded,
        intDiv(least_offset + most_offset, 2) AS middle,
        if(one_switch, 0, if(ahead, middle, -middle)) AS clock_ahead,
        if(one_switch, 0, greatest(most_offset - middle, middle - least_offset)) AS clock_error
    FROM
    ({READINGS}
    ) AS readings
    GLOBAL LEFT JOIN
    ({BEFORE}
    ) AS earlier USING (x, y)
    WINDOW two AS (PARTITION BY x, y)"""  # noqa: S608
"""Readings with the interval of the two clocks' offset."""

COLUMNS = {
    "time": "fromUnixTimestamp64Micro(window_us, 'UTC')",
    "interval_us": f"toUInt64({WINDOW_US})",
    **{name: name for name in PAIR},
    "method": "if(one_switch, 'handshake', 'one_way')",
    "trip": "if(one_switch, 'round_trip', 'one_way')",
    "latency_us": "median",
    "spread_us": "toUInt64(spread)",
    "latency_min_us": "sorted[1]",
    "jitter_us": "if(n > 1, toUInt64(round(arrayAvg(value -> abs(value - median), sorted))), NULL)",
    "samples": "toUInt32(n)",
    "clock": "if(one_switch, 'same', 'bounded')",
    "clock_offset_us": "if(one_switch, NULL, clock_ahead)",
    "clock_error_us": "if(one_switch, NULL, toUInt64(clock_error))",
    "src_exporter": "src_exporter",
    "dst_exporter": "dst_exporter",
}
"""Columns of table `latency`, and how each is computed."""

ROWS = f"""
SELECT {", ".join(f"{expression} AS {name}_" for name, expression in COLUMNS.items())}
FROM
(
    SELECT
        {", ".join(EACH)},
        intDiv(if(abs(received - start) <= {{delay:Int64}}, least(start, received), received), {WINDOW_US})
            * {WINDOW_US} AS window_us,
        arraySort(groupArray({MOST})(reading - clock_ahead)) AS sorted,
        length(sorted) AS n,
        intDiv(sorted[intDiv(n + 1, 2)] + sorted[intDiv(n, 2) + 1], 2) AS median,
        max(clock_error + resolution) AS spread
    FROM
    ({BOUNDED}
    )
    WHERE (one_switch OR bounded) AND reading - clock_ahead < {{longest:Int64}}
    GROUP BY window_us, {", ".join(EACH)}
)"""  # noqa: S608

INSERT = f"INSERT INTO latency ({', '.join(COLUMNS)}) {ROWS}"
"""One row per pair, method and window of the first packets."""

STATED_COLUMNS = {
    "time": _time("start"),
    "interval_us": "toUInt64({end:Int64} - {start:Int64})",
    **{name: name for name in PAIR},
    "method": "'tcp_info'",
    "trip": "'round_trip'",
    "latency_us": "toInt64(round(quantileExact(0.5)(tcp_rtt_us)))",
    "spread_us": "toUInt64(round(quantileExact(0.5)(tcp_rtt_deviation_us)))",
    "latency_min_us": "toInt64(min(if(tcp_rtt_min_us > 0, tcp_rtt_min_us, tcp_rtt_us)))",
    "jitter_us": "toUInt64(round(avg(tcp_rtt_deviation_us)))",
    "samples": "toUInt32(count())",
    "clock": "'same'",
    "src_exporter": "exporter",
    "dst_exporter": "exporter",
}
"""Columns of table `latency` for round trips that TCP states, and how each is computed."""

STATED = f"""
INSERT INTO latency ({", ".join(STATED_COLUMNS)})
SELECT {", ".join(f"{expression} AS {name}_" for name, expression in STATED_COLUMNS.items())}
FROM flows
WHERE time_received >= {_time("start")} AND time_received < {_time("end")}
    AND protocol = 'sflow5' AND tcp_rtt_us > 0 AND src_vm != '' AND dst_vm != ''
GROUP BY exporter, {", ".join(PAIR)}"""  # noqa: S608
"""One row per pair and exporter of the samples received in the window whose round trip time is stated (sFlow 2209)."""


KNOWN_US = 86_400 * SECOND_US
"""How far back to look for whether an exporter was known."""


@dataclass(frozen=True, slots=True)
class LatencyRules:
    """The settings of the query in its own units; see `AnalyzeSettings`."""

    quiet_us: int
    delay_us: int
    max_latency_us: int
    drift_ppm: float
    lookback_us: int
    flows: int
    records: int
    seconds: float
    octets: int

    @classmethod
    def of(cls, settings: AnalyzeSettings) -> Self:
        """Return the rules of the settings."""
        return cls(
            quiet_us=round(settings.flow_quiet_seconds * SECOND_US),
            delay_us=round(settings.record_delay_seconds * SECOND_US),
            max_latency_us=settings.max_latency_us,
            drift_ppm=settings.clock_drift_ppm,
            lookback_us=round(settings.clock_lookback_seconds * SECOND_US),
            flows=settings.latency_flows,
            records=settings.latency_records,
            seconds=settings.latency_seconds,
            octets=settings.latency_bytes,
        )


class Result(StrEnum):
    """The outcome of one window."""

    OK = "ok"
    TOO_MANY = "too_many"
    """The look-back has more records than may be read."""


def store_latency(client: Client, start_us: int, end_us: int, since_us: int, rules: LatencyRules) -> Result:
    """Compute the readings that the records received from `start_us` to before `end_us` (µs since 1970) complete; store
    them.

    `since_us` is since when rows arrive without a break.  Blocks, for at most `rules.seconds` per statement; raises the
    driver's errors.
    """
    parameters: dict[str, Any] = {
        "start": start_us,
        "end": end_us,
        "oldest": start_us - rules.quiet_us - rules.delay_us,
        "since": since_us,
        "known": start_us - KNOWN_US,
        "remembered": start_us - rules.lookback_us,
        "quiet": rules.quiet_us,
        "delay": rules.delay_us,
        "longest": rules.max_latency_us,
        "drift": rules.drift_ppm,
    }
    # Records of a connection are put side by side in arrays: whole blocks of them would use up the memory.
    limits = Bounds(rules.seconds, rules.octets).settings() | {"max_block_size": 8192, "max_threads": 1}
    client.command(STATED, parameters=parameters, settings=limits)
    if client.query(RECORDS, parameters=parameters, settings=limits).result_rows[0][0] > rules.records:
        return Result.TOO_MANY
    streams = client.query(STREAMS, parameters=parameters, settings=limits).result_rows
    if streams:
        exporters, domains, known_us, resolutions, flows = zip(*streams, strict=True)
        parameters |= {
            "exporters": [str(exporter) for exporter in exporters],
            "domains": list(domains),
            "known_us": list(known_us),
            "resolutions": list(resolutions),
            "thin": -(-sum(flows) // rules.flows),
        }
        client.command(INSERT, parameters=parameters, settings=limits)
    return Result.OK
