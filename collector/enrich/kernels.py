"""How the join's kernels are compiled: as those of the decoders, cached under the digest of their own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoders import jit

kernel = jit.kernel_of(Path(__file__).parent)
"""Compile and cache a function of this folder."""

trusting_kernel = jit.kernel_of(Path(__file__).parent, boundscheck=False)
"""The same without bounds checks, which cost naming a quarter of its time: whoever calls such a kernel makes sure,
with the functions below, that no index leads out of an array."""


def require_rows(what: str, count: int, *arrays: NDArray[Any]) -> None:
    """Raise ValueError unless all arrays have `count` rows."""
    if any(len(array) != count for array in arrays):
        raise ValueError(f"{what}: not all columns have {count} rows")


def require_within(what: str, count: int, *indices: NDArray[np.integer[Any]]) -> None:
    """Raise ValueError unless all indices are those of an array of `count`."""
    if any(len(array) and (array.min() < 0 or array.max() >= count) for array in indices):
        raise ValueError(f"{what}: not all indices are below {count}")
