"""What the views say of the made-up cloud is true: in at least 93 of 100 windows, whatever is wrong in the cloud."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from collector.store.settings import StoreSettings
from tests.deploy.compressed import SECOND_US, Ran, run

WINDOW_SECONDS = 10
HELD = 0.93
LENGTH = 30
SCHEDULE = {
    "loss": 100, "slow": 140, "migration": 180, "scan": 200, "restart": 240, "wrong-rate": 260, "no-polling": 300,
    "blind": 340,
}  # fmt: skip
"""Trouble -> second of the run when it begins."""
SHORT = {"migration": 20, "restart": 20}
"""Seconds that are judged of troubles of a moment."""
END = 380
HEALTHY = "healthy"
"""What is judged before the first trouble."""
FEW = 30
"""Figures of a scenario that are enough to judge."""
WRONG = "hv4"
"""The hypervisor that states a wrong rate: what its VMs send is judged by itself."""


@pytest.fixture(scope="module")
def ran(store_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("truth")
    store = StoreSettings(url=f"chdb://{store_directory}", database="truth", spool_directory=folder / "spool")
    start = datetime.now(UTC) - timedelta(seconds=END + 120)
    start = start.replace(second=start.second // 10 * 10, microsecond=0)
    trouble = ",".join(f"{name}@{at}+{1 if name in SHORT else LENGTH}" for name, at in SCHEDULE.items())
    options = ("--vms", "60", "--seconds", str(END), "--start", start.isoformat(), "--trouble", trouble)
    with pytest.MonkeyPatch.context() as patch:
        yield run(store, folder, patch, {}, *options)


@pytest.fixture(scope="module")
def found(ran: Ran) -> dict[str, dict[str, Counter[str]]]:
    return counted(ran)


Key = tuple[int, str, str]
"""Begin of the window, sender, receiver."""


def scenario(ran: Ran, start_us: int) -> str:
    """What happens in the window that begins then."""
    second = (start_us - ran.start_us) / SECOND_US
    found = [name for name, at in SCHEDULE.items() if at <= second < at + SHORT.get(name, LENGTH)]
    return found[0] if found else HEALTHY if second < min(SCHEDULE.values()) else ""


def counted(ran: Ran) -> dict[str, dict[str, Counter[str]]]:
    """Scenario and figure -> windows of pairs with such a figure, and those whose interval holds the truth."""
    true: dict[Key, dict[str, Any]] = {
        (line["window_us"], line["src"], line["dst"]): line for line in ran.lines("pair")
    }
    rows = ran.ask(
        "SELECT toUnixTimestamp(time) AS start, src_vm, dst_vm, network, src_host, counted_at, "
        "packets_per_second AS rate, packets_per_second_low AS rate_low, packets_per_second_high AS rate_high, "
        "loss_ratio, loss_low, loss_high, latency_us, latency_spread_us, latency_method "
        "FROM pair_metrics WHERE src_vm != '' AND dst_vm != ''"
    )
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        tenant, start_us = row["network"].removesuffix("-net"), row["start"] * SECOND_US
        line = true.get((start_us, f"{tenant}/{row['src_vm']}", f"{tenant}/{row['dst_vm']}"), {})
        what = scenario(ran, start_us)
        if what == "wrong-rate" and row["src_host"] == WRONG:
            what = WRONG
        for figure, low, value, high in figures(row, line):
            found[what][figure]["all"] += 1
            found[what][figure]["held"] += low <= value <= high
    return found


def figures(row: dict[str, Any], line: dict[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    """What the view says of a pair, and the truth between the ends of its interval."""
    sent, received = line.get("sent_packets", 0), line.get("received_packets", 0)
    if row["rate"] is not None:
        there = received if row["counted_at"] == "destination" else sent
        yield "rate", row["rate_low"], there / WINDOW_SECONDS, row["rate_high"]
    if row["loss_ratio"] is not None and sent:
        yield "loss", row["loss_low"], max(0.0, 1 - received / sent), row["loss_high"]
    if row["latency_us"] is not None and row["latency_method"] == "one_way" and line.get("latency_us") is not None:
        spread = row["latency_spread_us"]
        yield "latency", row["latency_us"] - spread, line["latency_us"], row["latency_us"] + spread


@pytest.mark.parametrize("what", [HEALTHY, *SCHEDULE])
def test_views_say_the_truth(found: dict[str, dict[str, Counter[str]]], what: str) -> None:
    """Latency is judged where flows began; in all scenarios together, that is enough of them."""
    judged = {figure: (counts["held"], counts["all"]) for figure, counts in found[what].items()}
    print(what, judged)

    assert judged["rate"][1] >= FEW, judged
    assert judged["loss"][1] >= FEW // 2, judged
    assert all(held >= HELD * of for figure, (held, of) in judged.items() if of >= FEW), judged


def test_latency_is_true(found: dict[str, dict[str, Counter[str]]]) -> None:
    counts = [figures["latency"] for figures in found.values()]
    held, of = (sum(one[name] for one in counts) for name in ("held", "all"))
    print("latency", held, of)

    assert of >= FEW
    assert held >= HELD * of


def test_the_lossy_link_differs_from_the_others(ran: Ran) -> None:
    """Wide intervals would hold anything: the figures themselves, where nothing is sampled, over all of the trouble."""
    begin = ran.start_us // SECOND_US + SCHEDULE["loss"]
    rows = ran.ask(
        "SELECT least(toString(src_host), toString(dst_host)) AS one, greatest(toString(src_host), toString(dst_host)) "
        "AS other, 1 - sum(received_packets) / sum(sent_packets) AS loss FROM pair_metrics "
        f"WHERE time >= fromUnixTimestamp({begin}) AND time < fromUnixTimestamp({begin + LENGTH}) "
        "AND src_host IN ('hv5', 'hv6', 'hv7') AND dst_host IN ('hv5', 'hv6', 'hv7') AND src_host != dst_host "
        "GROUP BY one, other"
    )
    losses = {(row["one"], row["other"]): row["loss"] for row in rows}
    print(losses)

    assert 0.02 < losses.pop(("hv5", "hv6")) < 0.06
    assert all(abs(loss) < 0.02 for loss in losses.values())
