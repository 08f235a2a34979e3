"""What the code imports is declared: in `dependencies`, in the extra of what needs it, or it is Python's own."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEWER = {"compression"}
"""Python's own in a later release than the oldest that we support."""
OURS = {"schemas", "decoders", "agent", "collector", "vmflow", "tests", "bench", "deploy"}
DISTRIBUTIONS = {"ovs": "ovs", "libvirt": "libvirt-python", "openstack": "openstacksdk", "chdb": "chdb",
                 "helm_python": "helm-python-sdk"}  # fmt: skip
"""Of modules that need not be installed here."""
NOT_OURS = ("system/neutron",)
"""Folders of what runs on the system's own Python."""
_known = cache(packages_distributions)
"""Distributions of each module that is installed; finding them takes seconds."""
INSTALLED = ("vmflow.py", "schemas", "decoders", "agent", "collector")
EXTRAS = ("embedded", "libvirt", "openstack", "ovsdb")
"""What a user may choose; the code says what is missing where it is not there."""
OTHERS = {"bench": ("bench", *EXTRAS), "tests": ("test", "chart", "fuzz", "bench", *EXTRAS), "deploy": EXTRAS}
"""Folder -> extras that it may use, beside the dependencies."""


def project() -> dict[str, set[str]]:
    """Names of distributions by extra; the dependencies themselves under an empty name."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"": content["dependencies"], **content["optional-dependencies"]}
    return {name: {_normal(re.split(r"[^\w.-]", line)[0]) for line in lines} for name, lines in groups.items()}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> dict[str, Path]:
    """First names of the modules of others that the files import, and one of these files each."""
    found: dict[str, Path] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        if any(folder in file.as_posix() for folder in NOT_OURS):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], file)
    return {
        name: file for name, file in found.items() if name not in sys.stdlib_module_names and name not in OURS | NEWER
    }


def undeclared(path: Path, extras: tuple[str, ...]) -> list[str]:
    """What is imported and not declared, as sentences."""
    groups = project()
    allowed = set().union(*(groups[extra] for extra in ("", *extras)))
    wrong = []
    for name, file in imported(path).items():
        distributions = {_normal(one) for one in _known().get(name, [DISTRIBUTIONS.get(name, name)])}
        if not distributions & allowed:
            wrong.append(f"{file.relative_to(ROOT)} imports {name} of {', '.join(sorted(distributions))}")
    return wrong


@pytest.mark.parametrize("path", INSTALLED)
def test_what_is_installed_declares_what_it_imports(path: str) -> None:
    assert undeclared(ROOT / path, EXTRAS) == []


@pytest.mark.parametrize("path", OTHERS)
def test_so_does_what_is_not_installed(path: str) -> None:
    assert undeclared(ROOT / path, OTHERS[path]) == []


def test_each_dependency_is_imported_and_documented() -> None:
    """A dependency that nothing imports only makes the installation larger."""
    used = {
        _normal(one)
        for path in INSTALLED
        for name in imported(ROOT / path)
        for one in _known().get(name, [DISTRIBUTIONS.get(name, name)])
    }

    assert project()[""] - used == set()


def test_the_check_sees_an_import_within_a_function(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    import yaml.nodes\n    from os import path\n    import collector\n")

    assert set(imported(tmp_path)) == {"yaml"}
