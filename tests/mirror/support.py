"""Packets as a mirror sees them, made here, and the meter over them."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np

from decoders.mirror import results
from decoders.mirror.meter import Frames, count
from decoders.mirror.state import Meter, new_meter

START_US = 1_795_000_000_000_000
CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
CLIENT_PORT, SERVER_PORT = 40_000, 80
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
Timed = tuple[float, bytes]
"""(time in µs after the start, frame)"""


class Talk:
    """Writes down the packets of one TCP connection as they pass the mirror."""

    def __init__(
        self, client_port: int = CLIENT_PORT, client_isn: int = 1000, server_isn: int = 5000, v6: bool = False
    ):
        self.frames: list[Timed] = []
        self.client_port = client_port
        self.isn = (client_isn, server_isn)
        self.v6 = v6
        self._ids = [100, 20_000]

    def packet(
        self,
        at_us: float,
        way: int,
        flags: str,
        seq: int,
        ack: int = 0,
        size: int = 0,
        *,
        window: int = 1000,
        mss: int = 0,
        scale: int | None = None,
        ident: int | None = None,
    ) -> None:
        """Add a packet to the server (way 0) or to the client (1); `seq` and `ack` count from the SYNs."""
        if ident is None:
            self._ids[way] += 1
            ident = self._ids[way]
        option = struct.pack(">BBH", 2, 4, mss) if mss else b""
        option += b"" if scale is None else struct.pack(">BBBB", 1, 3, 3, scale)
        segment = struct.pack(
            ">HHIIBBHHH",
            (self.client_port, SERVER_PORT)[way],
            (SERVER_PORT, self.client_port)[way],
            (self.isn[way] + seq) % 2**32,
            (self.isn[1 - way] + ack) % 2**32 if "A" in flags else 0,
            (20 + len(option)) // 4 << 4,
            sum(FLAGS[flag] for flag in flags),
            window,
            0,
            0,
        )
        body = segment + option + b"x" * size
        ends = (CLIENT, SERVER) if way == 0 else (SERVER, CLIENT)
        if self.v6:
            packed = (ip_address(f"2001:db8::{end[-1]}").packed for end in ends)
            header = struct.pack(">IHBB16s16s", 6 << 28, len(body), 6, 64, *packed)
        else:
            packed = (ip_address(end).packed for end in ends)
            header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), ident, 0x4000, 64, 6, 0, *packed)
        macs = (b"RT\0\0\0\1", b"RT\0\0\0\2")
        kind = b"\x86\xdd" if self.v6 else b"\x08\0"
        self.frames.append((at_us, macs[1 - way] + macs[way] + kind + header + body))

    def open(
        self,
        at_us: float = 0,
        server_us: float = 300,
        client_us: float = 100,
        mss: int = 1460,
        scale: int | None = None,
    ) -> float:
        """Add a handshake; returns its end."""
        self.packet(at_us, 0, "S", 0, mss=mss, scale=scale)
        self.packet(at_us + server_us, 1, "SA", 0, 1, mss=mss, scale=scale)
        self.packet(at_us + server_us + client_us, 0, "A", 1, 1)
        return at_us + server_us + client_us

    def row(self) -> dict[str, Any]:
        """What the meter says of the connection."""
        (row,) = results.connections(meter_of(self.frames))
        return row


def frames_of(timed: Iterable[Timed]) -> Frames:
    """A batch of frames, in their order."""
    frames = list(timed)
    length = np.array([len(frame) for _, frame in frames], np.int64)
    unstated = np.zeros(len(frames), np.int64)
    return Frames(
        octets=np.frombuffer(bytearray(b"".join(frame for _, frame in frames) or b"\0"), np.uint8),
        start=np.cumsum(length) - length,
        length=length,
        original=unstated,
        ns=np.array([START_US * 1000 + round(us * 1000) for us, _ in frames], np.int64),
        vlan=unstated,
        segment=unstated,
    )


def meter_of(timed: Iterable[Timed], slots: int = 64) -> Meter:
    """The meter after these frames, in their order."""
    meter = new_meter(slots, secret=1)
    count(meter, frames_of(timed))
    return meter


def write_pcap(path: Path, timed: Iterable[Timed], snap: int = 65_535) -> Path:
    """Write frames, in the order of their times, to a capture."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snap, 1))
        for us, frame in sorted(timed, key=lambda one: one[0]):
            time_us = START_US + round(us)
            kept = frame[:snap]
            file.write(struct.pack("<IIII", time_us // 10**6, time_us % 10**6, len(kept), len(frame)) + kept)
    return path


def tshark(path: Path, fields: Sequence[str], *more: str) -> list[dict[str, str]]:
    """What tshark says of each packet."""
    chosen = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=/t", "-E", "occurrence=l", *more, *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return [dict(zip(fields, line, strict=True)) for line in lines]
