"""How fast the meter of mirrored packets is: TCP segments of many connections in random order, blocks in memory.

    python -m bench.mirror [--packets 400000]

CPU seconds of one thread.  The first pass takes in each connection; the others have new data for all.
"""

from __future__ import annotations

import argparse
import struct
import time

import numpy as np

from bench.load import machine
from decoders.mirror import meter
from decoders.mirror.meter import Frames
from decoders.mirror.state import new_meter

CONNECTIONS = (1_000, 20_000, 200_000)
SLOTS = 262_144
PASSES = 3
PAYLOAD, MICROSECOND_NS = 1_448, 1_000
START_NS = 1_795_000_000 * 10**9
SOURCE_IP, SEQUENCE, IDENT = 26, 38, 18
"""Offsets in the frame."""


def frame() -> bytes:
    """Ethernet, IPv4 and TCP with a timestamp option; the data was not captured."""
    ethernet = bytes.fromhex("525400000002 525400000001 0800")
    internet = struct.pack(">BBHHHBBHII", 0x45, 0, 52 + PAYLOAD, 1, 0x4000, 64, 6, 0, 10 << 24, 11 << 24)
    segment = struct.pack(">HHIIBBHHH", 40_000, 80, 0, 1000, 0x80, 0x10, 500, 0, 0) + b"\1\1\x08\x0a" + bytes(8)
    return ethernet + internet + segment


def packets(connections: int, count: int, before: int) -> Frames:
    """Return packets of random connections, each with the next data of its own; `before`: passes so far."""
    whole = frame()
    octets = np.tile(np.frombuffer(whole, np.uint8), (count, 1))
    connection = np.random.default_rng(1).integers(0, connections, count)
    order = np.argsort(connection, kind="stable")
    begins = np.searchsorted(connection[order], np.arange(connections))
    number = np.empty(count, np.int64)
    number[order] = np.arange(count) - begins[connection[order]]
    number += before * np.bincount(connection, minlength=connections)[connection]
    for place, width, values in (
        (SOURCE_IP + 1, 3, connection),
        (SEQUENCE, 4, number * PAYLOAD),
        (IDENT, 2, number | 1),
    ):
        for k in range(width):
            octets[:, place + k] = values >> 8 * (width - 1 - k) & 0xFF
    unstated = np.zeros(count, np.int64)
    return Frames(
        octets=octets.reshape(-1),
        start=np.arange(count) * len(whole),
        length=np.full(count, len(whole)),
        original=unstated,
        ns=START_NS + (before * count + np.arange(count)) * MICROSECOND_NS,
        vlan=unstated,
        segment=unstated,
    )


def main() -> None:
    """Print packets per CPU second, the best of the passes after the first."""
    parser = argparse.ArgumentParser(prog="python -m bench.mirror", description=__doc__)
    parser.add_argument("--packets", type=int, default=400_000)
    count = parser.parse_args().packets
    print(machine())
    began = time.process_time()
    meter.warm_up()
    print(f"kernels compiled or loaded in {time.process_time() - began:.1f} CPU s")
    for connections in CONNECTIONS:
        made = new_meter(SLOTS)
        took = []
        for one in range(PASSES + 1):
            batch = packets(connections, count, one)
            began = time.process_time()
            meter.count(made, batch)
            took.append(time.process_time() - began)
        best = min(took[1:])
        print(f"{connections:>7} connections: {count / best / 1e6:.1f} M packets/s, {best / count * 1e9:.0f} ns each")


if __name__ == "__main__":
    main()
