"""What evaluation costs, and how often the default rules are wrong.

    python -m bench.alerts speed [--pairs 100000]
    python -m bench.alerts days [--pairs 1000] [--hours 48] [--faults 40]

`speed`: windows of so many pairs in the embedded store, from the query to the states, for each condition by itself.

`days`: rows of `pair_10s` as exporters would have caused them, with a rhythm of a day and injected losses, then the
default rules for pairs over all windows, through the views.  A third of the pairs is not sampled, a third 1 in 64, a
third 1 in 400.  Of the packets of the last second, up to seven in ten are counted in the next window at the
destination, another share in each window: exporters report with up to a second of delay.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from clickhouse_connect.driver import Client

from bench.__main__ import machine
from bench.alert_rows import SECOND_US, WINDOW_S, Numbers, insert, made, parts, report
from bench.alert_speed import speed
from collector.alert.backtest import BacktestResult, replay
from collector.alert.rules import DEFAULTS
from collector.alert.settings import AlertSettings

DAY_S = 86_400
RATES = np.array([1, 64, 400])
BACKGROUND = 1e-4
"""Loss of pairs that are well: no network loses nothing."""
PROOF_SIGMAS = 6.0
"""A day of 1,000 pairs has 8.6 million windows: chance goes this far in one of 10⁹."""
RULES = {rule.name: rule for rule in DEFAULTS}


@dataclass(frozen=True)
class Fault:
    """A pair that loses packets for a while."""

    pair: int
    begin_s: int
    end_s: int
    loss: float


def make_faults(rng: np.random.Generator, count: int, pairs: int, begin_s: int, hours: int) -> list[Fault]:
    """Losses of 3 to 20 % for 10 to 60 minutes, each in a pair of its own, one per hour and pair at most."""
    found = []
    for pair in rng.choice(pairs, count, replace=False).tolist():
        start = begin_s + int(rng.integers(600, hours * 3600 - 4200)) // WINDOW_S * WINDOW_S
        found.append(Fault(pair, start, start + int(rng.integers(60, 360)) * WINDOW_S, float(rng.uniform(0.03, 0.2))))
    return found


def fill(client: Client, rng: np.random.Generator, pairs: int, begin_s: int, hours: int, faults: list[Fault]) -> None:
    """The rows of all windows, hour by hour."""
    rate = RATES[np.arange(pairs) % len(RATES)]
    # Packets per second: a few tens of some, thousands of others; with 1 in 400 only the busier ones show anything.
    speed = rng.lognormal(np.log(200), 1, pairs) * np.where(rate == 400, 20, np.where(rate == 64, 5, 1))
    phase = rng.normal(0, 3600, pairs)
    late: Numbers = np.zeros(pairs, np.int64)
    for hour in range(hours):
        times = begin_s + hour * 3600 + np.arange(360) * WINDOW_S
        rhythm = 0.55 + 0.45 * np.sin(2 * np.pi * (times[:, None] + phase) / DAY_S)
        burst = rng.lognormal(0, 0.3, (360, pairs))
        packets = rng.poisson(speed * WINDOW_S * rhythm * burst)
        loss = np.full((360, pairs), BACKGROUND)
        for fault in faults:
            loss[(times >= fault.begin_s) & (times < fault.end_s), fault.pair] = fault.loss
        sent = parts(rng, packets)
        first, middle, last = (rng.binomial(part, 1 - loss) for part in sent)
        delayed = rng.binomial(last, rng.uniform(0, 0.7, last.shape))
        before = np.vstack((late, delayed[:-1]))
        late = delayed[-1]
        number = np.broadcast_to(np.arange(pairs), packets.shape).ravel()
        begins = np.repeat(times, pairs)
        rates = np.broadcast_to(rate, packets.shape).ravel()
        for side, counted in (("source", sent), ("destination", (first + before, middle, last - delayed))):
            first, middle, last = (part.ravel() for part in counted)
            told = report(rng, (first, middle, last), rates)
            here = told["samples"] > 0
            insert(
                client,
                "pair_10s",
                begins[here],
                number[here],
                side,
                sampling_rate_max=rates[here].astype(np.uint32),
                records=told["samples"][here],
                **{name: values[here] for name, values in told.items()},
            )


def days(pairs: int, hours: int, faults: int) -> None:
    """Print what the default rules for pairs would have said."""
    rng = np.random.default_rng(11)
    begin_s = (int(time.time()) // DAY_S - 3) * DAY_S
    injected = make_faults(rng, faults, pairs, begin_s, hours)
    with made() as client:
        begun = time.monotonic()
        fill(client, rng, pairs, begin_s, hours, injected)
        print(f"{hours} h of {pairs} pairs written in {time.monotonic() - begun:.0f} s")
        begun = time.monotonic()
        rules = [RULES["pair_loss"], RULES["pair_loss_lasting"]]
        span = (begin_s * SECOND_US, (begin_s + hours * 3600) * SECOND_US)
        tallies = replay(client, rules, AlertSettings(), *span)
        print(f"replayed in {time.monotonic() - begun:.0f} s")
        found: set[int] = set()
        for tally in tallies:
            found |= tell(tally, injected, hours)
        print(f"{len(found)} of {len(injected)} faults found")
        proofs = [sigmas(client, fault) for fault in injected]
        provable = {number for number, proof in enumerate(proofs) if proof >= PROOF_SIGMAS}
        print(f"{len(found & provable)} of the {len(provable)} whose samples hold at least {PROOF_SIGMAS:g} σ in all")
        for number, fault in enumerate(injected):
            if number not in found:
                rate = RATES[fault.pair % len(RATES)]
                print(f"  missed: {fault}, sampled 1 in {rate}, {proofs[number]:.1f} σ, {seen(client, fault)}")


def tell(tally: BacktestResult, injected: list[Fault], hours: int) -> set[int]:
    """Print what one rule would have said; returns the numbers of the faults that it found."""
    found, wrong, delays = set(), [], []
    for alert in tally.alerts:
        pair = int(alert.labels["src_vm"][3:]) // 2
        hit = next((n for n, f in enumerate(injected) if f.pair == pair and _during(f, alert.since_us)), None)
        if hit is None:
            wrong.append(alert)
        elif hit not in found:
            found.add(hit)
            delays.append(alert.fired_us / SECOND_US - injected[hit].begin_s)
    delay = f"{np.median(delays):.0f} s, at most {max(delays):.0f} s" if delays else "-"
    print(
        f"{tally.rule.name}: {tally.windows} windows, {tally.fired} alerts, {len(wrong)} false "
        f"({len(wrong) * 24 / hours:.2f} a day), {len(found)} faults; begin of the fault to alert: median {delay}"
    )
    for alert in wrong[:10]:
        print(f"  false: pair {alert.labels['src_vm']} {alert.low} {alert.value} {alert.samples} {alert.evidence}")
    return found


def seen(client: Client, fault: Fault) -> str:
    """What the minutes of a fault rest on."""
    told, count, samples = client.query(
        "SELECT countIf(loss_ratio IS NOT NULL), count(), avg(samples) FROM pair_metrics_1m "
        f"WHERE src_vm = 'vm-{2 * fault.pair:06d}' AND time >= toDateTime({fault.begin_s}, 'UTC') "
        f"AND time < toDateTime({fault.end_s}, 'UTC')"
    ).result_rows[0]
    return f"loss can be told in {told} of {count} minutes, {samples:.0f} samples in each"


def sigmas(client: Client, fault: Fault) -> float:
    """How far all samples of a fault together are beyond the limit of 1 %, in standard deviations.

    Of whatever detector: what is below `PROOF_SIGMAS` cannot be told from chance with less than a false alert a day.
    """
    sent, sent_variance, received, received_variance = client.query(
        "SELECT sumIf(packets, sighting = 'source') AS sent, sumIf(packets_variance, sighting = 'source'), "
        "sumIf(packets, sighting = 'destination') AS received, sumIf(packets_variance, sighting = 'destination') "
        f"FROM pair_10s WHERE src_vm = 'vm-{2 * fault.pair:06d}' AND time >= toDateTime({fault.begin_s}, 'UTC') "
        f"AND time < toDateTime({fault.end_s}, 'UTC')"
    ).result_rows[0]
    if not sent or not received:
        return 0.0
    deviation = np.sqrt(sent_variance / sent**2 + received_variance / received**2)
    distance = np.log(sent / received) + np.log1p(-RULES["pair_loss"].limit)
    return float(distance / deviation) if deviation > 0 else float(np.sign(distance) * np.inf)


def _during(fault: Fault, since_us: int) -> bool:
    """Whether a window that begins then holds a part of the fault; the longest of them are a minute."""
    return (fault.begin_s - 60) * SECOND_US < since_us < fault.end_s * SECOND_US


def main() -> None:
    """Run what was asked for."""
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
