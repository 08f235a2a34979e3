"""`vmflow agent` as people type it: what it prints, what it says of mistakes, and how little it loads."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from agent import stamp
from agent.clock import to_ntp
from collector.__main__ import main
from tests.agent.support import ERROR
from tests.commands.support import documented, parser_of
from tests.service import ROOT

HEAVY = ("numba", "llvmlite", "numpy", "pyarrow", "chdb", "pydantic", "fastapi", "uvloop", "rich", "collector.settings")
COMMAND = [sys.executable, "-m", "collector", "agent"]
MOST_MB = 60


def vmflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


@contextmanager
def reflector(*arguments: str, end: int = signal.SIGINT) -> Iterator[tuple[str, list[str]]]:
    """A reflector on a free port: HOST:PORT, and what it prints in the end."""
    command = [*COMMAND, "reflect", "--listen", "127.0.0.1:0", *arguments]
    printed: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("answers on 127.0.0.1:"), line + process.stderr.read()
        assert not line.startswith("answers on 127.0.0.1:862;")
        try:
            yield line.split()[2].rstrip(";"), printed
        finally:
            process.send_signal(end)
            out, err = process.communicate(timeout=60)
            printed += [out, err, str(process.returncode)]


def test_probe_and_reflect_print_what_they_measured(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("00112233445566778899aabbccddeeff\n")
    with reflector("--key-file", str(key)) as (address, printed):
        done = vmflow("probe", address, "-n", "20", "--every", "5ms", "--key-file", str(key))

    assert (done.returncode, done.stderr) == (0, "")
    lines = {line[:14].strip(): line[14:] for line in done.stdout.splitlines()[2:]}
    assert lines["received"] == "20"
    assert lines["lost"] == "0: 0 % (0–16.1 %)"  # 1.96² / (20 + 1.96²)
    assert (lines["duplicates"], lines["reordered"], lines["hops"]) == ("0", "0", "0")
    assert lines["round trip"].startswith("min ")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert printed == ["20 answers\n", "", "0"]


def test_json_and_csv_have_the_same_figures_and_units_in_their_names() -> None:
    with reflector("--format", "json", end=signal.SIGTERM) as (address, printed):
        done = vmflow("probe", address, "-n", "5", "--every", "5ms", "--dscp", "46", "--format", "json")
        sheet = vmflow("probe", address, "-n", "5", "--every", "5ms", "--format", "csv")

    item = json.loads(done.stdout)
    assert (item["dst_ip"], item["dscp"], item["octets"], item["sent"], item["received"]) == ("127.0.0.1", 46, 88, 5, 5)
    assert (item["lost"], item["lost_forward"], item["lost_reverse"], item["refused"]) == (0, 0, 0, {})
    assert 0 < item["rtt_min_us"] <= item["rtt_median_us"] <= item["rtt_p99_us"] <= item["rtt_max_us"]
    assert item["forward_low_us"] <= item["forward_us"] <= item["forward_high_us"]
    (row,) = csv.DictReader(io.StringIO(sheet.stdout))
    assert list(row) == list(item)
    counts = json.loads(printed[0])
    assert (counts["answered"], counts["rate"], printed[2]) == (10, 0, "0")


def test_ctrl_c_prints_what_was_measured() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(60)
        command = [*COMMAND, "probe", f"127.0.0.1:{peer.getsockname()[1]}", "--every", "20ms", "--format", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            for number in range(4):
                octets, sender = peer.recvfrom(2000)
                asked = stamp.parse_request(octets)
                now = to_ntp(time.time_ns())
                reply = stamp.Reply(number, now, ERROR, asked.ssid, now, number, asked.sent, asked.error, 255)
                if number < 3:
                    peer.sendto(stamp.pack_reply(reply), sender)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (130, "")
    item = json.loads(out)
    assert (item["received"], item["lost"]) == (3, 0)
    assert item["outstanding"] == item["sent"] - 3 > 0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_each_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("secret of ann\n")
    refused, silent = free_port(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    busy = silent.getsockname()[1]
    cases = [
        (["probe", "no-such-host.invalid"], 1, "no address is known of no-such-host.invalid"),
        (["probe", "x" * 70 + ".invalid"], 1, "no address is known of x"),
        (["probe", f"127.0.0.1:{refused}"], 1, f"no answer from 127.0.0.1:{refused}: connection refused"),
        (["probe", f"127.0.0.1:{busy}", "-n", "1", "-f", "json"], 1, f"no answer from 127.0.0.1:{busy}: no reflector,"),
        (["probe", "255.255.255.255"], 1, "255.255.255.255:862 cannot be reached"),
        (["probe", "127.0.0.1", "--key-file", str(wrong)], 2, "a key is one line of 32 to 128 hexadecimal digits"),
        (["probe", "127.0.0.1", "--key-file", str(tmp_path / "none")], 1, "No such file or directory"),
        (["probe", "127.0.0.1", "--octets", "60"], 2, "--octets 60: such a probe has 88 octets, or 92 and more"),
        (["probe", "127.0.0.1", "--octets", "90"], 2, "--octets 90: such a probe has 88 octets, or 92 and more"),
        (["reflect", "--listen", f"127.0.0.1:{busy}"], 1, f"127.0.0.1:{busy} is in use by another process"),
        (["reflect", "--listen", "192.0.2.77:8620"], 1, "192.0.2.77:8620: Cannot assign requested address"),
    ]
    for arguments, code, text in cases:
        ended = main(["agent", *arguments])
        said = capsys.readouterr().err
        assert (ended, said.count("\n")) == (code, 1), (arguments, said)
        assert text in said
        assert "secret" not in said
    silent.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ["probe", "127.0.0.1:99999"], ["probe", "[::1"], ["probe", ":862"], ["probe", "h", "--every", "0.5ms"],
        ["probe", "h", "--every", "1h"], ["probe", "h", "-n", "0"], ["probe", "h", "-n", "100001"],
        ["probe", "h", "--dscp", "64"], ["reflect", "--allow", "10.0.0.1/8"], ["reflect", "--per-second", "0"], [],
    ],
)  # fmt: skip
def test_wrong_arguments_end_with_the_usage_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["agent", *arguments])
    assert capsys.readouterr().err.splitlines()[-1].startswith("vmflow agent")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_standard_library_is_all_it_needs(tmp_path: Path) -> None:
    """As `pip install --no-deps` leaves it: without site-packages, but for what names the version."""
    info = tmp_path / f"vmflow-{metadata.version('vmflow')}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vmflow\nVersion: {metadata.version('vmflow')}\n")
    code = (
        "import re, sys; sys.path[:0] = sys.argv[1:3]; from collector.__main__ import main; "
        "code = main(['agent', 'probe', sys.argv[3], '-n', '100', '--every', '2ms', '--format', sys.argv[4]]); "
        f"print([name for name in {HEAVY} if name in sys.modules], code, "
        "re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1], file=sys.stderr)"
    )
    with reflector() as (address, _):
        for output in ("table", "json"):
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", code, str(ROOT), str(tmp_path), address, output],
                capture_output=True, text=True, timeout=60, check=False, env={**os.environ},
            )  # fmt: skip
            loaded, exit_code, most_kb = done.stderr.rsplit(" ", 2)
            assert (loaded, exit_code) == ("[]", "0"), done.stderr
            assert int(most_kb) < MOST_MB * 1024, most_kb
    code = "import sys; sys.path[:0] = sys.argv[1:3]; from collector.__main__ import main; sys.exit(main(['top']))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("vmflow top: needs ")


def test_what_the_documents_name_is_understood() -> None:
    lines = [line[1:] for line in documented() if line[0] == "agent" and line[1:]]
    assert len(lines) > 8
    for line in lines:
        if line[0] != "probe" or line[1:]:
            parser_of("agent").parse_args(line)
