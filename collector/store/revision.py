"""Native results as newer clients ask for them (`client_protocol_version`), from those the engine gives (revision 0).

clickhouse-go, and so Grafana, reads the Native format of a server's TCP protocol also over HTTP.  It differs by a
header before each block (from revision 51903) and by an octet after each column's type (from 54454).  chDB only writes
revision 0, so the columns' lengths must be walked to know where the next one begins.

Source: ClickHouse, "Native protocol" and "Native format" specifications.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from collector.http import Octets
from collector.store.guard import RefusedError

CUSTOM_SERIALIZATION = 54454
"""First revision that is served.  Clients that ask for less also understand revision 0."""

# Field 1: is_overflows, 0.  Field 2: bucket number, −1.  Field 0: the end.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"

_WIDTHS = {
    "Bool": 1, "Int8": 1, "UInt8": 1, "Enum8": 1, "Nothing": 1,
    "Int16": 2, "UInt16": 2, "Enum16": 2, "Date": 2, "BFloat16": 2,
    "Int32": 4, "UInt32": 4, "Float32": 4, "DateTime": 4, "Date32": 4, "IPv4": 4, "Decimal32": 4, "Time": 4,
    "Int64": 8, "UInt64": 8, "Float64": 8, "DateTime64": 8, "Decimal64": 8, "Time64": 8,
    "Int128": 16, "UInt128": 16, "UUID": 16, "IPv6": 16, "Decimal128": 16,
    "Int256": 32, "UInt256": 32, "Decimal256": 32,
}  # fmt: skip
_TYPE = re.compile(r"(\w+)(?:\((.*)\))?\Z", re.DOTALL)
_FIELD_NAME = re.compile(r"(?:`[^`]*`|\w+) (?=\w)")


def raise_revision(body: Octets, revision: int) -> Sequence[Octets]:
    """`body`, blocks of the Native format at revision 0, at `revision`: in parts, most of them of `body`'s own memory.

    Raises RefusedError for a column type whose layout is not known here.
    """
    if revision < CUSTOM_SERIALIZATION:
        return [body]
    body = memoryview(body)
    walk = _Walk(body)
    out: list[Octets] = []
    while walk.at < len(body):
        begin = walk.at
        columns, rows = walk.varuint(), walk.varuint()
        out += [_BLOCK_INFO, body[begin : walk.at]]
        for _ in range(columns):
            begin = walk.at
            walk.skip_text()
            kind = walk.text()
            out += [body[begin : walk.at], b"\x00"]
            begin = walk.at
            if rows:
                walk.prefix(kind)
                walk.values(kind, rows)
            out.append(body[begin : walk.at])
    return [part for part in out if len(part)]


class _Walk:
    """A position in blocks that the engine wrote."""

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.at = 0

    def varuint(self) -> int:
        number = shift = 0
        while True:
            octet = self.body[self.at]
            self.at += 1
            number |= (octet & 0x7F) << shift
            if octet < 0x80:
                return number
            shift += 7

    def skip_text(self) -> None:
        length = self.varuint()
        self.at += length

    def text(self) -> str:
        length = self.varuint()
        self.at += length
        return str(self.body[self.at - length : self.at], "utf-8")

    def uint64(self) -> int:
        self.at += 8
        return int.from_bytes(self.body[self.at - 8 : self.at], "little")

    def prefix(self, kind: str) -> None:
        """Skip what stands once before the values of a column: the version of each dictionary in it."""
        name, inner = _parts(kind)
        if name == "LowCardinality":
            self.at += 8
        elif name in ("Array", "Nullable", "Map", "Tuple", "SimpleAggregateFunction"):
            for part in inner[1:] if name == "SimpleAggregateFunction" else inner:
                self.prefix(part)

    def values(self, kind: str, rows: int) -> None:
        """Skip the values of `rows` rows."""
        name, inner = _parts(kind)
        if name in _WIDTHS or name.startswith("Interval"):
            self.at += _WIDTHS.get(name, 8) * rows
        elif name == "String":
            for _ in range(rows):
                self.skip_text()
        elif name == "FixedString":
            self.at += int(inner[0]) * rows
        elif name == "Decimal":
            digits = int(inner[0])
            self.at += (4 if digits <= 9 else 8 if digits <= 18 else 16 if digits <= 38 else 32) * rows
        elif name == "Nullable":
            self.at += rows
            self.values(inner[0], rows)
        elif name in ("Array", "Map"):
            self.at += 8 * (rows - 1)
            elements = self.uint64()
            for part in inner:
                if elements:
                    self.values(part, elements)
        elif name == "Tuple":
            for part in inner:
                self.values(part, rows)
        elif name == "SimpleAggregateFunction":
            self.values(inner[-1], rows)
        elif name == "LowCardinality":
            self._low_cardinality(inner[0])
        else:
            raise RefusedError(
                f"Type {kind[:80]} cannot be sent at this client's protocol version: use toString",
                48,
                "NOT_IMPLEMENTED",
            )

    def _low_cardinality(self, kind: str) -> None:
        width = 1 << (self.uint64() & 0xFF)
        nested, inner = _parts(kind)
        keys = self.uint64()
        self.values(inner[0] if nested == "Nullable" else kind, keys)
        rows = self.uint64()
        self.at += width * rows


def _parts(kind: str) -> tuple[str, list[str]]:
    """Name of a type and its arguments; names of tuple elements are left out."""
    match = _TYPE.match(kind)
    if match is None:
        raise RefusedError(f"Type {kind[:80]} is not understood", 48, "NOT_IMPLEMENTED")
    name, inside = match[1], match[2]
    if inside is None or name.startswith(("Enum", "DateTime")):
        return name, []
    parts, depth, quoted, begin = [], 0, False, 0
    for position, character in enumerate(inside):
        if character in "'`":
            quoted = not quoted
        elif not quoted and character == "(":
            depth += 1
        elif not quoted and character == ")":
            depth -= 1
        elif not quoted and depth == 0 and character == ",":
            parts.append(inside[begin:position].strip())
            begin = position + 1
    parts.append(inside[begin:].strip())
    if name == "Tuple":
        parts = [_FIELD_NAME.sub("", part, count=1) if _FIELD_NAME.match(part) else part for part in parts]
    return name, parts
