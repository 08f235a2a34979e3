"""One harness: `NUMBA_DISABLE_JIT=1 python -m tests.fuzz.run KIND [options of libFuzzer] FOLDER …`.

The kernels run as plain Python, or the fuzzer could not see their branches.
"""

from __future__ import annotations

import os
import sys

import atheris

if os.environ.get("NUMBA_DISABLE_JIT") != "1":
    sys.exit("set NUMBA_DISABLE_JIT=1: the branches of compiled kernels cannot be seen")

with atheris.instrument_imports(include=["decoders"]):
    from tests.fuzz.oracles import KINDS, examine


def main() -> None:
    """Fuzz until the limits in the options are reached or something does not hold."""
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        sys.exit(f"which harness? one of {', '.join(KINDS)}")
    kind = sys.argv.pop(1)

    def one(octets: bytes) -> None:
        examine(kind, octets)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
