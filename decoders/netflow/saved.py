"""Templates and sampling rates as JSON-able data, so that a restarted collector decodes from the first datagram on.

The data is read from a file, which may be damaged or written by another program: everything is checked when it is read,
by the same rules as data off the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from decoders.jit import kernel
from decoders.limits import Limits
from decoders.netflow.plan import Template
from decoders.netflow.samplers import S_SCOPES, Samplers, announce
from decoders.netflow.sequence import SequenceOrder, stream_of
from decoders.netflow.templates import BadTemplateError, TemplateStore, check
from decoders.sessions import KEY_WORDS, S_DATAGRAMS, S_RECORDS, Sessions, find_session

FORMAT = 2
HOUR_US = 3_600_000_000
"""Resolution of the time when a template was last used: the file is written again whenever that changes."""


@kernel
def session_of(s, key):
    """Call `find_session` from outside kernels; `key` is [KEY_WORDS]."""
    return find_session(s, key[0], key[1], key[2], key[3], key[4])


@kernel
def announce_rate(samplers, s, orders, session, scope, number, rate):
    """Call `announce` from outside kernels; `number` is [1]."""
    announce(samplers, session, stream_of(orders, s, session), scope, number[0], rate)


def save_state(templates: TemplateStore, samplers: Samplers, sessions: Sessions) -> dict[str, object]:
    """Return what `load_state` takes.  Templates that are equal are written once.

    If there is little room left, streams that never sent a record are left out: made-up ones must not fill the table
    again after a restart.
    """
    count = int(sessions.count[0])
    announced = np.flatnonzero((samplers.used[:count] > 0) | (samplers.init_ms[:count] > 0)).tolist()
    stats = sessions.stats[:count]
    stranger = (stats[:, S_DATAGRAMS] > 0) & (stats[:, S_RECORDS] == 0) & templates.crowded
    numbers: dict[Template, int] = {}
    saved = []
    for session in sorted(set(templates.sessions()) | set(announced)):
        if sessions.key[session, 3] or stranger[session]:
            continue  # the templates of a connection end with it, and no connection survives a restart
        used = int(samplers.used[session])
        saved.append(
            {
                "key": sessions.key[session].tolist(),
                "templates": [
                    [number, numbers.setdefault(one, len(numbers)), templates.last_us(session, number) // HOUR_US]
                    for number, one in templates.of_session(session)
                ],
                "rates": [
                    [int(key >> 56), int(key & (1 << 56) - 1), rate]
                    for key, rate in zip(
                        samplers.key[session, :used].tolist(), samplers.rate[session, :used].tolist(), strict=True
                    )
                ],
                "init_ms": int(samplers.init_ms[session]),
            }
        )
    layouts = [{"version": t.version, "scopes": t.scopes, "fields": [list(f) for f in t.fields]} for t in numbers]
    return {"format": FORMAT, "layouts": layouts, "sessions": saved}


def load_state(
    state: object,
    templates: TemplateStore,
    samplers: Samplers,
    sessions: Sessions,
    orders: SequenceOrder,
    limits: Limits,
) -> int:
    """Load saved state, entry by entry; returns how many entries were refused.

    Raises ValueError if the whole is not such state.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise ValueError(f"not saved templates of format {FORMAT}")
    if not isinstance(state.get("sessions"), list) or not isinstance(state.get("layouts"), list):
        raise ValueError("saved templates without lists of sessions and layouts")
    layouts = [_layout(one, limits) for one in state["layouts"]]
    refused = layouts.count(None)
    for saved in state["sessions"]:
        try:
            key = _words(saved["key"], KEY_WORDS, 64)
            _check_key(key)
            lists = [_list(saved[name]) for name in ("templates", "rates")]
            init_ms = _number(saved["init_ms"], 52)
        except (TypeError, KeyError, ValueError):
            refused += 1
            continue
        session = int(session_of(sessions, np.array(key, np.uint64)))
        if session == 0:
            refused += 1
            continue
        samplers.init_ms[session] = init_ms
        version = key[2] >> 48
        refused += sum(not _load_template(one, version, session, templates, layouts) for one in lists[0])
        refused += sum(not _load_rate(one, session, samplers, sessions, orders) for one in lists[1])
    return refused


def _check_key(key: list[int]) -> None:
    """Raise ValueError if this is not a session key of NetFlow v9 or IPFIX over UDP."""
    if key[2] >> 48 not in (9, 10) or key[3] or key[4]:
        raise ValueError(f"not the key of a session that has templates: {key}")


def _layout(saved: Any, limits: Limits) -> Template | None:
    try:
        scopes = _number(saved["scopes"], 16)
        fields = tuple((a, b, c) for a, b, c in (_words(field, 3, 32) for field in _list(saved["fields"])))
        template = Template(_number(saved["version"], 8), scopes > 0, scopes, fields)
        check(template, limits)
    except (TypeError, KeyError, ValueError, BadTemplateError):
        return None
    return template


def _load_template(
    saved: Any, version: int, session: int, templates: TemplateStore, layouts: list[Template | None]
) -> bool:
    try:
        number, layout, hours = _words(saved, 3, 32)
    except (TypeError, ValueError):
        return False
    template = layouts[layout] if layout < len(layouts) else None
    if not 256 <= number < 65_536 or template is None or template.version != version:
        return False
    return not templates.announce(session, number, template, 0, hours * HOUR_US)[1]


def _load_rate(saved: Any, session: int, samplers: Samplers, sessions: Sessions, orders: SequenceOrder) -> bool:
    try:
        scope, number, rate = _words(saved, 3, 56)
    except (TypeError, ValueError):
        return False
    if rate > 0xFFFFFFFF or scope >= S_SCOPES:
        return False
    announce_rate(samplers, sessions, orders, session, scope, np.array([number], np.uint64), rate)
    return True


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _words(value: Any, count: int, bits: int) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"not {count} numbers")
    return [_number(word, bits) for word in value]


def _number(value: Any, bits: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
        raise ValueError(f"not a number of {bits} bits: {value!r}")
    return value
