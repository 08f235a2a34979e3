"""Python's clients: clickhouse-connect, SQLAlchemy with both dialects, as Superset has it, and aiochclient."""

from __future__ import annotations

import asyncio
import ipaddress
import urllib.parse
import warnings
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.descriptions import VIEW_COLUMNS
from schemas.flows import FLOWS
from tests.clients.conftest import DATABASE, ROWS
from tests.sql.support import Endpoint

TYPES = "SELECT 18446744073709551615 AS a, 'it''s' AS b, NULL AS c, toIPv6('2001:db8::1') AS d"
LARGE = "SELECT number, repeat('x', number % 300) AS x FROM numbers(100000)"


@pytest.fixture(params=["clickhousedb", "clickhouse+http"])
def engine(endpoint: Endpoint, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Of clickhouse-connect's own dialect, and of clickhouse-sqlalchemy."""
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy")
    pytest.importorskip("clickhouse_sqlalchemy", reason="needs clickhouse-sqlalchemy")
    host = urllib.parse.urlsplit(endpoint.url).netloc
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each package says that the other one has registered a name, too
        engine = sqlalchemy.create_engine(f"{request.param}://default:none@{host}/{DATABASE}")
    yield engine
    engine.dispose()


def test_sqlalchemy_asks(engine: Any) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DatabaseError as SqlError

    with engine.connect() as connection:
        number, words, none, address = connection.execute(text(TYPES)).one()
        assert (int(number), words, none) == (2**64 - 1, "it's", None)
        assert ipaddress.ip_address(address) == ipaddress.ip_address("2001:db8::1")
        assert connection.execute(text("SELECT :n + 1, :t"), {"n": 41, "t": "it's"}).one() == (42, "it's")
        assert sum(len(row.x) for row in connection.execute(text(LARGE))) == 14_940_000
        for sql, expected in (
            ("SELECT nope FROM flows", "identifier `nope`"),
            ("INSERT INTO flows (vni) VALUES (7)", "read-only: .INSERT. is refused"),
        ):
            with pytest.raises(Exception, match=expected) as caught:
                connection.execute(text(sql)).fetchall()
            assert isinstance(caught.value, SqlError) or "DB::Exception" in str(caught.value)


def test_sqlalchemy_finds_tables_columns_and_comments(engine: Any) -> None:
    import sqlalchemy

    about = sqlalchemy.inspect(engine)
    assert DATABASE in about.get_schema_names()
    assert "flows" in about.get_table_names()
    assert "pair_metrics" in about.get_view_names(DATABASE)
    assert about.has_table("flows")
    assert not about.has_table("nope")
    columns = {column["name"]: column for column in about.get_columns("flows")}
    assert list(columns) == [column.name for column in FLOWS.columns]
    assert columns["vni"]["comment"] == FLOWS["vni"].doc
    of_view = {column["name"]: column["comment"] for column in about.get_columns("pair_metrics")}
    assert of_view["loss_ratio"] == VIEW_COLUMNS["loss_ratio"]
    flows = sqlalchemy.Table("flows", sqlalchemy.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        counted = connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(flows)).scalar()
    assert counted == ROWS


@pytest.mark.parametrize("compress", [True, False, "lz4", "zstd", "gzip"])
def test_clickhouse_connect(endpoint: Endpoint, compress: bool | str) -> None:
    parts = urllib.parse.urlsplit(endpoint.url)
    with clickhouse_connect.get_client(
        host=parts.hostname, port=parts.port, database=DATABASE, compress=compress
    ) as client:
        number, words, none, address = client.query(TYPES).result_rows[0]
        assert (number, words, none, address) == (2**64 - 1, "it's", None, ipaddress.ip_address("2001:db8::1"))
        asked = client.query("SELECT {n:UInt8} + 1, {t:String}", parameters={"n": 41, "t": "it's"}).result_rows
        assert asked == [(42, "it's")]
        assert sum(len(row[1]) for row in client.query(LARGE).result_rows) == 14_940_000
        with pytest.raises(DatabaseError, match="identifier `nope`"):
            client.query("SELECT nope FROM flows")
        with pytest.raises(DatabaseError, match="read-only: 'INSERT' is refused"):
            client.insert("flows", [[7]], column_names=["vni"])


@pytest.mark.parametrize("compress", [False, True])
def test_aiochclient(endpoint: Endpoint, compress: bool) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="needs aiohttp")
    aiochclient = pytest.importorskip("aiochclient", reason="needs aiochclient")

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            client = aiochclient.ChClient(session, url=endpoint.url, database=DATABASE, compress_response=compress)
            assert await client.is_alive()
            row = await client.fetchrow(f"{TYPES} WHERE 'it''s' = {{text}}", params={"text": "it's"})
            assert row is not None
            assert tuple(row.values())[:3] == (2**64 - 1, "it's", None)
            assert sum([len(one["x"]) async for one in client.iterate(LARGE)]) == 14_940_000
            with pytest.raises(aiochclient.ChClientError, match="identifier `nope`"):
                await client.fetch("SELECT nope FROM flows")
            with pytest.raises(aiochclient.ChClientError, match="read-only: 'INSERT' is refused"):
                await client.execute("INSERT INTO flows (vni) VALUES", (7,))

    asyncio.run(ask())
