"""`vmflow init`: the file is right, kept from others, and over no other; the lines are those of deploy/ovs.md."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from collector.__main__ import main
from collector.commands.init import AGENT, EXAMPLE, LINES, default_file, endpoints, reachable
from collector.listen.settings import Endpoint
from collector.settings import load
from tests.deploy.ovs_blocks import missing_program, read_blocks, running_switch
from tests.service import ROOT

PORTS = (6343, 2055, 4739)


def init(*arguments: str) -> int:
    return main(["init", *arguments])


def test_what_is_written_passes_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "made/vmflow.toml"
    arguments = [
        "--listen", "192.0.2.1", "--listen", "[::1]:9995", "--libvirt", "qemu+ssh://vmflow@hv1/system", "--libvirt",
        'qemu+tls://"hv2"/system', "--ovsdb", "tcp:192.0.2.11:6640", "--openstack", "production", "--static",
        "vms.csv", "--store", "https://clickhouse.example:8443", "--output", str(file),
    ]  # fmt: skip

    assert init(*arguments) == 0
    assert main(["check", "--config", str(file)]) == 0

    assert "settings are right: 4 UDP sockets, store https://clickhouse.example:8443" in capsys.readouterr().out
    settings = load(file)
    assert settings.listen.addresses == (*(f"192.0.2.1:{port}" for port in PORTS), "[::1]:9995")
    assert [one.uri for one in settings.inventory.libvirt] == [arguments[5], arguments[7]]
    assert [one.remote for one in settings.inventory.ovsdb] == ["tcp:192.0.2.11:6640"]
    assert [one.cloud for one in settings.inventory.openstack] == ["production"]
    assert [one.file for one in settings.inventory.static] == [tmp_path / "vms.csv"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [file.name], "nothing is left beside it"
    # What was not said is not fixed in the file.
    assert set(tomllib.loads(file.read_text())) == {"listen", "inventory", "store"}


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, elsewhere = tmp_path / "vmflow.toml", tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    file.symlink_to(elsewhere)

    assert init("--listen", "127.0.0.1", "--output", str(file)) == 2
    assert capsys.readouterr().err == (
        f"vmflow init: {file} is there already: --force overwrites it, --output names another\n"
    )
    assert elsewhere.read_text() == "mine"

    assert init("--listen", "127.0.0.1", "--output", str(file), "--force") == 0
    assert load(file).listen.addresses == tuple(f"127.0.0.1:{port}" for port in PORTS)
    assert elsewhere.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--listen", "host:port"], "listen: 'host:port': host:port is expected"),
        (["--listen", "::1:6343:x"], "listen: '::1:6343:x': write an IPv6 address in brackets"),
        (["--store", "postgres://x"], "store.url = 'postgres://x': must begin with chdb://"),
        (["--store", "https://u:secret@x"], "the password belongs into the setting `password`"),
        (["--listen", "192.0.2.1", "--listen", "192.0.2.1:6343"], "listed more than once: 192.0.2.1:6343"),
        ([], "say what goes in, such as --listen 0.0.0.0; in a terminal it would be asked"),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_writes_nothing(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(*arguments, "--output", str(tmp_path / "vmflow.toml")) == 2

    said = capsys.readouterr()
    assert expected in said.err
    assert "secret" not in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert os.listdir(tmp_path) == []


def test_the_lines_are_those_of_the_page_with_this_collector_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--listen", "198.51.100.7:2055", "--listen", "198.51.100.7:6343", "--output", str(tmp_path / "a")]

    assert init(*arguments) == 0

    out = capsys.readouterr().out
    blocks = read_blocks()
    for name, usual, _ in LINES:
        assert f"{EXAMPLE}:{usual}" in blocks[name].lines
        # IPFIX goes to a port that is listened on: each takes every protocol.
        port = usual if usual != 4739 else 2055
        assert blocks[name].lines.replace(f"{EXAMPLE}:{usual}", f"198.51.100.7:{port}") in out, name
    assert EXAMPLE + ":" not in out
    assert AGENT in out.partition("\n")[0]


@pytest.mark.skipif(bool(missing_program()), reason=missing_program())
def test_open_vswitch_takes_the_lines_towards_an_ipv6_collector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--listen", "[2001:db8::7]", "--output", str(tmp_path / "a")) == 0
    parts = re.split(r"(?m)^# .*\n", capsys.readouterr().out)[2:]
    assert len(parts) == len(LINES)

    with running_switch(tmp_path) as switch:
        newer = switch.has_column("template_interval")
        for lines, (name, port, _) in zip(parts, LINES, strict=True):
            if not newer and name == "ipfix-set-3.2":
                continue
            switch.shell(lines)
            table = name.partition("-")[0]
            found = switch.shell(f'ovs-vsctl get {table} "$(ovs-vsctl get Bridge br-int {table})" targets')
            assert found.strip() == f'["[2001:db8::7]:{port}"]'


def test_where_everything_is_listened_to_the_lines_name_an_address_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--listen", "0.0.0.0", "--output", str(tmp_path / "a")) == 0

    said = capsys.readouterr()
    (target,) = set(re.findall(r'targets="([^"]+):6343"', said.out))
    assert not ip_address(target).is_unspecified
    assert target == reachable("0.0.0.0")
    assert f"{target} is this machine's address by its routes" in said.err


def test_without_listen_it_says_that_nobody_else_reaches_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--static", str(tmp_path / "vms.csv"), "--output", str(tmp_path / "a")) == 0

    said = capsys.readouterr()
    assert 'targets="127.0.0.1:6343"' in said.out
    assert "it listens on loopback only" in said.err
    assert f"write {tmp_path}/vms.csv: it is not there yet" in said.err
    assert f"next: vmflow run --config {tmp_path}/a, then vmflow exporters --doctor --config {tmp_path}/a" in said.err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.0.0.0", [Endpoint("0.0.0.0", port) for port in PORTS]),
        ("::", [Endpoint("::", port) for port in PORTS]),
        ("[::1]", [Endpoint("::1", port) for port in PORTS]),
        ("[::1]:99", [Endpoint("::1", 99)]),
        ("hv1", [Endpoint("hv1", port) for port in PORTS]),
        ("hv1:99", [Endpoint("hv1", 99)]),
    ],
)
def test_an_address_without_a_port_means_the_usual_ports(text: str, found: list[Endpoint]) -> None:
    assert list(endpoints(text)) == found


def test_the_file_is_where_vmflow_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for user, file in ((0, Path("/etc/vmflow/vmflow.toml")), (1000, tmp_path / "vmflow/vmflow.toml")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert default_file() == file


def converse(command: list[str], answers: str, **given: Any) -> tuple[int, str]:
    """Run a command in a terminal of its own that types the answers; exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "collector", *command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, **given
    ) as process:
        os.close(theirs)
        os.write(ours, answers.encode())
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    return process.returncode, shown.decode()


def test_in_a_terminal_it_asks_and_asks_again(tmp_path: Path) -> None:
    file = tmp_path / "vmflow.toml"
    answers = "nowhere:x\n192.0.2.1 [::1]:99\n\ntcp:192.0.2.11:6640 tcp:192.0.2.12:6640\n\n\npostgres://x\n\n"

    code, shown = converse(["init", "--output", str(file)], answers)

    assert code == 0, shown
    assert "listen: 'nowhere:x': host:port is expected" in shown
    assert "must begin with chdb://" in shown
    settings = load(file)
    assert settings.listen.addresses == (*(f"192.0.2.1:{port}" for port in PORTS), "[::1]:99")
    assert [one.remote for one in settings.inventory.ovsdb] == ["tcp:192.0.2.11:6640", "tcp:192.0.2.12:6640"]
    assert settings.inventory.libvirt == settings.inventory.openstack == settings.inventory.static == ()
    assert settings.store.embedded


def test_where_the_answers_end_nothing_is_written(tmp_path: Path) -> None:
    code, _ = converse(["init", "--output", str(tmp_path / "vmflow.toml")], "192.0.2.1\n\x04")

    assert code == 130
    assert os.listdir(tmp_path) == []
