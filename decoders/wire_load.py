"""One machine load for a big-endian number: the reads that `decoders.wire` builds on.

Written as `octets[at] << 8 | octets[at + 1]`, a 32-bit read costs four bounds checks, and the compiler may not merge
the loads across them.  Here one check guards one unaligned load.  Without compilation the same is said in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from decoders.jit import inline


def _raw(bits: int) -> Any:
    """An unchecked load of `bits` from a C-contiguous array of octets, as uint64.  Only `loader` below may call it."""

    @intrinsic
    def load(_context: Any, octets: Any, _at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            place = builder.gep(array.data, [args[1]])
            value = builder.load(builder.bitcast(place, ir.IntType(bits).as_pointer()), align=1)
            swapped = builder.bswap(value)
            return swapped if bits == 64 else builder.zext(swapped, ir.IntType(64))

        return types.uint64(octets, types.int64), generate

    return load


def loader(size: int) -> Callable[..., np.uint64]:
    """A compiled reader of `size` (2, 4 or 8) octets at an offset, as uint64; IndexError outside of the array."""
    if getattr(numba.config, "DISABLE_JIT"):  # noqa: B009 - its stubs do not know it

        def plain(octets, at):  # type: ignore[no-untyped-def]
            if at < 0 or at + size > octets.shape[0]:
                raise IndexError("read outside of the octets")
            return np.uint64(int.from_bytes(octets[at : at + size].tobytes(), "big"))

        return plain
    raw = _raw(size * 8)

    @inline
    def checked(octets, at):  # type: ignore[no-untyped-def]
        if at < 0 or at + size > octets.shape[0]:
            raise IndexError("read outside of the octets")
        return raw(octets, at)

    return checked
