"""Settings of the rollups."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic import BaseModel, Field


class RollupSettings(BaseModel, frozen=True, extra="forbid"):
    """How rows are summed before their sums are stored."""

    enabled: bool = True
    """Without rollups the views of pairs, VMs and hypervisors are empty."""
    service: str = Field(default_factory=socket.gethostname, min_length=1, max_length=200)
    """Name of this service in table `rollup_groups`: after a kill, a service of the same name sums what is left.  Two
    services that write to one server need two names; a container needs a stable one."""
    key_file: Path | None = None
    """Holds the secret in the hashes of connections, 32 hexadecimal digits; generated if it is missing.  Default:
    `rollup.key` beside the spool.  Services that store into one database need the same one, or a connection that two of
    them see counts twice."""
    max_sums: int = Field(default=2**19, ge=1024, le=2**20)
    """Sums in memory (one per window, pair and sighting, about 250 octets each); with more, the sums are stored at
    once."""
    max_connections: int = Field(default=2**21, ge=1024, le=2**26)
    """Distinct connections in memory (about 20 octets each); with more, the sums are stored at once."""
    waiting_groups: int = Field(default=6, ge=1, le=100)
    """Groups of sums that wait for a slow store, at most: a minute.  The memory of further ones is freed, and their
    rows are read back and summed again when the store answers."""
    retry_seconds: float = Field(default=2, gt=0, le=600)
    """Pause before a failed insert of sums is retried."""
    stop_seconds: float = Field(default=5, ge=0, le=600)
    """Longest time for the last sums at a stop; the rest is summed at the next start."""
