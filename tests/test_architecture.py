"""The arrows between packages, read from the source: who may import whom."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import collector

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "decoders", "agent", "collector")
ALLOWED = {
    "schemas": {"schemas"}, "decoders": {"schemas", "decoders"}, "agent": {"agent"}, "collector": set(PACKAGES),
}  # fmt: skip
ROOMS = tuple(re.findall(r"^    ([a-z]+)  ", collector.__doc__ or "", re.MULTILINE))
"""Folders of `collector`, in the order in which its docstring lists them."""
NO_STAGES = {"http", "process", "commands"}
STAGES = tuple(room for room in ROOMS if room not in NO_STAGES)
MAY_IMPORT = {"sql": {"store"}}
"""The SQL endpoint stands before the embedded store."""
BANNED_IN_DECODERS = {
    "asyncio", "socket", "time", "threading", "logging", "prometheus_client", "selectors", "subprocess", "random",
    "pydantic", "pydantic_settings",
}  # fmt: skip
GPL = {"scapy"}


def imports(file: Path) -> set[str]:
    """Full names of all modules that `file` imports, wherever the statement stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{file}: relative imports hide the arrow")
    return found


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, package
    return files


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_is_below(package: str) -> None:
    for file in sources(package):
        ours = {name.split(".")[0] for name in imports(file)} & set(PACKAGES)
        assert ours <= ALLOWED[package], file


def test_decoders_know_no_sockets_clocks_logs_or_settings() -> None:
    for file in [*sources("decoders"), *sources("schemas")]:
        assert not {name.split(".")[0] for name in imports(file)} & BANNED_IN_DECODERS, file


def test_the_agent_needs_little_and_only_its_command_knows_it() -> None:
    """Probing and reflecting need the standard library alone; running for good has settings."""
    for file in sources("agent"):
        more = {"pydantic", "pydantic_settings"} if file.name == "settings.py" else set()
        assert {name.split(".")[0] for name in imports(file)} <= {*sys.stdlib_module_names, "agent", *more}, file
        assert "agent.settings" not in {name.rpartition(".")[0] for name in imports(file)} or file.name == "run.py"
    knowing = [file for file in sources("collector") if "agent" in {name.split(".")[0] for name in imports(file)}]
    assert knowing == [ROOT / "collector/commands/agent.py"]


def test_every_room_is_listed_in_the_order_of_the_data() -> None:
    assert set(ROOMS) == {file.parent.name for file in (ROOT / "collector").glob("*/__init__.py")}
    assert ROOMS[:8] == ("listen", "decode", "inventory", "store", "rollup", "analyze", "alert", "notify")


def test_stages_do_not_know_what_confines_the_process() -> None:
    for file in sources("collector"):
        room = file.relative_to(ROOT).parts[1]
        if room not in ("process", "commands", "app.py", "settings.py"):
            assert not {name for name in imports(file) if name.startswith("collector.process")}, file


def test_stages_do_not_import_stages() -> None:
    for stage in STAGES:
        for file in sorted((ROOT / "collector" / stage).rglob("*.py")):
            others = {name.split(".")[1] for name in imports(file) if name.startswith("collector.")} & set(STAGES)
            assert others <= {stage} | MAY_IMPORT.get(stage, set()), file


def test_only_the_composition_root_imports_all_stages() -> None:
    app = {name.split(".")[1] for name in imports(ROOT / "collector/app.py") if name.startswith("collector.")}
    assert set(STAGES) - {"capture"} <= app


OUTPUTS = {
    "print", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "rich", "rich.console", "rich.print",
    "csv.writer", "csv.DictWriter", "csv", "traceback.print_exc",
}  # fmt: skip
MAY_PUT_OUT = {
    "collector/terminal.py": {"print", "sys.stdout", "sys.stderr", "rich"},
    "collector/lines.py": {"csv"},
    "collector/log.py": {"sys.stderr"},  # the handler of logs, whose formatters escape
    "collector/__main__.py": {"sys.stdout"},  # closes it
    "collector/commands/decode.py": {"sys.stdout"},  # Arrow: octets for a program
    "collector/commands/serve.py": {"sys.stderr"},  # flushes it
    "collector/inventory/sources/static_file.py": {"csv"},  # reads
}
"""Anything else that prints goes around what keeps names from steering terminals and spreadsheets."""


def outputs(file: Path) -> set[str]:
    """By what `file` could put out text: calls of print, streams, rich, csv."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Name) and node.id == "print":
            found.add("print")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    for name in imports(file):
        found.add(name if name in ("sys.stdout", "sys.stderr") else name.split(".")[0])
    return {"csv" if name.startswith("csv.") else name for name in found & OUTPUTS}


def test_text_leaves_by_one_way_for_each_medium() -> None:
    files = [*sources("agent"), *sources("collector")]
    found = {str(file.relative_to(ROOT)): used for file in files if (used := outputs(file))}

    assert found == MAY_PUT_OUT


def test_the_check_sees_who_prints(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    for code, used in (
        ("f = print", {"print"}),
        ("import sys\nsys.stdout.write('x')", {"sys.stdout"}),
        ("from sys import stderr", {"sys.stderr"}),
        ("def f():\n    from rich.console import Console", {"rich"}),
        ("import csv\ncsv.writer(f)", {"csv"}),
        ("import sys\nsys.exit(0)", set()),
    ):
        file.write_text(code)
        assert outputs(file) == used


def test_nothing_that_is_installed_imports_gpl_code() -> None:
    for package in PACKAGES:
        for file in sources(package):
            assert not {name.split(".")[0] for name in imports(file)} & GPL, file


def test_the_check_sees_a_forbidden_import(tmp_path: Path) -> None:
    """The tests above would pass over anything if `imports` saw nothing."""
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from collector.listen import udp\n    import time\n")

    assert imports(file) == {"collector.listen.udp", "time"}
