"""Templates of NetFlow v9 and IPFIX: those known for each session, and how they are read off the wire.

Templates and options templates share one id space (RFC 7011 section 3.4.3).  A template belongs to a session, so no
sender can redefine another exporter's templates.  Kernels look templates up and recognise re-announcements by digest;
only a new or different template runs Python code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.hashes import mix
from decoders.jit import inline, kernel
from decoders.limits import Limits
from decoders.netflow import plan as p
from decoders.netflow.plan import V9_SCOPES, VARIABLE, Template
from decoders.sessions import S_TEMPLATES, Sessions, standing
from decoders.wire import u16

_SPARE = 64
"""Unused plans that are kept before the arrays are compacted."""


class Plans(NamedTuple):
    """The plans of all templates back to back, as arrays that kernels read."""

    head: NDArray[np.int64]
    """[plans, P_WORDS]"""
    width: NDArray[np.int64]
    """[fields] octets as the template says, −1 where they vary."""
    size: NDArray[np.int64]
    """[fields] octets in the current record."""
    off: NDArray[np.int64]
    """[fields] offset from the start of the current record."""
    op: NDArray[np.int64]
    """[operations, OPS]"""


class PlanPool:
    """Plans by template, with reference counts: equal templates share one plan."""

    def __init__(self) -> None:
        self._number: dict[p.Template, int] = {}
        self._uses: dict[int, int] = {}
        self._plans: list[p.Plan] = []
        self._templates: list[p.Template] = []
        self._unused = 0
        self.fields = 0
        """Fields of all plans in use, on which their memory depends."""
        self.arrays = _empty(1, 16, 16)
        self._filled = [0, 0, 0]

    def take(self, template: p.Template) -> int:
        """Return the number of this template's plan, which is compiled if it is not known."""
        number = self._number.get(template)
        if number is None:
            number = len(self._plans)
            plan = p.compile_plan(template)
            self._plans.append(plan)
            self._templates.append(template)
            self._number[template] = number
            self._uses[number] = 0
            self._unused += 1
            self._append(number, plan)
        if self._uses[number] == 0:
            self._unused -= 1
            self.fields += len(template.fields)
        self._uses[number] += 1
        return number

    def template(self, number: int) -> p.Template:
        """Return the template of a plan; equal ones, thousands in large clouds, are one object."""
        return self._templates[number]

    def give_back(self, number: int) -> None:
        """Release one use of this plan."""
        self._uses[number] -= 1
        if self._uses[number] == 0:
            self._unused += 1
            self.fields -= len(self._templates[number].fields)

    @property
    def crowded(self) -> bool:
        """Return True if `compact` is worth its time."""
        return self._unused > _SPARE and self._unused > len(self._uses) // 2

    def compact(self) -> dict[int, int]:
        """Forget unused plans; returns old number -> new number of those that stay."""
        kept = [(template, number) for template, number in self._number.items() if self._uses[number] > 0]
        plans = {number: self._plans[number] for _, number in kept}
        renumbered = {old: new for new, (_, old) in enumerate(kept)}
        self._number = {template: renumbered[number] for template, number in kept}
        self._uses = {renumbered[number]: self._uses[number] for _, number in kept}
        self._plans = [plans[number] for _, number in kept]
        self._templates = [template for template, _ in kept]
        self._unused = 0
        self._filled = [0, 0, 0]
        for number, plan in enumerate(self._plans):
            self._append(number, plan)
        return renumbered

    def _append(self, number: int, plan: p.Plan) -> None:
        heads, fields, ops = self._filled
        widths = plan.sizes
        self.arrays = _grown(self.arrays, heads + 1, fields + len(widths), ops + len(plan.ops))
        head, width, size, off, op = self.arrays
        head[number] = plan.head
        head[number, p.P_FIELD] = fields
        head[number, p.P_OP] = ops
        end = fields + len(widths)
        width[fields:end] = widths
        size[fields:end] = widths
        off[fields:end] = np.cumsum(widths) - widths
        op[ops : ops + len(plan.ops)] = plan.ops
        self._filled = [heads + 1, end, ops + len(plan.ops)]


def _empty(plans: int, fields: int, ops: int) -> Plans:
    return Plans(
        np.zeros((plans, p.P_WORDS), np.int64),
        np.zeros(fields, np.int64),
        np.zeros(fields, np.int64),
        np.zeros(fields, np.int64),
        np.zeros((ops, p.OPS), np.int64),
    )


def _grown(arrays: Plans, plans: int, fields: int, ops: int) -> Plans:
    """Return the same arrays if they have room for this many, else copies of at least twice the size."""
    if plans <= len(arrays.head) and fields <= len(arrays.width) and ops <= len(arrays.op):
        return arrays
    larger = _empty(max(plans, 2 * len(arrays.head)), max(fields, 2 * len(arrays.width)), max(ops, 2 * len(arrays.op)))
    for old, new in zip(arrays, larger, strict=True):
        new[: len(old)] = old
    return larger


class Table(NamedTuple):
    """Hash table (session, template id) -> entry."""

    slot: NDArray[np.int32]
    """Open addressing, linear; entry + 1, 0 = free.  The size is a power of two, at least twice the entries."""
    key: NDArray[np.int64]
    """[entries]: session × 65,536 + template id, −1 = free."""
    digest: NDArray[np.uint64]
    """[entries]: digest of the announcement's octets."""
    plan: NDArray[np.int64]
    """[entries]: number in the plan pool."""
    refreshed_us: NDArray[np.int64]
    """[entries]: when it was last announced."""
    used_us: NDArray[np.int64]
    """[entries]: when data last came for it."""


def new_table(entries: int) -> Table:
    """Return an empty table."""
    return Table(
        np.zeros(1 << (2 * entries - 1).bit_length(), np.int32),
        np.full(entries, -1, np.int64),
        np.zeros(entries, np.uint64),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
    )


@inline
def _home(table, key):
    return np.int64(mix(np.uint64(0), np.uint64(key)) & np.uint64(table.slot.shape[0] - 1))


@inline
def find_template(table, session, number):
    """Return the entry of a template, −1 if it is not known."""
    key = session * 65_536 + number
    at = _home(table, key)
    while table.slot[at] != 0:
        entry = np.int64(table.slot[at]) - 1
        if table.key[entry] == key:
            return entry
        at = (at + 1) & (table.slot.shape[0] - 1)
    return np.int64(-1)


@kernel
def insert_entry(table, entry, key):
    """Index a free entry under a key that is not in the table."""
    table.key[entry] = key
    at = _home(table, key)
    while table.slot[at] != 0:
        at = (at + 1) & (table.slot.shape[0] - 1)
    table.slot[at] = entry + 1


@kernel
def remove_entry(table, entry):
    """Remove an entry; those after it move up, so that no search meets a gap."""
    mask = table.slot.shape[0] - 1
    at = _home(table, table.key[entry])
    while table.slot[at] != entry + 1:
        at = (at + 1) & mask
    table.key[entry] = -1
    hole = at
    while True:
        at = (at + 1) & mask
        if table.slot[at] == 0:
            break
        home = _home(table, table.key[np.int64(table.slot[at]) - 1])
        if ((at - home) & mask) >= ((at - hole) & mask):
            table.slot[hole] = table.slot[at]
            hole = at
    table.slot[hole] = 0


@inline
def digest_record(octets, at, end, version, options):
    """Return the digest of a template record as announced."""
    h = np.uint64(version * 2 + options)
    while at + 2 <= end:
        h = mix(h, np.uint64(u16(octets, at)))
        at += 2
    return h | np.uint64(1)


@kernel
def digest_of(octets, at, end, version, options):
    """Call `digest_record` from outside kernels."""
    return digest_record(octets, at, end, version, options)


class BadTemplateError(ValueError):
    """An invalid template.  Kernels refuse those off the wire; this is for saved state."""


def parse_record(record: bytes, version: int, options: bool) -> tuple[int, Template]:
    """Return id and template of a record whose lengths a kernel has checked (RFC 7011 section 3.4)."""
    words = np.frombuffer(record[: len(record) // 2 * 2], ">u2").tolist()
    number, count = words[0], words[1]
    if version == 9:
        scopes = count // 4 if options else 0
        pairs = words[3:] if options else words[2:]
        fields = [(0, kind, size) for kind, size in zip(pairs[::2], pairs[1::2], strict=True)]
        for index in range(scopes):
            kind, size = fields[index][1:]
            fields[index] = (0, V9_SCOPES.get(kind, 0), size)
        return number, Template(9, options, scopes, tuple(fields))
    scopes = words[2] if options else 0
    at = 3 if options else 2
    fields = []
    for _ in range(count):
        kind, size = words[at], words[at + 1]
        at += 2
        enterprise = 0
        if kind & 0x8000:
            enterprise = words[at] << 16 | words[at + 1]
            at += 2
        fields.append((enterprise, kind & 0x7FFF, size))
    return number, Template(10, options, scopes, tuple(fields))


def check(template: Template, limits: Limits) -> None:
    """Raise BadTemplateError for a template that the wire rules would refuse."""
    if template.version not in (9, 10):
        raise BadTemplateError(f"version {template.version} has no templates")
    if not 1 <= len(template.fields) <= limits.template_fields:
        raise BadTemplateError(f"{len(template.fields)} fields; 1 to {limits.template_fields} can be")
    if template.options != (1 <= template.scopes <= len(template.fields)):
        raise BadTemplateError(f"{template.scopes} of {len(template.fields)} fields are scope")
    for enterprise, number, size in template.fields:
        if not (0 <= enterprise <= 0xFFFFFFFF and 0 <= number <= 0xFFFF and 0 <= size <= VARIABLE):
            raise BadTemplateError(f"not a field: {(enterprise, number, size)}")
    if template.least_bytes() == 0:
        raise BadTemplateError("its records would have no length")


LOOK_US = 1_000_000
"""How often room is looked for after there was none, and aged templates (× 60)."""


class TemplateStore:
    """All templates, bounded per session, per address and in total; unused ones are dropped first."""

    def __init__(self, limits: Limits, sessions: Sessions) -> None:
        self._limits = limits
        self._sessions = sessions
        self._entries: dict[int, dict[int, int]] = {}
        self._of_address: dict[tuple[int, int], int] = {}
        self._aging: dict[int, deque[tuple[int, int]]] = {}
        self._free: list[int] = []
        self._next = 0
        self._count = 0
        self._look_us: dict[tuple[int, int] | None, int] = {}
        self._aged_us = 0
        self.aged = 0
        """Templates forgotten by age; running total."""
        self.displaced = 0
        """Templates dropped for others, or not kept for lack of room; running total."""
        self.table = new_table(limits.templates)
        self.pool = PlanPool()

    def __len__(self) -> int:
        return self._count

    @property
    def crowded(self) -> bool:
        """Return True if more than half of the room is taken."""
        return 2 * self._count > self._limits.templates or 2 * self.pool.fields > self._limits.plan_fields

    def of_session(self, session: int) -> Iterator[tuple[int, Template]]:
        """Yield (id, template) of all templates of a session, the lowest id first."""
        for number, entry in sorted(self._entries.get(session, {}).items()):
            yield number, self._template(entry)

    def last_us(self, session: int, number: int) -> int:
        """Return when a known template was last announced or used."""
        return self._last(self._entries[session][number])

    def sessions(self) -> list[int]:
        """Return the sessions that have templates."""
        return sorted(self._entries)

    def plan_of(self, session: int, number: int) -> int | None:
        """Return the number of a template's plan, None if the template is not known."""
        entry = self._entries.get(session, {}).get(number)
        return None if entry is None else int(self.table.plan[entry])

    def announced(self, session: int, number: int) -> tuple[Template, int, int] | None:
        """Return a template, the digest of its announcement, and when that was last received (µs); None if unknown."""
        entry = self._entries.get(session, {}).get(number)
        if entry is None:
            return None
        return self._template(entry), int(self.table.digest[entry]), int(self.table.refreshed_us[entry])

    def announce(self, session: int, number: int, template: Template, digest: int, now_us: int) -> tuple[bool, bool]:
        """Keep a template.  Returns (it replaced a different one, an older one or this one was dropped for room)."""
        known = self._entries.get(session, {})
        entry = known.get(number)
        changed = False
        gave_way = False
        if entry is not None:
            before = int(self.table.plan[entry])
            if self.pool.template(before) != template:
                changed = True
                if not self._fits(template):
                    self.displaced += 1
                    self._forget(session, number)
                    return changed, True
                self.pool.give_back(before)
                self.table.plan[entry] = self.pool.take(template)
        else:
            gave_way = not self._has_room(session, len(known), template, now_us)
            if gave_way:
                self.displaced += 1
                if not known:
                    return changed, gave_way
                self._forget(session, self._oldest(session, known))
                if not self._fits(template):
                    return changed, gave_way
            known = self._entries.setdefault(session, {})
            entry = self._new_entry()
            known[number] = entry
            self._add(session, 1)
            insert_entry(self.table, entry, session * 65_536 + number)
            self.table.plan[entry] = self.pool.take(template)
            self.table.used_us[entry] = 0
        self.table.digest[entry] = digest
        self.table.refreshed_us[entry] = now_us
        self._sessions.stats[session, S_TEMPLATES] = len(known)
        if self.pool.crowded:
            self._compact()
        return changed, gave_way

    def drop_session(self, session: int) -> None:
        """Forget all templates of a session: its exporter restarted."""
        self._aging.pop(session, None)
        for number in list(self._entries.get(session, ())):
            self._forget(session, number)
        self._sessions.stats[session, S_TEMPLATES] = 0

    def withdraw(self, session: int, number: int, options: bool) -> bool:
        """Forget a template, or with an id below 256 all of its kind.  False if there was none."""
        known = self._entries.get(session, {})
        chosen = list(known) if number < 256 else [number] if number in known else []
        gone = [one for one in chosen if self._template(known[one]).options == options]
        for one in gone:
            self._forget(session, one)
        return bool(gone)

    def forget(self, session: int, number: int) -> bool:
        """Forget a template of either kind after a malformed announcement of its id; False if there was none."""
        known = number in self._entries.get(session, {})
        if known:
            self._forget(session, number)
        return known

    def expire(self, now_us: int) -> None:
        """Forget templates that were neither announced nor used for their lifetime (RFC 7011 section 8.4).

        Those of a connection live as long as it does.
        """
        if 0 <= now_us - self._aged_us < 60 * LOOK_US:
            return
        self._aged_us = now_us
        table, end = self.table, self._next
        last = np.maximum(table.refreshed_us[:end], table.used_us[:end])
        old = np.flatnonzero((table.key[:end] >= 0) & (last < now_us - self._limits.template_seconds * 1_000_000))
        for key in table.key[old].tolist():
            session, number = divmod(key, 65_536)
            if not self._sessions.key[session, 3]:
                self._forget(session, number)
                self.aged += 1

    def _has_room(self, session: int, known: int, template: Template, now_us: int) -> bool:
        """Return whether a session that has `known` templates can have one more; others are dropped if allowed."""
        limits = self._limits
        if known >= limits.templates_per_session:
            return False
        address = self._address(session)
        share, most = self._of_address.get(address, 0), limits.templates_per_exporter
        if share >= most and not self._make_room(session, address, most // 8, now_us):
            return False
        if self._count < limits.templates and self._fits(template):
            return True
        if not self._make_room(session, None, limits.templates // 8, now_us):
            return False
        return self._count < limits.templates and self._fits(template)

    def _fits(self, template: Template) -> bool:
        """Return whether there is memory for the fields of one more template that differs from all others."""
        return self.pool.fields + len(template.fields) <= self._limits.plan_fields

    def _make_room(self, session: int, address: tuple[int, int] | None, wanted: int, now_us: int) -> bool:
        """Forget templates of the sessions of least standing, of one address or of all; never of the established."""
        if 0 <= now_us - self._look_us.get(address, -LOOK_US) < LOOK_US:
            return False
        found = standing(self._sessions, now_us)
        before = self._count
        for other in found.numbers[~found.established].tolist():
            if other == session or other not in self._entries or address not in (None, self._address(other)):
                continue
            gone = len(self._entries[other])
            self._sessions.problems[other, Reason.TEMPLATE_LIMIT] += np.uint64(gone)
            self.displaced += gone
            self.drop_session(other)
            if before - self._count >= max(wanted, 1):
                break
        if self._count == before:
            if len(self._look_us) >= self._limits.sessions:
                self._look_us.clear()
            self._look_us[address] = now_us
        return self._count < before

    def _address(self, session: int) -> tuple[int, int]:
        high, low = self._sessions.key[session, :2].tolist()
        return high, low

    def _add(self, session: int, templates: int) -> None:
        self._count += templates
        address = self._address(session)
        theirs = self._of_address.get(address, 0) + templates
        if theirs:
            self._of_address[address] = theirs
        else:
            self._of_address.pop(address, None)

    def _template(self, entry: int) -> Template:
        return self.pool.template(int(self.table.plan[entry]))

    def _last(self, entry: int) -> int:
        return max(int(self.table.refreshed_us[entry]), int(self.table.used_us[entry]))

    def _oldest(self, session: int, known: dict[int, int]) -> int:
        """Return the id of the template that was announced or used longest ago.

        A datagram may bring 8,000 templates, each of which displaces one: they are sorted once for many, and those
        that were announced or used since then are skipped.
        """
        aging = self._aging.setdefault(session, deque())
        while True:
            if not aging:
                aging.extend(sorted((self._last(entry), number) for number, entry in known.items()))
            when, number = aging.popleft()
            if number in known and self._last(known[number]) == when:
                return number

    def _new_entry(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def _forget(self, session: int, number: int) -> None:
        known = self._entries[session]
        entry = known.pop(number)
        remove_entry(self.table, entry)
        self.pool.give_back(int(self.table.plan[entry]))
        self._free.append(entry)
        self._add(session, -1)
        self._sessions.stats[session, S_TEMPLATES] = len(known)
        if not known:
            del self._entries[session]
            self._aging.pop(session, None)

    def _compact(self) -> None:
        renumbered = self.pool.compact()
        for known in self._entries.values():
            for entry in known.values():
                self.table.plan[entry] = renumbered[int(self.table.plan[entry])]
