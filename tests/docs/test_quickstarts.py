"""Each quick start, typed line by line: what it says is printed is printed; what cannot run here says why."""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collector.__main__ import whole_parser
from tests.deploy.ovs_blocks import read_blocks
from tests.docs.pages import QUICK_STARTS, Block, blocks
from tests.service import ROOT, START_SECONDS

pytest.importorskip("chdb", reason="the embedded store needs chDB")

PATIENCE_SECONDS = 180
"""For windows that close while the machine is busy."""
UDP_PORTS = ("6343", "2055", "4739")


@dataclass
class Shell:
    """A folder with a shell in which a page is typed, and the service that it starts."""

    folder: Path
    environment: dict[str, str]
    port: str
    """UDP port of the service, in place of the usual ones."""
    service: subprocess.Popen[bytes] | None = None
    said: list[str] = field(default_factory=list)

    def shell(self, lines: str) -> str:
        """What the lines print, standard error too.  Raises AssertionError if one fails."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines], cwd=self.folder, env=self.environment, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{lines}\n{done.stdout}"
        return done.stdout

    def start(self, line: str) -> None:
        """Start what a line leaves in the background, and wait until it is ready."""
        settings = {"VMFLOW_LISTEN__ADDRESSES": f'["127.0.0.1:{self.port}"]'}
        self.service = subprocess.Popen(
            ["bash", "-c", f"exec {line.rstrip(' &')}"], cwd=self.folder, env=self.environment | settings
        )
        deadline = time.monotonic() + START_SECONDS
        log = self.folder / "vmflow.log"
        while not (log.exists() and " ready " in log.read_text()):
            assert self.service.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def type(self, block: Block) -> str:
        """Type the lines of a block, the service on the port that is free."""
        text = ""
        for line in block.lines:
            if line.endswith("&"):
                self.start(line)
            else:
                text += self.shell(re.sub(rf"127\.0\.0\.1:(?:{'|'.join(UDP_PORTS)})", f"127.0.0.1:{self.port}", line))
        return text


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "vmflow").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m collector "$@"\n')
    (programs / "vmflow").chmod(0o755)
    folder = tmp_path / "home"
    folder.mkdir()
    udp = free_port(socket.SOCK_DGRAM)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VMFLOW_")}
    environment |= {
        "PATH": f"{programs}:{environment['PATH']}", "PYTHONPATH": str(ROOT), "SOURCE": str(ROOT), "COLUMNS": "200",
        "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "VMFLOW_CONFIG": "",
        "VMFLOW_WEB__PORT": free_port(socket.SOCK_STREAM), "VMFLOW_SQL__PORT": free_port(socket.SOCK_STREAM),
    }  # fmt: skip
    shell = Shell(folder, environment, udp)
    yield shell
    if shell.service is not None:
        shell.service.send_signal(signal.SIGTERM)
        assert shell.service.wait(60) == 0


def free_port(kind: int) -> str:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def pattern(line: str) -> str:
    """A line of a page as a regular expression: `…` is anything, blanks are as many as there are."""
    return r"\s+".join(re.escape(word).replace("…", ".*?") for word in line.split())


def missing(expected: str, said: str) -> list[str]:
    """Lines that were expected and not said."""
    return [line for line in expected.splitlines() if not re.search(pattern(line), said)]


@pytest.mark.parametrize("page", QUICK_STARTS, ids=[page.stem for page in QUICK_STARTS])
def test_a_quick_start_does_what_it_says(shell: Shell, page: Path) -> None:
    """The output stands below the lines that print it; a line that asks for a window is typed until it is over."""
    typed: Block | None = None
    said, ran = "", 0
    for block in blocks(page):
        if "file" in block.info:
            (shell.folder / block.info["file"]).write_text(block.text)
        elif block.language == "sh" and "on" not in block.info:
            if page.stem == "proxmox" and not (shell.folder / "vms.csv").exists():
                (shell.folder / "vms.csv").write_text("mac,vm,host,network\n")
            typed, said = block, shell.type(block)
            ran += len(block.lines)
        elif block.language == "text" and typed is not None and not block.text.startswith("flow record"):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while missing(block.text, said) and time.monotonic() < deadline and "&" not in typed.text:
                time.sleep(1)
                said = shell.type(typed)
            assert not missing(block.text, said), said

    assert ran >= 2


MARKED = [block for page in QUICK_STARTS for block in blocks(page) if block.language == "sh" and "on" in block.info]


def test_what_is_not_typed_here_says_where_it_is() -> None:
    assert MARKED
    for block in MARKED:
        assert block.info["on"] == "hypervisor" or re.match(r"(the|a) \w+", block.info["on"]), block.info


def test_commands_that_need_another_machine_are_understood() -> None:
    for block in MARKED:
        for line in block.lines:
            if line.startswith("vmflow "):
                whole_parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", [*QUICK_STARTS, ROOT / "README.md"], ids=lambda page: page.stem)
def test_lines_for_open_vswitch_are_a_recipe_of_its_page(page: Path) -> None:
    """One recipe for a purpose, which the tests of deploy/ovs.md type into a real Open vSwitch."""
    recipes = {words(block.lines) for block in read_blocks().values()}
    for block in blocks(page):
        typed = re.sub(r"docker exec openvswitch_vswitchd\s+(?:\\\s+)?", "", block.text)
        if block.language == "sh" and typed.startswith("ovs-vsctl"):
            assert words(typed.replace(block.info.get("bridge", "br-int"), "br-int")) in recipes, block.text


def words(lines: str) -> tuple[str, ...]:
    """A command, however its lines are broken."""
    return tuple(lines.replace("\\\n", " ").split())


def test_the_line_for_all_compute_nodes_is_the_recipe() -> None:
    (line,) = [line for block in MARKED for line in block.lines if line.startswith("ansible ")]
    typed = shlex.split(line)[-1].removeprefix("docker exec openvswitch_vswitchd ")

    recipe = read_blocks()["sflow-set"].lines.replace("192.0.2.11", "{{ ansible_host }}")
    assert shlex.split(typed) == shlex.split(recipe.replace("\\\n", " "))


def test_the_script_for_proxmox_reads_what_proxmox_writes(tmp_path: Path) -> None:
    folder = tmp_path / "nodes/pve1/qemu-server"
    folder.mkdir(parents=True)
    (folder / "101.conf").write_text(
        "cores: 2\nname: web-1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr1,firewall=1,tag=20\n"
        "net1: e1000=bc:24:11:00:00:02,bridge=vmbr0\n\n"
        "[before]\nname: old\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr9\n"
    )
    (folder / "102.conf").write_text("net0: virtio=BC:24:11:00:00:03,bridge=vmbr1\n")
    (script,) = [
        block.text for block in blocks(ROOT / "docs/quickstart/proxmox.md") if block.info.get("file") == "proxmox-vms"
    ]

    done = subprocess.run(
        ["sh", "-c", script.replace("/etc/pve", str(tmp_path))], capture_output=True, text=True, check=True
    )

    assert list(csv.reader(done.stdout.splitlines())) == [
        ["mac", "vm", "host", "network"],
        ["BC:24:11:00:00:01", "web-1", "pve1", "vmbr1.20"],
        ["bc:24:11:00:00:02", "web-1", "pve1", "vmbr0"],
        ["BC:24:11:00:00:03", "102", "pve1", "vmbr1"],
    ]
