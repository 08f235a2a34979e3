"""Settings of the store and of the SQL endpoint of the embedded store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator

from schemas.render import STORED
from schemas.views.interface import EVERY

SCHEMES = ("chdb", "http", "https")


def own_directory() -> Path:
    """Return the service's own directory.

    systemd names it in STATE_DIRECTORY; a user's is under the XDG data home.  Not the working directory: `vmflow query`
    must find the same store from anywhere.
    """
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if state:
        return Path(state).resolve()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data).resolve() / "vmflow"


def default_url() -> str:
    """Return the embedded store in the service's own directory."""
    return f"chdb://{own_directory() / 'store'}"


class SqlSettings(BaseModel, frozen=True, extra="forbid"):
    """The SQL endpoint: ClickHouse's HTTP interface in front of the embedded store, read only."""

    enabled: bool = True
    host: str = "127.0.0.1"
    """An address that others can reach needs logins: section `access`."""
    port: int = Field(default=8123, ge=0, le=65535)
    max_queries: int = Field(default=4, ge=1, le=64)
    """Queries at a time.  More wait; with four times as many waiting, a query is refused."""
    max_seconds: float = Field(default=60, gt=0)
    """Longest time of a query."""
    max_memory_bytes: int = Field(default=512 * 2**20, ge=2**20)
    """Memory of one query.  All of them share the store's bound, `store.memory_bytes`."""
    max_disk_bytes: int = Field(default=2 * 2**30, ge=2**20)
    """Temporary files of one query, when it sorts or groups more than fits into its memory."""
    max_result_rows: int = Field(default=1_000_000, ge=1)
    max_result_bytes: int = Field(default=256 * 2**20, ge=2**16)
    max_request_bytes: int = Field(default=2**20, ge=2**10)
    """Longest request: query text, headers and parameters."""


class StoreSettings(BaseModel, frozen=True, extra="forbid"):
    """Where rows are kept, for how long, and how they get there."""

    url: str = Field(default_factory=default_url)
    """`chdb:///directory` (embedded), `http://host:8123` or `https://host:8443` (a ClickHouse server)."""
    database: str = Field(default="vmflow", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    user: str = ""
    password: SecretStr = SecretStr("")
    cluster: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_.-]{0,63})?$")
    """Name of the ClickHouse cluster: tables become Replicated… and Distributed."""
    ca_file: str = ""
    """PEM file of the authority that signed an https server's certificate, if it is not a public one."""

    shared: bool = False
    """Start although another collector stores into the same database: alerts, inventory and latency are then stored
    twice."""

    schema_setup: bool = True
    """Create and migrate the tables at the start.  Off: only compare, and refuse to start if they differ."""
    ttl_days: dict[str, int] = Field(default_factory=dict)
    """Days that rows live, by table; for the others, see docs/columns.md."""

    interface_speeds: dict[str, int] = Field(default_factory=dict)
    """Speeds in bit/s for the utilisation, by `host/interface`; `*` is for those without another source."""

    batch_rows: int = Field(default=500_000, ge=1, le=2**20)
    """Rows of one insert: about 150 MB of flows.  Larger ones save little more, smaller ones cost more merging."""
    batch_age_seconds: float = Field(default=1.0, gt=0, le=60)
    """A smaller batch is inserted at this age: rows can be queried within two seconds."""
    queue_bytes: int = Field(default=384 * 2**20, ge=2**20)
    """Rows in memory, waiting or in flight, all tables: over a second of the highest rate.  What exceeds it is
    dropped."""

    spool_directory: Path | None = None
    """Where rows that the store does not accept wait on the disk.  Default: `spool` beside the embedded store; with a
    server, `spool` in the service's own directory.  Each service needs its own."""
    spool_bytes: int = Field(default=8 * 2**30, ge=2**20)
    """Disk space for them.  With more, the oldest are dropped and counted (`spool_full`)."""
    spool_after_seconds: float = Field(default=5, gt=0, le=60)
    """Rows go to the disk when an insert has failed, or has no answer after this time.  A store at its limit takes up
    to two seconds for an insert: the spool should not load its disk, too."""
    spool_fsync: Literal["segment", "never"] = "segment"
    """`segment`: each file is forced to the disk, so that it survives a power cut.  `never`: the system writes it when
    it chooses; a kill of the service alone loses nothing either way."""

    min_retry_seconds: float = Field(default=0.2, gt=0)
    max_retry_seconds: float = Field(default=15, gt=0)
    connect_seconds: int = Field(default=10, ge=1)
    insert_seconds: int = Field(default=60, ge=1)
    """An insert without an answer after this time is retried with the same token.  The driver takes whole seconds."""

    memory_bytes: int = Field(default=1000 * 2**20, ge=256 * 2**20)
    """Bound of the embedded engine.  Together with the queue and the decoder, the memory in use stays below 1.5 GiB."""
    merge_threads: int = Field(default=1, ge=1, le=64)
    """Background merges of the embedded engine: one leaves the other core of a small machine to inserts."""

    drain_seconds: float = Field(default=12, gt=0)
    """What is not stored this long after the stop goes to the spool; after a second if the store already fails.  The
    whole stop takes 15 s, of which 4 s are kept for the spool."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError(f"must begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)}, not {url!r}")
        if parts.scheme == "chdb" and (parts.netloc or len(parts.path) < 2):
            raise ValueError("an embedded store is chdb:///absolute/directory, with three slashes")
        if parts.scheme != "chdb" and not parts.hostname:
            raise ValueError("the server's name is missing")
        if parts.password is not None or any("pass" in key or "token" in key for key in parse_qs(parts.query)):
            raise ValueError("the password belongs into the setting `password`, where it is kept out of logs")
        return url

    @field_validator("ttl_days")
    @classmethod
    def _check_ttl(cls, days: dict[str, int]) -> dict[str, int]:
        known = {table.name for table in STORED if table.holds_rows}
        if unknown := sorted(set(days) - known):
            raise ValueError(f"no such table: {', '.join(unknown)}; tables are {', '.join(sorted(known))}")
        if wrong := sorted(name for name, value in days.items() if not 1 <= value <= 36500):
            raise ValueError(f"must be 1 to 36500 days: {', '.join(wrong)}")
        return days

    @field_validator("interface_speeds")
    @classmethod
    def _check_speeds(cls, speeds: dict[str, int]) -> dict[str, int]:
        for where, speed in speeds.items():
            host, _, interface = where.partition("/")
            if where != EVERY and not (host and interface):
                raise ValueError(f"must be `host/interface` or `{EVERY}`, not {where!r}")
            if not 1 <= speed < 2**63:
                raise ValueError(f"{where}: a speed is 1 to 2**63 - 1 bit/s, not {speed}")
        return speeds

    @property
    def embedded(self) -> bool:
        """Whether the store is in this process."""
        return self.url.startswith("chdb:")

    @property
    def directory(self) -> Path | None:
        """Directory of the embedded store, None with a server."""
        return Path(urlsplit(self.url).path) if self.embedded else None

    @property
    def spool(self) -> Path:
        """Directory of the spool."""
        if self.spool_directory is not None:
            return self.spool_directory
        return (self.directory.parent if self.directory is not None else own_directory()) / "spool"

    @property
    def shown_url(self) -> str:
        """Where the rows are, for people: without user and options."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
