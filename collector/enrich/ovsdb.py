"""The Open vSwitch database of one hypervisor as a source, followed through Open vSwitch's own Python library.

The library keeps a replica of the tables asked for (`monitor`); nothing is ever written.  A replica whose connection is
gone is never reported as fresh: the library probes an idle connection, and a lost one makes `read` fail.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pyarrow as pa

from collector.enrich.address import remote_address
from collector.enrich.counter_rows import CounterRows
from collector.enrich.ovsdb_rows import COLUMNS, STATISTICS, Tables, counters, hosts, interfaces
from collector.enrich.settings import OvsdbSettings
from collector.enrich.source import Address, Rank, Report, SourceError, SourceSetupError

DATABASE = "Open_vSwitch"
PROBE_SECONDS = 5.0
"""An idle connection is asked after this time whether it still lives, and given up after as much again."""
DEBOUNCE_SECONDS = 0.05
"""Changes that come together are read together: adding a port is several transactions."""


class Ovsdb:
    """Ports of one hypervisor.  See `collector.enrich.source.Source`."""

    rank = Rank.OVSDB

    def __init__(self, settings: OvsdbSettings) -> None:
        """Raises SourceSetupError without the library, for a remote of no known kind, and for missing files."""
        self.name = f"ovsdb {settings.remote}"
        self._settings = settings
        self._ovs = _library(settings)
        self._idl: Any = None
        self._seen = -1
        self._changed_us = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._counters = CounterRows("ovsdb")
        self._next_counters = 0.0

    def read(self) -> Report:
        """The ports of all bridges as the database has them now."""
        try:
            if self._idl is None:
                self._connect()
            else:
                self._idl.run()
            if not self._alive():
                raise SourceError(f"{self.name}: the connection was lost")
            self._seen = self._idl.change_seqno
            changed_us, self._changed_us = self._changed_us, 0
            tables = {name: list(table.rows.values()) for name, table in self._idl.tables.items()}
            known = hosts(tables, self._settings, remote_address(self._settings.remote))
            return Report(
                interfaces=interfaces(tables, known[0].name),
                hosts=known,
                changed_us=changed_us,
                counters=self._read_counters(tables, next(iter(known[0].addresses), None)),
            )
        except SourceError:
            self.close()
            raise
        except (OSError, ValueError, self._ovs.db.error.Error) as error:
            self.close()
            raise SourceError(f"{self.name}: {error}") from error

    def wait(self, seconds: float) -> bool:
        """Follow the database; True once it has changed or its connection is lost."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._block(left):
                return False
            if self._idl is None:
                continue
            self._idl.run()
            if not self._alive():
                return True
            if self._idl.change_seqno != self._seen:
                self._changed_us = time.time_ns() // 1000
                time.sleep(DEBOUNCE_SECONDS)
                return True
        return False

    def interrupt(self) -> None:
        """End a `wait` under way; for any thread."""
        os.write(self._wake_write, b".")

    def close(self) -> None:
        """Close the connection; the next `read` makes a new one."""
        idl, self._idl = self._idl, None
        if idl is not None:
            idl.close()

    def _alive(self) -> bool:
        # The library has no public question for this; its own tools ask the session, too.
        return bool(self._idl._session.is_connected())

    def _block(self, seconds: float) -> bool:
        """Wait for the database, at most `seconds`; says whether `interrupt` was called."""
        poller = self._ovs.poller.Poller()
        poller.fd_wait(self._wake_read, self._ovs.poller.POLLIN)
        poller.timer_wait(max(1, int(seconds * 1000)))
        if self._idl is not None:
            self._idl.wait(poller)
        poller.block()
        try:
            return bool(os.read(self._wake_read, 64))
        except BlockingIOError:
            return False

    def _connect(self) -> None:
        """Make the replica and wait until it holds the database's contents."""
        until = time.monotonic() + self._settings.deadline_seconds * 0.8
        helper = self._ovs.db.idl.SchemaHelper(schema_json=self._schema(until))
        columns = dict(COLUMNS)
        if self._settings.counters_seconds:
            columns["Interface"] = (*columns["Interface"], STATISTICS)
        for table, names in columns.items():
            helper.register_columns(table, list(names))
        self._idl = self._ovs.db.idl.Idl(
            self._settings.remote, helper, probe_interval=int(PROBE_SECONDS * 1000), leader_only=False
        )
        if self._settings.counters_seconds:
            # Counters change all the time: that alone is no reason to read.
            self._idl.tables["Interface"].columns[STATISTICS].alert = False
        while not self._idl.has_ever_connected():
            if (left := until - time.monotonic()) <= 0:
                raise SourceError(f"{self.name}: connected, but the contents did not come in time")
            if self._block(left):
                raise SourceError(f"{self.name}: interrupted")
            self._idl.run()

    def _schema(self, until: float) -> Any:
        """The database's schema, which the library needs to make a replica of a part."""
        ovs = self._ovs
        left_ms = max(1, int((until - time.monotonic()) * 1000))
        error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(self._settings.remote), left_ms)
        if error:
            raise SourceError(
                f"{self.name}: {os.strerror(error)}; is ovsdb-server running, and does it listen there "
                "(`ovs-vsctl get-manager`)?"
            )
        connection = ovs.jsonrpc.Connection(stream)
        try:
            request = ovs.jsonrpc.Message.create_request("get_schema", [DATABASE])
            if error := connection.send(request):
                raise SourceError(f"{self.name}: {os.strerror(error)}")
            return self._answer(connection, request.id, until)
        finally:
            connection.close()

    def _answer(self, connection: Any, request: Any, until: float) -> Any:
        while (left := until - time.monotonic()) > 0:
            connection.run()
            error, message = connection.recv()
            if message is not None and message.id == request:
                if message.error:
                    raise SourceError(f"{self.name}: no database {DATABASE}: {message.error}")
                return message.result
            if error and message is None and error != _AGAIN:
                raise SourceError(f"{self.name}: the connection was closed")
            poller = self._ovs.poller.Poller()
            poller.timer_wait(max(1, int(left * 1000)))
            connection.wait(poller)
            connection.recv_wait(poller)
            poller.block()
        raise SourceError(f"{self.name}: connected, but no answer came in time")

    def _read_counters(self, tables: Tables, agent: Address | None) -> pa.RecordBatch | None:
        """Rows of `interface_counters`, if they are wanted and due."""
        now = time.monotonic()
        if not self._settings.counters_seconds or now < self._next_counters:
            return None
        self._next_counters = now + self._settings.counters_seconds * 0.9
        poll = counters(tables, wall_us=time.time_ns() // 1000, monotonic_us=time.monotonic_ns() // 1000)
        return self._counters.rows(poll, agent)


_AGAIN = 11
"""EAGAIN, which the library gives while nothing has come."""


def _library(settings: OvsdbSettings) -> Any:
    """The library, checked and prepared for these settings."""
    try:
        import ovs.db.error  # noqa: PLC0415 - optional library
        import ovs.db.idl  # noqa: PLC0415
        import ovs.jsonrpc  # noqa: PLC0415
        import ovs.poller  # noqa: PLC0415
        import ovs.stream  # noqa: PLC0415
    except ImportError as error:
        raise SourceSetupError(
            f"inventory.ovsdb needs Open vSwitch's Python library: pip install 'vmflow[ovsdb]' ({error})"
        ) from error
    kind = settings.remote.split(":")[0]
    if kind not in ("unix", "tcp", "ssl") or not settings.remote[len(kind) + 1 :]:
        raise SourceSetupError(
            f"inventory.ovsdb: remote = {settings.remote!r}: unix:/path/db.sock, tcp:ADDRESS:PORT or ssl:ADDRESS:PORT "
            "is expected"
        )
    files = (settings.private_key_file, settings.certificate_file, settings.ca_file)
    if kind == "ssl":
        if not all(files):
            raise SourceSetupError(
                f"inventory.ovsdb {settings.remote}: ssl needs private_key_file, certificate_file and ca_file"
            )
        for file in files:
            if file is not None and not file.is_file():
                raise SourceSetupError(f"inventory.ovsdb {settings.remote}: {file}: no such file")
        ovs.stream.Stream.ssl_set_private_key_file(str(settings.private_key_file))
        ovs.stream.Stream.ssl_set_certificate_file(str(settings.certificate_file))
        ovs.stream.Stream.ssl_set_ca_cert_file(str(settings.ca_file))
    return ovs
