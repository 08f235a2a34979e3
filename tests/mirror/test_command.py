"""`vmflow mirror`: what it prints, and what it says of mistakes."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collector.__main__ import main
from collector.capture import mirrored
from collector.capture.files import CaptureProblems
from decoders import jit
from decoders.mirror.results import WAYS
from tests.mirror.support import START_US, Talk, Timed, write_pcap
from tests.service import FIXTURES, ROOT

CaptureFd = pytest.CaptureFixture[str]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Three connections of one pair, and one of another; the last packet is 12 s after the start."""
    refused, silent, other, last = Talk(client_port=50_001), Talk(client_port=50_002), Talk(v6=True), Talk()
    refused.packet(100, 0, "S", 0)
    refused.packet(200, 1, "RA", 0, 1)
    silent.packet(300, 0, "S", 0)
    other.open(400)
    last.open(12_000_000)
    last.packet(12_001_000, 0, "PA", 1, 1, 1000)
    return write_pcap(tmp_path / "x.pcap", [*refused.frames, *silent.frames, *other.frames, *last.frames])


def mirror(capfd: CaptureFd, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error of the command, once the meter is compiled."""
    from decoders.mirror import meter

    meter.warm_up()
    capfd.readouterr()
    assert main(["mirror", *arguments]) == code
    done = capfd.readouterr()
    return done.out, done.err


def test_a_line_per_pair(capture: Path, capfd: CaptureFd) -> None:
    out, err = mirror(capfd, str(capture))
    head, first, second = out.splitlines()

    assert head.split() == ["client", "server", "octets", "round", "trip", "TCP", "failed"]
    assert first.split() == [
        "10.0.0.1",
        "10.0.0.2",
        "1.2",
        "kB",
        "/",
        "84",
        "B",
        "300",
        "µs",
        "/",
        "100",
        "µs",
        "3",
        "2",
    ]
    assert second.split()[:2] == ["2001:db8::1", "2001:db8::2"]
    assert err == "10 frames, 10 packets counted, 2 rows by pair; nothing left out\n"


def test_json_and_csv_have_the_same_columns(capture: Path, capfd: CaptureFd) -> None:
    for by in ("pair", "connection"):
        arguments = [str(capture), "--by", by, "--quiet", "--format"]
        out, err = mirror(capfd, *arguments, "json")
        objects = [json.loads(line) for line in out.splitlines()]
        rows = list(csv.DictReader(io.StringIO(mirror(capfd, *arguments, "csv")[0])))

        assert err == ""
        assert len(rows) == len(objects) == (2 if by == "pair" else 4)
        for row, one in zip(rows, objects, strict=True):
            assert row == {name: "" if value is None else str(value) for name, value in one.items()}
        assert objects[0]["time"] == "2026-11-18 11:06:40.000100"
        assert {f"lost_before_segments_{way}" for way in WAYS} <= set(objects[0])


def test_windows_have_rows_of_their_own(capture: Path, capfd: CaptureFd) -> None:
    lines = mirror(capfd, str(capture), "--window", "10", "--format", "csv")[0].splitlines()
    table = mirror(capfd, str(capture), "--window", "10")[0]

    assert [line.split(",")[0] for line in lines] == [
        "time",
        *["2026-11-18 11:06:40.000000"] * 2,
        "2026-11-18 11:06:50.000000",
    ]
    assert "2026-11-18 11:06:50 UTC, 10 s" in table.splitlines()


def test_the_largest_rows_only(capture: Path, capfd: CaptureFd) -> None:
    out, err = mirror(capfd, str(capture), "--by", "connection", "--limit", "2", "--format", "json")

    assert [json.loads(line)["src_port"] for line in out.splitlines()] == [40_000, 40_000]
    assert "4 rows by connection" in err


def test_several_files_and_a_pipe_are_one_mirror(capture: Path, capfd: CaptureFd, tmp_path: Path) -> None:
    """The second time it is all the same packets, but ten seconds later: no second copies."""
    octets = bytearray(capture.read_bytes())
    at = 24
    while at < len(octets):
        seconds, _, length = struct.unpack_from("<III", octets, at)
        struct.pack_into("<I", octets, at, seconds + 100)
        at += 16 + length
    later = tmp_path / "later.pcap"
    later.write_bytes(octets)
    rows = [json.loads(line) for line in mirror(capfd, str(capture), str(later), "--format", "json")[0].splitlines()]
    assert [row["packets_to_server"] + row["packets_to_client"] for row in rows] == [14, 6]

    command = f"cat {capture} | {sys.executable} -m collector mirror - --format json"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2


def test_a_capture_that_breaks_off_is_counted_up_to_there(capture: Path, capfd: CaptureFd) -> None:
    """Behind its last packet is the header of one of 4 GiB."""
    with capture.open("ab") as file:
        file.write(b"\xff" * 16)
    out, err = mirror(capfd, str(capture), "--format", "json", code=1)

    assert [json.loads(line)["packets_to_server"] for line in out.splitlines()] == [5, 2]
    assert "at offset" in err


def test_a_reader_that_stops_early_gets_no_more(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what was read already."""
    monkeypatch.setattr(mirrored, "BATCH_FRAMES", 2)
    frames = mirrored.read_mirrored(capture, CaptureProblems())
    assert len(next(frames)[0].ns) == 2

    frames.close()  # type: ignore[attr-defined] # of a generator


def test_connections_that_were_idle_are_in_the_summary(capfd: CaptureFd, tmp_path: Path) -> None:
    silent, late = Talk(client_port=50_000), Talk()
    silent.packet(0, 0, "A", 1, 1)
    late.packet(100_000_000, 0, "A", 1, 1)
    path = write_pcap(tmp_path / "idle.pcap", [*silent.frames, *late.frames])

    _, err = mirror(capfd, str(path), "--window", "10")

    assert err.endswith("nothing left out; 1 connections forgotten, since they were idle\n")


@pytest.mark.parametrize("link", [0, 1, 101, 113, 276])
def test_link_types(link: int, capture: Path, capfd: CaptureFd, tmp_path: Path) -> None:
    before = {0: b"\x02\0\0\0", 1: None, 101: b"", 113: b"\0" * 14 + b"\x08\0", 276: b"\x08\0" + b"\0" * 18}[link]
    frames: list[Timed] = [(us, frame if before is None else before + frame[14:]) for us, frame in _talk().frames]
    path = write_pcap(tmp_path / "link.pcap", frames)
    octets = bytearray(path.read_bytes())
    struct.pack_into("<I", octets, 20, link)
    path.write_bytes(octets)
    (row,) = map(json.loads, mirror(capfd, str(path), "--format", "json")[0].splitlines())

    assert (row["src_ip"], row["packets_to_server"], row["octets_to_server"]) == ("10.0.0.1", 3, 1164 - 40 + 4)


def _talk() -> Talk:
    talk = Talk()
    talk.packet(talk.open() + 100, 0, "PA", 1, 1, 1004)
    return talk


def test_a_capture_of_exports_is_a_mirror_of_them(capfd: CaptureFd) -> None:
    """27 datagrams, says fixtures/pcaps/README.md."""
    out, _ = mirror(capfd, str(FIXTURES / "softflowd_v5.pcap"), "--by", "connection", "--format", "json")
    (row,) = map(json.loads, out.splitlines())

    assert (row["ip_protocol"], row["dst_port"], row["packets_to_server"], row["outcome"]) == (17, 2055, 27, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.pcap"], 1, "nowhere.pcap: cannot open"),
        (["README.md"], 1, "README.md: at offset 0: expected a pcap or pcapng file"),
        ([], 2, "give files, or --interface NAME"),
        (["x.pcap", "--interface", "lo"], 2, "give files, or --interface NAME"),
        (["x.pcap", "--limit", "-1"], 2, "take numbers from 0 on"),
        (["--interface", "lo", "--ring", "1"], 2, "--ring takes 2 to 1024 MiB"),
        (["--interface", "nothing0"], 1, "nothing0: no such interface"),
    ],
)
def test_mistakes_take_one_line(arguments: list[str], code: int, message: str, capfd: CaptureFd) -> None:
    _, err = mirror(capfd, *arguments, "--quiet", code=code)

    assert message in err
    assert err.count("\n") == 1
    assert START_US % 10**7 == 0  # of the tests of windows


def test_the_service_has_no_kernels_of_the_meter() -> None:
    """It would compile them, or wait for them, at its first start."""
    code = (
        "import sys, collector.app, collector.process.compilers, collector.commands.serve\n"
        "from collector.__main__ import whole_parser\nwhole_parser()\n"
        "print([name for name in sys.modules if name.startswith('decoders.mirror') or name.endswith('capture.ring')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.skipif(jit.INTERPRETED, reason="nothing is compiled with NUMBA_DISABLE_JIT=1")
def test_warmup_compiles_all_of_them() -> None:
    code = (
        "import collector.capture.ring\nfrom decoders import jit\n"
        "ours = [one for one in jit._KERNELS]\n"
        "from collector.process.compilers import MIRROR, compile_part\ncompile_part(MIRROR)\n"
        "print(len(ours), all(one.ready for one in ours))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "4 True\n"


@pytest.mark.skipif(shutil.which("ovsdb-server") is None, reason="ovsdb-server is missing (Debian: openvswitch-switch)")
def test_the_lines_for_open_vswitch_make_a_mirror(tmp_path: Path) -> None:
    """In a database of the test's own: no switch runs."""
    (block,) = re.findall(r"```sh\n(ovs-vsctl.*?)```", (ROOT / "docs/mirrors.md").read_text("utf-8"), re.DOTALL)
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("ovs-vsctl")]
    schema = "/usr/share/openvswitch/vswitch.ovsschema"
    subprocess.run(["ovsdb-tool", "create", tmp_path / "db", schema], check=True)
    server = subprocess.Popen(
        ["ovsdb-server", f"--remote=punix:{tmp_path}/sock", f"--unixctl={tmp_path}/ctl", tmp_path / "db"]
    )
    try:
        while not (tmp_path / "sock").exists() and server.poll() is None:
            time.sleep(0.05)

        def vsctl(*words: str) -> str:
            command = ["ovs-vsctl", f"--db=unix:{tmp_path}/sock", "--no-wait", *words]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        vsctl("--", "init", "--", "add-br", "br-int", "--", "add-port", "br-int", "vnet0")
        for line in lines:
            vsctl(*shlex.split(line)[1:])
        port, output = (vsctl("get", "Port", name, "_uuid") for name in ("vnet0", "mirror0"))

        assert vsctl("get", "Mirror", "vmflow", "select_src_port", "select_dst_port").split() == [f"[{port}]"] * 2
        assert vsctl("get", "Mirror", "vmflow", "output_port") == output
        assert vsctl("get", "Bridge", "br-int", "mirrors") == f"[{vsctl('get', 'Mirror', 'vmflow', '_uuid')}]"
    finally:
        server.terminate()
        server.wait(10)
