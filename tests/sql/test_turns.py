"""Turns of queries: who goes first, who is refused, and what overdue queries do to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from collector.sql.guard import QueryRefusedError
from collector.sql.turns import MOST_OVERDUE, WAITING_PER_PLACE, Turn, Turns


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main(), debug=True)


async def asked(turns: Turns, *sources: str) -> list[asyncio.Task[Turn]]:
    """Ask in this order; each waits or has its turn when this returns."""
    tasks = []
    for source in sources:
        tasks.append(asyncio.create_task(turns.take(source)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return tasks


async def begun(tasks: list[asyncio.Task[Turn]]) -> list[int]:
    """Which of them have a turn."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [at for at, task in enumerate(tasks) if task.done() and not task.cancelled() and not task.exception()]


async def refusal(task: asyncio.Task[Turn]) -> str:
    with pytest.raises(QueryRefusedError) as caught:
        await task
    return str(caught.value)


def test_places_are_bounded_and_given_on_in_order() -> None:
    async def scenario() -> None:
        turns = Turns(2, 60)
        tasks = await asked(turns, "a", "a", "a", "a")
        assert await begun(tasks) == [0, 1]
        turns.end(tasks[0].result())
        assert await begun(tasks) == [0, 1, 2]
        assert turns.begun == 2

    played(scenario)


def test_the_source_with_the_fewest_queries_goes_first() -> None:
    async def scenario() -> None:
        turns = Turns(2, 60)
        tasks = await asked(turns, "a", "a", "a", "a", "b")
        turns.end(tasks[0].result())
        assert await begun(tasks) == [0, 1, 4]

    played(scenario)


def test_who_has_most_places_to_wait_gives_one_up_and_nobody_takes_more_than_its_share() -> None:
    async def scenario() -> None:
        turns = Turns(1, 60)
        tasks = await asked(turns, "a", *["a"] * WAITING_PER_PLACE)
        more = (await asked(turns, "a"))[0]
        assert "Too many simultaneous queries. (TOO_MANY" in await refusal(more)
        others = await asked(turns, "b", "b", "b")
        assert "others had none" in await refusal(tasks[4])
        assert "others had none" in await refusal(tasks[3])
        assert "Too many simultaneous queries. (TOO_MANY" in await refusal(others[2])
        assert await begun([*tasks, *others]) == [0]

    played(scenario)


def test_nobody_waits_for_ever() -> None:
    async def scenario() -> None:
        turns = Turns(1, 0.01)
        tasks = await asked(turns, "a", "b")
        assert "No turn within 0.01 seconds" in await refusal(tasks[1])
        turns.end(tasks[0].result())
        assert await begun(await asked(turns, "b")) == [0]

    played(scenario)


def test_a_turn_that_comes_while_its_query_is_cancelled_is_not_lost() -> None:
    async def scenario() -> None:
        turns = Turns(1, 60)
        tasks = await asked(turns, "a", "b", "c")
        turns.end(tasks[0].result())
        tasks[1].cancel()
        assert await begun(tasks) == [0, 2]
        assert turns.begun == 1

    played(scenario)


def test_an_overdue_query_gives_its_place_back_and_its_source_gets_no_more_than_half() -> None:
    async def scenario() -> None:
        turns = Turns(1, 60)
        given = []
        for _ in range(MOST_OVERDUE // 2):
            given += await asked(turns, "a")
            turns.give_up(given[-1].result())
        assert (turns.begun, turns.overdue, turns.problem) == (2, 2, None)
        assert "2 of your queries were cancelled and have not ended" in await refusal((await asked(turns, "a"))[0])
        assert await begun(await asked(turns, "b")) == [0]
        turns.end(given[0].result())
        assert turns.overdue == 1

    played(scenario)


def test_with_too_many_overdue_queries_none_begins_until_one_has_ended() -> None:
    async def scenario() -> None:
        turns = Turns(MOST_OVERDUE, 60)
        tasks = await asked(turns, *(str(number) for number in range(MOST_OVERDUE)))
        waiting = await asked(turns, "w")
        for task in tasks[:-1]:
            turns.give_up(task.result())
        assert await begun(waiting) == [0]
        late = await asked(turns, *["x"] * MOST_OVERDUE)
        turns.give_up(tasks[-1].result())
        problem = "4 queries that were cancelled have not ended; others begin again when they have"
        assert turns.problem == problem
        assert problem in await refusal(late[-1])
        assert problem in await refusal((await asked(turns, "y"))[0])
        turns.end(tasks[0].result())
        assert turns.problem is None
        assert await begun(await asked(turns, "y")) == [0]

    played(scenario)


def test_a_stop_refuses_those_that_wait_and_those_that_come() -> None:
    async def scenario() -> None:
        turns = Turns(1, 60)
        tasks = await asked(turns, "a", "b")
        turns.close()
        assert "(ABORTED)" in await refusal(tasks[1])
        assert "(ABORTED)" in await refusal((await asked(turns, "c"))[0])
        turns.end(tasks[0].result())
        assert turns.begun == 0

    played(scenario)
