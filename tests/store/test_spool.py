"""Files of the spool: what is written comes back, and what is not whole is reported and counted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from collector.metrics import Metrics
from collector.store.errors import BrokenSegmentError, StoreError, StoreLockedError
from collector.store.settings import StoreSettings
from collector.store.spool import Insert, Spool
from collector.store.writer import Writer
from schemas.alerts import ALERT_TABLES
from schemas.anomalies import SCORES
from schemas.column import Table
from schemas.drops import DROPS
from schemas.flows import FLOWS
from schemas.tables import TABLES
from tests.table_rows import batch

WRITTEN = [table for table in TABLES if table not in (*ALERT_TABLES, SCORES)]
"""Rows of alerts do not go through the writer."""

RUN = "0123456789abcdef" * 2


def opened(directory: Path) -> Spool:
    spool = Spool(directory, fsync=True)
    spool.open()
    return spool


def made(table: Table, rows: int, number: int = 1, group: int = 0) -> Insert:
    return Insert(number, table, rows, RUN, group, batches=[batch(table, rows)])


@pytest.mark.parametrize("table", WRITTEN, ids=lambda table: table.name)
def test_rows_of_every_table_come_back_as_they_were(tmp_path: Path, table: Table) -> None:
    spool = opened(tmp_path)
    insert = Insert(1, table, 90, RUN, batches=[batch(table, 40, 1), batch(table, 50, 2)])

    spool.write(insert)
    back = spool.read(insert)
    spool.close()

    assert insert.batches is not None
    assert pa.Table.from_batches(back).to_pylist() == pa.Table.from_batches(insert.batches).to_pylist()
    assert back[0].schema == table.arrow()


def test_names_of_a_whole_cloud_are_not_written_with_a_few_rows(tmp_path: Path) -> None:
    cloud = pa.array([f"a-vm-with-a-long-name-{number:06}" for number in range(100_000)])
    rows = batch(FLOWS, 50)
    at = rows.schema.get_field_index("src_vm")
    named = rows.set_column(
        at, rows.schema.field(at), pa.DictionaryArray.from_arrays(pa.array(range(50), pa.int32()), cloud)
    )
    spool = opened(tmp_path)
    insert = Insert(1, FLOWS, 50, RUN, batches=[named])

    octets = spool.write(insert)
    back = spool.read(insert)
    spool.close()

    assert octets < 100_000 < named.nbytes
    assert back[0].column("src_vm").to_pylist() == cloud[:50].to_pylist()


def test_the_next_start_finds_inserts_in_order_with_table_group_rows_and_token(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    inserts = [made(FLOWS, 3, 10), made(DROPS, 4, 9), made(FLOWS, 5, 100)]
    sizes = [spool.write(insert) for insert in inserts]
    spool.assign(inserts[1], 2**63)
    (tmp_path / "000000000011-flows-0-8-x.tmp").write_bytes(b"half")
    (tmp_path / "README").write_text("not ours")
    spool.close()

    again = Spool(tmp_path, fsync=False)
    found, halves = again.open()
    again.close()

    assert [(insert.table, insert.rows, insert.group, insert.token) for insert in found] == [
        (DROPS, 4, 2**63, f"{RUN}-9"),
        (FLOWS, 3, 0, f"{RUN}-10"),
        (FLOWS, 5, 0, f"{RUN}-100"),
    ]
    assert [insert.file_bytes for insert in found] == [sizes[1], sizes[0], sizes[2]]
    assert halves == 1
    assert not list(tmp_path.glob("*.tmp"))
    assert (tmp_path / "README").exists()


def test_a_removed_insert_is_gone(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    insert = made(FLOWS, 3)
    spool.write(insert)
    spool.remove(insert)
    spool.close()

    assert not list(tmp_path.glob("*.arrow"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another(path: Path) -> None:
    """The rows of another file under this name."""
    spool = opened(path.parent / "other")
    insert = made(FLOWS, 2)
    spool.write(insert)
    spool.close()
    path.write_bytes((path.parent / "other" / insert.file_name).read_bytes())


@pytest.mark.parametrize("spoil", [cut, empty, another, Path.unlink])
def test_a_file_that_does_not_hold_its_rows_is_reported(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spool = opened(tmp_path)
    insert = made(FLOWS, 3)
    spool.write(insert)
    spoil(tmp_path / insert.file_name)

    with pytest.raises(BrokenSegmentError, match="000000000001-flows-0-3-"):
        spool.read(insert)
    spool.close()


def test_a_second_process_is_reported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from collector.store.spool import Spool\n"
        "try: Spool(Path(sys.argv[1]), fsync=False).open()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    spool = opened(tmp_path)
    command = [sys.executable, "-c", code, str(tmp_path)]

    taken = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spool.close()
    free = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert taken.startswith(StoreLockedError.__name__)
    assert "in use by another vmflow: stop it, or set store.spool_directory" in taken
    assert free == ""


def test_a_directory_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StoreError, match=r"cannot use the spool directory /proc/nope: .*; set store\.spool_directory"):
        Spool(Path("/proc/nope"), fsync=False).open()


def test_a_writer_that_cannot_start_leaves_the_spool_free(bare_store: StoreSettings) -> None:
    settings = bare_store.model_copy(update={"schema_setup": False})

    async def enter() -> None:
        async with Writer(settings, Metrics(), asyncio.to_thread, asyncio.to_thread):
            raise AssertionError("it started")

    for _ in range(2):
        with pytest.raises(StoreError, match="table flows is missing"):
            asyncio.run(enter())


def test_a_broken_file_is_counted_and_the_next_one_stored(embedded_store: StoreSettings) -> None:
    spool = opened(embedded_store.spool)
    broken, whole = made(FLOWS, 3, 1), made(DROPS, 4, 2)
    for insert in (broken, whole):
        spool.write(insert)
    cut(embedded_store.spool / broken.file_name)
    spool.close()
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(embedded_store, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            async with asyncio.timeout(30):
                while writer.waiting("flows") or writer.waiting("drops"):  # noqa: ASYNC110 - the store is another's
                    await asyncio.sleep(0.02)
            assert writer.dropped_rows == 3

    asyncio.run(scenario())

    assert metrics.value("store_dropped_rows_total", table="flows", reason="spool_broken") == 3
    assert metrics.value("store_rows_total", table="drops") == 4
    assert metrics.value("spool_inserts") == metrics.value("spool_bytes") == 0
    assert not list(embedded_store.spool.glob("*.arrow"))


def test_while_the_store_answers_nothing_is_written(embedded_store: StoreSettings) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        settings = embedded_store.model_copy(update={"batch_rows": 100})
        async with Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            for seed in range(5):
                writer.offer("flows", batch(FLOWS, 100, seed))

    asyncio.run(scenario())

    assert metrics.value("store_batches_total", table="flows") == 5
    assert metrics.value("spool_rows_total", table="flows") is None


@pytest.mark.parametrize(
    ("values", "directory"),
    [
        ({"url": "chdb:///data/store"}, "/data/spool"),
        ({"url": "http://db:8123"}, "/var/lib/vmflow/spool"),
        ({"url": "http://db:8123", "spool_directory": "/fast"}, "/fast"),
    ],
)
def test_where_the_spool_is(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], directory: str) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/vmflow")

    assert StoreSettings.model_validate(values).spool == Path(directory)
