"""Fair parts of a queue that gets full."""

from __future__ import annotations

import asyncio

import numpy as np

from collector.decode.inbox import ROW_BYTES, TIMES_FREE, Inbox
from decoders.datagrams import Datagrams

LIMIT = 1_000_000
SIZE = 1000
"""What one datagram of these tests holds of the queue."""


def sent(sender: str, count: int) -> Datagrams:
    return Datagrams.of([(bytes(SIZE - ROW_BYTES), sender, 6343, 0)] * count)


def mixed(*batches: Datagrams) -> Datagrams:
    """One batch with the datagrams of these in turns, as a socket gives them."""
    senders = [row for batch in batches for row in batch.address.tolist()]
    order = np.argsort(np.concatenate([np.arange(len(batch)) for batch in batches]), kind="stable")
    joined = sent("192.0.2.1", len(senders))
    return Datagrams(
        joined.octets,
        joined.start,
        joined.length,
        np.array(senders, np.uint64)[order],
        joined.port,
        joined.time_received_us,
        joined.connection,
    )


def held(inbox: Inbox) -> dict[int, int]:
    """Datagrams in the inbox by the last octet of the sender."""
    addresses = np.concatenate([batch.address[:, 1] & np.uint64(0xFF) for batch, _ in inbox._batches])
    return dict(zip(*(column.tolist() for column in np.unique(addresses, return_counts=True)), strict=True))


def test_one_sender_alone_gets_nearly_all() -> None:
    inbox = Inbox(LIMIT)
    for _ in range(200):
        inbox.offer(sent("192.0.2.1", 10))

    assert inbox.octets == held(inbox)[1] * SIZE
    assert TIMES_FREE / (TIMES_FREE + 1) * LIMIT - 10 * SIZE <= inbox.octets <= LIMIT
    assert inbox.dropped_datagrams == 2000 - held(inbox)[1]


def test_a_flood_takes_nothing_from_one_that_sends_little() -> None:
    inbox = Inbox(LIMIT)
    for _ in range(90):
        inbox.offer(mixed(sent("192.0.2.1", 99), sent("192.0.2.2", 1)))

    assert held(inbox)[2] == 90
    assert inbox.dropped_datagrams == 90 * 100 - sum(held(inbox).values())


def test_floods_get_equal_parts() -> None:
    inbox = Inbox(LIMIT)
    for _ in range(200):
        inbox.offer(mixed(*(sent(f"192.0.2.{number}", 5) for number in (1, 2, 3))))

    assert max(held(inbox).values()) - min(held(inbox).values()) <= 10
    assert sum(held(inbox).values()) * SIZE > 0.9 * LIMIT


def test_what_was_taken_is_held_no_longer() -> None:
    async def empty(inbox: Inbox) -> None:
        while inbox.octets:
            await inbox.take(100_000)

    inbox, fits = Inbox(LIMIT), []
    for _ in range(3):
        for _ in range(200):
            inbox.offer(sent("192.0.2.1", 10))
        fits.append(sum(held(inbox).values()))
        asyncio.run(empty(inbox))

    assert fits[0] == fits[1] == fits[2] > 0


def test_what_is_not_held_is_counted_as_dropped() -> None:
    inbox = Inbox(LIMIT)
    for _ in range(50):
        inbox.offer(mixed(sent("192.0.2.1", 40), sent("192.0.2.2", 1)))

    assert inbox.dropped_datagrams == 50 * 41 - sum(held(inbox).values()) > 0
    assert inbox.octets == sum(held(inbox).values()) * SIZE <= LIMIT
