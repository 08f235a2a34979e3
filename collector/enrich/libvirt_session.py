"""One connection to libvirt and its events; the only file that imports the binding."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from collector.enrich.source import Address, SourceSetupError
from collector.log import get_log
from collector.threads import start_daemon
from schemas.text import clean

KEEPALIVE_COUNT = 2
"""Questions that may stay unanswered; the connection is cut when the next one is due."""
DIRTY_DOMAINS = 16_384
"""As many domains as libvirt lists.  A change beyond is found when the domain's turn to be read again comes."""

_EVENTS = (
    "LIFECYCLE",
    "DEVICE_ADDED",
    "DEVICE_REMOVED",
    "AGENT_LIFECYCLE",
    "MIGRATION_ITERATION",
    "JOB_COMPLETED",
    "METADATA_CHANGE",
)

_log = get_log("libvirt")
_start_lock = threading.Lock()
_started = False


def load() -> ModuleType:
    """The binding.  Raises SourceSetupError where it is not installed."""
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
    """Once in a process, before the first connection: libvirt's event loop on a thread, and its errors not on stderr.

    Errors come as exceptions, too; libvirt prints them besides unless somebody takes them.
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
            time.sleep(1)  # so that a lasting failure is no busy loop


class Signals:
    """What events said since the last read; filled on libvirt's thread, waited for and taken on the source's.

    A burst of events, such as a start of a domain brings, is waited out for a moment, so that it is one read.
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
        """Something happened, to the domain with this UUID if any, just now."""
        with self._lock:
            self._changed_us = time.time_ns() // 1_000
            if domain is not None and len(self._dirty) < DIRTY_DOMAINS:
                self._dirty.add(domain)
        self.again()

    def again(self) -> None:
        """Have the next wait return at once, as after an event, but without a time."""
        with self._lock:
            self._pending = True
            self._wake.set()

    def interrupt(self) -> None:
        """Have the wait under way, else the next one, return at once."""
        with self._lock:
            self._interrupted = True
            self._wake.set()

    def wait(self, seconds: float) -> bool:
        """True as soon as something is pending, False after `seconds` or when interrupted."""
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
        """When the newest event came (µs since 1970, 0 = none did), and the domains that had one; then forget both."""
        with self._lock:
            taken = self._changed_us, self._dirty
            self._changed_us, self._dirty, self._pending = 0, set(), False
            if not self._interrupted:
                self._wake.clear()
        return taken


class Session:
    """A connection with its events.  Not for use by two threads at a time, `lost` apart."""

    def __init__(
        self, libvirt: ModuleType, uri: str, keepalive_seconds: int, signals: Signals, *, writable: bool = False
    ) -> None:
        """Connect, read-only unless `writable`.  Raises libvirtError.

        A daemon that answers nothing for `keepalive_seconds` times (KEEPALIVE_COUNT + 1) is taken for dead, which ends
        the call under way.  While the connection is being made nothing limits the wait: libvirt has no means for it.
        """
        _start(libvirt)
        self._libvirt = libvirt
        self._signals = signals
        self._callbacks: list[int] = []
        self.lost = False
        """The connection has ended by itself."""
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
        """Call what not every driver can do, and do without where it cannot."""
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
        """Give the connection back, with all that refers to it.  Does not raise."""
        for callback in self._callbacks:
            self._attempt(self.connection.domainEventDeregisterAny, callback)
        self._callbacks.clear()
        self._attempt(self.connection.unregisterCloseCallback)
        self._attempt(self.connection.close)


def shown_uri(uri: str) -> str:
    """`uri` without a password.  Raises SourceSetupError if it is no URI."""
    try:
        user = urlsplit(uri).netloc.rpartition("@")[0]
    except ValueError as error:
        raise SourceSetupError(f"inventory.libvirt.uri: {error}; expected one such as qemu:///system") from None
    return uri.replace(f"{user}@", f"{user.partition(':')[0]}@", 1) if ":" in user else uri


def uri_addresses(uri: str) -> tuple[Address, ...]:
    """Addresses of the host that `uri` names: none where it names none, or this machine, or one that nobody knows."""
    host = urlsplit(uri).hostname
    if not host:
        return ()
    found: dict[Address, None] = {}
    with suppress(OSError):
        for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            found[ip_address(str(place[0]).partition("%")[0])] = None
    return tuple(address for address in found if not address.is_loopback)
