"""Hashes: what they give stands in stores, so a change of it would tell connections apart that are one."""

import numpy as np
import pytest

from decoders.hashes import finish, hash_pair, mix

WORD = 2**64 - 1


def murmur(h: int) -> int:
    """fmix64 of MurmurHash3, in whole numbers of Python."""
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCD & WORD
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53 & WORD
    return h ^ (h >> 33)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0), (WORD, WORD), (0x0123456789ABCDEF, 0xFFFF0A000001)])
def test_hashes_are_what_they_always_were(a: int, b: int) -> None:
    product = (a ^ b) * 0x9E3779B97F4A7C15 & WORD
    with np.errstate(over="ignore"):
        assert int(mix(np.uint64(a), np.uint64(b))) == product ^ (product >> 29)
        assert int(finish(np.uint64(a))) == murmur(a)
        assert int(hash_pair(np.uint64(a), np.uint64(b))) == murmur((a * 0x9E3779B97F4A7C15 & WORD) ^ b)
    assert murmur(1) == 0xB456BCFC34C2CB2C, "as the reference implementation says"
