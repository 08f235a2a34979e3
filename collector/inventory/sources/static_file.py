"""The static source: a file of the operator's own, TOML or CSV, read again when it has changed.

The file counts as a whole or not at all: after a mistake, the previous state stays in use.  A change is detected by
time, size and inode, so both writing into the file and replacing it are noticed.  It is read once these have been
stable for a moment: a file that is still being written is not read.  docs/inventory.md describes both formats.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, PlainValidator, StringConstraints, ValidationError

from collector.inventory.settings import StaticSettings
from collector.inventory.sources.base import (
    GROUP_BIT,
    MAX_IPS,
    NO_UUID,
    Address,
    Host,
    Interface,
    PortKind,
    Report,
    SourceError,
    SourceSetupError,
    parse_mac,
)
from schemas.inventory import Rank
from schemas.text import NAME_CHARACTERS, visible

MAX_BYTES = 256 * 2**20
"""Longest file: a million interfaces take about half of this."""
SETTLE_SECONDS = 0.5
"""A file must be unchanged this long before it is read, or one poll if that is shorter."""
_COMMENT = "#"


def _interface_mac(text: object) -> int:
    number = parse_mac(text)
    if number == 0 or number & GROUP_BIT:
        raise ValueError("zero, multicast and broadcast belong to no interface; the guest's MAC address expected")
    return number


def _address(text: object) -> Address:
    try:
        stripped = text.strip() if isinstance(text, str) else ""
        address: Address = IPv6Address(stripped) if ":" in stripped else IPv4Address(stripped)
    except ValueError:
        raise ValueError("no IP address; 10.0.0.1 or 2001:db8::1 expected, without a prefix length") from None
    number = int(address)
    # Their own properties (`is_multicast`) take ten times as long.
    if not number or number >> (address.max_prefixlen - 8) == 0xFF or (address.version == 4 and number >> 28 == 0xE):
        raise ValueError("unspecified and multicast addresses name no interface; an address of one is expected")
    return address


Mac = Annotated[int, PlainValidator(_interface_mac)]
Ip = Annotated[Address, PlainValidator(_address)]


def _name(text: str) -> str:
    if visible(text) != text:
        raise ValueError("printable characters expected: no line breaks, tabs, control or invisible characters")
    return text


Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=NAME_CHARACTERS), AfterValidator(_name)]
"""Characters that are removed from other systems' names are a mistake in the operator's own file."""
Number32 = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]


class InterfaceRow(BaseModel, frozen=True, extra="forbid"):
    """One `[[interface]]` of a TOML file, or one row of a CSV file."""

    mac: Mac = 0
    ips: Annotated[tuple[Ip, ...], Field(max_length=MAX_IPS)] = ()
    vm: Name = ""
    vm_uuid: UUID = NO_UUID
    project: Name = ""
    host: Name = ""
    network: Name = ""
    vni: Number32 = 0
    vlan: Annotated[int, Field(strict=True, ge=0, le=4094)] = 0
    port_name: Name = ""
    if_index: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    of_port: Number32 = 0
    bridge: Name = ""
    speed_bits_per_second: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0
    kind: Literal["unknown", "vm", "tunnel", "patch", "other"] = "unknown"

    def interface(self) -> Interface:
        """The same for the inventory."""
        return Interface(
            host=self.host,
            port_name=self.port_name,
            if_index=self.if_index,
            of_port=self.of_port,
            bridge=self.bridge,
            kind=PortKind[self.kind.upper()],
            mac=self.mac,
            vm=self.vm,
            vm_uuid=self.vm_uuid,
            project=self.project,
            network=self.network,
            vni=self.vni,
            vlan=self.vlan,
            ips=tuple(dict.fromkeys(self.ips)),
            speed=self.speed_bits_per_second,
        )


class HostRow(BaseModel, frozen=True, extra="forbid"):
    """One `[[host]]` of a TOML file."""

    name: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_CHARACTERS),
        AfterValidator(_name),
    ]
    addresses: Annotated[tuple[Ip, ...], Field(min_length=1, max_length=MAX_IPS)]


Row = TypeVar("Row", bound=BaseModel)

COLUMNS = tuple(InterfaceRow.model_fields)
"""Keys of an `[[interface]]`, and columns of a CSV file."""
_NUMBERS = frozenset({"vni", "vlan", "if_index", "of_port", "speed_bits_per_second"})
_TABLES = ("interface", "host")
_EXPECTED = {
    "tuple_type": 'a list is expected, such as ["10.0.0.1"]',
}
"""Messages where pydantic's own says too little."""


class Identity(NamedTuple):
    """What distinguishes one state of a file from another without reading it."""

    written_ns: int
    touched_ns: int
    """It also changes with the name and the permissions, and cannot be set back like the modification time."""
    octets: int
    inode: int

    @classmethod
    def of(cls, state: os.stat_result) -> Identity:
        """Return the identity in the answer of stat."""
        return cls(state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)


class Static:
    """A file as a source of the inventory."""

    rank = Rank.STATIC

    def __init__(self, settings: StaticSettings) -> None:
        self._file = settings.file
        self._poll = settings.poll_seconds
        self._settle = min(settings.poll_seconds, SETTLE_SECONDS)
        self.name = f"static {settings.file}"
        self._seen: Identity | None = None
        """The file at the last check; None if there is none."""
        self._seen_since = 0.0
        self._read: Identity | None = None
        """The file that was read last."""
        self._report: Report | None = None
        """What the last file without mistakes says."""
        self._mistake = ""
        """What is wrong with the file that was read last."""
        self._stopping = threading.Event()

    def read(self) -> Report:
        """Return what the file says; it is read only if it has changed.

        Raises SourceSetupError if it cannot be used and never could, SourceError if it could be used before.
        """
        self._look()
        if self._mistake and self._seen != self._read:
            # After a mistake, polls become less and less frequent: a correction must not wait for the next one.
            self._stopping.wait(self._settle)
        if self._report is None or self._changed():
            self._read = self._seen
            try:
                self._report, self._mistake = parse(self._file, _contents(self._file)), ""
            except SourceError as error:
                self._mistake = str(error)
        if self._report is None:
            raise SourceSetupError(self._mistake)
        if self._mistake:
            raise SourceError(self._mistake)
        return self._report

    def wait(self, seconds: float) -> bool:
        """Return True once the file differs from the one that was read last and is stable; False after `seconds`."""
        end = time.monotonic() + seconds
        while not self._stopping.is_set():
            if self._changed():
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._stopping.wait(min(left, self._poll if self._seen == self._read else self._settle))
        return False

    def interrupt(self) -> None:
        """End a `wait` under way, and each later one at once."""
        self._stopping.set()

    def close(self) -> None:
        """Nothing is held open between two calls."""

    def _look(self) -> None:
        try:
            now = Identity.of(self._file.stat())
        except OSError:
            now = None
        if now != self._seen or not self._seen_since:
            self._seen, self._seen_since = now, time.monotonic()

    def _changed(self) -> bool:
        """Return whether there is another file than the one read last, unchanged for a moment."""
        self._look()
        return self._seen != self._read and time.monotonic() - self._seen_since >= self._settle


def _contents(file: Path) -> bytes:
    """Return the file's octets.  Raises SourceError if there is none that can be read."""
    try:
        # A pipe or a device might never end.
        if not stat.S_ISREG(file.stat().st_mode):
            raise SourceError(f"{file} is no regular file: a TOML or CSV file is expected")
        with file.open("rb") as stream:
            before = os.fstat(stream.fileno())
            if before.st_size > MAX_BYTES:
                raise SourceError(f"{file} has {before.st_size} octets: {MAX_BYTES} at most are expected")
            octets = stream.read(MAX_BYTES)
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror or error}; a file that we may read is expected") from error
    if Identity.of(before) != Identity.of(after):
        raise SourceError(f"{file} changed while it was read: write another file and move it here")
    return octets


def parse(file: Path, octets: bytes) -> Report:
    """Return what a file with this name and content says.  Raises SourceError: file, place, key, value, what was
    expected."""
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{file} line {line}: octet {octets[error.start]:#04x} is no UTF-8, as expected") from None
    match file.suffix.lower():
        case ".toml":
            return _toml(file, text)
        case ".csv":
            return Report(interfaces=_interfaces(_csv(file, text)))
        case ending:
            raise SourceError(f"{file}: the ending {ending!r} says nothing; .toml or .csv is expected")


def _toml(file: Path, text: str) -> Report:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{file}: no TOML: {error}") from None
    for key, value in tables.items():
        if key not in _TABLES:
            raise SourceError(f"{file}: no such table {key!r}; [[interface]] and [[host]] are expected")
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise SourceError(f"{file}: {key!r} is no list of tables; [[{key}]] is expected before each entry")

    def entries(table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, entry in enumerate(tables.get(table, ()), 1):
            yield f"{file} [[{table}]] {number}", entry

    return Report(interfaces=_interfaces(entries("interface")), hosts=_hosts(entries("host")))


def _csv(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and cells of each row, without empty cells."""
    # A comment becomes an empty line, so that the reader still counts lines correctly; it skips empty ones.
    lines = ("\n" if line.lstrip().startswith(_COMMENT) else line for line in io.StringIO(text, newline=""))
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f"{file} line {reader.line_num}"
            if not cells:
                continue
            if not header:
                header = _header(where, cells)
            elif len(cells) != len(header):
                raise SourceError(f"{where}: {len(cells)} cells; {len(header)} are expected, as in the header row")
            else:
                yield where, {key: _cell(key, cell) for key, cell in zip(header, cells, strict=True) if cell}
    except csv.Error as error:
        raise SourceError(f"{file} line {reader.line_num}: no CSV: {error}") from None
    if not header:
        raise SourceError(f"{file}: no header row; columns such as mac,ips,vm are expected in the first line")


def _header(where: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    for name in header:
        if name not in COLUMNS:
            raise SourceError(f"{where}: no such column {name!r}; expected, separated by commas: {', '.join(COLUMNS)}")
        if header.count(name) > 1:
            raise SourceError(f"{where}: column {name!r} stands twice; each column once is expected")
    return header


def _cell(key: str, text: str) -> Any:
    """Return a cell as TOML would have it; what is not a number stays as it is, so that validation can report it."""
    if key == "ips":
        return re.split(r"[\s;]+", text.strip("; "))
    return int(text) if key in _NUMBERS and text.isascii() and text.isdecimal() else text


def _interfaces(entries: Iterable[tuple[str, dict[str, Any]]]) -> tuple[Interface, ...]:
    """Return the validated rows.  Raises SourceError for the first mistake."""
    places: dict[tuple[object, ...], str] = {}
    found = []
    for where, values in entries:
        row = _checked(InterfaceRow, where, values)
        if row.mac:
            key: tuple[object, ...] = (row.mac, row.network, row.vni, row.vlan)
            said = f"mac = {values['mac']!r} with the same network, vni and vlan"
        elif row.host and row.port_name:
            key = (row.host, row.port_name)
            said = f"port_name = {row.port_name!r} on host {row.host!r}"
        else:
            raise SourceError(f"{where}: neither a VM's interface nor a port: mac is expected, or host and port_name")
        if key in places:
            raise SourceError(f"{where}: {said} stands at {places[key]}, too; once is expected")
        places[key] = where
        found.append(row.interface())
    return tuple(found)


def _hosts(entries: Iterable[tuple[str, dict[str, Any]]]) -> tuple[Host, ...]:
    places: dict[object, str] = {}
    found = []
    for where, values in entries:
        row = _checked(HostRow, where, values)
        for key, value in (("name", row.name), *(("addresses", address) for address in row.addresses)):
            if value in places:
                raise SourceError(f"{where}: {key} = {str(value)!r} stands at {places[value]}, too; once is expected")
            places[value] = where
        found.append(Host(name=row.name, addresses=row.addresses))
    return tuple(found)


def _checked(model: type[Row], where: str, values: dict[str, Any]) -> Row:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise SourceError(f"{where}: no such key {key!r}; expected: {', '.join(model.model_fields)}") from None
        text = _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        said = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
        raise SourceError(f"{where}: {key}{said}: {text[:1].lower()}{text[1:]}") from None
