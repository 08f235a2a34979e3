"""Write the Grafana dashboards over SQL: `python -m deploy.grafana.render`, which `make docs` does.

Traffic comes from the views that count each packet once (`pair_metrics` and its like), with their intervals.  Names of
VMs are text of others, and Grafana's quoting leaves backslashes as they are: so variables hold names in hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
CLICKHOUSE = {"type": "grafana-clickhouse-datasource", "uid": "${clickhouse}"}
SCHEMA = 39
"""Of Grafana 10.4; later ones read it."""

IN_TIME = "$__timeFilter(time)"
NAMED = "src_vm != '' AND dst_vm != ''"
PROJECT = (
    "SELECT vm, vm_uuid FROM inventory WHERE hex(project) IN (${project:singlequote}) "
    "AND valid_from <= $__toTime AND (open = 1 OR valid_to >= $__fromTime)"
)


def unless_all(variable: str, condition: str) -> str:
    """A condition that the plugin leaves out where everything is chosen."""
    return f"$__conditionalAll({condition}, ${variable})"


def chosen(column: str, variable: str) -> str:
    """Whether a name is among those of a variable."""
    return f"hex({column}) IN (${{{variable}:singlequote}})"


PAIRS = "\n  AND ".join(
    (
        IN_TIME,
        NAMED,
        unless_all("network", chosen("network", "network")),
        unless_all("host", f"({chosen('src_host', 'host')} OR {chosen('dst_host', 'host')})"),
        unless_all("vm", f"({chosen('src_vm', 'vm')} OR {chosen('dst_vm', 'vm')})"),
        unless_all("project", f"((src_vm, src_vm_uuid) IN ({PROJECT}) OR (dst_vm, dst_vm_uuid) IN ({PROJECT}))"),
    )
)
"""Pairs of which either end is chosen."""
VMS = "\n  AND ".join(
    (
        IN_TIME,
        unless_all("host", chosen("host", "host")),
        unless_all("vm", chosen("vm", "vm")),
        unless_all("project", f"(vm, vm_uuid) IN ({PROJECT})"),
    )
)
HOSTS = f"{IN_TIME}\n  AND {unless_all('host', chosen('host', 'host'))}"
INTERFACES = f"{VMS}\n  AND {unless_all('network', chosen('network', 'network'))}"
PAIR = "concat(src_vm, ' → ', dst_vm)"
COUNTED = "counted_at != 'nowhere'"
LOSSY = "argMax(tuple(loss_ratio), loss_low).1 AS loss, max(loss_low) AS low, argMax(tuple(loss_high), loss_low).1 AS high"
"""Of the window whose loss is most certain."""
SENDER = "replaceOne(toString(exporter), '::ffff:', '')"


def busiest(measure: str, where: str, keys: str, source: str, most: int = 10) -> str:
    """A condition: among those with most of a measure."""
    return f"({keys}) IN (SELECT {keys} FROM {source}\n  WHERE {where}\n  GROUP BY {keys} ORDER BY {measure} DESC LIMIT {most})"


def panel(kind: str, title: str, size: tuple[int, int], sql: str, unit: str = "short", **more: Any) -> dict[str, Any]:
    """A panel of one query; `size` is width and height; `units` are those of columns of a table."""
    series = kind == "timeseries"
    made: dict[str, Any] = {
        "type": kind,
        "title": title,
        "description": more.get("about", ""),
        "datasource": CLICKHOUSE,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": [
            {
                "refId": "A",
                "datasource": CLICKHOUSE,
                "editorType": "sql",
                "queryType": "timeseries" if series else "table",
                "format": 0 if series else 1,
                "rawSql": sql.strip(),
            }
        ],
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": list(more.get("overrides", ()))},
        "options": {},
    }
    if series:
        made["fieldConfig"]["defaults"] |= {
            "min": 0, "custom": {"fillOpacity": 10, "lineWidth": 1, "showPoints": "auto", "stacking": more.get("stacking", {"mode": "none"})},
        }  # fmt: skip
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif kind == "stat":
        made["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value", "graphMode": "none",
        }  # fmt: skip
        if more.get("bad"):
            steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
            made["fieldConfig"]["defaults"]["thresholds"] = {"mode": "absolute", "steps": steps}
    else:
        made["fieldConfig"]["overrides"] += [
            {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": value}]}
            for name, value in more.get("units", {}).items()
        ]
        made["options"] = {"showHeader": True, "cellHeight": "sm"}
    return made


def variable(name: str, label: str, sql: str) -> dict[str, Any]:
    """A choice of names: the first column is the value, the second what is shown."""
    return {
        "name": name, "label": label, "type": "query", "datasource": CLICKHOUSE, "query": sql, "definition": sql,
        "refresh": 2, "multi": True, "includeAll": True, "sort": 0, "hide": 0, "skipUrlSync": False,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [], "regex": "",
    }  # fmt: skip


def names(column: str, where: str = "1 = 1") -> str:
    """The query of a variable."""
    return (
        f"SELECT hex({column}) AS id, {column} AS name FROM inventory "
        f"WHERE {column} != '' AND valid_from <= $__toTime AND (open = 1 OR valid_to >= $__fromTime) AND {where} "
        f"GROUP BY {column} ORDER BY {column} LIMIT 5000"
    )


VARIABLES = {
    "network": variable("network", "Network", names("network")),
    "project": variable("project", "Project", names("project")),
    "host": variable("host", "Hypervisor", names("host")),
    "vm": variable("vm", "VM", names("vm", unless_all("project", chosen("project", "project")))),
}
LEVEL = {
    "name": "level", "label": "Windows", "type": "custom", "query": "1 min : _1m,1 h : _1h", "multi": False,
    "includeAll": False, "hide": 0, "skipUrlSync": False,
    "current": {"selected": True, "text": "1 min", "value": "_1m"},
    "options": [
        {"selected": True, "text": "1 min", "value": "_1m"}, {"selected": False, "text": "1 h", "value": "_1h"},
    ],
}  # fmt: skip
SOURCE = {
    "name": "clickhouse", "label": "Store", "type": "datasource", "query": "grafana-clickhouse-datasource",
    "refresh": 1, "multi": False, "includeAll": False, "hide": 0, "skipUrlSync": False, "regex": "", "options": [],
    "current": {"selected": True, "text": "vmflow flows", "value": "vmflow-clickhouse"},
}  # fmt: skip


def dashboard(uid: str, title: str, choices: Sequence[str], panels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A dashboard; panels are put into rows of 24 columns, in order."""
    x = y = tallest = 0
    for number, one in enumerate(panels, 1):
        place = one["gridPos"]
        if x + place["w"] > 24:
            x, y, tallest = 0, y + tallest, 0
        place |= {"x": x, "y": y}
        x, tallest = x + place["w"], max(tallest, place["h"])
        one["id"] = number
    levels = [LEVEL] if any("$level" in one["targets"][0]["rawSql"] for one in panels) else []
    return {
        "uid": uid, "title": title, "tags": ["vmflow"], "schemaVersion": SCHEMA, "version": 1, "editable": True,
        "timezone": "", "refresh": "1m", "time": {"from": "now-3h", "to": "now"}, "graphTooltip": 1,
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "tags": ["vmflow"], "title": "vmflow", "asDropdown": True, "keepTime": True,
             "includeVars": True, "icon": "external link", "targetBlank": False, "tooltip": "", "url": ""},
        ],
        "templating": {"list": [SOURCE, *levels, *(VARIABLES[name] for name in choices)]},
        "panels": list(panels),
    }  # fmt: skip


def band() -> list[dict[str, Any]]:
    """The series `low` and `high` as the ends of a shaded band."""
    return [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": key, "value": value} for key, value in how.items()]}
        for name, how in {
            "low": {"custom.lineWidth": 0, "custom.fillOpacity": 0},
            "high": {"custom.lineWidth": 0, "custom.fillBelowTo": "low", "custom.fillOpacity": 25},
        }.items()
    ]  # fmt: skip


def pairs() -> dict[str, Any]:
    """Who talks to whom, and how much."""
    source, keys = "pair_metrics$level", "src_vm, dst_vm"
    return dashboard("vmflow-pairs", "vmflow: VM pairs", ("network", "project", "host", "vm"), [
        panel("stat", "Sent between VMs", (6, 4), f"SELECT sum(bytes) AS bytes FROM {source}\nWHERE {PAIRS}\n  AND {COUNTED}", "decbytes",
              about="Layer 3, each packet once: as it left the sender, or as it arrived where the sender's side is blind."),
        panel("stat", "Pairs with traffic", (6, 4), f"SELECT uniqExact(src_vm, dst_vm, network) AS pairs FROM {source}\nWHERE {PAIRS}"),
        panel("stat", "Pairs that lose more than 1 %, for certain", (6, 4),
              f"SELECT uniqExactIf((src_vm, dst_vm, network), loss_low > 0.01) AS pairs FROM {source}\nWHERE {PAIRS}",
              bad=True, about="The whole 95 % interval lies above 1 % in at least one window."),
        panel("stat", "Packets seen at neither end", (6, 4),
              f"SELECT sum(elsewhere_packets) AS packets FROM {source}\nWHERE {PAIRS}\n  AND NOT {COUNTED}",
              about="Not in any sum here: seen on the way only, so perhaps several times. Export from the VMs' bridges."),
        panel("timeseries", "All of these pairs", (12, 9), f"""
SELECT time, sum(bits_per_second) AS bits, sum(bits_per_second_low) AS low, sum(bits_per_second_high) AS high FROM {source}
WHERE {PAIRS}
  AND {COUNTED}
GROUP BY time ORDER BY time""", "bps", overrides=band(), about="The band holds the 95 % interval of each pair."),
        panel("timeseries", "Busiest 10 pairs", (12, 9), f"""
SELECT time, {PAIR} AS pair, sum(bits_per_second) AS bits FROM {source}
WHERE {PAIRS}
  AND {COUNTED}
  AND {busiest('sum(bytes)', f'{PAIRS} AND {COUNTED}', keys, source)}
GROUP BY time, pair ORDER BY time""", "bps"),
        panel("table", "Pairs", (24, 12), f"""
SELECT src_vm, dst_vm, network, src_host, dst_host, sum(bytes) AS bytes_sent, max(bits_per_second) AS peak,
    {LOSSY}, max(latency_us) / 1e6 AS latency, max(connections) AS connections
FROM {source}
WHERE {PAIRS}
  AND {COUNTED}
GROUP BY src_vm, dst_vm, network, src_host, dst_host ORDER BY bytes_sent DESC LIMIT 200""",
              units={"bytes_sent": "decbytes", "peak": "bps", "loss": "percentunit", "low": "percentunit", "high": "percentunit", "latency": "s"},
              about="Loss with its interval is that of the window whose loss is most certain; latency and connections are those of the worst window."),
    ])  # fmt: skip


def quality() -> dict[str, Any]:
    """Loss with its interval, latency, connections that fail."""
    source, keys = "pair_metrics$level", "src_vm, dst_vm, network"
    certain = f"{PAIRS}\n  AND loss_low > 0"
    slow = f"{PAIRS}\n  AND latency_us IS NOT NULL"
    ratio = {"loss": "percentunit", "low": "percentunit", "high": "percentunit"}
    return dashboard("vmflow-loss", "vmflow: loss and latency", ("network", "project", "host", "vm"), [
        panel("table", "Pairs that lose, for certain", (12, 10), f"""
SELECT src_vm, dst_vm, network, src_host, dst_host, {LOSSY}, argMax(loss_evidence, loss_low) AS evidence,
    count() AS windows, argMax(time, loss_low) AS worst_at
FROM {source}
WHERE {certain}
GROUP BY src_vm, dst_vm, network, src_host, dst_host ORDER BY low DESC LIMIT 100""", units=ratio,
              about="The 95 % interval of the loss does not hold 0. Shown is the window whose loss is most certain."),
        panel("timeseries", "The pair that loses most: loss and its 95 % interval", (12, 10), f"""
SELECT time, loss_ratio AS loss, loss_low AS low, loss_high AS high FROM {source}
WHERE {PAIRS}
  AND loss_ratio IS NOT NULL
  AND {busiest('max(loss_low)', f'{PAIRS} AND loss_ratio IS NOT NULL', keys, source, 1)}
ORDER BY time""", "percentunit", overrides=band(), about="Choose VMs above to see a certain pair."),
        panel("timeseries", "Loss of the 10 worst pairs", (12, 9), f"""
SELECT time, {PAIR} AS pair, max(loss_ratio) AS loss FROM {source}
WHERE {certain}
  AND {busiest('max(loss_low)', certain, keys, source)}
GROUP BY time, pair ORDER BY time""", "percentunit"),
        panel("table", "How well loss is known", (12, 9), f"""
SELECT loss_evidence AS evidence, uniqExact({keys}) AS pairs, count() AS windows, sum(bytes) AS bytes_sent FROM {source}
WHERE {PAIRS}
GROUP BY evidence ORDER BY windows DESC""", units={"bytes_sent": "decbytes"},
              about="exact, spread and measured give figures; insufficient and blind do not (docs/vm-metrics.md)."),
        panel("timeseries", "Latency of the 10 slowest pairs", (12, 9), f"""
SELECT time, {PAIR} AS pair, max(latency_us) / 1e6 AS latency FROM {source}
WHERE {slow}
  AND {busiest('max(latency_us)', slow, keys, source)}
GROUP BY time, pair ORDER BY time""", "s"),
        panel("table", "Latency", (12, 9), f"""
SELECT src_vm, dst_vm, network, latency_method AS method, latency_trip AS trip, quantileExact(0.5)(latency_us) / 1e6 AS median,
    max(latency_us) / 1e6 AS worst, argMax(latency_spread_us, latency_us) / 1e6 AS worst_plus_minus, max(jitter_us) / 1e6 AS jitter, count() AS windows
FROM {source}
WHERE {slow}
GROUP BY src_vm, dst_vm, network, method, trip ORDER BY worst DESC LIMIT 100""",
              units={name: "s" for name in ("median", "worst", "worst_plus_minus", "jitter")}),
        panel("table", "Why there is no latency", (12, 8), f"""
SELECT latency_missing AS reason, uniqExact({keys}) AS pairs, count() AS windows FROM {source}
WHERE {PAIRS}
  AND latency_us IS NULL
GROUP BY reason ORDER BY windows DESC""", about="docs/vm-metrics.md says what would help."),
        panel("table", "Connections that fail", (12, 8), f"""
SELECT src_vm, dst_vm, network, sum(failed_connections) AS failed, argMax(tuple(error_ratio), error_low).1 AS errors,
    max(error_low) AS low, argMax(tuple(error_high), error_low).1 AS high
FROM {source}
WHERE {PAIRS}
  AND error_low > 0
GROUP BY src_vm, dst_vm, network ORDER BY low DESC LIMIT 100""", units={"errors": "percentunit", "low": "percentunit", "high": "percentunit"}),
    ])  # fmt: skip


def hosts() -> dict[str, Any]:
    """Hypervisors, their VMs and their interfaces."""
    octets = {"sent": "decbytes", "received": "decbytes", "utilisation": "percentunit", "loss": "percentunit", "errors": "percentunit"}
    sums = "sum(sent_bytes) AS sent, sum(received_bytes) AS received, max(utilisation) AS utilisation, sum(drops) AS drops"
    fast = f"{INTERFACES}\n  AND utilisation IS NOT NULL"
    of = "host, interface"
    return dashboard("vmflow-hosts", "vmflow: hypervisors and interfaces", ("network", "project", "host", "vm"), [
        *(panel("timeseries", f"{way.capitalize()} by the VMs of each hypervisor", (12, 9), f"""
SELECT time, host AS hypervisor, {way}_bits_per_second AS bits FROM host_metrics$level
WHERE {HOSTS}
  AND {way}_bits_per_second IS NOT NULL
ORDER BY time""", "bps") for way in ("sent", "received")),
        panel("table", "Hypervisors", (12, 9), f"SELECT host, {sums} FROM host_metrics$level\nWHERE {HOSTS}\nGROUP BY host ORDER BY sent DESC LIMIT 200", units=octets),
        panel("table", "VMs", (12, 9), f"SELECT vm, host, {sums} FROM vm_metrics$level\nWHERE {VMS}\nGROUP BY vm, host ORDER BY sent DESC LIMIT 200", units=octets),
        panel("timeseries", "Busiest 10 interfaces", (24, 9), f"""
SELECT time, concat(host, ' ', interface) AS port, max(utilisation) AS used FROM interface_metrics$level
WHERE {fast}
  AND {busiest('max(utilisation)', fast, of, 'interface_metrics$level')}
GROUP BY time, port ORDER BY time""", "percentunit", about="From counters. Interfaces whose speed nobody states are not here."),
        panel("table", "Interfaces", (24, 12), f"""
SELECT host, interface, vm, network, sum(in_bytes) AS received, sum(out_bytes) AS sent, max(utilisation) AS utilisation,
    any(speed) AS speed, any(speed_source) AS speed_source, sum(in_discards + out_discards) AS discards, max(loss_ratio) AS loss,
    sum(in_errors + out_errors) AS errors_counted, max(error_ratio) AS errors
FROM interface_metrics$level
WHERE {INTERFACES}
GROUP BY host, interface, vm, network ORDER BY received + sent DESC LIMIT 200""", units=octets | {"speed": "bps"},
              about="As the switch counts: received is what came in from the VM."),
    ])  # fmt: skip


def alerts() -> dict[str, Any]:
    """What is wrong, and what was."""
    open_ones = "FROM alerts FINAL WHERE status != 'resolved'"
    figures = "value, low, high, unit"
    return dashboard("vmflow-alerts", "vmflow: alerts", (), [
        *(panel("stat", f"{severity.capitalize()} now", (8, 4), f"SELECT count() AS alerts {open_ones} AND severity = '{severity}'", bad=True)
          for severity in ("critical", "warning", "info")),
        panel("table", "Now", (24, 10), f"""
SELECT since, toString(severity) AS severity, rule, summary, {figures}, evidence, toString(status) AS status, acknowledged_by
{open_ones} ORDER BY alerts.severity DESC, since DESC LIMIT 200"""),
        panel("timeseries", "Alerts that fired, by rule", (12, 9), f"""
SELECT $__timeInterval(time) AS time, rule AS fired_rule, count() AS fired FROM alert_events
WHERE {IN_TIME}
  AND event = 'firing'
GROUP BY time, fired_rule ORDER BY time"""),
        panel("table", "What happened", (12, 9), f"""
SELECT time, toString(event) AS event, toString(severity) AS severity, rule, arrayStringConcat(mapValues(labels), ' ') AS about, {figures}, who
FROM alert_events
WHERE {IN_TIME}
ORDER BY time DESC LIMIT 200"""),
    ])  # fmt: skip


def exporters() -> dict[str, Any]:
    """Who exports, what of it was lost, and what is wrong."""
    source = "exporter_metrics$level"
    key = f"concat({SENDER}, ' ', toString(protocol))"
    real = f"{IN_TIME}\n  AND exporter != toIPv6('::')"
    share = {"export_loss": "percentunit", "sampling_loss": "percentunit", "clock_skew": "s"}
    return dashboard("vmflow-exporters", "vmflow: exporters", (), [
        panel("stat", "Exporters heard", (8, 4), f"SELECT uniqExact(exporter) AS exporters FROM {source}\nWHERE {real}"),
        panel("stat", "With findings", (8, 4), f"SELECT uniqExactIf(exporter, findings != '') AS exporters FROM {source}\nWHERE {real}", bad=True,
              about="`vmflow exporters --doctor` says what is wrong, and the lines that repair it."),
        panel("stat", "Datagrams that vmflow lost", (8, 4), f"SELECT sum(kernel_drops + queue_drops) AS datagrams FROM {source}\nWHERE {IN_TIME}", bad=True),
        panel("table", "Exporters", (24, 11), f"""
SELECT {SENDER} AS sender, domain, toString(protocol) AS kind, argMax(findings, time) AS found,
    sum(datagrams) AS all_datagrams, sum(records) AS all_records, sum(counter_records) AS polls, max(export_loss_ratio) AS export_loss,
    max(sampling_loss_ratio) AS sampling_loss, sum(restarts) AS restarted, argMax(sampling_rate, time) AS rate,
    argMax(tuple(clock_skew_us), time).1 / 1e6 AS clock_skew, max(time) AS last_heard
FROM {source}
WHERE {real}
GROUP BY sender, domain, kind ORDER BY found = '', all_records DESC LIMIT 500""", units=share,
              about="Losses are those of the worst window; none of them is part of a traffic loss (docs/vm-metrics.md)."),
        panel("timeseries", "Records per second, busiest 10", (12, 9), f"""
SELECT time, {key} AS sender, sum(records_per_second) AS records FROM {source}
WHERE {real}
  AND {busiest('sum(records)', real, 'exporter, protocol', source)}
GROUP BY time, sender ORDER BY time""", "cps"),
        panel("timeseries", "Missing by sequence numbers, worst 10", (12, 9), f"""
SELECT time, {key} AS sender, max(export_loss_ratio) AS lost FROM {source}
WHERE {real}
  AND export_loss_ratio > 0
  AND {busiest('max(export_loss_ratio)', f'{real} AND export_loss_ratio > 0', 'exporter, protocol', source)}
GROUP BY time, sender ORDER BY time""", "percentunit"),
        panel("table", "When packets went unwatched, and why", (24, 9), """
SELECT begins, ends, dateDiff('second', begins, ends) AS seconds, reporter, domain, toString(protocol) AS kind, reason FROM gaps
WHERE begins <= $__toTime AND ends >= $__fromTime
ORDER BY ends DESC LIMIT 200""", units={"seconds": "s"}),
    ])  # fmt: skip


def written() -> Mapping[Path, str]:
    """Each file and its text."""
    made = (pairs(), quality(), hosts(), alerts(), exporters())
    return {FOLDER / f"{one['uid']}.json": json.dumps(one, ensure_ascii=False, indent=1) + "\n" for one in made}


if __name__ == "__main__":
    for file, text in written().items():
        file.write_text(text, "utf-8")
