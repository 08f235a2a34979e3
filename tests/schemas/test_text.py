"""The rule for text of others: what stays, what becomes an escape, and that no two names become one."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.text import clean, cleaned, sql_literal, visible
from tests.hostile.nasty import NASTY, PEACEFUL, SURROGATE, harmless

ANY = st.text(st.characters(), max_size=40)
"""Halves of surrogate pairs, too."""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ev\x1b[31mil\n", "ev\\x1b[31mil"),
        ("a\tb\r\nc", "a\\tb\\r\\nc"),
        ("\x9b2J\x7f", "\\u009b2J\\x7f"),
        ("a\u202eb\u2066\u200b\ufeff\u2028", "a\\u202eb\\u2066\\u200b\\ufeff"),
        ("\ud800x\uffff\U000e0041", "\\ud800x\\uffff\\U000e0041"),
        ("a\u200db x\ufe0f", "a\\u200db x\\ufe0f"),
        ("\0 padded \u3000\0", "padded"),
        (b"eth0\0\0", "eth0"),
        (b"\xd6\xffa", "\\xd6\\xffa"),
        (b"", ""),
    ],
)
def test_what_becomes_of_a_text(given: str | bytes, kept: str) -> None:
    assert clean(given) == kept


@pytest.mark.parametrize("text", PEACEFUL)
def test_what_people_write_stays(text: str) -> None:
    assert clean(text) == text
    assert clean(text.encode()) == text


@pytest.mark.parametrize("text", [*NASTY, SURROGATE])
def test_nasty_texts_are_harmless_afterwards(text: str) -> None:
    assert harmless(clean(text))
    assert harmless(visible(text))
    assert harmless(sql_literal(text))
    assert len(clean(text)) <= 255


def test_a_long_text_is_cut_and_stays_itself() -> None:
    one, other = clean("x" * 300), clean("x" * 299 + "y")

    assert (len(one), len(other)) == (255, 255)
    assert one[:247] == other[:247] == "x" * 246 + "…"
    assert one != other
    assert len(clean("\u202e" * 1000).encode()) <= 4 * 255
    assert clean("👩\u200d👩" * 100, 20).encode()


@given(ANY)
def test_whatever_comes_is_harmless_and_cleaning_twice_is_cleaning_once(text: str) -> None:
    kept = clean(text)

    assert harmless(kept)
    assert clean(kept) == kept
    assert clean(kept.encode()) == kept


@given(st.binary(max_size=60))
def test_whatever_bytes_come_are_harmless(octets: bytes) -> None:
    assert harmless(clean(octets))


@given(ANY, ANY)
def test_two_names_do_not_become_one(one: str, other: str) -> None:
    """But for what is at the ends, and for who writes the escapes by hand."""
    assume("\\" not in one + other)
    assert (visible(one) == visible(other)) == (one == other)


def test_all_that_unicode_calls_a_control_is_escaped() -> None:
    kept = [sign for sign in map(chr, range(0x110000)) if sign == visible(sign)]
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

    assert not [sign for sign in kept if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")]
    assert not [sign for sign in kept if unicodedata.bidirectional(sign) in directions]
    # Of letters, digits and signs only those without a shape are touched: fillers of Hangul.
    touched = set(map(chr, range(0x110000))).difference(kept)
    assert {sign for sign in touched if unicodedata.category(sign)[0] in "LNPS"} == set("\u115f\u1160\u3164\uffa0")


def test_what_was_changed_is_counted_once() -> None:
    before = cleaned()
    for _ in range(3):
        clean("counted\x1b one")
        clean(b"counted\xff two")
        clean("not counted 名")

    assert cleaned() == before + 2


def test_a_literal_means_the_text() -> None:
    assert sql_literal("o'neil\\ \x1b\u202e") == r"'o\'neil\\ \x1b\xe2\x80\xae'"
