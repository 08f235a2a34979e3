"""`vmflow deploy`: the files of deploy/, also where only the packages are installed, with the paths of this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from collector.__main__ import main
from collector.commands.deploy import DATA_SOURCES, KINDS, PROGRAM, program, text_of
from collector.commands.init import PAGE
from collector.settings import load
from tests.service import ROOT

DEPLOY = ROOT / "deploy"
PACKAGES = ("agent", "collector", "decoders", "schemas")
UNIT = "vmflow.service"
BUILDER = (77,)
"""Version of setuptools that pyproject.toml asks for."""
CHANGED = {UNIT, "vmflow-agent.service", "compose.yaml", "env.example"}
"""Files that are not the same in a folder of their own."""


def shipped() -> set[str]:
    return {PAGE, *(name for kind in KINDS.values() for name in kind.files)}


@pytest.mark.parametrize("kind", KINDS)
def test_each_writes_its_files(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "here"

    assert main(["deploy", kind, str(folder)]) == 0

    said = capsys.readouterr()
    assert said.out.splitlines() == [str(folder / name) for name in KINDS[kind].files]
    assert said.err.startswith("next: ")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(KINDS[kind].files)
    for name in KINDS[kind].files:
        same = (folder / name).read_bytes() == (DEPLOY / name).read_bytes()
        mine = name in CHANGED or (kind, name) in {
            ("prometheus", "prometheus/prometheus.yml"),
            ("grafana", DATA_SOURCES),
        }
        assert same != mine, name
        assert (folder / name).stat().st_mode & 0o777 == 0o644


def test_the_unit_starts_the_vmflow_that_wrote_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(sysconfig.get_path("scripts")) / "vmflow"

    assert main(["deploy", "systemd", str(tmp_path)]) == 0

    started = re.findall(r"^Exec(?:Start|StartPre|Reload)=(\S+) (?:check|run) ", (tmp_path / UNIT).read_text(), re.M)
    assert started == [str(script) if script.exists() else PROGRAM] * 3
    assert f"the unit starts {started[0]}\n" in capsys.readouterr().err
    top = (tmp_path / UNIT).read_text().partition("\n\n")[0]
    assert re.findall(r" (\S*(?:vmflow\.toml|vmflow\.service|90-vmflow\.conf)) /etc", top) == [
        "vmflow.toml", UNIT, "sysctl.d/90-vmflow.conf",
    ]  # fmt: skip
    assert load(tmp_path / "vmflow.toml").listen.addresses == load(DEPLOY / "vmflow.toml").listen.addresses


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian package systemd)"
)
def test_systemd_reads_a_program_with_signs_in_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "a b %n 10%" / "vmflow"
    script.parent.mkdir()
    shutil.copy(str(shutil.which("true")), script)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(script.parent))
    unit = tmp_path / UNIT

    assert program() == str(script)
    unit.write_text(text_of(UNIT, "systemd", None))

    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_program_that_services_cannot_see_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, hidden in (("/home/ann/venv/bin/vmflow", True), ("/opt/x/bin/vmflow", False)):
        monkeypatch.setattr("collector.commands.deploy.program", lambda place=place: place)
        assert main(["deploy", "systemd", "--force", str(tmp_path)]) == 0
        assert ("install vmflow into /opt/vmflow" in capsys.readouterr().err) is hidden


def test_compose_builds_from_the_tree_and_names_files_beside_it(tmp_path: Path) -> None:
    assert main(["deploy", "docker", str(tmp_path)]) == 0

    text = (tmp_path / "compose.yaml").read_text()
    assert yaml.safe_load(text)["services"]["vmflow"]["build"]["context"] == str(ROOT)
    assert re.findall(r"\S*deploy/\S*", text) == ["deploy/Dockerfile"]
    for mounted in re.findall(r"- \./([^:]+):", text):
        assert (tmp_path / mounted).exists(), mounted
    assert (tmp_path / "prometheus/prometheus.yml").read_text() == (DEPLOY / "prometheus/prometheus.yml").read_text()


def test_prometheus_alone_scrapes_this_machine(tmp_path: Path) -> None:
    assert main(["deploy", "prometheus", str(tmp_path)]) == 0

    jobs = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert jobs[0]["static_configs"] == [{"targets": ["127.0.0.1:8080"]}]


def test_grafana_alone_asks_the_embedded_store_of_this_machine(tmp_path: Path) -> None:
    assert main(["deploy", "grafana", str(tmp_path)]) == 0

    metrics, flows = yaml.safe_load((tmp_path / DATA_SOURCES).read_text())["datasources"]
    assert metrics["url"] == "http://127.0.0.1:9090"
    assert flows["jsonData"] == {"host": "127.0.0.1", "port": 8123, "protocol": "http", "defaultDatabase": "vmflow"}
    assert "secureJsonData" not in flows
    assert (metrics["uid"], flows["uid"]) == ("vmflow-prometheus", "vmflow-clickhouse")


def test_what_is_there_is_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.conf"
    mine.write_text("mine")
    (tmp_path / "sysctl.d").mkdir()
    there = tmp_path / "sysctl.d/90-vmflow.conf"
    there.symlink_to(mine)

    assert main(["deploy", "systemd", str(tmp_path)]) == 2

    assert capsys.readouterr().err == f"vmflow deploy: already there: {there}; --force overwrites\n"
    assert sorted(os.listdir(tmp_path)) == ["mine.conf", "sysctl.d"]

    assert main(["deploy", "systemd", str(tmp_path), "--force"]) == 0
    assert there.read_text() == (DEPLOY / "sysctl.d/90-vmflow.conf").read_text()
    assert mine.read_text() == "mine"
    assert os.listdir(there.parent) == [there.name], "nothing is left beside it"


def test_a_folder_that_cannot_be_made_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main(["deploy", "sysctl", str(tmp_path / "file")]) == 1

    assert capsys.readouterr().err == f"vmflow deploy: {tmp_path}/file/sysctl.d: Not a directory\n"


def test_the_wheel_has_what_is_written() -> None:
    """As pyproject.toml says; the next test builds one."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    top = ROOT / "collector"
    found = {
        str(path.relative_to(top / "deploy")) for pattern in packages["package-data"]["collector"]
        for path in top.glob(pattern)
    }  # fmt: skip

    assert found == shipped()


@pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None
    or tuple(map(int, metadata.version("setuptools").split(".")[:1])) < BUILDER,
    reason="setuptools 77 or newer is not installed",
)
def test_a_wheel_that_is_built_has_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=lambda *_: {".git", ".venv", "fixtures", "tests", "build"})
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "wheel"]

    subprocess.run([*command, str(tree)], cwd=tmp_path, check=True, capture_output=True)

    (wheel,) = (tmp_path / "wheel").iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.startswith("collector/deploy/")} == {
        f"collector/deploy/{name}" for name in shipped()
    }
    # The cloud of `vmflow demo`, a package by itself.
    assert {name for name in names if name.startswith("deploy/")} == {
        str(path.relative_to(ROOT)) for path in ROOT.glob("deploy/demo/*.py")
    }


def test_without_the_tree_it_says_that_the_image_needs_it(tmp_path: Path) -> None:
    """Run from the packages alone, as pip installs them: files in the place of the link."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=lambda *_: {"__pycache__"})
    command = [sys.executable, "-m", "collector", "deploy", "docker", "out"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, len(done.stdout.splitlines())) == (0, len(KINDS["docker"].files)), done.stderr
    assert "which VMFLOW_SOURCE has to name" in done.stderr
    build = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"]["vmflow"]["build"]
    assert build["context"].startswith("${VMFLOW_SOURCE:?")
    assert build["dockerfile"] == "deploy/Dockerfile"
