"""One run of an action: a command with the alert on its standard input, or a POST.

An alert's content is data, partly chosen by tenants.  It reaches a command as JSON on standard input and in variables,
never as arguments, and no shell reads it.  The command sees nothing of the service's environment, where secrets are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal
from urllib.parse import urlsplit

import urllib3

from collector.interfaces import AlertNotification
from collector.lines import json_text
from collector.notify.settings import ActionSettings
from collector.threads import lower_priority
from schemas.text import clean, visible

Result = Literal["ok", "failed", "late", "limited", "dry_run", "stopped"]
"""`schemas.alerts.ACTION_RESULTS`."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLE_CHARACTERS = 4096
CHUNK_BYTES = 65_536
REAP_SECONDS = 2.0
"""Longest wait for the end of a process that was killed; one that hangs in the kernel may take forever."""

_NOT_NAME = re.compile(r"[^A-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    result: Result
    status: str = ""
    """`exit 0`, `signal 9`, `HTTP 200`; empty if it did not get that far."""
    output: str = ""


def body(action: str, notification: AlertNotification) -> bytes:
    """Return the alert as JSON: the fields of `AlertNotification`, and the action's name."""
    return json_text({"action": action, **asdict(notification)}).encode()


def variables(action: str, notification: AlertNotification) -> dict[str, str]:
    """Return the whole environment of a command."""
    values = {
        "ACTION": action,
        "ALERT_ID": notification.alert_id,
        "ALERT_EVENT": notification.event,
        "ALERT_RULE": notification.rule,
        "ALERT_SEVERITY": notification.severity,
        "ALERT_SCOPE": notification.scope,
        "ALERT_MEASURE": notification.measure,
        "ALERT_VALUE": "" if notification.value is None else repr(notification.value),
        "ALERT_UNIT": notification.unit,
        "ALERT_SUMMARY": notification.summary,
    }
    values |= {f"ALERT_LABEL_{_NOT_NAME.sub('_', name.upper())}": text for name, text in notification.labels.items()}
    return {"PATH": PATH, "LANG": "C.UTF-8"} | {name: clean(text, VARIABLE_CHARACTERS) for name, text in values.items()}


async def run_command(settings: ActionSettings, data: bytes, environment: Mapping[str, str]) -> Ended:
    """Run `argv` in a session of its own; if it takes too long or is cancelled, all of the session is killed."""
    loop = asyncio.get_running_loop()
    try:
        # Like asyncio.create_subprocess_exec, which does not return the transport.
        transport, protocol = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(limit=CHUNK_BYTES, loop=loop),
            *settings.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return Ended("failed", "", f"cannot be run: {error.strerror or error}")
    process = Process(transport, protocol, loop)
    lower_priority(process.pid)
    kept = bytearray()
    ended = False
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            await asyncio.gather(_feed(process, data), _read(process, kept, settings.max_output_bytes))
            code = await process.wait()
        ended = True
    except TimeoutError:
        return Ended("late", "", _text(kept))
    finally:
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        # A process that left the session may hold the pipes for its whole life, so it is not waited for.
        transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_SECONDS):
                await process.wait()
    status = f"exit {code}" if code >= 0 else f"signal {-code}"
    return Ended("ok" if code == 0 else "failed", status, _text(kept))


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Write all of standard input; a command need not read it."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    # uvloop raises RuntimeError if the pipe is already closed: the command ended before the write.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()


async def _read(process: asyncio.subprocess.Process, kept: bytearray, most: int) -> None:
    """Read to the end and keep the start: a command whose pipe is full would hang."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    while chunk := await process.stdout.read(CHUNK_BYTES):
        kept += chunk[: most - len(kept)]


def post(settings: ActionSettings, url: str, data: bytes) -> Ended:
    """Send one POST.  Blocks.  Errors name only `host`, not the URL, which may hold a secret."""
    pool = urllib3.PoolManager(ca_certs=str(settings.ca_file) if settings.ca_file else None)
    try:
        response = pool.request(
            "POST",
            url,
            body=data,
            headers={"Content-Type": "application/json", "User-Agent": "vmflow"},
            timeout=urllib3.Timeout(total=settings.timeout_seconds),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        answer = response.read(settings.max_output_bytes) if settings.max_output_bytes else b""
    except (urllib3.exceptions.HTTPError, OSError) as error:
        # The library treats a refused connection as a kind of time-out.
        refused = isinstance(error, urllib3.exceptions.NewConnectionError)
        if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
            return Ended("late")
        return Ended("failed", "", f"no answer: {type(error).__name__}")
    finally:
        pool.clear()
    result: Result = "ok" if 200 <= response.status < 300 else "failed"
    return Ended(result, f"HTTP {response.status}", _text(answer))


def target(settings: ActionSettings, url: str) -> str:
    """Return the target for the audit: the command and its arguments, or the webhook's host."""
    return json_text(settings.argv) if settings.kind == "command" else urlsplit(url).hostname or ""


def _text(octets: bytes | bytearray) -> str:
    """Return the output of a command or server, line by line."""
    text = octets.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    return "\n".join(visible(line) for line in text.split("\n"))
