"""Memory that reads fill: no two batches share octets, and a block comes back with its last batch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from collector.decode.inbox import concatenate
from collector.listen.recvmmsg import Memory
from decoders.datagrams import Datagrams

BLOCK = 4096


def filled(memory: Memory, octets: int, value: int) -> NDArray[np.uint8]:
    """As a read does: take room, write, say how much was used.  Returns what was written."""
    block, words, first = memory.room(octets)
    used = -(-octets // 8)
    words[first : first + used] = np.frombuffer(bytes([value]) * 8, np.uint64)
    memory.use(words, first + used)
    return block[first * 8 : (first + used) * 8]


def block_of(octets: NDArray[np.uint8]) -> int:
    """Where the block begins that these octets are part of."""
    return int(octets.base.ctypes.data)


@pytest.mark.parametrize("octets", [1, 8, 100, BLOCK])
def test_nothing_is_written_over_while_a_batch_holds_it(octets: int) -> None:
    memory = Memory(BLOCK)
    written = [filled(memory, octets, value) for value in range(250)]
    for value, part in enumerate(written):
        assert len(part) == -(-octets // 8) * 8
        assert (part == value).all()


def test_a_block_is_filled_anew_once_nobody_holds_a_batch_of_it() -> None:
    memory = Memory(BLOCK)
    first = filled(memory, BLOCK, 1)
    second = filled(memory, BLOCK, 2)
    where = block_of(first)
    part = first[5:9]
    del first
    third = filled(memory, BLOCK, 3)
    assert where not in {block_of(second), block_of(third)}
    assert (part == 1).all()
    del part
    assert block_of(filled(memory, BLOCK, 4)) == where


def test_what_is_larger_than_a_block_gets_memory_of_its_own() -> None:
    memory = Memory(BLOCK)
    before = filled(memory, 8, 1)
    large = filled(memory, 3 * BLOCK, 2)
    after = filled(memory, 8, 3)
    assert (before == 1).all()
    assert (large == 2).all()
    assert len(large) == 3 * BLOCK
    assert block_of(after) == block_of(before)


def batch(octets: NDArray[np.uint8], *starts: int) -> Datagrams:
    count = len(starts)
    numbers = np.arange(count)
    return Datagrams(
        octets,
        np.array(starts),
        np.full(count, 2),
        np.zeros((count, 2), np.uint64),
        numbers,
        numbers,
        np.zeros(count, np.int64),
    )


def payloads(datagrams: Datagrams) -> list[list[int]]:
    return [
        datagrams.octets[at : at + size].tolist()
        for at, size in zip(datagrams.start.tolist(), datagrams.length.tolist(), strict=True)
    ]


def test_batches_of_one_block_become_one_without_a_copy() -> None:
    block, other = np.arange(64, dtype=np.uint8), np.arange(100, 164, dtype=np.uint8)
    together = concatenate([batch(block, 8, 16), batch(block, 32)])
    assert np.shares_memory(together.octets, block)
    assert payloads(together) == [[8, 9], [16, 17], [32, 33]]

    mixed = concatenate([batch(block, 8, 16), batch(other, 3), batch(block, 40)])
    assert not np.shares_memory(mixed.octets, block)
    assert payloads(mixed) == [[8, 9], [16, 17], [103, 104], [40, 41]]
    assert len(mixed.octets) == 10 + 2 + 2, "gaps before the first and behind the last are not copied"
