"""The spool: inserts that the store does not accept at present, each in its own file.

A file's name states all but the rows: `NUMBER-TABLE-GROUP-ROWS-RUN.arrow`.  Numbers give the order.  RUN-NUMBER is the
deduplication token, so a repeated insert has the same one, also after a restart.  GROUP is 0 until the insert has its
number for `flows.rollup_group`; a file with another GROUP may have been sent.  The content is an Arrow IPC stream with
one record batch, compressed with lz4.  A file is written under another name first, so that it is either complete or
absent.

What a kill between two steps leaves, for an insert of `flows` (other tables have no groups and no sums):

    after this step                   left behind               the next start
    1 group opened in the store       file with group 0         sends it with another group; the old one has no rows
    2 file renamed to have the group  file, rows not stored     sends it: stored once, by this or by the attempt before
    3 rows stored                     file, rows stored         sends it: the store knows the token and stores nothing
    4 file removed                    rows stored, not summed   finds the group open, reads its rows back, sums them
    5 rows handed to the rollups      rows stored, not summed   the same
    6 sums stored, group done         nothing                   has nothing to do

Groups are read back only after a file that has one is sent (`Rollup.settled`): between 2 and 3 its rows might be
missing.  Removing the file after step 5 would be worse: sums might be stored while the file is still there, and then
only the token, which the store drops after 1,000 further inserts, would keep its rows from being counted twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from collector.log import get_log
from collector.store.errors import BrokenSegmentError, StoreError, StoreLockedError
from collector.store.native import LARGE_DICTIONARY, ROWS_PER_KEY, used_only
from schemas.column import Table
from schemas.tables import TABLES

BLOCK_BYTES = 4096
"""Block size of the disk: a file takes whole blocks."""

LOCK = "vmflow.lock"
TEMPORARY = ".tmp"
_NAME = re.compile(r"(?P<number>\d{12,18})-(?P<table>\w+)-(?P<group>\d+)-(?P<rows>\d+)-(?P<run>[0-9a-f]{32})\.arrow")
_TABLES = {table.name: table for table in TABLES}
_UNREADABLE = (errno.ENOENT, errno.EIO)

_log = get_log("spool")


@dataclass(eq=False, slots=True)
class Insert:
    """Rows of one table that are stored together: every attempt has the same rows, token and group."""

    number: int
    table: Table
    rows: int
    run: str
    """32 hexadecimal digits, unique to this run of the service."""
    group: int = 0
    """For column `rollup_group`, fixed before the first attempt; 0: not requested yet, or the table has none."""
    batches: list[pa.RecordBatch] | None = None
    """The rows, while they are in memory."""
    queue_bytes: int = 0
    """Their octets in the writer's queue."""
    file_bytes: int = 0
    """Octets of its file; 0: there is none."""

    @property
    def token(self) -> str:
        """The token by which the store deduplicates the insert."""
        return f"{self.run}-{self.number}"

    @property
    def file_name(self) -> str:
        """Name of its file, if it has one."""
        return f"{self.number:012d}-{self.table.name}-{self.group}-{self.rows}-{self.run}.arrow"


class Spool:
    """The files of inserts in one directory.  All calls block; one call at a time."""

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        """With `fsync`, a file is on the disk before `write` returns, if the disk reports this truthfully."""
        self._directory = directory
        self._fsync = fsync
        self._lock: int | None = None

    def open(self) -> tuple[list[Insert], int]:
        """Lock the directory; return the inserts in it, oldest first, and how many half-written files were removed.

        Raises StoreError if the directory cannot be used, StoreLockedError if another process uses it.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(self._directory)
            found = sorted(self._directory.iterdir())
            halves = [path for path in found if path.suffix == TEMPORARY]
            for path in halves:
                path.unlink()
            inserts = [insert for path in found if (insert := _insert(path)) is not None]
        except OSError as error:
            self.close()
            raise StoreError(
                f"cannot use the spool directory {self._directory}: {error.strerror}; set store.spool_directory"
            ) from error
        return sorted(inserts, key=lambda insert: insert.number), len(halves)

    def close(self) -> None:
        """Release the directory."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def write(self, insert: Insert) -> int:
        """Write the rows of an insert; return the octets of the file.  Raises OSError, with nothing left behind."""
        path = self._directory / insert.file_name
        temporary = path.with_suffix(TEMPORARY)
        batch = _joined(insert.batches or [])
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            with pa.OSFile(str(temporary), "wb") as file:
                with pa.ipc.new_stream(file, batch.schema, options=options) as stream:
                    stream.write_batch(batch)
                octets: int = file.tell()
            if self._fsync:
                _sync(temporary)
            temporary.replace(path)
            self._sync_names()
        except BaseException:
            for left in (temporary, path):
                left.unlink(missing_ok=True)
            raise
        return -(-octets // BLOCK_BYTES) * BLOCK_BYTES

    def read(self, insert: Insert) -> list[pa.RecordBatch]:
        """Return the rows of an insert.  Raises BrokenSegmentError if its file does not hold them, OSError for other
        failures."""
        try:
            with pa.OSFile(str(self._directory / insert.file_name)) as file:
                table = pa.ipc.open_stream(file).read_all()
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise BrokenSegmentError(f"{insert.file_name}: {error.strerror}") from error
        except pa.ArrowException as error:
            raise BrokenSegmentError(f"{insert.file_name}: {error}") from error
        if table.num_rows != insert.rows:
            raise BrokenSegmentError(f"{insert.file_name}: has {table.num_rows} rows, not {insert.rows}")
        batches: list[pa.RecordBatch] = table.to_batches()
        return batches

    def assign(self, insert: Insert, group: int) -> None:
        """Note the group of an insert in the name of its file.  Raises OSError."""
        before = self._directory / insert.file_name
        insert.group = group
        try:
            before.replace(self._directory / insert.file_name)
        except OSError:
            insert.group = 0
            raise
        self._sync_names()

    def remove(self, insert: Insert) -> None:
        """Remove the file of an insert.  Raises OSError."""
        (self._directory / insert.file_name).unlink(missing_ok=True)
        self._sync_names()

    def _sync_names(self) -> None:
        if self._fsync:
            _sync(self._directory)


def _locked(directory: Path) -> int:
    """Lock the directory for this process; return the descriptor that holds it."""
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreLockedError(
            f"the spool directory {directory} is in use by another vmflow: stop it, or set store.spool_directory"
        ) from None
    return handle


def _insert(path: Path) -> Insert | None:
    """Return what a file's name states; None for files that are not the spool's."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    table = _TABLES.get(match["table"])
    if table is None:
        _log.sampled(
            "a file in the spool is of a table that this release does not have: left alone",
            severity="error",
            file=path.name,
        )
        return None
    octets = -(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES
    return Insert(
        int(match["number"]),
        table,
        int(match["rows"]),
        match["run"],
        int(match["group"]),
        file_bytes=max(octets, BLOCK_BYTES),
    )


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return all rows as one batch, without unused names: the inventory's dictionaries hold those of a whole cloud."""
    (batch,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return pa.RecordBatch.from_arrays([_trimmed(column) for column in batch.columns], schema=batch.schema)


def _trimmed(array: pa.Array) -> pa.Array:
    if not pa.types.is_dictionary(array.type):
        return array
    if len(array.dictionary) <= max(LARGE_DICTIONARY, len(array) // ROWS_PER_KEY):
        return array
    keys, (indices,) = used_only(array.dictionary, [array.indices.to_numpy()])
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), keys)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
