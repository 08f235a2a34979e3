"""Reading big-endian integers inside compiled kernels.

Callers check `offset + size <= end` once per structure; the check of each read stands behind that.
"""

from __future__ import annotations

import numpy as np

from decoders.jit import inline
from decoders.wire_load import MAPPED, ipv4_mover, loader, mover, swap64

__all__ = [
    "MAPPED", "mac", "move8", "move16", "move32", "move64", "move_ipv4", "move_mac", "swap64", "u16", "u32", "u64",
    "unsigned",
]  # fmt: skip

_load16 = loader(2)
_load32 = loader(4)
_load64 = loader(8)
move8, move16, move32, move64 = mover(1), mover(2), mover(4), mover(8)
move_mac = mover(6)
move_ipv4 = ipv4_mover()


@inline
def u16(octets, at):  # type: ignore[no-untyped-def]
    """Unsigned 16 bits at offset `at`, as int64."""
    return np.int64(_load16(octets, at))


@inline
def u32(octets, at):  # type: ignore[no-untyped-def]
    """Unsigned 32 bits at offset `at`, as int64."""
    return np.int64(_load32(octets, at))


@inline
def u64(octets, at):  # type: ignore[no-untyped-def]
    """Unsigned 64 bits at offset `at`, as uint64."""
    return _load64(octets, at)


@inline
def mac(octets, at):  # type: ignore[no-untyped-def]
    """48 bits at offset `at`, as uint64."""
    return (_load16(octets, at) << np.uint64(32)) | _load32(octets, at + 2)


@inline
def unsigned(octets, at, size):  # type: ignore[no-untyped-def]
    """Unsigned big-endian number of `size` octets (RFC 7011 section 6.2), the low 64 bits, as uint64; 0 for size 0."""
    value = np.uint64(0)
    for i in range(size):
        value = (value << np.uint64(8)) | np.uint64(octets[at + i])
    return value


@inline
def all_zero(octets, at, end):  # type: ignore[no-untyped-def]
    """True if only zeros stand there: padding."""
    for i in range(at, end):  # noqa: SIM110  (kernels have no generators)
        if octets[i] != 0:
            return False
    return True
