"""Run the commands of actions in a separate process, which was started before the service confined itself.

The children of a confined process are confined, too: a command could not read its own files.  So a second process, the
launcher, gets the commands at its start; later it is called by name, and passes an alert to a command as data.  It does
nothing else.  It ends with the service, however that ends, and so do running commands.

    service ── {"run": 7, "action": "capture", "notification": {…}} ──► launcher ──► argv of the settings
            ── {"stop": 7} ──►                                        │
            ◄── {"run": 7, "result": "ok", "status": "exit 0", "output": "…"}

Each message is JSON, preceded by its length in 4 octets.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collector.interfaces import AlertNotification
from collector.log import get_log
from collector.notify.action_run import PATH, Ended, body, run_command, variables
from collector.notify.receiver import NotifyError
from collector.notify.settings import ActionSettings, NotifySettings
from collector.threads import run

MESSAGE_BYTES = 16 * 2**20
"""Longest message; the labels of an alert have some hundred octets."""
END_SECONDS = 3.0
"""Longest wait for the launcher's end: it kills running commands, and waits for them 2 s at most."""

ENDED = Ended("failed", "", "the launcher of commands has ended: restart the service")

_LENGTH = struct.Struct("!I")
_log = get_log("notify")


class Launcher:
    """The launcher, for the service.  `start` comes first, and before the process is confined; then it is entered."""

    def __init__(self, settings: NotifySettings) -> None:
        self._actions = {
            name: action.model_dump(mode="json", exclude_defaults=True)
            for name, action in settings.actions.items()
            if settings.actions_enabled and action.kind == "command" and not action.dry_run
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._writer: StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Ended]] = {}
        self._runs = 0
        self._ending = False

    def start(self) -> None:
        """Start the process, if there is a command in the settings.  Blocks for milliseconds.  Raises NotifyError."""
        if self._process is not None or not self._actions:
            return
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - Python itself
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C is for the service, which then ends its commands in order
                cwd="/",
                env={"PATH": PATH, "LANG": "C.UTF-8", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            )
        except OSError as error:
            raise NotifyError(
                f"notify.actions: the launcher of commands cannot be started: {error.strerror}"
            ) from error
        finally:
            theirs.close()
        self._socket.setblocking(False)

    async def __aenter__(self) -> Launcher:
        self.start()
        if self._socket is not None:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
            _send(self._writer, self._actions)
            self._task = asyncio.create_task(self._listen(reader), name="action launcher")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._writer is None or self._process is None or self._task is None:
            return
        self._ending = True
        with suppress(OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self._writer.write_eof()
            async with asyncio.timeout(END_SECONDS):
                await self._task
            self._process.wait(1)  # it has closed its socket: milliseconds
        self._writer.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    async def run(self, action: str, notification: AlertNotification) -> Ended:
        """Run the command of `action` for an alert.  Killed with all that it started when this is cancelled."""
        if self._writer is None or self._task is None or self._task.done():
            return ENDED
        self._runs += 1
        number = self._runs
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting[number] = ended
        try:
            _send(self._writer, {"run": number, "action": action, "notification": asdict(notification)})
            return await ended
        except asyncio.CancelledError:
            with suppress(OSError, RuntimeError):
                _send(self._writer, {"stop": number})
            raise
        finally:
            self._waiting.pop(number, None)

    async def _listen(self, reader: StreamReader) -> None:
        with suppress(OSError, EOFError):
            while True:
                answer = await _receive(reader)
                ended = self._waiting.get(answer.pop("run"))
                if ended is not None and not ended.done():
                    ended.set_result(Ended(**answer))
        if not self._ending:
            _log.error("the launcher of commands has ended: no command runs until the service is started again")
        for ended in self._waiting.values():
            if not ended.done():
                ended.set_result(ENDED)


class _Runs:
    """The launcher itself, with its running commands."""

    def __init__(self, actions: Mapping[str, ActionSettings], writer: StreamWriter) -> None:
        self._actions = actions
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, request: Mapping[str, Any]) -> None:
        """Handle the service's requests."""
        if "stop" in request:
            task = self._tasks.get(request["stop"])
            if task is not None:
                task.cancel()
            return
        number = request["run"]
        self._tasks[number] = asyncio.create_task(
            self._run(number, request["action"], AlertNotification(**request["notification"]))
        )

    async def end(self) -> None:
        """Kill all."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, number: int, name: str, notification: AlertNotification) -> None:
        try:
            ended = await run_command(self._actions[name], body(name, notification), variables(name, notification))
        finally:
            del self._tasks[number]
        with suppress(OSError, RuntimeError):  # the service has ended
            _send(self._writer, {"run": number, **asdict(ended)})


async def _serve(handle: int) -> None:
    """Run what is requested on a socket until it is closed."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=handle))
    runs: _Runs | None = None
    try:
        actions = {name: ActionSettings(**action) for name, action in (await _receive(reader)).items()}
        runs = _Runs(actions, writer)
        while True:
            runs.take(await _receive(reader))
    except (OSError, EOFError):
        pass
    finally:
        if runs is not None:
            await runs.end()


def _send(writer: StreamWriter, message: Mapping[str, Any]) -> None:
    octets = json.dumps(message).encode()
    writer.write(_LENGTH.pack(len(octets)) + octets)


async def _receive(reader: StreamReader) -> dict[str, Any]:
    """Read one message.  Raises EOFError at the end, and for an invalid message."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MESSAGE_BYTES:
        raise EOFError
    message: dict[str, Any] = json.loads(await reader.readexactly(length))
    return message


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)  # commands have no part in it
    run(_serve(handle))
