"""What receiving costs: CPU per datagram of the listener alone, from the socket to the hand-over.

A sender in another process fills the listener's socket with `sendmmsg`, flat out or at a given rate; the batches are
dropped when they are handed over.  Prints, per case: datagrams received, loss (the kernel's drops), CPU time per
datagram, the part of it spent above the system call, and the mean size of a batch.

    python -m bench.listen [--seconds 2] [--reader batch|single] [--loop uvloop|asyncio]
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from collector.listen import recvmmsg
from collector.listen.settings import ListenSettings
from collector.listen.udp import Listener
from collector.log import LogSettings, setup
from collector.metrics import Metrics
from collector.threads import run
from decoders.datagrams import Datagrams

CASES = ((200, 0), (1400, 0), (200, 100_000), (1400, 100_000), (1400, 20_000), (1400, 1_000))
"""Payload octets and datagrams per second; 0 is flat out."""
PER_CALL = 64


def machine() -> str:
    """Describe the machine in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = models[0] if models else model
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}, {versions}"


def send(port: int, octets: int, rate: int, seconds: float) -> int:
    """Send for `seconds`, `PER_CALL` datagrams per system call; return how many were sent."""
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    payload = np.arange(max(octets, 1), dtype=np.uint8)
    vector = np.zeros(1, dtype=np.dtype(recvmmsg._IoVec))
    vector["base"], vector["length"] = payload.ctypes.data, octets
    messages = np.zeros(PER_CALL, dtype=np.dtype(recvmmsg._Message))
    messages["vector"], messages["vector_length"] = vector.ctypes.data, 1
    at = messages.ctypes.data
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        begin = now = time.perf_counter()
        while now - begin < seconds:
            now = time.perf_counter()
            due = PER_CALL if not rate else min(PER_CALL, int((now - begin) * rate) - sent)
            if due > 0:
                sent += max(sendmmsg(sock.fileno(), ctypes.c_void_p(at), due, 0), 0)
            else:
                time.sleep(0.0005)
    return sent


class Timed:
    """Adds up the time spent in the system call."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._call = recvmmsg._recvmmsg

    def __call__(self, *arguments: object) -> int:
        begin = time.perf_counter()
        result: int = self._call(*arguments)
        self.seconds += time.perf_counter() - begin
        return result


async def measure(octets: int, rate: int, seconds: float, reader: recvmmsg.Reader, timed: Timed) -> str:
    """Run one case and describe its result."""
    metrics = Metrics()

    def drop(datagrams: Datagrams) -> bool:
        return True

    async with Listener(ListenSettings(addresses=("127.0.0.1:0",)), metrics, drop, reader=reader) as listener:
        (endpoint,) = listener.addresses
        command = [
            sys.executable,
            "-m",
            "bench.listen",
            "--send",
            str(endpoint.port),
            str(octets),
            str(rate),
            str(seconds),
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        # The sender takes a while to import; what the idle loop costs meanwhile is nothing.
        cpu, kernel = time.thread_time(), timed.seconds
        output, _ = await process.communicate()
        await asyncio.sleep(0.1)
        cpu, kernel = time.thread_time() - cpu, timed.seconds - kernel
        await listener.stop()
    sent = int(output)

    def value(name: str) -> float:
        return metrics.value(name, address=str(endpoint)) or 0.0

    received, drops = value("listen_datagrams_total"), value("listen_kernel_drops_total")
    if received + drops != sent:
        raise SystemExit(f"{sent} sent, but {received} received and {drops} dropped")
    micro = 1e6 / max(received, 1)
    above = f"{(cpu - kernel) * micro:6.2f}" if kernel else "   n/a"
    return (
        f"{octets:7,} {rate or 'flat out':>10} {received / seconds:12,.0f} {100 * drops / sent:7.1f} "
        f"{cpu * micro:9.2f} {above:>11} {received / max(value('listen_batches_total'), 1):11.1f}"
    )


def main() -> None:
    """Run all cases, or be the sender of one."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=2.0, help="length of each case")
    arguments.add_argument("--reader", choices=("batch", "single"), default="batch")
    arguments.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments.add_argument("--send", nargs=4, metavar=("PORT", "OCTETS", "RATE", "SECONDS"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.send:
        port, octets, rate, seconds = options.send
        print(send(int(port), int(octets), int(rate), float(seconds)))
        return
    setup(LogSettings(level="error"))  # the kernel's drops are in the figures
    timed = Timed()
    recvmmsg._recvmmsg = timed
    reader: recvmmsg.Reader = recvmmsg.BatchReader() if options.reader == "batch" else recvmmsg.SingleReader()
    print(f"listener, {options.reader} reader, {options.loop}: {machine()}")
    print(" octets       rate   received/s  loss %    CPU µs  above call   per batch")
    for octets, rate in CASES:
        gc.collect()
        print(run(measure(octets, rate, options.seconds, reader, timed), fast_loop=options.loop == "uvloop"))


if __name__ == "__main__":
    main()
