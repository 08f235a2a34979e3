"""How the join's kernels are compiled: as those of the decoders, cached under the digest of their own source."""

from __future__ import annotations

from pathlib import Path

import schemas.flows
from decoders import jit

_HERE = Path(__file__).parent
_SOURCES = [_HERE / f"{name}.py" for name in ("join", "lookup", "lookup_ports", "snapshot", "source")]

kernel = jit.kernel_of(*_SOURCES, Path(schemas.flows.__file__), Path(jit.__file__))
"""Compile and cache a function of these modules; add a module's name above when its code or constants get into one."""
