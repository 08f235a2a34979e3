"""What can go wrong with the store as a whole.  The messages say what to do."""

from __future__ import annotations

import gc
import traceback


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
