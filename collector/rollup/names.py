"""Names and UUIDs as numbers of this process: batches bring dictionaries of their own.

Only what rows refer to is looked up, once per dictionary: an inventory has more names than a batch has rows.  That a
dictionary is known is told by the memory it lies in, which is held so that nothing else can come to lie there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.rollup.kernel import unknown_codes

MOST_DICTIONARIES = 64
"""Dictionaries that are remembered; a batch has two after the join, eight at most."""

UNKNOWN = -1


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

    def numbers(self, dictionary: pa.Array, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Number of each value of a dictionary, [values]; right for those that `codes` ([rows]) refer to.

        Raises IndexError for a code that the dictionary does not have.
        """
        place = _place(dictionary)
        known = self._known.get(place)
        if known is None:
            if len(self._known) >= MOST_DICTIONARIES:
                del self._known[next(iter(self._known))]
            known = self._known[place] = (dictionary, np.full(len(dictionary), UNKNOWN, np.int32))
        numbers = known[1]
        asked = np.empty(min(len(codes), len(numbers)), np.int32)
        try:
            found = asked[: unknown_codes(codes, numbers, asked)]
        except IndexError:
            del self._known[place]  # some codes are marked, and have no number
            raise
        if len(found):
            numbers[found] = [self.number(value) for value in dictionary.take(pa.array(found)).to_pylist()]
        return numbers

    def clear(self) -> None:
        """Forget all."""
        self._numbers.clear()
        self._known.clear()


def _place(array: pa.Array) -> tuple[int, ...]:
    """Where an array lies: what is at the same place with the same length is the same, as long as it is held."""
    return (array.offset, len(array), *(buffer.address if buffer is not None else 0 for buffer in array.buffers()))
