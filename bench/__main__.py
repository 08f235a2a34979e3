"""`python -m bench [decode|join|end_to_end] [KIND …]`: print figures, with the machine they were taken on."""

from __future__ import annotations

import argparse
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench import decode, end_to_end, join


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("numba", "numpy", "pyarrow", "chdb", "clickhouse-connect")
    )
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{date}, {os.cpu_count()} × {model}, {memory:.0f} GiB, {system}, {versions}"


def main() -> None:
    """Run what was asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "decode", "join", "end_to_end"), default="all")
    parser.add_argument("kinds", nargs="*", help="for end_to_end: " + ", ".join(end_to_end.RATES))
    args = parser.parse_args()
    print(machine())
    if args.what in ("all", "decode"):
        print("\nDecode alone, one core, datagrams in memory to Arrow batches")
        print("\n".join(decode.main()))
    if args.what in ("all", "join"):
        print("\nNaming alone, one core, decoded batches to named batches")
        print("\n".join(join.main()))
    if args.what in ("all", "end_to_end"):
        print("\nUDP to rows in the embedded store, sender on the same machine")
        end_to_end.main(args.kinds or list(end_to_end.RATES))


if __name__ == "__main__":
    main()
