"""Results on their way to the collector: kept until it has them, within bounds.

Rows wait in order.  Some are taken as a batch, whose number stays the same at each try, so that the collector takes it
once, also when only its answer was lost.  Where there is no room the oldest rows that wait are dropped, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import secrets
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PATH = "/api/v1/agent/results"
KEPT_OCTETS = 4 * 2**20
"""Rows that wait: some four hours of ten sessions."""
BATCH_OCTETS = 512 * 1024
"""The collector takes twice as much."""
BATCH_ROWS = 1000
ANSWER_SECONDS = 20.0
ANSWER_OCTETS = 4096
LEAST_PAUSE_S, MOST_PAUSE_S = 1.0, 60.0
"""Pauses between tries: doubling, cut at random, so that many agents do not come back at once."""
LONGEST_WAIT_S = 300.0
"""Most that a collector's Retry-After counts."""
DONE = frozenset({202, 409})
"""The collector has it: now, or since a former try."""
REFUSED = frozenset({400, 413, 415, 422})
"""It will never take this batch."""

Row = Mapping[str, Any]


class Answer(NamedTuple):
    """What the collector said; status 0: nothing, and why."""

    status: int
    text: str
    wait_s: float = 0.0


Post = Callable[[bytes], Answer]
"""Sends a batch.  It blocks, and does not raise."""


class Poster:
    """The way to a collector: a connection for each batch."""

    def __init__(self, url: str, token_file: Path, ca_file: Path | None = None) -> None:
        """Raises OSError and ssl.SSLError for a `ca_file` that is none."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path + PATH
        self._token_file = token_file
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None

    def __call__(self, body: bytes) -> Answer:
        """Send it, with the token that the file has now."""
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token()}"}
            connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
                if self._tls is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=ANSWER_SECONDS, context=self._tls)
            )
            try:
                connection.request("POST", self._path, body, headers)
                response = connection.getresponse()
                return Answer(response.status, _reason(response.read(ANSWER_OCTETS)), _wait(response))
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            return Answer(0, str(error) or type(error).__name__)

    def token(self) -> str:
        """Return the token.  Raises OSError; ValueError for what is none."""
        with self._token_file.open("rb") as opened:
            token = opened.read(1024).strip().decode("ascii")
        if not token.isprintable() or " " in token or not token:
            raise ValueError(f"{self._token_file}: one line with a token is expected")
        return token


class Outbox:
    """Rows that wait, and the batch that is tried.  For the event loop's thread."""

    def __init__(self, post: Post, say: Callable[[str], None], kept_octets: int = KEPT_OCTETS) -> None:
        """`say` gets a line when the collector ceases to take results, and when it does again."""
        self._post = post
        self._say = say
        self._kept_octets = kept_octets
        self._boot = secrets.randbits(62) + 1
        """Distinguishes the batches of this run from those of others."""
        self._batch = 0
        self._names: tuple[str, ...] = ()
        self._rows: deque[bytes] = deque()
        """Values of each row, in the order of the names, as JSON."""
        self._octets = 0
        self._more = asyncio.Event()
        self._trouble = ""
        self._ended = False
        self.dropped = 0
        """Rows for which there was no room, or that the collector refused."""
        self._said_dropped = 0
        self.taken = 0
        """Rows that the collector has."""
        self._trying = 0

    @property
    def waiting(self) -> int:
        """Rows that the collector does not have yet."""
        return len(self._rows) + self._trying

    def add(self, row: Row) -> None:
        """Keep a row until the collector has it; drop the oldest where there is no room.  All have the same names."""
        self._names = tuple(row)
        octets = json.dumps([*row.values()], separators=(",", ":"), allow_nan=False).encode()
        self._rows.append(octets)
        self._octets += len(octets)
        while self._octets > self._kept_octets:
            self._octets -= len(self._rows.popleft())
            self.dropped += 1
        self._more.set()

    async def run(self) -> None:
        """Send what comes, until cancelled, or ended and empty."""
        while not (self._ended and not self._rows):
            self._more.clear()
            if self._rows:
                await self._send(self._next())
            else:
                await self._more.wait()

    async def finish(self, running: asyncio.Task[None], seconds: float) -> None:
        """Let `run` send what waits, for so many seconds at most."""
        self._ended = True
        self._more.set()
        await asyncio.wait({running}, timeout=seconds)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def _next(self) -> bytes:
        """Take the oldest rows as a batch."""
        rows: list[list[Any]] = []
        octets = 0
        while self._rows and len(rows) < BATCH_ROWS and octets + len(self._rows[0]) <= BATCH_OCTETS:
            row = self._rows.popleft()
            octets += len(row)
            rows.append(json.loads(row))
        self._octets -= octets
        self._batch += 1
        self._trying = len(rows)
        columns = dict(zip(self._names, map(list, zip(*rows, strict=True)), strict=True))
        batch = {"boot": self._boot, "batch": self._batch, "columns": columns}
        return json.dumps(batch, separators=(",", ":")).encode()

    async def _send(self, body: bytes) -> None:
        pause_s = LEAST_PAUSE_S
        while True:
            answer = await _on_thread(self._post, body)
            if answer.status in DONE:
                self._well()
                self.taken += self._trying
                break
            if answer.status in REFUSED:
                self.dropped += self._trying
                self._unwell(f"refuses a batch ({answer.status}: {answer.text}): {self._trying} rows are dropped")
                break
            self._unwell(f"takes no results ({f'{answer.status}: ' if answer.status else ''}{answer.text}): they wait")
            wait_s = min(answer.wait_s, LONGEST_WAIT_S) + random.uniform(0.5, 1) * pause_s  # noqa: S311 - no secret
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)
        self._trying = 0

    def _well(self) -> None:
        if self._trouble:
            dropped = self.dropped - self._said_dropped
            self._say("the collector takes results again" + (f"; {dropped} rows were dropped" if dropped else ""))
        self._trouble, self._said_dropped = "", self.dropped

    def _unwell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._say(f"the collector {trouble}")
        self._trouble = trouble


async def _on_thread(post: Post, body: bytes) -> Answer:
    """Call it on a thread for which no end of the process waits: an answer may take long."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def finish(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    def work() -> None:
        answer = post(body)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, answer)

    threading.Thread(target=work, name="results", daemon=True).start()
    return await answered


def _reason(body: bytes) -> str:
    """Return what a collector's problem details say, in one line."""
    try:
        found = json.loads(body)
        texts = [found["detail"], *found.get("errors", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        texts = [body[:100].decode(errors="replace")]
    return "; ".join(str(text) for text in texts)[:300]


def _wait(response: http.client.HTTPResponse) -> float:
    text = response.getheader("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
