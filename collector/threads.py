"""Where threads and the event loop meet.  No other module names a thread.

A stage that must make a blocking call (a compiled kernel, an insert, libvirt) sends it through the `Bridge`, to the
workers kept for that stage: a slow store cannot take the workers that decode.  `LoopLag` measures how long the event
loop keeps a timer waiting, and how much of that was for lack of a core.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from collector.log import get_log
from collector.metrics import Metrics

CHECK_SECONDS = 0.1
WINDOW_SECONDS = 10.0
LATE_SECONDS = 0.1
"""No callback should hold the event loop for longer."""


@dataclass(frozen=True, order=True)
class Lag:
    """One wait of a timer."""

    seconds: float = 0.0
    core_seconds: float = 0.0
    """The part of it in which the thread could have run but had no core: other work on the machine took it."""


class LoopLag:
    """The measurement on the event loop that `run` runs on, with its metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.gauge("event_loop_lag_seconds", "Longest delay of a timer in the last 10 to 20 s.")
        self._core = metrics.gauge(
            "event_loop_core_wait_seconds", "Of that delay, how long the event loop's thread waited for a core."
        )
        self._late = metrics.counter(
            "event_loop_late_total",
            "Timers more than 0.1 s late: for want of a core, or held up by the process.",
            ["cause"],
        )
        for cause in ("core", "process"):
            self._late.labels(cause=cause)

    async def run(self) -> None:
        """Measure until cancelled."""
        before, now, until = Lag(), Lag(), time.monotonic() + WINDOW_SECONDS
        with CoreWait() as core:
            while True:
                waited, began = core.seconds(), time.monotonic()
                await asyncio.sleep(CHECK_SECONDS)
                ended = time.monotonic()
                now = max(now, self._late_by(ended - began - CHECK_SECONDS, core.seconds() - waited))
                worst = max(before, now)
                self._lag.set(worst.seconds)
                self._core.set(worst.core_seconds)
                if ended > until:
                    before, now, until = now, Lag(), ended + WINDOW_SECONDS

    def _late_by(self, seconds: float, core_seconds: float) -> Lag:
        """Count a timer that came late.  The thread may have waited for a core before the timer was due, too."""
        lag = Lag(max(seconds, 0.0), min(core_seconds, max(seconds, 0.0)))
        if lag.seconds > LATE_SECONDS:
            held = lag.seconds - lag.core_seconds > LATE_SECONDS
            self._late.labels(cause="process" if held else "core").inc()
        return lag


class CoreWait:
    """Return how long this thread has waited for a core, as counted by the kernel (`schedstat`); 0 where it does not
    count."""

    def __init__(self) -> None:
        self._file = -1

    def __enter__(self) -> CoreWait:
        with suppress(OSError):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def seconds(self) -> float:
        """The time waited since the thread began."""
        if self._file < 0:
            return 0.0
        _ran_ns, waited_ns, _times = os.pread(self._file, 100, 0).split()
        return int(waited_ns) / 1e9


P = ParamSpec("P")
T = TypeVar("T")

STOP_DEADLINE_SECONDS = 10.0
"""Long enough for an insert under way; systemd's own limit is 90 s."""

LOOP_NICE = -5
"""Added to the niceness of the event loop's thread, which then goes before the others.  When ten threads compete for
two cores, it waited 59 to 103 ms for a core without this, and 4 to 32 ms with it, in runs of 90 s (`bench.soak`)."""

CAP_SYS_NICE = 23
ASIDE_NICE = 19
"""Niceness of threads whose work is never urgent: the highest, for a seventieth of a usual thread's share."""

_LINUX = sys.platform == "linux"
"""Elsewhere, threads of a process have one niceness."""
_NICE = os.getpriority(os.PRIO_PROCESS, 0) if _LINUX else 0
"""Niceness of the process, as it was started."""

_log = get_log("threads")


class Bridge:
    """The bridge that runs blocking calls on worker threads, by stage, and returns results to the event loop.

    `workers` names the stages and how many threads each may have; threads start when first needed.
    """

    def __init__(self, workers: Mapping[str, int], stop_deadline_seconds: float = STOP_DEADLINE_SECONDS) -> None:
        self._workers = dict(workers)
        self.stop_seconds = stop_deadline_seconds
        """How long `stop` waits; may be changed before it."""
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._running: dict[Future[Any], str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: asyncio.Event | None = None
        self._abandoned: set[str] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._pools = {
            stage: ThreadPoolExecutor(count, thread_name_prefix=f"vmflow-{stage}", initializer=lower_priority)
            for stage, count in self._workers.items()
        }
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def stop(self) -> list[str]:
        """Refuse new calls, drop those not begun, and wait for those under way, up to the deadline.

        Returns the stages whose calls are still under way then.  Such a thread cannot be stopped from outside, and
        Python waits for it at exit: a caller that must not wait ends the process with `os._exit`.
        """
        pools, self._pools = self._pools, {}
        self._idle = asyncio.Event()
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        if self._awaited():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.stop_seconds):
                    await self._idle.wait()
        stuck = sorted(self._running.values())
        if stuck:
            late = [stage for stage in stuck if stage not in self._abandoned]
            if late:
                _log.error(
                    "calls did not end in time", stages=",".join(late), deadline_seconds=round(self.stop_seconds, 1)
                )
            return stuck
        for pool in pools.values():
            pool.shutdown(wait=True)
        return []

    def abandon(self, stage: str) -> None:
        """Do not let `stop` wait for this stage's calls under way: they count as stuck at once."""
        self._abandoned.add(stage)

    async def call(self, stage: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(*args, **kwargs)` on a thread of `stage`; return its result or raise its exception.

        A caller that is cancelled stops waiting; a call that has begun still runs to completion.  Raises KeyError for
        an unknown stage and RuntimeError if the bridge is not running.
        """
        if stage not in self._workers:
            raise KeyError(stage)
        pool = self._pools.get(stage)
        if pool is None:
            raise RuntimeError("the bridge is not running")
        future: Future[T] = pool.submit(partial(function, *args, **kwargs))
        self._running[future] = stage
        future.add_done_callback(self._ended)
        return await asyncio.wrap_future(future)

    def post(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Make the event loop call `function` soon; for use on any thread.  Return False if the loop has ended."""
        if self._loop is None:
            raise RuntimeError("the bridge is not running")
        try:
            self._loop.call_soon_threadsafe(partial(function, *args, **kwargs))
        except RuntimeError:
            return False
        return True

    def _ended(self, future: Future[Any]) -> None:
        """Remove a call that has ended; runs on its thread."""
        self._running.pop(future, None)
        if self._idle is not None and not self._awaited():
            self.post(self._idle.set)

    def _awaited(self) -> bool:
        """Return whether calls are under way that a stop waits for."""
        return any(stage not in self._abandoned for stage in list(self._running.values()))


def start_daemon(name: str, function: Callable[[], object]) -> None:
    """Run `function` on its own thread, for which Python does not wait at exit.

    For loops of libraries that never return and cannot be stopped from outside; all else goes through the `Bridge`.
    """

    def stood_back() -> None:
        lower_priority()
        function()

    threading.Thread(target=stood_back, name=f"vmflow-{name}", daemon=True).start()


def raise_priority() -> bool:
    """Make the system prefer this thread to the others of the process; return False where this is not allowed.

    For the event loop's thread.  Allowed for root, with CAP_SYS_NICE, or with a sufficient niceness limit
    (RLIMIT_NICE).
    """
    if not _LINUX:
        return False
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE + LOOP_NICE)
    except PermissionError:
        return False
    return True


def step_aside(number: int) -> bool:
    """Make the system prefer all other threads to this one, until `lower_priority`.

    Return False where niceness cannot be undone later: a thread of the engine's pool would stay slow forever.
    """
    if not step_back_allowed():
        return False
    with suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PROCESS, number, ASIDE_NICE)
        return True
    return False


def step_back_allowed() -> bool:
    """Return whether a thread's niceness may be lowered, down to the usual one."""
    if not _LINUX:
        return False
    import resource  # noqa: PLC0415 - there is none where this is not asked

    # man 2 getrlimit: the limit is 20 minus the least niceness.
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    if limit == resource.RLIM_INFINITY or 20 - limit <= _NICE:
        return True
    with suppress(OSError, StopIteration, ValueError), open("/proc/thread-self/status", encoding="ascii") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> CAP_SYS_NICE & 1)
    return False


def lower_priority(number: int = 0) -> None:
    """Give a thread or process, this one by default, the usual niceness: it has inherited its creator's."""
    if _LINUX:
        with suppress(OSError):  # it has ended, or is another user's by now
            os.setpriority(os.PRIO_PROCESS, number or threading.get_native_id(), _NICE)


def stand_back_all() -> None:
    """Give all threads of the process the usual niceness: at exit, each needs a core to end."""
    if _LINUX:
        with suppress(OSError):
            for number in os.listdir("/proc/self/task"):
                lower_priority(int(number))


def run(main: Coroutine[object, object, T], *, fast_loop: bool = True, debug: bool | None = None) -> T:
    """Run `main` to completion on a new event loop: uvloop's if it is installed and `fast_loop` is true."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if fast_loop:
        try:
            import uvloop  # noqa: PLC0415 - optional: missing on systems that it does not support
        except ImportError:
            pass
        else:
            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        return runner.run(main)
