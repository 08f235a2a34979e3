"""What can go wrong with the store as a whole.  The messages say what to do."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot be used."""


class StoreUnreachableError(StoreError):
    """The server does not answer, or says that it cannot now: it may later."""


class StoreLockedError(StoreError):
    """Another process has the embedded store open."""


class SchemaError(StoreError):
    """The tables are not those that this release writes."""


class BrokenSegmentError(StoreError):
    """A file of the spool does not hold the rows that it was written with."""
