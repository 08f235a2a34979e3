"""Sessions of browsers: who logged in with name and password keeps a cookie for some hours.

They are kept in memory, as digests, and end with the process.  For the event loop's thread.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from collector.http.login import Identity

IDLE_SECONDS = 2 * 3600.0
LONGEST_SECONDS = 12 * 3600.0
MOST, MOST_OF_ONE = 1000, 20
"""Sessions at a time, of all users and of one; the one that was used longest ago gives way."""
COOKIE, TLS_COOKIE = "vmflow", "__Host-vmflow"
"""With TLS a browser keeps it from other hosts and from plain HTTP."""


@dataclass(slots=True)
class _Session:
    who: Identity
    opened: float
    used: float


class Sessions:
    """The open sessions.  `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: OrderedDict[bytes, _Session] = OrderedDict()

    def open(self, who: Identity) -> str:
        """Return the secret of a new session."""
        secret = secrets.token_urlsafe(32)
        now = self._clock()
        own = [digest for digest, session in self._open.items() if session.who.name == who.name]
        for digest in own[: max(0, len(own) + 1 - MOST_OF_ONE)]:
            del self._open[digest]
        self._open[_digest(secret)] = _Session(who, now, now)
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        return secret

    def find(self, secret: str) -> Identity | None:
        """Return whose session it is, None if it has ended.  It counts as used."""
        digest = _digest(secret)
        if not self.lasts(secret):
            self._open.pop(digest, None)
            return None
        found = self._open[digest]
        found.used = self._clock()
        self._open.move_to_end(digest)
        return found.who

    def lasts(self, secret: str) -> bool:
        """Return whether a session has not ended, without using it: for answers that go on for hours."""
        found, now = self._open.get(_digest(secret)), self._clock()
        return found is not None and now - found.used <= IDLE_SECONDS and now - found.opened <= LONGEST_SECONDS

    def close(self, secret: str) -> None:
        """End a session."""
        self._open.pop(_digest(secret), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def secrets_of(cookies: str, *, tls: bool) -> list[str]:
    """Return the secrets of sessions in a `Cookie` header; the first one counts, and a log-out ends all.

    With TLS of our own only the cookie counts that plain HTTP cannot have set; a proxy may end the TLS, too.

    All services of a host share their cookies, and those of others may have any form: http.cookies would find none.
    """
    pairs = [part.strip().partition("=") for part in cookies.split(";")]
    names = (TLS_COOKIE,) if tls else (TLS_COOKIE, COOKIE)
    return [value for wanted in names for name, _, value in pairs if name == wanted and value]


def cookie(secret: str, *, tls: bool) -> str:
    """Return a `Set-Cookie` header; with an empty secret, the cookie is forgotten.

    No script reads it, and no page of another site sends it.
    """
    age = round(LONGEST_SECONDS) if secret else 0
    kept = f"{TLS_COOKIE if tls else COOKIE}={secret}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict"
    return f"{kept}; Secure" if tls else kept
