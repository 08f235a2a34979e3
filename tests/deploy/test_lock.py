"""The locked requirements of the images: complete, hashed, and those of pyproject.toml."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {"requirements.lock": ("embedded", "ovsdb", "openstack"), "requirements-server.lock": ()}


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes by package.  A package may have a line for each kind of platform."""
    found: dict[str, tuple[str, int]] = {}
    text = (ROOT / "deploy" / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        requirement, *hashes = line.split(" --hash=")
        parsed = Requirement(requirement.strip())
        (pinned,) = parsed.specifier
        assert pinned.operator == "==", line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in hashes), line
        found[canonicalize_name(parsed.name)] = pinned.version, len(hashes)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_locked_in_a_version_that_fits(name: str) -> None:
    """Fails after a change of pyproject.toml without `make lock`."""
    packages = locked(name)
    wanted = list(PROJECT["dependencies"])
    for extra in LOCKS[name]:
        wanted += PROJECT["optional-dependencies"][extra]

    for requirement in map(Requirement, wanted):
        version, hashes = packages[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked; run `make lock`"
        assert hashes
    assert "setuptools" in packages, "builds vmflow in the image"


@pytest.mark.parametrize("name", LOCKS)
def test_everything_has_a_hash_and_no_index_is_named(name: str) -> None:
    assert all(hashes for _, hashes in locked(name).values())
    assert "://" not in (ROOT / "deploy" / name).read_text()
    assert "chdb" in locked("requirements.lock")
    assert "chdb" not in locked("requirements-server.lock")


def test_the_image_installs_nothing_else() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert len(installs) == 2
    assert "--require-hashes -r ${LOCK}" in installs[0]
    assert "--no-index --no-deps --no-build-isolation ." in installs[1]


@pytest.mark.skipif(importlib.util.find_spec("uv") is None, reason="uv is not installed (extra `release`)")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", LOCKS)
def test_the_images_of_both_machines_find_wheels_of_everything(name: str, machine: str, tmp_path: Path) -> None:
    """Of everything but `ovs`, which is an archive only, and builds without a compiler."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)-slim-bookworm$", text, re.MULTILINE)
    command = [
        sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-progress", "--target", str(tmp_path),
        "--python-version", python, "--python-platform", f"{machine}-manylinux_2_28",
        "--only-binary", ":all:", "--no-binary", "ovs", "--require-hashes", "-r", str(ROOT / "deploy" / name),
    ]  # fmt: skip

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    if done.returncode and re.search(r"error sending request|Failed to fetch|dns error", done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^ \+ (\S+)==(\S+)$", done.stderr, re.MULTILINE))
    for package in ("numba", "llvmlite", "pyarrow", "uvloop", *(["chdb"] if name == "requirements.lock" else [])):
        assert found[package] == locked(name)[package][0]
