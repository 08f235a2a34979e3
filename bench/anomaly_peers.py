"""How well condition `anomaly` finds scans and exfiltration by what VMs send to whom.

    python -m bench.anomaly_peers [--vms 1000] [--days 5] [--learn-days 3] [--seed 6]

A made-up network: each VM sends to 2 to 60 others, to some now and then, with a rhythm and heavy-tailed volumes; each
peer answers in its own proportion.  One exporter in three samples 1 : 64, one 1 : 400, so that few packets are seen.
Benign: 300 bursts a day and 1,000 VMs with one peer, both ways, 11 VMs a day that get a quarter to twice as many peers
for good, a new peer every other day for each, and a daily backup of every tenth VM to one peer.
Faults, 30 of each, drawn before the run, 30 min long: a scan sends 3 packets to 30 to 300 other VMs a minute, each
once; an exfiltration sends 5 to 50 times what the VM usually sends to one that is outside, and gets 2 % back.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.anomaly import DAY, FAULT_MINUTES, FAULTS, MONDAY, onsets, poisson_interval
from bench.load import machine
from collector.alert.conditions import learn
from collector.alert.conditions.anomaly import Anomaly
from collector.alert.rules import Rule
from collector.alert.series import WindowSeries
from collector.alert.settings import AlertSettings

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

RULES = (
    ("peers", "above", 10), ("new_peers", "above", 10), ("peer_entropy", "below", 0.1), ("sent_share", "above", 0.1),
    ("sent_bits_per_second", "above", 1e6),
)  # fmt: skip
"""Measure, direction and least change."""
OCTETS = 800
"""Of a packet."""
SCAN_PEERS, SCAN_PACKETS = (30, 300), 3
EXFILTRATION, BACK = (5.0, 50.0), 0.02
KINDS = ("scan", "exfiltration")


class Vms:
    """Links of VMs, and what was done to them."""

    def __init__(self, vms: int, days: int, learn_days: int, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.vms, minutes, first = vms, days * DAY, learn_days * DAY
        share = vms / 1000
        peers = np.clip(np.exp(rng.normal(2.3, 0.8, vms)), 2, 60).astype(np.int64)
        owner, begin = [np.repeat(np.arange(vms), peers)], [np.zeros(peers.sum(), np.int64)]
        late = rng.poisson(0.5 * days, vms)
        owner.append(np.repeat(np.arange(vms), late))
        begin.append(rng.integers(0, minutes, late.sum()))
        for _ in range(round(11 * share * days)):
            vm, at = int(rng.integers(vms)), int(rng.integers(minutes))
            more = max(1, round(peers[vm] * rng.uniform(0.25, 2)))
            owner.append(np.full(more, vm))
            begin.append(np.full(more, at))
        self.owner, self.begin = np.concatenate(owner), np.concatenate(begin)
        links = len(self.owner)
        self.packets = 10 ** rng.uniform(0.5, 3.5, links)
        """A minute, when it is active."""
        self.active = rng.beta(0.7, 0.7, links)
        self.answer = 10 ** rng.normal(0, 0.6, links)
        """Octets that come back for one that was sent."""
        self.noise = rng.uniform(0.1, 0.6, links)
        self.rhythm, self.phase = rng.uniform(0, 0.8, vms), rng.normal(0, 0.6, vms)
        self.sampling = rng.choice([1, 64, 400], vms)
        self.bursts: dict[int, list[tuple[int, int, float]]] = {}
        for _ in range(round(300 * share * days)):
            at, link = int(rng.integers(minutes)), int(rng.integers(links))
            self.bursts.setdefault(at, []).append((link, int(rng.integers(1, 30)), min(50.0, 1 + rng.pareto(1.5))))
        self.backup = np.flatnonzero(np.arange(vms) % 10 == 3)
        self.backup_at, self.backup_long = rng.integers(0, DAY, len(self.backup)), rng.integers(5, 60, len(self.backup))
        self.usual = np.bincount(self.owner, self.packets * self.active, vms)
        self.faults: list[tuple[str, int, int]] = []
        self.strength: list[float] = []
        for number, vm in enumerate(rng.permutation(vms)[: 2 * FAULTS]):
            kind = KINDS[number % 2]
            self.faults.append((kind, int(vm), int(rng.integers(first, minutes - FAULT_MINUTES))))
            self.strength.append(float(rng.uniform(*(SCAN_PEERS if kind == "scan" else EXFILTRATION))))

    def frames(self, minutes: int) -> Iterator[WindowSeries]:
        """A window for each minute."""
        rng, vms, owner = self.rng, self.vms, self.owner
        factor = np.ones(len(owner))
        ends: dict[int, list[tuple[int, float]]] = {}
        seen_before = np.zeros(len(owner), bool)
        wander = np.zeros(len(owner))
        names, yes = np.arange(1, vms + 1).astype(np.uint64), np.ones(vms, bool)
        hosts = pa.array(["h"] * vms)
        rate = self.sampling[owner]
        for minute in range(minutes):
            for link, length, strength in self.bursts.get(minute, ()):
                factor[link] *= strength
                ends.setdefault(minute + length, []).append((link, strength))
            for link, strength in ends.pop(minute, ()):
                factor[link] /= strength
            day = 2 * np.pi * minute / DAY
            shape = np.exp(self.rhythm * (np.sin(day + self.phase) - (0 if (minute // DAY) % 7 < 5 else 0.7)))
            wander = 0.9 * wander + rng.normal(0, 1, len(owner)) * self.noise * math.sqrt(1 - 0.81)
            on = (minute >= self.begin) & (rng.random(len(owner)) < self.active * np.minimum(1, shape[owner]))
            sent = np.where(on, self.packets * shape[owner] * np.exp(wander) * factor, 0)
            counted = rng.poisson(sent / rate) * rate
            back = rng.poisson(sent * self.answer / rate) * rate
            visible = counted > 0
            new = np.bincount(owner, visible & ~seen_before, vms)
            seen_before |= visible
            octets, peers = counted * float(OCTETS), np.bincount(owner, visible, vms)
            total, received = np.bincount(owner, octets, vms), np.bincount(owner, back * float(OCTETS), vms)
            weighted = np.bincount(owner, octets * np.log(np.maximum(octets, 1)), vms)
            running = (minute - self.backup_at) % DAY < self.backup_long
            self._send(
                self.backup[running], 20 * self.usual[self.backup[running]], 0.02, total, received, weighted, peers
            )
            for (kind, vm, at), strength in zip(self.faults, self.strength, strict=True):
                if not at <= minute < at + FAULT_MINUTES:
                    continue
                if kind == "scan":
                    hits = rng.poisson(SCAN_PACKETS / self.sampling[vm], round(strength)) * int(self.sampling[vm])
                    found = hits[hits > 0] * float(OCTETS) / 10
                    peers[vm] += len(found)
                    new[vm] += len(found)
                    total[vm] += found.sum()
                    weighted[vm] += (found * np.log(found)).sum()
                else:
                    one = np.array([vm])
                    new[vm] += minute == at
                    self._send(one, strength * self.usual[one], BACK, total, received, weighted, peers)
            with np.errstate(divide="ignore", invalid="ignore"):
                entropy = (np.log(total) - weighted / total) / np.log(peers)
                sent_share = total / (total + received)
            samples = total / OCTETS / self.sampling
            bits = total * 8 / 60
            reach = np.where(self.sampling > 1, 1.96 * self.sampling * OCTETS * 8 / 60 * np.sqrt(samples + 1), 0)
            figures = {
                "sent_bits_per_second": bits, "sent_bits_per_second_low": np.maximum(0, bits - reach),
                "sent_bits_per_second_high": bits + reach, "sent_bits_per_second_samples": samples,
                "peers": np.where(peers > 0, peers, np.nan), "new_peers": np.where(peers > 0, new, np.nan),
                "peer_entropy": np.where(peers > 1, np.clip(entropy, 0, 1), np.nan),
                "sent_share": np.where(total + received > 0, sent_share, np.nan),
                "sampling_rate": self.sampling.astype(np.float64),
            }  # fmt: skip
            start = (MONDAY + 60 * minute) * 1_000_000
            texts = {"vm": hosts, "host": hosts}
            yield WindowSeries(start, start + 60_000_000, names, yes, figures, texts, {}, yes)

    def _send(
        self, vms: Numbers, packets: Floats, back: float, total: Floats, received: Floats, weighted: Floats,
        peers: Floats,
    ) -> None:  # fmt: skip
        """Add what VMs send to one more peer."""
        rate = self.sampling[vms]
        octets = self.rng.poisson(packets / rate) * rate * float(OCTETS)
        total[vms] += octets
        received[vms] += self.rng.poisson(packets * back / rate) * rate * float(OCTETS)
        weighted[vms] += octets * np.log(np.maximum(octets, 1))
        peers[vms] += octets > 0


def peers(vms: int, days: int, learn_days: int, seed: int) -> None:
    """Count false alerts and faults found, by rule and at three budgets."""
    made = Vms(vms, days, learn_days, seed)
    judges = []
    for measure, direction, least in RULES:
        rule = Rule(
            name=measure, scope="vm", condition="anomaly", measure=measure, direction=direction, least_change=least,  # type: ignore[arg-type]
        )  # fmt: skip
        judge = Anomaly.of(rule, AlertSettings())
        assert isinstance(judge, Anomaly)
        judges.append(judge)
    first, begun = learn_days * DAY, time.thread_time()
    scores = np.full((len(judges), days * DAY - first, vms), -9.0, np.float32)
    for minute, frame in enumerate(made.frames(days * DAY)):
        for number, judge in enumerate(judges):
            judge._step(frame)
            if minute >= first:
                rows = judge._memory.find(frame.series, 0)[0]
                found = np.nan_to_num(judge._found[:, learn.SCORE], nan=-9)
                scores[number, minute - first] = np.where(learn.judged(judge._memory.rows, rows), found, -9)
    print(f"{vms} VMs, {len(made.owner)} links, {days} days of which {learn_days} to learn; "
          f"{time.thread_time() - begun:.0f} s of one core")  # fmt: skip
    watched = (days - learn_days) * vms / 1000
    for budget in (1, 3, 10):
        every: dict[tuple[str, int, int], set[str]] = {}
        for number, (measure, *_) in enumerate(RULES):
            raised = [
                (at + first, vm) for vm in range(vms) for at in onsets(scores[number, :, vm], -math.log10(budget))
            ]
            excused = 0
            for fault in made.faults:
                _, vm, at = fault
                excused += sum(one == vm and at <= minute < at + FAULT_MINUTES + 120 for minute, one in raised)
                if any(one == vm and at <= minute < at + FAULT_MINUTES for minute, one in raised):
                    every.setdefault(fault, set()).add(measure)
            low, high = poisson_interval(len(raised) - excused)
            each = ", ".join(f"{kind} {sum(measure in by and fault[0] == kind for fault, by in every.items())}/{FAULTS}"
                             for kind in KINDS)  # fmt: skip
            print(f"budget {budget:>2}, {measure:<20}: {(len(raised) - excused) / watched:.1f} "
                  f"[{low / watched:.1f}–{high / watched:.1f}] false a day; {each}", flush=True)  # fmt: skip
        for kind in KINDS:
            found = [fault for fault in every if fault[0] == kind]
            parts = ", ".join(
                f"1 : {rate} {sum(made.sampling[vm] == rate for _, vm, _ in found)}"
                f"/{sum(made.sampling[vm] == rate for one, vm, _ in made.faults if one == kind)}"
                for rate in (1, 64, 400)
            )
            print(f"budget {budget:>2}, any of them: {kind} {len(found)}/{FAULTS} ({parts})", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.anomaly_peers", description=__doc__.split("\n")[0])
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--learn-days", type=int, default=3)
    parser.add_argument("--seed", type=int, default=6, help="another number is another network")
    args = parser.parse_args()
    print(machine())
    peers(args.vms, args.days, args.learn_days, args.seed)


if __name__ == "__main__":
    main()
