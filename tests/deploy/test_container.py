"""deploy/Dockerfile, deploy/compose.yaml and what they mount."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"


def compose_program() -> list[str]:
    """The compose program of this machine, or an empty list."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    return []


PROGRAM = compose_program()


def compose() -> dict[str, Any]:
    content = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(content, dict)
    return content


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    words = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in words]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, the FROM line first."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


@pytest.mark.skipif(not PROGRAM, reason="neither docker-compose nor the compose plugin of docker is installed")
def test_compose_finds_nothing_wrong() -> None:
    done = subprocess.run(
        [*PROGRAM, "--env-file", DEPLOY / "env.example", "-f", COMPOSE, "config"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"vmflow", "clickhouse", "prometheus", "grafana"}
    assert services["vmflow"]["environment"]["VMFLOW_STORE__PASSWORD"] == "change-me"  # noqa: S105


def test_only_the_exporters_ports_are_open_to_the_network() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]

    assert [port for port in published if not port.startswith("127.0.0.1:")] == [
        "6343:6343/udp",
        "2055:2055/udp",
        "4739:4739/udp",
    ]


@pytest.mark.parametrize("name", ["vmflow", "prometheus", "grafana"])
def test_services_have_no_privilege_in_compose(name: str) -> None:
    """ClickHouse's image begins as root and gives its directories to another user."""
    service = compose()["services"][name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) is (name != "grafana")


def test_what_compose_mounts_is_there_and_parses() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in compose()["volumes"], source
    for path in [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")]:
        if path.is_relative_to(DEPLOY / "helm/vmflow/templates"):
            continue  # Helm's: tests/deploy/test_helm.py
        assert yaml.safe_load(path.read_text()), path
    for path in DEPLOY.rglob("*.xml"):
        assert ET.parse(path).getroot().tag == "clickhouse", path  # noqa: S314 (our own files)
    for path in DEPLOY.rglob("*.json"):
        assert json.loads(path.read_text()), path
    for path in DEPLOY.rglob("*.toml"):
        assert tomllib.loads(path.read_text()), path


def test_each_password_has_an_example_and_no_default() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    named = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))

    assert asked == named
    assert set(re.findall(r"\$\{\w+(:\?)", COMPOSE.read_text())) == {":?"}


def test_no_image_is_taken_as_latest() -> None:
    images = {name: service["image"] for name, service in compose()["services"].items() if "build" not in service}

    assert all(re.fullmatch(r"[a-z/-]+:v?\d[\w.]+", image) for image in images.values()), images


def test_the_image_runs_unprivileged_with_warm_caches() -> None:
    build, final = stages()

    assert any(name == "RUN" and rest.endswith("vmflow warmup") for name, rest in build)
    assert ("COPY", "--from=build --chown=10001:10001 /var/cache/vmflow /var/cache/vmflow") in final
    assert ("USER", "10001:10001") in final
    assert ("EXPOSE", "6343/udp 2055/udp 4739/udp 8080/tcp 8123/tcp") in final
    assert ("VOLUME", '["/var/lib/vmflow"]') in final


def test_both_stages_compile_for_the_same_cpu_at_the_same_path() -> None:
    """Kernels of another CPU, cache directory or source path would be compiled again at the first start."""
    environments = [
        dict(pair.split("=", 1) for name, rest in stage if name == "ENV" for pair in shlex.split(rest))
        for stage in stages()
    ]

    for key in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "VMFLOW_CACHE_DIR"):
        assert environments[0][key] == environments[1][key]
    assert ("COPY", "--from=build /opt/vmflow /opt/vmflow") in stages()[1]


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_fails_where_health_does(status: int | None, exit_code: int) -> None:
    """None: nobody answers."""
    (check,) = (rest.partition("CMD ")[2] for name, rest in stages()[1] if name == "HEALTHCHECK")
    program, *arguments = json.loads(check)
    assert ("COPY", f"--from=build {Path(program).parents[1]} {Path(program).parents[1]}") in stages()[1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            with server.accept()[0] as connection:
                assert connection.recv(4096).startswith(b"GET /health HTTP/1.1\r\n")
                connection.sendall(f"HTTP/1.1 {status} said\r\nContent-Length: 0\r\n\r\n".encode())

        if status is None:
            server.close()
        thread = threading.Thread(target=answer if status else int)
        thread.start()
        command = [sys.executable, *(argument.replace("127.0.0.1:8080", place) for argument in arguments)]
        assert subprocess.run(command, capture_output=True, check=False, timeout=300).returncode == exit_code
        thread.join()


def test_no_build_tool_is_in_the_final_image() -> None:
    final = " ".join(rest for name, rest in stages()[1] if name == "RUN")

    assert not re.search(r"\b(apt|apt-get|pip|gcc|make|curl|wget)\b", final)


def test_what_the_dockerfile_copies_is_let_through_by_dockerignore() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }

    assert "*" in ignore
    assert copied == let_through
