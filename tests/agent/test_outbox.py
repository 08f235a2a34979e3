"""Results on their way to a collector that is away, slow, or refuses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from agent import outbox
from agent.outbox import Answer, Outbox


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LEAST_PAUSE_S", 0.0)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_S", 0.0)


class Collector:
    """Answers as it is told, then with 202."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    def __call__(self, body: bytes) -> Answer:
        self.bodies.append(body)
        return self.answers.pop(0) if self.answers else Answer(202, "")

    def rows(self) -> list[int]:
        """What it has, each batch once."""
        batches = {json.loads(body)["batch"]: json.loads(body) for body in self.bodies}
        return [number for batch in batches.values() for number in batch["columns"]["n"]]


def sent(collector: Collector, fill: Callable[[Outbox], None], **options: Any) -> tuple[Outbox, list[str]]:
    """Fill a box, let it send all, and end."""
    said: list[str] = []

    async def run() -> Outbox:
        box = Outbox(collector, said.append, **options)
        fill(box)
        running = asyncio.create_task(box.run())
        await box.finish(running, 30)
        return box

    return asyncio.run(run()), said


def numbers(count: int) -> Callable[[Outbox], None]:
    return lambda box: [box.add({"n": number}) for number in range(count)] and None


def test_a_batch_is_the_same_at_each_try_and_nothing_is_lost() -> None:
    away = [Answer(0, "Connection refused"), Answer(503, "no room", 2.0), Answer(401, "a login is needed")]
    collector = Collector(*away)
    box, said = sent(collector, numbers(1500))

    assert collector.bodies[0] == collector.bodies[1] == collector.bodies[2] == collector.bodies[3]
    assert collector.rows() == list(range(1500))
    assert (box.taken, box.waiting, box.dropped) == (1500, 0, 0)
    assert said == [
        "the collector takes no results (Connection refused): they wait",
        "the collector takes no results (503: no room): they wait",
        "the collector takes no results (401: a login is needed): they wait",
        "the collector takes results again",
    ]


def test_a_batch_that_is_known_is_done() -> None:
    collector = Collector(Answer(0, "timed out"), Answer(409, "the batch was taken before"))
    box, _ = sent(collector, numbers(3))

    assert (len(collector.bodies), box.taken) == (2, 3)


def test_a_batch_that_will_never_be_taken_is_dropped_and_the_next_one_goes() -> None:
    collector = Collector(Answer(422, "time_us: too old"))
    box, said = sent(collector, numbers(1001))

    assert (len(collector.bodies), box.taken, box.dropped) == (2, 1, 1000)
    assert said == [
        "the collector refuses a batch (422: time_us: too old): 1000 rows are dropped",
        "the collector takes results again; 1000 rows were dropped",
    ]


def test_the_oldest_rows_are_dropped_where_there_is_no_room() -> None:
    collector = Collector(Answer(0, "away"))
    box, said = sent(collector, numbers(1000), kept_octets=900)

    assert collector.rows() == list(range(900, 1000))
    assert (box.taken, box.dropped) == (100, 900)
    assert said[-1] == "the collector takes results again; 900 rows were dropped"


def test_batches_are_shorter_than_the_collector_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    sent(collector, lambda box: [box.add({"n": number, "text": "x" * 10_000}) for number in range(200)] and None)

    assert collector.rows() == list(range(200))
    assert max(map(len, collector.bodies)) < 600_000


def test_an_end_does_not_wait_for_a_collector_that_is_away() -> None:
    async def run() -> Outbox:
        box = Outbox(lambda body: Answer(0, "away"), lambda line: None)
        box.add({"n": 1})
        await box.finish(asyncio.create_task(box.run()), 0.1)
        return box

    assert asyncio.run(run()).waiting == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail": "wrong", "errors": ["a", "b"]}', "wrong; a; b"),
        (b"<html>" + b"x" * 500, "<html>" + "x" * 94),
        (b'{"detail": "' + b"y" * 400 + b'"}', "y" * 300),
        (b"[1]", "[1]"),
        (b"\xff", "�"),
    ],
)
def test_reasons_are_short_whatever_comes(body: bytes, text: str) -> None:
    assert outbox._reason(body) == text
