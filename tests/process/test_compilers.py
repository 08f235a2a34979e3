"""Kernels that are compiled beside the running service, which takes datagrams meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.process import compilers
from collector.process.compilers import MODULE, Compilers, tidy
from decoders import jit, kernel_cache
from tests.service import ROOT, payloads, running, send

pytestmark = pytest.mark.skipif(jit.INTERPRETED, reason="nothing is compiled with NUMBA_DISABLE_JIT=1")


def children(parent: int) -> set[int]:
    return {int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def compiling(process: int) -> bool:
    try:
        return MODULE.encode() in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def until_gone(processes: set[int]) -> bool:
    deadline = time.monotonic() + 60
    while any(map(compiling, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(compiling, processes))


SENT = {"fprobe_v5": (26, None), "pmacct_nfprobe_v9": (30, 14156), "pmacct_ipfix": (28, 14586)}
"""Captures: records by tshark, packets by the exporter's own statistics (see tests/decoders)."""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_rows_are_stored_while_the_kernels_are_compiled(tmp_path: Path, end: signal.Signals) -> None:
    """Each once; and the compilers end with the service, even when it is killed."""
    with running(tmp_path, environment={"VMFLOW_CACHE_DIR": str(tmp_path / "cold")}) as service:
        begun = {number for number in children(service.process.pid) if compiling(number)}
        assert begun, "all kernels were in the cache already"
        for number, name in enumerate(SENT, 1):
            send(service.udp[0], payloads(name), f"127.6.0.{number}")
        count = sum(rows for rows, _ in SENT.values())
        stored = service.wait_for_rows("SELECT count() AS n FROM flows", count, 120)
        packets = service.query("SELECT protocol, sum(packets) AS n FROM flows GROUP BY protocol ORDER BY protocol")

        assert any(map(compiling, begun)), "all kernels are compiled already: the test proves nothing"
        assert stored == count
        assert [int(row["n"]) for row in packets][1:] == [SENT["pmacct_nfprobe_v9"][1], SENT["pmacct_ipfix"][1]]
        assert service.metric("vmflow_inbox_dropped_datagrams_total") == 0
        assert service.stop(end) == (0 if end is signal.SIGTERM else -signal.SIGKILL)
        assert until_gone(begun)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("VMFLOW_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_cache, "_problems", {})
    kernel_cache.usable.cache_clear()
    yield tmp_path / "cache"
    jit.wait_for_kernels(False)


def test_what_is_in_the_cache_is_not_compiled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "cached", lambda: True)

    assert not Compilers().start()
    assert not jit.waiting()


def test_machine_code_is_handed_over_where_the_cache_cannot_be_written_to(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("in its place")
    monkeypatch.setattr(compilers, "_start", lambda part: subprocess.Popen(["cat"], stdin=subprocess.PIPE))
    started = Compilers()

    assert started.start(tmp_path / "temporary")
    assert jit.waiting()
    assert os.environ["VMFLOW_CACHE_DIR"] == str(tmp_path / "temporary/kernels")
    assert kernel_cache.writable()
    assert kernel_cache.take_problems() == []
    started.kill()


def test_nothing_is_loaded_before_it_may_begin(cache: Path) -> None:
    """A start that fails, or is stopped, costs no compiler."""
    started = Compilers()

    assert started.start()
    assert started.running()
    started.kill()
    assert (started.running(), started.failed()) == (False, [])
    assert not (cache / "compiling-sets").exists()


def test_kernels_are_compiled_once_the_service_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    async def call(_function: object) -> None:
        events.append("loaded")

    async def scenario() -> None:
        compiling = Compilers()
        monkeypatch.setattr(compiling, "begin", lambda: events.append("compilers begin"))
        jit.wait_for_kernels(True)
        async with compiling.component(call) as component:
            assert component._task is not None
            for _ in range(3):
                await asyncio.sleep(0)
            events.append("started")
            component.begin()
            await component._task

    try:
        asyncio.run(scenario())
        assert events == ["started", "compilers begin", "loaded"]
    finally:
        jit.wait_for_kernels(False)


def test_what_compilers_left_is_removed(cache: Path) -> None:
    old, new = cache / "kernels-old", cache / "kernels-new"
    for directory in (old, new):
        directory.mkdir(parents=True)
        (directory / ".x.part").touch()
    now = time.time()
    os.utime(old, (now - 91 * 86_400,) * 2)
    os.utime(new / ".x.part", (now - 700,) * 2)
    (new / ".y.part").touch()
    (new / "f.kernel").touch()
    tidy()

    assert [path.name for path in cache.iterdir()] == ["kernels-new"]
    assert {path.name for path in new.iterdir()} == {".y.part", "f.kernel"}


def test_a_compiler_without_its_service_does_not_stay() -> None:
    done = subprocess.run([sys.executable, "-m", MODULE, "sets"], cwd=ROOT, check=False, input=b"", timeout=300)

    assert done.returncode == 1


def test_warmup_says_what_is_wrong_with_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "collector", "warmup", "--to", str(tmp_path / "file")],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 1
    assert f"no cache of kernels in {tmp_path}/file: File exists" in done.stderr


def test_a_defect_while_loading_ends_the_wait_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all kernels that are not loaded yet would run uncompiled for ever."""

    async def scenario() -> None:
        async def call(_function: object) -> None:
            raise MemoryError("no room for machine code")

        jit.wait_for_kernels(True)
        async with Compilers().component(call) as component:
            component.begin()
            assert component._task is not None
            await component._task

    try:
        asyncio.run(scenario())
        assert not jit.waiting()
    finally:
        jit.wait_for_kernels(False)
