"""Wheel and archive of the source: what is in them, what an index shows of them; the wheel alone is a vmflow."""

from __future__ import annotations

import csv
import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from collector.commands.deploy import KINDS
from collector.commands.init import PAGE
from tests.service import FIXTURES, ROOT, replay, running

BUILDER = 77
"""Version of setuptools that pyproject.toml asks for."""
PACKAGES = ("agent", "collector", "decoders", "schemas")
DEVELOPERS = ("tests", "bench", "fixtures")
LEFT_OUT = {".git", ".venv", "build", "dist", "data", *DEVELOPERS}
"""Of what is at the top of the tree."""
PAGES = "vmflow-{version}.data/data/share/doc/vmflow/"
CAPTURE = "fprobe_v5"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("build") is None
    or importlib.util.find_spec("setuptools") is None
    or int(metadata.version("setuptools").split(".")[0]) < BUILDER,
    reason=f"build, or setuptools {BUILDER} or newer, is not installed (extra `test`)",
)


class Built(NamedTuple):
    """What `python -m build` made of a copy of the tree: the archive, a wheel of the tree and one of the archive."""

    archive: Path
    wheel: Path
    wheel_of_archive: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=lambda at, _: LEFT_OUT if Path(at) == ROOT else {"__pycache__"})
    for name in DEVELOPERS:  # of which nothing may be taken
        (tree / name).mkdir()
        for file in ("__init__.py", "page.md", "data.json"):
            (tree / name / file).touch()
    # Without an option, `build` makes the wheel of the archive.
    for output, kinds in (("of_archive", ()), ("of_tree", ("--wheel",))):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / output, *kinds, tree]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    (archive,) = folder.glob("of_archive/*.tar.gz")
    (of_archive,) = folder.glob("of_archive/*.whl")
    (of_tree,) = folder.glob("of_tree/*.whl")
    return Built(archive, of_tree, of_archive)


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as content:
        return {name: content.read(name) for name in content.namelist()}


def headers(wheel: Path) -> Message:
    (text,) = (text for name, text in files_of(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


def tracked(*patterns: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}


def test_the_wheel_has_all_code_and_data_and_nothing_of_the_developers(built: Built) -> None:
    names = set(files_of(built.wheel))
    version = headers(built.wheel)["Version"]
    pages = PAGES.format(version=version)

    ours = tracked("vmflow.py", "deploy/demo/*.py", *(f"{package}/**/*.py" for package in PACKAGES))
    assert {name for name in names if name.endswith(".py")} == {n for n in ours if not n.startswith("collector/deploy")}
    shipped = {PAGE, *(name for kind in KINDS.values() for name in kind.files)}
    assert {name.removeprefix("collector/deploy/") for name in names if name.startswith("collector/deploy/")} == shipped
    assert {name.removeprefix(pages) for name in names if name.startswith(pages)} == tracked(
        "docs/*.md", "docs/*.svg", "docs/quickstart/*.md", "*.md", "LICENSE", f"deploy/{PAGE}"
    )
    data = {name for name in names if name.startswith(PACKAGES) and not name.endswith(".py")}
    suffixes = ("*.txt", "*.sql", "*.iespec", "py.typed", "*.html", "*.css", "*.js", "*.svg")
    assert data == tracked(*(f"{package}/**/{suffix}" for package in PACKAGES for suffix in suffixes)) | {
        f"collector/deploy/{name}" for name in shipped
    }
    tops = {name.split("/")[0] for name in names}
    assert tops == {"vmflow.py", "deploy", *PACKAGES, f"vmflow-{version}.data", f"vmflow-{version}.dist-info"}


def test_the_archive_gives_the_same_wheel_and_has_what_images_are_built_of(built: Built) -> None:
    files, again = files_of(built.wheel), files_of(built.wheel_of_archive)

    assert [name for name in files.keys() | again.keys() if files.get(name) != again.get(name)] == []

    with tarfile.open(built.archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert not [name for name in names if name.split("/")[0] in DEVELOPERS]
    assert tracked("docs/*", "deploy/*", "deploy/helm/**/*", "deploy/debian/**/*", ".dockerignore", "*.md") <= names


def test_the_image_installs_the_same_wheel(built: Built, tmp_path: Path) -> None:
    """What deploy/Dockerfile copies into its build is enough for all of it."""
    text = re.sub(r"#.*\n", "", (ROOT / "deploy/Dockerfile").read_text())
    for sources, target in re.findall(
        r"^COPY (?!--)(.+) (\S+)$", text.partition("FROM ${PYTHON_IMAGE}\n")[0], re.MULTILINE
    ):
        for source in sources.split():
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / "src" / target, symlinks=True)
            else:
                (tmp_path / "src" / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "src" / target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]

    subprocess.run([*command, tmp_path / "src"], cwd=tmp_path, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    assert files_of(wheel) == files_of(built.wheel)


def test_an_index_learns_what_it_is_and_renders_the_readme(built: Built, tmp_path: Path) -> None:
    said = headers(built.wheel)

    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    assert {"sflow", "netflow", "ipfix", "openvswitch"} <= set(said["Keywords"].split(","))
    classifiers = said.get_all("Classifier", [])
    trove = pytest.importorskip("trove_classifiers", reason="trove-classifiers knows which ones there are")
    assert not set(classifiers) - trove.classifiers
    assert {"embedded", "libvirt", "openstack", "ovsdb"} <= set(said.get_all("Provides-Extra", []))

    markdown = pytest.importorskip("readme_renderer.markdown", reason="readme-renderer[md] shows what an index shows")
    page = markdown.render(said.get_payload())
    assert page is not None
    assert page.count("<table>") >= 2
    # A link to a file leads nowhere on an index; its text stays.
    assert all(re.match(r"https?://|#", place) for place in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert "docs/operations.md" in page


@pytest.mark.skipif(importlib.util.find_spec("twine") is None, reason="twine is not installed (extra `test`)")
def test_twine_finds_nothing_wrong(built: Built) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "--no-color", "check", "--strict", built.wheel, built.archive],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a new environment that has the wheel, and behind it the libraries that are installed here.

    A .pth file names a folder whose own .pth files are not read: the tree, which is installed by one, is not found.
    """
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "--no-deps", "--no-index"]
    subprocess.run([*command, "--quiet", built.wheel], check=True, cwd=place)
    behind = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    (packages,) = place.glob("lib/python3*/site-packages")
    (packages / "libraries.pth").write_text(behind + "\n")
    return place / "bin/vmflow"


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, which is the folder we are in, and no variable that leads to the tree."""
    for name in [name for name in os.environ if name.startswith(("VMFLOW_", "PYTHON", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # a place of its own would compile for minutes
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_installed_alone_it_says_its_version_and_writes_its_files(installed: Path, alone: Path) -> None:
    done = run(installed, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"vmflow {metadata.version('vmflow')}, ")

    assert run(installed, "init", "--listen", "127.0.0.1", "--output", "vmflow.toml").returncode == 0
    assert run(installed, "check", "--config", "vmflow.toml").returncode == 0
    for name, kind in KINDS.items():
        done = run(installed, "deploy", name, name)
        assert done.returncode == 0, done.stderr
        found = {str(path.relative_to(alone / name)) for path in (alone / name).rglob("*") if path.is_file()}
        assert found == set(kind.files)
    assert f"ExecStart={installed} run " in (alone / "systemd/vmflow.service").read_text()
    assert str(ROOT) not in "".join(path.read_text() for path in alone.glob("*/*") if path.is_file())
    code = "import collector, decoders, schemas; print(collector.__file__, decoders.__file__, schemas.__file__)"
    for place in run(installed.with_name("python"), "-c", code).stdout.split():
        assert place.startswith(str(installed.parents[1])), "the tree itself was found"


def test_installed_alone_it_stores_a_capture_and_answers(installed: Path, alone: Path) -> None:
    pytest.importorskip("chdb", reason="chdb, the embedded store, is not installed (extra `embedded`)")
    with (FIXTURES / f"{CAPTURE}.records.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))  # as tshark reads them
    sql = "SELECT count() AS n, sum(packets) AS packets, sum(bytes) AS bytes FROM flows"

    with running(alone, program=[str(installed)]) as service:
        replay(service.udp[0], FIXTURES / f"{CAPTURE}.pcap")
        assert service.wait_for_rows("SELECT count() AS n FROM flows", len(rows)) == len(rows)
        os.environ["VMFLOW_SQL__PORT"] = service.ready["sql"].rsplit(":", 1)[1]
        try:
            done = run(installed, "query", "--format", "json", sql)
        finally:
            del os.environ["VMFLOW_SQL__PORT"]
        assert service.stop() == 0

    assert done.returncode == 0, done.stderr
    assert {name: int(value) for name, value in json.loads(done.stdout).items()} == {
        "n": len(rows),
        "packets": sum(int(row["packets"]) for row in rows),
        "bytes": sum(int(row["octets"]) for row in rows),
    }


def test_an_environment_has_the_pages_beside_it(installed: Path) -> None:
    folder = Path(sysconfig.get_path("data", vars={"base": str(installed.parents[1])})) / "share/doc/vmflow"

    for page in folder.rglob("*.md"):
        for place in re.findall(r"\]\(([^)#:]+\.(?:md|svg))", page.read_text("utf-8")):
            assert (page.parent / place).is_file(), f"{page.relative_to(folder)} leads to {place}"
