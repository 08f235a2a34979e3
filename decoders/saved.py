"""Templates and sampling rates as JSON-able data, so that a restarted collector decodes from the first datagram on.

The data comes back from a file, which may be damaged or written by somebody else: everything is checked on its way in,
by the same rules as what comes off the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from decoders.jit import kernel
from decoders.limits import Limits
from decoders.plan import Template
from decoders.samplers import SLOTS, Samplers, announce
from decoders.sessions import KEY_WORDS, Sessions, find_session
from decoders.templates import BadTemplateError, TemplateStore, check

FORMAT = 1


@kernel
def session_of(s, key):  # type: ignore[no-untyped-def]
    """`find_session` for callers outside kernels; `key` is [KEY_WORDS]."""
    return find_session(s, key[0], key[1], key[2], key[3], key[4])


@kernel
def announce_rate(samplers, session, key, rate):  # type: ignore[no-untyped-def]
    """`announce` for callers outside kernels; `key` is [1]."""
    announce(samplers, session, key[0], rate)


def save_state(templates: TemplateStore, samplers: Samplers, sessions: Sessions) -> dict[str, object]:
    """What `load_state` takes."""
    count = int(sessions.count[0])
    announced = np.flatnonzero((samplers.used[:count] > 0) | (samplers.init_ms[:count] > 0)).tolist()
    saved = []
    for session in sorted(set(templates.sessions()) | set(announced)):
        if sessions.key[session, 3]:
            continue  # its templates end with the connection, and no connection survives a restart
        used = min(int(samplers.used[session]), SLOTS)
        saved.append(
            {
                "key": sessions.key[session].tolist(),
                "templates": [
                    {"id": number, "version": t.version, "scopes": t.scopes, "fields": [list(f) for f in t.fields]}
                    for number, t in templates.of_session(session)
                ],
                "samplers": [
                    [int(key), int(rate)]
                    for key, rate in zip(samplers.key[session, :used], samplers.rate[session, :used], strict=True)
                ],
                "init_ms": int(samplers.init_ms[session]),
            }
        )
    return {"format": FORMAT, "sessions": saved}


def load_state(state: object, templates: TemplateStore, samplers: Samplers, sessions: Sessions, limits: Limits) -> int:
    """Take saved state over, entry by entry; returns how many entries were refused.

    Raises ValueError if the whole is not such state.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT or not isinstance(state.get("sessions"), list):
        raise ValueError(f"not saved templates of format {FORMAT}")
    refused = 0
    for saved in state["sessions"]:
        try:
            key = _words(saved["key"], KEY_WORDS, 64)
            _check_key(key)
            lists = [_list(saved[name]) for name in ("templates", "samplers")]
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
        refused += sum(not _load_template(one, version, session, templates, limits) for one in lists[0])
        refused += sum(not _load_sampler(one, session, samplers) for one in lists[1])
    return refused


def _check_key(key: list[int]) -> None:
    """Raises ValueError for what is not the key of NetFlow v9 or IPFIX over UDP."""
    if key[2] >> 48 not in (9, 10) or key[3] or key[4]:
        raise ValueError(f"not the key of a session that has templates: {key}")


def _load_template(saved: Any, version: int, session: int, templates: TemplateStore, limits: Limits) -> bool:
    try:
        number = _number(saved["id"], 16)
        scopes = _number(saved["scopes"], 16)
        fields = tuple((a, b, c) for a, b, c in (_words(field, 3, 32) for field in _list(saved["fields"])))
        template = Template(_number(saved["version"], 8), scopes > 0, scopes, fields)
        check(template, limits)
    except (TypeError, KeyError, ValueError, BadTemplateError):
        return False
    if number < 256 or template.version != version:
        return False
    templates.announce(session, number, template, 0, 0)
    return True


def _load_sampler(saved: Any, session: int, samplers: Samplers) -> bool:
    try:
        key, rate = _words(saved, 2, 64)
    except (TypeError, ValueError):
        return False
    if rate > 0xFFFFFFFF:
        return False
    announce_rate(samplers, session, np.array([key], np.uint64), rate)
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
