"""Prometheus rules and Grafana dashboards: they parse, they fire, and they name what the service really has.

What the panels over SQL show is compared with the truth in tests/docs/test_sql.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.render import written
from tests.deploy.grafana import DEPLOY, dashboards, targets
from tests.service import Service, running

PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "vmflow.rules.yml"
CASES = Path(__file__).with_name("rules_cases.yml")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
)


def promtool(*arguments: str | Path) -> None:
    """Run promtool; its whole answer is the message of the failure."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Every PromQL expression of rules, panels and variables, by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    found |= {f"{title} {target['refId']}": target["expr"] for _, title, target in targets("prometheus")}
    for variable in dashboards()["vmflow-service"]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        inner = re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])
        assert inner is not None, variable["definition"]
        found[f"variable {variable['name']}"] = inner[1]
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("monitored")) as started:
        yield started


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", RULES)


@needs_promtool
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """Series in, alerts out, as Prometheus itself evaluates them."""
    cases = yaml.safe_load(CASES.read_text())
    cases["rule_files"] = [str(RULES)]
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases))

    promtool("test", "rules", tmp_path / "cases.yml")


def test_each_alert_has_a_case_that_makes_it_fire() -> None:
    tested = {
        case["alertname"]
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }

    assert {rule["alert"] for rule in rules()} == tested


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


@needs_promtool
def test_prometheus_can_read_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions().values())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))

    promtool("check", "rules", file)


def test_dashboards_ask_the_provisioned_data_sources() -> None:
    """By variables, which begin with them: who has others chooses in the dashboard."""
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/vmflow.yaml").read_text())
    known = {(source["type"], source["uid"]) for source in provisioned["datasources"]}

    for uid, one in dashboards().items():
        chosen = {
            choice["name"]: (choice["query"], choice["current"]["value"])
            for choice in one["templating"]["list"]
            if choice["type"] == "datasource"
        }
        asked = [
            target["datasource"]
            for part in [*one["panels"], *one["templating"]["list"]]
            for target in [part, *part.get("targets", [])]
            if "datasource" in target
        ]
        assert asked, uid
        for source in asked:
            kind, begins_with = chosen[re.fullmatch(r"\$\{(\w+)\}", source["uid"])[1]]  # type: ignore[index]
            assert kind == source["type"]
            assert (kind, begins_with) in known


def test_dashboards_are_found_and_distinct() -> None:
    files = {file.stem for file in (DEPLOY / "grafana/dashboards").glob("*.json")}
    titles = {one["title"] for one in dashboards().values()}

    assert set(dashboards()) == files  # none takes the uid of another
    assert len(titles) == len(files)
    for one in dashboards().values():
        assert len({panel["id"] for panel in one["panels"]}) == len(one["panels"])
        assert one["links"][0]["tags"] == one["tags"] == ["vmflow"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/vmflow.yaml").read_text())["providers"][0]
    assert f":{provider['options']['path']}:ro" in (DEPLOY / "compose.yaml").read_text()


def test_the_dashboards_are_those_of_the_code() -> None:
    """`make docs` writes them."""
    for file, text in written().items():
        assert file.read_text("utf-8") == text, f"{file.name}: run `python -m deploy.grafana.render`"


def test_panels_do_not_overlap() -> None:
    for one in dashboards().values():
        taken: dict[tuple[int, int], str] = {}
        for panel in one["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24, panel["title"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert (x, y) not in taken, (panel["title"], taken[x, y])
                    taken[x, y] = panel["title"]


def test_every_metric_that_is_asked_for_exists(service: Service) -> None:
    """Families without a sample yet count too: their TYPE line is there."""
    families = re.findall(r"^# TYPE (\S+) (\S+)$", service.get("/metrics"), re.MULTILINE)
    series = {name + end for name, kind in families for end in ENDS[kind]}

    asked = {name: where for where, text in expressions().items() for name in re.findall(r"\bvmflow_\w+", text)}
    assert asked
    assert {name: where for name, where in asked.items() if name not in series} == {}


ENDS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
"""What the series of a family of each type are called."""
