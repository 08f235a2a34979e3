"""What can go wrong with the store: as a whole (exceptions whose messages say what to do), or with one insert.

Of an insert's error it is judged whether to try the same insert again (`verdict_of`, `Patience`).  ClickHouse's codes
are data, in `error_codes.txt`.  Where nobody can say whose fault it is, it is tried again for some minutes, so that no
short trouble costs rows and no row blocks the others for ever.
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
    """The server does not answer, or says that it cannot now: it may later."""


class StoreLockedError(StoreError):
    """Another process has the embedded store open."""


class LeaseTakenError(StoreError):
    """Another collector stores into the same database."""


class SchemaError(StoreError):
    """The tables are not those that this release writes."""


class BrokenSegmentError(StoreError):
    """A file of the spool does not hold the rows that it was written with."""


def free_rows_of(error: BaseException) -> None:
    """Free what a failed insert left in memory: its rows and its body, hundreds of MiB while a store refuses.

    The tracebacks of `error` and of the errors behind it hold them as local variables.  So do errors that the driver
    met and tried again after; they are parts of cycles, and so young that a short pass finds them.
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
"""How long an insert that fails for a doubtful reason is tried again."""
DOUBT_ENDS_SECONDS = 1800.0
"""After this long without a doubtful failure the next one is given the whole time again.  So rows that nobody can store
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
"""System errors that are the machine's: no descriptors, memory or disk, a directory that is away, no way to go."""

_RESOURCE_TEXT = re.compile(
    r"Too many open files|Cannot allocate memory|No space left|Disk quota exceeded|Input/output error|bad_alloc"
    r"|Resource temporarily unavailable|Read-only file system|can't start new thread|Connection re(set|fused)"
    # The server's own connection to another shard ended (code 32).
    r"|while receiving packet from",
    re.IGNORECASE,
)
"""What errors say that have no code, or one that says nothing (`STD_EXCEPTION`)."""

_REFUSED_BY_PROXY = re.compile(r"HTTP status (400|411|413|414|415|422)\b")
"""A proxy before the server does not take this request; 401, 403, 404 and 5xx may be repaired there."""


@cache
def reviewed() -> dict[int, tuple[str, Verdict]]:
    """Name and verdict of each code that somebody has read."""
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
    """Whether to try the same insert again."""
    # HTTPError: the connection broke amid an answer that is read bit by bit; the driver hands it on as it is.
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
    """A proxy's answer or a broken one; our own mistakes have classes of their own."""
    if _RESOURCE_TEXT.search(str(error)):
        return Verdict.AGAIN
    if type(error) is not driver.DatabaseError:
        return Verdict.FINAL
    return Verdict.DOUBTFUL if _REFUSED_BY_PROXY.search(str(error)) else Verdict.AGAIN


def transient(error: BaseException) -> bool:
    """Whether the network, the server's load, its disk or its operator is to blame, not the rows or the statement."""
    return verdict_of(error) is Verdict.AGAIN


class Patience:
    """Decides whether to go on trying; knows how long each line of inserts has failed for doubtful reasons."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._doubts: dict[str, tuple[float, float]] = {}
        """By line: when its doubtful failures began, and the last one.  There are as many lines as tables."""

    def again(self, error: BaseException, line: str = "") -> bool:
        """Whether to try the insert again that `error` ended; `line` names what it would hold up."""
        verdict = verdict_of(error)
        if verdict is not Verdict.DOUBTFUL:
            return verdict is Verdict.AGAIN
        now = self._clock()
        began, last = self._doubts.get(line, (now, now))
        if now - last > DOUBT_ENDS_SECONDS:
            began = now
        self._doubts[line] = began, now
        return now - began < DOUBT_SECONDS
