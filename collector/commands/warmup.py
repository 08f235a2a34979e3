"""`vmflow warmup`: compile the decoders ahead of the first start."""

from __future__ import annotations

import argparse
import threading
import time

from collector.decode.inbox import Shares
from collector.inventory.naming import warm_up
from collector.listen.recvmmsg import best_reader
from collector.rollup.sums import warm_up as warm_up_sums
from collector.terminal import say, tell
from decoders.decoder import Decoder
from decoders.jit import progress
from decoders.kernel_cache import base_directory

PROGRESS_SECONDS = 10.0
"""Between two lines on the progress, for people and for the log of an image's build."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Compile all kernels into the cache directory, or load them if they are there."""
    started = time.monotonic()
    done = threading.Event()
    threading.Thread(target=_print_progress, args=(done,), daemon=True).start()
    try:
        best_reader().warm()
        Shares().warm()
        Decoder().warm_up()
        warm_up()
        warm_up_sums()
    finally:
        done.set()
    say(f"decoders ready in {time.monotonic() - started:.1f} s; cached in {base_directory()}")
    return 0


def _print_progress(done: threading.Event) -> None:
    while not done.wait(PROGRESS_SECONDS):
        tell("compiling: {} of {} kernels are ready".format(*progress()))
