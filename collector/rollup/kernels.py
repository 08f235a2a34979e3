"""How the kernels of the sums are compiled: as those of the decoders, cached under the digest of their own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba

import schemas.burst_feed
import schemas.flow_feed
import schemas.flows
import schemas.rollups
from decoders import jit

_HERE = Path(__file__).parent
_SOURCES = [_HERE / f"{name}.py" for name in ("tables", "lookup", "plan", "bursts", "links", "loop")]
_CONSTANTS = (schemas.flows, schemas.flow_feed, schemas.burst_feed, schemas.rollups, jit)

kernel = jit.kernel_of(*_SOURCES, *(Path(str(module.__file__)) for module in _CONSTANTS))
"""Compile and cache a function of these modules; add a module's name above when its code or constants get into one."""


def unchecked(function: jit.Compiled) -> jit.Compiled:
    """As `jit.forced`, but an index into an array is not checked, which takes a third of the time of `plan.py`.

    Only for functions that read columns (`Rows`) at a row's number: `PairSums` has seen that all have that many rows.
    """
    compiler: Any = numba.njit  # its stubs do not know all options
    compiled: jit.Compiled = compiler(nogil=True, error_model="numpy", _nrt=False, forceinline=True)(function)
    return compiled
