"""The key of connections: made once, kept, and the same connection counts once over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver import Client

from collector.rollup.groups import as_input, connection_key
from collector.rollup.sums import PairSums
from collector.store.native import insert
from collector.store.settings import StoreSettings
from schemas.flows import FLOWS
from schemas.rollups import PAIR_INPUT
from tests.flow_rows import ask, batch, emptied, flow, store, vm


@pytest.fixture
def client(store_directory: Path) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="keys")) as client:
        yield emptied(client)


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rollup.key"

    first = connection_key(file)

    assert file.stat().st_mode & 0o777 == 0o600
    assert int(file.read_text(), 16) == first
    assert connection_key(file) == first
    assert connection_key(tmp_path / "other") != first


@pytest.mark.parametrize("text", ["", "abc\n", "x" * 32, "ä" * 16])
def test_a_file_that_holds_no_key_is_left_alone_and_reported_of(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rollup.key"
    file.write_text(text, encoding="utf-8")

    assert connection_key(file) != connection_key(file)
    assert file.read_text(encoding="utf-8") == text


def test_a_connection_before_and_after_a_restart_counts_once(client: Client) -> None:
    """Ten connections in one window, the service killed amid it: each part is summed by a process of its own."""
    a, b = vm("a", "host-1"), vm("b", "host-2")
    rows = [flow(a, b, "source", received=5, src_port=1000 + number) for number in range(10)]
    for label, key in (("before", 7), ("after", 7)):
        sums = PairSums(1000, 1000, key=key)
        assert sums.add(batch(FLOWS, rows)) is None
        insert(client, PAIR_INPUT, [as_input(sums.take())], label)

    assert ask(client, "SELECT connections FROM pair_metrics") == [{"connections": 10}]
