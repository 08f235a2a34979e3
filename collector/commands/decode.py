"""`vmflow decode`: decode captures to JSON lines, CSV or Arrow, without a service."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from collector.capture.read import CaptureError, CaptureProblems, read_batches
from collector.decode.exporter_stats import Growths
from collector.lines import csv_lines, json_text
from collector.terminal import UsageError, data, print_error, tell
from decoders.datagrams import Datagrams, address_text
from decoders.decoder import Decoder
from decoders.errors import REASONS
from decoders.overrides import ExporterRule
from decoders.shared import Decoded
from schemas.column import Column, Origin, Table
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS
from schemas.inventory import INVENTORY

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
"""As ClickHouse prints a DateTime64; Arrow adds the microseconds."""
TABLES: dict[str, Table] = {"flows": FLOWS, "counters": COUNTERS, "drops": DROPS, "inventory": INVENTORY}
LISTS = ("templates", "problems")
FORMATS = ("json", "csv", "arrow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="pcap or pcapng file, or - for standard input")
    parser.add_argument("--table", choices=(*TABLES, *LISTS), default="flows", help="what to print (default: flows)")
    parser.add_argument("--format", choices=FORMATS, default="json", help="JSON lines, CSV or Arrow IPC stream")
    parser.add_argument(
        "--sampling-rate", type=int, default=0, metavar="N", help="take this rate instead of the one exporters state"
    )
    parser.add_argument("--quiet", action="store_true", help="no summary on standard error")


def run(args: argparse.Namespace) -> int:
    """Decode all files in order, as one stream of datagrams; the exit code is 1 if a file could not be read."""
    if args.format == "arrow" and args.table in LISTS:
        raise UsageError(f"--format arrow goes with {', '.join(TABLES)}")
    decoder = Decoder(rules=_rules(args.sampling_rate))
    captured = CaptureProblems()
    failures = 0
    printed = 0
    write = _Writer(args.format, TABLES.get(args.table), sys.stdout.buffer)
    for file in args.files:
        try:
            for batch in read_batches(file, captured):
                decoded = decoder.decode(batch)
                if args.table == "problems":
                    printed += write.items(_problems(batch, decoded))
                elif args.table in TABLES:
                    printed += sum(write.batch(part) for part in getattr(decoded, args.table))
        except CaptureError as error:
            print_error("decode", str(error))
            failures += 1
    if args.table == "templates":
        printed += write.items(decoder.sets.describe_templates())
    write.close()
    if not args.quiet:
        _summary(decoder, captured, printed, args.table)
    return 1 if failures else 0


def _rules(sampling_rate: int) -> list[ExporterRule]:
    from ipaddress import IPv6Network  # noqa: PLC0415

    return [ExporterRule(IPv6Network("::/0"), sampling_rate=sampling_rate)] if sampling_rate else []


def _problems(batch: Datagrams, decoded: Decoded) -> Iterator[dict[str, Any]]:
    """One entry per problem: when, from whom, at which octet of the datagram, why."""
    for log in decoded.problems:
        for datagram, offset, reason, detail in log.tolist():
            packed = batch.address[datagram].astype(">u8").tobytes()
            yield {
                "time_us": int(batch.time_received_us[datagram]),
                "exporter": _address_text(packed),
                "port": int(batch.port[datagram]),
                "offset": offset,
                "reason": REASONS[reason],
                "detail": detail,
            }


def _summary(decoder: Decoder, captured: CaptureProblems, printed: int, table: str) -> None:
    growth = Growths(decoder.shared.sessions).take()
    problems = Counter({REASONS[index]: int(count) for index, count in enumerate(growth.problems.sum(axis=0)) if count})
    shown = ", ".join(f"{count} {reason}" for reason, count in problems.most_common()) or "none"
    tell(f"{captured.datagrams} datagrams, {printed} {table}; frames skipped: {captured}; decode problems: {shown}")


_address_text = lru_cache(maxsize=65_536)(address_text)


@lru_cache(maxsize=65_536)
def mac_text(number: int) -> str:
    """A 48-bit number as `52:54:00:0a:00:01`."""
    return number.to_bytes(6, "big").hex(":")


def printable(table: Table, batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """The stored columns of `table` as lists of values that JSON and CSV can hold.

    Columns that `batch` does not have (names that only enrichment knows) hold their missing value.
    """
    columns: dict[str, list[Any]] = {}
    for column in table.stored:
        index = batch.schema.get_field_index(column.name)
        if index < 0:
            columns[column.name] = [_missing(column)] * batch.num_rows
        else:
            columns[column.name] = _values(column, batch.column(index))
    return columns


def rows(table: Table, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """One dictionary per row, keys in the order of the table."""
    columns = printable(table, batch)
    names = tuple(columns)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Column, array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.arrow):
        texts: list[Any] = pc.strftime(array, TIME_FORMAT).to_pylist()
        return texts
    values: list[Any] = array.to_pylist()
    convert = _converter(column)
    return values if convert is None else [convert(value) for value in values]


def _converter(column: Column) -> Callable[[Any], Any] | None:
    if column.clickhouse_type == "IPv6":
        return _address_text
    if column.clickhouse_type == "Array(IPv6)":
        return lambda addresses: [_address_text(address) for address in addresses]
    if "UUID" in column.clickhouse:
        return lambda octets: str(UUID(bytes=octets))
    if column.name == "mac" or column.name.endswith("_mac"):
        return mac_text
    if pa.types.is_map(column.arrow):
        return dict
    return None


def _missing(column: Column) -> Any:
    if column.names:
        return column.names[0]
    if "UUID" in column.clickhouse:
        return str(UUID(int=0))
    return "" if pa.types.is_dictionary(column.arrow) else 0


class _Writer:
    """Prints rows in one of the formats."""

    def __init__(self, kind: str, table: Table | None, out: BinaryIO) -> None:
        self._kind = kind
        self._table = table
        self._out = out
        self._header = False
        self._arrow: pa.ipc.RecordBatchStreamWriter | None = None
        if kind == "arrow" and table is not None:
            self._arrow = pa.ipc.new_stream(out, table.arrow(Origin.DECODE), options=_replacing_dictionaries())

    def batch(self, batch: pa.RecordBatch) -> int:
        """Print one batch; returns its number of rows."""
        if self._arrow is not None:
            self._arrow.write_batch(batch)
            return int(batch.num_rows)
        assert self._table is not None  # noqa: S101 - `run` gives batches of tables only
        return self.items(rows(self._table, batch))

    def items(self, items: Iterator[dict[str, Any]]) -> int:
        """Print dictionaries; returns how many."""
        rows = list(items)
        if self._kind == "json":
            text = "".join(json_text(item, compact=True) + "\n" for item in rows)
        else:
            header = [] if self._header or not rows else [list(rows[0])]
            self._header |= bool(rows)
            text = csv_lines([*header, *(list(item.values()) for item in rows)])
        data(text.encode())
        return len(rows)

    def close(self) -> None:
        """End the stream."""
        if self._arrow is not None:
            self._arrow.close()
        self._out.flush()


def _replacing_dictionaries() -> pa.ipc.IpcWriteOptions:
    """Let the name table grow from batch to batch."""
    return pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
