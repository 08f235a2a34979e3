"""Compile the kernels in processes of their own, while the service runs them uncompiled.

    service ── not all kernels are in the cache? ──► python -m collector.process.compilers PART ──► cache of kernels
       └─ every half second: load what is there by now ◄──────────────────────────────────────────────────┘

So the memory of the compiler goes with it, and two cores compile at the same time.  The processes are started before
the service confines itself, get nothing that is secret, and end with it, however that ends.  They do nothing until all
stages of the service have started: with both cores at work on kernels, that took 14 to 48 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from collector.alert.conditions.learn import warm_up as compile_learning
from collector.decode.flow_starts import Continued
from collector.decode.inbox import Shares
from collector.interfaces import Call
from collector.inventory.naming import warm_up as compile_names
from collector.listen.recvmmsg import best_reader
from collector.log import get_log
from collector.process.startup import YOUNG_OBJECTS
from collector.rollup.sums import warm_up as compile_sums
from collector.stopping import cancel
from collector.threads import start_daemon
from decoders import jit, kernel_cache
from decoders.decoder import LEGACY, SETS, SFLOW, Decoder

CHECK_SECONDS = 0.5
"""Between two looks for new machine code: a kernel takes seconds to compile, and 30 ms to load."""
PROGRESS_SECONDS = 10.0
"""How often the progress is logged."""
PARTS = ("sets", "others")
"""What is compiled at the same time; the kernels of IPFIX and NetFlow v9 take as long as all others together."""
MIRROR = "mirror"
"""The kernels of `vmflow mirror`, which the service does not need."""
VARIABLES = ("HOME", "LANG", "PATH", "VMFLOW_CACHE_DIR", "XDG_CACHE_HOME")
"""Variables that the processes get, beside those of numba."""

KEPT_DAYS = 90
"""Kernels of a version go when none of it was compiled for so long."""
PART_SECONDS = 600
"""A file that is not whole by then never will be."""

END_SECONDS = 3.0
"""Longest wait for the end of a process: it holds Python's lock for moments only."""
MODULE = "collector.process.compilers"
WAIT = f"import os, runpy; os.read(0, 1) and runpy.run_module({MODULE!r}, run_name='__main__', alter_sys=True)"
"""What a process runs: nothing is loaded before it may begin, and not at all if the service has ended."""

_log = get_log("kernels")


class Compilers:
    """The processes that compile.  `start` comes before the process is confined."""

    def __init__(self, parts: Sequence[str] = PARTS) -> None:
        """`parts`: what a process compiles, or several with commas between."""
        self._parts = parts
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, temporary: Path | None = None) -> bool:
        """Start what compiles, after `begin`, what is not in the cache; return whether that is anything.

        Blocks for milliseconds.  Where the cache cannot be written to, machine code is handed over in `temporary`, and
        lost with it.
        """
        complete = jit.cached()
        for problem in kernel_cache.take_problems():
            _log.warning(problem)
        if complete or jit.INTERPRETED:
            return False
        if temporary is not None and not kernel_cache.writable():
            os.environ["VMFLOW_CACHE_DIR"] = str(temporary / "kernels")
        try:
            self._processes = [
                _start(part) for part in ([",".join(self._parts[::-1])] if _cores() < 2 else self._parts)
            ]
        except OSError as error:
            _log.warning("kernels are compiled in this process", error=str(error))
            self.kill()
            return False
        jit.wait_for_kernels(True)
        return True

    def begin(self) -> None:
        """Let the processes compile."""
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):  # it has ended, which is found out later
                    process.stdin.write(b"\n")
                    process.stdin.flush()

    def wait(self) -> Iterator[tuple[int, int]]:
        """Yield how many kernels are in the cache, and how many there are, every ten seconds until all are compiled."""
        while self.running():
            with contextlib.suppress(subprocess.TimeoutExpired):
                next(one for one in self._processes if one.poll() is None).wait(PROGRESS_SECONDS)
            yield jit.cached_kernels()

    def running(self) -> bool:
        """Return whether a process compiles."""
        return any(process.poll() is None for process in self._processes)

    def failed(self) -> list[int]:
        """Return the exit codes of processes that did not end well."""
        return [process.returncode for process in self._processes if process.poll() not in (None, 0)]

    def kill(self) -> None:
        """End them all: each ends when its standard input does, since a confined process may send no signals."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)

    def component(self, call: Call) -> LoadedKernels:
        """Return the component that loads machine code as it comes; `call` runs on a thread."""
        return LoadedKernels(self, call)


class LoadedKernels:
    """The component of the service that loads kernels as they are compiled."""

    def __init__(self, compilers: Compilers, call: Call) -> None:
        self._compilers = compilers
        self._call = call
        self._may_begin = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="kernels") if jit.waiting() else None
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await cancel(self._task)
        finally:
            self._compilers.kill()

    def begin(self) -> None:
        """Let the compilers begin: the other components have started."""
        self._may_begin.set()

    async def _run(self) -> None:
        try:
            await self._load()
        except Exception as error:  # noqa: BLE001 - whatever the cache holds, the service goes on
            _log.error("kernels not loaded: they are compiled in this process", error=repr(error)[:300])
        finally:
            jit.wait_for_kernels(False)

    async def _load(self) -> None:
        await self._may_begin.wait()
        began = logged = time.monotonic()
        self._compilers.begin()
        _log.info("compiling the kernels: once per version; they run uncompiled meanwhile, some hundred times slower")
        while self._compilers.running():
            await asyncio.sleep(CHECK_SECONDS)
            await self._call(jit.load)
            if time.monotonic() - logged >= PROGRESS_SECONDS:
                logged = time.monotonic()
                ready, all_of_them = jit.progress()
                _log.info("compiling", kernels_ready=ready, kernels=all_of_them)
        await self._call(jit.load)
        jit.wait_for_kernels(False)
        for problem in kernel_cache.take_problems():
            _log.warning(problem)
        ready, all_of_them = jit.progress()
        if ready < all_of_them:
            codes = ",".join(map(str, self._compilers.failed()))
            _log.error("not all kernels were compiled: the others are, in this process", exit_codes=codes or "0")
        _log.info("kernels ready", kernels=ready, seconds=round(time.monotonic() - began, 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(parts: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith("NUMBA_")}
    return subprocess.Popen(  # noqa: S603 - Python itself
        [sys.executable, "-P", "-c", WAIT, parts],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is for the service
        cwd="/",
        env=kept | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )


def _end_with_parent() -> None:
    """End this process when its standard input ends, as it does with the parent, even by `kill -9`.  Never returns."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


@contextlib.contextmanager
def _alone(part: str) -> Iterator[None]:
    """Wait until no other process compiles this part into the same cache: then its kernels are there."""
    directory = kernel_cache.base_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(directory / f"compiling-{part}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def tidy() -> None:
    """Remove what was left by a compiler that was killed, and kernels of versions of which none was compiled for long.

    Never raises: it is only about room.
    """
    now = time.time()
    for path in kernel_cache.base_directory().glob("kernels-*"):
        with contextlib.suppress(OSError):
            for part in path.glob(".*.part"):
                if now - part.stat().st_mtime > PART_SECONDS:
                    part.unlink()
            if now - path.stat().st_mtime > KEPT_DAYS * 86_400:
                shutil.rmtree(path)


def compile_part(part: str) -> None:
    """Compile the kernels of this part, or load those that are in the cache.  Blocks."""
    if part == "sets":
        Decoder().warm_up(SETS)
        return
    if part == MIRROR:
        from collector.capture import ring  # noqa: PLC0415 - the service waits for all kernels that it has imported
        from decoders.mirror import meter  # noqa: PLC0415

        meter.warm_up()
        ring.warm_up()
        return
    best_reader().warm()
    Shares().warm()
    Decoder().warm_up(LEGACY)
    Decoder().warm_up(SFLOW)
    Continued().warm_up()
    compile_names()
    compile_sums()
    compile_learning()  # last: nothing waits for it but rules that learn


def main() -> int:
    """Compile parts, as a process of its own: PART[,PART]."""
    os.umask(0o077)
    gc.set_threshold(YOUNG_OBJECTS)  # numba's objects stay: each pass over them all would be in vain
    start_daemon("parent", _end_with_parent)
    tidy()
    for part in sys.argv[1].split(","):
        with _alone(part):
            compile_part(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
