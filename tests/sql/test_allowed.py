"""What the SQL endpoint allows, held against all that the engine registers, in every position a name can stand in."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from collector.sql.engine import LIMITS, Engine, Query, QueryError
from collector.sql.guard import PATH_COLUMNS, TYPE_ARGUMENTS, EngineNames, QueryRefusedError, Statement, allowed
from collector.sql.tree import parse
from collector.store.client import open_client
from collector.store.roles import READER, ceilings
from collector.store.settings import SqlSettings, StoreSettings
from collector.store.setup import set_up

DATABASE = "test_allowed"
SECRET = b"a line of a file that nobody may read"

POSITIONS = (
    "SELECT {f}(1)",
    "SELECT {f}('a', 'b') FROM flows",
    "SELECT `{f}`(1)",
    'SELECT "{f}" /* x */ (1)',
    "SELECT 1 WHERE {f}('x') = 1",
    "SELECT arrayMap(x -> {f}(x), ['a'])",
    "SELECT arrayMap({f}, ['a'])",
    "SELECT arrayMap(`{f}`, ['a'])",
    "SELECT * APPLY({f}) FROM flows",
    "SELECT * APPLY {f} FROM flows",
    "SELECT * APPLY(x -> {f}(x)) FROM flows",
    "SELECT * APPLY(`{f}`) FROM flows",
    "SELECT COLUMNS('vm') APPLY({f}) FROM flows",
    "SELECT * REPLACE({f}(src_vm) AS src_vm) FROM flows",
    "SELECT * FROM view(SELECT {f}('x'))",
    "SELECT * FROM numbers({f}('x'))",
    "WITH {f}('x') AS y SELECT y",
    "WITH y AS (SELECT {f}('x')) SELECT * FROM y",
    "SELECT 1 IN (SELECT {f}('x'))",
    "SELECT exists(SELECT {f}('x'))",
    "SELECT number FROM numbers(1) ORDER BY {f}('x')",
    "SELECT number, 1 AS y FROM numbers(1) ORDER BY number WITH FILL INTERPOLATE (y AS {f}('x'))",
    "SELECT sum(number) OVER (PARTITION BY {f}('x')) FROM numbers(1)",
    "SELECT number FROM numbers(1) GROUP BY {f}('x')",
    "SELECT count() FROM numbers(1) HAVING {f}('x') = '1'",
    "SELECT number FROM numbers(1) LIMIT 1 BY {f}('x')",
    "SELECT 1 FROM numbers(1) AS a JOIN numbers(1) AS b ON {f}('x') = '1'",
    "SELECT number FROM numbers(1) ARRAY JOIN {f}('x') AS y",
    "SELECT sumIf(number, {f}('x') = '1') FROM numbers(1)",
    "SELECT 1 UNION ALL SELECT {f}('x')",
    "SELECT CASE WHEN {f}('x') = '1' THEN 1 END",
    "EXPLAIN SELECT {f}('x')",
    "EXPLAIN QUERY TREE SELECT {f}('x')",
    "EXPLAIN SYNTAX SELECT {f}('x')",
    "DESCRIBE (SELECT {f}('x'))",
    "SHOW TABLES WHERE {f}('x') = '1'",
    "SELECT arrayReduce('{f}', [1])",
    "SELECT CAST('' AS AggregateFunction({f}, UInt8))",
    "SELECT CAST('', 'AggregateFunction({f}, UInt8)')",
    "SELECT initializeAggregation({text:String}, 1)",
    "SELECT arrayMap({name:Identifier}, ['x'])",
    "SELECT * APPLY({name:Identifier}) FROM flows",
)
"""`{f}` is the function; parameters `name` and `text` name it, too."""


@pytest.fixture(scope="module")
def engine(store_directory: Path) -> Iterator[Engine]:
    settings = StoreSettings(url=f"chdb://{store_directory}", database=DATABASE)
    client = open_client(settings)
    set_up(client, settings)
    engine = Engine(store_directory, settings, SqlSettings(max_seconds=2, max_memory_bytes=64 * 2**20))
    yield engine
    engine.close()
    client.command(f"DROP DATABASE {DATABASE} SYNC")
    client.close()


def query(sql: str, database: str = DATABASE, **parameters: str) -> Query:
    return Query(sql.encode(), database, "TabSeparated", parameters, {})


def names(engine: Engine, sql: str) -> list[str]:
    return engine._rows(sql)


def test_every_function_of_the_engine_was_reviewed(engine: Engine) -> None:
    known = {name.lower() for name in names(engine, "SELECT name FROM system.functions WHERE alias_to = ''")}
    listed = allowed().functions

    assert sorted(known - listed.keys()) == [], "put each into a section of collector/sql/allowed.txt"
    # Those that are gone from a newer engine harm nothing; `trap` is one of debug builds.
    assert len(listed.keys() - known) < 20


def test_what_the_endpoint_knows_of_functions_is_the_registry(engine: Engine) -> None:
    registry = dict(row.lower().split("\t") for row in names(engine, "SELECT name, alias_to FROM system.functions"))

    assert engine._names._functions == {name: stands_for or name for name, stands_for in registry.items()}


def test_what_is_allowed_exists(engine: Engine) -> None:
    assert allowed().formats <= set(names(engine, "SELECT lower(name) FROM system.formats WHERE is_output"))
    assert allowed().settings <= set(names(engine, "SELECT name FROM system.settings"))
    assert allowed().table_functions <= set(names(engine, "SELECT lower(name) FROM system.table_functions"))
    assert allowed().system_tables <= set(names(engine, "SELECT name FROM system.tables WHERE database = 'system'"))


def test_no_column_of_ours_is_refused_as_a_function(engine: Engine) -> None:
    for word in sorted(engine._names.words):
        assert engine._names.refused(word) == "", word


def test_no_refused_function_is_passed_on_in_any_position(engine: Engine) -> None:
    functions = [
        name
        for name in names(engine, "SELECT name FROM system.functions")
        if engine._names.verdict(name) != "" and re.fullmatch(r"\w+", name)
    ]
    assert len(functions) > 300
    assert {"file", "sleep", "AIGenerate", "hostname", "getServerSetting"} <= set(functions)
    passed = []
    for name in functions:
        for position in POSITIONS:
            for spelt in (name, name.upper())[: 1 + (position in POSITIONS[:9])]:
                try:
                    engine.run(query(position.replace("{f}", spelt), name=spelt, text=spelt))
                except QueryRefusedError:
                    continue
                except QueryError as error:
                    passed.append((spelt, position, str(error)[:100]))
                else:
                    passed.append((spelt, position, "answered"))
    assert passed == []


def test_the_tree_alone_refuses_each_function(engine: Engine) -> None:
    """Without what is seen in the tokens: the engine's tree names each function that is called."""
    anything = EngineNames((), (), DATABASE, ())
    tree = EngineNames(names(engine, "SELECT name FROM system.functions"), (), DATABASE, ())
    calls = [one for one in POSITIONS if "{f}(" in one and "APPLY" not in one and "SHOW" not in one]
    for name in names(engine, "SELECT name FROM system.functions"):
        if tree.verdict(name) == "" or not re.fullmatch(r"\w+", name):
            continue
        for position in (calls[0], calls[len(name) % len(calls)]):
            sql = position.replace("{f}", name)
            statement = Statement(sql, anything)
            statement._names = tree
            lines = engine._rows("EXPLAIN AST " + sql)
            with pytest.raises(QueryRefusedError):
                statement.check_tree(lines)


def test_no_table_function_but_those_allowed_is_passed_on(engine: Engine) -> None:
    for name in names(engine, "SELECT name FROM system.table_functions"):
        if name.lower() in allowed().table_functions:
            continue
        for call in (f"{name}('a')", f"{name}(flows)", f"`{name}`('a', 'b', 'c')", f"{name.upper()}()"):
            for sql in (
                f"SELECT * FROM {call}",
                f"DESCRIBE TABLE {call}",
                f"SELECT 1 FROM flows AS a JOIN {call} AS b ON 1 = 1",
                f"SELECT 1 IN (SELECT * FROM {call})",
                *([] if engine._names.verdict(name) == "" else [f"SELECT 1 WHERE 1 IN {call}"]),  # a function there
                f"WITH x AS (SELECT * FROM {call}) SELECT 1 FROM x",
                f"SELECT * FROM view(SELECT * FROM {call})",
                f"EXPLAIN SELECT * FROM {call}",
            ):
                with pytest.raises((QueryRefusedError, QueryError)) as refused:
                    engine.run(query(sql))
                # Those two are words of the grammar, too: the engine's parser then sees no function.
                passed = refused.type is QueryError and name not in ("viewIfPermitted", "null")
                assert not passed, f"{sql}: {refused.value}"


def test_no_table_of_system_but_those_allowed_is_passed_on(engine: Engine) -> None:
    for table in names(engine, "SELECT name FROM system.tables WHERE database = 'system'"):
        if table in allowed().system_tables:
            continue
        for sql in (
            f"SELECT * FROM system.{table}",
            f"SELECT count() FROM `system`.`{table}`",
            f'SELECT 1 IN "system" . "{table}"',
            f"DESCRIBE system.{table}",
            f"SELECT 1 FROM flows, system.{table}",
            f"SELECT * FROM view(SELECT * FROM system.{table})",
        ):
            with pytest.raises(QueryRefusedError):
                engine.run(query(sql))
        for sql in (f"SELECT * FROM {table}", f"SELECT 1 IN {table}", f"SELECT 1 IN ({table}, {table})"):
            with pytest.raises((QueryRefusedError, QueryError)):
                engine.run(query(sql, "system"))


PATHS = (
    "SELECT data_paths FROM system.tables",
    "SELECT data_paths, * FROM system.tables",
    "SELECT t.metadata_path FROM system.tables AS t",
    "SELECT system.tables.data_paths FROM system.tables",
    "SELECT (SELECT any(path)) FROM system.parts",
    "SELECT name FROM system.tables ORDER BY data_paths[1]",
    "SELECT name FROM system.parts WHERE path LIKE '/%'",
    "SELECT 1 IN system.databases",
    "SELECT name FROM flows, system.tables JOIN system.parts USING (path)",
    "SELECT empty(data_paths AS p), p FROM system.tables",
    "SELECT empty(arrayFilter(p -> p LIKE '/var%', data_paths)) FROM system.tables",
    "SELECT length(data_paths) FROM system.tables",
    "SELECT notEmpty((SELECT any(metadata_path) FROM system.tables))",
    "SELECT * FROM (SELECT * FROM system.tables) WHERE metadata_path LIKE '/%'",
    "SELECT * FROM system . tables, system.`tables` AS t WHERE t.metadata_path != ''",
)


@pytest.mark.parametrize("sql", PATHS)
def test_paths_of_the_machine_are_not_shown(engine: Engine, sql: str) -> None:
    with pytest.raises((QueryRefusedError, QueryError)):
        engine.run(query(sql))


ALL_COLUMNS = (
    "SELECT * FROM system.tables",
    "SELECT t.* FROM system.tables AS t",
    "SELECT tables.* FROM system.tables",
    "SELECT * FROM system.tables WHERE table = 'flows' AND 'FROM system.tables' != ''",
    'SELECT * FROM /* of all */ `system` . "tables" ORDER BY name',
    "SELECT COLUMNS('path') FROM system.databases",
    "SELECT * EXCEPT name FROM system.parts",
    "SELECT * FROM system.parts_columns LIMIT 1",
    "WITH x AS (SELECT * FROM system.tables) SELECT * FROM x",
    "SELECT * FROM system.tables t INNER JOIN system.databases d ON t.database = d.name",
    "SELECT name AS TABLE_NAME, engine AS TABLE_TYPE, comment AS REMARKS, * FROM system.tables\nWHERE database = 'x'",
)


@pytest.mark.parametrize("sql", ALL_COLUMNS)
def test_all_columns_are_all_but_the_paths(engine: Engine, store_directory: Path, sql: str) -> None:
    """As DBeaver asks; whatever the engine answers has no path in it."""
    try:
        answer = bytes(engine.run(query(f"{sql} FORMAT JSONEachRow")).body).decode()
    except QueryError as error:
        assert error.code in (47, 51), error  # noqa: PT017 - no column is left: an empty list of columns
        answer = ""
    assert str(store_directory) not in answer
    assert not any(f'"{name}":' in answer for name in PATH_COLUMNS)


def test_paths_are_not_shown_with_system_as_the_database(engine: Engine) -> None:
    for sql in ("SELECT * FROM tables", "SELECT data_paths FROM tables", "SELECT 1 IN databases"):
        with pytest.raises(QueryRefusedError):
            engine.run(query(sql, "system"))


USED_BY_CLIENTS = (
    "SELECT version(), timezone(), currentUser(), currentDatabase()",
    "SELECT name, engine, comment FROM system.databases",
    "SELECT database, name, engine, total_rows, total_bytes FROM system.tables WHERE database = currentDatabase()",
    "SELECT * FROM system.columns WHERE table = 'flows'",
    "SELECT system.tables.name FROM system.tables",
    "SELECT sum(bytes_on_disk) FROM system.parts WHERE active",
    "SELECT table_name FROM information_schema.tables",
    "SELECT column_name FROM INFORMATION_SCHEMA.COLUMNS",
    "SHOW DATABASES",
    "SHOW FULL TABLES FROM test_allowed LIKE '%flow%'",
    "SHOW COLUMNS FROM flows FROM test_allowed",
    "SHOW CREATE TABLE test_allowed.flows",
    "SHOW INDEXES FROM flows",
    "EXISTS TABLE test_allowed.flows",
    "EXISTS TABLE `flows` FORMAT Native",
    "EXISTS TABLE test_allowed.flows FORMAT Native",
    "SHOW CREATE TABLE test_allowed.flows FORMAT TSVRaw",
    # JDBC V1: DataGrip and Metabase.
    "SELECT t.name, CASE WHEN t.engine LIKE '%View' THEN 'VIEW' WHEN empty(t.data_paths) THEN 'REMOTE TABLE' "
    "ELSE 'TABLE' END AS kind FROM system.tables t INNER JOIN system.databases d ON t.database = d.name "
    "WHERE t.database LIKE 'test%'",
    "SELECT * FROM system.dictionaries",
    "SELECT name FROM system.dictionaries WHERE database = 'test_allowed'",
    "SELECT cluster, host_name FROM system.clusters",
    "SELECT * FROM system.macros, system.constraints",
    "SELECT role_name FROM system.enabled_roles",
    # DBeaver's statistics of tables.
    "SELECT table, sum(bytes) AS table_size, sum(rows) AS table_rows, max(modification_time) AS latest_modification, "
    "min(min_date) AS min_date, max(max_date) AS max_date, any(engine) AS engine FROM system.parts "
    "WHERE database = 'test_allowed' AND active GROUP BY table",
    # Grafana.
    'DESC TABLE "test_allowed"."flows"',
    "SELECT name, is_aggregate, case_insensitive, alias_to, origin, description, syntax, arguments, returned_value, "
    "examples, categories FROM system.functions LIMIT 10",
    "SELECT name, type, table FROM system.columns WHERE database IN ('test_allowed') AND table = 'flows'",
    "SELECT DISTINCT src_vm FROM test_allowed.flows LIMIT 1000",
    # Metabase, Superset.
    "SELECT 1 FROM system.settings WHERE name = 'cloud_mode' AND value = '1'",
    "SELECT name, type, comment, is_in_primary_key FROM system.columns WHERE database NOT IN ('system') ORDER BY name",
    "SELECT name FROM system.functions UNION ALL SELECT name FROM system.table_functions",
    "DESCRIBE TABLE (SELECT src_vm FROM flows)",
    "EXPLAIN indexes = 1 SELECT count() FROM flows WHERE time_received > now()",
    "EXPLAIN PIPELINE SELECT 1",
    "SELECT CAST(1 AS DateTime64(3, 'UTC')), 1::UInt8, DATE '2020-01-01', INTERVAL 1 DAY, [1][1], (1, 2).1",
    "SELECT toStartOfInterval(time_received, INTERVAL 1 minute) AS t, sum(vni) OVER (ORDER BY t) FROM flows",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT sum(n) FROM t",
    "SELECT src_vm, count() AS c FROM flows GROUP BY src_vm WITH TOTALS HAVING c > 0 ORDER BY c DESC LIMIT 1 BY src_vm",
    "SELECT src_vm, grouping(src_vm) FROM flows GROUP BY ROLLUP(src_vm)",
    "SELECT * EXCEPT (src_ip) APPLY(toString) FROM flows LIMIT 1",
    "SELECT quantilesTDigestIf(0.5, 0.9)(vni, vni > 1) FROM flows",
    "SELECT uniqMerge(s) FROM (SELECT uniqState(vni) AS s FROM flows)",
    "SELECT a.src_vm FROM flows AS a ANY LEFT JOIN flows AS b USING (src_vm)",
    "SELECT x FROM flows ARRAY JOIN [1, 2] AS x LIMIT 3",
    "SELECT number, lagInFrame(number) OVER w FROM numbers(3) WINDOW w AS (ORDER BY number)",
    "SELECT number FROM numbers(3) ORDER BY number WITH FILL FROM 0 TO 9 STEP 3",
    "SELECT 1 INTERSECT SELECT 1 EXCEPT SELECT 2",
    "SELECT match('abc', 'a.c'), extract('abc', 'b'), 'x' REGEXP '^x{2,3}$', splitByRegexp('[,;]', 'a,b')",
    "SELECT dateAdd(DAY, 1, today()), EXTRACT(YEAR FROM now()), toIPv4OrNull('1.2.3.4')",
    "SELECT IPv6NumToString(src_ip) FROM flows",
    "SELECT * FROM flows WHERE (src_vm, dst_vm) IN (('a', 'b')) AND src_vm NOT LIKE 'x%'",
    "SELECT src_vm FROM flows WHERE src_vm LIKE concat('%', lower('a'), '%') OR dst_vm ILIKE '%a%b%'",
    f"SELECT {'abs(' * 190}1{')' * 190}",
    "SELECT arrayReduce('sum', [1, 2]), initializeAggregation('uniqState', 1)",
    "SELECT if(1, 2, 3), CASE 1 WHEN 1 THEN 2 ELSE 3 END, 1 BETWEEN 0 AND 2, NOT 1, 1 IS NOT NULL",
    "SELECT * FROM values('a String, b UInt8', ('x', 1), ('y', 2)) AS x, values((1, 2), (3, 4)) AS y",
    "SELECT sum(x) FILTER (WHERE x > 1), count(DISTINCT x) FROM values('x UInt8', 1, 2)",
    "SELECT uniqExact(src_vm) FROM flows FORMAT JSONCompact",
)  # fmt: skip


@pytest.mark.parametrize("sql", USED_BY_CLIENTS)
def test_what_people_and_clients_ask_is_answered(engine: Engine, sql: str) -> None:
    assert engine.run(query(sql)).format


def test_parameters_name_columns_and_tables_of_ours(engine: Engine) -> None:
    sql = "SELECT {c:Identifier} FROM {t:Identifier} LIMIT 1"
    assert bytes(engine.run(query("SELECT count({c:Identifier}) FROM {t:Identifier}", c="src_vm", t="flows")).body)
    assert bytes(engine.run(query("SELECT 7 AS mine ORDER BY {c:Identifier}", c="mine")).body) == b"7\n"
    for column, table in (
        ("file", "flows"),
        ("src_vm", "system.processes"),
        ("src_vm", "other.flows"),
        ("src_vm", "/etc/passwd"),
        ("a\n   Function file", "flows"),
        ("", "flows"),
    ):
        with pytest.raises(QueryRefusedError):
            engine.run(query(sql, c=column, t=table))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT match('x', '(a?){500}a{500}')",
        "SELECT match('x', '((a{20}){20}){20}')",
        "SELECT 'x' REGEXP '(a?){101}'",
        "SELECT replaceRegexpAll('x', 'a{0,1000}', '')",
        "SELECT extract('x', repeat('a', 10))",
        "SELECT match('x', {text:String})",
        "SELECT match('x', 'x (alias (a?){500})') AS b",
        "SELECT splitByRegexp('(a?){500}', 'x')",
        "SELECT 'x' ILIKE concat(repeat('%a_', 5000), 'b')",
        "SELECT 'x' LIKE p FROM (SELECT repeat('%a', 5000) AS p)",
        "SELECT src_vm LIKE concat('%', lower(dst_vm), '%') FROM flows",
        "SELECT mapContainsKeyLike(map('a', 1), repeat('%a', 5000))",
        "SELECT windowFunnel(1000000, 'strict_once')(number, number % 2 = 0, number % 3 = 0) FROM numbers(20000)",
        f"SELECT 'x' LIKE '{'%a' * 33}'",
        f"SELECT 'x' NOT LIKE concat('{'%a' * 20}', '{'%a' * 20}')",
        f"SELECT {'abs(' * 201}1{')' * 201}",
        f"SELECT match('x', '{'a' * 1001}')",
        f"SELECT 1 AS {'a' * 257}",
        "SELECT b FROM values('a String, b String ALIAS file(''/etc/passwd'')', 'x')",
        "SELECT b FROM values('a String, b String ALIAS concat(a, a)', 'x')",
        "SELECT b FROM values(concat('a String, b String ALIAS fi', 'le(''/etc/passwd'')'), 'x')",
        "SELECT b FROM values({text:String}, 'x')",
        "SELECT b FROM `VALUES`('a String, b String default 1', ('x', 'y'))",
        "SELECT b FROM values('a String, b String\nALIAS\nhostName()', 'x')",
        r"SELECT b FROM values('a String, b String\tALIAS\tfile(''/etc/hosts'')', 'x')",
        "SELECT * FROM values('s AggregateFunction(sum, UInt64)', 'x')",
        "SELECT timeSeriesReplaceTag(0, 'x', 'y', 'a', '(a?){500}a{500}')",
        "SELECT `t (alias x`.data_paths AS y FROM system.tables AS `t (alias x`",
        "SELECT `t (children 1`.path AS y FROM system.parts AS `t (children 1`",
        "SHOW COLUMNS FROM `a' OR file('/etc/passwd') = 'x`",
        "SHOW TABLES LIKE 'a'' OR 1 = 1 --'",
        "SHOW TABLES WHERE 1",
        "EXPLAIN SELECT 1 FORMAT TSV SETTINGS max_memory_usage = 0",
        "SELECT 1 FORMAT AvroConfluent",
        "SELECT 1 FORMAT MySQLWire",
        "SELECT " + "/*" * 100_000,
        "SELECT " + "'" + "''" * 100_000,
        "SELECT " + "(SELECT " * 2_000 + "file('x')" + ")" * 2_000,
        "SELECT " + "[" * 100_000,
        "SELECT " + "a," * 200_000 + "a",
    ],
)
def test_what_hides_in_texts_or_costs_too_much_is_refused(engine: Engine, sql: str) -> None:
    with pytest.raises((QueryRefusedError, QueryError)) as refused:
        engine.run(query(sql, text="b String ALIAS lower('(a?){500}')"))
    assert refused.type is QueryRefusedError or "[" in sql or "(SELECT" in sql  # too deep for the engine's parser


DOUBLED = ", ".join(f"c{n} AS (SELECT x FROM c{n - 1} UNION ALL SELECT x FROM c{n - 1})" for n in range(1, 31))
CHAINED = ", ".join(f"c{n} AS (SELECT 1 AS x WHERE 1 IN c{n - 1})" for n in range(1, 40))
ASKED = ", ".join(f"c{n} AS (SELECT 1 AS x WHERE 1 IN (SELECT x FROM c{n - 1}))" for n in range(1, 40))
CROSSED = ", ".join(f"(SELECT {n} AS x{n}) AS t{n}" for n in range(101))
JOINED = " ".join(f"JOIN flows AS f{n} USING (exporter)" for n in range(17))
DOUBLE = ", ".join(f"d{n} AS (SELECT x + x AS x FROM d{n - 1})" for n in range(1, 40))


def nested(levels: int, expression: str, source: str = "numbers(3)", rest: str = "") -> str:
    """SELECTs that read from each other."""
    for _ in range(levels):
        source = f"(SELECT {expression} FROM {source} {rest})"
    return f"SELECT * FROM {source}"


GROWING = "number * number + number AS number"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        (f"WITH c0 AS (SELECT 1 AS x), {DOUBLED} SELECT count() FROM c30", "too big"),
        (f"SELECT 1 WHERE 1 IN {'(SELECT 1 WHERE 1 IN ' * 45}(SELECT 1){')' * 45}", "more than 8 subqueries"),
        (f"WITH c0 AS (SELECT 1 AS x), {CHAINED} SELECT * FROM c39", "more than 8 subqueries"),
        (f"WITH c0 AS (SELECT 1 AS x), {ASKED} SELECT * FROM c39", "more than 8 subqueries"),
        (f"SELECT * FROM {CROSSED}", "more than 100 tables"),
        (f"SELECT * FROM flows {JOINED}", "more than 16 tables are joined"),
        (f"SELECT {'(SELECT 1 WHERE 1 IN ' * 5}(SELECT packets FROM pair_metrics){')' * 5}", "more than 4"),
        (nested(40, GROWING, rest="WHERE number > 0 ORDER BY number"), "grow too long"),
        (nested(25, "tuple(number, number) AS number"), "grow too long"),
        (nested(25, "number + other AS number, number - other AS other", "(SELECT 1 AS number, 2 AS other)"), "grow"),
        (nested(3, f"number{' + number' * 99} AS number"), "grow too long"),
        (nested(2, f"a{' + a' * 9} AS b, b{' + b' * 9} AS c, c{' + c' * 9} AS a", "(SELECT 1 AS a)"), "grow too long"),
        (f"WITH d0 AS (SELECT number AS x FROM numbers(3)), {DOUBLE} SELECT * FROM d39", "grow too long"),
        ("WITH flows AS (SELECT 1 AS x) SELECT * FROM flows", "a name of its own"),
    ],
    ids=[
        "tables doubled", "subqueries", "names in a chain", "subqueries in a chain", "tables", "joins", "views",
        "growing", "types", "two columns", "long expressions", "aliases", "common table expressions", "name of a table",
    ],
)  # fmt: skip
def test_what_the_engine_would_plan_for_ever_is_refused(engine: Engine, sql: str, why: str) -> None:
    with pytest.raises((QueryRefusedError, QueryError)) as refused:
        engine.run(query(sql))
    assert why in str(refused.value).lower()


@pytest.mark.parametrize(
    "sql",
    [
        nested(12, "number + number AS number"),
        nested(60, "number", rest="WHERE 1"),
        nested(4, 'round("number", 2) AS "number"', rest='WHERE "number" >= 0 GROUP BY "number" ORDER BY "number"'),
        "WITH a AS (SELECT packets FROM flows), b AS (SELECT packets * 2 AS p, packets * 3 AS q FROM a), "
        "c AS (SELECT bytes FROM flows) SELECT b.p + b.q FROM b WHERE b.p IN (SELECT bytes FROM c) UNION ALL "
        "SELECT packets FROM a",
        "EXPLAIN AST SELECT 1 FROM pair_metrics WHERE src_vm IN (SELECT vm FROM vm_metrics WHERE vm IN (SELECT 'a'))",
    ],
)
def test_statements_as_people_write_them_are_planned(engine: Engine, sql: str) -> None:
    engine.run(query(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(unhex('0300ff'), 'AggregateFunction(rankCorr, Float64, Float64)')",
        "SELECT unhex('ff')::AggregateFunction(groupBitmap, UInt64)",
        r"SELECT CAST('', '\nAggregateFunction(sum, UInt64)')",
        r"SELECT CAST('', 'Array(Aggre\x67ateFunction(sum, UInt64))')",
        "SELECT CAST('', concat('Aggregate', 'Function(sum, UInt64)'))",
        "WITH 'UInt8' AS t SELECT CAST('1', t)",
        "SELECT accurateCastOrNull('', 'Tuple(SimpleAggregateFunction(sum, UInt64))')",
        "SELECT defaultValueOfTypeName('AggregateFunction(sum, UInt64)')",
        "SELECT JSONExtract('{}', 'a', concat('AggregateFunction', '(sum, UInt64)'))",
        "SELECT JSONExtractKeysAndValues('{}', 'AggregateFunction(sum, UInt64)')",
        "SELECT {state:AggregateFunction(sum, UInt64)}",
        "SELECT {state : /* x */ Array(`AggregateFunction`(sum, UInt64))}",
        "SELECT {other:String}, {state:JSON(SKIP REGEXP '(a?){500}')}",
        "SELECT '{}'::JSON(SKIP REGEXP '(a?){500}')",
        "SELECT j.a.:`AggregateFunction(sum, UInt64)` FROM (SELECT '{}'::JSON AS j)",
        "SELECT arrayReduce('sum" + "State" * 60 + "', [1])",
        "SELECT JSONExtract()",
        "SELECT CAST(CAST())",
    ],
)
def test_a_type_is_a_text_as_it_stands_without_states_and_regular_expressions(engine: Engine, sql: str) -> None:
    with pytest.raises((QueryRefusedError, QueryError)) as refused:
        engine.run(query(sql, state="x"))
    assert refused.type is QueryRefusedError or "()" in sql  # the engine's parser knows better


def test_no_function_but_those_known_takes_the_name_of_a_type(engine: Engine) -> None:
    """A type that does not exist is looked for by nobody else: the engine would say so."""
    checked, taken = 0, set()
    for name in names(engine, "SELECT name FROM system.functions WHERE NOT is_aggregate"):
        if engine._names.verdict(name) != "" or name.lower() in TYPE_ARGUMENTS:
            continue
        for arguments in ("'NoSuchType'", "'{}', 'NoSuchType'", "1, 'NoSuchType', 1", "'{}', 'a', 'NoSuchType'"):
            checked += 1
            try:
                engine.run(query(f"SELECT {name}({arguments})"))
            except (QueryError, QueryRefusedError) as error:
                if "Code: 50." in str(error):
                    taken.add(name)
    assert taken == set()
    assert checked > 3_000


def test_a_tree_is_understood_in_a_time_that_grows_with_its_length() -> None:
    """A regular expression took minutes for a line like these, in which no other thread ran."""
    text = " (alias x (children (alias ) (" * 100_000
    for end, found in {
        "": text,
        " (children 1)": text,
        ")": "",
        " (children x)": "",
        " (alias y) (children 1)": "",
    }.items():
        (node,) = parse([f"Identifier {text}{end}"])
        assert (node.kind, node.text == found) == ("Identifier", True), end


def test_no_allowed_function_reads_a_file_or_asks_an_address(engine: Engine, tmp_path: Path) -> None:
    """Each is called with a path and an address: no answer has the file's line, and nobody calls."""
    (tmp_path / "secret").write_bytes(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        path, address = f"'{tmp_path / 'secret'}'", f"'http://127.0.0.1:{port}/'"
        answered = 0
        for name in names(engine, "SELECT name FROM system.functions"):
            if engine._names.verdict(name) != "":
                continue
            for arguments in (
                path,
                address,
                f"{path}, {path}",
                f"{address}, 'a'",
                f"'127.0.0.1:{port}', 'a', 'b'",
                f"{path}, 'CSV', 'a String'",
            ):
                try:
                    body = bytes(engine.run(query(f"SELECT {name}({arguments})")).body)
                except (QueryError, QueryRefusedError) as error:
                    body = str(error).encode()
                else:
                    answered += 1
                assert SECRET not in body, name
            with pytest.raises(BlockingIOError):
                listening.accept()
    assert answered > 1000


def test_the_engine_itself_refuses_a_reader(engine: Engine, tmp_path: Path) -> None:
    """Without any guard before it: the connection's role and profile hold."""
    (tmp_path / "secret.csv").write_bytes(SECRET)
    connection = engine._connect(engine._path)
    try:
        for setting in (f"ROLE {READER}", f"profile = '{READER}'", f"max_memory_usage = {2**20 * 64}", "readonly = 1"):
            connection.query(f"SET {setting}", "TabSeparated")
        for sql, code in {
            f"SELECT * FROM file('{tmp_path / 'secret.csv'}', LineAsString)": 497,
            f"SELECT * FROM default.`{tmp_path / 'secret.csv'}`": 497,
            f"DESCRIBE TABLE file('{tmp_path / 'secret.csv'}')": 497,
            "SELECT * FROM url('http://127.0.0.1:9/', CSV, 'a String')": 497,
            "SELECT * FROM remote('127.0.0.1:9', system.one)": 497,
            "SELECT * FROM s3('http://127.0.0.1:9/bucket/x', CSV, 'a String')": 497,
            "SELECT * FROM mysql('127.0.0.1:9', 'd', 't', 'u', 'p')": 497,
            f"SELECT * FROM sqlite('{tmp_path / 'x'}', 't')": 497,
            f"INSERT INTO {DATABASE}.flows (vni) VALUES (1)": 497,
            f"DROP TABLE {DATABASE}.flows": 497,
            "CREATE TABLE x (a UInt8) ENGINE = Memory": 497,
            f"SELECT 1 FROM {DATABASE}.flows SETTINGS max_memory_usage = 0": 164,
            "SET max_memory_usage = 1": 164,
        }.items():
            with pytest.raises(RuntimeError, match=rf"Code: {code}\."):
                connection.query(sql, "TabSeparated")
        lifted = connection.query("SELECT (SELECT getSetting('max_memory_usage') SETTINGS max_memory_usage = 0)")
        assert 1 <= int(lifted.bytes()) <= 64 * 2**20
    finally:
        connection.close()


def test_a_setting_is_passed_on_lowered_or_ignored() -> None:
    lists = (allowed().settings, LIMITS, allowed().ignored_settings.keys(), ceilings(SqlSettings()).keys() - LIMITS)
    assert [name for one, other in combinations(lists[:3], 2) for name in one & other] == []
    assert sorted(lists[0] & lists[3]) == [], "what holds a query back is not for the one who asks"
