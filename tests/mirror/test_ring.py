"""Packets of a real interface: a tap that the test writes to, whose frames come in as from a cable."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.all import IP, TCP, UDP, Dot1Q, Ether, Raw, raw

from collector.capture.ring import SNAP_BYTES, Ring, grown
from decoders.mirror import results
from decoders.mirror.meter import count
from decoders.mirror.state import T_FRAMES, T_SUPER, Meter, new_meter
from tests.mirror.support import Talk
from tests.service import ROOT

SET_INTERFACE, SET_FLAGS = 0x400454CA, 0x8914
TAP, NO_PROTOCOL, VNET_HEADER = 0x0002, 0x1000, 0x4000
TUN = 0x0001
UP = 0x1
PLAIN = bytes(10)
"""A virtio_net_hdr that says nothing."""


class Tap:
    """An interface of the test's own."""

    def __init__(self, kind: int = TAP) -> None:
        self.handle = os.open("/dev/net/tun", os.O_RDWR)
        asked = struct.pack("16sH22x", b"vmftest%d", kind | NO_PROTOCOL | VNET_HEADER)
        self.name = fcntl.ioctl(self.handle, SET_INTERFACE, asked)[:16].rstrip(b"\0").decode()
        # Without it the system would send packets of its own there.
        Path(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6").write_text("1")
        self.set_flags(UP)

    def set_flags(self, flags: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH22x", self.name.encode(), flags))

    def write(self, frame: bytes, header: bytes = PLAIN) -> None:
        os.write(self.handle, header + frame)


@pytest.fixture
def tap(request: pytest.FixtureRequest) -> Iterator[Tap]:
    try:
        made = Tap(getattr(request, "param", TAP))
    except OSError as error:
        pytest.skip(f"no tap can be made here: {error} (root and /dev/net/tun are needed)")
    yield made
    with contextlib.suppress(OSError):  # the test may have done it
        os.close(made.handle)


def read(ring: Ring, meter: Meter, frames: int) -> None:
    """Count until so many frames have come, at most ten seconds."""
    deadline = time.monotonic() + 10
    while meter.totals[T_FRAMES] < frames and time.monotonic() < deadline:
        for batch in ring.read(0.1):
            count(meter, batch)


def talk() -> Talk:
    one = Talk()
    now = one.open()
    one.packet(now + 100, 0, "PA", 1, 1, 1200)
    one.packet(now + 200, 0, "PA", 1, 1, 1200)
    one.packet(now + 500, 1, "A", 1, 1201)
    return one


def test_what_comes_in_is_what_was_written(tap: Tap) -> None:
    """Times are those of the kernel, in order; of each frame the headers are there."""
    meter = new_meter(64)
    before = time.time_ns()
    with Ring(tap.name, 2 << 20) as ring:
        for _, frame in talk().frames:
            tap.write(frame)
        copied: list[int] = []
        deadline = time.monotonic() + 10
        while len(copied) < 6 and time.monotonic() < deadline:
            for batch in ring.read(0.1):
                copied += batch.length.tolist()
                assert (batch.ns > before).all()
                assert (batch.ns <= time.time_ns()).all()
                count(meter, batch)
        lost = ring.lost()
    (row,) = results.connections(meter)
    expected = talk().row()

    assert lost == (0, 0)
    assert copied == [min(len(frame), SNAP_BYTES) for _, frame in talk().frames]
    assert {name: row[name] for name in row if "us" not in name} == {
        name: expected[name] for name in row if "us" not in name
    }


def test_a_tag_that_the_system_took_out_is_the_network(tap: Tap) -> None:
    meter = new_meter(64)
    with Ring(tap.name, 2 << 20) as ring:
        for vlan in (100, 200):
            tap.write(
                raw(Ether() / Dot1Q(vlan=vlan, prio=5) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / Raw(b"x" * 50))
            )
        read(ring, meter, 2)

    assert [row["network"] for row in results.connections(meter)] == ["vlan 100", "vlan 200"]


def test_merged_segments_are_counted_by_what_the_system_says(tap: Tap) -> None:
    """gso_size 1,000 of 9,500 octets; the handshake was not seen."""
    frame = raw(
        Ether() / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=9) / TCP(sport=9999, dport=80) / Raw(b"x" * 9500)
    )
    needs_checksum, tcp4 = 1, 1
    meter = new_meter(64)
    with Ring(tap.name, 2 << 20) as ring:
        tap.write(frame, struct.pack("BBHHHH", needs_checksum, tcp4, 54, 1000, 34, 16))
        read(ring, meter, 1)
    (row,) = results.connections(meter)

    assert (row["packets_to_server"], row["data_segments_to_server"], row["data_octets_to_server"]) == (1, 10, 9500)
    assert meter.totals[T_SUPER] == 1


def test_a_full_ring_is_named(tap: Tap) -> None:
    """What was written and not received was dropped by the ring, and by nothing else."""
    meter = new_meter(64)
    frames = 20_000
    frame = raw(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=9999) / Raw(b"x" * 300))
    with Ring(tap.name, 2 << 20) as ring:
        for number in range(frames):
            tap.write(frame[:18] + struct.pack(">H", number % 65_535 + 1) + frame[20:])
        while any(True for batch in ring.read(0.2) for _ in [count(meter, batch)]):
            pass
        lost = ring.lost()

    assert 0 < meter.totals[T_FRAMES] < frames
    assert meter.totals[T_FRAMES] + lost.ring == frames
    assert lost.interface == 0
    (row,) = results.connections(meter)
    assert row["packets_to_server"] == meter.totals[T_FRAMES]


@pytest.mark.parametrize("outgoing", [False, True])
def test_what_goes_out_counts_only_if_asked_for(tap: Tap, outgoing: bool) -> None:
    meter = new_meter(64)
    sent = raw(Ether() / IP(src="10.0.0.9", dst="10.0.0.2", id=5) / UDP(sport=9, dport=9))
    with Ring(tap.name, 2 << 20, outgoing=outgoing) as ring, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((tap.name, 0))
        out.send(sent)
        tap.write(raw(Ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=6) / UDP(sport=9, dport=9)))
        read(ring, meter, 1 + outgoing)

    assert {row["src_ip"] for row in results.connections(meter)} == {"10.0.0.1", *(["10.0.0.9"] if outgoing else [])}


def test_an_interface_that_goes_down_is_waited_for_until_it_is_gone(tap: Tap) -> None:
    """Waiting takes no CPU time: only the first wait ends at once, by the system's error."""
    meter = new_meter(64)
    with Ring(tap.name, 2 << 20) as ring:
        assert ring.is_up()
        tap.set_flags(0)
        assert not ring.is_up()
        list(ring.read(0.1))
        began = time.monotonic()
        list(ring.read(0.3))
        assert time.monotonic() - began >= 0.25

        tap.set_flags(UP)
        assert ring.is_up()
        tap.write(talk().frames[0][1])
        read(ring, meter, 1)
        assert meter.totals[T_FRAMES] == 1

        os.close(tap.handle)
        with pytest.raises(OSError, match="the interface is gone"):
            ring.is_up()
        assert ring.lost() == (0, 0)


@pytest.mark.parametrize("tap", [TUN], indirect=True)
def test_an_interface_without_ethernet_is_refused(tap: Tap) -> None:
    with pytest.raises(OSError, match=r"its frames are not Ethernet \(ARPHRD type 65534\)"), Ring(tap.name, 2 << 20):
        pass


@pytest.mark.parametrize(("before", "now", "more"), [(5, 5, 0), (5, 9, 4), (2**32 - 3, 7, 7), (1000, 0, 0)])
def test_counters_that_wrap_or_begin_again_lose_nothing_twice(before: int, now: int, more: int) -> None:
    assert grown(before, now) == more


def test_the_command_says_that_its_interface_is_down_and_then_gone(tap: Tap) -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "collector", "mirror", "--interface", tap.name, "-f", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        _until_listening(tap.name, process)
        assert process.stderr is not None
        assert process.stdout is not None
        lines = []
        tap.write(talk().frames[0][1])
        for flags in (0, UP):
            tap.set_flags(flags)
            lines.append(process.stderr.readline())
        os.close(tap.handle)
        lines += process.stderr.readlines()
        rows = [json.loads(line) for line in process.stdout]

    assert lines[:3] == [
        f"{tap.name} is down: nothing comes until it is up\n",
        f"{tap.name} is up again\n",
        f"vmflow mirror: {tap.name}: the interface is gone\n",
    ]
    assert "1 frames, 1 packets counted" in lines[3]
    assert [row["packets_to_server"] for row in rows] == [1]
    assert process.returncode == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, None])
def test_the_command_ends_well_with_all_that_came(tap: Tap, end: signal.Signals | None) -> None:
    """By a signal, or after its seconds."""
    command = [sys.executable, "-m", "collector", "mirror", "--interface", tap.name, "--by", "connection", "-f", "json"]
    command += ["--seconds", "3"] if end is None else []
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    _until_listening(tap.name, process)
    for _, frame in talk().frames:
        tap.write(frame)
    if end is not None:
        threading.Timer(0.5, process.send_signal, [end]).start()
    out, err = process.communicate(timeout=60)
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]

    assert process.returncode == 0, err
    assert sum(row["packets_to_server"] for row in rows) == 4
    assert sum(row["retransmitted_segments_to_server"] for row in rows) == 1
    assert "6 frames, 6 packets counted" in err
    assert "not received: 0 packets, the ring was full; 0, dropped by the interface" in err


def _until_listening(name: str, process: subprocess.Popen[str]) -> None:
    """Wait until a packet socket is at the interface."""
    number = str(socket.if_nametoindex(name))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lines = Path("/proc/net/packet").read_text().splitlines()[1:]
        if any(line.split()[4] == number and line.split()[3] == "0003" for line in lines):
            return
        time.sleep(0.05)
    raise AssertionError("the command does not listen")
