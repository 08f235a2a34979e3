"""Two shards in one engine: a stand-in for a ClickHouse cluster, as far as chDB can be one.

Each node is a database of one engine (a process of its own): `node_1` and `node_2` hold what a
node of the cluster would.  Cluster `asked` has both as local shards: database `merged` shows shard 1 the tables of
`node_1` and shard 2 those of `node_2`, so that ClickHouse itself splits a query, runs it on each shard and merges the
states.  Cluster `filled` has `node_1` as local shard, and the second behind ClickHouse's native protocol
(`native_shard.py`), so that inserts are spread, sent and failed by ClickHouse itself.

Not shown: replication (Replicated… becomes the engine that it is beside that), ON CLUSTER (the statements are run on
both nodes here), and the text of queries on their way to another server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver import Client

from collector.store.settings import StoreSettings
from schemas import lease, migrations
from schemas.render import STORED
from tests.clickhouse_server import started
from tests.store.native_shard import Shard, kept, listening

NODES = ("node_1", "node_2")
MERGED = "merged"

_CONFIGURATION = """<clickhouse>
  <tcp_port>9000</tcp_port>
  <remote_servers>
    <asked>{local}{local}</asked>
    <filled>{local}{remote}</filled>
  </remote_servers>
  <users><default><databases><merged>{filters}</merged></databases></default></users>
  <roles><writer><grants replace="1"><query>GRANT ALL ON *.* WITH GRANT OPTION</query></grants></writer></roles>
</clickhouse>
"""
_SHARD = """<shard><internal_replication>true</internal_replication>
  <replica><host>127.0.0.1</host><port>{port}</port><compression>false</compression></replica></shard>"""

_MINE = "_database = concat('node_', toString(shardNum()))"
_TABLES = (migrations.TABLE, *(f"{name}_local" for name in (lease.TABLE, *(table.name for table in STORED))))


class Node:
    """A client of one node: statements for the cluster run on both."""

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self.database: str | None = database
        self.said: list[str] = []
        """Statements that were to change something."""

    def close(self) -> None:
        """The connection is that of all nodes."""

    def query(self, sql: str, **options: Any) -> Any:
        self._client.database = self.database
        return self._client.query(sql, **options)

    def insert(self, table: str, rows: Sequence[Sequence[Any]], **options: Any) -> Any:
        self._client.database = self.database
        return self._client.insert(table, rows, **options)

    def command(self, sql: str, **options: Any) -> Any:
        self.said.append(sql)
        if " ON CLUSTER `asked`" not in sql:
            self._client.database = self.database
            return self._client.command(sql, **options)
        sql = sql.replace(" ON CLUSTER `asked`", "").replace("ENGINE = Replicated", "ENGINE = ")
        if sql.startswith("CREATE DATABASE"):
            for database in (*NODES, MERGED):
                self._client.database = None
                self._client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
            return None
        for database in NODES:
            self._client.database = database
            self._client.command(self._distributed(sql), **options)
        return None

    def _distributed(self, sql: str) -> str:
        """Distributed tables ask `merged`, where each shard sees its node."""
        found = re.search(r"Distributed\('asked', currentDatabase\(\), (\w+)", sql)
        if found is None:
            return sql
        table = found[1]
        self._client.command(
            f"CREATE OR REPLACE TABLE {MERGED}.{table} AS {table} ENGINE = Merge(REGEXP('^node_[12]$'), '^{table}$')"
        )
        return sql.replace(found[0], f"Distributed('asked', '{MERGED}', {table}")


@dataclass
class Cluster:
    """The engine with both shards."""

    url: str
    client: Client
    shard: Shard
    """The second shard, as inserts meet it."""

    def settings(self, node: int, cluster: str, **values: Any) -> StoreSettings:
        return StoreSettings(url=self.url, database=NODES[node - 1], cluster=cluster, **values)

    def node(self, node: int) -> Node:
        return Node(self.client, NODES[node - 1])

    def one(self, sql: str) -> Any:
        """The only value of a query."""
        return self.client.query(sql).result_rows[0][0]

    def noted(self) -> list[list[int]]:
        """The migrations that each node knows of."""
        return [self.one(f"SELECT arraySort(groupUniqArray(step)) FROM {node}.{migrations.TABLE}") for node in NODES]


@contextmanager
def two_shards(directory: Path) -> Iterator[Cluster]:
    """Start the engine with its shards in `directory`."""
    with listening() as (port, answer):
        parts = {"local": _SHARD.format(port=9000), "remote": _SHARD.format(port=port)}
        filters = "".join(f"<{name}><filter>{_MINE}</filter></{name}>" for name in _TABLES)
        (directory / "conf.d").mkdir()
        (directory / "conf.d" / "cluster.xml").write_text(_CONFIGURATION.format(**parts, filters=filters))
        with started(directory) as url:
            client = _client(url)
            shard = _second(_client(url))
            answer(shard)
            yield Cluster(url, client, shard)


def _client(url: str) -> Client:
    return clickhouse_connect.get_client(dsn=url, query_retries=0, autogenerate_session_id=False)


def _second(client: Client) -> Shard:
    """`node_2` behind the native protocol."""

    def local(sql: str) -> str:
        return re.sub(r"^INSERT INTO (`?)node_1\1\.(.*\)).*$", r"INSERT INTO node_2.\2", sql, flags=re.DOTALL)

    def header(sql: str) -> bytes:
        table, names = re.fullmatch(r"INSERT INTO (\S+) \((.*)\)", local(sql), re.DOTALL).groups()  # type: ignore[union-attr]
        return client.raw_query(f"SELECT {names} FROM {table} LIMIT 0", fmt="Native") or _columns(client, table, names)

    def insert(sql: str, rows: bytes, settings: Mapping[str, str]) -> None:
        chosen = kept(
            dict(settings),
            "insert_deduplication_token", "deduplicate_blocks_in_dependent_materialized_views", "optimize_on_insert",
        )  # fmt: skip
        nowhere: Any = None
        client.raw_insert(nowhere, None, f"{local(sql)} FORMAT Native\n".encode() + rows, chosen)

    return Shard(insert, header)


def _columns(client: Client, table: str, names: str) -> bytes:
    """An empty block: FORMAT Native writes none for no rows."""
    database, _, name = table.partition(".")
    kinds = dict(
        client.query(
            "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String}",
            parameters={"d": database, "t": name.strip("`")},
        ).result_rows
    )
    wanted = [column.strip(" `") for column in names.split(",")]
    block = bytes([len(wanted)]) + b"\x00"
    for column in wanted:
        for text in (column, kinds[column]):
            size = len(text.encode())
            block += (bytes([size]) if size < 128 else bytes([0x80 | size & 0x7F, size >> 7])) + text.encode()
    return block
