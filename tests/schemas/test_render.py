"""DDL, insert lists and the column documentation."""

from __future__ import annotations

import pytest

from schemas.column import UINT64, Column, Table
from schemas.flows import FLOWS
from schemas.render import DOCS, create_distributed, create_table, ddl, docs, fill, ttl_sql
from schemas.tables import TABLES

SMALL = Table(
    "small",
    "A table.",
    (
        Column("a", UINT64, "A number.", codec="T64, LZ4"),
        Column("b", UINT64, "Twice the number.", alias="a * 2"),
    ),
    order_by=("a",),
    time="a",
    ttl_days=3,
)


def test_a_table_in_full() -> None:
    assert fill(create_table(SMALL)) == (
        "CREATE TABLE IF NOT EXISTS small\n(\n"
        "    `a` UInt64 CODEC(T64, LZ4),\n"
        "    `b` UInt64 ALIAS a * 2\n)\n"
        "ENGINE = MergeTree\nPARTITION BY toYYYYMMDD(a)\nORDER BY (a)\nTTL toDateTime(a) + toIntervalDay(3)\n"
        "SETTINGS index_granularity = 8192, min_rows_for_wide_part = 262144, "
        "non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1"
    )


def test_a_cluster_has_replicated_tables_below_a_distributed_one() -> None:
    local, distributed = ddl([SMALL], cluster="prod", feeds=(), views=())

    assert local.startswith("CREATE TABLE IF NOT EXISTS small_local ON CLUSTER `prod`\n")
    assert "ENGINE = ReplicatedMergeTree\n" in local
    assert "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 2592000" in local
    assert distributed == create_distributed(SMALL, "prod")
    assert "small ON CLUSTER `prod` AS small_local" in distributed
    assert distributed.endswith("Distributed('prod', currentDatabase(), small_local, cityHash64(a))")


def test_a_cluster_name_cannot_carry_sql() -> None:
    with pytest.raises(ValueError, match="not a cluster name"):
        fill("x", "a`; DROP")


def test_rows_live_as_long_as_settings_say() -> None:
    assert "toIntervalDay(30)" in ddl([SMALL], {"small": 30})[0]
    with pytest.raises(ValueError, match="at least one day"):
        ttl_sql(SMALL, 0)


def test_inserts_leave_out_computed_columns() -> None:
    assert [column.name for column in SMALL.stored] == ["a"]
    assert [column.name for column in FLOWS.stored] == [column.name for column in FLOWS.columns if not column.alias]


def test_docs_columns_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == docs(), "run python -m schemas.render --docs"


def test_docs_name_every_column_of_every_table() -> None:
    text = docs()
    for table in TABLES:
        section = text.split(f"## {table.name}\n")[1].split("\n## ")[0]
        for column in table.columns:
            assert f"| `{column.name}` |" in section
