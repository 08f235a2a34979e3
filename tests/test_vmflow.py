"""What `vmflow` says where somebody else's packages come first; completion and manual page, read by their programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from collector.__main__ import COMMANDS, whole_parser
from collector.commands.completion import SHELLS, script
from tests.commands.support import parser_of
from tests.service import ROOT


def start(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run `vmflow` as its console script does, with a directory that is searched before ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(path), str(ROOT)))}
    code = "import sys; from vmflow import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=path, env=environment, check=False
    )


@pytest.mark.parametrize("name", ["schemas", "decoders", "agent", "collector"])
@pytest.mark.parametrize("made", ["package", "module", "folder"])
def test_a_stranger_of_that_name_is_refused_in_one_line(tmp_path: Path, name: str, made: str) -> None:
    if made == "module":
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the stranger was run')\n")
    else:
        (tmp_path / name).mkdir()
        if made == "package":
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('the stranger was run')\n")

    done = start("check", path=tmp_path)

    if made == "folder":  # without an __init__.py it only counts where there is no package
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"vmflow: package {name} is vmflow's, but Python finds another one first: {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_without_strangers_it_runs(tmp_path: Path) -> None:
    done = start("check", path=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("settings are right")


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_read_their_completion(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed (Debian package {shell})")

    done = subprocess.run(
        [shell, "-n"], input=script(whole_parser(), shell), capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands_actions_options_and_files(tmp_path: Path) -> None:
    (tmp_path / "capture.pcap").touch()
    file = tmp_path / "vmflow.bash"
    file.write_text(script(whole_parser(), "bash"))

    def complete(*words: str) -> set[str]:
        code = (
            f'source {file}; COMP_WORDS=(vmflow "$@"); COMP_CWORD=$#; '
            f'$(complete -p vmflow | sed "s/.* -F \\([^ ]*\\) .*/\\1/") vmflow; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(
            ["bash", "-c", code, "bash", *words], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        return set(done.stdout.split())

    assert complete("in") == {"init", "inventory"}
    assert complete("alerts", "sil") == {"silence", "silences"}
    assert complete("exporters", "--doc") == {"--doctor"}
    assert complete("rules", "list", "--format", "j") == {"json"}
    assert complete("decode", "cap") == {"capture.pcap"}


def test_the_manual_page_tells_of_every_command_and_option(tmp_path: Path) -> None:
    pytest.importorskip("argparse_manpage", reason="argparse-manpage makes the page")
    text = (ROOT / "Makefile").read_text("utf-8").partition("$(BIN)/argparse-manpage")[2].partition("\n\n")[0]
    words = text.replace("\\\n", " ").replace("build/vmflow.1", str(tmp_path / "vmflow.1")).split('"')
    command = [*words[0].split(), words[1]]
    code = "import sys; from argparse_manpage.cli import main; sys.exit(main())"

    subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, check=True)

    page = (tmp_path / "vmflow.1").read_text("utf-8").replace("\\-", "-").replace("\\", "")
    for name in COMMANDS:
        assert f"vmflow {name}" in page
        for option in parser_of(name)._option_string_actions:
            assert option in page, f"{name} {option}"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed (Debian package groff)")
def test_groff_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    test_the_manual_page_tells_of_every_command_and_option(tmp_path)

    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", tmp_path / "vmflow.1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
