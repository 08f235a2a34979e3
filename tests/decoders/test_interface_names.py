"""Interning of names in kernels."""

from __future__ import annotations

import numpy as np

from decoders import interface_names
from decoders.interface_names import NameList, new_names
from decoders.jit import kernel
from decoders.limits import Limits
from tests.decoders.support import uncounted


@uncounted
@kernel
def intern(names, text, at, length):  # type: ignore[no-untyped-def]
    return interface_names.intern(names, text, at, length)


def octets(text: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(text), np.uint8)


def test_the_same_string_has_the_same_index_and_the_empty_one_has_0() -> None:
    names = new_names(Limits(names=8))
    text = octets(b"vnet1vnet2vnet1\0\0")

    assert [int(intern(names, text, at, 5)) for at in (0, 5, 10)] == [1, 2, 1]
    assert int(intern(names, text, 10, 7)) == 1
    assert int(intern(names, text, 15, 2)) == 0
    assert NameList(names).array().to_pylist() == ["", "vnet1", "vnet2"]


def test_the_list_grows_with_the_table_and_escapes_what_is_no_utf8() -> None:
    names = new_names(Limits(names=8))
    known = NameList(names)
    intern(names, octets(b"a"), 0, 1)
    assert known.array().to_pylist() == ["", "a"]
    intern(names, octets(b"\xff"), 0, 1)

    assert known.array().to_pylist() == ["", "a", "\\xff"]


def test_beyond_the_limits_names_are_empty_and_counted() -> None:
    names = new_names(Limits(names=4))
    text = octets(bytes(range(65, 91)) + b"x" * 300)

    indices = [int(intern(names, text, at, 1)) for at in range(10)]
    kept = [index for index in indices if index]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) == 4
    assert int(names.missed[0]) == 6
    assert int(intern(names, text, 26, 300)) == 0
    assert int(intern(names, text, 0, 1)) == 1
