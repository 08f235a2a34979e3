"""How long the service is away when it is killed and started again: nobody receives meanwhile.

    python -m bench.start [--rounds 5] [--trees OLD NEW]

A store with some rows, 10,000 interfaces, templates of 16 exporters, all caches warm.  Each round: SIGKILL under load,
then start, until "ready".  `--trees` takes source trees in turn, each with a store of its own: compare within one run,
and CPU time rather than seconds where others use the cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.__main__ import machine
from bench.end_to_end import INTERFACES, _cpu, _inventory
from tests.service import ROOT, Service, running

LOAD_SECONDS = 4.0
ROWS_PER_SECOND = 50_000
OPTIONS = ("decode.template_save_seconds=0.5",)


@dataclass
class Starts:
    """What was seen of one tree; seconds each."""

    tree: Path
    directory: Path
    gone: list[float] = field(default_factory=list)
    """From SIGKILL until the process is gone."""
    ready: list[float] = field(default_factory=list)
    """From the command until "ready"."""
    cpu: list[float] = field(default_factory=list)
    """Of CPU, of the process, until "ready"."""

    def round(self, *, counts: bool) -> None:
        """Start, note how long it took if it `counts`, load, kill."""
        options = (*_inventory(str(self.directory), INTERFACES), *OPTIONS)
        begun = time.monotonic()
        with running(self.directory, *options, tree=self.tree) as service:
            took, cpu = time.monotonic() - begun, _cpu(service)
            _load(service)
            killed = time.monotonic()
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
            if counts:
                self.ready.append(took)
                self.cpu.append(cpu)
                self.gone.append(time.monotonic() - killed)

    def __str__(self) -> str:
        return (
            f"{self.tree}: killed to gone {median(self.gone):.2f} s, started to ready {median(self.ready):.2f} s "
            f"({min(self.ready):.2f} to {max(self.ready):.2f}), CPU {median(self.cpu):.2f} s "
            f"({min(self.cpu):.2f} to {max(self.cpu):.2f})"
        )


def _load(service: Service) -> None:
    """Send for a few seconds: rows for the store, templates to be kept."""
    command = [
        sys.executable, "-m", "bench.load", "ipfix", service.udp[0], "--rows-per-second", str(ROWS_PER_SECOND),
        "--seconds", str(LOAD_SECONDS), "--source-port", "20000",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    time.sleep(1)


def main() -> None:
    """Start and kill in turn, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trees", type=Path, nargs="+", default=[ROOT], metavar="TREE", help="default: this one")
    args = parser.parse_args()
    # Compiled Python is one of the caches that are warm in earnest.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        found = []
        for number, tree in enumerate(args.trees):
            directory = Path(name) / str(number)
            directory.mkdir()
            found.append(Starts(tree.resolve(), directory))
        for turn in range(args.rounds + 1):
            for starts in found:
                starts.round(counts=turn > 0)  # the first one fills the caches
                if turn:
                    print(
                        f"  {starts.tree}: ready after {starts.ready[-1]:.2f} s, CPU {starts.cpu[-1]:.2f} s", flush=True
                    )
    for starts in found:
        print(starts)


if __name__ == "__main__":
    main()
