"""Errors of the store: as a whole (exceptions whose messages say what to do), or of one insert.

For an insert's error, `verdict_of` and `Patience` decide whether to retry the same insert.  ClickHouse's codes are
data, in `error_codes.txt`.  If the cause is doubtful, the insert is retried for some minutes, so that no short problem
costs rows and no row blocks the others forever.
"""

from __future__ import annotations

import errno
import gc
import re
import time
import traceback
from collections.abc import Callable
from enum import Enum
from functools import cache
from importlib import resources

from clickhouse_connect.driver import exceptions as driver
from urllib3.exceptions import HTTPError


class StoreError(Exception):
    """The store cannot be used."""


class StoreUnreachableError(StoreError):
    """The server does not answer, or reports that it cannot now: it may later."""


class StoreLockedError(StoreError):
    """Another process has the embedded store open."""


class LeaseTakenError(StoreError):
    """Another collector stores into the same database."""


class SchemaError(StoreError):
    """The tables are not those of this release."""


class BrokenSegmentError(StoreError):
    """A file of the spool does not hold the rows that it was written with."""


def free_rows_of(error: BaseException) -> None:
    """Free what a failed insert left in memory: its rows and its body, hundreds of MiB while a store refuses inserts.

    The tracebacks of `error` and of the errors behind it hold them as local variables.  So do errors after which the
    driver retried; they are parts of cycles, and so young that a short pass finds them.
    """
    chain: dict[int, BaseException] = {}
    behind: list[BaseException | None] = [error]
    while behind:
        one = behind.pop()
        if one is not None and id(one) not in chain:
            chain[id(one)] = one
            traceback.clear_frames(one.__traceback__)
            behind += (one.__cause__, one.__context__)
    gc.collect(1)


DOUBT_SECONDS = 300.0
"""How long an insert that fails for a doubtful reason is retried."""
DOUBT_ENDS_SECONDS = 1800.0
"""After this long without a doubtful failure, the next one gets the whole time again.  So rows that cannot be stored
hold up the others for a sixth of the time at most."""


class Verdict(Enum):
    """What to do after an error."""

    AGAIN = "again"
    DOUBTFUL = "doubtful"
    FINAL = "final"


RESOURCES = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.EBUSY,
        errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOENT,
        errno.EACCES, errno.EPERM, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENOTCONN,
    }
)  # fmt: skip
"""System errors caused by the machine: no descriptors, memory or disk space, a missing directory, no route."""

_RESOURCE_TEXT = re.compile(
    r"Too many open files|Cannot allocate memory|No space left|Disk quota exceeded|Input/output error|bad_alloc"
    r"|Resource temporarily unavailable|Read-only file system|can't start new thread|Connection re(set|fused)"
    # The server's own connection to another shard ended (code 32).
    r"|while receiving packet from",
    re.IGNORECASE,
)
"""Messages of errors that have no code, or a useless one (`STD_EXCEPTION`)."""

_REFUSED_BY_PROXY = re.compile(r"HTTP status (400|411|413|414|415|422)\b")
"""A proxy in front of the server refuses this request; 401, 403, 404 and 5xx may be repaired there."""


@cache
def reviewed() -> dict[int, tuple[str, Verdict]]:
    """Return name and verdict of each code in the list."""
    found: dict[int, tuple[str, Verdict]] = {}
    verdict = Verdict.DOUBTFUL
    for line in resources.files(__package__).joinpath("error_codes.txt").read_text("ascii").splitlines():
        if line.startswith("["):
            verdict = Verdict(line[1:].partition(":")[0])
        elif line and not line.startswith("#"):
            code, _, name = line.partition(" ")
            found[int(code)] = name, verdict
    return found


def verdict_of(error: BaseException) -> Verdict:
    """Return whether to retry the same insert."""
    # HTTPError: the connection broke during an answer that is read in parts; the driver passes it on unchanged.
    again = (StoreUnreachableError, driver.OperationalError, HTTPError, ConnectionError, TimeoutError, MemoryError)
    if isinstance(error, driver.DatabaseError) and error.code is not None:
        return _of_code(error.code, str(error))
    if isinstance(error, again):
        return Verdict.AGAIN
    if isinstance(error, driver.DatabaseError):
        return _without_code(error)
    if isinstance(error, OSError):
        known = error.errno in RESOURCES or _RESOURCE_TEXT.search(str(error))
        return Verdict.AGAIN if known else Verdict.DOUBTFUL
    if isinstance(error, RuntimeError):  # Python's own, such as "can't start new thread"
        return Verdict.AGAIN if _RESOURCE_TEXT.search(str(error)) else Verdict.DOUBTFUL
    return Verdict.FINAL


def _of_code(code: int, text: str) -> Verdict:
    verdict = reviewed().get(code, ("", Verdict.DOUBTFUL))[1]
    if verdict is Verdict.DOUBTFUL and _RESOURCE_TEXT.search(text):
        return Verdict.AGAIN
    return verdict


def _without_code(error: driver.DatabaseError) -> Verdict:
    """Judge a proxy's answer or a broken one; mistakes of this service have their own classes."""
    if _RESOURCE_TEXT.search(str(error)):
        return Verdict.AGAIN
    if type(error) is not driver.DatabaseError:
        return Verdict.FINAL
    return Verdict.DOUBTFUL if _REFUSED_BY_PROXY.search(str(error)) else Verdict.AGAIN


def transient(error: BaseException) -> bool:
    """Return whether the cause is the network or the server's load, disk or operator, not the rows or the statement."""
    return verdict_of(error) is Verdict.AGAIN


class Patience:
    """The decision whether to keep retrying; it knows how long each line of inserts has failed for doubtful reasons."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._doubts: dict[str, tuple[float, float]] = {}
        """By line: when its doubtful failures began, and the last one.  There are as many lines as tables."""

    def again(self, error: BaseException, line: str = "") -> bool:
        """Return whether to retry the insert that `error` ended; `line` names what it would hold up."""
        verdict = verdict_of(error)
        if verdict is not Verdict.DOUBTFUL:
            return verdict is Verdict.AGAIN
        now = self._clock()
        began, last = self._doubts.get(line, (now, now))
        if now - last > DOUBT_ENDS_SECONDS:
            began = now
        self._doubts[line] = began, now
        return now - began < DOUBT_SECONDS
