"""`vmflow deploy`: write the files that run vmflow as a service, and Prometheus and Grafana beside it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from collector.commands.common import packaged, write_file
from collector.store.settings import SqlSettings
from collector.terminal import UsageError, say, tell
from collector.web.settings import WebSettings

PROGRAM = "/opt/vmflow/bin/vmflow"
"""Where the files of `deploy/` take vmflow to be."""
UNITS = ("vmflow.service", "vmflow-agent.service")
HIDDEN = ("/home/", "/root/", "/run/user/")
"""What a unit with ProtectHome=yes does not see."""
CONTEXT = "context: .."
DATA_SOURCES = "grafana/provisioning/datasources/vmflow.yaml"
SOURCE = "${VMFLOW_SOURCE:?the folder of vmflow's source tree, of which the image is built}"

_SYSCTL = ("sysctl.d/90-vmflow.conf",)
_GRAFANA = (
    *(
        f"grafana/dashboards/vmflow-{name}.json"
        for name in ("alerts", "exporters", "hosts", "loss", "pairs", "service")
    ),
    "grafana/provisioning/dashboards/vmflow.yaml",
    "grafana/provisioning/datasources/vmflow.yaml",
    "clickhouse/grafana.xml",
)
_PROMETHEUS = ("prometheus/prometheus.yml", "prometheus/vmflow.rules.yml")
_TEMPLATES = (
    "NOTES.txt", "_helpers.tpl", "configmap.yaml", "networkpolicy.yaml", "secret.yaml", "service.yaml",
    "servicemonitor.yaml", "statefulset.yaml",
)  # fmt: skip
_HELM = (
    *(f"helm/vmflow/{name}" for name in ("Chart.yaml", "values.yaml", "values.schema.json")),
    *(f"helm/vmflow/templates/{name}" for name in _TEMPLATES),
)


class Kind(NamedTuple):
    """What is written, and what a person does with it."""

    files: tuple[str, ...]
    advice: tuple[str, ...]


KINDS = {
    "systemd": Kind(
        ("vmflow.service", "vmflow.toml", *_SYSCTL),
        ("look through vmflow.toml, then type, as root and in that folder, the lines at the top of vmflow.service",),
    ),
    "agent": Kind(
        ("vmflow-agent.service",),
        ("type, as root and in that folder, the lines at the top of vmflow-agent.service",),
    ),
    "grafana": Kind(
        _GRAFANA,
        (
            "grafana/provisioning goes to /etc/grafana/provisioning, grafana/dashboards to "
            "/var/lib/grafana/dashboards/vmflow",
            "the data sources are Prometheus and the SQL endpoint of the embedded store on this machine, without a "
            "login; for a server: host and user in datasources/vmflow.yaml, and clickhouse/grafana.xml goes to "
            "/etc/clickhouse-server/users.d there (docs/grafana.md)",
        ),
    ),
    "prometheus": Kind(
        _PROMETHEUS,
        (
            "it scrapes 127.0.0.1:8080, the default of [web] host and port: name another where yours differ; a web "
            "server with logins wants a token (docs/security.md)",
        ),
    ),
    "sysctl": Kind(
        _SYSCTL, ("as root: install -m 644 sysctl.d/90-vmflow.conf /etc/sysctl.d/ && sysctl --system",)
    ),
    "docker": Kind(
        ("Dockerfile", "compose.yaml", "container.toml", "env.example", "clickhouse/system-logs.xml", *_GRAFANA,
         *_PROMETHEUS, *_SYSCTL),
        (
            "cp env.example .env, change the passwords in it, then: docker compose -p vmflow up -d --build",
            "the image is built of vmflow's source tree, {source}",
        ),
    ),
    "helm": Kind(
        _HELM,
        (
            "helm install vmflow helm/vmflow --set clickhouse.url=https://clickhouse.example:8443 "
            "--set clickhouse.existingSecret=NAME --set image.repository=WHERE-THE-IMAGE-IS",
            "helm/vmflow/values.yaml says what else can be set; the image is that of `vmflow deploy docker`",
        ),
    ),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n"
        "  vmflow deploy systemd /root/vmflow     unit, settings and sysctl, for this installation\n"
        "  vmflow deploy prometheus . --force     over what is there"
    )
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help=f"what to write: {', '.join(KINDS)}")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to; it is made if it is not there")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")


def run(args: argparse.Namespace) -> int:
    """Write the files; exit code 2 if one is there already, 1 if they cannot be written."""
    kind, source = KINDS[args.kind], source_tree()
    texts = {args.directory / name: text_of(name, args.kind, source) for name in kind.files}
    there = [str(path) for path in texts if os.path.lexists(path)]
    if there and not args.force:
        raise UsageError(f"already there: {', '.join(there)}; --force overwrites")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text, 0o644, force=args.force)
        say(path)
    where = f"{source}" if source else "which VMFLOW_SOURCE has to name: it is not part of this installation"
    tell(*(f"next: {line.format(source=where)}" for line in kind.advice))
    if set(UNITS) & set(kind.files):
        tell(f"the unit starts {program()}")
        if program().startswith(HIDDEN):
            tell("which services cannot see (ProtectHome=yes): install vmflow into /opt/vmflow, and write it again")
    return 0


def text_of(name: str, kind: str, source: Path | None) -> str:
    """A file as it is right in a folder of its own, and where vmflow is installed here."""
    text = packaged(name)
    if name in UNITS:
        # It is installed already.
        text = re.sub(r"(?m)^#   python3 -m venv .*\n", "", text)
        text = re.sub(rf"(?m)^(Exec\w+=){re.escape(PROGRAM)}(?= )", lambda found: found[1] + quoted(program()), text)
    if name == "compose.yaml":
        # A path within the tree stays what it is.
        text = text.replace(CONTEXT, f"context: {yaml_text(str(source)) if source else yaml_text(SOURCE, raw=True)}")
        text = re.sub(r"(?<!dockerfile: )\bdeploy/", "", text)
    elif name in (*UNITS, "env.example"):
        text = text.replace("deploy/.env, which git ignores,", ".env").replace("deploy/", "")
    if name == DATA_SOURCES and kind == "grafana":
        store = SqlSettings()
        text = text.replace("prometheus:9090", "127.0.0.1:9090")
        text = text.replace("host: clickhouse\n", f"host: {store.host}\n").replace(
            "port: 8123\n", f"port: {store.port}\n"
        )
        text = re.sub(r"(?m)^ *(username: .*|secureJsonData:|password: .*)\n", "", text)
    if name == "prometheus/prometheus.yml" and kind == "prometheus":
        web = WebSettings()
        text = text.replace("vmflow:8080", f"{web.host}:{web.port}").replace(", as deploy/compose.yaml starts it", "")
    return text


def source_tree() -> Path | None:
    """The source tree that this vmflow runs from, if it does."""
    top = Path(__file__).resolve().parents[2]
    return top if (top / "deploy/Dockerfile").is_file() else None


def program() -> str:
    """The command `vmflow` of this installation, or how Python starts it where it has none."""
    for script in (Path(sysconfig.get_path("scripts")) / "vmflow", Path(sys.argv[0]).absolute()):
        if script.name == "vmflow" and os.access(script, os.X_OK):
            return str(script)
    return PROGRAM


def quoted(path: str) -> str:
    """A program as systemd reads it (systemd.service(5), "Command lines"); quotes in its path it refuses."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def yaml_text(text: str, *, raw: bool = False) -> str:
    """A text as compose reads it; `raw`, with its variables."""
    shown = text if raw else text.replace("$", "$$")
    return "'" + shown.replace("'", "''") + "'"
