"""The cost of evaluation, and how often the default rules are wrong.

    python -m bench.alerts speed [--pairs 100000]
    python -m bench.alerts days [--pairs 1000] [--hours 48] [--faults 40]

`speed`: windows of the given number of pairs in the embedded store, from the query to the states, each condition
separately.  Each pair was active in each minute of the last hour and in the same hour of the days before.  One in a
thousand has a problem in the last windows: it loses packets, approaches a limit, is silent, or carries ten times the
usual.

`days`: rows of `pair_10s` as exporters would cause them, with a daily rhythm and injected losses, then the default
rules for pairs over all windows, through the views.  A third of the pairs is not sampled, a third 1 in 64, a third 1 in
400.  Of the packets of the last second, up to 70 % are counted in the next window at the destination, a different share
in each window: exporters report with up to a second of delay.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from bench.load import machine
from collector.alert.backtest import BacktestResult, replay
from collector.alert.evaluate import Evaluator
from collector.alert.rules import DEFAULTS, Rule
from collector.alert.settings import AlertSettings
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import set_up

Numbers = NDArray[np.int64]
Parts = tuple[Numbers, Numbers, Numbers]
"""Packets of windows: of the first second, of the eight in the middle, of the last one."""

SECOND_US = 1_000_000
WINDOW_S = 10
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400
HOSTS = 60

PAST = 60
"""Windows of a minute before those evaluated: as many as a trend and an absence read at their start."""
LOOKED = 5
DAYS = 28
RATE = 64
WRONG = 1000
"""One pair in this many."""
MEASURED = (
    Rule(name="threshold", scope="pair", measure="loss_ratio", above=0.01, certain_windows=1e7, for_seconds=300),
    Rule(name="absent", scope="pair", condition="absent", windows=3),
    Rule(name="trend", scope="pair", condition="trend", measure="bits_per_second", above=1.5e7, within_seconds=3600),
    Rule(name="baseline", scope="pair", condition="baseline", measure="bits_per_second"),
)

RATES = np.array([1, 64, 400])
BACKGROUND = 1e-4
"""Loss of healthy pairs: every network loses something."""
PROOF_SIGMAS = 6.0
"""A day of 1,000 pairs has 8.6 million windows: chance exceeds this in one of 10⁹."""
RULES = {rule.name: rule for rule in DEFAULTS}


@contextmanager
def stored() -> Iterator[Client]:
    """Yield an embedded store that keeps all that is written here."""
    with tempfile.TemporaryDirectory() as directory:
        settings = StoreSettings(url=f"chdb://{Path(directory) / 'store'}", ttl_days={"pair_10s": 30, "pair_1m": 30})
        client = open_client(settings)
        set_up(client, settings)
        yield client
        client.close()


def parts_of(rng: np.random.Generator, packets: Numbers) -> Parts:
    """Spread the packets of windows over their seconds."""
    first = rng.binomial(packets, 1 / WINDOW_S)
    last = rng.binomial(packets - first, 1 / (WINDOW_S - 1))
    return first, packets - first - last, last


def insert(
    client: Client, rng: np.random.Generator, table: str, begin_s: Numbers, pair: Numbers, rate: Numbers, side: str,
    counted: Parts,
) -> None:  # fmt: skip
    """Make rows of a rollup of pairs, one per window and pair: what a switch at one side reports of these packets."""
    first, middle, last = (rng.binomial(part, 1 / rate) for part in counted)
    seen = first + middle + last
    here = np.flatnonzero(seen)
    pair, rate, samples = pair[here], rate[here], seen[here]
    names = pa.array([f"vm-{number:06d}" for number in range(2 * (int(pair.max()) + 1))])
    hosts = pa.array([f"host-{number:02d}" for number in range(HOSTS)])
    variance = rate * (rate - 1.0) * samples
    measures = {
        "records": samples,
        "packets": samples * rate,
        "packets_variance": variance,
        "bytes": samples * rate * 800,
        "bytes_variance": variance * 800**2,
        "samples": samples,
        "first_packets": first[here] * rate,
        "last_packets": last[here] * rate,
    }
    columns = {
        "time": pa.array(begin_s[here].astype(np.uint32)),
        "src_vm": names.take(pa.array(2 * pair)),
        "dst_vm": names.take(pa.array(2 * pair + 1)),
        "src_host": hosts.take(pa.array(pair % HOSTS)),
        "dst_host": hosts.take(pa.array((pair * 7 + 1) % HOSTS)),
        "network": pa.array(np.full(len(here), "net")),
        "sighting": pa.array(np.full(len(here), side)),
        "sampling_rate_max": pa.array(rate.astype(np.uint32)),
        **{name: pa.array(values.astype(np.float64)) for name, values in measures.items()},
    }
    client.insert_arrow(table, pa.table(columns))


def speed(pairs: int) -> None:
    """Print what the first window and those after it cost, for each condition separately."""
    rng = np.random.default_rng(12)
    hour_s = int(time.time()) // HOUR_S * HOUR_S
    # The windows evaluated lie within one hour, so that a baseline reads once.
    first_s = hour_s - HOUR_S + 10 * MINUTE_S
    with stored() as client:
        begun = time.monotonic()
        for number in range(-PAST, LOOKED):
            _minute(client, rng, pairs, first_s + number * MINUTE_S, number)
        for day in range(1, DAYS + 1):
            begin_s = hour_s - HOUR_S - day * DAY_S
            _write(client, rng, "pair_1h", begin_s, np.full(pairs, 1_200_000), np.zeros(pairs))
        rows = 2 * pairs * (PAST + LOOKED + DAYS)
        print(f"{rows} rows written in {time.monotonic() - begun:.0f} s")
        while client.query("SELECT count() FROM system.merges").result_rows[0][0]:
            time.sleep(1)
        for rule in MEASURED:
            _measure(client, rule, first_s)


def _minute(client: Client, rng: np.random.Generator, pairs: int, begin_s: int, number: int) -> None:
    """Make 20,000 packets of each pair; pairs 0, 1000 ... lose, 1, 1001 ... grow, 2 ... fall silent, 3 ... burst."""
    kind = np.arange(pairs) % WRONG
    packets = np.full(pairs, 20_000)
    packets[kind == 1] += (number + PAST) * 1_500
    loss = np.zeros(pairs)
    if number >= 0:
        loss[kind == 0] = 0.6
        packets[kind == 2] = 0
        packets[kind == 3] *= 10
    _write(client, rng, "pair_1m", begin_s, packets, loss)


def _write(
    client: Client, rng: np.random.Generator, table: str, begin_s: int, packets: Numbers, loss: NDArray[np.float64]
) -> None:
    """Make one window of all pairs, as both sides report it."""
    sent, count = rng.poisson(packets), len(packets)
    for side, counted in (("source", sent), ("destination", rng.binomial(sent, 1 - loss))):
        begins, rates = np.full(count, begin_s), np.full(count, RATE)
        insert(client, rng, table, begins, np.arange(count), rates, side, parts_of(rng, counted))


def _measure(client: Client, rule: Rule, first_s: int) -> None:
    """Measure from the query to the states, window after window; first the past, which is read between windows."""
    evaluator = Evaluator(AlertSettings(), [rule])
    seconds, fired, failed = [], 0, []
    begun, first_us = time.monotonic(), first_s * SECOND_US
    while (outcome := evaluator.evaluate(client, rule.level, first_us - MINUTE_S * SECOND_US, first_us)).put_off:
        continue
    past = time.monotonic() - begun
    fired += sum(change.event == "firing" for change in outcome.changes)
    for number in range(LOOKED):
        start_us = (first_s + number * MINUTE_S) * SECOND_US
        begun = time.monotonic()
        outcome = evaluator.evaluate(client, rule.level, start_us, start_us + MINUTE_S * SECOND_US)
        seconds.append(time.monotonic() - begun)
        fired += sum(change.event == "firing" for change in outcome.changes)
        failed += [str(error).splitlines()[0][:200] for error in outcome.failed.values()]
    print(
        f"{rule.name}: past and first window {past:.1f} s, later ones {np.median(seconds):.2f} s (median, at most "
        f"{max(seconds):.2f} s), {fired} fire", *failed
    )  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A pair that loses packets for a while."""

    pair: int
    begin_s: int
    end_s: int
    loss: float

    @property
    def rows(self) -> str:
        """Chooses the rows of a view or table that hold it."""
        return (
            f"src_vm = 'vm-{2 * self.pair:06d}' AND time >= toDateTime({self.begin_s}, 'UTC') "
            f"AND time < toDateTime({self.end_s}, 'UTC')"
        )


def make_faults(rng: np.random.Generator, count: int, pairs: int, begin_s: int, hours: int) -> list[Fault]:
    """Make losses of 3 to 20 % for 10 to 60 minutes, each in its own pair, at most one per hour and pair."""
    found = []
    for pair in rng.choice(pairs, count, replace=False).tolist():
        start = begin_s + int(rng.integers(600, hours * HOUR_S - 4200)) // WINDOW_S * WINDOW_S
        found.append(Fault(pair, start, start + int(rng.integers(60, 360)) * WINDOW_S, float(rng.uniform(0.03, 0.2))))
    return found


def fill(client: Client, rng: np.random.Generator, pairs: int, begin_s: int, hours: int, faults: list[Fault]) -> None:
    """Make the rows of all windows, hour by hour."""
    rate = RATES[np.arange(pairs) % len(RATES)]
    # Packets per second: a few tens for some pairs, thousands for others; with 1 in 400 only busier ones are visible.
    speed = rng.lognormal(np.log(200), 1, pairs) * np.where(rate == 400, 20, np.where(rate == 64, 5, 1))
    phase = rng.normal(0, HOUR_S, pairs)
    late: Numbers = np.zeros(pairs, np.int64)
    for hour in range(hours):
        times = begin_s + hour * HOUR_S + np.arange(HOUR_S // WINDOW_S) * WINDOW_S
        rhythm = 0.55 + 0.45 * np.sin(2 * np.pi * (times[:, None] + phase) / DAY_S)
        packets = rng.poisson(speed * WINDOW_S * rhythm * rng.lognormal(0, 0.3, rhythm.shape))
        loss = np.full(packets.shape, BACKGROUND)
        for fault in faults:
            loss[(times >= fault.begin_s) & (times < fault.end_s), fault.pair] = fault.loss
        sent = parts_of(rng, packets)
        first, middle, last = (rng.binomial(part, 1 - loss) for part in sent)
        delayed = rng.binomial(last, rng.uniform(0, 0.7, last.shape))
        before = np.vstack((late, delayed[:-1]))
        late = delayed[-1]
        number = np.broadcast_to(np.arange(pairs), packets.shape).ravel()
        rates = np.broadcast_to(rate, packets.shape).ravel()
        begins = np.repeat(times, pairs)
        for side, counted in (("source", sent), ("destination", (first + before, middle, last - delayed))):
            first, middle, last = (part.ravel() for part in counted)
            insert(client, rng, "pair_10s", begins, number, rates, side, (first, middle, last))


def days(pairs: int, hours: int, faults: int) -> None:
    """Print the alerts that the default rules for pairs would raise."""
    rng = np.random.default_rng(11)
    begin_s = (int(time.time()) // DAY_S - 3) * DAY_S
    injected = make_faults(rng, faults, pairs, begin_s, hours)
    with stored() as client:
        begun = time.monotonic()
        fill(client, rng, pairs, begin_s, hours, injected)
        print(f"{hours} h of {pairs} pairs written in {time.monotonic() - begun:.0f} s")
        begun = time.monotonic()
        rules = [RULES["pair_loss"], RULES["pair_loss_lasting"]]
        span = (begin_s * SECOND_US, (begin_s + hours * HOUR_S) * SECOND_US)
        results = replay(client, rules, AlertSettings(), *span)
        print(f"replayed in {time.monotonic() - begun:.0f} s")
        found: set[int] = set()
        for result in results:
            found |= report(result, injected, hours)
        print(f"{len(found)} of {len(injected)} faults found")
        proofs = [sigmas(client, fault) for fault in injected]
        provable = {number for number, proof in enumerate(proofs) if proof >= PROOF_SIGMAS}
        print(f"{len(found & provable)} of the {len(provable)} whose samples hold at least {PROOF_SIGMAS:g} σ in all")
        for number, fault in enumerate(injected):
            if number not in found:
                rate = RATES[fault.pair % len(RATES)]
                print(f"  missed: {fault}, sampled 1 in {rate}, {proofs[number]:.1f} σ, {seen(client, fault)}")


def report(result: BacktestResult, injected: list[Fault], hours: int) -> set[int]:
    """Print the alerts that one rule would raise; returns the numbers of the faults that it found."""
    found, wrong, delays = set(), [], []
    for alert in result.alerts:
        pair = int(alert.labels["src_vm"][3:]) // 2
        hit = next((n for n, f in enumerate(injected) if f.pair == pair and _during(f, alert.since_us)), None)
        if hit is None:
            wrong.append(alert)
        elif hit not in found:
            found.add(hit)
            delays.append(alert.fired_us / SECOND_US - injected[hit].begin_s)
    delay = f"{np.median(delays):.0f} s, at most {max(delays):.0f} s" if delays else "-"
    print(
        f"{result.rule.name}: {result.windows} windows, {result.fired} alerts, {len(wrong)} false "
        f"({len(wrong) * 24 / hours:.2f} a day), {len(found)} faults; begin of the fault to alert: median {delay}"
    )
    for alert in wrong[:10]:
        print(f"  false: pair {alert.labels['src_vm']} {alert.low} {alert.value} {alert.samples} {alert.evidence}")
    return found


def seen(client: Client, fault: Fault) -> str:
    """Return what is known of the loss in a fault's minutes, and from how many samples."""
    known, count, samples = client.query(
        f"SELECT countIf(loss_ratio IS NOT NULL), count(), avg(samples) FROM pair_metrics_1m WHERE {fault.rows}"
    ).result_rows[0]
    return f"loss is known in {known} of {count} minutes, {samples:.0f} samples in each"


def sigmas(client: Client, fault: Fault) -> float:
    """Return how far all samples of a fault together are beyond the limit of 1 %, in standard deviations.

    For any detector: below `PROOF_SIGMAS` a fault cannot be distinguished from chance with less than one false alert
    per day.
    """
    sent, sent_variance, received, received_variance = client.query(
        "SELECT sumIf(packets, sighting = 'source') AS sent, sumIf(packets_variance, sighting = 'source'), "
        "sumIf(packets, sighting = 'destination') AS received, sumIf(packets_variance, sighting = 'destination') "
        f"FROM pair_10s WHERE {fault.rows}"
    ).result_rows[0]
    if not sent or not received:
        return 0.0
    deviation = np.sqrt(sent_variance / sent**2 + received_variance / received**2)
    distance = np.log(sent / received) + np.log1p(-RULES["pair_loss"].limit)
    return float(distance / deviation) if deviation > 0 else float(np.sign(distance) * np.inf)


def _during(fault: Fault, since_us: int) -> bool:
    """Return whether a window that begins then holds a part of the fault; the longest windows are a minute."""
    return (fault.begin_s - MINUTE_S) * SECOND_US < since_us < fault.end_s * SECOND_US


def main() -> None:
    """Run the measurement asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.alerts", description=__doc__)
    parser.add_argument("what", choices=("speed", "days"))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--hours", type=int, default=48)
    parser.add_argument("--faults", type=int, default=40)
    args = parser.parse_args()
    print(machine())
    if args.what == "speed":
        speed(args.pairs or 100_000)
    else:
        days(args.pairs or 1000, args.hours, args.faults)


if __name__ == "__main__":
    main()
