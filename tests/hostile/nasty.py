"""Texts that harm those who show them as they are, and an opinion of its own about what may reach a screen."""

from __future__ import annotations

import unicodedata

NASTY = (
    "\x1b[31mred", "\x1b]0;owned\x07", "\x9b2Jcleared", "two\nlines", "over\rwritten", "tab\tbed", "nul\0nul",
    "del\x7f", "bidi\u202egpj.exe", "\u2066turned\u2069", "\u200frtl", "zero\u200bwidth", "bom\ufeffbom",
    "sep\u2028a\u2029b",
    "soft\u00adhyphen", "non\uffff\ufdd0\U0001fffe", "tag\U000e0041", "join\u200dnothing", "vs\ufe0fnothing",
    "'; DROP TABLE flows; --", "=cmd|'/c calc'!A0", "+1+cmd|x", "-2+cmd|x", "@SUM(1)", "a;=1+1", "<script>x</script>",
    "[bold red]rich[/]", "%s{0}{rule}", "x\r\nBcc: all@example.net", "-rf", "$(id) `id`", "back\\slash", "x" * 300,
)  # fmt: skip
SURROGATE = "half\ud800"
"""No UTF-8 can hold it, but JSON and what libraries return can."""
PEACEFUL = ("web-1", "虚拟机一号", "Zürich é", "👩🏽\u200d💻 ❤\ufe0f 1\ufe0f\u20e3", "DOMAIN\\host", "a=b; c", "０１")

_BANNED = {"Cc", "Cs", "Zl", "Zp"}
_INVISIBLE = frozenset(
    chr(code)
    for codes in (
        (0xAD, 0x61C, 0x200B, 0x200C, 0xFEFF),
        range(0x200E, 0x2010),
        range(0x202A, 0x202F),
        range(0x2060, 0x2070),
        range(0xFDD0, 0xFDF0),
        range(0xE0000, 0xE1000),
    )
    for code in codes
)


def harmless(text: str, but: str = "") -> bool:
    """Whether nothing in `text` but the signs of `but` steers a terminal or the eye."""
    return not [
        sign
        for sign in text
        if sign not in but
        and (unicodedata.category(sign) in _BANNED or sign in _INVISIBLE or ord(sign) & 0xFFFF >= 0xFFFE)
    ]
