"""How the kernels of the sums are compiled: as those of the decoders, cached under the digest of their own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba

from decoders import jit

kernel = jit.kernel_of(Path(__file__).parent)
"""Compile and cache a function of this folder."""


def unchecked(function: jit.Compiled) -> jit.Compiled:
    """As `jit.forced`, but an index into an array is not checked, which takes a third of the time of `plan.py`.

    Only for functions that read columns (`Rows`) at a row's number: `PairSums` has seen that all have that many rows.
    """
    compiler: Any = numba.njit  # its stubs do not know all options
    compiled: jit.Compiled = compiler(nogil=True, error_model="numpy", _nrt=False, forceinline=True)(function)
    return compiled
