"""Settings that the embedded engine gives to all of its connections."""

from __future__ import annotations

from pathlib import Path

import chdb
import pytest

from collector.store.client import open_client
from collector.store.roles import FIXED, READER
from collector.store.settings import StoreSettings


@pytest.mark.parametrize("begin", [(), (f"SET ROLE {READER}", f"SET profile = '{READER}'")], ids=["writer", READER])
def test_both_roles_have_what_is_fixed(store_directory: Path, begin: tuple[str, ...]) -> None:
    names = ", ".join(f"'{name}'" for name in FIXED)
    with open_client(StoreSettings(url=f"chdb://{store_directory}")):
        connection = chdb.connect(str(store_directory))
        try:
            for statement in begin:
                connection.query(statement)
            found = connection.query(f"SELECT name, value FROM system.settings WHERE name IN ({names})", "CSV").bytes()
        finally:
            connection.close()

    assert sorted(found.decode().splitlines()) == sorted(f'"{name}","{value}"' for name, value in FIXED.items())
