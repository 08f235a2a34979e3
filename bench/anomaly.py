"""How well condition `anomaly` finds what is labelled, how often it is wrong, and what it costs.

    python -m bench.anomaly nab --data DIRECTORY [--final]
    python -m bench.anomaly microsoft --data DIRECTORY [--final]
    python -m bench.anomaly network [--pairs 1000] [--days 9]
    python -m bench.anomaly speed [--series 100000]

`nab`: the Numenta Anomaly Benchmark (github numenta/NAB, MIT), folders `data` and `labels` in DIRECTORY; scored as
Lavin and Ahmad define it (arXiv 1510.03336).  `microsoft`: microsoft/cloud-monitoring-dataset (MIT), with windows of
NAB's kind around its labels.  Files are halved by a hash of their names.  Choices are made on half A, which is printed
without `--final`; `--final` scores all files.  The limit of a file is chosen on other files: five folds, three
partitions of the files.  Intervals: 95 % of a bootstrap over files.  Beside it always the plain running z-score with
the same policy of alarms; and NAB's own windowed Gaussian without it, whose published score (39.6) checks the scorer.

`network`: made-up rates of pairs, with rhythm, bursts, sampling, lasting changes and injected faults.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.load import machine
from collector.alert.conditions import learn
from collector.alert.conditions.anomaly import Anomaly
from collector.alert.rules import Rule
from collector.alert.series import WindowSeries
from collector.alert.settings import AlertSettings

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

PROFILES = {"standard": (1.0, 0.11, 1.0), "low FP": (1.0, 0.22, 1.0), "low FN": (1.0, 0.11, 2.0)}
"""Weights of a window found, a false alarm and a window missed."""
PROBATION, PROBATION_MOST = 0.15, 750
FOLDS, PARTITIONS = 5, 3
DRAWS = 1000
LIMITS = 40
HOLD_SECONDS = 8 * 3600
HOLD_WINDOWS = (12, 100)
REPEATED, REPEATED_Z = 0.7, 0.6
"""What each alarm of a series adds to its limit."""
DAY = 1440
"""Minutes."""
MONDAY = 1_800_000_000 // 604_800 * 604_800 + 4 * 86_400
FAULTS, FAULT_MINUTES = 30, 30
STRENGTHS = {"stall": (0.0, 0.01), "collapse": (0.1, 0.3), "flood": (8.0, 20.0)}
"""Factors of the rate, drawn before the run."""
GAUSSIAN_WINDOW, GAUSSIAN_STEP = 6400, 100


@dataclass(frozen=True)
class File:
    """One labelled series."""

    name: str
    times: Numbers
    """Seconds since 1970."""
    values: Floats
    windows: list[tuple[int, int]]
    """First and last row of each."""

    @property
    def seconds(self) -> int:
        """Time between two rows."""
        return max(1, int(np.median(np.diff(self.times))))

    @property
    def hold(self) -> int:
        """Rows between two alarms."""
        return int(np.clip(round(HOLD_SECONDS / self.seconds), *HOLD_WINDOWS))

    @property
    def half(self) -> str:
        """A for choices, B for the final figures only."""
        return "AB"[hashlib.sha256(self.name.encode()).digest()[0] % 2]


def moment(text: str) -> int:
    """Seconds since 1970 of a time in UTC."""
    return int(datetime.fromisoformat(text.strip('"').replace("Z", "")).replace(tzinfo=UTC).timestamp())


def nab(root: Path) -> Iterator[File]:
    """The files of NAB."""
    labels = json.loads((root / "labels" / "combined_windows.json").read_text())
    for name, spans in sorted(labels.items()):
        with open(root / "data" / name, newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        times = np.array([moment(row[0]) for row in rows])
        ends = [(moment(first.split(".")[0]), moment(last.split(".")[0])) for first, last in spans]
        windows = [(int(np.searchsorted(times, a)), int(np.searchsorted(times, b, "right")) - 1) for a, b in ends]
        yield File(name, times, np.array([float(row[1]) for row in rows]), windows)


def microsoft(root: Path) -> Iterator[File]:
    """The series of Microsoft's corpus; a window is a tenth of a file, divided by how many anomalies it has."""
    for path in sorted(root.glob("*/*.csv")):
        with open(path, newline="") as stream:
            rows = [row for row in list(csv.reader(stream))[1:] if row[1] not in ("", "NaN")]
        flags = np.array([float(row[2] or 0) > 0 for row in rows])
        begins = np.flatnonzero(flags & ~np.r_[False, flags[:-1]])
        ends = np.flatnonzero(flags & ~np.r_[flags[1:], False])
        half = round(0.1 * len(rows) / max(1, len(begins)) / 2)
        windows: list[tuple[int, int]] = []
        for first, last in zip(begins, ends, strict=True):
            middle = (first + last) // 2
            window = (max(0, min(first, middle - half)), min(len(rows) - 1, max(last, middle + half)))
            if windows and window[0] <= windows[-1][1]:
                window = (windows.pop()[0], window[1])
            windows.append((int(window[0]), int(window[1])))
        times = np.array([moment(row[0]) for row in rows])
        yield File(f"{path.parent.name}/{path.name}", times, np.array([float(row[1]) for row in rows]), windows)


# Scoring.


def sigmoid(position: float) -> float:
    """NAB's weight of an alarm by its place: −1 is the begin of the window, 0 its end, 3 far behind it."""
    return -1.0 if position > 3 else 2 / (1 + math.exp(5 * position)) - 1


class Scorer:
    """What an alarm in each row of a file is worth."""

    def __init__(self, file: File) -> None:
        rows = len(file.values)
        self.window = np.full(rows, -1)
        """Which one a row lies in, −1 outside."""
        self.worth = np.full(rows, -1.0)
        for number, (first, last) in enumerate(file.windows):
            for row in range(last + 1, rows):
                self.worth[row] = sigmoid((row - last) / max(1, last - first))
            for row in range(first, last + 1):
                self.worth[row] = sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1)
            self.window[first : last + 1] = number
        self.windows = len(file.windows)
        self.begin = min(math.floor(PROBATION * rows), PROBATION_MOST)

    def sums(self, alarms: Numbers) -> tuple[float, float, int]:
        """What windows found are worth, what false alarms cost (negative), and how many windows are missed."""
        alarms = alarms[alarms >= self.begin]
        inside = self.window[alarms] >= 0
        found, first = np.unique(self.window[alarms[inside]], return_index=True)
        hits = self.worth[alarms[inside][first]].sum()
        return float(hits), float(self.worth[alarms[~inside]].sum()), self.windows - len(found)


def points(sums: Floats, profile: str) -> Floats:
    """NAB's score, not normalised, of sums in the last axis."""
    hit, false, missed = PROFILES[profile]
    return sums @ np.array([hit, false, -missed])


def normalised(total: float, windows: int, profile: str) -> float:
    """NAB's score of many files: 0 without any alarm, 100 for what is found at once and nothing else."""
    hit, _, missed = PROFILES[profile]
    return 100 * (total + missed * windows) / ((hit + missed) * max(1, windows))


# Detectors: evidence of each row.


def learned(file: File) -> Floats:
    """The sum of all evidence, as the condition finds it; values as they are, without a transform."""
    rows, values = np.zeros(len(file.values), np.int64), file.values
    found, peaks = np.zeros((len(rows), learn.RESULTS)), np.zeros((learn.CHANNELS, learn.STEPS), np.int64)
    scores, used = np.zeros((learn.CHANNELS, learn.STEPS)), np.zeros(learn.CHANNELS, np.uint8)
    when = learn.clock(file.times, file.seconds >= 3600)
    learn.step(
        learn.empty(1), rows, values, np.zeros(len(rows)), 1e-3 * np.abs(values), np.zeros(len(rows), np.uint8), *when,
        scores, used, np.array([99.0, 1, file.hold, 1, 0]), peaks, found,
        *learn.nothing_kept(),
    )  # fmt: skip
    return np.nan_to_num(found[:, learn.TOTAL])


def z_score(file: File) -> Floats:
    """Distance from the running mean in running standard deviations, over 6,400 rows."""
    evidence = np.zeros(len(file.values))
    mean, square = file.values[0], 0.0
    for row, value in enumerate(file.values):
        weight = max(1 / (row + 1), 1 / GAUSSIAN_WINDOW)
        if row > 20 and square > 0:
            evidence[row] = abs(value - mean) / math.sqrt(square)
        off = value - mean
        mean += weight * off
        square = (1 - weight) * (square + weight * off * off)
    return evidence


def windowed_gaussian(file: File) -> Floats:
    """NAB's own detector of this name: window 6400, step 100, saturating."""
    values = file.values
    sums, squares = (np.r_[0.0, np.cumsum(part)] for part in (values - values[0], (values - values[0]) ** 2))
    rows = np.arange(len(values))
    last = np.where(
        rows <= GAUSSIAN_WINDOW, rows, GAUSSIAN_WINDOW + (rows - GAUSSIAN_WINDOW) // GAUSSIAN_STEP * GAUSSIAN_STEP
    )
    first = np.maximum(0, last - GAUSSIAN_WINDOW)
    count = np.maximum(1, last - first)
    mean = (sums[last] - sums[first]) / count
    deviation = np.sqrt(np.maximum(0, (squares[last] - squares[first]) / count - mean**2))
    z = np.abs(values - values[0] - mean) / np.where(deviation > 0, deviation, 1e-6) / 1.4142
    evidence = 1 - 0.5 * np.array([math.erfc(one) for one in z])
    evidence[0] = 0
    return evidence


def alarms(file: File, evidence: Floats, limit: float, repeated: float) -> Numbers:
    """Rows at which an alarm is raised: none within the hold time of another, each later one must be rarer."""
    found: list[int] = []
    weight = 0.0
    beyond = np.flatnonzero(evidence >= limit)
    at = 0
    while at < len(beyond):
        row = int(beyond[at])
        left = weight * math.exp(-learn.forgets(file.seconds) * (row - found[-1])) if found else 0.0
        if evidence[row] >= limit + repeated * left:
            found.append(row)
            weight = left + 1
            at = int(np.searchsorted(beyond, row + file.hold))
        else:
            at += 1
    return np.array(found, np.int64)


def each(file: File, evidence: Floats, limit: float, repeated: float) -> Numbers:
    """All rows beyond the limit, as NAB's detectors are scored."""
    return np.flatnonzero(evidence >= limit)


Policy = Callable[[File, Floats, float, float], Numbers]


def limits_of(evidence: Sequence[Floats]) -> Floats:
    """Limits to try: the higher the closer."""
    everything = np.concatenate(evidence)
    return np.unique(np.quantile(everything, 1 - np.geomspace(1e-5, 0.05, LIMITS)))


def report(name: str, files: Sequence[File], evidence: Sequence[Floats], policy: Policy, repeated: float) -> None:
    """Print the scores of one detector."""
    limits, scorers = limits_of(evidence), [Scorer(file) for file in files]
    sums = np.array([
        [scorer.sums(policy(file, one, limit, repeated)) for limit in limits]
        for file, scorer, one in zip(files, scorers, evidence, strict=True)
    ])  # fmt: skip
    windows = np.array([scorer.windows for scorer in scorers])
    draws = np.random.default_rng(7).integers(0, len(files), (DRAWS, len(files)))
    line = f"{name:<24}"
    for profile in PROFILES:
        table = points(sums, profile)
        best = normalised(table.sum(axis=0).max(), windows.sum(), profile)
        crossed = np.array([_crossed(table, partition) for partition in range(PARTITIONS)])
        mean = np.mean([normalised(one.sum(), windows.sum(), profile) for one in crossed])
        drawn = [normalised(crossed.mean(axis=0)[one].sum(), windows[one].sum(), profile) for one in draws]
        low, high = np.percentile(drawn, (2.5, 97.5))
        line += f" | {mean:5.1f} [{low:.0f}–{high:.0f}] ({best:.1f})"
    chosen = int(np.argmax(points(sums, "standard").sum(axis=0)))
    false = sum(
        int(np.count_nonzero(scorer.window[(raised := policy(file, one, limits[chosen], repeated))[
            raised >= scorer.begin]] < 0))
        for file, scorer, one in zip(files, scorers, evidence, strict=True)
    )  # fmt: skip
    print(f"{line} | {windows.sum() - int(sums[:, chosen, 2].sum())}/{windows.sum()}, {false}", flush=True)


def _crossed(table: Floats, partition: int) -> Floats:
    """Scores of files, each with the limit that is best on the files of the other folds."""
    fold = np.random.default_rng(partition).permutation(len(table)) % FOLDS
    scores = np.zeros(len(table))
    for number in range(FOLDS):
        scores[fold == number] = table[fold == number, int(np.argmax(table[fold != number].sum(axis=0)))]
    return scores


def corpus(files: list[File], final: bool) -> None:
    """Score all detectors on a corpus."""
    files = [file for file in files if final or file.half == "A"]
    windows = sum(len(file.windows) for file in files)
    print(
        f"{'all files' if final else 'half A'}: {len(files)} files, {windows} windows; limit of other folds, "
        "[95 % over files], (one limit, chosen on the same files); found, false with that"
    )
    print(f"{'':<24} | " + " | ".join(f"{name:<20}" for name in PROFILES))
    report("windowed Gaussian, bare", files, [windowed_gaussian(file) for file in files], each, 0)
    plain = [z_score(file) for file in files]
    report("running z, bare", files, plain, each, 0)
    report("running z, policy", files, plain, alarms, REPEATED_Z)
    found = [learned(file) for file in files]
    report("anomaly, bare", files, found, each, 0)
    report("anomaly, policy", files, found, alarms, REPEATED)


def speed(series: int) -> None:
    """Time one window of many series."""
    rng = np.random.default_rng(1)
    state, rows = learn.empty(series), np.arange(series)
    found, peaks = np.zeros((series, learn.RESULTS)), np.zeros((learn.CHANNELS, learn.STEPS), np.int64)
    scores = np.tile(np.arange(learn.STEPS) / learn.STEPS_PER_UNIT - 10, (learn.CHANNELS, 1))
    used, no = np.ones(learn.CHANNELS, np.uint8), np.zeros(series, np.uint8)
    policy, variances, floors = np.array([0.0, 1, 100, 3, 1e-4]), np.full(series, 1e-4), np.full(series, 0.02)
    kept = learn.nothing_kept()
    levels, took = rng.normal(10, 2, series), []
    for window in range(80):
        values = levels + rng.normal(0, 0.3, series)
        begun = time.thread_time()
        when = learn.clock(np.array([1_800_014_400 + 60 * window]), hourly=False)
        learn.step(state, rows, values, variances, floors, no, *when, scores, used, policy, peaks, found, *kept)
        took.append(time.thread_time() - begun)
    late = took[60:]
    print(
        f"{series} series, one window: {np.median(late):.3f} s of one core (median of {len(late)} windows, worst "
        f"{max(late):.3f} s); {4 * learn.WIDTH} octets a series"
    )


# A network that is made up.


@dataclass
class Network:
    """Rates of pairs by minute, and what was done to them."""

    pairs: int
    days: int
    learn_days: int
    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        pairs, minutes, first = self.pairs, self.days * DAY, self.learn_days * DAY
        self.rng = rng
        self.rate = 10 ** rng.uniform(4.5, 8, pairs)
        self.rhythm, self.phase = rng.uniform(0, 0.8, pairs), rng.normal(0, 0.6, pairs)
        self.noise = rng.uniform(0.05, 0.35, pairs)
        self.sampling = rng.choice([1, 64, 400], pairs)
        self.begin = np.where(np.arange(pairs) % 10 == 1, rng.integers(0, minutes, pairs), 0)
        self.batch = np.arange(pairs) % 10 == 2
        self.batch_at, self.batch_long = rng.integers(0, DAY, pairs), rng.integers(5, 60, pairs)
        self.events: dict[int, list[tuple[int, int, float]]] = {}
        """By minute in which they begin: pair, minutes (0: it lasts), factor."""
        share = pairs / 1000
        for _ in range(round(300 * share * self.days)):
            self._add(minutes, 0, int(rng.integers(1, 30)), min(50.0, 1 + rng.pareto(1.5)))
        for _ in range(round(11 * share * self.days)):
            self._add(minutes, 0, 0, float(np.exp(rng.choice([-1, 1]) * rng.uniform(0.4, 1.6))))
        self.moves = rng.integers(0, (minutes, pairs), (round(7 * share * self.days), 2))
        for at, pair in self.moves:
            self.events.setdefault(int(at), []).append((int(pair), 2, 0.3))
        steady = rng.permutation(np.flatnonzero(~self.batch & (self.begin < first - DAY)))
        self.faults: list[tuple[str, int, int]] = []
        """Kind, pair, minute; each on a pair of its own."""
        for number, pair in enumerate(steady[: 3 * FAULTS]):
            kind = tuple(STRENGTHS)[number % 3]
            at = int(rng.integers(first, minutes - FAULT_MINUTES))
            strength = rng.uniform(*STRENGTHS[kind])
            self.faults.append((kind, int(pair), at))
            self.events.setdefault(at, []).append((int(pair), FAULT_MINUTES, float(strength)))

    def _add(self, minutes: int, first: int, length: int, factor: float) -> None:
        at, pair = int(self.rng.integers(first, minutes)), int(self.rng.integers(0, self.pairs))
        self.events.setdefault(at, []).append((pair, length, factor))

    def frames(self, masked: bool) -> Iterator[WindowSeries]:
        """A window for each minute; without `masked`, nobody says that a VM moved."""
        pairs, rng = self.pairs, self.rng
        wander, factor = np.zeros(pairs), np.ones(pairs)
        ends: dict[int, list[tuple[int, float]]] = {}
        host, other = np.zeros(pairs, np.int64), pa.array(["h"] * pairs)
        moves = {(int(at), int(pair)) for at, pair in self.moves}
        moved: dict[int, list[int]] = {}
        for at, pair in moves:
            moved.setdefault(at, []).append(pair)
        hosts, yes = pa.array(host.astype(str)), np.ones(pairs, bool)
        names = np.arange(1, pairs + 1).astype(np.uint64)
        for minute in range(self.days * DAY):
            for pair, length, strength in self.events.get(minute, ()):
                factor[pair] *= strength
                if length:
                    ends.setdefault(minute + length, []).append((pair, strength))
            for pair, strength in ends.pop(minute, ()):
                factor[pair] /= strength
            if masked and minute in moved:
                host[moved[minute]] += 1
                hosts = pa.array(host.astype(str))
            wander = 0.9 * wander + rng.normal(0, 1, pairs) * self.noise * math.sqrt(1 - 0.81)
            day = 2 * np.pi * minute / DAY
            weekday = (minute // DAY) % 7 < 5
            shape = np.exp(self.rhythm * (np.sin(day + self.phase) - (0 if weekday else 0.7)))
            packets = self.rate * shape * np.exp(wander) * factor * 60 / 6400
            seen = rng.poisson(packets / self.sampling)
            scale = self.sampling * 6400 / 60
            value = seen * scale
            reach = np.where(self.sampling > 1, 1.96 * scale * np.sqrt(seen + 1), 0)
            here = (
                (minute >= self.begin) & (~self.batch | ((minute - self.batch_at) % DAY < self.batch_long)) & (seen > 0)
            )
            value = np.where(here, value, np.nan)
            figures = {
                "bits_per_second": value, "bits_per_second_low": np.maximum(0, value - reach),
                "bits_per_second_high": value + reach, "bits_per_second_samples": seen.astype(float),
            }  # fmt: skip
            start = (MONDAY + 60 * minute) * 1_000_000
            texts = {"src_host": hosts, "dst_host": other}
            yield WindowSeries(start, start + 60_000_000, names, yes, figures, texts, {}, yes)


def network(pairs: int, days: int, learn_days: int, masked: bool, seed: int) -> None:
    """Count false alerts and faults found at three budgets."""
    made = Network(pairs, days, learn_days, seed)
    rule = Rule(name="rate", scope="pair", condition="anomaly", measure="bits_per_second", alerts_per_day=10)
    judge = Anomaly.of(rule, AlertSettings())
    assert isinstance(judge, Anomaly)
    first = learn_days * DAY
    scores = np.full((days * DAY - first, pairs), -9.0, np.float32)
    begun = time.thread_time()
    for minute, frame in enumerate(made.frames(masked)):
        judge._step(frame)
        if minute >= first:
            rows = judge._memory.find(frame.series, 0)[0]
            known = learn.judged(judge._memory.rows, rows) & (judge._memory.masked[rows] * 10**6 < frame.end_us)
            scores[minute - first] = np.where(known, np.nan_to_num(judge._found[:, learn.SCORE], nan=-9), -9)
    print(
        f"{pairs} pairs, {days} days of which {learn_days} to learn, {'known moves' if masked else 'unknown moves'}; "
        f"{time.thread_time() - begun:.0f} s of one core"
    )
    watched = (days - learn_days) * pairs / 1000
    for budget in (1, 3, 10):
        raised = [(at + first, pair) for pair in range(pairs) for at in onsets(scores[:, pair], -math.log10(budget))]
        found, excused = {}, set()
        for kind, pair, at in made.faults:
            hits = [minute for minute, one in raised if one == pair and at <= minute < at + FAULT_MINUTES]
            excused |= {
                (minute, one) for minute, one in raised if one == pair and at <= minute < at + FAULT_MINUTES + 120
            }
            if hits:
                found.setdefault(kind, []).append(min(hits) - at)
        false = len(raised) - len(excused)
        low, high = poisson_interval(false)
        each = ", ".join(
            f"{kind} {len(found.get(kind, ()))}/{FAULTS} after {np.median(found.get(kind, [np.nan])):.0f} min"
            for kind in STRENGTHS
        )
        print(
            f"budget {budget:>2}: {false / watched:.1f} [{low / watched:.1f}–{high / watched:.1f}] false a day; "
            f"found {each}",
            flush=True,
        )


def onsets(scores: NDArray[np.float32], base: float) -> list[int]:
    """Windows in which an alert begins, by the policy of `learn.decide`."""
    hold = int(np.clip(HOLD_SECONDS / 60, *HOLD_WINDOWS))
    found: list[int] = []
    weight, peak = 0.0, -9.0
    for at in np.flatnonzero(scores >= base).tolist():
        left = weight * math.exp(-learn.forgets(60) * (at - found[-1])) if found else 0.0
        score = float(scores[at])
        if found and at - found[-1] < hold and score < peak + learn.RARER:
            continue
        if score >= base + learn.REPEATED * left:
            found.append(at)
            weight, peak = left + 1, score
    return found


def poisson_interval(count: int) -> tuple[float, float]:
    """The 95 % interval of a count, by Garwood's limits in Wilson and Hilferty's form."""
    low = count * (1 - 1 / (9 * count) - 1.96 / (3 * math.sqrt(count))) ** 3 if count else 0.0
    high = (count + 1) * (1 - 1 / (9 * (count + 1)) + 1.96 / (3 * math.sqrt(count + 1))) ** 3
    return low, high


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.anomaly", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("nab", "microsoft", "network", "speed"))
    parser.add_argument("--data", type=Path, help="folder of the corpus")
    parser.add_argument("--final", action="store_true", help="score all files, not only half A")
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--days", type=int, default=9)
    parser.add_argument("--learn-days", type=int, default=5)
    parser.add_argument("--seed", type=int, default=6, help="network: another number is another one")
    parser.add_argument("--unknown", action="store_true", help="network: nobody says that a VM moved")
    args = parser.parse_args()
    print(machine())
    if args.what == "speed":
        speed(args.series)
    elif args.what == "network":
        network(args.pairs, args.days, args.learn_days, not args.unknown, args.seed)
    else:
        corpus(list({"nab": nab, "microsoft": microsoft}[args.what](args.data)), args.final)


if __name__ == "__main__":
    main()
