"""The lease: whether another collector stores into the same database of a server.

Two collectors unaware of each other would judge the same windows twice, and write each alert, interval of the inventory
and latency twice.  So each writes a heartbeat to table `vmflow_lease` before it reads or writes anything else, and
again every `BEAT_SECONDS`.  A collector that finds an older claim does not start.  One that has been silent for
`STALE_SECONDS` is considered dead, and claims again if it comes back.

ClickHouse has no transaction for this: a claim is written first, then other claims are read.  So of two that start at
once, at least one sees the other, and the older claim wins.  If replicas lag, the next heartbeat shows it.

A collector recognises its own former run by the id in its spool, whose lock shows that the run has ended, and by its
host: a restart after a kill need not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Self
from uuid import uuid4

from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.interfaces import Call
from collector.log import get_log
from collector.metrics import Metrics
from collector.store.client import open_client, open_in_database
from collector.store.errors import LeaseTakenError, SchemaError, StoreUnreachableError, transient
from collector.store.settings import StoreSettings
from collector.store_errors import first_line
from schemas.lease import BEAT, CREATE_DISTRIBUTED, CREATE_TABLE, SIGNS, TABLE
from schemas.render import fill

BEAT_SECONDS = 10.0
STALE_SECONDS = 60
"""A collector that was silent for this long is considered dead."""
GIVE_UP_SECONDS = 1.0
"""How long a stop waits for the store to take the last heartbeat."""

ID_FILE = "collector.id"
"""The file with the id, in the spool's directory."""

SESSION = {"async_insert": 0, "distributed_foreground_insert": 1, "skip_unavailable_shards": 1}
"""ClickHouse settings of its connection.  An unavailable shard must not prevent heartbeats."""

_log = get_log("lease")


@dataclass(frozen=True)
class Sign:
    """A collector's last heartbeat."""

    owner: str
    run: str
    host: str
    pid: int
    began_us: int
    claimed_us: int
    age_seconds: int
    given_up: int

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.began_us // 1_000_000, UTC)
        return (
            f"host {self.host}, pid {self.pid}, since {since:%Y-%m-%d %H:%M:%S} UTC, "
            f"last sign of life {self.age_seconds} s ago"
        )


class Lease:
    """This collector's claim on its database.  A component; with an embedded store, which has one process, it is idle.

    Must start after the spool's lock is taken: every stage that connects claims it first.  `call` is for a thread of
    its own.
    """

    def __init__(self, settings: StoreSettings, metrics: Metrics, call: Call) -> None:
        self._settings = settings
        self._call = call
        self._run = uuid4().hex
        self._began_us = time.time_ns() // 1000
        self._host = socket.gethostname()
        self._owner = ""
        self._claimed_us = 0
        """When the claim was made, by the server's clock; 0: there is none."""
        self._good = 0.0
        """The last heartbeat that the store took, by the monotonic clock."""
        self._others = 0
        self._client: Client | None = None
        self._busy = Lock()
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._taken: LeaseTakenError | None = None
        """Why the lease was lost."""
        metrics.gauge("store_other_collectors", "Other collectors that store into the same database.").set_function(
            lambda: float(self._others)
        )

    async def __aenter__(self) -> Self:
        if not self._settings.embedded:
            self._task = asyncio.create_task(self._beat(), name="lease")
        return self

    async def __aexit__(self, *error: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # A store that hangs is not waited for.
            await asyncio.wait({asyncio.ensure_future(self._call(self._give_up))}, timeout=GIVE_UP_SECONDS)

    async def replaced(self) -> None:
        """Wait until another collector has taken over, and raise LeaseTakenError."""
        await self._lost.wait()
        if self._taken is not None:
            raise self._taken

    def connect(self, session: Mapping[str, Any] | None = None) -> Client:
        """Return a client with the service's database selected, for the holder of the lease.  Blocks; raises what
        `claim` and the driver raise."""
        self.claim()
        return open_in_database(self._settings, session)

    def claim(self) -> None:
        """Claim the database, unless already claimed.  Blocks.

        Raises LeaseTakenError if another collector has it, StoreUnreachableError if the store does not answer.
        """
        if self._settings.embedded or self._claimed_us:
            return
        with self._busy:
            if not self._claimed_us:
                self._say()

    def _say(self) -> None:
        """Write a heartbeat, and read those of others."""
        try:
            self._say_once()
        except driver.Error as error:
            self._close()
            if transient(error):
                raise StoreUnreachableError(first_line(error)) from error
            raise
        except Exception:
            self._close()
            raise

    def _say_once(self) -> None:
        client = self._opened()
        now = time.monotonic()
        # A collector that was silent for this long may have been replaced: it comes after all that are present.
        claimed_us = self._claimed_us if now - self._good < STALE_SECONDS else 0
        self._insert(client, claimed_us)
        signs = [Sign(*row) for row in client.query(SIGNS, parameters={"stale": STALE_SECONDS}).result_rows]
        mine = next((sign for sign in signs if sign.run == self._run), None)
        if mine is None:
            raise StoreUnreachableError(f"the store does not show what was just written to {TABLE}")
        others = _others(signs, mine)
        self._others = len(others)
        older = next((sign for sign in others if (sign.claimed_us, sign.run) < (mine.claimed_us, mine.run)), None)
        if older is not None and not self._settings.shared:
            self._claimed_us = 0
            self._insert(client, claimed_us, given_up=1)
            raise LeaseTakenError(
                f"another vmflow stores into database {self._settings.database} of {self._settings.shown_url}: "
                f"{older}. Stop it (after a crash it is forgotten in {STALE_SECONDS} s), or choose another database. "
                "With store.shared = true both run, and alerts, inventory and latency are stored twice"
            )
        if others:
            _log.sampled(
                "others store into this database: alerts, inventory and latency are there more than once",
                collectors="; ".join(str(sign) for sign in others[:5]),
            )
        self._claimed_us, self._good = mine.claimed_us, now

    def _insert(self, client: Client, claimed_us: int, given_up: int = 0) -> None:
        client.command(
            BEAT,
            parameters={
                "owner": self._owner,
                "run": self._run,
                "host": self._host,
                "pid": os.getpid(),
                "began": self._began_us,
                "claimed": claimed_us,
                "given_up": given_up,
            },
        )

    def _opened(self) -> Client:
        if self._client is None:
            self._owner = self._owner or _id_of(self._settings)
            # A heartbeat that takes longer than the pause between two is too late.
            settings = self._settings.model_copy(update={"insert_seconds": int(BEAT_SECONDS)})
            self._client = open_client(settings, SESSION)
            make_table(self._client, settings, may=settings.schema_setup)
        return self._client

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _beat(self) -> None:
        """Write heartbeats until another collector has taken over."""
        while self._taken is None:
            await asyncio.sleep(BEAT_SECONDS)
            held = bool(self._claimed_us)
            try:
                await self._call(self._renew)
            except LeaseTakenError as error:
                if held:
                    self._taken = error
                    self._lost.set()
                _log.sampled("another collector has the database", severity="error", error=str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next one may succeed
                _log.sampled("no sign of life stored", key=type(error).__name__, error=first_line(error))

    def _renew(self) -> None:
        with self._busy:
            self._say()

    def _give_up(self) -> None:
        """Record that this run ends, so that no other run waits for it."""
        with self._busy:
            claimed_us, self._claimed_us = self._claimed_us, 0
            client = self._client
            if client is not None and claimed_us:
                with contextlib.suppress(driver.Error):
                    self._insert(client, claimed_us, given_up=1)
            self._close()


def _others(signs: list[Sign], mine: Sign) -> list[Sign]:
    """Return the collectors present besides the one of `mine`, the oldest claim first.

    Of the runs of one collector, only the last counts: earlier ones were killed.
    """
    last: dict[tuple[str, str], Sign] = {}
    for sign in sorted(signs, key=lambda sign: (sign.claimed_us, sign.run)):
        last[sign.owner, sign.host] = sign
    last.pop((mine.owner, mine.host), None)
    return sorted((sign for sign in last.values() if not sign.given_up), key=lambda sign: (sign.claimed_us, sign.run))


def make_table(client: Client, settings: StoreSettings, *, may: bool) -> None:
    """Create the table of leases and select the database, if the table is missing.  Blocks.

    Raises SchemaError if it is missing and `may` forbids creating it, and the driver's errors.
    """
    found = client.query(
        "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": settings.database, "name": TABLE},
    ).result_rows[0][0]
    if not found and not may:
        raise SchemaError(f"table {TABLE} is missing in database {settings.database}: `vmflow schema --apply` makes it")
    cluster = settings.cluster or None
    if not found:
        client.command(fill(f"CREATE DATABASE IF NOT EXISTS {settings.database}${{on_cluster}}", cluster))
    client.database = settings.database
    if not found:
        client.command(fill(CREATE_TABLE, cluster))
        if cluster:
            client.command(fill(CREATE_DISTRIBUTED, cluster))


def _id_of(settings: StoreSettings) -> str:
    """Return the id of the collector that owns this spool; generate it if it is missing."""
    path = settings.spool / ID_FILE
    with contextlib.suppress(OSError):
        if found := path.read_text("ascii", "replace").strip()[:64]:
            return found
    made = uuid4().hex
    # With a full disk, the next run is not recognised as the same collector: it waits until this one is stale.
    with contextlib.suppress(OSError):
        path.write_text(f"{made}\n", "ascii")
    return made
