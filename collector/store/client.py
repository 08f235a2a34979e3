"""One client for both kinds of store: the embedded engine (`chdb://`) and a ClickHouse server (`http(s)://`)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.store.errors import StoreError, StoreLockedError, StoreUnreachableError, transient
from collector.store.roles import GRANTED, configuration_of, write_configuration
from collector.store.settings import SqlSettings, StoreSettings
from collector.store_errors import first_line

# Set when the first engine of this process opens its directory: there is one engine, with one directory, per process.
_owned: dict[Path, int] = {}
_owning = Lock()
"""Two stages may open the first client at the same time."""


def open_client(settings: StoreSettings, session: Mapping[str, Any] | None = None) -> Client:
    """Open a connection with these ClickHouse settings, without a database selected.

    Blocks.  Raises StoreError if the store cannot be opened, StoreLockedError if another process has it.
    """
    if settings.directory is not None:
        return _open_embedded(settings.directory, settings, dict(session or {}))
    extra: dict[str, Any] = {"ca_cert": settings.ca_file} if settings.ca_file else {}
    try:
        return clickhouse_connect.get_client(
            dsn=settings.url,
            # Given a DSN, the driver uses TLS for ports 443 and 8443 only, and would send the password in clear text to
            # others.
            interface=urlsplit(settings.url).scheme,
            username=settings.user or None,
            password=settings.password.get_secret_value(),
            settings=dict(session or {}),
            connect_timeout=settings.connect_seconds,
            send_receive_timeout=settings.insert_seconds,
            autogenerate_session_id=False,
            # The writer retries failed inserts itself, with the token of the batch.
            query_retries=0,
            client_name="vmflow",
            **extra,
        )
    except driver.Error as error:
        kind = StoreUnreachableError if transient(error) else StoreError
        raise kind(f"no use of ClickHouse at {settings.shown_url}: {first_line(error)}") from error


def open_in_database(settings: StoreSettings, session: Mapping[str, Any] | None = None) -> Client:
    """Do the same as `open_client`, with the service's database selected."""
    client = open_client(settings, session)
    client.database = settings.database
    return client


def _open_embedded(directory: Path, settings: StoreSettings, session: dict[str, Any]) -> Client:
    take_directory(directory)
    configuration = configuration_of(directory.resolve())
    options = {
        "config-file": str(configuration),
        "max_server_memory_usage": settings.memory_bytes,
        "background_pool_size": settings.merge_threads,
        # The defaults are for servers: 5 GB each.
        "mark_cache_size": 64 * 2**20,
        "index_mark_cache_size": 16 * 2**20,
    }
    try:
        client = clickhouse_connect.get_client(dsn=f"chdb://{directory}", settings=session, chdb_options=options)
        granted = {row[0] for row in client.query("SHOW GRANTS").result_rows}
    except ImportError as error:
        raise StoreError("the embedded store needs chDB: pip install 'vmflow[embedded]', or set store.url") from error
    except driver.Error as error:
        raise StoreError(f"cannot open the embedded store in {directory}: {first_line(error)}") from error
    if granted != GRANTED:
        # Without its configuration the engine lets anyone read any file.
        client.close()
        raise StoreError(
            f"the embedded engine did not take its configuration {configuration}: "
            "a directory whose name has no &, % or + is expected"
        )
    return client


def take_directory(directory: Path, limits: SqlSettings | None = None) -> None:
    """Make and take the directory of an embedded store for this process, with these limits of readers; the first call
    counts.

    The engine's own message for a taken directory is useless.  Raises StoreError, StoreLockedError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"cannot make the store's directory {directory}: {error.strerror}") from error
    with _owning:
        _take_once(directory.resolve(), limits or SqlSettings())


def _take_once(real: Path, limits: SqlSettings) -> None:
    if real in _owned:
        return
    path = real / "vmflow.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write to the store's directory {real}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise StoreLockedError(
            f"the embedded store in {real} is open in another process (pid {holder}): "
            "ask that one through its HTTP endpoint (`vmflow query` does), or stop it"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    try:
        write_configuration(real, limits)
    except OSError as error:
        os.close(handle)
        raise StoreError(f"cannot write to the store's directory {real}: {error.strerror}") from error
    _owned[real] = handle
