"""Write the Grafana dashboards over SQL: `python -m deploy.grafana.render`, which `make docs` does.

Traffic comes from the views that count each packet once (`pair_metrics` and its like), with their intervals.
"""

# ruff: noqa: S608 - SQL put together from our own constants
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.grafana.parts import (
    COUNTED,
    HOSTS,
    IN_TIME,
    INTERFACES,
    LOSSY,
    PAIR,
    PAIRS,
    SENDER,
    VMS,
    band,
    busiest,
    dashboard,
    panel,
)

FOLDER = Path(__file__).parent / "dashboards"


def pairs() -> dict[str, Any]:
    """Who talks to whom, and how much."""
    source, traffic, keys = "pair_metrics$level", "pair_traffic$level", "src_vm, dst_vm"
    return dashboard(
        "vmflow-pairs",
        "vmflow: VM pairs",
        ("network", "project", "host", "vm"),
        [
            panel(
                "stat",
                "Sent between VMs",
                (6, 4),
                f"SELECT sum(bytes) AS bytes FROM {traffic}\nWHERE {PAIRS}\n  AND {COUNTED}",
                "decbytes",
                about="Layer 3, each packet once: as it left the sender, or as it arrived where that side is blind.",
            ),
            panel(
                "stat",
                "Pairs with traffic",
                (6, 4),
                f"SELECT uniqExact(src_vm, dst_vm, network) AS pairs FROM {traffic}\nWHERE {PAIRS}",
            ),
            panel(
                "stat",
                "Pairs that lose more than 1 %, for certain",
                (6, 4),
                f"SELECT uniqExactIf((src_vm, dst_vm, network), loss_low > 0.01) AS pairs FROM {source}\nWHERE {PAIRS}",
                bad=True,
                about="The whole 95 % interval lies above 1 % in at least one window.",
            ),
            panel(
                "stat",
                "Packets seen at neither end",
                (6, 4),
                f"SELECT sum(elsewhere_packets) AS packets FROM {traffic}\nWHERE {PAIRS}\n  AND NOT {COUNTED}",
                about="In no sum here: seen on the way only, perhaps several times. Export from the VMs' bridges.",
            ),
            panel(
                "timeseries",
                "All of these pairs",
                (12, 9),
                f"""
SELECT time, sum(bits_per_second) AS bits, sum(bits_per_second_low) AS low, sum(bits_per_second_high) AS high
FROM {traffic}
WHERE {PAIRS}
  AND {COUNTED}
GROUP BY time ORDER BY time""",
                "bps",
                overrides=band(),
                about="The band holds the 95 % interval of each pair.",
            ),
            panel(
                "timeseries",
                "Busiest 10 pairs",
                (12, 9),
                f"""
SELECT time, {PAIR} AS pair, sum(bits_per_second) AS bits FROM {traffic}
WHERE {PAIRS}
  AND {COUNTED}
  AND {busiest("sum(bytes)", f"{PAIRS} AND {COUNTED}", keys, traffic)}
GROUP BY time, pair ORDER BY time""",
                "bps",
            ),
            panel(
                "table",
                "Pairs",
                (24, 12),
                f"""
SELECT src_vm, dst_vm, network, src_host, dst_host, sum(bytes) AS bytes_sent, max(bits_per_second) AS peak,
    {LOSSY}, max(latency_us) / 1e6 AS latency, max(connections) AS connections
FROM {source}
WHERE {PAIRS}
  AND {COUNTED}
GROUP BY src_vm, dst_vm, network, src_host, dst_host ORDER BY bytes_sent DESC LIMIT 200""",
                units={
                    "bytes_sent": "decbytes",
                    "peak": "bps",
                    "loss": "percentunit",
                    "low": "percentunit",
                    "high": "percentunit",
                    "latency": "s",
                },
                about="Loss is that of the window where it is most certain; latency and connections, of the worst one.",
            ),
        ],
    )


def quality() -> dict[str, Any]:
    """Loss with its interval, latency, connections that fail."""
    source, keys = "pair_metrics$level", "src_vm, dst_vm, network"
    certain = f"{PAIRS}\n  AND loss_low > 0"
    slow = f"{PAIRS}\n  AND latency_us IS NOT NULL"
    ratio = {"loss": "percentunit", "low": "percentunit", "high": "percentunit"}
    return dashboard(
        "vmflow-loss",
        "vmflow: loss and latency",
        ("network", "project", "host", "vm"),
        [
            panel(
                "table",
                "Pairs that lose, for certain",
                (12, 10),
                f"""
SELECT src_vm, dst_vm, network, src_host, dst_host, {LOSSY}, argMax(loss_evidence, loss_low) AS evidence,
    count() AS windows, argMax(time, loss_low) AS worst_at
FROM {source}
WHERE {certain}
GROUP BY src_vm, dst_vm, network, src_host, dst_host ORDER BY low DESC LIMIT 100""",
                units=ratio,
                about="The 95 % interval of the loss does not hold 0. Shown is the window whose loss is most certain.",
            ),
            panel(
                "timeseries",
                "The pair that loses most: loss and its 95 % interval",
                (12, 10),
                f"""
SELECT time, loss_ratio AS loss, loss_low AS low, loss_high AS high FROM {source}
WHERE {PAIRS}
  AND loss_ratio IS NOT NULL
  AND {busiest("max(loss_low)", f"{PAIRS} AND loss_ratio IS NOT NULL", keys, source, 1)}
ORDER BY time""",
                "percentunit",
                overrides=band(),
                about="Choose VMs above to see a certain pair.",
            ),
            panel(
                "timeseries",
                "Loss of the 10 worst pairs",
                (12, 9),
                f"""
SELECT time, {PAIR} AS pair, max(loss_ratio) AS loss FROM {source}
WHERE {certain}
  AND {busiest("max(loss_low)", certain, keys, source)}
GROUP BY time, pair ORDER BY time""",
                "percentunit",
            ),
            panel(
                "table",
                "How well loss is known",
                (12, 9),
                f"""
SELECT loss_evidence AS evidence, uniqExact({keys}) AS pairs, count() AS windows, sum(bytes) AS bytes_sent FROM {source}
WHERE {PAIRS}
GROUP BY evidence ORDER BY windows DESC""",
                units={"bytes_sent": "decbytes"},
                about="exact, spread and measured give figures; insufficient and blind do not (docs/vm-metrics.md).",
            ),
            panel(
                "timeseries",
                "Latency of the 10 slowest pairs",
                (12, 9),
                f"""
SELECT time, {PAIR} AS pair, max(latency_us) / 1e6 AS latency FROM {source}
WHERE {slow}
  AND {busiest("max(latency_us)", slow, keys, source)}
GROUP BY time, pair ORDER BY time""",
                "s",
            ),
            panel(
                "table",
                "Latency",
                (12, 9),
                f"""
SELECT src_vm, dst_vm, network, latency_method AS method, latency_trip AS trip,
    quantileExact(0.5)(latency_us) / 1e6 AS median, max(latency_us) / 1e6 AS worst,
    argMax(latency_spread_us, latency_us) / 1e6 AS worst_plus_minus, max(jitter_us) / 1e6 AS jitter,
    count() AS windows
FROM {source}
WHERE {slow}
GROUP BY src_vm, dst_vm, network, method, trip ORDER BY worst DESC LIMIT 100""",
                units=dict.fromkeys(("median", "worst", "worst_plus_minus", "jitter"), "s"),
            ),
            panel(
                "table",
                "Why there is no latency",
                (12, 8),
                f"""
SELECT latency_missing AS reason, uniqExact({keys}) AS pairs, count() AS windows FROM {source}
WHERE {PAIRS}
  AND latency_us IS NULL
GROUP BY reason ORDER BY windows DESC""",
                about="docs/vm-metrics.md says what would help.",
            ),
            panel(
                "table",
                "Connections that fail",
                (12, 8),
                f"""
SELECT src_vm, dst_vm, network, sum(failed_connections) AS failed, argMax(tuple(error_ratio), error_low).1 AS errors,
    max(error_low) AS low, argMax(tuple(error_high), error_low).1 AS high
FROM {source}
WHERE {PAIRS}
  AND error_low > 0
GROUP BY src_vm, dst_vm, network ORDER BY low DESC LIMIT 100""",
                units={"errors": "percentunit", "low": "percentunit", "high": "percentunit"},
            ),
        ],
    )


def hosts() -> dict[str, Any]:
    """Hypervisors, their VMs and their interfaces."""
    octets = {
        "sent": "decbytes",
        "received": "decbytes",
        "utilisation": "percentunit",
        "loss": "percentunit",
        "errors": "percentunit",
    }
    sums = (
        "sum(sent_bytes) AS sent, sum(received_bytes) AS received, max(utilisation) AS utilisation, sum(drops) AS drops"
    )
    fast = f"{INTERFACES}\n  AND utilisation IS NOT NULL"
    of = "host, interface"
    return dashboard(
        "vmflow-hosts",
        "vmflow: hypervisors and interfaces",
        ("network", "project", "host", "vm"),
        [
            *(
                panel(
                    "timeseries",
                    f"{way.capitalize()} by the VMs of each hypervisor",
                    (12, 9),
                    f"""
SELECT time, host AS hypervisor, {way}_bits_per_second AS bits FROM host_metrics$level
WHERE {HOSTS}
  AND {way}_bits_per_second IS NOT NULL
ORDER BY time""",
                    "bps",
                )
                for way in ("sent", "received")
            ),
            panel(
                "table",
                "Hypervisors",
                (12, 9),
                f"SELECT host, {sums} FROM host_metrics$level\nWHERE {HOSTS}\n"
                "GROUP BY host ORDER BY sent DESC LIMIT 200",
                units=octets,
            ),
            panel(
                "table",
                "VMs",
                (12, 9),
                f"SELECT vm, host, {sums} FROM vm_metrics$level\nWHERE {VMS}\n"
                "GROUP BY vm, host ORDER BY sent DESC LIMIT 200",
                units=octets,
            ),
            panel(
                "timeseries",
                "Busiest 10 interfaces",
                (24, 9),
                f"""
SELECT time, concat(host, ' ', interface) AS port, max(utilisation) AS used FROM interface_metrics$level
WHERE {fast}
  AND {busiest("max(utilisation)", fast, of, "interface_metrics$level")}
GROUP BY time, port ORDER BY time""",
                "percentunit",
                about="From counters. Interfaces whose speed nobody states are not here.",
            ),
            panel(
                "table",
                "Interfaces",
                (24, 12),
                f"""
SELECT host, interface, vm, network, sum(in_bytes) AS received, sum(out_bytes) AS sent, max(utilisation) AS utilisation,
    any(speed) AS speed, any(speed_source) AS speed_source,
    sum(in_discards + out_discards) AS discards, max(loss_ratio) AS loss,
    sum(in_errors + out_errors) AS errors_counted, max(error_ratio) AS errors
FROM interface_metrics$level
WHERE {INTERFACES}
GROUP BY host, interface, vm, network ORDER BY received + sent DESC LIMIT 200""",
                units=octets | {"speed": "bps"},
                about="As the switch counts: received is what came in from the VM.",
            ),
        ],
    )


def alerts() -> dict[str, Any]:
    """What is wrong, and what was."""
    open_ones = "FROM alerts FINAL WHERE status != 'resolved'"
    figures = "value, low, high, unit"
    return dashboard(
        "vmflow-alerts",
        "vmflow: alerts",
        (),
        [
            *(
                panel(
                    "stat",
                    f"{severity.capitalize()} now",
                    (8, 4),
                    f"SELECT count() AS alerts {open_ones} AND severity = '{severity}'",
                    bad=True,
                )
                for severity in ("critical", "warning", "info")
            ),
            panel(
                "table",
                "Now",
                (24, 10),
                f"""
SELECT since, toString(severity) AS severity, rule, summary, {figures}, evidence, toString(status) AS status,
    acknowledged_by
{open_ones} ORDER BY alerts.severity DESC, since DESC LIMIT 200""",
            ),
            panel(
                "timeseries",
                "Alerts that fired, by rule",
                (12, 9),
                f"""
SELECT $__timeInterval(time) AS at, rule AS fired_rule, count() AS fired FROM alert_events
WHERE {IN_TIME}
  AND event = 'firing'
GROUP BY at, fired_rule ORDER BY at""",
            ),
            panel(
                "table",
                "What happened",
                (12, 9),
                f"""
SELECT time, toString(event) AS event, toString(severity) AS severity, rule,
    arrayStringConcat(mapValues(labels), ' ') AS about, {figures}, who
FROM alert_events
WHERE {IN_TIME}
ORDER BY time DESC LIMIT 200""",
            ),
        ],
    )


def exporters() -> dict[str, Any]:
    """Who exports, what of it was lost, and what is wrong."""
    source = "exporter_metrics$level"
    key = f"concat({SENDER}, ' ', toString(protocol))"
    real = f"{IN_TIME}\n  AND exporter != toIPv6('::')"
    share = {"export_loss": "percentunit", "sampling_loss": "percentunit", "clock_skew": "s"}
    return dashboard(
        "vmflow-exporters",
        "vmflow: exporters",
        (),
        [
            panel(
                "stat",
                "Exporters heard",
                (8, 4),
                f"SELECT uniqExact(exporter) AS exporters FROM {source}\nWHERE {real}",
            ),
            panel(
                "stat",
                "With findings",
                (8, 4),
                f"SELECT uniqExactIf(exporter, findings != '') AS exporters FROM {source}\nWHERE {real}",
                bad=True,
                about="`vmflow exporters --doctor` says what is wrong, and the lines that repair it.",
            ),
            panel(
                "stat",
                "Datagrams that vmflow lost",
                (8, 4),
                f"SELECT sum(kernel_drops + queue_drops) AS datagrams FROM {source}\nWHERE {IN_TIME}",
                bad=True,
            ),
            panel(
                "table",
                "Exporters",
                (24, 11),
                f"""
SELECT {SENDER} AS sender, domain, toString(protocol) AS kind, argMax(findings, time) AS found,
    sum(datagrams) AS all_datagrams, sum(records) AS all_records, sum(counter_records) AS polls,
    max(export_loss_ratio) AS export_loss,
    max(sampling_loss_ratio) AS sampling_loss, sum(restarts) AS restarted, argMax(sampling_rate, time) AS rate,
    argMax(tuple(clock_skew_us), time).1 / 1e6 AS clock_skew, max(time) AS last_heard
FROM {source}
WHERE {real}
GROUP BY sender, domain, kind ORDER BY found = '', all_records DESC LIMIT 500""",
                units=share,
                about="Losses are those of the worst window; none is part of a traffic loss (docs/vm-metrics.md).",
            ),
            panel(
                "timeseries",
                "Records per second, busiest 10",
                (12, 9),
                f"""
SELECT time, {key} AS sender, sum(records_per_second) AS records FROM {source}
WHERE {real}
  AND {busiest("sum(records)", real, "exporter, protocol", source)}
GROUP BY time, sender ORDER BY time""",
                "cps",
            ),
            panel(
                "timeseries",
                "Missing by sequence numbers, worst 10",
                (12, 9),
                f"""
SELECT time, {key} AS sender, max(export_loss_ratio) AS lost FROM {source}
WHERE {real}
  AND export_loss_ratio > 0
  AND {busiest("max(export_loss_ratio)", f"{real} AND export_loss_ratio > 0", "exporter, protocol", source)}
GROUP BY time, sender ORDER BY time""",
                "percentunit",
            ),
            panel(
                "table",
                "When packets went unwatched, and why",
                (24, 9),
                """
SELECT begins, ends, dateDiff('second', begins, ends) AS seconds, reporter, domain, toString(protocol) AS kind, reason
FROM gaps
WHERE begins <= $__toTime AND ends >= $__fromTime
ORDER BY ends DESC LIMIT 200""",
                units={"seconds": "s"},
            ),
        ],
    )


def written() -> Mapping[Path, str]:
    """Each file and its text."""
    made = (pairs(), quality(), hosts(), alerts(), exporters())
    return {FOLDER / f"{one['uid']}.json": json.dumps(one, ensure_ascii=False, indent=1) + "\n" for one in made}


if __name__ == "__main__":
    for file, text in written().items():
        file.write_text(text, "utf-8")
