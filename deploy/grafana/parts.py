"""What the dashboards over SQL are made of: panels, variables, conditions.

Names of VMs are text of others, and Grafana's quoting leaves backslashes as they are: so variables hold names in
hexadecimal.
"""

# ruff: noqa: S608 - SQL put together from our own constants
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
LOSSY = (
    "argMax(tuple(loss_ratio), loss_low).1 AS loss, max(loss_low) AS low, argMax(tuple(loss_high), loss_low).1 AS high"
)
"""Of the window whose loss is most certain."""
SENDER = "replaceOne(toString(exporter), '::ffff:', '')"


def busiest(measure: str, where: str, keys: str, source: str, most: int = 10) -> str:
    """A condition: among those with most of a measure."""
    return (
        f"({keys}) IN (SELECT {keys} FROM {source}\n  WHERE {where}\n"
        f"  GROUP BY {keys} ORDER BY {measure} DESC LIMIT {most})"
    )


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
            "min": 0, "custom": {"fillOpacity": 10, "lineWidth": 1, "showPoints": "auto", "stacking": {"mode": "none"}},
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
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": key, "value": value} for key, value in how.items()],
        }
        for name, how in {
            "low": {"custom.lineWidth": 0, "custom.fillOpacity": 0},
            "high": {"custom.lineWidth": 0, "custom.fillBelowTo": "low", "custom.fillOpacity": 25},
        }.items()
    ]  # fmt: skip
