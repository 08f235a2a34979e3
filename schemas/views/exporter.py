"""The view `exporter_metrics`: what each exporter sent, and the three losses that are not the network's, per window.

The row with exporter `::` is the collector itself: its queues and the kernel's.  None of these losses is part of any
traffic loss.
"""

from __future__ import annotations

from schemas.rollups import LEVELS

KEYS = "time, exporter, agent, domain, protocol"

_SUMS = (
    "datagrams", "bytes", "records", "counter_records", "export_lost", "samples_lost", "agent_drops", "datapath_lost",
    "duplicates", "reordered", "restarts", "kernel_drops", "queue_drops",
)  # fmt: skip


def exporter_metrics(level: str) -> str:
    """Return the query of the view for windows of this level; a report counts in the window where its interval ends."""
    sums = ",\n        ".join(f"sum({name}) AS {name}" for name in _SUMS)
    counted = "if(protocol IN ('netflow5', 'netflow7', 'ipfix'), records, datagrams)"
    window = f"toDateTime(toStartOfInterval(ends - toIntervalMicrosecond(1), toIntervalSecond({LEVELS[level]})), 'UTC')"
    return f"""SELECT
    time,
    exporter,
    agent,
    domain,
    protocol,
    datagrams / covered_seconds AS datagrams_per_second,
    records / covered_seconds AS records_per_second,
    bytes * 8 / covered_seconds AS export_bits_per_second,
    if({counted} + export_lost > 0, export_lost / ({counted} + export_lost), NULL) AS export_loss_ratio,
    if(records + samples_lost + agent_drops > 0,
        (samples_lost + agent_drops) / (records + samples_lost + agent_drops), NULL) AS sampling_loss_ratio,
    datapath_lost,
    problems,
    kernel_drops,
    queue_drops,
    duplicates,
    reordered,
    restarts,
    sampling_rate,
    clock_skew_us,
    findings,
    datagrams,
    records,
    counter_records,
    export_lost,
    samples_lost,
    agent_drops,
    held_bytes
FROM (
    SELECT
        {KEYS},
        {sums},
        sum(interval_us) / 1000000 / count(DISTINCT source_port) AS covered_seconds,
        sum(arraySum(mapValues(problems))) AS problems,
        arraySum(mapValues(maxMap(map(source_port, held_bytes)))) AS held_bytes,
        argMax(sampling_rate, ends) AS sampling_rate,
        argMax(clock_skew_us, ends) AS clock_skew_us,
        argMax(findings, ends) AS findings
    FROM (SELECT {window} AS time, * EXCEPT time FROM (SELECT * EXCEPT time, time AS ends FROM exporters))
    GROUP BY {KEYS}
)"""
