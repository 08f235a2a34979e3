"""The Open vSwitch database of one hypervisor as a source of the inventory; never written to.

`read` returns what the database holds now: it sends a request first, so that neither a lost connection nor a daemon
that hangs can pass off old contents as fresh (see `ovsdb_replica.py`).
"""

from __future__ import annotations

import os
import time
import weakref
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

import pyarrow as pa

from collector.inventory.settings import OvsdbSettings
from collector.inventory.sources.base import Host, Report, SourceError, SourceSetupError, remote_address
from collector.inventory.sources.counters import CounterRows
from collector.inventory.sources.ovsdb_rows import counters, host, interfaces
from schemas.inventory import Rank

if TYPE_CHECKING:
    from collector.inventory.sources.ovsdb_replica import Replica, Tls

DEADLINE_SHARE = 0.9
"""Part of the deadline that a read uses: so that it fails by itself, with a reason, before it is given up."""
DEBOUNCE_SECONDS = 0.05
"""Changes that come together are read together: adding a port is several transactions."""
_KINDS = ("unix", "tcp", "ssl")


class Ovsdb:
    """One Open vSwitch database; follows `collector.inventory.sources.base.Source`."""

    rank = Rank.OVSDB

    def __init__(self, settings: OvsdbSettings) -> None:
        """Raises SourceSetupError without the library, for an invalid remote, and for missing files."""
        self._library = _load()
        self._tls = _tls(self._library, settings)
        self._settings = settings
        self.name = f"ovsdb {settings.remote}"
        self._remote_address = remote_address(settings.remote)
        self._replica: Replica | None = None
        self._counters = CounterRows("ovsdb")
        self._counters_due = 0.0
        """Monotonic seconds."""
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Not in `close`: another thread may be about to interrupt.
        weakref.finalize(self, _close_files, self._wake, self._waker)

    def read(self) -> Report:
        """Return the ports of all bridges, and counters if they are due.  Raises SourceError."""
        until = time.monotonic() + self._settings.deadline_seconds * DEADLINE_SHARE
        try:
            replica = self._followed(until)
            replica.sync(until)
        except self._library.ReplicaError as error:
            self.close()
            raise SourceError(f"{self.name}: {error}") from error
        changed_us, replica.changed_us = replica.changed_us, 0
        known = host(replica, self._settings, self._remote_address)
        return Report(
            interfaces=interfaces(replica, known.name),
            hosts=(known,),
            changed_us=changed_us,
            counters=self._counter_rows(replica, known),
        )

    def wait(self, seconds: float) -> bool:
        """Return True soon after a change other than of statistics, or when the connection is lost.

        Return False after `seconds`, when interrupted, or when counters are due, so that they come evenly whatever
        changes.
        """
        until = time.monotonic() + seconds
        if self._replica is not None and self._settings.counters_seconds > 0:
            until = min(until, self._counters_due)
        try:
            while not self._interrupted():
                if self._replica is None:
                    left = until - time.monotonic()
                    if left <= 0 or not self._library.readable(self._wake, left):
                        return False
                    continue
                self._turn(self._replica)
                if self._replica.changed_us:
                    self._gather(self._replica)
                    return True
                if not self._replica.block(until, self._wake):
                    return False
        except self._library.ReplicaError:
            self.close()
            return True
        return False

    def interrupt(self) -> None:
        """Make the wait under way, else the next one, return at once."""
        with suppress(BlockingIOError):  # the pipe is full: more than enough
            os.write(self._waker, b".")

    def close(self) -> None:
        """Close the connection; the next `read` makes a new one."""
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.close()

    def _followed(self, until: float) -> Replica:
        """Return the replica, a new one if there is none or the old one is worn out.  Raises ReplicaError."""
        if self._replica is not None and self._replica.worn:
            self.close()
        if self._replica is None:
            replica: Replica = self._library.Replica(
                self._settings.remote,
                self._tls,
                statistics=self._settings.counters_seconds > 0,
                probe_seconds=self._settings.deadline_seconds / 2,
                until=until,
            )
            self._replica = replica
        return self._replica

    def _turn(self, replica: Replica) -> None:
        """Take in what has arrived.  Raises ReplicaError, also if that does not end within the deadline."""
        replica.turn(time.monotonic() + self._settings.deadline_seconds)

    def _gather(self, replica: Replica) -> None:
        """Take in what arrives within a moment.  Raises ReplicaError."""
        until = time.monotonic() + DEBOUNCE_SECONDS
        while replica.block(until):
            self._turn(replica)

    def _interrupted(self) -> bool:
        try:
            return bool(os.read(self._wake, 4_096))
        except BlockingIOError:
            return False

    def _counter_rows(self, replica: Replica, known: Host) -> pa.RecordBatch | None:
        """Return rows of `interface_counters`, if they are wanted and due."""
        now = time.monotonic()
        if self._settings.counters_seconds <= 0 or now < self._counters_due:
            return None
        self._counters_due = now + self._settings.counters_seconds
        poll = counters(replica.rows("Interface"), time.time_ns() // 1_000, time.monotonic_ns() // 1_000)
        return self._counters.rows(poll, known.addresses[0] if known.addresses else None)


def _load() -> ModuleType:
    """Return the module that uses the library.  Raises SourceSetupError where that is not installed."""
    try:
        from collector.inventory.sources import ovsdb_replica  # noqa: PLC0415 - optional: the extra `ovsdb`
    except ImportError as error:
        raise SourceSetupError(
            f"inventory.ovsdb: Open vSwitch's Python library cannot be loaded ({error}). Install it with "
            "pip install 'vmflow[ovsdb]'"
        ) from error
    return ovsdb_replica


def _tls(library: ModuleType, settings: OvsdbSettings) -> Tls | None:
    """Return the files for an ssl remote, None for others.  Raises SourceSetupError for settings that can never
    work."""
    kind, _, rest = settings.remote.partition(":")
    port = rest.rpartition(":")[2]
    if (
        kind not in _KINDS
        or not rest
        or (kind != "unix" and not (port.isascii() and port.isdecimal() and rest != port))
    ):
        raise SourceSetupError(
            f"inventory.ovsdb: remote is {settings.remote!r}, expected unix:/path/db.sock, tcp:HOST:PORT or "
            "ssl:HOST:PORT"
        )
    if kind != "ssl":
        return None
    files = {name: getattr(settings, name) for name in ("private_key_file", "certificate_file", "ca_file")}
    for name, file in files.items():
        if file is None or not file.is_file():
            raise SourceSetupError(
                f"inventory.ovsdb {settings.remote}: {name} is {file or 'not set'}, expected a file: ssl needs "
                + ", ".join(files)
            )
    tls: Tls = library.Tls(*files.values())
    return tls


def _close_files(*files: int) -> None:
    for file in files:
        os.close(file)
