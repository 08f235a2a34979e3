"""Names and UUIDs as numbers of this process: batches bring dictionaries of their own.

Only what rows refer to is looked up, and once: an inventory has more names than a batch has rows.  That a
dictionary is known is told by the memory it lies in, which is held so that nothing else can come to lie there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.rollup.lookup import UNKNOWN, unknown_codes

MOST_DICTIONARIES = 64
"""Dictionaries that are remembered; a batch has two after the join, eight at most."""


class Names:
    """Numbers of the values of dictionaries of one type, from 0 in the order of their first use."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._numbers: dict[Any, int] = {}
        self._known: dict[tuple[int, ...], tuple[pa.Array, NDArray[np.int32]]] = {}

    def values(self) -> pa.Array:
        """All values by their numbers."""
        return pa.array(list(self._numbers), self._kind)

    def number(self, value: Any) -> int:
        """The number of one value."""
        return self._numbers.setdefault(value, len(self._numbers))

    def numbers(self, dictionary: pa.Array) -> NDArray[np.int32]:
        """Number of each value of a dictionary, [values]; `UNKNOWN` for those that nobody has asked for."""
        place = _place(dictionary)
        if place not in self._known:
            if len(self._known) >= MOST_DICTIONARIES:
                del self._known[next(iter(self._known))]
            self._known[place] = (dictionary, np.full(len(dictionary), UNKNOWN, np.int32))
        return self._known[place][1]

    def ask(self, dictionary: pa.Array, codes: NDArray[np.int32], numbers: NDArray[np.int32]) -> None:
        """Fill the `numbers` of a dictionary for all `codes` ([rows]).

        Raises IndexError, with nothing filled, for a code that the dictionary does not have.
        """
        asked = np.empty(min(len(codes), len(numbers)), np.int32)
        found = asked[: unknown_codes(codes, numbers, asked)]
        if len(found):
            known = self._numbers
            values = dictionary.take(pa.array(found)).to_numpy(zero_copy_only=False).tolist()  # faster than to_pylist()
            numbers[found] = [known.setdefault(value, len(known)) for value in values]

    def clear(self) -> None:
        """Forget all."""
        self._numbers.clear()
        self._known.clear()


def _place(array: pa.Array) -> tuple[int, ...]:
    """Where an array lies: what is at the same place with the same length is the same, as long as it is held."""
    return (array.offset, len(array), *(buffer.address if buffer is not None else 0 for buffer in array.buffers()))
