"""The view `reconciliation`: do the samples of an interface agree with its counters?

Octets are compared, not packets: where a VM leaves segmentation to its network card, Open vSwitch counts a packet of up
to 64 KiB as one, and sends its segments as samples.  Both sides are octets of layer 2 without FCS, received by the
switch from the interface: there Open vSwitch samples, once per packet.  The time compared is that from the first poll
to the last within LOOK_BACK_MINUTES, so the polls in between need not be matched.
"""

from __future__ import annotations

from schemas.views.common import Z

LOOK_BACK_MINUTES = 65
"""An hour of polls, and some minutes for late ones."""

LEAST_SAMPLES = 30
"""Samples below which nothing is stated: the interval of 30 is ± 36 %."""

TOLERANCE = 0.05
"""Difference not due to sampling: headers of the segments that a card cuts (3 %), and datagrams on their way."""

EDGE_SECONDS = 2
"""Samples wait in the agent for up to a second, counters do not: this much traffic may fall outside the time."""

COVERED = 0.95
"""Share of the time that polls with a difference must cover: less means a reset, or lost polls."""

_COUNTED = f"""
    SELECT
        agent, domain, if_index, max(if_name) AS name, max(exporter) AS sender,
        min(time_received - toIntervalMicrosecond(assumeNotNull(interval_us))) AS begins,
        max(time_received) AS ends,
        dateDiff('microsecond', begins, ends) AS span_us,
        sum(assumeNotNull(in_bytes_delta)) AS octets,
        sum(assumeNotNull(interval_us)) >= {COVERED} * span_us AS covered
    FROM interface_counters
    WHERE source = 'sflow' AND delta_state = 'ok' AND in_bytes_delta IS NOT NULL AND interval_us IS NOT NULL
        AND time_received > now() - toIntervalMinute({LOOK_BACK_MINUTES})
    GROUP BY agent, domain, if_index"""

_ESTIMATED = f"""
    SELECT
        agent, domain, if_index,
        count() AS number,
        sum(toFloat64(frame_bytes) * sampling_rate) AS estimate,
        sum(pow(toFloat64(frame_bytes), 2) * sampling_rate * (sampling_rate - 1.)) AS variance
    FROM (SELECT agent, domain, in_if AS if_index, time_received, frame_bytes, sampling_rate FROM flows
        WHERE protocol = 'sflow5' AND in_if > 0 AND time_received > now() - toIntervalMinute({LOOK_BACK_MINUTES})
    ) AS sampled
    GLOBAL INNER JOIN ({_COUNTED}
    ) AS polls USING (agent, domain, if_index)
    WHERE time_received > begins AND time_received <= ends
    GROUP BY agent, domain, if_index"""


_VERDICT = f"""multiIf(
        NOT {{covered}} OR {{exporter_samples}} = 0, 'insufficient',
        abs({{estimate}} - {{counted}}) <= {Z} * sqrt({{counted}} * {{weight}}) + {TOLERANCE} * {{counted}} + {{edge}},
            if({{counted}} >= {LEAST_SAMPLES} * {{weight}}, 'consistent', 'insufficient'),
        {{estimate}} < {{counted}}, if({{counted}} >= {LEAST_SAMPLES} * {{weight}}, 'too_few', 'insufficient'),
        if({{samples}} >= {LEAST_SAMPLES}, 'too_many', 'insufficient')
    )"""
"""`weight` is the octets that one sample represents, so `counted * weight` is the variance of an estimate of `counted`.
"""

RECONCILIATION = f"""SELECT
    exporter, agent, domain, if_index, if_name, begins, ends,
    bytes_counted, bytes_estimated, samples,
    if(samples > 0, greatest(0, bytes_estimated - half_width), NULL) AS bytes_low,
    if(samples > 0, bytes_estimated + half_width, NULL) AS bytes_high,
    {
    _VERDICT.format(
        covered="covered",
        exporter_samples="all_samples",
        estimate="bytes_estimated",
        counted="bytes_counted",
        weight="weight",
        edge="edge",
        samples="samples",
    )
} AS verdict,
    {
    _VERDICT.format(
        covered="all_covered",
        exporter_samples="all_samples",
        estimate="all_estimated",
        counted="all_counted",
        weight="all_weight",
        edge="all_edge",
        samples="all_samples",
    )
} AS exporter_verdict
FROM
(
    SELECT
        *,
        {Z} * sqrt(variance) AS half_width,
        sum(samples) OVER stream AS all_samples,
        sum(bytes_estimated) OVER stream AS all_estimated,
        sum(bytes_counted) OVER stream AS all_counted,
        sum(edge) OVER stream AS all_edge,
        min(covered) OVER stream AS all_covered,
        if(all_estimated > 0, sum(variance) OVER stream / all_estimated, 0) AS all_weight,
        if(samples >= {LEAST_SAMPLES}, variance / bytes_estimated, all_weight) AS weight
    FROM
    (
        SELECT
            counted.sender AS exporter, agent, domain, if_index, counted.name AS if_name,
            counted.begins AS begins, counted.ends AS ends,
            counted.octets AS bytes_counted,
            round(estimated.estimate) AS bytes_estimated,
            estimated.number AS samples,
            estimated.variance AS variance,
            counted.covered AS covered,
            if(span_us > 0, bytes_counted * {EDGE_SECONDS * 1_000_000} / span_us, 0) AS edge
        FROM ({_COUNTED}
        ) AS counted
        GLOBAL LEFT JOIN ({_ESTIMATED}
        ) AS estimated USING (agent, domain, if_index)
    )
    WINDOW stream AS (PARTITION BY agent, domain)
)"""
