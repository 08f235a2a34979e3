"""The check of SQL: the endpoint passes on only what it knows and allows.

A statement is read twice.  Its *tokens* are checked first: characters whose meaning depends on the lexer, a second
statement, or the name of a refused function are refused wherever they occur (`* APPLY(name)` and functions passed by
name are visible nowhere else).  Then the *engine itself* parses it (`EXPLAIN AST`, parameters filled in), and every
node of its tree must be of a known kind, every function, table function, table and database on a list.  So what is
checked is what is run: no other parser of ClickHouse's grammar is involved.

Two more barriers follow: the engine's own grants (`roles`) and what the system allows the process to reach.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple, NoReturn

from collector.sql.tree import ALIAS, CHILDREN, Node, growth, inside, nesting, parse
from collector.store.roles import LARGEST_STATEMENT

STATEMENTS = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "("})

NO_FUNCTIONS = frozenset({"lambda", "exists", "grouping", "untuple", "columns"})
"""What the engine's parser calls a function, but its registry does not have."""

NAMED_AGGREGATES = frozenset({"arrayreduce", "initializeaggregation"})
"""Functions whose first argument is the name of an aggregate function."""

REGEX_FUNCTIONS = re.compile(
    r"(not)?match(caseinsensitive)?|countmatches(caseinsensitive)?|extract(all|groups|allgroups(horizontal|vertical))?"
    r"|regexp(extract|position)|replaceregexp(all|one)|splitbyregexp|timeseriesreplacetag"
)
"""Functions with a regular expression: their second argument, except for those in `REGEX_ARGUMENTS`."""
REGEX_ARGUMENTS = {"splitbyregexp": 0, "timeseriesreplacetag": 4}

TYPE_ARGUMENTS = {
    "cast": 1, "_cast": 1, "accuratecast": 1, "accuratecastornull": 1, "accuratecastordefault": 1, "reinterpret": 1,
    "kqlparametercast": 1, "dynamicelement": 1, "variantelement": 1, "getsubcolumn": 1, "defaultvalueoftypename": 0,
    "jsonextract": -1, "jsonextractcaseinsensitive": -1,
    "jsonextractkeysandvalues": -1, "jsonextractkeysandvaluescaseinsensitive": -1,
}  # fmt: skip
"""Functions that take the name of a type, and which argument it is."""
TYPES_REFUSED = re.compile(r"\w*aggregatefunction|regexp", re.ASCII | re.IGNORECASE)
"""Words that no type may contain.  The engine trusts the state of an aggregate function that is read from a text: it
reads beyond it or computes forever.  JSON(SKIP REGEXP …) is one more regular expression."""

REGEX_CHARACTERS = 1_000
REGEX_REPEATS = 100
"""Limits of a regular expression: its length, and the largest count in braces.  `(a?){500}a{500}` takes minutes for a
text of 500 characters, in one call that cannot be interrupted."""

STATEMENT_CHARACTERS = 2**18
"""ClickHouse's own default of max_query_size."""
BRACKETS = 200
"""Brackets open at a time.  The engine's parser takes 7 s for 40,000 values within 480 calls."""
PATTERN_WILDCARDS = 32
"""Wildcards in a pattern of LIKE of up to REGEX_CHARACTERS.  With 5,000 of them it takes minutes for 100,000
characters."""
PATTERN_PARTS = frozenset({"concat", "_cast", "cast", "tostring", "lower", "upper", "replaceall"})
"""Functions that may build a pattern of LIKE from parameters and texts."""
NESTED_SUBQUERIES = 8
"""Nested subqueries of expressions, with those of all common table expressions added, since these may name each other.
Each of them doubles the time of the engine's analysis."""
NESTED_AROUND_VIEWS = 4
"""The same if a view is read, whose analysis alone takes a third of a second."""
LARGEST_GROWTH = 50_000
"""How often a column may occur in the plan of a statement whose SELECTs read from each other (`tree.growth`)."""
READ_TABLES = 100
"""Tables read in a whole statement."""
JOINS = 16
"""Joins in a whole statement.  The time of planning grows with the square of their number: 48 take half a minute."""
NAME_CHARACTERS = 256
"""Length of an alias or any other name: some formats print it with each row."""

SYSTEM = "system"
PATH_TABLES = frozenset({"databases", "parts", "parts_columns", "tables"})
"""Tables of `system` that have PATH_COLUMNS: their columns are selected by name, never with `*`."""
PATH_COLUMNS = frozenset({"data_path", "data_paths", "metadata_path", "path", "disk_name", "storage_policy"})

WHETHER_FUNCTIONS = frozenset({"empty", "notEmpty"})
"""Functions of one argument that show whether a path exists."""

INFORMATION_SCHEMA = frozenset({"information_schema", "INFORMATION_SCHEMA"})

TELLS_STRUCTURE = ("Exists", "ShowCreate")
"""Beginnings of statements that describe tables and show no rows: they may name each table of `system`."""

EXPLAINED = frozenset({"", "AST", "SYNTAX", "QUERY TREE", "PLAN", "PIPELINE", "ESTIMATE"})

STRUCTURE_FUNCTIONS = frozenset({"values", "sqlstandardvalues"})
"""Table functions whose first argument may be a text that declares columns."""
EXPRESSIONS = re.compile(r"default|alias|materialized|ephemeral|codec|ttl|statistics", re.IGNORECASE)
"""Keywords that put an expression into a column's declaration."""

_SHOW = re.compile(
    r"SHOW( FULL| EXTENDED)?"
    r"( (DATABASES|ENGINES|FUNCTIONS|SETTINGS)| (CREATE )?(DATABASE|TABLE|VIEW) @( \. @)?| CREATE @( \. @)?"
    r"| (TABLES|COLUMNS|FIELDS|INDEX|INDEXES|INDICES|KEYS)(( FROM| IN) @( \. @)?)?(( FROM| IN) @)?)"
    r"(( NOT)? (LIKE|ILIKE) ')?( LIMIT 0)?( FORMAT @)?"
)
"""SHOW statements allowed.  `@` is a name, `'` a string, 0 a number: the engine's tree has none of these."""

_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r\n\f\v]+ | --[^\n]* | /\*.*?\*/ )
    | (?P<string> '(?: [^'\\] | \\. | '' )*' )
    | (?P<quoted> `(?: [^`\\\x00-\x1f\x7f] | `` )*` | "(?: [^"\\\x00-\x1f\x7f] | "" )*" )
    | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> [0-9][A-Za-z0-9_.]* )
    | (?P<sign> [][(){}<>=!+*/%,.:;?@|^&~-] )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "0": "\0", "a": "\a", "v": "\v"}
"""How the tree writes control characters of a text."""
_TIME_ZONE = re.compile(r"([A-Za-z][A-Za-z0-9_+/-]{0,63})?")
_FIRST_WORD = re.compile(rb"\s*([A-Za-z]+)\b")
_WORDS = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class QueryRefusedError(Exception):
    """The endpoint refuses this SQL.  `code` is ClickHouse's error code."""

    def __init__(self, message: str, code: int = 164, name: str = "READONLY") -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({name})")
        self.code = code


class PathsError(QueryRefusedError):
    """The statement selects all columns of a table that has paths of the machine."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"Of {table} the columns are asked for by name: it has paths of the machine", 497, "ACCESS_DENIED"
        )


class Token(NamedTuple):
    """A token: `name`, `string`, `number` or `sign`, and its text; names come without their quotes."""

    kind: str
    text: str


class EngineNames:
    """What the engine and the database have, in lower case: functions, tables and columns."""

    def __init__(
        self,
        functions: Iterable[str],
        combinators: Collection[str],
        database: str,
        words: Iterable[str],
        tables: Iterable[str] = (),
        views: Iterable[str] = (),
    ) -> None:
        """`functions` are all that the engine has, including aliases; `words`: the store's tables and views and their
        columns."""
        self.allowed = allowed()
        known = map(str.lower, functions)
        self._functions = {name: self.allowed.aliases.get(name, name) for name in known}
        self._combinators = tuple(name.lower() for name in combinators)
        self.database = database
        self.views = frozenset(views)
        ours = self.views | frozenset(tables)
        self.tables = frozenset(
            name
            for of, names in ((database, ours), (SYSTEM, self.allowed.system_tables))
            for one in names
            for name in (one, f"{of}.{one}")
        )
        """Names that mean themselves after FROM."""
        self.words = frozenset({database.lower(), *(word.lower() for word in words)})

    def verdict(self, name: str) -> str | None:
        """Return an empty text for an allowed function, else why it is refused; None for what is not a function."""
        name = name.lower()
        for _ in range(8):
            known = self._functions.get(name)
            if known is not None:
                return self.allowed.functions.get(known, "it is not known to this endpoint")
            suffix = next((one for one in self._combinators if name.endswith(one) and name != one), None)
            if suffix is None:
                return None
            name = name.removesuffix(suffix)
        return None

    def refused(self, name: str) -> str:
        """Return why a function of that name is refused; empty for an allowed one and for what is not a function."""
        return self.verdict(name) or ""


@dataclass(frozen=True)
class Allowed:
    """The lists of `allowed.txt`."""

    syntax: frozenset[str]
    table_functions: frozenset[str]
    """In lower case."""
    system_tables: frozenset[str]
    formats: frozenset[str]
    """In lower case."""
    settings: frozenset[str]
    ignored_settings: Mapping[str, str]
    """Settings that are accepted without effect, and why."""
    functions: Mapping[str, str]
    """Why a function is refused, an empty text if it is allowed; names in lower case."""
    aliases: Mapping[str, str]
    """Aliases of functions, and their names, in lower case."""


@cache
def allowed() -> Allowed:
    """Read `allowed.txt`, once."""
    sections: dict[str, list[str]] = {}
    section: list[str] = []
    for line in resources.files(__package__).joinpath("allowed.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections[line.strip("[]")] = []
        elif not line.startswith("#"):
            section += line.split()
    refused, taken = "refused functions: ", "ignored settings: "
    ignored: dict[str, str] = {}
    functions = dict.fromkeys(map(str.lower, sections["functions"]), "")
    for title, names in sections.items():
        if title.startswith(refused):
            functions |= dict.fromkeys(map(str.lower, names), title.removeprefix(refused))
        elif title.startswith(taken):
            ignored |= dict.fromkeys(names, title.removeprefix(taken))
    return Allowed(
        frozenset(sections["syntax"]),
        frozenset(map(str.lower, sections["table functions"])),
        frozenset(sections["system tables"]),
        frozenset(map(str.lower, sections["formats"])),
        frozenset(sections["settings"]),
        ignored,
        functions,
        dict(pair.lower().split("=", 1) for pair in sections["aliases"]),
    )


class Statement:
    """One statement with checked tokens: `check_tree` checks the engine's tree of it."""

    def __init__(self, sql: str, names: EngineNames, database: str = "", parameters: Mapping[str, str] | None = None):
        """`database` is the one in which bare names are looked up.  Raises QueryRefusedError."""
        self._names = names
        self._database = database or names.database
        if len(sql) > STATEMENT_CHARACTERS:
            raise QueryRefusedError(f"Max query size exceeded: {STATEMENT_CHARACTERS} characters", 62, "SYNTAX_ERROR")
        tokens = list(_tokens(sql))
        while tokens and tokens[-1].text == ";":
            tokens.pop()
        if not tokens:
            raise QueryRefusedError("Syntax error: empty query", 62, "SYNTAX_ERROR")
        self._tokens = tokens
        self._check_database(self._database)
        self._check_tokens()
        self._check_identifiers(parameters or {})
        self.format = self._format()

    def _format(self) -> str | None:
        """The statement's FORMAT, if it names one."""
        if len(self._tokens) > 2 and self._tokens[-2].text.upper() == "FORMAT" and self._tokens[-1].kind == "name":
            return check_format(self._tokens[-1].text)
        return None

    def _check_tokens(self) -> None:
        tokens = self._tokens
        first = tokens[0].text.upper()
        if first not in STATEMENTS:
            raise QueryRefusedError(f"This endpoint is read-only: {tokens[0].text[:40]!r} is refused")
        if first == "SHOW" and not _SHOW.fullmatch(_outline(tokens)):
            _deny(
                "Of SHOW, databases, tables, views, columns, indexes, functions, engines, settings and CREATE are shown"
            )
        padded = [*tokens, Token("end", ""), Token("end", "")]
        seen = set()
        opened = 0
        for at, (kind, text) in enumerate(tokens):
            after = padded[at + 1].text
            if kind == "sign":
                opened += (text in "([{") - (text in ")]}")
                if opened > BRACKETS:
                    raise QueryRefusedError(
                        f"More than {BRACKETS} brackets are open at a time", 306, "TOO_DEEP_RECURSION"
                    )
            if text == ";":
                raise QueryRefusedError("Only one statement at a time", 62, "SYNTAX_ERROR")
            if text == "}" and after == "(":
                raise QueryRefusedError("A function's name cannot be a parameter")
            if after.upper() == "AS" and padded[at + 2].text == "(" and (text == "}" or text in self._names.tables):
                raise QueryRefusedError(
                    "A common table expression has a name of its own, not that of a table or parameter"
                )
            if text.lower() == "settings" and padded[at + 2].text == "=":
                raise QueryRefusedError("Cannot modify settings in readonly mode: they are parameters of the request")
            if text.lower() in ("into", "from") and after.lower() in ("outfile", "infile"):
                _deny("This endpoint neither reads nor writes files")
            if kind == "name" and text not in seen:
                self._check_name(text)
                seen.add(text)

    def _check_name(self, name: str) -> None:
        if len(name) > NAME_CHARACTERS:
            raise QueryRefusedError(
                f"A name has {len(name)} characters, at most {NAME_CHARACTERS} are taken", 62, "SYNTAX_ERROR"
            )
        if ALIAS in name or CHILDREN in name:
            raise QueryRefusedError(f"A name with {ALIAS!r} or {CHILDREN!r} is not taken", 62, "SYNTAX_ERROR")
        if why := self._names.refused(name):
            _deny(f"Function {name!r} is refused by this endpoint: {why}")

    def _check_identifiers(self, parameters: Mapping[str, str]) -> None:
        """Check that parameters of type Identifier name columns and tables of the store, or what the statement itself
        names.

        The engine reads the value of a parameter by its type before there is a tree.
        """
        tokens = self._tokens
        own = {token.text.lower() for token in tokens if token.kind == "name"}
        within = False
        for opened, name, colon, kind in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False):
            within = (within or (opened.text == "{" and colon.text == ":")) and opened.text != "}"
            if within and kind.kind == "name":
                _check_types(kind.text)
            if (opened.text, colon.text, kind.text.lower()) != ("{", ":", "identifier"):
                continue
            for part in parameters.get(name.text, "").split("."):
                if part.lower() not in self._names.words | own:
                    _deny(f"Identifier {part[:60]!r} is no column or table of database {self._names.database}")

    def check_tree(self, lines: Sequence[str]) -> None:
        """Check the engine's tree of the statement, as `EXPLAIN AST` prints it.  Raises QueryRefusedError."""
        if len(lines) > LARGEST_STATEMENT:
            raise QueryRefusedError(f"The statement has more than {LARGEST_STATEMENT} parts", 168, "AST_TOO_BIG")
        try:
            nodes = parse(lines)
        except ValueError:
            _deny("The statement is not understood")
        for node in nodes:
            if node.kind not in self._names.allowed.syntax:
                _deny(f"{node.kind} is refused by this endpoint")
            match node.kind:
                case "Function":
                    self._check_function(node)
                case kind if kind.startswith(TELLS_STRUCTURE):
                    names = node.children[: -1 if self.format is not None else None]  # the last child is the format
                    if len(names) == 2:
                        self._check_database(names[0].text)
                case "TableIdentifier":
                    self._check_table(node.text)
                case "Identifier":
                    self._check_identifier(node)
                case "Literal" if "aggregatefunction" in node.text.lower():
                    self._check_words(_plain(node.text))
                case "Set" if node.parent is None or node.parent.kind != "Explain":
                    raise QueryRefusedError(
                        "Cannot modify settings in readonly mode: they are parameters of the request"
                    )
                case "SelectWithUnionQuery" if any(child.kind == "Literal" for child in node.children):
                    _deny("This endpoint neither reads nor writes files")
                case "Explain" if node.text.removeprefix("EXPLAIN").strip() not in EXPLAINED:
                    _deny(f"{node.text[:40]} is refused by this endpoint")
        views = any(node.kind in ("TableIdentifier", "Identifier") and self._is_view(node.text) for node in nodes)
        most = NESTED_AROUND_VIEWS if views else NESTED_SUBQUERIES
        if nesting(nodes) > most:
            message = f"More than {most} subqueries of expressions are within each other"
            raise QueryRefusedError(message, 162, "TOO_DEEP_SUBQUERIES")
        kinds = Counter(node.kind for node in nodes)
        for kind, most, what in (
            ("TablesInSelectQueryElement", READ_TABLES, "tables are read"),
            ("TableJoin", JOINS, "tables are joined"),
        ):
            if kinds[kind] > most:
                raise QueryRefusedError(f"More than {most} {what}", 168, "AST_TOO_BIG")
        if growth(nodes, self._names.tables) > LARGEST_GROWTH:
            message = "Names of columns would grow too long: too many SELECTs read from each other"
            raise QueryRefusedError(message, 168, "AST_TOO_BIG")
        self._check_paths(nodes)

    def _check_paths(self, nodes: Sequence[Node]) -> None:
        """Raise QueryRefusedError if `*` or a name would show paths of the machine."""
        hidden = {node for node in nodes if node.kind == "TableIdentifier" and self._has_paths(node.text)}
        if not hidden:
            return
        table = min(node.text for node in hidden)
        for node in nodes:
            if node.kind == "Identifier" and PATH_COLUMNS & set(node.text.split(".")) and not _tells_whether(node):
                _deny(f"Column {node.text[:60]!r} of {table} is not shown by this endpoint")
            if node.kind == "SelectQuery":
                parts = list(inside(node))
                stars = any("Asterisk" in one.kind or one.kind.endswith("RegexpMatcher") for one in parts)
                if stars and any(one in hidden for one in parts):
                    raise PathsError(table)

    def _has_paths(self, table: str) -> bool:
        database, dot, name = table.partition(".")
        return (database == SYSTEM and name in PATH_TABLES) or (
            not dot and self._database == SYSTEM and table in PATH_TABLES
        )

    def _is_view(self, name: str) -> bool:
        return name.removeprefix(f"{self._names.database}.") in self._names.views

    def _check_function(self, node: Node) -> None:
        name = node.text.lower()
        if node.parent is not None and node.parent.kind == "TableExpression":
            if name not in self._names.allowed.table_functions:
                _deny(f"Table function {node.text[:60]!r} is refused by this endpoint")
            if name in STRUCTURE_FUNCTIONS:
                self._check_structure(node)
            return
        verdict = "" if name in NO_FUNCTIONS else self._names.verdict(name)
        if verdict is None:
            raise QueryRefusedError(f"Function with name {node.text[:60]!r} does not exist", 46, "UNKNOWN_FUNCTION")
        if verdict:
            _deny(f"Function {node.text[:60]!r} is refused by this endpoint: {verdict}")
        if self._database == SYSTEM and name.removeprefix("global").endswith(("in", "inignoreset")):
            for argument in node.children[0].children[1:]:
                if argument.kind == "Identifier" and not argument.text.startswith(f"{SYSTEM}."):
                    # It may be an alias of any other name.
                    _deny(f"Behind IN, a table of database system is named in full: system.{argument.text[:60]}")
        if name in ("like", "ilike", "notlike", "notilike"):
            _check_like(node)
        if name in NAMED_AGGREGATES:
            called = _literal(node, 0, "the name of an aggregate function")
            self._check_words(called)
            if len(called) > NAME_CHARACTERS:
                _deny(f"The name of an aggregate function may have {NAME_CHARACTERS} characters")
        if name in TYPE_ARGUMENTS:
            _check_types(_literal(node, TYPE_ARGUMENTS[name], "the name of a type"))
        if REGEX_FUNCTIONS.fullmatch(name):
            check_regex(_literal(node, REGEX_ARGUMENTS.get(name, 1), "a regular expression"))

    def _check_structure(self, node: Node) -> None:
        """Check that a text that declares columns gives them types but no expressions: `values('a String ALIAS
        file(…)', …)`."""
        arguments = node.children[0].children if node.children else []
        if arguments and not (arguments[0].kind == "Function" and arguments[0].text == "tuple"):
            text = _literal(node, 0, "the declaration of its columns")
            self._check_words(text)
            _check_types(text)
            if any(EXPRESSIONS.fullmatch(word) for word in _WORDS.findall(text)):
                _deny(f"Table function {node.text!r} takes columns with a type, without an expression")

    def _check_words(self, text: str) -> None:
        for word in _WORDS.findall(text):
            if why := self._names.refused(word):
                _deny(f"Function {word[:60]!r} is refused by this endpoint: {why}")

    def _check_database(self, name: str) -> None:
        if name != SYSTEM and name not in INFORMATION_SCHEMA and name != self._names.database:
            raise QueryRefusedError(f"Database {name[:60]!r} does not exist", 81, "UNKNOWN_DATABASE")

    def _check_table(self, text: str) -> None:
        database, dot, table = text.partition(".")
        if not dot:
            database, table = self._database, text
        self._check_database(database)
        if database == SYSTEM and table not in self._names.allowed.system_tables:
            _deny(f"Table system.{table[:60]} is not shown by this endpoint")

    def _check_identifier(self, node: Node) -> None:
        """Check a name: of a column, or of a table after IN and EXISTS, or of a function that another one calls."""
        self._check_words(node.text)
        _check_types(node.text.partition(".:")[2])  # of what a JSON holds
        first, _, rest = node.text.partition(".")
        if first == SYSTEM and not (node.parent is not None and node.parent.kind.startswith(TELLS_STRUCTURE)):
            table = rest.partition(".")[0]
            if table not in self._names.allowed.system_tables or (table in PATH_TABLES and "." not in rest):
                _deny(f"Table system.{table[:60]} is not shown by this endpoint")


def check_reads(sql: bytes) -> None:
    """Raise QueryRefusedError for a statement that changes something, whatever follows its first word."""
    found = _FIRST_WORD.match(sql)
    if found is not None and found[1].decode().upper() not in STATEMENTS:
        raise QueryRefusedError(f"This endpoint is read-only: {found[1].decode()[:40]!r} is refused")


def check_format(name: str) -> str:
    """Return the format's name.  Raises QueryRefusedError for one that is not on the list."""
    if name.lower() not in allowed().formats:
        raise QueryRefusedError(f"Unknown format {name[:60]}", 73, "UNKNOWN_FORMAT")
    return name


def check_setting(name: str, value: str) -> None:
    """Raise QueryRefusedError for a setting that a reader may not choose."""
    if name not in allowed().settings:
        raise QueryRefusedError(f"Cannot modify {name!r} setting in readonly mode")
    if name == "session_timezone" and (not _TIME_ZONE.fullmatch(value) or ".." in value):
        raise QueryRefusedError(f"No time zone {value[:60]!r}", 36, "BAD_ARGUMENTS")


def check_regex(pattern: str) -> None:
    """Raise QueryRefusedError for a regular expression that may take minutes."""
    counts = [int(count) for found in _REPEAT.findall(pattern) for count in found if count and len(count) < 9]
    if len(pattern) > REGEX_CHARACTERS or max(counts, default=0) > REGEX_REPEATS or _product(counts) > REGEX_REPEATS:
        _deny(
            f"A regular expression may have {REGEX_CHARACTERS} characters and repeat {REGEX_REPEATS} times, "
            "counts of all braces multiplied"
        )


def _tells_whether(node: Node) -> bool:
    """Return whether a statement only checks whether a column is empty, as JDBC does for remote tables."""
    call = node.parent.parent if node.parent is not None else None
    return call is not None and call.kind == "Function" and call.text in WHETHER_FUNCTIONS and not node.alias


def _check_like(node: Node) -> None:
    """Raise QueryRefusedError for LIKE with a pattern that may take minutes."""
    left = node.children[0].children[1:2] if node.children else []
    wildcards = 0
    while left:
        part = left.pop()
        if part.kind == "Literal":
            wildcards += part.text.count("%")
            if len(part.text) > REGEX_CHARACTERS or wildcards > PATTERN_WILDCARDS:
                _deny(f"A pattern of LIKE may have {REGEX_CHARACTERS} characters and {PATTERN_WILDCARDS} signs %")
        elif part.kind == "Function" and part.text.lower() not in PATTERN_PARTS:
            _deny(f"A pattern of LIKE is a text, or put together with concat, not by {part.text[:60]!r}")
        elif part.kind == "Identifier":
            _deny(f"A pattern of LIKE is a text, not column {part.text[:60]!r}: position() finds what a column holds")
        else:
            left += part.children


def _product(counts: Iterable[int]) -> int:
    product = 1
    for count in counts:
        product *= max(count, 1)
    return product


def _tokens(sql: str) -> Iterator[Token]:
    """Return each token.  Raises QueryRefusedError for unclear characters."""
    return (token for token, _, _ in spans(sql))


def spans(sql: str) -> Iterator[tuple[Token, int, int]]:
    """Yield each token, where it begins and where it ends.  Raises QueryRefusedError for unclear characters."""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None or (match[0] in ("/", "-") and sql.startswith(("//", "--", "/*"), position)):
            text = sql[position : position + 20]
            raise QueryRefusedError(
                f"Syntax error: not understood at position {position + 1}: {text!r}", 62, "SYNTAX_ERROR"
            )
        position = match.end()
        kind = str(match.lastgroup)
        if kind == "quoted":
            yield Token("name", match[0][1:-1]), match.start(), position
        elif kind == "word":
            yield Token("name", match[0]), match.start(), position
        elif kind != "space":
            yield Token(kind, match[0]), match.start(), position


def _outline(tokens: Sequence[Token]) -> str:
    """Return a SHOW statement with `@` for names, `'` for strings and 0 for numbers."""
    words = set(re.findall(r"[A-Z]+", _SHOW.pattern))
    out = []
    before = ""
    for kind, text in tokens:
        upper = text.upper()
        if kind == "name" and (upper not in words or before in ("FROM", "IN", "TABLE", "VIEW", "DATABASE", ".")):
            upper = "@"
        # The engine builds a SELECT from the statement's text: nothing in it may look like the end of a name or string.
        plain = re.fullmatch(r"\w+" if kind == "name" else r"'[^'\\]*'|[^']*", text) is not None
        out.append({"string": "'", "number": "0"}.get(kind, upper) if plain else "?")
        before = upper
    return " ".join(out)


def _plain(text: str) -> str:
    """Return a literal's text without quotes and escapes."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), text)


def _check_types(text: str) -> None:
    for word in _WORDS.findall(text):
        if TYPES_REFUSED.fullmatch(word):
            _deny(f"A type with {word[:60]!r} is refused by this endpoint")


def _literal(node: Node, at: int, what: str) -> str:
    """Return a function's argument, which must be a literal text.  Raises QueryRefusedError."""
    arguments = node.children[0].children if node.children else []
    found = arguments[at] if -len(arguments) <= at < len(arguments) else None
    while found is not None and found.kind == "Function" and found.text in ("_CAST", "CAST") and found.children:
        found = next(iter(found.children[0].children), None)  # what a parameter becomes
    if found is None or found.kind != "Literal":
        _deny(f"Function {node.text!r} takes {what} as a text or a parameter")
    return _plain(found.text)


def _deny(message: str) -> NoReturn:
    raise QueryRefusedError(message, 497, "ACCESS_DENIED")
