"""Text from outside: one rule for what is kept of it, when it comes in (`clean`) and when it is shown (`visible`).

Names, notes and messages come from the network, from other systems and from their tenants.  Some characters in them
control what shows them, a terminal or a log, or mislead the reader.  Each of these is written as a visible escape:

    \\t \\n \\r     tab and line ends
    \\x1b          other control characters below 0x80 (C0 and DEL); an octet that is not UTF-8
    \\u202e        C1 controls; direction marks; zero-width characters; line and paragraph separators; the byte order
                  mark; halves of surrogate pairs; noncharacters of Unicode
    \\U000e0041    the same beyond the Basic Multilingual Plane

Escapes rather than U+FFFD or nothing, since two names that differ only in these must not become one.  All else is
unchanged: Chinese, accents, emoji with their joiners and modifiers, and backslashes, so that cleaning twice is the same
as cleaning once.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

NAME_CHARACTERS = 255
"""Characters of a name that are kept: the limit of Nova, Neutron and of file names.  In UTF-8 at most 1,020 octets."""
_MARK_CHARACTERS = 9
"""Characters after a text that was cut: an ellipsis, and 8 digits of a digest of the whole."""

_EMOJI = "\u2190-\u2bff\U0001f000-\U0001faff"
HOSTILE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # invisible, or shown as a blank
    "\u061c\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"  # direction; no width
    "\u2028\u2029"  # line and paragraph separators
    "\ufe00-\ufe0e\ufeff\ufff0-\ufffb"  # variation selectors, byte order mark, annotations
    "\ud800-\udfff"  # halves of surrogate pairs
    "\ufdd0-\ufdef" + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17)) +
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # format controls of shorthand and music
    "\U000e0000-\U000e0fff"  # tags, more variation selectors
    "]"
    # Modifiers and joiners of emoji are kept there and nowhere else.
    f"|\ufe0f(?<![{_EMOJI}\u00a9\u00ae\u203c\u2049\u3030\u303d\u3297\u3299]\ufe0f)(?!\u20e3)"
    f"|\u200d(?:(?<![{_EMOJI}]\u200d)(?<![{_EMOJI}]\ufe0f\u200d)|(?![{_EMOJI}]))"
)  # fmt: skip
"""A character that is written as an escape."""
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_PADDING = "".join(sign for sign in map(chr, range(0x3001)) if sign.isspace()) + "\0"
"""Blanks, line ends and NULs: at the ends of a name they are unintended."""


def visible(text: str) -> str:
    """Return `text` in one line, with escapes for what would control a terminal or mislead; never shorter."""
    return text if text.isascii() and text.isprintable() else HOSTILE.sub(_escape, text)


def clean(text: str | bytes, most: int = NAME_CHARACTERS) -> str:
    """Return a text from outside without blanks at its ends, visible, and of up to `most` characters.

    A longer one is cut and ends in `…` and 8 digits of a digest of the whole, so that two of them remain different.
    `most` is at least 16.
    """
    given, right = (text, True) if isinstance(text, str) else _decoded(text)
    if right and len(given) <= most and given.isascii() and given.isprintable() and given == given.strip(" "):
        return given
    kept = _fit(visible(given.strip(_PADDING)), most)
    if not right or kept != given:
        _changed(given[:1024])
    return kept


def cleaned() -> int:
    """Return how many texts had to be changed since the process began; one that returns soon counts once."""
    return _changed.cache_info().misses


def sql_literal(text: str) -> str:
    """Return `text` as an SQL literal of ClickHouse: quoted, with escapes for what would control a terminal."""

    def octets(found: re.Match[str]) -> str:
        return "".join(f"\\x{octet:02x}" for octet in found[0].encode("utf-8", "replace"))

    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{HOSTILE.sub(octets, quoted)}'"


def like(pattern: str) -> str:
    """Return a pattern with `*` and `?` as one for SQL's LIKE."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    if sign in _SHORT:
        return _SHORT[sign]
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x1_0000 else f"\\U{code:08x}"


def _decoded(octets: bytes) -> tuple[str, bool]:
    """Return the text, and whether all of it was UTF-8."""
    try:
        return octets.decode(), True
    except UnicodeDecodeError:
        return octets.decode("utf-8", "backslashreplace"), False


@lru_cache(4096)
def _changed(text: str) -> None:
    """Do nothing: called with each changed text; the cache counts those it did not know, from any thread."""


def _fit(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    digest = sha256(text.encode("utf-8", "replace")).hexdigest()[: _MARK_CHARACTERS - 1]
    return f"{text[: most - _MARK_CHARACTERS].rstrip(_PADDING + chr(0x200D))}…{digest}"
