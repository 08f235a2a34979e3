"""NetFlow v9 and IPFIX: the decoder that joins templates, held data, sequence numbers and the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoders.datagrams import Datagrams, address_text
from decoders.errors import Reason
from decoders.netflow import data_sets, messages
from decoders.netflow.fields import C_INIT_MS, C_RECEIVED_US, C_SESSION, C_VERSION
from decoders.netflow.messages import A_HEAD, expire, forget_held, held_since, new_held, share, waiting
from decoders.netflow.samplers import forget_rates, new_samplers
from decoders.netflow.saved import load_state, save_state
from decoders.netflow.sequence import begin_orders_anew, forget_orders, new_orders
from decoders.netflow.siblings import Siblings
from decoders.netflow.templates import TemplateStore, digest_of, parse_record
from decoders.netflow.totals import new_totals
from decoders.rows import Rows, batch, unclear_rows
from decoders.sessions import S_HELD_BYTES, S_LAST_SEEN_US
from decoders.shared import Decoded, Shared
from schemas.flows import FLOWS

_SPARE_ROWS = 64
"""Rows in addition to those that the known templates need: a first datagram seldom has more."""
LEAST_FILLED = 4
MUCH_ROOM = 4_096
"""Rows are copied to smaller arrays if there is much room and less than a quarter of it is filled: records of varying
length may be much longer than the least, and a batch that is kept keeps all of its room."""


class SetsDecoder:
    """Decodes NetFlow v9 and IPFIX datagrams; keeps what exporters announced between batches."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._limits = shared.limits
        self.templates = TemplateStore(shared.limits, shared.sessions)
        self.samplers = new_samplers(shared.limits)
        self.held = new_held(shared.limits)
        self.totals = new_totals(shared.limits)
        self._orders = new_orders(shared.limits)

    def decode(self, datagrams: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64]) -> Decoded:
        """Return the rows of the `picked` datagrams, in order; `session` is [len(datagrams)]."""
        decoded = Decoded()
        if len(picked) == 0:
            return decoded
        with np.errstate(over="ignore"):  # hashes wrap; numpy warns of it where kernels are not compiled
            now_us = int(datagrams.time_received_us[picked].max())
            expire(self.held, self._shared.sessions, now_us, self._limits.held_seconds * 1_000_000)
            self.templates.expire(now_us)
            _Pass(self, self._shared, datagrams, picked, session, decoded).run()
        return decoded

    def known(self) -> messages.Known:
        """Return the arrays as they are now: they are replaced when they grow."""
        return messages.Known(
            self._shared.sessions,
            self._shared.names,
            self.templates.table,
            self.templates.pool.arrays,
            self.samplers,
            self.held,
            self._orders,
            self.totals,
        )

    def export_state(self) -> dict[str, object]:
        """Return templates and sampling rates as JSON-able data, for `import_state` after the collector restarts."""
        return save_state(self.templates, self.samplers, self._shared.sessions)

    def import_state(self, state: object) -> int:
        """Load what `export_state` returned; returns how many entries were refused as damaged or out of bounds.

        Raises ValueError, with nothing loaded, if it is not such state at all.
        """
        with np.errstate(over="ignore"):
            sessions = self._shared.sessions
            return load_state(state, self.templates, self.samplers, sessions, self._orders, self._limits)

    def begin_anew(self, numbers: NDArray[np.int64]) -> None:
        """Forget which datagrams of these sessions were seen."""
        begin_orders_anew(self._orders, numbers)

    def forget(self, numbers: NDArray[np.int64]) -> None:
        """Forget what these sessions announced and their sequence numbers.

        They have ended, or their numbers will be used for other exporters.
        """
        with np.errstate(over="ignore"):
            for number in numbers.tolist():
                self.templates.drop_session(number)
            forget_held(self.held, self._shared.sessions, numbers)
            forget_rates(self.samplers, numbers, forget_orders(self._orders, numbers))

    def describe_templates(self) -> Iterator[dict[str, Any]]:
        """Yield one dictionary per template: who announced it, and its fields in the notation of the registry."""
        key = self._shared.sessions.key
        for session in self.templates.sessions():
            high, low, stream = (int(word) for word in key[session, :3])
            for number, template in self.templates.of_session(session):
                yield {
                    "exporter": address_text(high << 64 | low),
                    "port": stream >> 32 & 0xFFFF,
                    "domain": stream & 0xFFFFFFFF,
                    "version": template.version,
                    "id": number,
                    "options": template.options,
                    "scopes": template.scopes,
                    "fields": template.describe(),
                }


class _Pass:
    """One batch on its way through the kernels."""

    def __init__(
        self,
        decoder: SetsDecoder,
        shared: Shared,
        datagrams: Datagrams,
        picked: NDArray[np.int64],
        session: NDArray[np.int64],
        decoded: Decoded,
    ) -> None:
        self._decoder = decoder
        self._shared = shared
        self._decoded = decoded
        self._batch = messages.Batch(
            datagrams.octets,
            datagrams.start,
            datagrams.length,
            datagrams.time_received_us,
            np.ascontiguousarray(picked, np.int64),
            session,
        )
        self._work = messages.new_work(shared.limits, shared.sessions, shared.domain_in_key)
        self._work.caps[1] = share(decoder.held, shared.limits)
        self._waiting = np.zeros(0, np.int64)
        self._plan = 0
        self._left = 0
        self._estimate()
        self._rows = self._more_rows(0)

    def run(self) -> None:
        """Walk the batch to its end, then decode data whose template is known from other ports of its exporter."""
        state = self._work.state
        head = int(self._decoder.held.state[A_HEAD])
        self._walk()
        if int(self._decoder.held.state[A_HEAD]) != head:
            for session, number in self._adopt(head):
                self._release(session, number)
                self._walk()
        state[messages.W_ROW0] = state[messages.W_ROWS]
        self._flush(int(state[messages.W_ROWS]), -1)
        count = int(state[messages.W_PROBLEMS])
        if count:
            self._decoded.problems.append(self._work.log[:count].copy())

    def _walk(self) -> None:
        state = self._work.state
        known = self._decoder.known()
        while True:
            code = data_sets.walk(self._batch, self._work, known, self._rows, self._waiting, self._plan)
            if code == messages.I_ROWS:
                self._estimate()
                self._flush(int(state[messages.W_ROW0]), int(state[messages.W_NEED]))
            elif code == messages.I_TEMPLATE:
                self._template()
                known = self._decoder.known()
            elif code == messages.I_WITHDRAWAL:
                self._withdraw()
            elif code == messages.I_RESTART:
                self._restart()
            else:
                break

    def _adopt(self, since: int) -> list[tuple[int, int]]:
        """Copy the templates that sets held since a position of the queue wait for; returns session and id of each."""
        decoder, sessions = self._decoder, self._shared.sessions
        siblings = Siblings(sessions, decoder.templates)
        adopted = []
        for session, number, octets in held_since(decoder.held, since):
            now_us = int(sessions.stats[session, S_LAST_SEEN_US])
            found = siblings.template(session, number, octets, now_us)
            if found is not None:
                template, digest, when = found
                _, gave_way = decoder.templates.announce(session, number, template, digest, when)
                if gave_way:
                    sessions.problems[session, Reason.TEMPLATE_LIMIT] += np.uint64(1)
                adopted.append((session, number))
        return adopted

    def _estimate(self) -> None:
        """Estimate how many rows the rest of the batch gives, by the templates known now."""
        known = self._decoder.known()
        rest = self._batch._replace(picked=self._batch.picked[int(self._work.state[messages.W_DATAGRAM]) :])
        self._left = int(data_sets.rows_wanted(rest, known.table, known.plans)) + _SPARE_ROWS

    def _more_rows(self, need: int) -> Rows:
        capacity = max(need, min(self._left, self._shared.limits.rows_per_batch))
        return unclear_rows(FLOWS, capacity)

    def _flush(self, keep_from: int, need: int) -> None:
        """Hand out the rows up to `keep_from`; those after it move to new arrays with room for `need` more.

        A message that turns out malformed takes its rows back, so they wait for its end.
        """
        state = self._work.state
        filled = int(state[messages.W_ROWS])
        if keep_from:
            names = self._shared.name_list.array()
            rows = self._rows
            if max(keep_from * LEAST_FILLED, MUCH_ROOM) < rows.u32.shape[1]:
                rows = unclear_rows(FLOWS, keep_from)
                _copy(self._rows, slice(0, keep_from), rows)
            self._decoded.flows.append(batch(FLOWS, rows, keep_from, names))
        if need < 0:
            return
        before = self._rows
        moved = filled - keep_from
        self._rows = self._more_rows(moved + need)
        _copy(before, slice(keep_from, filled), self._rows)
        state[messages.W_ROWS] = moved
        state[messages.W_ROW0] = 0

    def _template(self) -> None:
        """Keep the template record that the pass stopped at, and decode what waited for it."""
        state = self._work.state
        context = self._work.ctx
        at, end = int(state[messages.W_RECORD]), int(state[messages.W_RECORD_END])
        octets = self._batch.octets
        version, session = int(context[C_VERSION]), int(context[C_SESSION])
        options = self._options()
        number, template = parse_record(octets[at:end].tobytes(), version, options)
        digest = int(digest_of(octets, at, end, version, int(options)))
        store = self._decoder.templates
        changed, gave_way = store.announce(session, number, template, digest, int(context[C_RECEIVED_US]))
        problems = self._shared.sessions.problems
        if changed:
            problems[session, Reason.TEMPLATE_CHANGED] += np.uint64(1)
        if gave_way:
            problems[session, Reason.TEMPLATE_LIMIT] += np.uint64(1)
        state[messages.W_RECORD] = end
        if self._shared.sessions.stats[session, S_HELD_BYTES]:
            self._release(session, number)

    def _withdraw(self) -> None:
        """Drop what the withdrawal at which the pass stopped names (RFC 7011 section 8.1), or a malformed template."""
        state = self._work.state
        at, session = int(state[messages.W_RECORD]), int(self._work.ctx[C_SESSION])
        number = int.from_bytes(self._batch.octets[at : at + 2].tobytes(), "big")
        if state[messages.W_DOUBT]:
            self._decoder.templates.forget(session, number)
            state[messages.W_DOUBT] = 0
        elif not self._decoder.templates.withdraw(session, number, self._options()):
            self._shared.sessions.problems[session, Reason.WITHDRAWAL] += np.uint64(1)
        state[messages.W_RECORD] = state[messages.W_RECORD_END]

    def _restart(self) -> None:
        """Drop what the restarted exporter at which the pass stopped had announced before, and its waiting data."""
        decoder, session = self._decoder, int(self._work.ctx[C_SESSION])
        alone = np.array([session])
        forget_held(decoder.held, self._shared.sessions, alone)
        if self._work.ctx[C_VERSION] == 9:
            decoder.templates.drop_session(session)
            forget_rates(decoder.samplers, alone, alone[:0])
            self._work.ctx[C_INIT_MS] = 0

    def _options(self) -> bool:
        """Return whether the pass stopped in a set of options templates."""
        return int(self._batch.octets[self._work.state[messages.W_SET] + 1]) in (1, 3)

    def _release(self, session: int, number: int) -> None:
        """Make the pass begin with what waited for this template."""
        plan = self._decoder.templates.plan_of(session, number)
        if plan is not None:
            self._plan = plan
            self._waiting = waiting(self._decoder.held, session, number)
            self._work.state[messages.W_RELEASED] = 0


def _copy(rows: Rows, which: slice, to: Rows) -> None:
    """Copy some rows to the beginning of other arrays."""
    for group in range(5):
        to[group][:, : which.stop - which.start] = rows[group][:, which]
    to.cleared[0] = max(to.cleared[0], which.stop - which.start)
