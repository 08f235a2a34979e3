"""`make fuzz`: every harness in turn, the time shared out evenly; fails on the first input that breaks an oracle."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.oracles import KINDS
from tests.fuzz.seeds import write

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
WORK = ROOT / ".fuzz"
MAX_BYTES = 4_096
"""Longest input: some datagrams of an Ethernet frame's size."""
SLOWEST_SECONDS = 20
"""An input that takes longer is a finding: uncompiled kernels take 10 ms for a full datagram."""


def fuzz(kind: str, seconds: int) -> int:
    """Run one harness.  What it finds stays in `.fuzz`, as `crash-…` or `timeout-…` if it broke something."""
    found = WORK / kind
    found.mkdir(parents=True, exist_ok=True)
    seeds = WORK / f"{kind}-seeds"
    write(kind, seeds)
    kept = CORPUS / kind
    folders = [str(folder) for folder in (found, seeds, kept) if folder.is_dir()]
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-timeout={SLOWEST_SECONDS}"]
    options += [f"-artifact_prefix={WORK}/{kind}-", "-print_final_stats=1", "-verbosity=1"]
    command = [sys.executable, "-m", "tests.fuzz.run", kind, *options, *folders]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> None:
    """Share the minutes out; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all harnesses together (one core)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    seconds = max(int(options.minutes * 60 / len(options.kinds)), 1)
    failed = [kind for kind in options.kinds if fuzz(kind, seconds)]
    if failed:
        sys.exit(f"broken by the inputs in {WORK.name}/: {', '.join(failed)}; put each into {CORPUS.name}/ when mended")


if __name__ == "__main__":
    main()
