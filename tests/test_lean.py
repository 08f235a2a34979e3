"""What the start does not wait for: libraries that are not needed, the API, and kernels while the store opens."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from collector.threads import Bridge
from collector.web.server import LateApi
from tests.service import ROOT, running

LATE = ("fastapi", "pandas", "openstack", "scapy", "libvirt", "ovs", "apprise", "chdb")
"""Loaded where it is used, if ever; chDB on the store's thread."""
START = """
import argparse, sys
from collector.commands import run
run.add_arguments(argparse.ArgumentParser())
import collector.commands.serve
"""


def fresh(code: str) -> str:
    """What this code prints in a Python of its own."""
    command = [sys.executable, "-c", START + code]
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout.strip()


def test_the_start_loads_nothing_that_is_not_needed() -> None:
    pytest.importorskip("pandas", reason="what is not installed cannot be loaded")
    assert fresh(f"print([name for name in {LATE} if name in sys.modules])") == "[]"


def test_pandas_is_there_for_those_who_import_it() -> None:
    pytest.importorskip("pandas", reason="what is not installed cannot be loaded")
    code = """
import pyarrow as pa
table = pa.table({"n": pa.array([1, 2])})
assert "pandas" not in sys.modules
import pandas
print(type(table.to_pandas()) is pandas.DataFrame, pa.Table.from_pandas(table.to_pandas()) == table)
"""
    assert fresh(code) == "True True"


def test_chdb_answers_with_a_data_frame() -> None:
    pytest.importorskip("pandas", reason="what is not installed cannot be loaded")
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    assert fresh('import chdb\nprint(chdb.query("SELECT 7 AS n", "DataFrame")["n"].tolist())') == "[7]"


def test_cycles_are_looked_for_as_seldom_as_is_said() -> None:
    code = "import gc\nfrom collector.lean import YOUNG_OBJECTS\nprint(gc.get_threshold()[0] == YOUNG_OBJECTS)"
    assert fresh(code) == "True"


def libraries(pid: int) -> str:
    """Compiled libraries that a process has loaded."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_running_service_has_its_api_and_no_pandas(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        assert json.loads(service.get("/api/v1/rules"))["rules"]
        assert service.query("SELECT count() AS n FROM flows") == [{"n": 0}]
        assert "pyarrow" in libraries(service.process.pid)
        assert "/pandas/" not in libraries(service.process.pid)
        assert service.stop() == 0


async def asked(app: ASGIApp) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer to a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "method": "GET", "path": "/api", "headers": []}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_requests_wait_until_the_api_is_loaded_once() -> None:
    loaded = threading.Event()
    made: list[str] = []

    def make() -> ASGIApp:
        assert loaded.wait(60)
        made.append(threading.current_thread().name)
        return PlainTextResponse("the API")

    async def scenario() -> list[tuple[int, dict[bytes, bytes], bytes]]:
        async with Bridge({"api": 1}) as bridge:
            api = LateApi(make, partial(bridge.call, "api"))
            asking = [asyncio.create_task(asked(api)) for _ in range(3)]
            done, _ = await asyncio.wait(asking, timeout=0.05)
            assert not done
            loaded.set()
            return await asyncio.gather(*asking)

    answers = asyncio.run(scenario())
    assert [(status, body) for status, _, body in answers] == [(200, b"the API")] * 3
    assert len(made) == 1
    assert made[0].startswith("vmflow-api")


def test_an_api_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> ASGIApp:
        raise ImportError("no such library")

    async def scenario(wait: float) -> tuple[int, dict[bytes, bytes], bytes]:
        monkeypatch.setattr("collector.web.server.LOAD_SECONDS", wait)
        async with Bridge({"api": 1}) as bridge:
            return await asked(LateApi(broken, partial(bridge.call, "api")))

    status, headers, _ = asyncio.run(scenario(20))
    assert (status, headers[b"retry-after"]) == (503, b"20")
    assert "the API cannot be loaded" in caplog.text
