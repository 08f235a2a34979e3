"""The locked requirements of the images: complete, hashed, and those of pyproject.toml."""

from __future__ import annotations

import re
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
