"""Every command of README, docs and deploy is run by a test, or it is said why none can.

`vmflow …` is run by tests/commands (docs/quickstart: by test_quickstarts.py), `ovs-…` by tests/deploy/test_ovs.py,
requests of docs/api.md by tests/web.  Here: requests of the other pages, targets of the Makefile, modules.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, QUICK_STARTS, blocks
from tests.service import ROOT, Service, running

ELSEWHERE = {
    "pipx": "installs for a user, from an index; tests/deploy/test_package.py installs the wheel and runs it",
    "python3": "the same, for a machine",
    "/opt/vmflow/bin/pip": "the same",
    "ln": "the same",
    "apt-get": "installs for the machine; `make test-debian` does it in a root of its own",
    "deploy/debian/build": "takes minutes and debhelper; `make test-debian` runs it",
    "editor": "a person does",
    "systemctl": "needs the service as a unit of systemd",
    "docker": "needs a daemon; tests/deploy/test_container.py tries the parts of the image",
    "kubectl": "needs a cluster",
    "helm": "needs a cluster; tests/deploy/test_helm.py renders the chart and checks it",
    "journalctl": "needs the service as a unit of systemd",
    "ip": "needs root and the port that docs/mirrors.md makes in Open vSwitch",
    "mkdir": "a step of docs/demo.md, whose parts tests/deploy/test_demo_cloud.py runs",
    "softflowd": "needs root and an interface with traffic; tests/listen/test_tcp.py sends what it sends",
}
"""First word of a command -> why no test runs it."""
RUN_BY_OTHERS = ("vmflow", ".venv/bin/vmflow", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "ovs-vswitchd")


def commands() -> Iterator[tuple[Path, str]]:
    """Page and line of every command in a shell block that is for this machine."""
    for page in PAGES:
        if page in QUICK_STARTS:
            continue
        for block in blocks(page):
            if block.language == "sh":
                yield from ((page, line) for line in block.lines)


def first_word(line: str) -> str:
    return next(word for word in line.split() if "=" not in word)


def test_each_command_is_known() -> None:
    others = {first_word(line): line for _, line in commands()}
    assert set(ELSEWHERE) <= set(others)
    for word in ("make", "curl", ".venv/bin/python", "python", *RUN_BY_OTHERS, *ELSEWHERE):
        others.pop(word, None)

    assert others == {}


def test_targets_of_the_makefile_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", page.read_text("utf-8"), re.MULTILINE)
    }

    assert {"demo", "test", "docs"} <= named
    assert {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_modules_that_are_run_exist() -> None:
    named = {module for page in PAGES for module in re.findall(r"python -m ([\w.]+)", page.read_text("utf-8"))}

    assert "bench.stages" in named
    assert [module for module in sorted(named) if importlib.util.find_spec(module) is None] == []


REQUESTS = [
    (page, line) for page, line in commands()
    if line.startswith("curl ") and "127.0.0.1" in line and page.name not in ("api.md", "notifications.md")
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    with running(tmp_path_factory.mktemp("asked")) as started:
        yield started


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (Debian package curl)")
@pytest.mark.parametrize(("page", "line"), REQUESTS, ids=[f"{page.name}: {line[:40]}" for page, line in REQUESTS])
def test_a_request_is_answered(service: Service, page: Path, line: str) -> None:
    typed = line.replace("http://127.0.0.1:8080", service.ready["web"])
    typed = typed.replace("http://127.0.0.1:8123", service.ready["sql"])
    assert typed != line

    command = [*shlex.split(typed), "--fail", "--silent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
