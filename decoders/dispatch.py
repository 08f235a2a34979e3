"""The one entry to decoding: each datagram of a batch goes to the decoder of its version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decoders import warm
from decoders.datagrams import Datagrams
from decoders.decoder import (
    K_LEGACY,
    K_SETS,
    K_SFLOW,
    Decoded,
    Shared,
    assign_batch,
    new_shared,
    refuse_denied,
)
from decoders.errors import Reason
from decoders.legacy import LegacyDecoder
from decoders.limits import Limits
from decoders.sessions import S_DENIED, S_OVERRIDE_RATE, S_RULED, forget, in_use, of_connections, stale
from decoders.sets import SetsDecoder
from decoders.sflow import SflowDecoder

MAX_EXPRESSIBLE_RATE = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class ExporterRule:
    """What the operator says of the exporters in `network` (the first rule that matches counts)."""

    network: IPv6Network
    """IPv4 networks are given in their mapped form, `::ffff:192.0.2.0/120`."""
    allowed: bool = True
    sampling_rate: int = 0
    """One in this many packets, over whatever the exporter states; 0 = as the exporter states."""


class _Part(Protocol):
    def decode(self, batch: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64]) -> Decoded: ...

    def forget(self, numbers: NDArray[np.int64]) -> None: ...

    def begin_anew(self, numbers: NDArray[np.int64]) -> None: ...


class Decoder:
    """Decodes batches of datagrams of all protocols; keeps what one datagram needs of those before it.

    Not for two threads at once.  Time comes with the datagrams: the decoder has no clock.
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
        self._parts: dict[int, _Part] = {
            K_SFLOW: SflowDecoder(self.shared),
            K_LEGACY: LegacyDecoder(self.shared),
            K_SETS: self.sets,
        }
        self._rules = tuple(rules)
        self._saved = b""

    @property
    def rules(self) -> tuple[ExporterRule, ...]:
        """What the operator says of exporters; may be replaced between batches."""
        return self._rules

    @rules.setter
    def rules(self, rules: Iterable[ExporterRule]) -> None:
        self._rules = tuple(rules)
        for number in in_use(self.shared.sessions):
            self._apply_rules(int(number))

    def decode(self, batch: Datagrams) -> Decoded:
        """Decode one batch.  Never raises for what the octets hold: problems are counted by session and reason."""
        self._make_room(batch)
        kind, session = assign_batch(self.shared, batch)
        if self._rules:
            fresh = session[self.shared.sessions.stats[session, S_RULED] == 0]
            for number in np.unique(fresh):
                self._apply_rules(int(number))
            refuse_denied(self.shared.sessions, kind, session)
        decoded = Decoded()
        for code, part in self._parts.items():
            picked = np.flatnonzero(kind == code)
            if len(picked):
                self._contain(part.decode, batch, picked, session, decoded)
        self._end_connections(batch)
        return decoded

    def _end_connections(self, batch: Datagrams) -> None:
        """Forget the templates of connections that have ended (RFC 7011 section 8.1); what they counted stays.

        A number of a connection is never used again, so nothing of it can stand behind its end.
        """
        ended = batch.connection[(batch.length == 0) & (batch.connection != 0)]
        if len(ended):
            numbers = of_connections(self.shared.sessions, ended)
            if len(numbers):
                self.sets.forget(numbers)

    def warm_up(self) -> None:
        """Compile every kernel, or load it from the cache.  Takes minutes the first time, half a second later."""
        trial = Decoder(Limits(sessions=16, sources=64, templates=16))
        trial.decode(warm.datagrams())
        trial.load_state(trial.changed_state() or b"{}")
        trial.forget(in_use(trial.shared.sessions))

    def changed_state(self) -> bytes | None:
        """What must survive a restart (templates, sampler rates), or None if nothing changed since the last call."""
        state = json.dumps(self.sets.export_state(), separators=(",", ":")).encode()
        if state == self._saved:
            return None
        self._saved = state
        return state

    def load_state(self, state: bytes) -> None:
        """Take over what `changed_state` gave; wrong entries are left out.  Raises ValueError if it is damaged."""
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
        """Run one decoder; should it fail by a defect of ours, halve the batch until only the culprit is left out.

        The streams of a failed attempt begin anew, or its good datagrams would be taken for duplicates.  Their running
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
        """Forget streams before the table is full: those that never gave a record first, then the longest silent."""
        sessions = self.shared.sessions
        capacity = self.shared.limits.sessions
        if len(batch) == 0 or int(sessions.count[0] - sessions.count[1]) <= capacity - capacity // 8:
            return
        self.forget(stale(sessions, int(batch.time_received_us.max()), keep=capacity * 3 // 4))

    def forget(self, numbers: NDArray[np.int64]) -> None:
        """Drop these streams with all that is kept of them; should they come again, they begin anew."""
        for part in self._parts.values():
            part.forget(numbers)
        forget(self.shared.sessions, numbers)

    def _apply_rules(self, number: int) -> None:
        """Copy the operator's word on this session's sender into the state that kernels read."""
        sessions = self.shared.sessions
        sessions.stats[number, S_RULED] = 1
        if number == 0:
            return
        high, low = (int(word) for word in sessions.key[number, :2])
        address = IPv6Address(high << 64 | low)
        rule = next((rule for rule in self._rules if address in rule.network), None)
        sessions.stats[number, S_DENIED] = 0 if rule is None or rule.allowed else 1
        sessions.stats[number, S_OVERRIDE_RATE] = 0 if rule is None else min(rule.sampling_rate, MAX_EXPRESSIBLE_RATE)
