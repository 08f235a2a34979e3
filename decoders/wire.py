"""Reading big-endian integers inside compiled kernels.

Callers check `offset + size <= end` once per structure; numba's own bounds check stands behind that.
"""

from __future__ import annotations

import numpy as np

from decoders.jit import inline


@inline
def u16(octets, at):  # type: ignore[no-untyped-def]
    """Unsigned 16 bits at offset `at`, as int64."""
    return (np.int64(octets[at]) << 8) | np.int64(octets[at + 1])


@inline
def u32(octets, at):  # type: ignore[no-untyped-def]
    """Unsigned 32 bits at offset `at`, as int64."""
    return (
        (np.int64(octets[at]) << 24)
        | (np.int64(octets[at + 1]) << 16)
        | (np.int64(octets[at + 2]) << 8)
        | np.int64(octets[at + 3])
    )


@inline
def u64(octets, at):  # type: ignore[no-untyped-def]
    """Unsigned 64 bits at offset `at`, as uint64."""
    return (np.uint64(u32(octets, at)) << np.uint64(32)) | np.uint64(u32(octets, at + 4))


@inline
def mac(octets, at):  # type: ignore[no-untyped-def]
    """48 bits at offset `at`, as uint64."""
    return (np.uint64(u16(octets, at)) << np.uint64(32)) | np.uint64(u32(octets, at + 2))


@inline
def unsigned(octets, at, size):  # type: ignore[no-untyped-def]
    """Unsigned big-endian number of `size` octets (RFC 7011 section 6.2), the low 64 bits, as uint64; 0 for size 0."""
    value = np.uint64(0)
    for i in range(size):
        value = (value << np.uint64(8)) | np.uint64(octets[at + i])
    return value


@inline
def swap64(value):  # type: ignore[no-untyped-def]
    """Reverse the octets of a uint64: LLVM turns this into one instruction."""
    v = np.uint64(value)
    low = np.uint64(0xFF)
    return (
        (v >> np.uint64(56))
        | ((v >> np.uint64(40)) & (low << np.uint64(8)))
        | ((v >> np.uint64(24)) & (low << np.uint64(16)))
        | ((v >> np.uint64(8)) & (low << np.uint64(24)))
        | ((v << np.uint64(8)) & (low << np.uint64(32)))
        | ((v << np.uint64(24)) & (low << np.uint64(40)))
        | ((v << np.uint64(40)) & (low << np.uint64(48)))
        | (v << np.uint64(56))
    )
