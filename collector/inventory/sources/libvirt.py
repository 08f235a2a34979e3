"""libvirt as a source of the inventory: the active domains of one daemon, read only; the only file with the binding.

`read` costs one call for the list of active domains with their states (libvirt 4.5 or newer), and a call for each
domain that changed; see `libvirt_domains.py`.  It ends well within the deadline of the settings if calls return: XML is
read during its first half, addresses until three quarters.  If a daemon hangs, keepalive ends the connection within the
deadline; if it hangs while the connection is being made, it does not, and the call must be given up.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from collector.inventory.settings import LibvirtSettings
from collector.inventory.sources.base import Address, Host, Report, SourceError, SourceSetupError
from collector.inventory.sources.counters import CounterRows
from collector.inventory.sources.libvirt_domains import Domains, DomainStats, poll
from collector.log import get_log
from collector.threads import start_daemon
from schemas.inventory import Rank
from schemas.text import clean

KEEPALIVE_COUNT = 2
"""Keepalive messages that may stay unanswered; the connection is closed when the next one is due."""
DIRTY_DOMAINS = 16_384
"""As many domains as libvirt lists.  A change beyond that is found when the domain is next due to be read."""

_EVENTS = (
    "LIFECYCLE", "DEVICE_ADDED", "DEVICE_REMOVED", "AGENT_LIFECYCLE", "MIGRATION_ITERATION", "JOB_COMPLETED",
    "METADATA_CHANGE",
)  # fmt: skip

_log = get_log("libvirt")
_start_lock = threading.Lock()
_started = False


def load() -> ModuleType:
    """Return the binding.  Raises SourceSetupError where it is not installed."""
    try:
        import libvirt  # noqa: PLC0415 - optional: the extra `libvirt`
    except ImportError as error:
        raise SourceSetupError(
            f"inventory.libvirt: the Python module libvirt cannot be loaded ({error}). Install it with "
            "pip install 'vmflow[libvirt]'; to build it, Debian's packages libvirt-dev, pkg-config, gcc and "
            "python3-dev are needed"
        ) from error
    module: ModuleType = libvirt
    return module


def _start(libvirt: ModuleType) -> None:
    """Once per process, before the first connection, run libvirt's event loop on a thread and keep its errors off
    stderr.

    Errors are raised as exceptions; libvirt also prints them unless a handler takes them.
    """
    global _started  # noqa: PLW0603 - libvirt has one event loop per process
    with _start_lock:
        if _started:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        start_daemon("libvirt-events", lambda: _run_events(libvirt))
        _started = True


def _run_events(libvirt: ModuleType) -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            _log.sampled("libvirt's event loop failed", error=str(error))
            time.sleep(1)  # so that a lasting failure does not spin


class Signals:
    """What events reported since the last read; filled on libvirt's thread, waited for and taken on the source's.

    It waits a moment for the end of a burst of events, such as the start of a domain causes, so that one read covers
    it.
    """

    BURST_SECONDS = 0.05

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._interrupted = False
        self._pending = False
        self._changed_us = 0
        self._dirty: set[bytes] = set()

    def changed(self, domain: bytes | None) -> None:
        """Note that something happened just now, to the domain with this UUID if any."""
        with self._lock:
            self._changed_us = time.time_ns() // 1_000
            if domain is not None and len(self._dirty) < DIRTY_DOMAINS:
                self._dirty.add(domain)
        self.again()

    def again(self) -> None:
        """Make the next wait return at once, as after an event, but without a time."""
        with self._lock:
            self._pending = True
            self._wake.set()

    def interrupt(self) -> None:
        """Make the wait under way, else the next one, return at once."""
        with self._lock:
            self._interrupted = True
            self._wake.set()

    def wait(self, seconds: float) -> bool:
        """Return True as soon as something is pending, False after `seconds` or when interrupted."""
        self._wake.wait(max(seconds, 0.0))
        with self._lock:
            interrupted, self._interrupted = self._interrupted, False
            pending = self._pending
            if not pending:
                self._wake.clear()
        if interrupted or not pending:
            return False
        time.sleep(min(self.BURST_SECONDS, max(seconds, 0.0)))
        return True

    def take(self) -> tuple[int, set[bytes]]:
        """Return when the newest event came (µs since 1970, 0 = none did) and the domains that had one; then forget
        both."""
        with self._lock:
            taken = self._changed_us, self._dirty
            self._changed_us, self._dirty, self._pending = 0, set(), False
            if not self._interrupted:
                self._wake.clear()
        return taken


class Session:
    """A connection with its events.  Not thread-safe, except `lost`."""

    def __init__(
        self, libvirt: ModuleType, uri: str, keepalive_seconds: int, signals: Signals, *, writable: bool = False
    ) -> None:
        """Connect, read-only unless `writable`.  Raises libvirtError.

        A daemon that answers nothing for `keepalive_seconds` times (KEEPALIVE_COUNT + 1) is considered dead, which ends
        the call under way.  While the connection is being made nothing limits the wait: libvirt has no means for it.
        """
        _start(libvirt)
        self._libvirt = libvirt
        self._signals = signals
        self._callbacks: list[int] = []
        self.lost = False
        """Whether the connection has ended by itself."""
        self.connection: Any = libvirt.open(uri) if writable else libvirt.openReadOnly(uri)
        try:
            self._attempt(self.connection.setKeepAlive, keepalive_seconds, KEEPALIVE_COUNT)
            self._attempt(self.connection.registerCloseCallback, self._on_close, None)
            for name in _EVENTS:
                self._register(getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}"))
            self.host_name = clean(self.connection.getHostname())
        except libvirt.libvirtError:
            self.close()
            raise
        self.addresses = uri_addresses(uri)
        """Addresses of the host that the URI names."""

    def _attempt(self, function: Callable[..., object], *arguments: object) -> None:
        """Call what not every driver supports, and do without where it is not supported."""
        with suppress(self._libvirt.libvirtError):
            function(*arguments)

    def _register(self, event: int) -> None:
        """Ask for an event of all domains; a daemon too old for it, or a driver without events, is polled only."""
        with suppress(self._libvirt.libvirtError):
            self._callbacks.append(self.connection.domainEventRegisterAny(None, event, self._on_event, None))

    def _on_event(self, _connection: object, domain: Any, *_details: object) -> None:
        self._signals.changed(domain.UUID())

    def _on_close(self, _connection: object, _reason: int, _opaque: object) -> None:
        self.lost = True
        self._signals.again()

    def close(self) -> None:
        """Close the connection, with all that refers to it.  Does not raise."""
        for callback in self._callbacks:
            self._attempt(self.connection.domainEventDeregisterAny, callback)
        self._callbacks.clear()
        self._attempt(self.connection.unregisterCloseCallback)
        self._attempt(self.connection.close)


def shown_uri(uri: str) -> str:
    """Return `uri` without a password.  Raises SourceSetupError if it is not a URI."""
    try:
        user = urlsplit(uri).netloc.rpartition("@")[0]
    except ValueError as error:
        raise SourceSetupError(f"inventory.libvirt.uri: {error}; expected one such as qemu:///system") from None
    return uri.replace(f"{user}@", f"{user.partition(':')[0]}@", 1) if ":" in user else uri


def uri_addresses(uri: str) -> tuple[Address, ...]:
    """Return the addresses of the host that `uri` names: none where it names none, this machine, or an unknown one."""
    host = urlsplit(uri).hostname
    if not host:
        return ()
    found: dict[Address, None] = {}
    with suppress(OSError):
        for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            found[ip_address(str(place[0]).partition("%")[0])] = None
    return tuple(address for address in found if not address.is_loopback)


Stats = Sequence[tuple[Any, Mapping[str, Any]]]
"""What the bulk call returns: (virDomain, its typed parameters) of each active domain."""


class Libvirt:
    """One libvirt daemon; follows `collector.inventory.sources.base.Source`."""

    def __init__(self, settings: LibvirtSettings) -> None:
        """Raises SourceSetupError if the Python module of libvirt is missing, or the URI is not one."""
        self._libvirt = load()
        self._settings = settings
        self.rank = Rank.LIBVIRT
        self.name = f"libvirt {shown_uri(settings.uri)}"
        self._signals = Signals()
        self._domains = Domains(
            self._libvirt, self.name, settings.poll_seconds, settings.guest_agent, clock=time.monotonic
        )
        self._counters = CounterRows("libvirt")
        """Outlives a connection: a restart of libvirtd does not reset the counters."""
        self._counters_due = 0.0
        """Monotonic seconds."""
        self._session: Session | None = None
        self._busy = threading.Lock()
        """Held during a call: one that was given up may still hang when the next one is made."""
        self._closing = False

    def read(self) -> Report:
        """Return all interfaces of the domains that run here, counters if they are due.  Raises SourceError."""
        if not self._busy.acquire(blocking=False):
            raise SourceError(f"{self.name}: an earlier call still waits for an answer: is libvirtd hanging?")
        try:
            return self._read()
        except self._libvirt.libvirtError as error:
            self._disconnect()
            raise SourceError(f"{self.name}: {error}. Expected a libvirtd that answers there") from error
        finally:
            self._end_call()

    def wait(self, seconds: float) -> bool:
        """Return True soon after an event or a lost connection; False after `seconds`, or when interrupted.

        Also return False before `seconds` have passed if counters are due, so that they come evenly whatever events
        occur.
        """
        if self._session is not None and self._settings.counters_seconds > 0:
            seconds = min(seconds, self._counters_due - time.monotonic())
        return self._signals.wait(seconds)

    def interrupt(self) -> None:
        """Make a wait under way return."""
        self._signals.interrupt()

    def close(self) -> None:
        """Close the connection; if a call hangs in it, that call closes it when it ends."""
        self._closing = True
        if self._busy.acquire(blocking=False):
            self._end_call()

    def _read(self) -> Report:
        started = time.monotonic()
        deadline = self._settings.deadline_seconds
        changed_us, dirty = self._signals.take()
        session = self._session
        if session is None or session.lost:
            # Events on the previous connection do not show since when the new answer holds.
            changed_us = 0
            session = self._connect()
        host = self._settings.host or session.host_name
        counters_due = self._settings.counters_seconds > 0 and started >= self._counters_due
        stats = self._stats(session, counters_due)
        wall_us, monotonic_us = time.time_ns() // 1_000, time.monotonic_ns() // 1_000
        complete = self._domains.read(
            [domain for domain, _ in stats], dirty, host, started + deadline / 2, started + deadline * 3 / 4
        )
        if not complete:
            self._signals.again()
        addresses = tuple(dict.fromkeys(self._settings.exporters + session.addresses))
        counters = None
        if counters_due:
            self._counters_due = started + self._settings.counters_seconds
            polled = poll(
                [DomainStats(domain.UUID(), domain.ID(), values) for domain, values in stats], wall_us, monotonic_us
            )
            counters = self._counters.rows(polled, addresses[0] if addresses else None)
        return Report(
            interfaces=self._domains.interfaces(domain.UUID() for domain, values in stats if self._runs_here(values)),
            hosts=(Host(name=host, addresses=addresses),),
            changed_us=changed_us,
            counters=counters,
        )

    def _stats(self, session: Session, with_counters: bool) -> Stats:
        """Return the state of all active domains, and the counters of their interfaces if asked for, in one call.

        NOWAIT: a domain that is busy with a job may leave out what the job holds, but does not hold up the others.
        """
        libvirt = self._libvirt
        groups = libvirt.VIR_DOMAIN_STATS_STATE | (libvirt.VIR_DOMAIN_STATS_INTERFACE if with_counters else 0)
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        stats: Stats = session.connection.getAllDomainStats(groups, flags)
        return stats

    def _runs_here(self, values: Mapping[str, Any]) -> bool:
        """Return False while another host has the domain: it is being received, or was sent away and has not ended yet.

        A domain paused for any other reason keeps its addresses.
        """
        libvirt = self._libvirt
        if values.get("state.state") != libvirt.VIR_DOMAIN_PAUSED:
            return True
        return values.get("state.reason") not in (
            libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
            libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
            libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
            libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
        )

    def _connect(self) -> Session:
        self._disconnect()
        keepalive_seconds = max(1, int(self._settings.deadline_seconds // 4))
        self._session = Session(
            self._libvirt,
            self._settings.uri,
            keepalive_seconds,
            self._signals,
            # libvirt allows only such a connection to ask guest agents; nothing is ever changed through it.
            writable=self._settings.guest_agent,
        )
        self._domains.connected()
        return self._session

    def _end_call(self) -> None:
        """Allow the next call; first close the connection if that was requested meanwhile."""
        if self._closing:
            self._disconnect()
            self._closing = False
        self._busy.release()

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
