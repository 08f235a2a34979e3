"""Drivers of other languages with their default settings: what tests/clients/install builds, asking a real endpoint.

Each program prints a line for each thing it asks; what it must say stands here.
"""

from __future__ import annotations

import shutil
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from schemas.descriptions import VIEW_COLUMNS
from schemas.flows import FLOWS
from tests.clients.conftest import DATABASE
from tests.sql.support import Endpoint

HERE = Path(__file__).parent
READ_ONLY = "This endpoint is read-only: 'INSERT' is refused"
UNKNOWN = "Unknown expression identifier `nope`"


def needs(built: Path, *programs: str) -> None:
    """Skip the test where what it runs is not there."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if not built.exists():
        pytest.skip(f"{built.relative_to(HERE)} is missing: run tests/clients/install, which asks a registry for it")


def said(*command: str | Path) -> dict[str, str]:
    """What a program printed: name and answer."""
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return dict(line.split("\t", 1) for line in run.stdout.splitlines())


@pytest.mark.parametrize("version", ["V2", "V1"])
def test_jdbc(endpoint: Endpoint, version: str) -> None:
    needs(HERE / "jdbc/classes/Ask.class", "java")
    host = urllib.parse.urlsplit(endpoint.url).netloc
    url = f"jdbc:clickhouse://{host}/{DATABASE}" + ("?clickhouse.jdbc.v1=true" if version == "V1" else "")

    answers = said("java", "-cp", f"{HERE}/jdbc/lib/*:{HERE}/jdbc/classes", "Ask", url, DATABASE)

    assert answers.pop("error").startswith(f"47 Code: 47. DB::Exception: {UNKNOWN}")
    assert answers.pop("insert").startswith(f"164 Code: 164. DB::Exception: {READ_ONLY}. (READONLY)")
    assert answers == {
        "valid": "true",
        "types": "18446744073709551615 it's 2026-01-02 03:04:05.678 null 2001:db8::1 [1,2]",
        "parameters": "42 it's",
        "large": "100000 14940000",
        "tables": "flows TABLE, pair_metrics VIEW",
        "flows.vni": f"UInt32: {FLOWS['vni'].doc}",
        "pair_metrics.loss_ratio": f"Nullable(Float64): {VIEW_COLUMNS['loss_ratio']}",
        "dbeaver": "flows MergeTree",
    }


@pytest.mark.parametrize("compression", ["none", "lz4", "lz4hc", "zstd", "gzip", "deflate", "br"])
def test_go(endpoint: Endpoint, compression: str) -> None:
    needs(HERE / "go/ask")
    host = urllib.parse.urlsplit(endpoint.url).netloc

    answers = said(HERE / "go/ask", host, DATABASE, compression)

    assert answers.pop("error").startswith(f"47 {UNKNOWN}")
    assert answers == {
        "valid": "true",
        "types": "18446744073709551615 it's 2026-01-02 03:04:05.678 true [1 2] <nil>",
        "parameters": "42 it's <nil>",
        "named": "true 42 <nil>",
        "large": "100000 14940000 <nil>",
        "insert": f"164 {READ_ONLY}. (READONLY)",
        "exec": "164 This endpoint is read-only: 'DROP' is refused. (READONLY)",
    }


def test_node(endpoint: Endpoint) -> None:
    needs(HERE / "node/node_modules/@clickhouse/client", "node")

    answers = said("node", HERE / "node/ask.mjs", endpoint.url, DATABASE)

    for prefix in ("", "compressed "):
        assert answers.pop(f"{prefix}error").startswith(f"47 {UNKNOWN}")
        assert answers.pop(f"{prefix}insert").strip() == f"164 {READ_ONLY}."
        assert answers.pop(f"{prefix}exec").strip() == "164 This endpoint is read-only: 'DROP' is refused."
    expected = {
        "valid": "true",
        "types": '[["18446744073709551615","it\'s","2026-01-02 03:04:05.678",null,"2001:db8::1",[1,2]]]',
        "parameters": '[[42,"it\'s"]]',
        "settings": "[[1]]",
        "large": "100000 14940000",
    }
    assert answers == {f"{prefix}{name}": value for prefix in ("", "compressed ") for name, value in expected.items()}
