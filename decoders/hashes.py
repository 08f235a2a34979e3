"""Hashes for the look-up tables of kernels.

Most of them only choose a slot of a table; the hash of a connection is stored, so no function here may change what it
returns.  None is safe against a sender who chooses its input, unless a secret goes in first.
"""

from __future__ import annotations

import numpy as np

from decoders.jit import inline_always

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2 to the power of 64, divided by the golden ratio."""
MURMUR_A, MURMUR_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
"""The factors of the finalizer of MurmurHash3."""


@inline_always
def mix(a, b):
    """Mix word `b` into hash `a` (multiply and shift); both uint64.  Cheap, but low bits of the hash are weak."""
    h = (np.uint64(a) ^ np.uint64(b)) * GOLDEN
    return h ^ (h >> np.uint64(29))


@inline_always
def finish(h):
    """Apply the finalizer of MurmurHash3: every bit of the input affects every bit of the output."""
    h = (h ^ (h >> np.uint64(33))) * MURMUR_A
    h = (h ^ (h >> np.uint64(33))) * MURMUR_B
    return h ^ (h >> np.uint64(33))


@inline_always
def hash_pair(a, b):
    """Hash two 64-bit words, such as an address, whose high octets must affect the low bits."""
    return finish(a * GOLDEN ^ b)
