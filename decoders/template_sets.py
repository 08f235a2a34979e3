"""Template sets: the records of a set, checked one by one, and which of them are new (RFC 7011 section 3.4)."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.fields import C_RECEIVED_US, C_SESSION, C_VERSION
from decoders.frames import I_DONE, I_TEMPLATE, I_WITHDRAWAL, W_DOUBT, W_RECORD, W_RECORD_END, W_TEMPLATES, problem
from decoders.jit import forced, inline
from decoders.sessions import S_TEMPLATES, over_stream
from decoders.templates import digest_record, find_template
from decoders.wire import all_zero, u16


@inline
def template_record(octets, at, end, version, options, most):  # type: ignore[no-untyped-def]
    """Check one template record.  Returns (its end, −1 if it has none; reason, −1 if it is sound)."""
    none = np.int64(-1)
    if version == 9:
        if options:
            if at + 6 > end:
                return none, Reason.TEMPLATE_MALFORMED.value
            scope = u16(octets, at + 2)
            other = u16(octets, at + 4)
            first = at + 6
            if (scope | other) & 3 != 0 or first + scope + other > end:
                return none, Reason.TEMPLATE_MALFORMED.value
            count = (scope + other) // 4
            if scope == 0:
                return first + other, Reason.TEMPLATE_SCOPE.value
        else:
            count = u16(octets, at + 2)
            first = at + 4
            if first + 4 * count > end:
                return none, Reason.TEMPLATE_MALFORMED.value
    else:
        count = u16(octets, at + 2)
        first = at + 4
        if options:
            first = at + 6
            if first > end:
                return none, Reason.TEMPLATE_MALFORMED.value
    if count == 0:
        return first, Reason.TEMPLATE_MALFORMED.value
    least = np.int64(0)
    here = first
    for _ in range(count):
        if here + 4 > end:
            return none, Reason.TEMPLATE_MALFORMED.value
        size = u16(octets, here + 2)
        least += 1 if size == 65_535 else size
        here += 8 if version == 10 and (octets[here] & 0x80) != 0 else 4
        if here > end:
            return none, Reason.TEMPLATE_MALFORMED.value
    if version == 10 and options:
        scopes = u16(octets, at + 4)
        if scopes == 0 or scopes > count:
            return here, Reason.TEMPLATE_SCOPE.value
    if count > most:
        return here, Reason.TEMPLATE_FIELDS.value
    if least == 0:
        return here, Reason.TEMPLATE_EMPTY.value
    return here, -1


@forced
def withdraws(k, session, number):  # type: ignore[no-untyped-def]
    """True if a withdrawal of this number (below 256: of all) can have an effect: over UDP none has (RFC 7011, 8.4)."""
    if not over_stream(k.sessions, session):
        return False
    if number < 256:
        return k.sessions.stats[session, S_TEMPLATES] != 0
    return find_template(k.table, session, number) >= 0


@forced
def walk_templates(b, w, k, options, set_end):  # type: ignore[no-untyped-def]
    """Walk the records of a template set from W_RECORD.

    I_TEMPLATE if one of them is new or different, I_WITHDRAWAL if it withdraws what is known.
    """
    st = w.state
    octets = b.octets
    version = w.ctx[C_VERSION]
    at = st[W_RECORD]
    while at + 4 <= set_end:
        number = u16(octets, at)
        if version == 10 and u16(octets, at + 2) == 0 and (number >= 256 or number == 2 + options):
            if withdraws(k, w.ctx[C_SESSION], number):
                st[W_RECORD] = at
                st[W_RECORD_END] = at + 4
                return I_WITHDRAWAL
            problem(w, Reason.WITHDRAWAL.value, at, number)
            at += 4
            continue
        if number < 256:
            if not all_zero(octets, at, set_end):
                problem(w, Reason.TEMPLATE_MALFORMED.value, at, number)
            break
        record_end, reason = template_record(octets, at, set_end, version, options != 0, w.caps[0])
        if reason >= 0:
            problem(w, reason, at, number)
            if record_end < 0:
                record_end = set_end
            if find_template(k.table, w.ctx[C_SESSION], number) >= 0:
                # What follows has another layout, which nobody knows: the old one would make it nonsense.
                st[W_DOUBT] = 1
                st[W_RECORD] = at
                st[W_RECORD_END] = record_end
                return I_WITHDRAWAL
            at = record_end
            continue
        st[W_TEMPLATES] += 1
        digest = digest_record(octets, at, record_end, version, options)
        entry = find_template(k.table, w.ctx[C_SESSION], number)
        if entry < 0 or k.table.digest[entry] != digest:
            st[W_RECORD] = at
            st[W_RECORD_END] = record_end
            return I_TEMPLATE
        k.table.refreshed_us[entry] = w.ctx[C_RECEIVED_US]
        at = record_end
    st[W_RECORD] = 0
    return I_DONE
