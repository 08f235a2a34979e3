"""What the start does not wait for: libraries that are not needed, the API, and kernels while the store opens."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from collector import app
from collector.app import Reloads, Service
from collector.decode import stage as decode_stage
from collector.decode.exporter_stats import OwnLoss
from collector.decode.settings import DecodeSettings
from collector.decode.stage import DecodeStage
from collector.http.gate import Entrance
from collector.http.settings import AccessSettings
from collector.listen.settings import ListenSettings
from collector.metrics import Metrics
from collector.rollup import stage as rollup_stage
from collector.settings import Settings
from collector.store.settings import StoreSettings
from collector.store.writer import Writer
from collector.threads import Bridge
from collector.web.events import Events
from collector.web.server import LateApi, Web
from collector.web.settings import WebSettings
from decoders.decoder import Decoder
from decoders.memory import MemoryPool
from tests.decode.test_workers import Nameless, Rows, traffic
from tests.listen.test_udp import until
from tests.service import ROOT, payloads, running, send

LATE = ("fastapi", "pandas", "openstack", "scapy", "libvirt", "ovs", "apprise", "chdb")
"""Loaded where it is used, if ever; chDB on the store's thread."""
START = """
import argparse, sys
from collector.commands import run
run.add_arguments(argparse.ArgumentParser())
import collector.commands.serve
"""
FREED = """
import sys
import numpy as np
from collector.process import startup
if "begin" in sys.argv:
    startup.begin()
def rss_mib():
    return int(open("/proc/self/statm").read().split()[1]) // 256
np.ones(20 << 20, np.uint8)  # an insert that was freed
before, columns, kept = rss_mib(), [], []
for _ in range(20):
    columns.append(np.ones(6 << 20, np.uint8))
    kept.append(np.ones(100_000, np.uint8))
full = rss_mib()
del columns
print(full - before, rss_mib() - before)
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
    code = (
        "import gc\nfrom collector.process.startup import YOUNG_OBJECTS\nprint(gc.get_threshold()[0] == YOUNG_OBJECTS)"
    )
    assert fresh(code) == "True"


def test_no_thread_keeps_the_interpreter_for_long() -> None:
    assert float(fresh("print(sys.getswitchinterval())")) <= 0.001


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


async def asked(app: ASGIApp, path: str = "/api") -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer to a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
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


def test_an_api_that_does_not_load_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> ASGIApp:
        raise ImportError("no such library")

    async def scenario(wait: float) -> tuple[int, dict[bytes, bytes], bytes]:
        monkeypatch.setattr("collector.web.server.LOAD_SECONDS", wait)
        async with Bridge({"api": 1}) as bridge:
            return await asked(LateApi(broken, partial(bridge.call, "api")))

    status, headers, _ = asyncio.run(scenario(20))
    assert (status, headers[b"retry-after"]) == (503, b"20")
    assert "the API cannot be loaded" in caplog.text


def stage_of(bridge: Bridge, enricher: Nameless, sink: Rows) -> DecodeStage:
    """A pipeline with one worker."""
    return DecodeStage(
        DecodeSettings(decode_workers=1, gather_milliseconds=0), Metrics(), bridge, sink, enricher,
        clock_us=lambda: 5, own_loss=OwnLoss, state_file=None,
    )  # fmt: skip


def test_kernels_are_there_before_the_pipeline_is_entered() -> None:
    sink, seen = Rows(), []

    async def scenario() -> None:
        async with Bridge({"decode-0": 1}) as bridge:
            pipeline = stage_of(bridge, Nameless(), sink)
            await pipeline.prepare(lambda: seen.append(threading.current_thread().name))
            assert pipeline.prepare() is pipeline.prepare()
            assert not pipeline.ready.is_set()
            async with pipeline:
                await pipeline.ready.wait()
                assert pipeline.offer(traffic("softflowd_v5", ["192.0.2.1"]))

    asyncio.run(scenario())
    assert sink.rows("flows")
    assert [name.startswith("vmflow-decode-0") for name in seen] == [True]


def test_memory_of_a_burst_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = MemoryPool(idle_turns=2)
    monkeypatch.setattr(decode_stage, "BLOCKS", blocks)
    monkeypatch.setattr(decode_stage, "METRICS_SECONDS", 0.01)

    async def scenario() -> None:
        async with Bridge({"decode-0": 1}) as bridge, stage_of(bridge, Nameless(), Rows()) as pipeline:
            await pipeline.ready.wait()
            blocks.take(16 << 20)
            assert blocks.spare_bytes == 16 << 20
            await until(lambda: blocks.spare_bytes == 0)

    asyncio.run(scenario())


def test_kernels_that_cannot_be_had_end_the_pipeline() -> None:
    class Broken(Nameless):
        def warm_up(self) -> None:
            raise ArithmeticError("no compiler")

    async def scenario() -> None:
        async with Bridge({"decode-0": 1}) as bridge:
            pipeline = stage_of(bridge, Broken(), Rows())
            await asyncio.wait({pipeline.prepare()})
            with pytest.raises(ArithmeticError, match="no compiler"):
                async with pipeline:
                    await pipeline.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("entered", [True, False])
def test_a_stop_does_not_wait_for_the_compiler(entered: bool) -> None:
    """Neither where the pipeline waits for it, nor where the start failed before."""
    begun, compiled = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert compiled.wait(600)

    async def scenario() -> list[str]:
        async with Bridge({"decode-0": 1}, stop_deadline_seconds=600) as bridge:
            pipeline = stage_of(bridge, Nameless(), Rows())
            preparing = pipeline.prepare(slow)
            assert await asyncio.to_thread(begun.wait, 50)
            assert not preparing.done()
            if entered:
                async with pipeline:
                    pass
            pipeline.abandon()
            return await bridge.stop()

    async def bounded() -> list[str]:
        try:
            return await asyncio.wait_for(scenario(), 60)
        finally:
            compiled.set()

    assert asyncio.run(bounded()) == ["decode-0"]


def service_of(store: StoreSettings) -> Service:
    """A service on free ports, that nobody reloads."""
    listen = ListenSettings.model_validate({"addresses": ["127.0.0.1:0"]})
    settings = Settings(store=store, listen=listen, web=WebSettings(port=0))
    return Service(settings, lambda: settings)


def test_a_stop_during_a_first_start_waits_for_no_compiler(
    embedded_store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for that of the decoders nor for that of the sums: no row was decoded or summed yet."""
    compiled = threading.Event()
    waiting = []

    def slow(*_: object) -> None:
        waiting.append(threading.current_thread().name)
        assert compiled.wait(600)

    monkeypatch.setattr(Decoder, "warm_up", slow)
    monkeypatch.setattr(rollup_stage, "warm_up", slow)
    monkeypatch.setattr(app, "STOP_SECONDS", 600.0)

    async def scenario() -> list[str]:
        service = service_of(embedded_store)
        running = asyncio.create_task(service.run())
        while not (service.web.url and len(waiting) >= 2):
            assert not running.done(), await running
            await asyncio.sleep(0.02)
        service.stopping.set()
        await running
        return await service.bridge.stop()

    async def bounded() -> list[str]:
        try:
            return await asyncio.wait_for(scenario(), 120)
        finally:
            compiled.set()

    assert asyncio.run(bounded()) == ["decode-0", "sum"]


def test_kernels_are_loaded_while_the_store_opens(
    embedded_store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of this test opens once the kernels are there: if they waited for it, nobody would ever be ready."""
    enter = Writer.__aenter__

    async def scenario() -> bool:
        service = service_of(embedded_store)

        async def late(writer: Writer) -> Writer:
            await asyncio.wait_for(asyncio.shield(service.decode.prepare()), 300)
            return await enter(writer)

        monkeypatch.setattr(Writer, "__aenter__", late)
        prepare = service.decode.prepare
        asked = []
        monkeypatch.setattr(service.decode, "prepare", lambda *before: asked.append(len(before)) or prepare(*before))
        running = asyncio.create_task(service.run())
        ready = asyncio.create_task(service.decode.ready.wait())
        await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
        service.stopping.set()
        await running
        assert asked[0] == 1, "nobody had asked for the kernels before the store opened"
        return ready.done()

    assert asyncio.run(scenario())


def test_signals_in_a_burst_lead_to_one_more_reload() -> None:
    """What was read last holds, and it was read after the last signal."""
    reading, go = threading.Semaphore(0), threading.Semaphore(0)
    settings = iter(range(10))
    loop_thread = threading.current_thread().name
    events: list[tuple[str, object]] = []

    def read() -> Callable[[], None]:
        number = next(settings)
        events.append(("read", threading.current_thread().name == loop_thread))
        reading.release()
        assert go.acquire(timeout=60)
        return lambda: events.append(("taken over", (number, threading.current_thread().name == loop_thread)))

    async def scenario() -> None:
        async with Bridge({"reload": 1}) as bridge, Reloads(read, partial(bridge.call, "reload")) as reloads:
            reloads.ask()
            assert await asyncio.to_thread(reading.acquire, timeout=60)
            for _ in range(5):
                reloads.ask()
                await asyncio.sleep(0)
            go.release(10)
            await until(lambda: sum(name == "taken over" for name, _ in events) == 2)
            await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert events == [
        ("read", False),
        ("taken over", (0, True)),
        ("read", False),
        ("taken over", (1, True)),
    ]


def test_a_reload_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    reads: list[int] = []

    def read() -> Callable[[], None]:
        reads.append(1)
        if len(reads) == 1:
            raise ArithmeticError("a defect")
        return done.set

    async def scenario() -> None:
        async with Bridge({"reload": 1}) as bridge, Reloads(read, partial(bridge.call, "reload")) as reloads:
            reloads.ask()
            await until(lambda: "a defect" in caplog.text)
            reloads.ask()
            await asyncio.wait_for(done.wait(), 60)

    asyncio.run(scenario())
    assert len(reads) == 2


def test_two_signals_in_a_burst_leave_the_last_settings(tmp_path: Path) -> None:
    """The real service: who may export is taken over from the file as it is after the second signal."""
    file = tmp_path / "vmflow.toml"
    allow = '[decode]\nallow = ["{}"]\n'
    file.write_text(allow.format("192.0.2.1"))
    asked = "SELECT countIf(exporter = toIPv6('127.5.0.1')) AS one, count() AS n FROM flows"
    with running(tmp_path, config=file) as service:
        for allowed in ("127.5.0.2", "127.5.0.1"):
            file.write_text(allow.format(allowed))
            service.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while not int(service.query(asked)[0]["one"]) and time.monotonic() < deadline:
            send(service.udp[0], payloads("softflowd_v5")[:1], "127.5.0.1")
            time.sleep(0.2)
        before = service.query(asked)[0]
        send(service.udp[0], payloads("softflowd_v5")[:1], "127.5.0.2")
        send(service.udp[0], payloads("softflowd_v5")[1:2], "127.5.0.1")
        after = service.wait_for_rows(asked, int(before["n"]) + 1)
        assert int(before["one"]) == int(before["n"]) > 0
        assert after == int(service.query(asked)[0]["one"])
        assert 1 <= sum(line.get("event") == "settings reloaded" for line in service.log) <= 2
        assert service.stop() == 0


def test_metrics_are_rendered_on_a_thread() -> None:
    """A thousand exporters are 55 ms of Python."""
    seen: list[str] = []

    class Watched(CollectorRegistry):
        def collect(self) -> Iterator[Any]:
            seen.append(threading.current_thread().name)
            return iter(super().collect())

    async def scenario() -> tuple[int, dict[bytes, bytes], bytes]:
        metrics = Metrics(Watched())
        metrics.counter("tests_total", "Tests.").inc(3)
        async with Bridge({"api": 2, "login": 1}) as bridge:
            entrance = Entrance(AccessSettings(), metrics, partial(bridge.call, "login"))
            web = Web(
                WebSettings(port=0), metrics, dict, None, None, None, Events(), entrance, partial(bridge.call, "api")
            )  # type: ignore[arg-type]
            async with web:
                return await asked(web._answer, "/metrics")

    status, headers, body = asyncio.run(scenario())
    assert (status, headers[b"content-type"].startswith(b"text/plain")) == (200, True)
    assert b"vmflow_tests_total 3.0" in body
    assert [name.startswith("vmflow-api") for name in seen] == [True]


@pytest.mark.parametrize(("begin", "stays"), [("begin", False), ("", True)])
def test_columns_that_are_free_go_back_to_the_system(begin: str, stays: bool) -> None:
    """Even where small things were made between them; without `begin` they would stay, on glibc."""
    out = subprocess.run([sys.executable, "-c", FREED, begin], check=True, capture_output=True, text=True, cwd=ROOT)

    full, freed = map(int, out.stdout.split())
    assert full >= 120
    assert (freed > 60) == stays
