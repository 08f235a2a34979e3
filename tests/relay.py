"""A relay in front of a real server, which fails as a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal, Self

Mode = Literal["pass", "refuse", "hang", "late", "cut"]
"""What becomes of a request:

`pass`: it is answered.  `refuse`: the connection is closed at once.  `hang`: it is read, and nothing more happens.
`late`: the server does it, but the answer does not come before the client's patience ends.  `cut`: the server does it,
and the connection breaks with the answer.
"""


class Relay:
    """Listens on a port of its own and hands octets to and from `target`, a `http://host:port`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self._mode: Mode = "pass"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.answers = 0
        """How often the server has answered since the mode was set."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._end_all()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def be(self, mode: Mode) -> None:
        """Behave like this from now on; open connections break."""
        self._mode = mode
        self.answers = 0
        await self._end_all()

    async def _end_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        streams = [out]
        try:
            if self._mode == "refuse":
                return
            from_server, to_server = await asyncio.open_connection(*self._target)
            streams.append(to_server)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(reader, to_server))
                both.create_task(self._answer(from_server, out))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for stream in streams:
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()
            self._tasks.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._mode != "hang":
                to_server.write(data)
                await to_server.drain()
        # The client has gone; what it asked for is still done, and answered to nobody.

    async def _answer(self, from_server: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        while data := await from_server.read(65536):
            self.answers += 1
            if self._mode == "cut":
                raise ConnectionResetError
            if self._mode != "late":
                out.write(data)
                await out.drain()
        out.close()
