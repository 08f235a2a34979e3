"""deploy/vmflow.service, as systemd itself reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from collector.threads import LOOP_NICE

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "vmflow.service"

AGENT = UNIT.with_name("vmflow-agent.service")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian package systemd)"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that exists: systemd refuses a unit whose program is missing."""
    program = shutil.which("true")
    assert program is not None
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/vmflow/bin/vmflow", program))
    return unit


def values(key: str) -> list[str]:
    """All values that the unit gives a key."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


@needs_systemd
def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_the_agents_unit_is_right_and_exposes_little(tmp_path: Path) -> None:
    """Of 10; what is left is the network, and the port below 1024."""
    program = shutil.which("true")
    assert program is not None
    unit = tmp_path / AGENT.name
    unit.write_text(AGENT.read_text().replace("/opt/vmflow/bin/vmflow", program))

    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert float(re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)[0]) <= 1.5


@needs_systemd
def test_exposure_is_low(installed: Path) -> None:
    """Fails above 1.2 of 10: what is left is the network, the store's files in /proc, and executable memory."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=12", "--no-pager", installed],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert float(re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)[0]) <= 1.2


def test_compiled_code_is_allowed_and_its_cache_is_writable() -> None:
    """numba and the ClickHouse engine write code and run it; kernels are cached in the cache directory."""
    assert values("MemoryDenyWriteExecute") == ["no"]
    assert values("CacheDirectory") == ["vmflow"]
    assert values("Environment") == ["VMFLOW_CACHE_DIR=%C/vmflow"]


def test_no_privilege_is_left() -> None:
    assert values("CapabilityBoundingSet") == [""]
    assert values("AmbientCapabilities") == [""]
    assert values("NoNewPrivileges") == ["yes"]
    assert values("DynamicUser") == ["yes"]


def test_the_service_may_confine_itself_and_leaves_nothing_to_read() -> None:
    assert values("SystemCallFilter") == [
        "@system-service",
        "~@privileged",
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ]
    assert values("StateDirectoryMode") == values("CacheDirectoryMode") == ["0700"]
    assert values("UMask") == ["0077"]
    assert values("LimitCORE") == ["0"]
    assert values("ProtectProc") == ["invisible"]


def test_settings_are_checked_before_start_and_before_reload() -> None:
    check = "/opt/vmflow/bin/vmflow check --config /etc/vmflow/vmflow.toml"

    assert values("ExecStartPre") == [check]
    assert values("ExecReload") == [check, "/bin/kill -HUP $MAINPID"]
    assert values("ExecStart") == ["/opt/vmflow/bin/vmflow run --config /etc/vmflow/vmflow.toml"]


def test_the_event_loop_may_go_first() -> None:
    """The limit is what the service asks for, no more."""
    assert values("LimitNICE") == [str(LOOP_NICE)]
