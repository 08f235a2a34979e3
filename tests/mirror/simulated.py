"""A TCP connection that loses, reorders and repeats by a seeded plan, and the list of what really happened.

One sender of equal segments with selective acknowledgements, a receiver that acknowledges each segment, a mirror in
between.  What the list says is decided where packets are lost or delayed, not from what the mirror shows.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.mirror.support import Talk

SIZE = 1000


@dataclass
class Plan:
    """Chances per packet, and times in µs."""

    segments: int = 400
    window: int = 12
    lost_before: float = 0.0
    """Data lost between the sender and the mirror."""
    lost_behind: float = 0.0
    """Data lost between the mirror and the receiver."""
    late: float = 0.0
    """Data held up before the mirror so that later segments overtake it."""
    ack_lost: float = 0.0
    """Acknowledgements lost behind the mirror, on the way to the sender."""
    copied: float = 0.0
    """Packets that the mirror shows twice."""
    near_us: float = 200.0
    """From the sender to the mirror, one way; jitter of a tenth is added to all times."""
    far_us: float = 500.0
    timeout_us: float = 30_000.0


@dataclass
class Played:
    """What came out."""

    talk: Talk
    truth: Counter[str] = field(default_factory=Counter)


def play(plan: Plan, seed: int) -> Played:
    """Run the connection; events are (time, number, what, segment)."""
    chance = random.Random(seed)
    talk = Talk(client_isn=chance.randrange(2**32), server_isn=chance.randrange(2**32))
    played = Played(talk)
    truth = played.truth
    # The receiver has room for all of it: its window of 1000 is one of 512,000 octets.
    clock = talk.open(server_us=2 * plan.far_us, client_us=2 * plan.near_us, scale=9)
    events: list[tuple[float, int, str, int, int]] = []
    """(time, order, what, segment, how many segments from the first on are acknowledged)"""
    order = 0

    def later(at: float, what: str, segment: int, whole: int = 0) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (at, order, what, segment, whole))

    def took(us: float) -> float:
        return us * chance.uniform(1.0, 1.1)

    def show(at: float, way: int, flags: str, seq: int, ack: int, size: int) -> None:
        talk.packet(at, way, flags, seq, ack, size)
        if chance.random() < plan.copied:
            truth["copied"] += 1
            talk.frames.append((at + 2, talk.frames[-1][1]))

    received: set[int] = set()
    acked: set[int] = set()
    """Segments of which the sender knows: selective acknowledgements."""
    seen_at_mirror: set[int] = set()
    highest_at_mirror = -1
    held_up: set[int] = set()
    attempts: Counter[int] = Counter()
    flying: dict[int, float] = {}
    following, paced = 0, 0.0
    # A channel keeps the order, but for those that are held up.
    free = {"to mirror": 0.0, "to receiver": 0.0, "to mirror back": 0.0, "to sender": 0.0}

    def through(channel: str, at: float) -> float:
        free[channel] = max(free[channel] + 1, at)
        return free[channel]

    def send(segment: int, now: float) -> None:
        attempts[segment] += 1
        flying[segment] = now
        first = attempts[segment] == 1
        later(now + plan.timeout_us * 2 ** min(attempts[segment], 4), "timeout", segment)
        if chance.random() < plan.lost_before:
            return
        arrives = now + took(plan.near_us)
        if first and chance.random() < plan.late:
            held_up.add(segment)
            later(arrives + 40, "mirror", segment)
            return
        later(through("to mirror", arrives), "mirror", segment)

    later(clock + 100, "send", 0)
    while events and len(acked) < plan.segments:
        now, _, what, segment, whole = heapq.heappop(events)
        if what == "send":
            while following < plan.segments and len(flying) < plan.window:
                paced = max(now, paced + 5)
                send(following, paced)
                following += 1
        elif what == "mirror":
            if segment in seen_at_mirror:
                truth["retransmitted"] += 1
            elif segment < highest_at_mirror:
                truth["reordered" if segment in held_up and attempts[segment] == 1 else "lost_before"] += 1
            seen_at_mirror.add(segment)
            highest_at_mirror = max(highest_at_mirror, segment)
            show(now, 0, "PA", 1 + segment * SIZE, 1, SIZE)
            if chance.random() >= plan.lost_behind:
                later(through("to receiver", now + took(plan.far_us)), "receiver", segment)
        elif what == "receiver":
            received.add(segment)
            whole = next(number for number in range(plan.segments + 1) if number not in received)
            later(through("to mirror back", now + took(plan.far_us)), "ack at mirror", segment, whole)
        elif what == "ack at mirror":
            show(now, 1, "A", 1, 1 + whole * SIZE, 0)
            if chance.random() >= plan.ack_lost:
                later(through("to sender", now + took(plan.near_us)), "sender", segment)
        elif what == "sender":
            acked.add(segment)
            flying.pop(segment, None)
            for other in [other for other in flying if other + 3 <= segment and attempts[other] == 1]:
                send(other, now)
            later(now, "send", 0)
        elif segment not in acked and segment in flying:
            send(segment, now)
    talk.frames.sort(key=lambda one: one[0])
    return played
