"""`vmflow decode`: what it prints, and what it says of mistakes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.column import Origin
from schemas.flows import FLOWS
from tests.service import FIXTURES, ROOT


def decode(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "collector", "decode", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=400, check=False)


FPROBE = str(FIXTURES / "fprobe_v5.pcap")
MIXED = str(FIXTURES / "ovs_sflow_mixed.pcap")


def test_json_has_the_columns_of_flows_and_addresses_as_people_write_them() -> None:
    done = decode(FPROBE)
    rows = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0
    assert len(rows) == 26
    assert list(rows[0]) == [column.name for column in FLOWS.stored]
    assert (rows[0]["exporter"], rows[0]["src_ip"], rows[0]["agent"]) == ("192.0.2.11", "10.20.0.11", "::")
    assert rows[0]["time_received"] == "2026-11-23 16:05:54.000230"
    assert sum(row["packets"] for row in rows) == 1537
    assert sum(row["bytes"] for row in rows) == 1143702
    assert b"1 datagrams, 26 flows" in done.stderr


def test_macs_print_in_their_usual_form() -> None:
    row = json.loads(decode(MIXED).stdout.splitlines()[0])

    assert row["src_mac"].startswith("52:54:00:0")


def test_csv_has_one_header_line_over_several_files() -> None:
    rows = list(csv.DictReader(io.StringIO(decode(FPROBE, FPROBE, "--format", "csv").stdout.decode())))

    assert len(rows) == 26  # the second time it is the same datagram again
    assert {row["protocol"] for row in rows} == {"netflow5"}


def test_arrow_holds_the_same_rows() -> None:
    done = decode(MIXED, "--format", "arrow", "--quiet")
    table = pa.ipc.open_stream(done.stdout).read_all()

    assert table.schema.names == FLOWS.arrow(Origin.DECODE).names
    assert table.num_rows == 722
    assert done.stderr == b""


def test_other_tables() -> None:
    counters = [json.loads(line) for line in decode(MIXED, "--table", "counters").stdout.splitlines()]
    problems = [json.loads(line) for line in decode(MIXED, "--table", "problems").stdout.splitlines()]
    templates = decode(str(FIXTURES / "pmacct_ipfix.pcap"), "--table", "templates").stdout.splitlines()

    assert {row["if_name"] for row in counters} >= {"vnet1", "vnet2"}
    assert {problem["reason"] for problem in problems} == {"skipped_record"}
    assert json.loads(templates[0])["version"] == 10


def test_a_rate_from_outside_wins() -> None:
    rows = [json.loads(line) for line in decode(FPROBE, "--sampling-rate", "100").stdout.splitlines()]

    assert {(row["sampling_rate"], row["rate_source"]) for row in rows} == {(100, "override")}


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nowhere.pcap"], 1, "nowhere.pcap: cannot open"),
        (["README.md"], 1, "README.md: at offset 0: expected a pcap or pcapng file"),
        ([FPROBE, "--table", "problems", "--format", "arrow"], 2, "--format arrow goes with"),
        ([], 2, "FILE"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(arguments: list[str], code: int, expected: str) -> None:
    done = decode(*arguments)

    assert done.returncode == code
    assert expected in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m collector decode {MIXED} --quiet | head -1"
    done = subprocess.run(["/bin/bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, check=False)

    assert len(done.stdout.splitlines()) == 1
    assert b"Traceback" not in done.stderr


def test_kernels_run_uncompiled_with_the_same_result(tmp_path: Path) -> None:
    import os

    command = [sys.executable, "-W", "error", "-m", "collector", "decode", FPROBE, MIXED, "--quiet"]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    plain = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=400, check=True, env=environment)

    assert plain.stdout == decode(FPROBE, MIXED, "--quiet").stdout
