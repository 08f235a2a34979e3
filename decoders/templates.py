"""Templates: which are known of whom, how they are read off the wire, and how they survive a restart.

One id space for templates and options templates (RFC 7011 section 3.4.3).  A template belongs to a session, so nobody
can redefine another exporter's templates.  Kernels look templates up and recognise re-announcements by digest; only a
new or different template costs Python's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.elements import VARIABLE
from decoders.jit import inline, kernel
from decoders.limits import Limits
from decoders.plan import V9_SCOPES, Template
from decoders.pool import PlanPool
from decoders.sessions import S_TEMPLATES, Sessions, mix
from decoders.wire import u16


class Table(NamedTuple):
    """Hash table (session, template id) -> entry."""

    slot: NDArray[np.int32]
    """Open addressing, linear; entry + 1, 0 = free.  The size is a power of two, at least twice the entries."""
    key: NDArray[np.int64]
    """[entries]: session × 65,536 + template id, −1 = free."""
    digest: NDArray[np.uint64]
    """[entries]: of the announcement's octets."""
    plan: NDArray[np.int64]
    """[entries]: number in the plan pool."""
    refreshed_us: NDArray[np.int64]
    """[entries]: when it was last announced."""


def new_table(entries: int) -> Table:
    """An empty table."""
    return Table(
        np.zeros(1 << (2 * entries - 1).bit_length(), np.int32),
        np.full(entries, -1, np.int64),
        np.zeros(entries, np.uint64),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
    )


@inline
def _home(table, key):  # type: ignore[no-untyped-def]
    return np.int64(mix(np.uint64(0), np.uint64(key)) & np.uint64(table.slot.shape[0] - 1))


@inline
def find_template(table, session, number):  # type: ignore[no-untyped-def]
    """Entry of a template, −1 if it is not known."""
    key = session * 65_536 + number
    at = _home(table, key)
    while table.slot[at] != 0:
        entry = np.int64(table.slot[at]) - 1
        if table.key[entry] == key:
            return entry
        at = (at + 1) & (table.slot.shape[0] - 1)
    return np.int64(-1)


@kernel
def insert_entry(table, entry, key):  # type: ignore[no-untyped-def]
    """Make a free entry findable under a key that is not in the table."""
    table.key[entry] = key
    at = _home(table, key)
    while table.slot[at] != 0:
        at = (at + 1) & (table.slot.shape[0] - 1)
    table.slot[at] = entry + 1


@kernel
def remove_entry(table, entry):  # type: ignore[no-untyped-def]
    """Take an entry out; those behind it move up, so that no search meets a gap."""
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
def digest_record(octets, at, end, version, options):  # type: ignore[no-untyped-def]
    """Digest of a template record as announced."""
    h = np.uint64(version * 2 + options)
    while at + 2 <= end:
        h = mix(h, np.uint64(u16(octets, at)))
        at += 2
    return h | np.uint64(1)


@kernel
def digest_of(octets, at, end, version, options):  # type: ignore[no-untyped-def]
    """`digest_record` for callers outside kernels."""
    return digest_record(octets, at, end, version, options)


class BadTemplateError(ValueError):
    """A template that cannot be one.  Kernels refuse those off the wire; this is for saved state."""


def parse_record(record: bytes, version: int, options: bool) -> tuple[int, Template]:
    """Template id and template of a record whose lengths a kernel has checked (RFC 7011 section 3.4)."""
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
    """Raises BadTemplateError for a template that the wire rules would refuse."""
    if template.version not in (9, 10):
        raise BadTemplateError(f"version {template.version} has no templates")
    if not 1 <= len(template.fields) <= limits.template_fields:
        raise BadTemplateError(f"{len(template.fields)} fields; 1 to {limits.template_fields} can be")
    if template.options != (1 <= template.scopes <= len(template.fields)):
        raise BadTemplateError(f"{template.scopes} of {len(template.fields)} fields are scope")
    for enterprise, number, size in template.fields:
        if not (0 <= enterprise <= 0xFFFFFFFF and 0 <= number <= 0xFFFF and 0 <= size <= VARIABLE):
            raise BadTemplateError(f"not a field: {(enterprise, number, size)}")
    if template.least_octets() == 0:
        raise BadTemplateError("its records would have no length")


class TemplateStore:
    """All templates, bounded per session and in total."""

    def __init__(self, limits: Limits, sessions: Sessions) -> None:
        self._limits = limits
        self._sessions = sessions
        self._entries: dict[int, dict[int, int]] = {}
        self._templates: dict[int, Template] = {}
        self._aging: dict[int, deque[tuple[int, int]]] = {}
        self._free: list[int] = []
        self._next = 0
        self.table = new_table(limits.templates)
        self.pool = PlanPool()

    def __len__(self) -> int:
        return len(self._templates)

    def of_session(self, session: int) -> Iterator[tuple[int, Template]]:
        """(id, template) of all templates of a session, the least id first."""
        for number, entry in sorted(self._entries.get(session, {}).items()):
            yield number, self._templates[entry]

    def sessions(self) -> list[int]:
        """Sessions that have templates."""
        return sorted(self._entries)

    def plan_of(self, session: int, number: int) -> int | None:
        """Number of a template's plan, None if the template is not known."""
        entry = self._entries.get(session, {}).get(number)
        return None if entry is None else int(self.table.plan[entry])

    def announced(self, session: int, number: int) -> tuple[Template, int, int] | None:
        """A template, the digest of its announcement, and when that was last heard (µs); None if it is not known."""
        entry = self._entries.get(session, {}).get(number)
        if entry is None:
            return None
        return self._templates[entry], int(self.table.digest[entry]), int(self.table.refreshed_us[entry])

    def announce(self, session: int, number: int, template: Template, digest: int, now_us: int) -> tuple[bool, bool]:
        """Keep a template.  Returns (it replaced a different one, an older one or this one had to go for room)."""
        known = self._entries.setdefault(session, {})
        entry = known.get(number)
        changed = False
        gave_way = False
        if entry is not None:
            if self._templates[entry] != template:
                changed = True
                self.pool.give_back(int(self.table.plan[entry]))
                self.table.plan[entry] = self.pool.take(template)
        else:
            if len(known) >= self._limits.templates_per_session or len(self) >= self._limits.templates:
                gave_way = True
                if not known:
                    del self._entries[session]
                    return changed, gave_way
                self._forget(known.pop(self._oldest(session, known)))
            entry = self._new_entry()
            known[number] = entry
            insert_entry(self.table, entry, session * 65_536 + number)
            self.table.plan[entry] = self.pool.take(template)
        self._templates[entry] = template
        self.table.digest[entry] = digest
        self.table.refreshed_us[entry] = now_us
        self._sessions.stats[session, S_TEMPLATES] = len(known)
        if self.pool.crowded:
            self._compact()
        return changed, gave_way

    def drop_session(self, session: int) -> None:
        """Forget all templates of a session: its exporter restarted."""
        self._aging.pop(session, None)
        for entry in self._entries.pop(session, {}).values():
            self._forget(entry)
        self._sessions.stats[session, S_TEMPLATES] = 0

    def withdraw(self, session: int, number: int, options: bool) -> bool:
        """Forget a template, or with a number below 256 all; only those of the kind.  False if there was none."""
        known = self._entries.get(session, {})
        chosen = list(known) if number < 256 else [number] if number in known else []
        gone = [one for one in chosen if self._templates[known[one]].options == options]
        for one in gone:
            self._forget(known.pop(one))
        self._sessions.stats[session, S_TEMPLATES] = len(known)
        if not known:
            self.drop_session(session)
        return bool(gone)

    def _oldest(self, session: int, known: dict[int, int]) -> int:
        """Id of the template that was announced longest ago.

        A datagram may bring 8,000 templates, each of which pushes one out: they are put in order once for many, and
        whoever was announced again since then is passed over.
        """
        aging = self._aging.setdefault(session, deque())
        refreshed_us = self.table.refreshed_us
        while True:
            if not aging:
                ages = [(int(refreshed_us[entry]), number) for number, entry in known.items()]
                aging.extend(sorted(ages, key=itemgetter(0)))
            when, number = aging.popleft()
            if number in known and refreshed_us[known[number]] == when:
                return number

    def _new_entry(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def _forget(self, entry: int) -> None:
        remove_entry(self.table, entry)
        self.pool.give_back(int(self.table.plan[entry]))
        del self._templates[entry]
        self._free.append(entry)

    def _compact(self) -> None:
        renumbered = self.pool.compact()
        for entry in self._templates:
            self.table.plan[entry] = renumbered[int(self.table.plan[entry])]
