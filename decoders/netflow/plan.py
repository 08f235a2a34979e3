"""Templates compiled to plans: which octets of a record go to which column, worked out once per template.

A plan is a list of operations in the order in which they run.  Fields that feed no column have no operation, so they
cost nothing.  `fields` runs the plans of flow records, `data_sets` those of options records.

Name, type and length of each information element are in `elements.iespec`, in the notation that templates, documents
and tests share: `octetDeltaCount(1)<unsigned64>[8]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from decoders import rows as r

VARIABLE = 65_535
"""Field length that means "each value states its own" (RFC 7011 section 7)."""

REVERSE = 29_305
"""Enterprise number of the reverse direction of a biflow (RFC 5103 section 6.1)."""

CERT = 6_871
"""Enterprise number of CERT: YAF."""

CERT_REVERSE = 0x4000
"""Bit of CERT's own elements that makes them those of the reverse direction."""

VMWARE = 6_876
"""Enterprise number of VMware: its logical switches, and the tunnels of Open vSwitch, which came from Nicira."""

_LINE = re.compile(r"(?P<name>\w+)\((?:(?P<enterprise>\d+)/)?(?P<number>\d+)\)<(?P<kind>\w+)>\[(?P<size>\d+|v)\]")


@dataclass(frozen=True, slots=True)
class Element:
    """One information element."""

    enterprise: int
    number: int
    name: str
    kind: str
    """Abstract type of RFC 7011 section 6.1, such as `unsigned64`."""
    size: int
    """Octets of a value at full size, `VARIABLE` if there is no such size."""

    def __str__(self) -> str:
        number = f"{self.enterprise}/{self.number}" if self.enterprise else str(self.number)
        return f"{self.name}({number})<{self.kind}>[{'v' if self.size == VARIABLE else self.size}]"


def parse(text: str) -> Element:
    """Parse one line of the notation.  Raises ValueError if it is malformed."""
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an information element: {text!r}")
    size = VARIABLE if match["size"] == "v" else int(match["size"])
    return Element(int(match["enterprise"] or 0), int(match["number"]), match["name"], match["kind"], size)


@cache
def registry() -> dict[tuple[int, int], Element]:
    """Return (enterprise, number) -> element, from every line of the data file."""
    text = resources.files(__package__).joinpath("elements.iespec").read_text("utf-8")
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {(element.enterprise, element.number): element for element in map(parse, lines)}


def describe(enterprise: int, number: int, size: int) -> str:
    """Return a field of a template in the notation; elements that the registry does not have are named by number."""
    shown = "v" if size == VARIABLE else str(size)
    if enterprise == REVERSE and (forward := registry().get((0, number))):
        name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
        return f"{name}({REVERSE}/{number})<{forward.kind}>[{shown}]"
    element = registry().get((enterprise, number))
    prefix = f"{enterprise}/" if enterprise else ""
    if element is None:
        return f"unknown({prefix}{number})<octetArray>[{shown}]"
    return f"{element.name}({prefix}{number})<{element.kind}>[{shown}]"


_COUNTERS = frozenset({"unsigned16", "unsigned32", "unsigned64"})


def plausible(enterprise: int, number: int, size: int) -> bool:
    """Return True if a field of this length can hold the element.

    NetFlow v9 types from 128 on belong to vendors, most of whom follow the IPFIX registry; one that does not is
    recognised by its length.  Numbers may be shorter (RFC 7011 section 6.2); addresses and absolute times may not.
    """
    element = registry().get((enterprise, number))
    if element is None:
        return False
    if VARIABLE in (element.size, size):
        return element.size == VARIABLE
    return size == element.size or (element.kind in _COUNTERS and 0 < size <= element.size)


(
    OP_U64,  # number into the 64-bit group; `extra` 1: only if the column is still 0
    OP_U32,
    OP_U16,
    OP_U8,
    OP_MAC,
    OP_DIRECTION,
    OP_IPV4,  # `extra` 1: not if the address is 0.0.0.0 (the template also has an IPv6 address)
    OP_IPV6,  # `extra` 1: not if the address is ::
    OP_NAME,
    OP_TIME,  # `extra`: one of the UNIT_ codes
    OP_UPTIME,  # ms of uptime; `extra`: the field of element 160 plus 1, 0 = none
    OP_BEFORE,  # µs before the header's time
    OP_SPAN,  # ms of uptime where nothing says when it began; `extra`: the field of the end plus 1
    OP_DURATION,  # `extra`: µs per unit
    OP_DSCP,
    OP_TYPE_CODE,
    OP_FRAGMENT,
    OP_FORWARDING,
    OP_SEGMENT,
    OP_OVS_TUNNEL,
    OP_RATE,
    OP_RATIO,  # `extra`: the field of the other number plus 1; rate = (a + b) / a
    OP_QUOTIENT,  # rate = b / a
    OP_PROBABILITY,
    OP_SAMPLER,
    OP_SECTION,  # part of a packet; `extra`: header protocol (1 Ethernet, 11 IP)
    OP_OUTER,  # outer IP protocol, `extra` odd: none; `column`, `extra` // 2: the fields of the outer ports plus 1
    OP_LINE_CARD,
    OP_TOTAL,  # counts are totals; `field`: flow id, `extra` 1: there is none; `column`: TOTAL_ bits
    OP_EVENT,  # event of a firewall, whose last record holds totals; `column`: the field of the flow id plus 1
    OP_FLAGS,  # bits that are added to a 16-bit column
    OP_CONSTANT,  # `extra` into an 8-bit column
) = range(32)

TOTAL_PACKETS, TOTAL_BYTES = 1, 2

UNIT_SECONDS, UNIT_MILLIS, UNIT_MICROS, UNIT_NTP_MICROS, UNIT_NTP_NANOS = range(5)

OPS = 5
"""Words of an operation: code, field, column, extra, 1 for the reverse row."""

# Words of a plan's head
(
    P_FIELD,
    P_FIELDS,
    P_OP,
    P_OPS,
    P_FIXED,  # octets of a record, 0 if they vary
    P_LEAST,  # least octets of a record
    P_FLAGS,
    P_WORDS,
) = range(8)

F_OPTIONS = 1
"""The records describe the exporter: they never become rows."""
F_REVERSE = 2
"""A record may give a second row, for the reverse direction."""
F_OVS = 4
"""Sent by Open vSwitch: counts are already scaled."""
F_ICMP = 8
"""ICMP type and code have elements of their own."""
F_SAMPLER = 16
"""Records name their sampler: the rate of another one does not apply."""

F_REVERSE_TOS = 32
"""The reverse direction states a type of service of its own."""
F_RATE = 64
"""Records may state their sampling rate, or name what has one."""

# Roles of fields in options records
(
    R_RATE,
    R_SAMPLER,
    R_INTERFACE,
    R_ALGORITHM,
    R_COUNT_INTERVAL,
    R_COUNT_SPACE,
    R_TIME_INTERVAL,
    R_TIME_SPACE,
    R_SIZE,
    R_POPULATION,
    R_PROBABILITY,
    R_INIT_TIME,
    R_LINE_CARD,
    R_TEMPLATE,
    R_DOMAIN,
    R_EXPORTER,  # the exporter, or one of its processes: all that it sends
) = range(16)

_ROLES = {
    34: R_RATE,
    50: R_RATE,
    48: R_SAMPLER,
    302: R_SAMPLER,
    10: R_INTERFACE,
    304: R_ALGORITHM,
    305: R_COUNT_INTERVAL,
    306: R_COUNT_SPACE,
    307: R_TIME_INTERVAL,
    308: R_TIME_SPACE,
    309: R_SIZE,
    310: R_POPULATION,
    311: R_PROBABILITY,
    160: R_INIT_TIME,
}

_SCOPE_ROLES = {
    14: R_INTERFACE,
    252: R_INTERFACE,
    253: R_INTERFACE,
    130: R_EXPORTER,
    131: R_EXPORTER,
    143: R_EXPORTER,
    144: R_EXPORTER,
    141: R_LINE_CARD,
    145: R_TEMPLATE,
    149: R_DOMAIN,
}
"""What an options record applies to, if these are in its scope (RFC 7011 section 3.4.2.1)."""

ICMP, ICMPV6 = 1, 58

V9_SCOPES = {1: 144, 2: 10, 3: 141, 4: 0, 5: 145}
"""NetFlow v9 scope type -> element (RFC 3954 section 6.1); the type "cache" has none."""

Field = tuple[int, int, int]
"""Enterprise, element, octets (or `VARIABLE`)."""


@dataclass(frozen=True, slots=True)
class Template:
    """A template as it was announced."""

    version: int
    options: bool
    scopes: int
    """How many of the fields, from the first, are scope fields."""
    fields: tuple[Field, ...]

    def describe(self) -> list[str]:
        """Return the fields in the notation of the registry."""
        return [describe(*field) for field in self.fields]

    def least_bytes(self) -> int:
        """Return the octets of the shortest record."""
        return sum(1 if size == VARIABLE else size for _, _, size in self.fields)


@dataclass(frozen=True, slots=True)
class Plan:
    """Arrays of one compiled template."""

    head: NDArray[np.int64]
    """[P_WORDS]; P_FIELD and P_OP are set where plans are put together."""
    sizes: NDArray[np.int64]
    """[fields] octets, −1 where they vary."""
    ops: NDArray[np.int64]
    """[operations, OPS]"""


class _Fields:
    """The positions of the elements of a template."""

    def __init__(self, template: Template) -> None:
        self.at: dict[tuple[int, int], list[int]] = {}
        self.size = [size for _, _, size in template.fields]
        for index, (enterprise, number, size) in enumerate(template.fields):
            if index < template.scopes:
                # Its number is that of RFC 3954 or of the registry, whatever its length; that of the system may be 0.
                if size == 0 and _SCOPE_ROLES.get(number) != R_EXPORTER:
                    continue
            elif size == 0 or (template.version == 9 and not _v9_means(enterprise, number, size)):
                continue
            self.at.setdefault((enterprise, number), []).append(index)

    def first(self, number: int, enterprise: int = 0) -> int:
        """Return the index of the first field with this element, −1 if there is none."""
        return self.at.get((enterprise, number), [-1])[0]

    def last(self, number: int, enterprise: int = 0) -> int:
        """Return the index of the last one: headers go from the outermost to the innermost (RFC 7011 section 8)."""
        return self.at.get((enterprise, number), [-1])[-1]

    def repeated(self, *numbers: int) -> bool:
        """Return True if one of these elements occurs more than once."""
        return any(len(self.at.get((0, number), ())) > 1 for number in numbers)

    def has(self, *numbers: int, enterprise: int = 0) -> bool:
        return any((enterprise, number) in self.at for number in numbers)


def _v9_means(enterprise: int, number: int, size: int) -> bool:
    """Return True if a v9 field has the registry's meaning: vendors use types from 128 on as they like."""
    return enterprise == 0 and (number < 128 or plausible(0, number, size))


def compile_plan(template: Template) -> Plan:
    """Return the plan of a template that the store accepted."""
    fields = _Fields(template)
    sizes = [-1 if size == VARIABLE else size for size in fields.size]
    if template.options:
        ops = [(role, index, 0, 0, 0) for index, role in _option_roles(fields, template.scopes)]
        flags = F_OPTIONS
    else:
        compiler = _Compiler(template, fields)
        ops = compiler.compile()
        flags = compiler.flags
    head = np.zeros(P_WORDS, np.int64)
    head[P_FIELDS] = len(sizes)
    head[P_OPS] = len(ops)
    head[P_FIXED] = 0 if -1 in sizes else sum(sizes)
    head[P_LEAST] = template.least_bytes()
    head[P_FLAGS] = flags
    return Plan(head, np.array(sizes, np.int64), np.array(ops, np.int64).reshape(len(ops), OPS))


def _option_roles(fields: _Fields, scopes: int) -> Iterable[tuple[int, int]]:
    for (enterprise, number), places in fields.at.items():
        if enterprise == 0 and number in _ROLES:
            yield places[0], _ROLES[number]
        elif enterprise == 0 and number in _SCOPE_ROLES and places[0] < scopes:
            yield places[0], _SCOPE_ROLES[number]


class _Compiler:
    """The operations of a flow template, in the order in which they must run."""

    def __init__(self, template: Template, fields: _Fields) -> None:
        self.template = template
        self.fields = fields
        self.ops: list[tuple[int, int, int, int, int]] = []
        self.flags = 0

    def compile(self) -> list[tuple[int, int, int, int, int]]:
        """Return all operations; sets `flags`."""
        if _made_by_ovs(self.template):
            self.flags |= F_OVS
        self._sections()
        self._counts()
        self._times(0, 0)
        self._layer_2()
        self._layer_3_4()
        self._interfaces()
        self._tunnel()
        self._encapsulated()
        self._sampling()
        self._reverse()
        self._totals()
        return self.ops

    def _add(self, op: int, field: int, column: int = 0, extra: int = 0, reverse: int = 0) -> bool:
        if field < 0:
            return False
        self.ops.append((op, field, column, extra, reverse))
        return True

    def _any(self, op: int, column: int, numbers: Iterable[int], enterprise: int = 0, extra: int = 0) -> bool:
        """Add the operation for the first of these elements that the template has; False if there is none."""
        reverse = int(enterprise == REVERSE)
        return any(self._add(op, self.fields.first(n, enterprise), column, extra, reverse) for n in numbers)

    def _inner(self, op: int, column: int, numbers: Iterable[int], extra: int = 0) -> bool:
        """Add the operation for the first of these elements that the template has, of the innermost header."""
        return any(self._add(op, self.fields.last(n), column, extra) for n in numbers)

    def _counts(self) -> None:
        ovs = self.flags & F_OVS
        # Without counts of the incoming side, or where they are 0, those of the outgoing side (23, 24); then totals.
        packets: tuple[int, ...] = (2,) if ovs else (2, 24, 86, 172)
        octets: tuple[int, ...] = (1,) if ovs else (1, 23, 85, 171)
        self._any(OP_U64, r.FRAME_BYTES, (352,) if ovs else (352, 353))
        self._any(OP_U64, r.DROP_HINT_PACKETS, (133,))
        if not self.fields.has(*packets, *octets) and self.fields.has(231, 232, 298, 299):
            self._any(OP_U64, r.BYTES, (231,))
            self._any(OP_U64, r.PACKETS, (298,))
            self._add(OP_U64, self.fields.first(232), r.BYTES, 0, 1)
            self._add(OP_U64, self.fields.first(299), r.PACKETS, 0, 1)
            if self.fields.has(232, 299):
                self.flags |= F_REVERSE
            return
        self._any(OP_U64, r.PACKETS, packets)
        self._any(OP_U64, r.BYTES, octets)
        if not ovs:
            for column, incoming, outgoing in ((r.PACKETS, 2, 24), (r.BYTES, 1, 23)):
                if self.fields.has(incoming):
                    self._add(OP_U64, self.fields.first(outgoing), column, 1)

    def _times(self, enterprise: int, reverse: int) -> None:
        start = self._time(r.FLOW_START, enterprise, {156: 4, 154: 3, 152: 1, 158: -1, 150: 0, 22: -2}, reverse)
        end = self._time(r.FLOW_END, enterprise, {157: 4, 155: 3, 153: 1, 159: -1, 151: 0, 21: -2}, reverse)
        if not end:
            end = self._time(r.FLOW_END, enterprise, {325: 4, 324: 3, 323: 1, 322: 0}, reverse)
        if not (start and end):
            missing = r.FLOW_END if start else r.FLOW_START
            for number, unit in ((162, 1), (161, 1000)):
                if self._add(OP_DURATION, self.fields.first(number, enterprise), missing, unit, reverse):
                    break
        elif self.template.version == 10 and not self.fields.has(160):
            began, ended = self.fields.first(22, enterprise), self.fields.first(21, enterprise)
            if began >= 0 and ended >= 0:
                self._add(OP_SPAN, began, r.FLOW_START, ended + 1, reverse)

    def _time(self, column: int, enterprise: int, sources: dict[int, int], reverse: int) -> bool:
        for number, unit in sources.items():
            field = self.fields.first(number, enterprise)
            if field < 0:
                continue
            if unit == -1:
                return self._add(OP_BEFORE, field, column, 0, reverse)
            if unit == -2:
                return self._add(OP_UPTIME, field, column, self.fields.first(160) + 1, reverse)
            return self._add(OP_TIME, field, column, unit, reverse)
        return False

    def _layer_2(self) -> None:
        # A wireless station (365) is the end of the flow, if no other address is stated.
        self._inner(OP_MAC, r.SRC_MAC, (56, 81, 365))
        self._inner(OP_MAC, r.DST_MAC, (80, 57))
        self._inner(OP_U16, r.ETHER_TYPE, (256,))
        keep = 0
        for number in (58, 243) if self.fields.has(58, 243) else (59, 254):
            keep |= self._add(OP_U16, self.fields.first(number), r.VLAN, keep)

    def _layer_3_4(self) -> None:
        for column, v4, v6 in ((r.SRC_IP, 8, 27), (r.DST_IP, 12, 28)):
            self._addresses(column, self.fields.last(v4), self.fields.last(v6))
        if not self.fields.has(8, 27):
            self._add(OP_IPV4, self.fields.last(366), r.SRC_IP)
        if not self._inner(OP_U8, r.IP_PROTOCOL, (4,)):
            self._icmp_alone()
        if not self._inner(OP_U8, r.TOS, (5,)):
            self._inner(OP_DSCP, r.TOS, (195,))
        if not self._inner(OP_U16, r.TCP_FLAGS, (6,)):
            for number in (14, 15):  # YAF: those of the first packet, and of all others
                self._add(OP_FLAGS, self.fields.first(number, CERT), r.TCP_FLAGS)
        for column, numbers in ((r.SRC_PORT, (7, 180, 182)), (r.DST_PORT, (11, 181, 183))):
            keep = 0
            for number in numbers:
                keep |= self._add(OP_U16, self.fields.last(number), column, keep)
        self._icmp(0)
        self._inner(OP_U8, r.TTL, (192, 52))
        self._inner(OP_U32, r.TCP_SEQ, (184,))
        self._inner(OP_FRAGMENT, r.FRAGMENT, (88,))
        self._any(OP_U8, r.END_REASON, (136,))

    def _icmp_alone(self) -> None:
        """Set the protocol of records that state none, but an ICMP type and no ports (softflowd)."""
        v4, v6 = self.fields.has(32, 176, 177), self.fields.has(139, 178, 179)
        if v4 != v6 and not self.fields.has(7, 11, 180, 181, 182, 183):
            self._add(OP_CONSTANT, 0, r.IP_PROTOCOL, ICMP if v4 else ICMPV6)

    def _addresses(self, column: int, v4: int, v6: int, keep: int = 0) -> None:
        """Fill an address column from either family; if there are both, or `keep`, from one that is not all zero.

        If neither is, the later one counts: headers go from the outermost to the innermost.
        """
        keep |= int(v4 >= 0 and v6 >= 0)
        for field in sorted((v4, v6)):
            self._add(OP_IPV4 if field == v4 else OP_IPV6, field, column, keep)

    def _encapsulated(self) -> None:
        """Read the outer header: the first one if elements are repeated, or that beside VMware's tenant elements.

        Addresses of both families are one header, of either, or one within the other: the record shows which.
        """
        tenant = self.fields.has(881, 882, 883, 884, enterprise=VMWARE)
        repeated = self.fields.repeated(8, 12, 27, 28)
        mixed = not tenant and not repeated and all(self.fields.has(n) for n in (8, 12, 27, 28))
        if not (tenant or repeated or mixed):
            return
        for column, v4, v6 in ((r.OUTER_SRC_IP, 8, 27), (r.OUTER_DST_IP, 12, 28)):
            places = self.fields.first(v4), self.fields.first(v6)
            if mixed:
                places = (places[0], -1) if places[0] < places[1] else (-1, places[1])
            self._addresses(column, *places)
        if tenant:
            for column, v4, v6 in ((r.SRC_IP, 881, 883), (r.DST_IP, 882, 884)):
                self._addresses(column, self.fields.first(v4, VMWARE), self.fields.first(v6, VMWARE), 1)
            self._any(OP_U8, r.IP_PROTOCOL, (880,), VMWARE)
            self._any(OP_U16, r.SRC_PORT, (886,), VMWARE)
            self._any(OP_U16, r.DST_PORT, (887,), VMWARE)
        protocol = self.fields.first(4) if tenant or self.fields.repeated(4) else -1
        source, destination = (
            next((self.fields.first(n) for n in numbers if tenant or self.fields.repeated(n)), -1)
            for numbers in ((7, 182), (11, 183))
        )
        self._add(OP_OUTER, max(protocol, 0), destination + 1, (source + 1) * 2 + int(protocol < 0))

    def _icmp(self, enterprise: int) -> None:
        before = len(self.ops)
        reverse = int(enterprise == REVERSE)
        for number in (32, 139):
            self._add(OP_TYPE_CODE, self.fields.first(number, enterprise), 0, 0, reverse)
        for number, column in ((176, r.ICMP_TYPE), (178, r.ICMP_TYPE), (177, r.ICMP_CODE), (179, r.ICMP_CODE)):
            self._add(OP_U8, self.fields.first(number, enterprise), column, 1, reverse)
        if len(self.ops) > before and not reverse:
            self.flags |= F_ICMP

    def _interfaces(self) -> None:
        self._any(OP_U32, r.IN_IF, (10, 252))
        self._any(OP_U32, r.OUT_IF, (14, 253))
        for field, column in _interface_names(self.template).items():
            self._add(OP_NAME, field, column)
        self._any(OP_DIRECTION, r.DIRECTION, (61,))

    def _tunnel(self) -> None:
        self._any(OP_SEGMENT, r.VNI, (351,))
        self._any(OP_OVS_TUNNEL, r.TUNNEL, (891,), VMWARE)
        self._any(OP_U32, r.VNI, (892,), VMWARE)
        self._any(OP_IPV4, r.OUTER_SRC_IP, (893,), VMWARE)
        self._any(OP_IPV4, r.OUTER_DST_IP, (894,), VMWARE)
        self._any(OP_FORWARDING, 0, (89,))

    def _sampling(self) -> None:
        before = len(self.ops)
        for number in (34, 50):
            self._add(OP_RATE, self.fields.first(number))
        for op, number, other in ((OP_RATIO, 305, 306), (OP_RATIO, 307, 308), (OP_QUOTIENT, 309, 310)):
            if self.fields.has(other):
                self._add(op, self.fields.first(number), 0, self.fields.first(other) + 1)
        if not self.fields.has(306):
            self._add(OP_RATE, self.fields.first(305))
        self._add(OP_PROBABILITY, self.fields.first(311))
        if self._any(OP_SAMPLER, 0, (48, 302)):
            self.flags |= F_SAMPLER
        self._any(OP_LINE_CARD, 0, (141,))
        if len(self.ops) > before:
            self.flags |= F_RATE

    def _reverse(self) -> None:
        if not any(enterprise == REVERSE for enterprise, _ in self.fields.at):
            return
        counted = self._any(OP_U64, r.PACKETS, (2, 86), REVERSE) | self._any(OP_U64, r.BYTES, (1, 85), REVERSE)
        if not counted:
            return
        self.flags |= F_REVERSE
        self._any(OP_U64, r.FRAME_BYTES, (352, 353), REVERSE)
        self._times(REVERSE, 1)
        if not self._any(OP_U16, r.TCP_FLAGS, (6,), REVERSE):
            for number in (14, 15):
                self._add(OP_FLAGS, self.fields.first(number | CERT_REVERSE, CERT), r.TCP_FLAGS, 0, 1)
        if self._any(OP_U8, r.TOS, (5,), REVERSE):
            self.flags |= F_REVERSE_TOS
        self._any(OP_U8, r.TTL, (192, 52), REVERSE)
        self._any(OP_U32, r.TCP_SEQ, (184,), REVERSE)
        self._any(OP_DIRECTION, r.DIRECTION, (61,), REVERSE)
        self._icmp(REVERSE)

    def _totals(self) -> None:
        """Turn counts since a flow began into counts since its last report; runs when all else is in place."""
        has = self.fields.has
        flow = self.fields.first(148)
        if self.flags & F_OVS or any(enterprise == CERT for enterprise, _ in self.fields.at):
            return  # YAF ends a flow with each record
        if has(233) and has(231, 232, 298, 299) and not has(1, 2, 23, 24):
            self._add(OP_EVENT, self.fields.first(233), flow + 1)
            return
        bits = TOTAL_PACKETS if has(86, 172) and not has(2, 24) else 0
        bits |= TOTAL_BYTES if has(85, 171) and not has(1, 23) else 0
        if bits:
            self._add(OP_TOTAL, max(flow, 0), bits, int(flow < 0))

    def _sections(self) -> None:
        """Parse packet sections; they come first, so that the record's own fields overwrite what they show."""
        for number, protocol, length in ((315, 1, (312,)), (104, 1, (312,)), (313, 11, (224, 190))):
            whole = max(self.fields.first(n) for n in length)
            if self._add(OP_SECTION, self.fields.first(number), whole + 1, protocol):
                break


def _made_by_ovs(template: Template) -> bool:
    """Return True for templates of Open vSwitch, which all start with the same elements (ofproto-dpif-ipfix.c)."""
    plain = [number for enterprise, number, _ in template.fields if enterprise == 0]
    head = [number for number in plain[:7] if number != 61]
    foreign = {enterprise for enterprise, _, _ in template.fields} - {0, VMWARE}
    cached = 158 in plain and 159 in plain
    return (
        template.fields[0] == (0, 138, 4)
        and not foreign
        and 352 in plain
        and (head[:5] == [138, 56, 80, 256, 240] or (head[:2] == [138, 2] and not cached))
    )


def _interface_names(template: Template) -> dict[int, int]:
    """Return field -> column for the fields that hold interface names.

    A name belongs to the interface element before it (Open vSwitch); without one, the first name is that of the
    incoming interface and the second that of the outgoing one.
    """
    targets: dict[int, int] = {}
    free = [r.IN_IF_NAME, r.OUT_IF_NAME]
    unnamed: list[int] = []
    for index, (enterprise, number, size) in enumerate(template.fields):
        if enterprise != 0 or size == 0:
            continue
        if number in (10, 252):
            unnamed.append(r.IN_IF_NAME)
        elif number in (14, 253):
            unnamed.append(r.OUT_IF_NAME)
        elif number == 82 and free:
            stated = [column for column in unnamed if column in free]
            targets[index] = stated[0] if stated else free[0]
            free.remove(targets[index])
    return targets
