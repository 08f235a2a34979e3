"""`vmflow warmup`: compile the decoders ahead of the first start."""

from __future__ import annotations

import argparse
import time

from collector.enrich.warm import warm_up
from collector.listen.recvmmsg import best_reader
from collector.pipeline.shares import Shares
from collector.rollup.sums import warm_up as warm_up_sums
from decoders.dispatch import Decoder
from decoders.jit import cache_directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Compile all kernels into the cache directory, or load them if they are there."""
    started = time.monotonic()
    best_reader().warm()
    Shares().warm()
    Decoder().warm_up()
    warm_up()
    warm_up_sums()
    print(f"decoders ready in {time.monotonic() - started:.1f} s; cached in {cache_directory()}")
    return 0
