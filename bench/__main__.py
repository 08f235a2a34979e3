"""`python -m bench [all|alone|end_to_end] [KIND …]`: print figures, with the machine they were measured on."""

from __future__ import annotations

import argparse

from bench import end_to_end, stages
from bench.load import machine


def main() -> None:
    """Run the benchmarks asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "alone", "end_to_end"), default="all")
    parser.add_argument("kinds", nargs="*", help=f"of: {', '.join(end_to_end.RATES)}")
    args = parser.parse_args()
    kinds = args.kinds or list(end_to_end.RATES)
    print(machine())
    if args.what in ("all", "alone"):
        print("\nDecode and naming alone, one core each, datagrams in memory to named batches")
        stages.alone(kinds)
    if args.what in ("all", "end_to_end"):
        print("\nUDP to rows in the embedded store, sender on the same machine")
        end_to_end.main(kinds)


if __name__ == "__main__":
    main()
