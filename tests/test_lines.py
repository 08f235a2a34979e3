"""JSON and CSV lines: read back by others' readers, harmless to look at, and no formula for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.lines import csv_lines, json_text
from schemas.text import visible
from tests.hostile.nasty import NASTY, PEACEFUL, SURROGATE, harmless

ANY = st.text(st.characters(), max_size=30)


@pytest.mark.parametrize("text", [*NASTY, *PEACEFUL])
def test_json_loses_nothing(text: str) -> None:
    line = json_text({text: [text]})

    assert harmless(line)
    assert json.loads(line) == {text: [text]}


def test_json_has_no_half_pairs_and_no_numbers_that_it_does_not_know() -> None:
    line = json_text({"a": SURROGATE, "b": [math.inf, {"c": math.nan}], "d": 1.5}, compact=True)

    assert line == '{"a":"half\\ufffd","b":[null,{"c":null}],"d":1.5}'
    assert json_text({"a": "名"}, indent=2) == '{\n  "a": "名"\n}'


@given(ANY)
def test_any_json_is_one_harmless_line(text: str) -> None:
    line = json_text([text])

    assert harmless(line)
    assert json.loads(line) == ["".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1+cmd|x", "'+1+cmd|x"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "  '=1"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("＝1", "'＝1"),
        ("a;=1+1", "a;'=1+1"),
        ("-5", "-5"),
        ("+1.5e-3", "+1.5e-3"),
        (-5, "-5"),
        (-1.5, "-1.5"),
        (None, ""),
        (True, "True"),
        ("two\nlines", "two\\nlines"),
        ('say "x", y', 'say "x", y'),
        ("名 é", "名 é"),
        (["=1", "b"], "['=1', 'b']"),
    ],
)
def test_cells(cell: object, written: str) -> None:
    lines = csv_lines([["name", "n"], [cell, 7]])

    assert list(csv.reader(io.StringIO(lines, newline=""))) == [["name", "n"], [written, "7"]]
    assert len(lines.splitlines()) == 2


@given(st.lists(ANY, min_size=1, max_size=4))
def test_any_row_is_one_harmless_line_and_no_cell_a_formula(cells: list[str]) -> None:
    lines = csv_lines([cells, [1]])

    assert harmless(lines, but="\n")
    first, second = csv.reader(io.StringIO(lines, newline=""))
    assert second == ["1"]
    assert [cell.replace("'", "") for cell in first] == [visible(cell).replace("'", "") for cell in cells]
    for cell in first:
        assert not cell.lstrip().startswith(("=", "@"))
