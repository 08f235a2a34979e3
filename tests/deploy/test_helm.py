"""The chart in deploy/helm: rendered by Helm itself; its objects fit the schemas of Kubernetes, the service reads its
settings."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.settings import Settings, load
from tests.service import ROOT

CHART = ROOT / "deploy/helm/vmflow"
URL = "https://clickhouse.example:8443"
LEAST: dict[str, Any] = {"clickhouse": {"url": URL, "existingSecret": "clickhouse"}}
INFO = 1
"""Severity of what is only recommended, such as an icon (`helm_python.lint`)."""
TOKEN = {"name": "prometheus", "token_hash": "sha256:" + "0" * 64}
MANY: dict[str, Any] = {
    "nameOverride": "flows",
    "clickhouse": {"url": URL, "user": "ann", "database": "flows", "password": 'a"b\\c\n'},
    "image": {"repository": "images.example/vmflow", "tag": "1"},
    "imagePullSecrets": [{"name": "pull"}],
    "config": {
        "access": {"tokens": [TOKEN]},
        "decode": {"allow": ["192.0.2.0/24"], "exporters": [{"network": "192.0.2.250", "sampling_rate": 1000}]},
        "inventory": {"static": [{"file": "/etc/vmflow/vms.csv"}]},
        "store": {"spool_bytes": 2**33, "ttl_days": {"flows": 14}},
        "listen": {"sockets": 4},
    },
    "files": {"vms.csv": "mac,ips,vm\n52:54:00:00:00:01,10.0.0.1,a: {{ b }}\n"},
    "exports": {
        "hostPort": True,
        "service": {
            "type": "LoadBalancer", "loadBalancerIP": "192.0.2.1", "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "nodePorts": {"sflow": 30343}, "annotations": {"a.example/b": "c"},
        },
    },
    "web": {"open": True, "port": 9080},
    "serviceMonitor": {"enabled": True, "tokenSecret": {"name": "token", "key": "token"}, "labels": {"release": "p"}},
    "networkPolicy": {"exporters": ["192.0.2.0/24", "2001:db8::/32"], "webFrom": [{"podSelector": {}}]},
    "persistence": {"storageClass": "fast", "size": "20Gi"},
    "env": [{"name": "VMFLOW_LOG__LEVEL", "value": "debug"}],
    "envFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
    "extraVolumeMounts": [{"name": "keys", "mountPath": "/keys", "readOnly": True}],
    "podAnnotations": {"a.example/b": "c"}, "podLabels": {"team": "net"}, "nodeSelector": {"role": "net"},
    "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}}, "priorityClassName": "high",
}  # fmt: skip
SAMPLES = {"least": LEAST, "many": MANY, "claimed": {**LEAST, "persistence": {"existingClaim": "mine"}}}

Objects = dict[str, dict[str, Any]]
needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None and importlib.util.find_spec("helm_python") is None,
    reason="neither helm nor helm-python-sdk (extra `chart`) is installed",
)


class ChartError(Exception):
    """What Helm says is wrong."""


def rendered(values: dict[str, Any], name: str = "net") -> Objects:
    """Objects by kind and name, as Helm would send them.  Raises ChartError."""
    if shutil.which("helm"):
        command = ["helm", "template", name, str(CHART), "--namespace", "mon", "--values", "-"]
        command += ["--api-versions", "monitoring.coreos.com/v1"]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChartError(done.stderr)
        texts = [done.stdout]
    else:
        import helm_python

        try:
            with helm_python.Chart.load(CHART) as chart:
                chart.validate_schema(values)
                pages = chart.render(values, name=name, namespace="mon")
        except helm_python.HelmError as error:
            raise ChartError(str(error)) from None
        texts = [text for file, text in pages.items() if not file.endswith("NOTES.txt")]
    found = [item for text in texts for item in yaml.safe_load_all(text) if item]
    objects = {f"{item['kind']}/{item['metadata']['name']}": item for item in found}
    assert len(objects) == len(found)
    return objects


def settings_of(objects: Objects, folder: Path) -> Settings:
    """The settings that the pod would have, files beside them."""
    (data,) = (item["data"] for item in objects.values() if item["kind"] == "ConfigMap")
    for name, text in data.items():
        (folder / name).write_text(text)
    return load(folder / "vmflow.toml")


def pod_of(objects: Objects) -> dict[str, Any]:
    (item,) = (item for item in objects.values() if item["kind"] == "StatefulSet")
    pod: dict[str, Any] = item["spec"]["template"]["spec"]
    return pod


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VMFLOW_")]:
        monkeypatch.delenv(name)


def test_its_version_is_ours() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_each_value_is_in_the_schema_and_each_of_the_schema_is_a_value() -> None:
    """Else a value could be given that nothing reads, or one that the schema refuses."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    definitions = schema["definitions"]

    def compare(values: dict[str, Any], known: dict[str, Any], where: str) -> None:
        if "$ref" in known:
            known = definitions[known["$ref"].rpartition("/")[2]]
        if "properties" not in known or where == ".config":
            return
        assert known["additionalProperties"] is False, where
        optional = {"global"} if not where else set()
        assert set(known["properties"]) - optional == set(values) or not values, where
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, known["properties"][name], f"{where}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@needs_helm
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate (extra `chart`) has the schemas")

    for item in rendered(SAMPLES[name]).values():
        if item["kind"] != "ServiceMonitor":  # of the Prometheus operator
            validate.validate(item, version, strict=True)


@needs_helm
def test_helm_lints_it() -> None:
    if shutil.which("helm"):
        done = subprocess.run(
            ["helm", "lint", "--strict", CHART, "--set", f"clickhouse.url={URL}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        import helm_python

        found = helm_python.lint(CHART, values=LEAST)
        assert [one for one in found["messages"] if one["severity"] > INFO] == []


@needs_helm
def test_the_settings_are_read_by_the_service(tmp_path: Path) -> None:
    least, many = (settings_of(rendered(values), tmp_path) for values in (LEAST, MANY))

    assert (least.store.url, least.store.user, least.store.database) == (URL, "vmflow", "vmflow")
    assert sorted(least.listen.addresses) == ["0.0.0.0:2055", "0.0.0.0:4739", "0.0.0.0:6343"]
    assert (least.web.host, least.web.port) == ("127.0.0.1", 8080)
    assert least.rollup.service == "net-vmflow"
    assert many.store.spool_bytes == 2**33
    assert many.store.ttl_days == {"flows": 14}
    assert many.listen.sockets == 4
    assert many.decode.exporters[0].sampling_rate == 1000
    assert [str(one) for one in many.decode.allow] == ["192.0.2.0/24"]
    assert (many.web.host, many.web.port) == ("0.0.0.0", 9080)
    assert (tmp_path / "vms.csv").read_text() == MANY["files"]["vms.csv"]
    # All that is written lies on the claim.
    assert least.decode.template_file is not None
    assert {least.store.spool.parent, least.decode.template_file.parent} == {Path("/var/lib/vmflow")}
    mounts = {mount["mountPath"]: mount["name"] for mount in pod_of(rendered(LEAST))["containers"][0]["volumeMounts"]}
    assert mounts["/var/lib/vmflow"] == "spool"


@needs_helm
def test_passwords_are_in_secrets_only() -> None:
    objects = rendered(MANY)

    secret = objects["Secret/net-flows-clickhouse"]
    assert secret["stringData"] == {"password": MANY["clickhouse"]["password"]}
    others = json.dumps([item for item in objects.values() if item["kind"] != "Secret"])
    assert json.dumps(MANY["clickhouse"]["password"])[1:-1] not in others
    (variable,) = (one for one in pod_of(objects)["containers"][0]["env"] if one["name"] == "VMFLOW_STORE__PASSWORD")
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "net-flows-clickhouse", "key": "password"}
    assert not [name for name in rendered(LEAST) if name.startswith("Secret/")]
    (variable,) = pod_of(rendered(LEAST))["containers"][0]["env"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "clickhouse", "key": "password"}


@needs_helm
@pytest.mark.parametrize("values", [LEAST, MANY], ids=["least", "many"])
def test_one_pod_without_privileges_takes_exports_while_the_store_is_away(values: dict[str, Any]) -> None:
    objects = rendered(values)
    (item,) = (item for item in objects.values() if item["kind"] == "StatefulSet")
    pod = pod_of(objects)

    assert item["spec"]["replicas"] == 1
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
    (exports,) = (one for name, one in objects.items() if name.endswith("-exports"))
    assert exports["spec"]["publishNotReadyAddresses"] is True
    assert exports["spec"]["externalTrafficPolicy"] == "Local"
    ports = {(port["name"], port["port"], port["protocol"]) for port in exports["spec"]["ports"]}
    assert ports == {("sflow", 6343, "UDP"), ("netflow", 2055, "UDP"), ("ipfix", 4739, "UDP")}
    labels = item["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in objects.values() if one["kind"] == "Service"]
    selectors += [one["spec"]["podSelector"] for one in objects.values() if one["kind"] == "NetworkPolicy"]
    selectors += [item["spec"]["selector"]]
    assert len(selectors) == 4
    assert all(selector.get("matchLabels", selector).items() <= labels.items() for selector in selectors)


@needs_helm
def test_the_network_policy_lets_in_exporters_and_whom_the_values_name() -> None:
    (closed,) = (one for one in rendered(LEAST).values() if one["kind"] == "NetworkPolicy")
    (opened,) = (one for one in rendered(MANY).values() if one["kind"] == "NetworkPolicy")

    assert [rule.get("from") for rule in closed["spec"]["ingress"]] == [None]
    assert {port["protocol"] for port in closed["spec"]["ingress"][0]["ports"]} == {"UDP"}
    exporters, web = opened["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in exporters["from"]] == ["192.0.2.0/24", "2001:db8::/32"]
    assert (web["ports"], web["from"]) == ([{"port": "web", "protocol": "TCP"}], [{"podSelector": {}}])


@needs_helm
def test_prometheus_finds_the_open_web_server() -> None:
    objects = rendered(MANY)
    monitor = objects["ServiceMonitor/net-flows"]
    service = objects["Service/net-flows"]

    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (service["spec"]["ports"][0]["name"], "/metrics")
    assert endpoint["authorization"] == {"credentials": {"name": "token", "key": "token"}}
    exports = objects["Service/net-flows-exports"]
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= exports["metadata"]["labels"].items()


@needs_helm
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "url"),
        ({"clickhouse": {"url": "https://ann:secret@clickhouse.example"}}, "url"),
        ({"clickhouse": {"url": "chdb:///var/lib/vmflow/store"}}, "url"),
        ({"clickhouse": {"url": URL, "existingSecret": "a", "password": "b"}}, "clickhouse"),
        ({**LEAST, "replicaCount": 2}, "replicaCount"),
        ({**LEAST, "config": {"store": {"password": "secret"}}}, "store"),
        ({**LEAST, "config": {"listen": {"addresses": ["0.0.0.0:1"]}}}, "listen"),
        ({**LEAST, "web": {"open": True}}, "config.access needs tokens or users"),
        ({**LEAST, "serviceMonitor": {"enabled": True}}, "set web.open"),
        ({**LEAST, "exports": {"service": {"enabled": False}}}, "enable exports.service or exports.hostPort"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ChartError, match=said):
        rendered(values)


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    """Port of a web server that answers /health with `_Answers.status`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@needs_helm
def test_probes_tell_a_store_that_is_away_from_a_service_that_is_gone(
    web: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verdict(probe: str, port: int) -> bool:
        container = pod_of(rendered({**LEAST, "web": {"port": port}}))["containers"][0]
        program, *arguments = container[probe]["exec"]["command"]
        assert program == "/opt/vmflow/bin/python", "as in deploy/Dockerfile"
        done = subprocess.run([sys.executable, *arguments], capture_output=True, timeout=300, check=False)
        return done.returncode == 0

    assert (verdict("readinessProbe", web), verdict("livenessProbe", web)) == (True, True)
    monkeypatch.setattr(_Answers, "status", 503)
    assert (verdict("readinessProbe", web), verdict("livenessProbe", web)) == (False, True)
    assert (verdict("readinessProbe", 1), verdict("livenessProbe", 1)) == (False, False)
    opened = pod_of(rendered(MANY))["containers"][0]["readinessProbe"]
    assert opened["httpGet"] == {"path": "/health", "port": "web", "scheme": "HTTP"}
