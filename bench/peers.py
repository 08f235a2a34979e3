"""vmflow compared with nfcapd, sfcapd, nfacctd and sfacctd: the same stream, in turn, on this machine.

    python -m bench.peers [--seconds 4] [--rounds 2] [--steps 4] [--exporters 64] [--save FILE] [KIND …]

For each kind of export every receiver gets the load flat out, in turn, `--rounds` times.  Then its largest rate without
loss is searched, all receivers taking a step in turn, and measured once more at that rate.  A receiver that lost
anything in a step gets a second try: one pause of the machine is no limit of the receiver.  All have the same receive
buffer, and each run is a new process.

  nfcapd, sfcapd     decode, append to a file
  nfacctd, sfacctd   decode, sum by pair of addresses in memory
  vmflow unstored    decode, name both ends, drop
  vmflow             decode, name both ends, store in the embedded store, sum by pair of VMs, watch for alerts
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bench.load import command, machine
from bench.receivers import Got, Load, acctd, buffer_bytes, capd, stored, unstored
from tests.service import ROOT

PACKAGES = {
    "nfcapd": "nfdump",
    "nfdump": "nfdump",
    "sfcapd": "nfdump-sflow",
    "nfacctd": "pmacct",
    "sfacctd": "pmacct",
}
"""Program -> Debian package."""
KINDS = ("ipfix", "netflow9", "netflow5", "sflow_switch")
CEILING = 1.3
"""A search begins below the rate received flat out times this: without a flood more may get through."""


@dataclass(frozen=True)
class Run:
    """One run of a receiver under load."""

    kind: str
    receiver: str
    asked: float
    """Records per second requested from the sender; infinite = flat out."""
    sent: int
    seconds: float
    records: int
    kernel_drops: int
    cpu_seconds: float
    late_seconds: float
    load_average: float

    @property
    def lost(self) -> float:
        """Return the share of the records that did not arrive."""
        return 1 - self.records / self.sent

    @property
    def rate(self) -> float:
        """Return records per second, counted until the last one was processed."""
        return self.records / (self.seconds + self.late_seconds)

    @property
    def offered(self) -> float:
        """Return records per second that were sent."""
        return self.sent / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Return records per CPU second of the receiver."""
        return self.records / self.cpu_seconds

    def __str__(self) -> str:
        return (
            f"{self.kind:9} {self.receiver:16} sent {self.offered / 1e3:7.0f} k/s  took {self.rate / 1e3:7.0f} k/s  "
            f"lost {100 * self.lost:6.2f} % (kernel dropped {self.kernel_drops} datagrams)  "
            f"{self.per_cpu_second / 1e6:5.2f} M records per CPU second  last one after {self.late_seconds:4.1f} s  "
            f"load average {self.load_average:.1f}"
        )


def receivers(kind: str) -> dict[str, Callable[[Load], Got]]:
    """Return the receivers of this kind, by name."""
    flow, sums = ("sfcapd", "sfacctd") if kind == "sflow_switch" else ("nfcapd", "nfacctd")
    return {
        flow: partial(capd, flow),
        sums: partial(acctd, sums),
        "vmflow unstored": unstored,
        "vmflow": stored,
    }


def install() -> None:
    """Install the peers that are missing.  If that is not possible, exits with a message that says what to do."""
    missing = sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})
    if not missing:
        return
    advice = f"install them yourself: apt-get install {' '.join(missing)}"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemExit(f"missing: {', '.join(missing)} (Debian packages); {advice}, as root")
    print(f"installing {', '.join(missing)} ...", flush=True)
    done = subprocess.run(
        ["apt-get", "install", "--yes", "--no-install-recommends", *missing],
        check=False,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"apt-get failed: {done.stderr.strip().splitlines()[-1:]}; {advice}")


class Bench:
    """One kind of export and all its receivers."""

    def __init__(self, kind: str, seconds: float, exporters: int) -> None:
        self.kind = kind
        self.seconds = seconds
        self.exporters = exporters
        self.receivers = receivers(kind)
        self.runs: list[Run] = []

    def run(self, name: str, rate: float) -> Run:
        """Load one receiver once."""
        sent: dict[str, float] = {}

        def load(target: str) -> float:
            sender = command(self.kind, target, rate, self.seconds, "--exporters", str(self.exporters))
            sent.update(json.loads(subprocess.run(sender, cwd=ROOT, check=True, capture_output=True).stdout))
            return time.monotonic()

        got = self.receivers[name](load)
        run = Run(
            self.kind,
            name,
            rate,
            int(sent["records"]),
            sent["seconds"],
            load_average=os.getloadavg()[0],
            **asdict(got),
        )
        print(run, flush=True)
        if run.records > run.sent:
            raise SystemExit(f"{name} counted {run.records} records of {run.sent} that were sent")
        self.runs.append(run)
        return run

    def flat_out(self, rounds: int) -> None:
        """Load each receiver in turn, as fast as the sender can."""
        for _ in range(rounds):
            for name in self.receivers:
                self.run(name, math.inf)

    def search(self, steps: int) -> None:
        """Halve, step by step, the interval that contains each receiver's largest rate without loss."""
        bounds = {name: self._bounds(name) for name in self.receivers}
        for _ in range(steps):
            for name, (low, high) in bounds.items():
                middle = (low + high) / 2
                lossless = any(self.run(name, middle).lost <= 0 for _ in range(2))
                bounds[name] = (middle, high) if lossless else (low, middle)

    def _bounds(self, name: str) -> tuple[float, float]:
        flat = [run for run in self.runs if run.receiver == name]
        lossless = [run.offered for run in flat if run.lost <= 0]
        received = max(run.records / run.seconds for run in flat)
        return max(lossless, default=received / 4), CEILING * received

    def best(self, name: str) -> Run | None:
        """Return the run at the largest rate without loss, if there was one."""
        return max(
            (run for run in self.runs if run.receiver == name and run.lost <= 0),
            key=lambda run: run.rate,
            default=None,
        )


def table(bench: Bench) -> list[str]:
    """Return the result of one kind as a table in Markdown."""
    peer = next(iter(bench.receivers))
    lines = [
        f"| {bench.kind} | largest rate without loss, k records/s | M records per CPU second there | × {peer} "
        "| flat out: sent, k/s | taken, k/s | lost | M records per CPU second | × " + f"{peer} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reference = bench.best(peer)
    for name in bench.receivers:
        best = bench.best(name)
        flat = [run for run in bench.runs if run.receiver == name and math.isinf(run.asked)]
        ratios = _ratios(flat, [run for run in bench.runs if run.receiver == peer and math.isinf(run.asked)])
        lossless = (
            f"{best.rate / 1e3:.0f} | {best.per_cpu_second / 1e6:.2f} "
            f"| {best.per_cpu_second / reference.per_cpu_second if reference else math.nan:.2f}"
            if best
            else "none found | – | –"
        )
        lines.append(
            f"| {name} | {lossless} | {_median([run.offered for run in flat]) / 1e3:.0f} "
            f"| {_median([run.rate for run in flat]) / 1e3:.0f} | {100 * _median([run.lost for run in flat]):.1f} % "
            f"| {_median([run.per_cpu_second for run in flat]) / 1e6:.2f} | {_median(ratios):.2f} |"
        )
    return lines


def _ratios(runs: list[Run], references: list[Run]) -> list[float]:
    """Compare records per CPU second of each run with the reference of the same round."""
    return [run.per_cpu_second / other.per_cpu_second for run, other in zip(runs, references, strict=True)]


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2


def main() -> None:
    """Measure the kinds asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=2, help="flat out, of each receiver")
    parser.add_argument("--steps", type=int, default=4, help="of the search for the largest rate without loss")
    parser.add_argument("--exporters", type=int, default=64, help="source addresses")
    parser.add_argument("--save", type=Path, help="append the tables to this file")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {', '.join(KINDS)}")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; kinds are {', '.join(KINDS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # receivers are stopped on exit
    install()
    about = f"{machine()}; receive buffers of {buffer_bytes() >> 10} KiB, {args.exporters} source addresses, "
    about += f"{args.seconds:g} s a run"
    print(about)
    for kind in args.kinds or KINDS:
        bench = Bench(kind, args.seconds, args.exporters)
        bench.flat_out(args.rounds)
        bench.search(args.steps)
        lines = table(bench)
        print("\n" + "\n".join(lines) + "\n", flush=True)
        if args.save:
            with args.save.open("a") as file:
                file.write("\n".join([about, "", *lines, "", ""]))


if __name__ == "__main__":
    main()
