"""The ClickHouse HTTP endpoint over a real socket: clients that must work, and requests that must be refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import lz4.frame
import pytest
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.http.gate import Entrance
from collector.http.server import PIECE_BYTES, LargeResponse
from collector.http.settings import AccessSettings
from collector.metrics import Metrics
from collector.sql.endpoint import SqlEndpoint
from collector.sql.guard import allowed
from collector.sql.wire import METHODS, compress_blocks, decompress_blocks, raise_revision
from collector.store.client import open_client
from collector.store.errors import StoreError
from collector.store.native import insert
from collector.store.settings import SqlSettings, StoreSettings
from collector.store.setup import set_up
from schemas.flows import FLOWS
from tests.sql.support import Endpoint, served
from tests.table_rows import batch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROWS = 500


@pytest.fixture(scope="module")
def endpoint(store_directory: Path) -> Iterator[Endpoint]:
    settings = StoreSettings(
        url=f"chdb://{store_directory}",
        database="test_facade",
    )
    limits = SqlSettings(port=0, max_seconds=2, max_queries=2, max_result_rows=100_000, max_request_bytes=20_000)
    client = open_client(settings)
    set_up(client, settings)
    insert(client, FLOWS, [batch(FLOWS, ROWS)], "token")
    with served(settings, settings=limits) as running:
        yield running
    client.command("DROP DATABASE test_facade SYNC")
    client.close()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    parts = urllib.parse.urlsplit(endpoint.url)
    client = clickhouse_connect.get_client(host=parts.hostname, port=parts.port)
    yield client
    client.close()


def test_clickhouse_connect_queries_with_bound_parameters(client: Client) -> None:
    assert client.query("SELECT count() FROM flows").result_rows == [(ROWS,)]
    answer = client.query(
        "SELECT number, {text:String} AS t, {list:Array(UInt8)} AS l FROM numbers(5) WHERE number >= {low:UInt8}",
        parameters={"text": "it's a \t tab", "list": [1, 2], "low": 3},
    )
    assert answer.column_names == ("number", "t", "l")
    assert answer.result_rows == [(3, "it's a \t tab", [1, 2]), (4, "it's a \t tab", [1, 2])]
    assert int(answer.summary["read_rows"]) == 2


def test_clickhouse_connect_frames_arrow_and_commands(client: Client) -> None:
    assert client.query_df("SELECT number FROM numbers(70000)").shape == (70000, 1)
    table = client.query_arrow("SELECT src_ip, time_received, src_vm FROM flows")
    assert table.num_rows == ROWS
    assert client.command("SELECT currentDatabase()") == "test_facade"
    assert client.command("EXISTS TABLE flows") == 1
    assert client.ping()


def test_clickhouse_connect_raises_what_the_engine_says(client: Client) -> None:
    with pytest.raises(driver.DatabaseError) as caught:
        client.query("SELECT * FROM nope")
    assert caught.value.code == 60
    with pytest.raises(driver.DatabaseError) as caught:
        client.command("DROP TABLE flows")
    assert caught.value.code == 164


def test_curl_like_requests(endpoint: Endpoint) -> None:
    assert endpoint.ask(path="/ping")[:2] == (200, b"Ok.\n")
    assert endpoint.ask()[:2] == (200, b"Ok.\n")
    assert endpoint.ask(query="SELECT 1")[:2] == (200, b"1\n")
    assert endpoint.ask("SELECT 1, 'a'")[:2] == (200, b"1\ta\n")
    assert endpoint.ask("+ 1", query="SELECT 41")[:2] == (200, b"42\n")
    assert endpoint.ask("SELECT {x:UInt8} + {y:UInt8}", param_x="40", param_y="2")[1] == b"42\n"
    assert endpoint.ask("SELECT count() FROM one", database="system")[1] == b"1\n"
    assert endpoint.ask("SELECT 1 AS a", default_format="JSONEachRow")[1] == b'{"a":1}\n'
    assert endpoint.ask("SELECT 1 AS a FORMAT CSVWithNames", default_format="JSON")[1] == b'"a"\n1\n'
    assert endpoint.ask(path="/nope", query="SELECT 1")[0] == 404


def test_headers_say_what_came(endpoint: Endpoint) -> None:
    status, body, headers = endpoint.ask("SELECT number FROM numbers(3) FORMAT JSON", query_id="my-query")

    assert status == 200
    assert [row["number"] for row in json.loads(body)["data"]] in ([0, 1, 2], ["0", "1", "2"])
    assert headers["X-ClickHouse-Query-Id"] == "my-query"
    assert headers["X-ClickHouse-Format"] == "JSON"
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    assert headers["X-ClickHouse-Timezone"]
    summary = json.loads(headers["X-ClickHouse-Summary"])
    assert summary["read_rows"] == "3"
    assert int(summary["elapsed_ns"]) > 0


def test_grafana_settings_and_a_compressed_query_are_taken(endpoint: Endpoint) -> None:
    """What clickhouse-go sends over HTTP: the query gzipped in the body, its settings as parameters."""
    status, body, headers = endpoint.ask(
        gzip.compress(b"SELECT number FROM numbers(1000)"),
        {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"},
        default_format="Native",
        max_execution_time="60",
        enable_http_compression="1",
        client_protocol_version="54460",
    )

    assert status == 200
    assert headers["Content-Encoding"] == "gzip"
    block = gzip.decompress(body)
    header = b"\x01\x00\x02\xff\xff\xff\xff\x00" + b"\x01\xe8\x07\x06number\x06UInt64" + b"\x00"
    assert block.startswith(header)
    assert len(block) == len(header) + 8 * 1000


EVERY_TYPE = """
SELECT number AS n, toString(number * 7919) AS s, toLowCardinality(toString(number % 3)) AS l,
  toLowCardinality(toNullable(if(number % 2, 'x', NULL))) AS ln, if(number % 2, number, NULL) AS o,
  range(number % 4) AS a, arrayMap(x -> toString(x), range(number % 3)) AS sa,
  map(toLowCardinality('k'), number) AS m, CAST((number, 'x'), 'Tuple(a UInt64, `b c` String)') AS t,
  toIPv6('::1') AS i6, toIPv4('1.2.3.4') AS i4, generateUUIDv4() AS u, now64(6, 'UTC') AS d64, now() AS d,
  toDecimal64(1.5, 3) AS de, toFixedString('abc', 5) AS f, CAST('a', 'Enum8(\\'a\\' = 1, \\'b(,\\' = 2)') AS e,
  true AS b, toDate('2026-01-01') AS dt, toInt128(number) AS big, NULL AS nothing, [[1, 2], []] AS aa
FROM numbers({rows}) FORMAT Native
"""


@pytest.mark.parametrize("rows", [0, 1, 70_000])
def test_every_type_is_walked_to_the_end_of_its_block(endpoint: Endpoint, rows: int) -> None:
    """All that a newer revision adds is taken out again: what is left must be what the engine wrote."""
    sql = EVERY_TYPE.replace("generateUUIDv4()", "toUUID('01234567-89ab-cdef-0123-456789abcdef')")
    sql = sql.replace("now64(6, 'UTC')", "toDateTime64(1, 6, 'UTC')").replace("now()", "toDateTime(1)")
    plain = endpoint.ask(sql.replace("{rows}", str(rows)))[1]

    status, raised, _ = endpoint.ask(sql.replace("{rows}", str(rows)), client_protocol_version="54460")

    assert status == 200, raised
    blocks = raised.count(b"\x01\x00\x02\xff\xff\xff\xff\x00\x16")
    assert blocks == plain.count(b"\x01n\x06UInt64")
    assert len(raised) == len(plain) + blocks * (8 + 22)
    assert (
        raised.replace(b"\x01\x00\x02\xff\xff\xff\xff\x00\x16", b"\x16")
        .replace(b"\x01n\x06UInt64\x00", b"\x01n\x06UInt64")
        .startswith(plain[:11])
    )


def test_types_of_an_unknown_layout_are_refused_at_newer_revisions(endpoint: Endpoint) -> None:
    sql = "SELECT sumState(number) FROM numbers(3) FORMAT Native"
    assert endpoint.ask(sql)[0] == 200
    assert endpoint.ask(sql, client_protocol_version="54460")[2]["X-ClickHouse-Exception-Code"] == "48"


@pytest.mark.parametrize(
    ("encoding", "unpack"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("lz4", lz4.frame.decompress),
        ("zstd", zstd.decompress),
    ],
)
def test_answers_are_compressed_if_asked(endpoint: Endpoint, encoding: str, unpack: object) -> None:
    sql = "SELECT toString(number) FROM numbers(5000)"
    plain = endpoint.ask(sql)[1]

    _, body, headers = endpoint.ask(sql, {"Accept-Encoding": encoding}, enable_http_compression="1")

    assert headers["Content-Encoding"] == encoding
    assert unpack(body) == plain  # type: ignore[operator]
    assert endpoint.ask(sql, {"Accept-Encoding": encoding})[1] == body
    for wanted in ({}, {"Accept-Encoding": f"{encoding};q=0, br"}, {"Accept-Encoding": f"{encoding}; q=0.000"}):
        assert endpoint.ask(sql, wanted, enable_http_compression="1")[2]["Content-Encoding"] is None
    assert endpoint.ask(sql, {"Accept-Encoding": encoding}, enable_http_compression="0")[1] == plain
    _, body, headers = endpoint.ask("SELECT 1", {"Accept-Encoding": f"br, {encoding};q=0.5"})
    assert (headers["Content-Encoding"], unpack(body)) == (encoding, b"1\n")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("encoding", "unpack"),
    [("", bytes), ("gzip", gzip.decompress), ("lz4", lz4.frame.decompress), ("zstd", zstd.decompress)],
)
def test_a_large_answer_is_whole(endpoint: Endpoint, encoding: str, unpack: Callable[[bytes], bytes]) -> None:
    sql = "SELECT number, repeat('x', number % 300) FROM numbers(100000) FORMAT TabSeparated"
    rows = [b"%d\t%s\n" % (number, b"x" * (number % 300)) for number in range(100_000)]

    status, body, headers = endpoint.ask(sql, {"Accept-Encoding": encoding}, enable_http_compression="1")

    assert (status, headers["Content-Encoding"]) == (200, encoding or None)
    assert int(headers["Content-Length"]) == len(body)
    assert unpack(body) == b"".join(rows)


def test_a_large_native_answer_is_the_same_at_a_newer_revision(endpoint: Endpoint) -> None:
    sql = "SELECT number, repeat('x', number % 300) AS text FROM numbers(100000) FORMAT Native"
    plain = endpoint.ask(sql)[1]
    raised = endpoint.ask(sql, client_protocol_version="54460")[1]
    parts = raise_revision(plain, 54460)

    assert len(raised) > len(plain) > 10 * 2**20
    assert raised == b"".join(parts)


def test_an_answer_without_rows_is_empty(endpoint: Endpoint) -> None:
    status, body, headers = endpoint.ask("SELECT number FROM numbers(0)")
    assert (status, body, headers["Content-Length"]) == (200, b"", "0")


def test_the_loop_runs_between_the_pieces_of_an_answer() -> None:
    """Also where the client takes all at once, so that nothing has to be waited for."""
    body = bytes(range(256)) * 40_000
    sent: list[tuple[int, bytes]] = []
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(message: Any) -> None:
        sent.append((turns, message.get("body", b"")))

    async def scenario() -> None:
        counting = asyncio.create_task(count())
        response = LargeResponse([body[:1000], memoryview(body)[1000:]])
        assert response.headers["content-length"] == str(len(body))
        await response({"type": "http"}, receive, send)
        counting.cancel()

    async def receive() -> Any:
        raise AssertionError("nothing is expected of the client")

    asyncio.run(scenario())
    assert b"".join(octets for _, octets in sent) == body
    assert max(len(octets) for _, octets in sent) <= PIECE_BYTES
    assert len({turn for turn, octets in sent if octets}) == 1 + -(-(len(body) - 1000) // PIECE_BYTES)


@pytest.mark.parametrize(("encoding", "pack"), [("lz4", lz4.frame.compress), ("zstd", zstd.compress)])
def test_queries_may_be_compressed(endpoint: Endpoint, encoding: str, pack: object) -> None:
    body = pack(b"SELECT 7")  # type: ignore[operator]
    assert endpoint.ask(body, {"Content-Encoding": encoding})[:2] == (200, b"7\n")
    assert endpoint.ask(b"nonsense", {"Content-Encoding": encoding})[2]["X-ClickHouse-Exception-Code"] == "271"


def test_settings_that_shape_the_answer_hold_for_their_query_only(endpoint: Endpoint) -> None:
    sql = "SELECT toUInt64(1) AS a FORMAT JSONEachRow"
    assert endpoint.ask(sql, output_format_json_quote_64bit_integers="1")[1] == b'{"a":"1"}\n'
    assert endpoint.ask(sql)[1] == b'{"a":1}\n'


REFUSED = {
    "SELECT file('/etc/passwd')": 497,
    "SELECT `file`('/etc/passwd')": 497,
    "SELECT \"FILE\" /* x */ ('/etc/passwd')": 497,
    "SELECT arrayMap(file, ['/etc/passwd'])": 497,
    "SELECT * FROM file('/etc/passwd', LineAsString)": 497,
    "DESCRIBE TABLE file('/etc/passwd')": 497,
    "SELECT * FROM url('http://127.0.0.1/', CSV)": 497,
    "DESCRIBE TABLE url('http://127.0.0.1/', CSV)": 497,
    "SELECT * FROM remote('127.0.0.1', system.one)": 497,
    "SELECT * FROM s3('http://127.0.0.1/x')": 497,
    "SELECT * FROM executable('x', CSV, 'a Int8')": 497,
    "SELECT * FROM python(client)": 497,
    "SELECT * FROM Python(client)": 497,
    "SELECT * FROM eval('SELECT 1')": 497,
    "SELECT * FROM view(SELECT file('/etc/passwd'))": 497,
    "SELECT aiGenerate('x', 'y')": 497,
    "SELECT 1 INTO OUTFILE 'vmflow-outfile'": 497,
    "SELECT * FROM '/etc/passwd'": 60,
    "SELECT * FROM default.`/etc/passwd`": 81,
    "SELECT 1; SELECT 2": 62,
    "SELECT 1 SETTINGS max_execution_time = 0": 164,
    "SET max_threads = 1": 164,
    "INSERT INTO flows (vni) VALUES (1)": 164,
    "CREATE TABLE x (a UInt8) ENGINE = Memory": 164,
    "DROP TABLE flows": 164,
    "TRUNCATE TABLE flows": 164,
    "ALTER TABLE flows DELETE WHERE 1": 164,
    "KILL QUERY WHERE 1": 164,
    "SYSTEM SHUTDOWN": 164,
    "USE system": 164,
    "ATTACH TABLE x": 164,
    "SELECT 1 // ' \n , file('/etc/passwd') -- '": 62,
    "SELECT 1 # ' \n , file('/etc/passwd') -- '": 62,
    "SELECT $a$ file $a$": 62,
    "SELECT \u201cfile\u201d('/etc/passwd')": 62,
    "SELECT `fi\\x6ce`('/etc/passwd')": 62,
    "SELECT {f:Identifier}('/etc/passwd')": 164,
    "SELECT 'open": 62,
    ";": 62,
}


@pytest.mark.parametrize("sql", REFUSED)
def test_what_could_reach_beyond_the_tables_is_refused(endpoint: Endpoint, sql: str) -> None:
    status, body, headers = endpoint.ask(sql)

    assert headers["X-ClickHouse-Exception-Code"] == str(REFUSED[sql]), body
    assert status in (400, 403, 404)
    assert body.startswith(f"Code: {REFUSED[sql]}. DB::Exception: ".encode())
    assert b"root:" not in body
    assert not Path("vmflow-outfile").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'file(\\'/etc/passwd\\'); -- it''s text'",
        "WITH 1 AS x SELECT x -- file('/etc/passwd')",
        "(SELECT 1) UNION ALL (SELECT 2);",
        "SELECT dst_ip AS `größe` FROM flows LIMIT 1 /* INTO OUTFILE */",
        "SHOW TABLES",
        "EXPLAIN SELECT count() FROM flows",
        "SELECT 6 / 3, 5 - -1, [1][1], 1 ? 2 : 3, 'a' || 'b', 1 != 2",
        "SELECT format('{} {}', 'a', 'b')",
        "DESC flows",
    ],
)
def test_what_only_reads_is_answered(endpoint: Endpoint, sql: str) -> None:
    status, body, _ = endpoint.ask(sql)

    assert (status, b"Exception" in body) == (200, False), body


def test_settings_that_reach_further_are_refused(endpoint: Endpoint) -> None:
    for name in ("max_memory_usage_for_user", "output_format_schema", "format_schema", "allow_ddl", "a b"):
        status, body, headers = endpoint.ask("SELECT 1", **{name: "1"})
        assert (status, headers["X-ClickHouse-Exception-Code"]) in ((403, "164"), (400, "115")), body
    assert endpoint.ask("SELECT getSetting('readonly')", readonly="0")[1] == b"1\n"
    assert endpoint.ask("SELECT getSetting('max_memory_usage')", max_memory_usage="0")[1] == b"536870912\n"
    assert endpoint.ask("SELECT getSetting('max_memory_usage')", max_memory_usage="1000000")[1] == b"1000000\n"


def test_clickhouse_block_compression_is_served(endpoint: Endpoint) -> None:
    sql = "SELECT number, repeat('x', number % 300) FROM numbers(100000)"
    plain = endpoint.ask(sql)[1]

    for method in ({}, {"network_compression_method": "ZSTD"}, {"network_compression_method": "none"}):
        body = endpoint.ask(sql, compress="1", **method)[1]
        assert decompress_blocks(body, len(plain)) == plain
    body = endpoint.ask("SELECT 1", {"Accept-Encoding": "gzip"}, compress="1")[1]
    assert decompress_blocks(gzip.decompress(body), 10) == b"1\n"
    assert endpoint.ask("SELECT number FROM numbers(0)", compress="1")[1] == b""
    _, body, headers = endpoint.ask("SELECT 1", compress="1", network_compression_method="T64")
    assert (headers["X-ClickHouse-Exception-Code"], b"LZ4, LZ4HC, ZSTD, NONE" in body) == ("432", True)


def test_an_error_is_compressed_where_its_answer_would_be(endpoint: Endpoint) -> None:
    status, plain, _ = endpoint.ask("SELECT nope")
    packed_status, body, headers = endpoint.ask("SELECT nope", compress="1")

    assert status == packed_status == 400
    assert int(headers["Content-Length"]) == len(body)
    assert decompress_blocks(body, len(plain)) == plain
    assert body.endswith(plain)  # for drivers that look for the message without unpacking


def test_queries_may_be_in_blocks(endpoint: Endpoint) -> None:
    def asked(body: bytes, **headers: str) -> tuple[int, bytes]:
        return endpoint.ask(body, headers, decompress="1")[:2]

    for method in METHODS:
        body = b"".join(compress_blocks([b"SELECT 7"], method))
        assert asked(body) == (200, b"7\n")
        assert endpoint.ask(gzip.compress(body), {"Content-Encoding": "gzip"}, decompress="1")[1] == b"7\n"
    assert endpoint.ask(b"SELECT 7", decompress="1")[2]["X-ClickHouse-Exception-Code"] == "271"
    bomb = b"".join(compress_blocks([b" " * 10_000_000], "ZSTD"))
    assert endpoint.ask(bomb, decompress="1")[2]["X-ClickHouse-Exception-Code"] == "307"


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("INSERT INTO flows (vni) VALUES (1)", {}),
        (b"INSERT INTO flows FORMAT RowBinary\n\xff\xfe", {}),
        (b"\xff\xfe", {"query": "INSERT INTO flows FORMAT RowBinary"}),
        (b"x" * 30_000, {"query": "INSERT INTO flows FORMAT RowBinary"}),
        ('insert into flows format JSONEachRow {"vni": "\\', {}),
        ("CREATE TABLE t (a UInt8) ENGINE = Memory", {}),
    ],
)
def test_writes_are_refused(endpoint: Endpoint, sql: str | bytes, parameters: dict[str, str]) -> None:
    status, body, headers = endpoint.ask(sql, **parameters)

    assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "164")
    assert b"This endpoint is read-only: '" in body


def test_settings_that_clients_send_by_themselves_change_nothing(endpoint: Endpoint) -> None:
    """All that are ignored, at once; a value that another setting would be refused for."""
    values = dict.fromkeys(allowed().ignored_settings.keys() - {"compress", "decompress", "user", "password"}, "x")
    assert endpoint.ask("SELECT 1", **values)[:2] == (200, b"1\n")
    for name in ("log_comment", "use_query_cache", "max_ast_elements", "load_balancing", "date_time_input_format"):
        sql = f"SELECT getSetting('{name}')"
        assert endpoint.ask(sql, **{name: "7"})[1] != b"7\n"


def test_the_name_of_the_server_is_not_that_of_the_machine(endpoint: Endpoint) -> None:
    """clickhouse-go asks for it before anything else."""
    assert endpoint.ask("SELECT displayName(), version() != '', revision() > 0, timezone() != ''")[1] == (
        b"vmflow\t1\t1\t1\n"
    )


def test_queries_are_bounded(endpoint: Endpoint) -> None:
    def code(sql: str) -> str:
        return str(endpoint.ask(sql)[2]["X-ClickHouse-Exception-Code"])

    assert code("SELECT number FROM numbers(100001)") == "396"
    assert code("SELECT sum(cityHash64(number)) FROM numbers(1000000000000)") == "159"
    assert code("SELECT length(groupArray(number)) FROM numbers(400000000)") in ("241", "159")
    assert code("SELECT '" + "x" * 20_000 + "'") == "307"
    bomb = gzip.compress(b" " * 10_000_000)
    assert endpoint.ask(bomb, {"Content-Encoding": "gzip"})[2]["X-ClickHouse-Exception-Code"] == "307"
    assert code("SELECT 1") == "None"


def test_too_many_queries_at_once_are_refused_and_the_others_answered(endpoint: Endpoint) -> None:
    answers: list[tuple[int, bytes]] = []

    def ask() -> None:
        answers.append(endpoint.ask("SELECT sum(cityHash64(number)) FROM numbers(1000000000000)")[:2])

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Two run and eight wait.  Those that wait longer than a query may take are refused, too.
    refused = [body for status, body in answers if status == 503]
    at_once = [body for body in refused if b"Too many simultaneous queries." in body]
    assert len(at_once) == 12 - 2 - 2 * 4
    assert {body for body in refused if body not in at_once} <= {
        b"Code: 202. DB::Exception: No turn within 5 seconds: too many simultaneous queries. "
        b"(TOO_MANY_SIMULTANEOUS_QUERIES)\n"
    }
    assert {status for status, _ in answers} == {500, 503}
    assert endpoint.ask("SELECT 1")[1] == b"1\n"


def test_outcomes_are_counted(endpoint: Endpoint) -> None:
    before = {
        name: endpoint.metrics.value("sql_queries_total", outcome=name) or 0 for name in ("done", "failed", "refused")
    }

    endpoint.ask("SELECT 1")
    endpoint.ask("SELECT nope")
    endpoint.ask("DROP TABLE flows")

    for name, count in before.items():
        assert endpoint.metrics.value("sql_queries_total", outcome=name) == count + 1


def opened(settings: SqlSettings, store: StoreSettings) -> SqlEndpoint:
    metrics = Metrics()
    return SqlEndpoint(
        settings, store, metrics, asyncio.to_thread, Entrance(AccessSettings(), metrics, asyncio.to_thread)
    )


def test_an_address_in_use_is_named(endpoint: Endpoint) -> None:
    port = urllib.parse.urlsplit(endpoint.url).port

    async def enter() -> None:
        async with opened(SqlSettings(port=port), endpoint.store):
            pass

    with pytest.raises(StoreError, match=rf"SQL endpoint on 127.0.0.1:{port}: .*sql.port"):
        asyncio.run(enter())


def test_the_format_is_that_of_the_statement_or_of_the_request(endpoint: Endpoint) -> None:
    for sql, asked, given in (
        ("SELECT 1 FORMAT JSON;", "CSV", "JSON"),
        ("SELECT 1 FORMAT `JSON`", "CSV", "JSON"),
        ("SELECT 1", "CSV", "CSV"),
    ):
        assert endpoint.ask(sql, default_format=asked)[2]["X-ClickHouse-Format"] == given


def test_over_a_server_the_endpoint_does_nothing() -> None:
    async def enter() -> str:
        async with opened(SqlSettings(), StoreSettings(url="http://127.0.0.1:9")) as endpoint:
            return endpoint.url

    assert asyncio.run(enter()) == ""
