"""How cost grows with exporters, templates, pairs of VMs and interfaces.

    python -m bench.growth [--save FILE] [exporters|templates|pairs|interfaces …]
    python -m bench.growth --draw FILE

Each series does the same work with ten times as many of something and prints, per step, CPU time of this thread:

  per record     once everything is known; a flat line is best
  per one more   the cost of each additional exporter, template, pair or interface itself

and a verdict: a step is worse than linear if one of the two grew by more than the number did, with allowance for noise.
`--draw` makes docs/growth.svg from a saved file (extra `bench`).
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from statistics import median
from uuid import UUID

from bench import traffic
from bench.load import EXPORTERS, machine, save
from bench.rollups import one_window
from collector.decode.exporter_stats import OwnLoss, StreamMetrics, StreamReporter
from collector.inventory.history import History
from collector.inventory.naming import Namer
from collector.inventory.naming import warm_up as warm_up_names
from collector.inventory.snapshot import Snapshot, build
from collector.inventory.sources.base import Host, Interface
from collector.metrics import Metrics
from collector.process.startup import YOUNG_OBJECTS
from collector.rollup.sums import PairSums
from collector.rollup.sums import warm_up as warm_up_sums
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from schemas.inventory import Rank

DATAGRAMS = 2_048
"""Datagrams in a batch: 3 MB, as the service takes them under load."""
ROUNDS = 7
NOISE = 1.3
"""A cost may grow by this much more than the number before the step counts as worse than linear."""
INTERFACES = 10_000
TEMPLATES_OF_ONE = 500
"""Templates of one exporter; further exporters have the rest."""
HISTORY_US = 3_600_000_000
SUMS, CONNECTIONS = 2**19, 2**21
"""The default in the settings of the rollups."""
PAIR_ROWS, PAIR_BATCHES = 50_000, 20
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "growth.svg"


@dataclass(frozen=True)
class Step:
    """One point of a series.  Times in µs of CPU."""

    number: int
    per_record: float
    per_more: float
    """Cost of each exporter, template, pair or interface."""


class DataPath:
    """Decoding and naming in this thread, with an inventory."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.decoder = Decoder()
        self.namer = Namer(HISTORY_US, 3_000_000)
        self.namer.snapshot = snapshot

    def run(self, payloads: list[tuple[bytes, int]], records: int) -> float:
        """Take (payload, number of its sender); returns µs.  Raises AssertionError unless `records` come out."""
        batch = Datagrams.of(
            (payload, f"127.9.{sender >> 8}.{sender & 255}", 2055, traffic.TIME * 1_000_000)
            for payload, sender in payloads
        )
        rows = 0
        began = time.thread_time()
        for part in self.decoder.decode(batch).flows:
            rows += self.namer.flows(part).num_rows
        took = time.thread_time() - began
        assert rows == records, f"{rows} rows of {records} records"
        return 1e6 * took


def exporters(count: int) -> Step:
    """Measure the same datagrams from `count` senders; each has metrics every second, and a row every ten."""
    path = DataPath(inventoried(INTERFACES))
    sessions = path.decoder.shared.sessions
    metrics = StreamMetrics([sessions], Metrics())
    reporter = StreamReporter(sessions, path.decoder.sets.templates.table)
    reporter.report(1, OwnLoss())
    each = DATAGRAMS // count
    records = each * count * traffic.SET_RECORDS
    taken, reported = [], []
    for turn in range(ROUNDS + 1):
        payloads = [
            (payload, sender)
            for sender in range(count)
            for payload in traffic.payloads("ipfix", sender, each, turn * each)
        ]
        taken.append(path.run(payloads, records) / records)
        began = time.thread_time()
        metrics.advance()
        advanced = time.thread_time()
        reporter.report(turn + 2, OwnLoss())
        reported.append(1e6 * (advanced - began + (time.thread_time() - advanced) / 10) / count)
    return Step(count, median(taken[1:]), median(reported[1:]))


def templates(count: int) -> Step:
    """Measure data of `count` templates in turn; each template has to be read and kept."""
    senders = -(-count // TEMPLATES_OF_ONE)
    sequence = [0] * senders
    learnt, taken = [], []
    snapshot = inventoried(INTERFACES)
    for _ in range(3):
        path = DataPath(snapshot)
        path.run([(traffic.ipfix_template(299, 0), sender) for sender in range(senders)], 0)
        announced = [(traffic.ipfix_template(300 + n // senders, 0), n % senders) for n in range(count)]
        learnt.append(path.run(announced, 0) / count)
    for turn in range(ROUNDS):
        chosen = [(turn * DATAGRAMS + k) % count for k in range(DATAGRAMS)]
        sequences = []
        for number in chosen:
            sequences.append(sequence[number % senders])
            sequence[number % senders] += traffic.SET_RECORDS
        payloads = traffic.ipfix_data([300 + number // senders for number in chosen], sequences)
        records = DATAGRAMS * traffic.SET_RECORDS
        taken.append(path.run(list(zip(payloads, (n % senders for n in chosen), strict=True)), records) / records)
    return Step(count, median(taken), median(learnt))


def pairs(count: int) -> Step:
    """Measure summing a window's rows of `count` pairs; each sum has to be taken out."""
    batches = one_window(count, PAIR_ROWS, PAIR_BATCHES)
    added, taken = [], []
    for _ in range(3):
        sums = PairSums(SUMS, CONNECTIONS)
        adding, taking, groups = 0.0, 0.0, 0
        for batch in batches:
            rest = batch
            while rest is not None:
                began = time.thread_time()
                rest = sums.add(rest)
                adding += time.thread_time() - began
                if rest is not None or batch is batches[-1]:
                    groups += sums.groups
                    began = time.thread_time()
                    sums.take()
                    taking += time.thread_time() - began
        added.append(1e6 * adding / (PAIR_ROWS * PAIR_BATCHES))
        taken.append(1e6 * taking / groups)
    return Step(count, median(added), median(taken))


def interfaces(count: int) -> Step:
    """Measure decoding and naming records among `count` VMs; each interface has to be loaded and indexed."""
    learnt = []
    for _ in range(3):
        known = inventory(count)
        began = time.thread_time()
        snapshot = _snapshot(_history(count, known))
        learnt.append(1e6 * (time.thread_time() - began) / count)
    path = DataPath(snapshot)
    each = DATAGRAMS // EXPORTERS
    records = DATAGRAMS * traffic.SET_RECORDS
    taken = []
    for turn in range(ROUNDS):
        payloads = [
            (payload, sender)
            for sender in range(EXPORTERS)
            for payload in traffic.payloads("ipfix", sender, each, turn * each, vms=count)
        ]
        taken.append(path.run(payloads, records) / records)
    return Step(count, median(taken[1:]), median(learnt))


def inventory(count: int) -> tuple[tuple[Interface, ...], tuple[Host, ...]]:
    """Make `count` interfaces with MACs and addresses of `bench.traffic`, spread over as many hosts as exporters."""
    interfaces = tuple(
        Interface(
            host=f"host-{n % EXPORTERS}",
            port_name=f"vnet{n // EXPORTERS}",
            if_index=10 + n // EXPORTERS,
            mac=0x5254_0000_0000 + n,
            vm=f"vm-{n:06}",
            vm_uuid=UUID(int=n + 1),
            project=f"project-{n % 100}",
            network=f"network-{n % 300}",
            ips=(IPv4Address((10 << 24) + n),),
        )
        for n in range(count)
    )
    return interfaces, tuple(Host(name=f"host-{n}", addresses=(IPv4Address(f"127.9.0.{n}"),)) for n in range(EXPORTERS))


def _history(count: int, known: tuple[tuple[Interface, ...], tuple[Host, ...]]) -> History:
    history = History(capacity=2 * count, history_us=HISTORY_US, short_names=True)
    history.apply("static", Rank.STATIC, *known, at_us=1)
    return history


def _snapshot(history: History) -> Snapshot:
    return build(history.columns, history.addresses())


def inventoried(count: int) -> Snapshot:
    """Return the inventory after `count` interfaces were loaded."""
    return _snapshot(_history(count, inventory(count)))


@dataclass(frozen=True)
class Series:
    """What grows, up to which number, and what the two costs are."""

    measure: Callable[[int], Step]
    numbers: tuple[int, ...]
    record: str
    more: str


SERIES = {
    "exporters": Series(exporters, (1, 10, 100, 1_000), "decode and name", "metrics and row of an exporter, a second"),
    "templates": Series(templates, (1, 10, 100, 1_000, 10_000), "decode and name", "take in a template"),
    "pairs": Series(pairs, (1_000, 10_000, 100_000, 1_000_000), "sum", "take out a sum"),
    "interfaces": Series(interfaces, (1_000, 10_000, 100_000), "decode and name", "take in an interface, index it"),
}


def verdicts(name: str, steps: list[Step]) -> list[str]:
    """Return the steps that are worse than linear; there should be none."""
    found = []
    for before, after in pairwise(steps):
        step = f"{name} {before.number} → {after.number}"
        grown = after.number / before.number
        if after.per_record > before.per_record * grown * NOISE:
            found.append(f"{step}: the cost of a record grew more than {grown:.0f}-fold")
        if after.per_more > before.per_more * NOISE:
            found.append(f"{step}: {after.per_more / before.per_more:.2f} × the cost of one more")
    return found


def draw(file: Path) -> None:
    """Draw one panel per series, both axes logarithmic: a cost that does not grow is level."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, for this only
    from matplotlib.figure import Figure  # noqa: PLC0415

    found = json.loads(file.read_text())
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vmflow", "font.size": 8})
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axes, (name, series) in zip(figure.subplots(2, 2).flat, SERIES.items(), strict=True):
        numbers = [step["number"] for step in found[name]]
        for cost, marker, label in (("per_record", "o", series.record), ("per_more", "s", series.more)):
            whose = "a record" if cost == "per_record" else "each one"
            axes.loglog(numbers, [step[cost] for step in found[name]], marker=marker, label=f"{whose}: {label}")
        axes.set(xlabel=name, ylabel="µs of CPU", ylim=(0.05, 2000))
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="upper right", fontsize=6)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Measure the series asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw what was saved there, and measure nothing")
    parser.add_argument("series", nargs="*", metavar="SERIES", help=f"of: {', '.join(SERIES)}")
    args = parser.parse_args()
    if unknown := set(args.series) - set(SERIES):
        parser.error(f"no such series: {', '.join(sorted(unknown))}; there are {', '.join(SERIES)}")
    if args.draw:
        draw(args.draw)
        return
    gc.set_threshold(YOUNG_OBJECTS)  # as the service does
    Decoder().warm_up()
    warm_up_names()
    warm_up_sums()
    print(machine())
    results, worse = {}, []
    for name in args.series or SERIES:
        series = SERIES[name]
        print(f"\n| {name} | {series.record}, µs/record | {series.more}, µs |\n|---|---|---|", flush=True)
        steps = []
        for number in series.numbers:
            steps.append(series.measure(number))
            print(f"| {number:,} | {steps[-1].per_record:.3f} | {steps[-1].per_more:.2f} |", flush=True)
        results[name] = [asdict(step) for step in steps]
        worse += verdicts(name, steps)
    print("\n" + ("\n".join(["WORSE THAN LINEAR:", *worse]) if worse else "no step is worse than linear"))
    if args.save:
        save(args.save, results)


if __name__ == "__main__":
    main()
