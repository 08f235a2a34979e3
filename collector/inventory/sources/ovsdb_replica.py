"""A replica of a part of an Open vSwitch database, kept by Open vSwitch's own Python library; the only file that
imports it.

One `Replica` lives as long as its connection.  The library would reconnect by itself and meanwhile show the old
contents; here a lost connection is an error, and the next replica starts from nothing, so that stale contents never
pass for fresh ones.  It only monitors; no transaction is ever sent.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ovs.db.idl
import ovs.jsonrpc
import ovs.poller
import ovs.stream

MAX_BYTES = 32 << 20
"""Octets of messages taken in at once, and of one message: 20,000 ports, at 1,500 octets each."""
MAX_TOTAL_BYTES = 256 << 20
"""Octets taken in over one connection, which bounds what a replica holds.  Then a new one is made."""
MAX_INTERFACES = 65_536
"""More than a bridge has OpenFlow port numbers for (65,279)."""
MAX_PLACES = 8
"""Addresses of a name that are tried."""
STATISTICS = "statistics"

# The library waits with select(), which fails for file descriptors above 1023; an embedded store has many files open.
ovs.poller.SelectPoll = select.poll

_tls_lock = threading.Lock()
"""Held while a connection is made: the library keeps the files for TLS in one place for the whole process."""

_STRING = {"key": "string"}
_INTEGER = {"key": "integer"}
_INTEGER_OR_NONE = {"key": "integer", "min": 0, "max": 1}
_STRING_OR_NONE = {"key": "string", "min": 0, "max": 1}
_TEXTS = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}
_NUMBERS = {"key": "string", "value": "integer", "min": 0, "max": "unlimited"}


def _references(table: str, most: object = "unlimited") -> dict[str, object]:
    return {"key": {"type": "uuid", "refTable": table}, "min": 0, "max": most}


_TABLES: dict[str, dict[str, object]] = {
    "Open_vSwitch": {"external_ids": _TEXTS},
    "Bridge": {"name": _STRING, "ports": _references("Port"), "sflow": _references("sFlow", 1)},
    "Port": {
        "interfaces": _references("Interface"),
        "tag": _INTEGER_OR_NONE,
        "vlan_mode": _STRING_OR_NONE,
        "other_config": _TEXTS,
    },
    "Interface": {
        "name": _STRING,
        "type": _STRING,
        "ofport": _INTEGER_OR_NONE,
        "ifindex": _INTEGER_OR_NONE,
        "external_ids": _TEXTS,
        "options": _TEXTS,
        "link_speed": _INTEGER_OR_NONE,
        "ingress_policing_rate": _INTEGER,
    },
    "sFlow": {"agent": _STRING_OR_NONE},
}
"""What is replicated, with the types of vswitch.ovsschema; all of it is in every schema since Open vSwitch 2.5."""


class ReplicaError(Exception):
    """The database cannot be replicated; the message says why, and what was expected."""


class Tls(NamedTuple):
    """Files for `ssl:`."""

    private_key: Path
    certificate: Path
    authority: Path


class Replica(ovs.db.idl.Idl):  # type: ignore[misc] # the library has no types
    """The tables of one database, for use by one thread.  Rows are the library's: a column is an attribute."""

    def __init__(self, remote: str, tls: Tls | None, *, statistics: bool, probe_seconds: float, until: float) -> None:
        """Connect to `remote` before `until` (monotonic seconds); the contents come with `sync`.

        A peer that is silent for `probe_seconds` is probed, and given up after the same time again.  Raises
        ReplicaError.
        """
        tables = {name: dict(columns) for name, columns in _TABLES.items()}
        if statistics:
            tables["Interface"][STATISTICS] = _NUMBERS
        helper = ovs.db.idl.SchemaHelper(schema_json=_schema(tables))
        helper.register_all()
        super().__init__(remote, helper, leader_only=False)
        self.changed_us = 0
        """When a change was seen last (µs since 1970), except the first contents and statistics; 0 = not yet."""
        self._stream = _Bounded(_open(remote, tls, until))
        self._connection = ovs.jsonrpc.Connection(self._stream)
        self._session = ovs.jsonrpc.Session.open_unreliably(self._connection)
        self._session.rpc = self._connection
        self._session.reconnect.set_probe_interval(int(probe_seconds * 1_000))

    @property
    def worn(self) -> bool:
        """Whether it has taken in so much that it should be replaced."""
        received: int = self._connection.received_bytes
        return received > MAX_TOTAL_BYTES

    def rows(self, table: str) -> list[Any]:
        """Return all rows of a table."""
        return list(self.tables[table].rows.values())

    def sync(self, until: float) -> None:
        """Take in all that the database held when this was called.  Raises ReplicaError, also at `until`.

        The database answers in order: when it has answered a request sent now, all earlier changes have arrived.
        """
        first = not self.has_ever_connected()
        asked = False
        while True:
            self.turn(until)
            if self.state == self.IDL_S_MONITORING and not asked:
                asked = True
                self.send_request(ovs.jsonrpc.Message.create_request("echo", []))
            elif asked and self._request_id is None:
                break
            if not self.block(until):
                raise ReplicaError("no complete answer in time; expected an ovsdb-server with a database Open_vSwitch")
        if first:
            self.changed_us = 0
        if (count := len(self.tables["Interface"].rows)) > MAX_INTERFACES:
            raise ReplicaError(f"{count} interfaces, expected {MAX_INTERFACES} at most")

    def turn(self, until: float) -> None:
        """Take in what has arrived, without waiting.  Raises ReplicaError if the connection is lost, or the peer sends
        without end or violates the protocol."""
        self._stream.until = until
        received = -1
        while received != self._connection.received_bytes:
            received = self._connection.received_bytes
            if self._connection.parser is None:
                self._stream.left = MAX_BYTES
            try:
                self.run()
            except ReplicaError:
                raise
            except Exception as error:
                # The library trusts its peer: an invalid answer may cause any error.
                raise ReplicaError(f"an answer that cannot be understood ({type(error).__name__}: {error})") from error
            if not self._session.is_connected():
                raise ReplicaError("the connection was lost; expected an ovsdb-server with a database Open_vSwitch")

    def block(self, until: float, wake: int | None = None) -> bool:
        """Wait until something may have arrived, or `wake` (a file descriptor) can be read; return False once it is
        `until`."""
        left = until - time.monotonic()
        if left <= 0:
            return False
        poller = ovs.poller.Poller()
        poller.timer_wait(int(left * 1_000) + 1)
        if wake is not None:
            poller.fd_wait(wake, ovs.poller.POLLIN)
        self.wait(poller)
        poller.block()
        return True

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Called by the library for each row that has changed; `updates` has the old values of columns that changed."""
        table = self.tables.get(row._table.name)
        if table is None:
            return  # the server's own database, which older versions of the library report, too
        if event != ovs.db.idl.ROW_UPDATE or any(
            name != STATISTICS and hasattr(updates, name) for name in table.columns
        ):
            self.changed_us = time.time_ns() // 1_000


class _Bounded:
    """The library's stream with limits: on the length of a message, and of all messages."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.left = MAX_BYTES
        """Octets that may still arrive."""
        self.until = float("inf")
        """Monotonic seconds."""

    def recv(self, size: int) -> tuple[int, bytes | str]:
        """Like `ovs.stream.Stream.recv`: (errno, octets).  Raises ReplicaError at either limit."""
        error, octets = self._stream.recv(size)
        self.left -= len(octets)
        if self.left < 0:
            raise ReplicaError(f"more than {MAX_BYTES} octets at once, expected fewer")
        if octets and time.monotonic() > self.until:
            raise ReplicaError("data without end, expected an answer that ends in time")
        return error, octets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _schema(tables: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {
        "name": "Open_vSwitch",
        "tables": {
            table: {"columns": {name: {"type": kind} for name, kind in columns.items()}}
            for table, columns in tables.items()
        },
    }


def _open(remote: str, tls: Tls | None, until: float) -> Any:
    """Return a stream to the first answering address of `remote`.  Raises ReplicaError."""
    places = _places(remote)
    failure = ""
    for number, place in enumerate(places):
        left = max(0.0, until - time.monotonic()) / (len(places) - number)
        error, stream = _connect(place, tls, int(left * 1_000))
        if not error:
            return stream
        failure = os.strerror(error)
    hint = ", and certificates that both sides accept" if tls else ""
    raise ReplicaError(f"cannot connect ({failure}). Expected an ovsdb-server that listens there{hint}")


def _connect(place: str, tls: Tls | None, timeout_ms: int) -> tuple[int, Any]:
    """Return (errno, stream): one of the two."""
    with _tls_lock:
        if tls is not None:
            ovs.stream.Stream.ssl_set_private_key_file(str(tls.private_key))
            ovs.stream.Stream.ssl_set_certificate_file(str(tls.certificate))
            ovs.stream.Stream.ssl_set_ca_cert_file(str(tls.authority))
        try:
            opened = ovs.stream.Stream.open(place)
        except OSError as problem:
            raise ReplicaError(f"cannot connect ({problem}). Expected files in PEM format for TLS") from problem
    error, stream = ovs.stream.Stream.open_block(opened, timeout_ms)
    return error, stream


def _places(remote: str) -> Sequence[str]:
    """Return `remote` with each address of its host: the library itself resolves no names.  Raises ReplicaError."""
    kind, _, rest = remote.partition(":")
    if kind == "unix":
        return (remote,)
    host, _, port = rest.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ReplicaError(f"cannot find the address of {host} ({error})") from error
    return [f"{kind}:[{place[0]}]:{port}" for *_, place in found[:MAX_PLACES]]


def readable(file: int, seconds: float) -> bool:
    """Wait until `file` can be read; return False after `seconds`."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(seconds * 1_000))
