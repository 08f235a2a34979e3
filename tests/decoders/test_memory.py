"""Memory that is used again: not while somebody holds a part of it, not more than is allowed, and not seen in rows."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from decoders import rows
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.memory import MemoryPool
from decoders.netflow import decoder as netflow
from decoders.netflow import v5
from decoders.sflow import decoder as sflow
from schemas.column import Table
from schemas.flows import FLOWS
from tests.decoders.netflow.support import NOW, V, in_set, ipfix, template
from tests.decoders.support import payloads

PAGE = 1 << 20


def where(block: NDArray[np.uint8]) -> int:
    """Address of the memory."""
    return int(block.ctypes.data)


def test_a_block_comes_back_with_the_last_array_cut_from_it() -> None:
    blocks = MemoryPool()
    block = blocks.take(PAGE - 5)
    at = where(block)
    part = block[8:64].view(np.uint64).reshape(-1, 7)[:, 2:5]
    del block
    other = blocks.take(PAGE)
    assert where(other) != at
    assert blocks.spare_bytes == 0
    del part
    assert blocks.spare_bytes == PAGE
    assert where(blocks.take(PAGE)) == at


def test_sizes_are_powers_of_two_and_do_not_mix() -> None:
    blocks = MemoryPool()
    assert len(blocks.take(PAGE)) == PAGE
    assert len(blocks.take(PAGE + 1)) == 2 * PAGE
    assert blocks.spare_bytes == 3 * PAGE
    assert len(blocks.take(3 * PAGE)) == 4 * PAGE


def test_no_more_is_kept_than_allowed() -> None:
    blocks = MemoryPool(spare_bytes=3 * PAGE)
    taken = [blocks.take(PAGE) for _ in range(8)]
    assert len({where(block) for block in taken}) == 8
    taken.clear()
    gc.collect()
    assert blocks.spare_bytes == 3 * PAGE


CAPTURES = (
    "softflowd_ipfix", "softflowd_v9", "ovs_ipfix_tunnel", "ovs_ipfix_nocache", "ovs_netflow5", "fprobe_v5",
    "ovs_sflow_tcp_udp_s64", "ovs_sflow_mixed",
)  # fmt: skip


@pytest.mark.parametrize("stem", CAPTURES)
def test_what_lay_in_the_memory_before_shows_in_no_row(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datagrams = Datagrams.of(payloads(stem) * 3)  # more rows than are cleared at a time

    def used(table: Table, capacity: int) -> rows.Rows:
        made = rows.new_rows(table, capacity)
        for group in made[:5]:
            group[:] = 0xA5
        made.cleared[0] = 0
        return made

    expected = Decoder().decode(datagrams).flows
    for module in (v5, netflow, sflow):
        monkeypatch.setattr(module, "unclear_rows", used)
    found = Decoder().decode(datagrams).flows

    assert sum(part.num_rows for part in expected) > 0
    assert found == expected


def test_large_batches_are_decoded_into_memory_that_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = MemoryPool()
    monkeypatch.setattr(rows, "BLOCKS", blocks)
    made = rows.unclear_rows(FLOWS, 10_000)
    assert [group.shape for group in made[:5]] == [group.shape for group in rows.new_rows(FLOWS, 10_000)[:5]]
    columns = [column for group in made[:5] for column in group]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(columns, 2))
    del made, columns
    gc.collect()
    assert blocks.spare_bytes > 0


def test_long_records_of_varying_length_do_not_hold_the_room_for_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is taken for records of the least length; who holds a batch must not hold all of it."""

    class Counted(MemoryPool):
        taken_bytes = 0

        def take(self, octets: int) -> NDArray[np.uint8]:
            block = super().take(octets)
            self.taken_bytes += len(block)
            return block

    blocks = Counted()
    monkeypatch.setattr(rows, "BLOCKS", blocks)
    record = bytes([0, 0, 3, 232, 192, 0, 2, 1, 255]) + (500).to_bytes(2, "big") + bytes(500)
    messages = [
        ipfix(template(256, [(1, 4), (8, 4), (82, V)])),
        *(ipfix(in_set(256, record, record), sequence=2 * n) for n in range(3_000)),
    ]

    flows = Decoder().decode(Datagrams.of((message, "192.0.2.9", 5, NOW * 1_000_000) for message in messages)).flows

    gc.collect()
    assert sum(part.num_rows for part in flows) == 6_000
    needed = sum(part.nbytes for part in flows)
    assert blocks.taken_bytes > 20 * needed
    assert blocks.taken_bytes - blocks.spare_bytes <= 2 * needed


def test_what_nobody_takes_any_more_goes_back_to_the_system() -> None:
    blocks = MemoryPool(idle_turns=3)
    taken = [blocks.take(PAGE), blocks.take(PAGE), blocks.take(4 * PAGE)]
    taken.clear()
    in_use = blocks.take(PAGE)
    for _ in range(2):
        blocks.trim()
    assert blocks.spare_bytes == 5 * PAGE
    del in_use
    blocks.trim()
    assert blocks.spare_bytes == PAGE, "only what was taken meanwhile stays"
    for _ in range(2):
        blocks.trim()
    assert blocks.spare_bytes == 0
