"""`vmflow warmup`: compile the kernels ahead of the first start."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from collector.process.compilers import MIRROR, PARTS, Compilers
from collector.terminal import CommandError, say, tell
from decoders import jit, kernel_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="directory for the machine code (default: VMFLOW_CACHE_DIR, else ~/.cache/vmflow); "
        "that in decoders/kernels of the installation is for all users",
    )


def run(args: argparse.Namespace) -> int:
    """Compile all kernels into the cache directory, if they are not there; exit code 1 where this fails."""
    if args.to is not None:
        os.environ["VMFLOW_CACHE_DIR"] = str(args.to.resolve())
    started = time.monotonic()
    if not kernel_cache.writable():
        raise CommandError("; ".join(kernel_cache.take_problems()) or f"{kernel_cache.base_directory()}: read-only")
    import collector.capture.ring  # noqa: F401, PLC0415 - with all kernels of `vmflow mirror`, for `jit.cached`

    compilers = Compilers((PARTS[0], f"{PARTS[1]},{MIRROR}"))
    try:
        compilers.start()
        compilers.begin()
        for ready, all_of_them in compilers.wait():
            tell(f"compiling: {ready} of {all_of_them} kernels are ready")
    finally:
        compilers.kill()
    if not jit.cached() and not jit.INTERPRETED:
        raise CommandError(f"not all kernels were compiled: exit codes {compilers.failed()}")
    say(f"kernels ready in {time.monotonic() - started:.1f} s; cached in {kernel_cache.base_directory()}")
    return 0
