"""Reading the settings again while the service runs: on a thread, since files and pydantic take a tenth of a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from collector.log import get_log
from collector.ports import Call

_log = get_log("app")


class Reloads:
    """Reloads when asked, one at a time.  However often it is asked meanwhile, exactly one more follows.

    `read` blocks and is called on a thread through `call`; what it returns takes over what was read, on the event loop.
    """

    def __init__(self, read: Callable[[], Callable[[], None]], call: Call) -> None:
        self._read = read
        self._call = call
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reload soon; what is read is younger than this call.  For the event loop's thread."""
        self._asked.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="reloads")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                take_over = await self._call(self._read)
                take_over()
            except Exception:  # noqa: BLE001 - the next one may succeed
                _log.exception("settings not reloaded: a defect of ours")
