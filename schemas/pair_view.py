"""The view `pair_metrics`: bandwidth, loss, connections, errors, drops of one VM pair, one direction, per window.

**What is counted.**  A packet is seen at its source, at its destination, and in between.  Volume is what was seen at
the source (`source` and `both`); where the exporters are blind there, what was seen at the destination.

**Loss.**  Sent is what was seen at the source only (`source`), received what was seen at the destination only
(`destination`).  What one switch saw at both ends (`both`) was seen once: it says nothing about loss, and as it would
stand in both sums it would only hide the loss of the rest.

**Total loss.**  Nothing received is an observation only where somebody watched: the receiving VM was itself seen
sending in this window, so the exporter at its port was alive, and packets that its hypervisor delivered were seen
within the last day, so that exporter does look at what goes out to ports.  Else it is blindness.
"""

from __future__ import annotations

from schemas.flow_feed import EDGE_SECONDS
from schemas.intervals import (
    LEAST_SAMPLES_BOTH,
    LEAST_SAMPLES_SIDE,
    Z,
    bound,
    effective_samples,
    log_half_width,
)
from schemas.one_protocol import counted_pairs
from schemas.rollups import CONNECTIONS, LEVELS, PAIR_HASH

KEYS = "time, pair, src_vm, dst_vm"
"""What tells pairs apart is `pair`; the names stand beside it so that a condition on a VM reaches the rollup."""

OTHERS = ("src_vm_uuid", "dst_vm_uuid", "network")
"""What is the same in all rows of a pair."""

SEEING_HOURS = 25
"""How far back a hypervisor was seen delivering: today and the hour before."""

NONE_SEEN = 3.69
"""Upper end of the 95 % interval of a Poisson count of which nothing was seen: −ln 0.025."""

LEAST_EXPECTED = 20
"""Samples to be expected before none of them counts as total loss: by chance, none is seen once in 5 · 10⁸."""

DELAY_CHANGE_SECONDS = 0.1
"""How much the delay between both ends, with what their clocks differ, may change within a window."""

_SIDES = {"sent": "source", "received": "destination", "within": "both"}

_SPLIT = (
    "records",
    "packets",
    "packets_variance",
    "octets",
    "octets_variance",
    "frame_octets",
    "samples",
    "first_packets",
    "last_packets",
    "rate_unstated",
    "connections_opened",
    "connections_reset",
    "tcp_flags_missing",
)


def _by_side(aggregate: str, measure: str, indent: str) -> str:
    """A measure by where it was seen: `sent_x`, `received_x`, `within_x`."""
    return f",\n{indent}".join(
        f"{aggregate}If({measure}, sighting = '{sighting}') AS {side}_{measure}" for side, sighting in _SIDES.items()
    )


def once(measure: str, aggregate: str = "sum") -> str:
    """A measure that counts every packet once: what was seen at the source, else at the destination."""
    both = f"greatest(sent_{measure}, within_{measure})" if aggregate == "max" else f"sent_{measure} + within_{measure}"
    return f"if(sent_packets + within_packets > 0, {both}, received_{measure})"


def _sums(level: str) -> str:
    """One row per pair and window, with what each side saw."""
    split = ",\n        ".join(_by_side("sum", measure, " " * 8) for measure in _SPLIT)
    return f"""
    SELECT
        {KEYS},
        {", ".join(f"any({name}) AS {name}" for name in OTHERS)},
        max(src_host) AS src_host,
        max(dst_host) AS dst_host,
        {split},
        {_by_side("max", "sampling_rate_max", " " * 8)},
        sumIf(packets, sighting NOT IN ('source', 'destination', 'both')) AS elsewhere_packets,
        {CONNECTIONS.replace("(", "Merge(")}(connections) AS connections,
        sum(drop_hint_packets) AS drop_hint_packets,
        sum(drops) AS drops
    FROM {counted_pairs(level)}
    GROUP BY {KEYS}"""


def _answers(level: str) -> str:
    """What the other direction says about the connections that this one asked for."""
    measures = ("packets", "connections_accepted", "tcp_flags_missing")
    split = ",\n            ".join(_by_side("sum", measure, " " * 12) for measure in measures)
    return f"""
    SELECT
        time AS answer_time,
        src_vm AS answering_vm,
        dst_vm AS asking_vm,
        {PAIR_HASH.format(src="dst", dst="src")} AS answered_pair,
        {once("packets")} AS answer_packets,
        {once("connections_accepted")} AS accepted,
        {once("tcp_flags_missing")} AS answers_without_flags,
        {once("sampling_rate_max", "max")} AS answer_rate
    FROM (
        SELECT
            {KEYS},
            {", ".join(f"any({name}) AS {name}" for name in OTHERS)},
            {split},
            {_by_side("max", "sampling_rate_max", " " * 12)}
        FROM {counted_pairs(level)}
        GROUP BY {KEYS}
    )"""


_SEEING = f"""
    SELECT dst_host FROM pair_1h
    WHERE time > now() - INTERVAL {SEEING_HOURS} HOUR AND sighting IN ('destination', 'both') AND dst_host != ''"""
"""Hypervisors whose exporters see what goes out to the ports of VMs."""


def _watched(level: str) -> str:
    """VMs seen sending, where deliveries are seen, too, and how many packets one sample at their port stands for."""
    return f"""
    SELECT
        time,
        src_vm AS dst_vm,
        src_vm_uuid AS dst_vm_uuid,
        1 AS watched,
        1 + sum(packets_variance) / sum(packets) AS watched_weight,
        sum(rate_unstated) = 0 AND max(sampling_rate_max) = 1 AS watched_exactly
    FROM {counted_pairs(level)}
    WHERE sighting IN ('source', 'both') AND packets > 0 AND src_host GLOBAL IN ({_SEEING})
    GROUP BY time, src_vm, src_vm_uuid"""


def _latency(level: str) -> str:
    """The best reading of each pair: one way before round trips, then the one with the least uncertainty."""
    return f"""
    SELECT
        {KEYS},
        argMin(tuple(method, trip, latency, spread, jitter), tuple(trip, spread)) AS best,
        sum(readings) AS latency_samples
    FROM (
        SELECT
            toDateTime(toStartOfInterval(time, toIntervalSecond({LEVELS[level]})), 'UTC') AS time,
            {PAIR_HASH.format(src="src", dst="dst")} AS pair,
            src_vm, dst_vm, method, trip,
            sum(samples) AS readings,
            toInt64(round(sum(latency_us * samples) / readings)) AS latency,
            max(spread_us) AS spread,
            sumIf(samples, jitter_us IS NOT NULL) AS jitter_readings,
            if(jitter_readings > 0, toUInt64(sum(jitter_us * samples) / greatest(jitter_readings, 1)), NULL) AS jitter
        FROM latency
        GROUP BY {KEYS}, method, trip
    )
    GROUP BY {KEYS}"""


_EXACT = (
    "sent_rate_unstated + received_rate_unstated = 0"
    " AND greatest(sent_sampling_rate_max, received_sampling_rate_max) = 1"
)


def _figures(level: str) -> str:
    """What follows from the sums, before it is put into words."""
    seconds = LEVELS[level]
    sent = effective_samples("sent_packets", "sent_packets_variance")
    received = effective_samples("received_packets", "received_packets_variance")
    half = log_half_width("sent_packets", "sent_packets_variance", "received_packets", "received_packets_variance")
    return f"""
    SELECT
        *,
        multiIf(sent_packets + within_packets > 0, 'source', received_packets > 0, 'destination', 'nowhere')
            AS counted_at,
        counted_at != 'nowhere' AS counted,
        {once("packets")} AS all_packets,
        {once("packets_variance")} AS all_packets_variance,
        {once("octets")} AS all_octets,
        {once("octets_variance")} AS all_octets_variance,
        {once("frame_octets")} AS all_frame_octets,
        (sent_packets + received_packets + within_packets) / (sent_records + received_records + within_records)
            AS packets_per_record,
        {once("samples")} AS all_samples,
        {once("rate_unstated")} AS all_rate_unstated,
        {once("sampling_rate_max", "max")} AS all_sampling_rate,
        {sent} AS sent_effective,
        {received} AS received_effective,
        sent_packets > 0 AND received_packets + within_packets = 0 AND watched
            AND dst_host != '' AND src_host != dst_host AS all_lost,
        multiIf(
            all_lost AND {_EXACT} AND watched_exactly, 'exact',
            all_lost AND sent_effective >= {LEAST_SAMPLES_BOTH} AND sent_packets >= {LEAST_EXPECTED} * watched_weight,
                'measured',
            all_lost, 'insufficient',
            sent_packets = 0 OR received_packets = 0, 'blind',
            {_EXACT}, 'exact',
            sent_effective + received_effective >= {LEAST_SAMPLES_BOTH}
                AND least(sent_effective, received_effective) >= {LEAST_SAMPLES_SIDE}, 'measured',
            'insufficient') AS evidence,
        evidence IN ('exact', 'measured') AS loss_known,
        received_packets / sent_packets AS arrived,
        {half} AS half_width,
        {bound("sent_packets", "sent_packets_variance", "-")} AS sent_low,
        multiIf(
            NOT all_lost, arrived * exp(half_width),
            evidence = 'exact', 0,
            least(1, {NONE_SEEN} * watched_weight / sent_low)) AS most_arrived,
        if(all_lost, 0, arrived * exp(-half_width)) AS least_arrived,
        -- What is seen in the first or last second at one side may fall into the neighbour window at the other.  Steady
        -- traffic loses at one end of the window what it gains at the other, but for chance.  Where the delay changes,
        -- the first or last second holds less at one side than at the other; in the middle of a window, a change of the
        -- delay leaves no such trace.
        greatest(sent_first_packets, received_first_packets) AS first_second,
        greatest(sent_last_packets, received_last_packets) AS last_second,
        {Z} * sqrt(greatest(sent_sampling_rate_max, received_sampling_rate_max, 1) * (first_second + last_second))
            AS edge_noise,
        abs(last_second - first_second) AS edge_step,
        greatest(
            abs(sent_first_packets - received_first_packets) + abs(sent_last_packets - received_last_packets),
            {DELAY_CHANGE_SECONDS / EDGE_SECONDS} * greatest(first_second, last_second)) AS edge_shift,
        if(evidence = 'exact', least(edge_step + edge_noise, greatest(first_second, last_second)),
            greatest(edge_step - edge_noise, 0)) / sent_packets AS edge_steady,
        if(evidence = 'exact', least(edge_step + edge_noise + edge_shift, greatest(first_second, last_second))
            / sent_packets, edge_steady) AS edge,
        {once("connections_opened")} AS opened,
        {once("connections_reset")} AS reset,
        counted AND {once("tcp_flags_missing")} = 0 AS flags_known,
        flags_known AND answers_without_flags = 0 AND (answer_packets > 0 OR received_packets + within_packets > 0)
            AS answers_known,
        opened * (all_sampling_rate - 1) AS opened_variance,
        -- One sample more than there were: that none was seen does not mean that there was none.
        (accepted + answer_rate) * (greatest(answer_rate, 1) - 1) AS accepted_variance,
        2 * opened * {EDGE_SECONDS} / {seconds} AS straddling,
        answers_known AND opened > 0
            AND (all_sampling_rate = 1 OR opened / all_sampling_rate >= {LEAST_SAMPLES_BOTH // 2}) AS errors_known,
        greatest(0, opened - accepted) / opened AS failed_share,
        {Z} * sqrt(accepted_variance + straddling + opened_variance * pow(accepted / opened, 2)) / opened
            AS failed_half_width
    FROM ({_sums(level)}
    ) AS sums
    LEFT JOIN ({_answers(level)}
    ) AS answers ON sums.time = answer_time AND sums.pair = answered_pair AND sums.src_vm = asking_vm
        AND sums.dst_vm = answering_vm
    LEFT JOIN ({_latency(level)}
    ) AS readings USING ({KEYS})
    LEFT JOIN ({_watched(level)}
    ) AS watchers USING (time, dst_vm, dst_vm_uuid)"""


def pair_metrics(level: str) -> str:
    """The query of the view for windows of this level."""
    seconds = LEVELS[level]

    def interval(name: str, estimate: str, per_second: str) -> str:
        low = bound(f"all_{estimate}", f"all_{estimate}_variance", "-")
        high = bound(f"all_{estimate}", f"all_{estimate}_variance", "+")
        return ",\n    ".join(
            f"if(counted, ({value}) * {per_second}, NULL) AS {name}{end}"
            for value, end in ((f"all_{estimate}", ""), (low, "_low"), (high, "_high"))
        )

    opened_low, opened_high = (bound("opened", "opened_variance", sign) for sign in "-+")
    return f"""SELECT
    time,
    src_vm,
    dst_vm,
    src_host,
    dst_host,
    network,
    {interval("bits_per_second", "octets", f"8 / {seconds}")},
    {interval("packets_per_second", "packets", f"1 / {seconds}")},
    if(loss_known, greatest(0, 1 - arrived), NULL) AS loss_ratio,
    if(loss_known, greatest(0, 1 - most_arrived - edge), NULL) AS loss_low,
    if(loss_known, least(1, greatest(0, 1 - least_arrived + edge)), NULL) AS loss_high,
    if(loss_known, edge - edge_steady, NULL) AS loss_delay_allowance,
    evidence AS loss_evidence,
    if(latency_samples > 0, best.3, NULL) AS latency_us,
    if(latency_samples > 0, best.4, NULL) AS latency_spread_us,
    if(latency_samples > 0, toString(best.1), '') AS latency_method,
    if(latency_samples > 0, toString(best.2), '') AS latency_trip,
    if(latency_samples > 0, best.5, NULL) AS jitter_us,
    connections,
    if(counted AND all_sampling_rate = 1 AND all_rate_unstated = 0, 'exact', 'at least') AS connections_evidence,
    if(flags_known, opened / {seconds}, NULL) AS new_connections_per_second,
    if(flags_known, ({opened_low}) / {seconds}, NULL) AS new_connections_per_second_low,
    if(flags_known, ({opened_high}) / {seconds}, NULL) AS new_connections_per_second_high,
    if(errors_known, failed_share * opened, NULL) AS failed_connections,
    if(errors_known, failed_share, NULL) AS error_ratio,
    if(errors_known, greatest(0, failed_share - failed_half_width), NULL) AS error_low,
    if(errors_known, least(1, failed_share + failed_half_width), NULL) AS error_high,
    if(flags_known, reset, NULL) AS resets,
    drops,
    drop_hint_packets,
    counted_at,
    if(counted, all_packets, NULL) AS packets,
    if(counted, all_octets, NULL) AS octets,
    if(all_frame_octets > 0, all_frame_octets, NULL) AS frame_octets,
    sent_packets,
    received_packets,
    within_packets,
    elsewhere_packets,
    if(counted, packets_per_record, NULL) AS packets_per_record,
    all_samples AS samples,
    all_sampling_rate AS sampling_rate,
    all_rate_unstated AS rate_unstated,
    src_vm_uuid,
    dst_vm_uuid
FROM ({_figures(level)}
)"""
