"""Rows made of Python values."""

import pyarrow as pa
import pytest

from schemas.column import ADDRESS, ENUM, NAME, NAMED_UUID, TIME_US, UINT16, UINT64, UUID, Column, Origin, Table

KINDS = Table(
    "kinds",
    "One column of each kind.",
    (
        Column("time", TIME_US, "A time."),
        Column("address", ADDRESS, "An address.", clickhouse_type="IPv6"),
        Column("uuid", UUID, "A UUID.", clickhouse_type="UUID"),
        Column("name", NAME, "A name."),
        Column("owner", NAMED_UUID, "A UUID of few."),
        Column("colour", ENUM, "A value of an enumeration.", names=("red", "green", "blue")),
        Column("text", pa.string(), "A text."),
        Column("addresses", pa.list_(ADDRESS), "A list.", clickhouse_type="Array(IPv6)"),
        Column("share", UINT16, "A number that may be absent.", nullable=True),
        Column("vm", NAME, "A name that another part fills.", origin=Origin.ENRICH),
        Column("double", UINT64, "Computed when read.", alias="share * 2"),
    ),
    order_by=("time",),
    time="time",
    ttl_days=1,
)


def test_values_of_each_kind_come_back_as_they_went_in() -> None:
    rows = {
        "time": [1, 2],
        "address": [bytes(16), b"\1" * 16],
        "uuid": [b"\2" * 16, bytes(16)],
        "name": ["a", "a"],
        "owner": [bytes(16), b"\3" * 16],
        "colour": ["blue", "red"],
        "text": ["", "x"],
        "addresses": [[], [b"\4" * 16]],
        "share": [None, 65_535],
        "vm": ["", "v"],
    }
    batch = KINDS.batch(rows)
    assert batch.schema == KINDS.arrow()
    batch.validate(full=True)
    assert batch.column("colour").indices.to_pylist() == [2, 0]
    assert {**batch.to_pydict(), "time": batch.column("time").cast(pa.int64()).to_pylist()} == rows


def test_columns_of_other_origins_may_stay_out() -> None:
    row = {column.name: [column.nothing] for column in KINDS.stored if column.origin is Origin.DECODE}
    assert KINDS.batch(row, Origin.DECODE).schema == KINDS.arrow(Origin.DECODE)
    with pytest.raises(KeyError, match="vm"):
        KINDS.batch(row)


def test_a_value_that_no_enumeration_has_is_refused() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        KINDS["colour"].array(["pink"])


def test_a_row_of_nothing_states_nothing() -> None:
    batch = KINDS.empty_row()
    batch.validate(full=True)
    assert batch.drop_columns("time").to_pylist() == [
        {
            "address": bytes(16),
            "uuid": bytes(16),
            "name": "",
            "owner": bytes(16),
            "colour": "red",
            "text": "",
            "addresses": [],
            "share": None,
            "vm": "",
        }
    ]
    assert batch.column("time").cast(pa.int64()).to_pylist() == [0]
