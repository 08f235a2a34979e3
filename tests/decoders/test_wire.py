"""Moves of columns: they read and write what they should, and nothing outside of the arrays."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import numpy as np
import pytest
from numpy.typing import NDArray

from decoders import wire
from decoders.jit import inline, kernel
from tests.decoders.support import uncounted

MOVES = {1: wire.move8, 2: wire.move16, 4: wire.move32, 8: wire.move64, 6: wire.move_mac}
OCTETS = np.random.default_rng(7).integers(1, 256, 1_000, np.uint8)


def called(move: Callable[..., None]) -> Callable[..., None]:
    """A kernel around a part of kernels."""

    @uncounted
    @kernel
    def around(octets, at, stride, n, target, column, first, step):  # type: ignore[no-untyped-def]
        move(octets, at, stride, n, target, column, first, step)

    return around  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", MOVES)
def test_numbers_go_where_they_belong_and_nowhere_else(size: int) -> None:
    kind = np.uint64 if size > 4 else np.uint32
    rows = np.zeros((3, 50), kind)

    called(MOVES[size])(OCTETS, 3, 53, 7, rows, 1, 4, 2)

    expected = np.zeros_like(rows)
    for k in range(7):
        expected[1, 4 + 2 * k] = int.from_bytes(OCTETS[3 + 53 * k :][:size].tobytes(), "big")
    np.testing.assert_array_equal(rows, expected)


def test_a_column_that_is_as_wide_as_the_number() -> None:
    rows = np.zeros((2, 5), np.uint16)

    called(wire.move16)(OCTETS, 0, 2, 5, rows, 1, 0, 1)

    assert rows[1].tolist() == np.frombuffer(OCTETS[:10].tobytes(), ">u2").tolist()


def test_ipv4_addresses_become_mapped_ones() -> None:
    rows = np.full((2, 8, 2), 99, np.uint64)

    called(wire.move_ipv4)(OCTETS, 10, 20, 3, rows, 1, 2, 2)

    for k in range(3):
        address = ip_address(OCTETS[10 + 20 * k :][:4].tobytes())
        assert ip_address(rows[1, 2 + 2 * k].tobytes()) == ip_address(f"::ffff:{address}")
        assert rows[1, 3 + 2 * k].tolist() == [99, 99]
    assert (rows[0] == 99).all()
    assert (rows[1, :2] == 99).all()


@pytest.mark.parametrize(
    "arguments",
    [
        (-1, 10, 5, 0, 0, 1),  # before the octets
        (997, 0, 1, 0, 0, 1),  # the last number ends behind them
        (0, 333, 4, 0, 0, 1),  # so does the fourth
        (600, -200, 4, 0, 0, 1),
        (0, 10, 5, -1, 0, 1),  # no such column
        (0, 10, 5, 2, 0, 1),
        (0, 10, 5, 0, -1, 1),  # before the rows
        (0, 10, 5, 0, 4, 1),  # behind them
        (0, 10, 5, 0, 0, 2),
        (0, 10, 5, 0, 7, -1),
    ],
)
@pytest.mark.parametrize("words", [1, 2])
def test_what_is_outside_of_the_arrays_is_refused_before_anything_moves(arguments: tuple[int, ...], words: int) -> None:
    rows: NDArray[np.uint64] = np.zeros((2, 8) if words == 1 else (2, 8, 2), np.uint64)
    move = wire.move32 if words == 1 else wire.move_ipv4
    at, stride, n, *place = arguments

    with pytest.raises(IndexError, match="outside"):
        called(move)(OCTETS, at, stride, n, rows, *place)
    assert not rows.any()


@inline
def less(number, by):  # type: ignore[no-untyped-def]
    return number - np.uint64(by)


_less = wire.converter(2, less)


@uncounted
@kernel
def converted(octets, at, n, target, by):  # type: ignore[no-untyped-def]
    _less(octets, at, 3, n, target, 1, 2, 2, by)


def test_numbers_are_converted_on_their_way() -> None:
    rows = np.zeros((2, 20), np.uint64)

    converted(OCTETS, 10, 4, rows, 7)

    expected = np.zeros_like(rows)
    for k in range(4):
        expected[1, 2 + 2 * k] = int.from_bytes(OCTETS[10 + 3 * k :][:2].tobytes(), "big") - 7
    np.testing.assert_array_equal(rows, expected)
    for at, n in ((998, 2), (0, 10)):
        with pytest.raises(IndexError, match="outside"):
            converted(OCTETS, at, n, rows, 7)
    np.testing.assert_array_equal(rows, expected)


def test_none_to_move_is_no_mistake() -> None:
    rows = np.zeros((1, 1), np.uint64)

    called(wire.move64)(OCTETS, 5_000, 8, 0, rows, 0, 3, 1)

    assert not rows.any()


@uncounted
@kernel
def filled(target, first, count, value, step):  # type: ignore[no-untyped-def]
    wire.fill(target, first, count, value, step)


@uncounted
@kernel
def bits_of(source, first, count):  # type: ignore[no-untyped-def]
    return wire.any_bits(source, first, count)


def test_a_run_is_filled_and_nothing_beside_it() -> None:
    rows = np.zeros((2, 8), np.uint64)

    filled(rows, 9, 3, 7, 2)
    filled(rows, 16, 0, 7, 1)

    assert rows.ravel().nonzero()[0].tolist() == [9, 11, 13]
    assert bits_of(rows, 8, 8) == 7
    assert bits_of(rows, 0, 9) == 0


@pytest.mark.parametrize(("first", "count", "step"), [(-1, 1, 1), (0, -1, 1), (15, 2, 1), (10, 4, 2), (3, 1, 0)])
def test_a_run_is_within_the_array(first: int, count: int, step: int) -> None:
    rows = np.zeros((2, 8), np.uint64)

    with pytest.raises(IndexError):
        filled(rows, first, count, 1, step)
    if step == 1:
        with pytest.raises(IndexError):
            bits_of(rows, first, count)
    assert not rows.any()
