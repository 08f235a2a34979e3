"""Ways out of the SQL endpoint, each tried over a real socket: refused with a clear error, or held by its limits."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.store.client import open_client
from collector.store.settings import SqlSettings, StoreSettings
from collector.store.setup import set_up
from tests.sql.support import Endpoint, served

SECONDS = 1
REQUEST_BYTES = 400_000


@pytest.fixture(scope="module")
def endpoint(store_directory: Path) -> Iterator[Endpoint]:
    settings = StoreSettings(
        url=f"chdb://{store_directory}",
        database="test_ways_out",
    )
    limits = SqlSettings(
        port=0,
        max_seconds=SECONDS,
        max_memory_bytes=128 * 2**20,
        max_disk_bytes=2**20,
        max_result_rows=1_000_000,
        max_request_bytes=REQUEST_BYTES,
    )
    client = open_client(settings)
    set_up(client, settings)
    with served(settings, settings=limits) as running:
        yield running
    client.command("DROP DATABASE test_ways_out SYNC")
    client.close()


TABLE_FUNCTIONS = """
    file('/etc/passwd', LineAsString) | fileCluster('c', '/etc/passwd') | url('http://127.0.0.1:9/', CSV, 'a String')
    urlCluster('c', 'http://127.0.0.1:9/') | remote('127.0.0.1:9', system.one) | remoteSecure('127.0.0.1:9', system.one)
    cluster('default', system.one) | clusterAllReplicas('default', system.one) | s3('http://127.0.0.1:9/x')
    s3Cluster('c', 'http://127.0.0.1:9/x') | gcs('http://127.0.0.1:9/x') | oss('http://127.0.0.1:9/x') | cosn('x')
    hdfs('hdfs://127.0.0.1:9/x') | hdfsCluster('c', 'hdfs://127.0.0.1:9/x') | azureBlobStorage('x', 'y', 'z')
    mysql('127.0.0.1:9', 'd', 't', 'u', 'p') | postgresql('127.0.0.1:9', 'd', 't', 'u', 'p') | sqlite('/tmp/x', 't')
    mongodb('127.0.0.1:9', 'd', 'c', 'u', 'p', 'a Int8') | redis('127.0.0.1:9', 'k', 'k String') | odbc('x', 'y')
    jdbc('x', 'y') | executable('id', CSV, 'a String') | input('a String') | hudi('http://127.0.0.1:9/x')
    iceberg('http://127.0.0.1:9/x') | icebergLocal('/etc') | deltaLake('http://127.0.0.1:9/x') | deltaLakeLocal('/etc')
    paimon('x') | python(client) | dictionary('d') | merge('system', '^processes$') | loop(numbers(1))
    arrowFlight('127.0.0.1:9', 'x') | ytsaurus('x', 'y', 'z', 'a String') | fuzzJSON('x') | mergeTreeIndex(d, t)
    timeSeriesData(d, t) | executablePool('id', CSV) | viewExplain('EXPLAIN', '', (SELECT 1))
"""
CALLS = [line.strip() for line in TABLE_FUNCTIONS.replace("\n", "|").split("|") if line.strip()]


@pytest.mark.parametrize("call", CALLS)
def test_no_table_function_reaches_out(endpoint: Endpoint, call: str) -> None:
    name = call.partition("(")[0]
    for sql in (f"SELECT * FROM {call}", f"DESCRIBE TABLE {call}", f"SELECT 1 WHERE 1 IN (SELECT 1 FROM {call})"):
        status, body, headers = endpoint.ask(sql)
        assert (status, headers["X-ClickHouse-Exception-Code"]) in (
            (403, "497"),
            (400, "46"),  # a function that this engine does not have
        ), body
        assert name.lower().encode() in body.lower()
        assert b"root:" not in body


REFUSED = {
    "INSERT INTO FUNCTION file('vmflow-out', CSV) SELECT 1": "164",
    "INSERT INTO FUNCTION url('http://127.0.0.1:9/', CSV) SELECT 1": "164",
    "CREATE DICTIONARY d (a UInt8) PRIMARY KEY a SOURCE(HTTP(URL 'http://127.0.0.1:9/'))": "164",
    "CREATE FUNCTION f AS (x) -> x": "164",
    "CREATE USER u": "164",
    "GRANT ALL ON *.* TO default": "164",
    "BACKUP DATABASE test_ways_out TO File('vmflow-backup')": "164",
    "RESTORE ALL FROM File('vmflow-backup')": "164",
    "CREATE TABLE t (a UInt8) ENGINE = URL('http://127.0.0.1:9/', CSV)": "164",
    "CREATE TEMPORARY TABLE t (a UInt8)": "164",
    "OPTIMIZE TABLE flows": "164",
    "UNDROP TABLE flows": "164",
    "PARALLEL WITH SELECT 1": "164",
    "EXECUTE AS root SELECT 1": "164",
    "SELECT 1 INTO /* x */ OUTFILE 'vmflow-out'": "497",
    "EXPLAIN SELECT * FROM file('/etc/passwd')": "497",
    "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:9', 'd', 't', 'u', 'p') COLUMNS (a Int8)": "497",
    "SELECT (SELECT 1 SETTINGS max_execution_time = 0)": "164",
    "SELECT * FROM (SELECT 1 SETTINGS /* x */ `readonly` = 0)": "164",
    "WITH x AS (SELECT 1 SETTINGS max_memory_usage = 0) SELECT * FROM x": "164",
    "EXPLAIN SELECT 1 SETTINGS readonly = 0": "164",
    "SELECT 1 FORMAT DataFrame": "73",
    "SELECT 1 FORMAT `arrowtable`": "73",
    "SHOW PROCESSLIST": "497",
    "SHOW FULL PROCESSLIST": "497",
    "SELECT query FROM system.processes": "497",
    'SELECT query FROM `system` . "processes"': "497",
    "WITH p AS (SELECT * FROM system.processes) SELECT query FROM p": "497",
    "SELECT * FROM system.stack_trace": "497",
    "SELECT path FROM system.disks": "497",
    "SELECT * FROM system.server_settings": "497",
    "SELECT * FROM system.named_collections": "497",
    "SELECT * FROM system.users": "497",
    "SELECT * FROM system.query_log": "497",
    "DESCRIBE system.text_log": "497",
    "SELECT getServerSetting('path')": "497",
    "SELECT getMacro('x')": "497",
    "SELECT sleep(3)": "497",
    "SELECT sleepEachRow(1) FROM numbers(1000)": "497",
    "SELECT getClientHTTPHeader('Authorization')": "497",
    "SELECT catboostEvaluate('/etc/passwd', 1)": "46",
    "SELECT addressToLine(1)": "497",
    "SELECT dictGet('d', 'a', 1)": "497",
    "SELECT 1; SELECT 2": "62",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_statements_that_reach_further_are_refused(endpoint: Endpoint, sql: str) -> None:
    status, body, headers = endpoint.ask(sql)

    assert headers["X-ClickHouse-Exception-Code"] == REFUSED[sql], body
    assert status in (400, 403)
    assert not Path("vmflow-out").exists()
    assert not Path("vmflow-backup").exists()


def test_the_system_database_is_no_way_round(endpoint: Endpoint) -> None:
    def code(sql: str, **parameters: str) -> str | None:
        return endpoint.ask(sql, **parameters)[2]["X-ClickHouse-Exception-Code"]

    assert code("SELECT query FROM processes", database="system") == "497"
    assert code("SELECT 1 WHERE 'x' IN processes", database="system") == "497"
    assert code("SELECT 1 WHERE 'x' IN system.processes") == "497"
    assert code("SELECT query FROM {d:Identifier}.processes", param_d="system") == "497"
    assert code("SELECT query FROM {d:Identifier}.{t:Identifier}", param_d="system", param_t="processes") == "497"
    assert code("SELECT query FROM {t:Identifier}", param_t="system.processes") == "497"
    assert code("SELECT {f:Identifier}('/etc/passwd')", param_f="file") == "164"
    # What clients need is there.
    assert code("SELECT name FROM system.tables LIMIT 1") is None
    assert code("SELECT name, value FROM system.settings WHERE name = 'readonly'") is None
    assert code("SELECT * FROM one", database="system") is None


@pytest.mark.parametrize("name", ["DataFrame", "dataframe", "ArrowTable", "debug", "JSON; DROP TABLE flows", "Nope"])
def test_formats_that_are_none_are_refused(endpoint: Endpoint, name: str) -> None:
    status, body, headers = endpoint.ask("SELECT 1", default_format=name)

    assert (status, headers["X-ClickHouse-Exception-Code"]) == (400, "73"), body


@pytest.mark.parametrize(
    "setting",
    [
        "allow_ddl", "readonly_", "format_schema", "output_format_schema", "format_template_row", "user_files_path",
        "max_memory_usage_for_user", "max_temporary_data_on_disk_size_for_query", "allow_introspection_functions",
        "enable_url_encoding", "s3_max_redirects", "additional_table_filters",
    ],
)  # fmt: skip
def test_settings_in_the_address_are_refused(endpoint: Endpoint, setting: str) -> None:
    status, body, headers = endpoint.ask("SELECT 1", **{setting: "1"})

    assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "164"), body


def test_limits_can_be_lowered_and_not_raised(endpoint: Endpoint) -> None:
    def value(name: str, wanted: str) -> int:
        return int(float(endpoint.ask(f"SELECT getSetting('{name}')", **{name: wanted})[1]))

    for name, limit in {
        "max_execution_time": SECONDS,
        "max_memory_usage": 128 * 2**20,
        "max_result_rows": 1_000_000,
        "max_result_bytes": 256 * 2**20,
    }.items():
        assert value(name, "0") == value(name, "99999999999") == value(name, "inf") == limit
        assert value(name, "1") == 1
        assert value(name, "0.5") == value(name, "0.0000001") == value(name, "1.9") == 1
        assert value(name, "-1") == value(name, "-0.5") == value(name, "1e99") == limit
    assert value("max_threads", "1000") <= 64
    assert value("max_block_size", "1000000000") == 65_409
    assert value("max_memory_usage", "nan") == 128 * 2**20
    assert endpoint.ask("SELECT 1", max_threads="many")[2]["X-ClickHouse-Exception-Code"] == "72"


TOO_MUCH = {
    "SELECT count() FROM system.numbers": {"159"},
    "SELECT sum(cityHash64(a.number, b.number)) FROM numbers(1000000) a, numbers(1000000) b": {"159"},
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count() FROM t": {"306", "159"},
    "SELECT groupArray(number) FROM numbers(1000000000)": {"241"},
    "SELECT uniqExact(number) FROM numbers(1000000000)": {"241", "159"},
    "SELECT arraySum(x -> arraySum(y -> y * x, range(10000)), range(1000000))": {"241", "69"},
    "SELECT range(500000000)": {"69"},
    "SELECT repeat('x', 1000) FROM numbers(1000000)": {"241", "396"},
    "SELECT number, repeat('x', 100) AS s FROM numbers(20000000) ORDER BY cityHash64(number), s": {"241", "243", "159"},
    "SELECT * FROM numbers(1000001)": {"396"},
    # A name that is printed with each row: little to compute, much to answer.
    f"SELECT 1 AS {'a' * 200_000} FROM numbers(1000000) FORMAT JSONEachRow": {"62"},
    f"SELECT {', '.join(f'1 AS {chr(97 + n) * 250}' for n in range(26))} FROM numbers(1000000) FORMAT JSONEachRow": {
        "241",
        "396",
    },
    "SELECT '" + "x" * REQUEST_BYTES + "'": {"307"},
    "SELECT " + "(" * 5_000 + "1" + ")" * 5_000: {"306", "167", "159"},
    "SELECT " + "+".join(["1"] * 60_000): {"62", "167", "168", "306", "159"},
}


@pytest.mark.parametrize("sql", TOO_MUCH, ids=lambda sql: sql[:50])
def test_what_costs_too_much_ends_at_a_limit(endpoint: Endpoint, sql: str) -> None:
    _, body, headers = endpoint.ask(sql)

    assert headers["X-ClickHouse-Exception-Code"] in TOO_MUCH[sql], body[:300]
    assert len(body) < 2_000
    assert endpoint.ask("SELECT 1")[1] == b"1\n"


def test_a_compressed_bomb_is_refused(endpoint: Endpoint) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < REQUEST_BYTES

    assert endpoint.ask(bomb, {"Content-Encoding": "gzip"})[2]["X-ClickHouse-Exception-Code"] == "307"
    twice = gzip.compress(gzip.compress(b"SELECT 1"))
    assert endpoint.ask(twice, {"Content-Encoding": "gzip, gzip"})[2]["X-ClickHouse-Exception-Code"] == "48"


def test_endless_headers_are_refused(endpoint: Endpoint) -> None:
    parts = urlsplit(endpoint.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 100_000)
        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 400 ")
