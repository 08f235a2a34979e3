"""A rule as text, tried over stored windows by the service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.alert.rules import DEFAULTS, Filter, Rule
from collector.alert.settings import AlertSettings
from collector.alert.trial import TRIAL_SECONDS, Trials, read_rule, rule_text
from collector.store.settings import StoreSettings
from collector.store_reader import Bounds, Reader
from tests.alert.support import traffic
from tests.flow_rows import BEGIN_US, add, store, vm

ODD = Rule(
    name="odd", scope="pair", measure="loss_ratio", above=0.02, certain_windows=1e8, text='"\\ \x7f 中 {src_vm}\n',
    only=Filter(vm=("a*", '"')), inhibited_by=("pair_loss",),
)  # fmt: skip
HEAD = '[[alerts.rules]]\nname = "a"\n'
SPAN = (BEGIN_US, BEGIN_US + 60_000_000)


@pytest.fixture(scope="module")
def client(store_directory: Path) -> Iterator[Client]:
    """c→d loses 40 % for a minute, e→f 15 %."""
    with store(StoreSettings(url=f"chdb://{store_directory}", database="trials")) as made:
        add(
            made,
            traffic(vm("c", "h1"), vm("d", "h2"), range(60), 400)
            + traffic(vm("e", "h1"), vm("f", "h2"), range(60), 150),
        )
        yield made


def trial(client: Client, text: str, clock: Callable[[], float] = lambda: 0.0) -> Any:
    async def run() -> Any:
        reader = Reader(asyncio.to_thread, lambda: client, Bounds(60))
        # Days without a window before cost nothing.
        return await Trials(AlertSettings(), reader, clock).run(text, SPAN[0] - 30 * 86_400_000_000, SPAN[1])

    return asyncio.run(run())


@pytest.mark.parametrize("rule", [*DEFAULTS, ODD], ids=lambda rule: rule.name)
def test_the_text_of_a_rule_is_that_rule(rule: Rule) -> None:
    assert read_rule(rule_text(rule)) == rule


@pytest.mark.parametrize(("text", "said"), [
    ("x", "no TOML"), ("x = " + "[" * 3000, "no TOML"),
    ("[alerts]\nrules = 3", "one [[alerts.rules]]"), ("alerts = 3", "one [[alerts.rules]]"),
    (rule_text(ODD) * 2, "one [[alerts.rules]]"), (rule_text(ODD) + "[store]\n", "one [[alerts.rules]]"),
    (f'{HEAD}scope = "pair"\nmeasure = "nothing"\nabove = 1', "no such measure"),
    (f'{HEAD}scope = "pair"\nmeasure = "loss_ratio"\nabove = "x"', "above: "),
    (f'{HEAD}scope = "service"\nlevel = "10s"\nmeasure = "spool_ratio"\nabove = 0.5', "stands in no stored window"),
])  # fmt: skip
def test_what_is_no_rule_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        asyncio.run(Trials(AlertSettings(), None).run(text, *SPAN))  # type: ignore[arg-type]


def test_it_says_what_would_have_fired(client: Client) -> None:
    text = '[[alerts.rules]]\nname = "mine"\nscope = "pair"\nlevel = "10s"\nmeasure = "loss_ratio"\nabove = {limit}\n'
    strict, loose = trial(client, text.format(limit=0.2)), trial(client, text.format(limit=0.05))

    assert [(one["labels"]["src_vm"], one["since"]) for one in strict["alerts"]] == [("c", BEGIN_US)]
    assert (strict["fired"], strict["series"], strict["windows"], strict["complete"]) == (1, 1, 6, True)
    assert strict["alerts"][0]["worst"] == pytest.approx(0.4)
    assert {one["labels"]["src_vm"] for one in loose["alerts"]} == {"c", "e"}


def test_it_ends_when_time_is_up_and_says_how_far_it_came(client: Client) -> None:
    ticks = iter([0.0] * 5)
    found = trial(client, rule_text(ODD.model_copy(update={"level": "10s"})), lambda: next(ticks, TRIAL_SECONDS + 1))

    assert not found["complete"]
    assert BEGIN_US < found["until"] < SPAN[1]
