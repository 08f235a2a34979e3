"""Templates that the ports of one Open vSwitch share.

Open vSwitch opens a new source port whenever its IPFIX settings are changed, but sends its templates from there only
when they are due again: up to 600 s later.  Until then, the templates that it sent from another port of the same
address and domain are valid.  Templates of other exporters are never shared: two programs of one host may use the same
numbers (RFC 7011 section 8).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decoders.netflow.plan import VARIABLE, Template
from decoders.netflow.templates import TemplateStore
from decoders.sessions import S_LAST_SEEN_US, Sessions

PORTS = 16
"""Ports of one address and domain that may have templates within `RECENT_US`: more means that ports are made up."""
RECENT_US = 600 * 1_000_000

LONG = 255
"""A first octet of this value means that two more hold the length (RFC 7011 section 7)."""

_PORT = np.uint64(0xFFFF << 32)
_COMMON = ((0, 138, 4), (0, 61, 1), (0, 56, 6), (0, 80, 6), (0, 256, 2), (0, 240, 1))
"""How every data template of Open vSwitch begins, since 2.4 (ofproto-dpif-ipfix.c)."""
_STATISTICS = ((0, 144, 4), (0, 167, 8))

Key = tuple[int, ...]


def of_open_vswitch(template: Template) -> bool:
    """Return whether only Open vSwitch announces such a template."""
    if template.version != 10:
        return False
    return template.fields == _STATISTICS if template.options else template.fields[: len(_COMMON)] == _COMMON


def fits(template: Template, octets: bytes) -> bool:
    """Return whether these octets are whole records of the template and nothing else: Open vSwitch does not pad.

    With other settings its templates may have one more field under the same number.
    """
    at = 0
    while at < len(octets):
        for _, _, size in template.fields:
            if size != VARIABLE:
                at += size
            elif at >= len(octets):
                return False
            elif octets[at] < LONG:
                at += 1 + octets[at]
            else:
                at += 3 + int.from_bytes(octets[at + 1 : at + 3], "big")
    return at == len(octets)


class Siblings:
    """The sessions that have templates now, by all of their key but the port."""

    def __init__(self, sessions: Sessions, store: TemplateStore) -> None:
        self._sessions = sessions
        self._store = store
        numbers = np.array(store.sessions(), np.int64)
        self._by_key: dict[Key, list[int]] = {}
        for number, key in zip(numbers.tolist(), self._keys(numbers), strict=True):
            self._by_key.setdefault(key, []).append(number)

    def _keys(self, numbers: NDArray[np.int64]) -> list[Key]:
        keys = self._sessions.key[numbers]
        keys[:, 2] &= ~_PORT
        return list(map(tuple, keys.tolist()))

    def template(self, session: int, number: int, octets: bytes, now_us: int) -> tuple[Template, int, int] | None:
        """Return the template that these octets wait for, as another port announced it; its digest, and when."""
        (key,) = self._keys(np.array([session], np.int64))
        others = self._by_key.get(key, [])
        seen = self._sessions.stats[others, S_LAST_SEEN_US].astype(np.int64)
        if int((seen > now_us - RECENT_US).sum()) >= PORTS:
            return None
        for index in np.argsort(-seen, kind="stable")[:PORTS].tolist():
            found = self._store.announced(others[index], number)
            if found is not None and of_open_vswitch(found[0]) and fits(found[0], octets):
                return found
        return None
