"""The entry point of decoding: each datagram of a batch goes to the decoder of its version."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv6Network
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decoders.datagrams import Datagrams
from decoders.errors import Reason
from decoders.limits import Limits
from decoders.netflow.decoder import SetsDecoder
from decoders.netflow.v5 import LegacyDecoder
from decoders.overrides import NONE, SINGLE, ExporterRule, RuleTable
from decoders.sessions import (
    S_COUNTER_RECORDS,
    S_DENIED,
    S_NAMED,
    S_OVERRIDE_RATE,
    S_RECORDS,
    S_RULED,
    forget,
    in_use,
    note_first_seen,
    of_connections,
    standing,
)
from decoders.sflow.decoder import SflowDecoder
from decoders.shared import K_LEGACY, K_SETS, K_SFLOW, Decoded, Shared, assign_batch, new_shared, refuse_denied

LEGACY, SFLOW, SETS = ("netflow5",), ("sflow",), ("netflow9", "ipfix")
"""Kinds of datagrams by the decoder that they are for."""


def datagrams(kinds: Iterable[str] = (*SFLOW, *LEGACY, *SETS)) -> Datagrams:
    """Return a batch with one small datagram of each kind, which runs all kernels of each decoder: so they are
    compiled, or loaded from the cache, before the first real datagram comes.
    """
    make = {"sflow": _sflow, "netflow5": _netflow5, "netflow9": _netflow9, "ipfix": _ipfix}
    return Datagrams.of((make[kind](), "192.0.2.1", 1, 1_700_000_000_000_000) for kind in kinds)


def _sflow() -> bytes:
    frame = bytes(12) + b"\x08\x00" + b"\x45\x00\x00\x1c" + bytes(4) + b"\x40\x11" + bytes(10) + bytes(8)
    header = struct.pack("!6I", 1, 16 + 44, 1, len(frame) + 4, 4, len(frame)) + frame + bytes(-len(frame) % 4)
    flow = struct.pack("!8I", 1, 2 << 24 | 1000, 1, 1, 0, 1, 2, 1) + header
    counters = struct.pack("!3I", 1, 1, 1) + struct.pack("!II", 1, 88) + bytes(88)
    dropped = struct.pack("!8I", 1, 0, 1, 0, 1, 0, 258, 1) + header
    samples = b"".join(
        struct.pack("!II", kind, len(body)) + body for kind, body in ((1, flow), (2, counters), (5, dropped))
    )
    return struct.pack("!II4sIIII", 5, 1, bytes(4), 0, 1, 1, 3) + samples


def _netflow5() -> bytes:
    return struct.pack("!HHIIIIBBH", 5, 1, 1, 1_700_000_000, 0, 1, 0, 0, 0) + bytes(48)


_FIELDS = struct.pack("!8H", 8, 4, 12, 4, 1, 4, 2, 4)


def _netflow9() -> bytes:
    template = struct.pack("!4H", 0, 8 + len(_FIELDS), 256, 4) + _FIELDS
    data = struct.pack("!HH", 256, 20) + b"\x01" * 16
    options = struct.pack("!9H", 1, 18, 257, 4, 4, 1, 4, 34, 4) + struct.pack("!HHII", 257, 12, 1, 64)
    return struct.pack("!HHIIII", 9, 4, 1, 1_700_000_000, 1, 1) + template + data + options


def _ipfix() -> bytes:
    fields = _FIELDS + struct.pack("!HH", 82, 0xFFFF)
    template = struct.pack("!4H", 2, 8 + len(fields), 256, 5) + fields
    data = struct.pack("!HH", 256, 22) + b"\x01" * 16 + b"\x01a"
    return struct.pack("!HHIII", 10, 16 + len(template) + len(data), 1_700_000_000, 1, 1) + template + data


MAX_EXPRESSIBLE_RATE = 0xFFFF_FFFF


class _Part(Protocol):
    def decode(self, batch: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64]) -> Decoded: ...

    def forget(self, numbers: NDArray[np.int64]) -> None: ...

    def begin_anew(self, numbers: NDArray[np.int64]) -> None: ...


class Decoder:
    """Decodes batches of datagrams of all protocols; keeps what a datagram needs from earlier ones.

    Not thread-safe.  Time comes with the datagrams: the decoder has no clock.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        rules: Iterable[ExporterRule] = (),
        *,
        port_in_key: bool = True,
        domain_in_key: bool = True,
    ) -> None:
        self.shared: Shared = new_shared(limits or Limits())
        self.shared.port_in_key = port_in_key
        self.shared.domain_in_key = domain_in_key
        self.sets = SetsDecoder(self.shared)
        self._sflow = SflowDecoder(self.shared)
        self._parts: dict[int, _Part] = {
            K_SFLOW: self._sflow,
            K_LEGACY: LegacyDecoder(self.shared),
            K_SETS: self.sets,
        }
        self._saved = b""
        self.forgotten_strangers = 0
        """Streams dropped for others that never sent a record; running total."""
        self.forgotten_exporters = 0
        """Streams dropped for others although they sent records; running total."""
        self._take_rules(tuple(rules))

    @property
    def forgotten_sources(self) -> int:
        """sFlow data sources dropped for others; running total."""
        return self._sflow.forgotten_sources

    @property
    def rules(self) -> tuple[ExporterRule, ...]:
        """The operator's rules for exporters; may be replaced between batches."""
        return self._rules

    @rules.setter
    def rules(self, rules: Iterable[ExporterRule]) -> None:
        self._take_rules(tuple(rules))
        self._apply_rules(in_use(self.shared.sessions))

    def _take_rules(self, rules: tuple[ExporterRule, ...]) -> None:
        self._rules = rules
        self._first = _of_version(rules, 0)
        # If there are rules for one protocol only, its streams have a table of their own.
        self._first_of = {version: _of_version(rules, version) for version in {rule.version for rule in rules} - {0}}
        self._one_port = RuleTable(rules, lambda rule: rule.one_port)
        self._named = RuleTable(rules, lambda rule: rule.allowed and rule.network.prefixlen == SINGLE)
        # The entry after the last rule, NONE, is for addresses that no rule names.
        self._denied = np.array([*(not rule.allowed for rule in rules), False], np.uint64)
        self._rates = np.array([*(min(rule.sampling_rate, MAX_EXPRESSIBLE_RATE) for rule in rules), 0], np.uint64)

    def decode(self, batch: Datagrams) -> Decoded:
        """Decode one batch.  Never raises for what the octets hold: problems are counted by session and reason."""
        decoded = Decoded()
        self.shared.name_list.begin_batch()
        missed = int(self.shared.names.missed[0])
        for part in self._named_first(batch):
            self._decode(part, decoded)
        missed = int(self.shared.names.missed[0]) - missed
        self.shared.sessions.problems[0, Reason.NAME_LIMIT] += np.uint64(missed)
        return decoded

    def _named_first(self, batch: Datagrams) -> list[Datagrams]:
        """Return the batch; if newcomers may take the last places, exporters named by the operator come first."""
        sessions, capacity = self.shared.sessions, self.shared.limits.sessions
        known = int(sessions.count[0] - sessions.count[1])
        if not self._named or 2 * known < capacity or known + len(batch) <= capacity:
            return [batch]
        named = self._named.first(batch.address) != NONE
        return [batch.those(named), batch.those(~named)] if named.any() else [batch]

    def _decode(self, batch: Datagrams, decoded: Decoded) -> None:
        self._make_room(batch)
        if self._one_port:
            port = np.where(self._one_port.first(batch.address) == NONE, batch.port, 0)
            batch = replace(batch, port=port)
        kind, session = assign_batch(self.shared, batch)
        if len(batch):
            note_first_seen(self.shared.sessions, session, int(batch.time_received_us.min()))
        if self._rules:
            fresh = session[self.shared.sessions.stats[session, S_RULED] == 0]
            if len(fresh):
                self._apply_rules(np.unique(fresh))
            refuse_denied(self.shared.sessions, kind, session)
        for code, part in self._parts.items():
            picked = np.flatnonzero(kind == code)
            if len(picked):
                self._contain(part.decode, batch, picked, session, decoded)
        self._end_connections(batch)

    def _end_connections(self, batch: Datagrams) -> None:
        """Forget the templates of connections that have ended (RFC 7011 section 8.1); their counts stay.

        The number of a connection is never used again, so nothing of it can come after its end.
        """
        ended = batch.connection[(batch.length == 0) & (batch.connection != 0)]
        if len(ended):
            numbers = of_connections(self.shared.sessions, ended)
            if len(numbers):
                self.sets.forget(numbers)

    def warm_up(self, kinds: Iterable[str] = (*SFLOW, *LEGACY, *SETS)) -> None:
        """Compile every kernel that datagrams of these kinds need, or load it from the cache.  Takes a minute the first
        time, half a second later."""
        rules = [ExporterRule(IPv6Network("::/128"), allowed=False)]
        trial = Decoder(Limits(sessions=16, sources=64, templates=16), rules)
        trial.decode(datagrams(kinds))
        trial.load_state(trial.changed_state() or b"{}")
        trial.forget(in_use(trial.shared.sessions))

    def changed_state(self) -> bytes | None:
        """Return what must survive a restart (templates, sampler rates), or None if unchanged since the last call."""
        state = json.dumps(self.sets.export_state(), separators=(",", ":")).encode()
        if state == self._saved:
            return None
        self._saved = state
        return state

    def load_state(self, state: bytes) -> None:
        """Load what `changed_state` returned; wrong entries are skipped.  Raises ValueError if it is damaged."""
        self.sets.import_state(json.loads(state))
        self._saved = state

    def _contain(
        self,
        decode: Callable[[Datagrams, NDArray[np.int64], NDArray[np.int64]], Decoded],
        batch: Datagrams,
        picked: NDArray[np.int64],
        session: NDArray[np.int64],
        into: Decoded,
    ) -> None:
        """Run one decoder; if it fails by a defect of ours, halve the batch until only the one at fault is skipped.

        The streams of a failed attempt start over, or its good datagrams would be taken for duplicates.  Their running
        totals may then hold a datagram twice; rows never do.
        """
        try:
            part = decode(batch, picked, session)
        except Exception:  # noqa: BLE001 - whatever the defect is, it must cost one datagram, not the service
            self._begin_anew(np.unique(session[picked]))
            if len(picked) == 1:
                self.shared.sessions.problems[session[picked[0]], Reason.INTERNAL] += np.uint64(1)
                return
            half = len(picked) // 2
            self._contain(decode, batch, picked[:half], session, into)
            self._contain(decode, batch, picked[half:], session, into)
            return
        into.flows.extend(part.flows)
        into.counters.extend(part.counters)
        into.drops.extend(part.drops)
        into.inventory.extend(part.inventory)
        into.problems.extend(part.problems)

    def _begin_anew(self, numbers: NDArray[np.int64]) -> None:
        """Forget which datagrams of these streams were seen; their templates and totals stay."""
        self.shared.sessions.ring[numbers] = 0
        self.shared.sessions.sequence[numbers] = 0
        for part in self._parts.values():
            part.begin_anew(numbers)

    def _make_room(self, batch: Datagrams) -> None:
        """Forget the streams of least standing before their table is full."""
        sessions, limits = self.shared.sessions, self.shared.limits
        if len(batch) == 0:
            return
        known = int(sessions.count[0] - sessions.count[1])
        if known <= limits.sessions - limits.sessions // 8:
            return
        found = standing(sessions, int(batch.time_received_us.max()))
        gone = found.numbers[: max(0, known - 1 - limits.sessions * 3 // 4)]
        self._count_forgotten(gone)
        self.forget(gone)

    def _count_forgotten(self, numbers: NDArray[np.int64]) -> None:
        stats = self.shared.sessions.stats[numbers]
        gave = int(np.count_nonzero(stats[:, S_RECORDS] + stats[:, S_COUNTER_RECORDS]))
        self.forgotten_exporters += gave
        self.forgotten_strangers += len(numbers) - gave

    def forget(self, numbers: NDArray[np.int64]) -> None:
        """Drop these streams with all their state; if they return, they start as new ones."""
        for part in self._parts.values():
            part.forget(numbers)
        forget(self.shared.sessions, numbers)

    def _apply_rules(self, numbers: NDArray[np.int64]) -> None:
        """Copy the operator's rules for the senders of these sessions into the state that kernels read."""
        stats = self.shared.sessions.stats
        stats[numbers, S_RULED] = 1
        numbers = numbers[numbers != 0]
        address = self.shared.sessions.key[numbers, :2]
        first = self._first.first(address)
        versions = self.shared.sessions.key[numbers, 2] >> np.uint64(48)
        for version, table in self._first_of.items():
            of_it = versions == version
            first[of_it] = table.first(address[of_it])
        stats[numbers, S_DENIED] = self._denied[first]
        stats[numbers, S_OVERRIDE_RATE] = self._rates[first]
        stats[numbers, S_NAMED] = self._named.first(address) != NONE


def _of_version(rules: tuple[ExporterRule, ...], version: int) -> RuleTable:
    """Return the rules for all streams and for those of this version."""
    return RuleTable(rules, lambda rule: rule.version in (0, version))
