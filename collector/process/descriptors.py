"""File descriptors: how many the process may open, what it needs, and how many are left for connections.

Connections get what the store, the spool and the sockets do not need, so that no client can take theirs.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

from collector.http.server import CONNECTIONS
from collector.settings import Settings

WANTED = 65_536
"""If the system allows it, the limit is raised to this at the start; more would only allow larger leaks."""
OWN = 48
"""For Python, logs, the event loop, the spool, caches, sources of names and receivers of messages."""
ENGINE = 264
"""For the embedded engine with four queries, an insert and a merge at a time: three for each of its threads, and
files."""
LIBRARIES = 130
"""What the embedded engine also opens once it has looked at its own stack: every library of the process.  A query of
`system.functions` is enough.  If descriptors are few, there are fewer connections by as many."""
CLIENTS = 32
"""For connections to a ClickHouse server."""
PER_QUERY = 48
"""For one more query on the embedded engine."""
FEWEST = 16
"""Connections that a server needs to be of any use."""


class DescriptorsError(Exception):
    """The process may not open enough; the message says what is needed, what is available, and what to do."""


@dataclass(frozen=True, slots=True)
class Connections:
    """How many connections each server may have."""

    web: int = CONNECTIONS
    sql: int = CONNECTIONS
    streams: int | None = None
    """None: as many as in the settings."""


def raise_limit() -> int:
    """Raise the limit as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def connections(settings: Settings, limit: int) -> Connections:
    """Divide what `limit` leaves.  Raises DescriptorsError if it leaves too few."""
    wanted = {
        "web": CONNECTIONS if settings.web.enabled else 0,
        "sql": CONNECTIONS if settings.store.directory is not None and settings.sql.enabled else 0,
        "streams": settings.listen.stream_connections if settings.listen.streams else 0,
    }
    base = needed(settings)
    least = base + FEWEST * sum(map(bool, wanted.values()))
    if limit < least:
        raise DescriptorsError(
            f"{least} file descriptors are needed with these settings, and the system allows {limit}: raise the limit"
            " (`ulimit -n 4096`, LimitNOFILE= of a systemd unit, ulimits of a container)"
        )
    left = limit - base - (LIBRARIES if settings.store.directory is not None else 0)
    share = min(1.0, max(0, left) / max(1, sum(wanted.values())))
    given = {name: min(number, max(FEWEST, int(number * share))) for name, number in wanted.items()}
    return Connections(**given)


def needed(settings: Settings) -> int:
    """Return the descriptors for everything but connections."""
    listen, store = settings.listen, settings.store
    sockets = len(listen.addresses) * listen.sockets + len(listen.streams) + 2
    if store.directory is None:
        return OWN + CLIENTS + sockets
    return OWN + ENGINE + PER_QUERY * max(0, settings.sql.max_queries - 4) + sockets
