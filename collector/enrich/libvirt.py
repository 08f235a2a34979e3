"""libvirt as a source of the inventory: the active domains of one daemon, read only.

`read` costs one call for the list of active domains with their states (libvirt 4.5 or newer), and a call for each
domain that changed; see `libvirt_domains.py`.  It ends well within the deadline of the settings if calls return: XML is
read during its first half, addresses until three quarters.  A daemon that hangs ends the connection by keepalive within
the deadline; one that hangs while the connection is being made does not, and the call has to be given up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from collector.enrich.counter_rows import CounterRows
from collector.enrich.libvirt_counters import DomainStats, poll
from collector.enrich.libvirt_domains import Domains
from collector.enrich.libvirt_session import Session, Signals, load, shown_uri
from collector.enrich.settings import LibvirtSettings
from collector.enrich.source import Host, Rank, Report, SourceError

Stats = Sequence[tuple[Any, Mapping[str, Any]]]
"""What the bulk call returns: (virDomain, its typed parameters) of each active domain."""


class Libvirt:
    """One libvirt daemon; follows `collector.enrich.source.Source`."""

    def __init__(self, settings: LibvirtSettings) -> None:
        """Raises SourceSetupError if the Python module of libvirt is missing, or the URI is none."""
        self._libvirt = load()
        self._settings = settings
        self.rank = Rank.LIBVIRT
        self.name = f"libvirt {shown_uri(settings.uri)}"
        self._signals = Signals()
        self._domains = Domains(
            self._libvirt, self.name, settings.poll_seconds, settings.guest_agent, clock=time.monotonic
        )
        self._counters = CounterRows("libvirt")
        """Outlives a connection: that libvirtd was restarted does not touch the counters."""
        self._counters_due = 0.0
        """Monotonic seconds."""
        self._session: Session | None = None
        self._busy = threading.Lock()
        """Held during a call: one that was given up may still hang when the next one comes."""
        self._closing = False

    def read(self) -> Report:
        """All interfaces of the domains that run here, counters if they are due.  Raises SourceError."""
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
        """True soon after an event, or where the connection was lost; False after `seconds`, or when interrupted.

        False before `seconds` have passed, too, if counters are due: so they come evenly, whatever events do.
        """
        if self._session is not None and self._settings.counters_seconds > 0:
            seconds = min(seconds, self._counters_due - time.monotonic())
        return self._signals.wait(seconds)

    def interrupt(self) -> None:
        """Make a wait under way return."""
        self._signals.interrupt()

    def close(self) -> None:
        """Close the connection; where a call hangs in it, that call closes it when it ends."""
        self._closing = True
        if self._busy.acquire(blocking=False):
            self._end_call()

    def _read(self) -> Report:
        started = time.monotonic()
        deadline = self._settings.deadline_seconds
        changed_us, dirty = self._signals.take()
        session = self._session
        if session is None or session.lost:
            # What events told of the connection before says nothing of when the new answer became true.
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
        """State of all active domains, and the counters of their interfaces if asked for, in one call.

        NOWAIT: a domain that is busy with a job may leave out what the job holds, but does not hold up the others.
        """
        libvirt = self._libvirt
        groups = libvirt.VIR_DOMAIN_STATS_STATE | (libvirt.VIR_DOMAIN_STATS_INTERFACE if with_counters else 0)
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        stats: Stats = session.connection.getAllDomainStats(groups, flags)
        return stats

    def _runs_here(self, values: Mapping[str, Any]) -> bool:
        """False while another host has the domain: it is being received, or was sent away and is not yet ended.

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
            # libvirt lets only such a connection ask guest agents; nothing is ever changed through it.
            writable=self._settings.guest_agent,
        )
        self._domains.connected()
        return self._session

    def _end_call(self) -> None:
        """Let the next call in; first close the connection if that was asked for meanwhile."""
        if self._closing:
            self._disconnect()
            self._closing = False
        self._busy.release()

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
