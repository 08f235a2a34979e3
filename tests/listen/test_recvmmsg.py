"""The readers, over real sockets: datagrams arrive whole, with sender, time and the kernel's drop total."""

from __future__ import annotations

import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from collector.listen import recvmmsg
from collector.listen.recvmmsg import (
    AVAILABLE,
    NO_TOTAL,
    SO_RXQ_OVFL,
    SO_TIMESTAMPNS,
    BatchReader,
    Reader,
    SingleReader,
    best_reader,
)
from collector.listen.sockets import memory_state
from decoders.datagrams import Datagrams, address_halves

needs_recvmmsg = pytest.mark.skipif(not AVAILABLE, reason="this system has no recvmmsg")
LARGEST_IPV4_PAYLOAD = 65_507


class PlainSocket:
    """A socket of a system without recvmsg: only what `SingleReader` then uses."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recvfrom_into(self, buffer: memoryview) -> tuple[int, tuple[str, int]]:
        return self._sock.recvfrom_into(buffer)


@pytest.fixture(
    params=[
        pytest.param("compiled", marks=needs_recvmmsg),
        pytest.param("uncompiled", marks=needs_recvmmsg),
        "single",
    ]
)
def reader_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Reader]:
    """Makes a reader with a number of slots: each kind must behave alike."""
    if request.param == "single":
        return SingleReader
    if request.param == "uncompiled":
        monkeypatch.setattr(recvmmsg, "unpack", getattr(recvmmsg.unpack, "py_func", recvmmsg.unpack))
    return BatchReader


@pytest.fixture
def open_socket() -> Iterator[Callable[..., socket.socket]]:
    """Opens bound, non-blocking sockets that state times and drops."""
    with ExitStack() as stack:

        def open_one(host: str = "127.0.0.1", v6only: int = 1, buffer_bytes: int = 2**22) -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            if recvmmsg.ANCILLARY:
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
            sock.setblocking(False)
            sock.bind((host, 0))
            return sock

        yield open_one


def rows(datagrams: Datagrams) -> list[tuple[bytes, tuple[int, int], int]]:
    """Each datagram as (payload, address halves, port), after checking the columns' form."""
    count = len(datagrams)
    forms = {
        "octets": (np.uint8, (len(datagrams.octets),)),
        "start": (np.int64, (count,)),
        "length": (np.int64, (count,)),
        "address": (np.uint64, (count, 2)),
        "port": (np.int64, (count,)),
        "time_received_us": (np.int64, (count,)),
    }
    for name, (dtype, shape) in forms.items():
        column = getattr(datagrams, name)
        assert (name, column.dtype, column.shape) == (name, dtype, shape)
        assert column.flags.c_contiguous
        assert column.flags.writeable
    assert (datagrams.start + datagrams.length <= len(datagrams.octets)).all()
    return [
        (
            datagrams.octets[start : start + length].tobytes(),
            (int(datagrams.address[row, 0]), int(datagrams.address[row, 1])),
            int(datagrams.port[row]),
        )
        for row, (start, length) in enumerate(zip(datagrams.start, datagrams.length, strict=True))
    ]


def read_all(reader: Reader, sock: socket.socket) -> list[recvmmsg.Received]:
    """Read until nothing waits; loopback delivers before `send` returns."""
    batches = []
    while (received := reader.read(sock, 0)) is not None:
        batches.append(received)
    return batches


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_thousands_of_datagrams_of_all_sizes_arrive_whole(
    host: str, reader_of: Callable[[int], Reader], open_socket: Callable[..., socket.socket]
) -> None:
    chance = random.Random(20)
    sock = open_socket(host)
    senders = [open_socket(host) for _ in range(3)]
    reader = reader_of(64)
    sizes = [0, 1, 7, 8, 9, 1472, 2047, 2048, 2049, 9000, LARGEST_IPV4_PAYLOAD]
    sizes += [chance.randrange(2500) for _ in range(3000)]
    chance.shuffle(sizes)
    warm_up_timestamps(sock, reader, senders[0])
    sent: list[tuple[bytes, tuple[int, int], int]] = []
    got: list[tuple[bytes, tuple[int, int], int]] = []
    times: list[int] = []
    before_us = time.time_ns() // 1000

    for at in range(0, len(sizes), 100):
        for size in sizes[at : at + 100]:
            sender = chance.choice(senders)
            payload = chance.randbytes(size)
            sender.sendto(payload, sock.getsockname())
            sent.append((payload, address_halves(host), sender.getsockname()[1]))
        for received in read_all(reader, sock):
            assert received.truncated == 0
            assert received.drops_total == NO_TOTAL
            assert received.full == (len(received.datagrams) == 64)
            got += rows(received.datagrams)
            times += received.datagrams.time_received_us.tolist()

    assert got == sent
    if recvmmsg.ANCILLARY:
        assert times == sorted(times)
        assert before_us <= times[0] <= times[-1] <= time.time_ns() // 1000


def warm_up_timestamps(sock: socket.socket, reader: Reader, sender: socket.socket) -> None:
    """Wait until the kernel stamps at arrival: it begins a moment after the first socket asks, till then at reading."""
    for _ in range(200):
        sender.sendto(b"", sock.getsockname())
        sent_us = time.time_ns() // 1000
        time.sleep(0.005)
        (received,) = read_all(reader, sock)
        if received.datagrams.time_received_us[0] <= sent_us:
            return
    pytest.fail("the kernel states no time of arrival")


def test_ipv4_reads_alike_from_a_dual_stack_socket(
    reader_of: Callable[[int], Reader], open_socket: Callable[..., socket.socket]
) -> None:
    sock = open_socket("::", v6only=0)
    port = sock.getsockname()[1]
    old, new = open_socket("127.0.0.1"), open_socket("::1")

    old.sendto(b"old", ("127.0.0.1", port))
    new.sendto(b"new", ("::1", port))
    (received,) = read_all(reader_of(8), sock)

    assert rows(received.datagrams) == [
        (b"old", address_halves("127.0.0.1"), old.getsockname()[1]),
        (b"new", address_halves("::1"), new.getsockname()[1]),
    ]


def test_all_bytes_of_an_address_and_port_are_read() -> None:
    """Loopback addresses are mostly zeros; the whole of 127.0.0.0/8 is ours, though."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sender.bind(("127.201.30.254", 0))
        sender.sendto(b"x", sock.getsockname())
        received = best_reader().read(sock, 1_234)

    assert received is not None
    assert rows(received.datagrams) == [(b"x", address_halves("127.201.30.254"), sender_port(received))]
    assert received.datagrams.time_received_us.tolist() == [1_234]  # the socket was not asked to state times


def sender_port(received: recvmmsg.Received) -> int:
    return int(received.datagrams.port[0])


@pytest.mark.parametrize("kind", [pytest.param("batch", marks=needs_recvmmsg), "single"])
def test_a_datagram_larger_than_its_slot_is_counted_and_its_neighbours_stay(
    kind: str, open_socket: Callable[..., socket.socket]
) -> None:
    reader: Reader = BatchReader(8, near_bytes=8, far_bytes=8) if kind == "batch" else SingleReader(8, slot_bytes=16)
    sock, sender = open_socket(), open_socket()

    for size in (16, 17, 8, 60_000, 9):
        sender.sendto(bytes([size % 256]) * size, sock.getsockname())
    (received,) = read_all(reader, sock)

    assert received.truncated == 2
    assert [payload for payload, _, _ in rows(received.datagrams)] == [b"\x10" * 16, b"\x08" * 8, b"\x09" * 9]


@pytest.mark.parametrize("kind", [pytest.param("batch", marks=needs_recvmmsg), "single"])
def test_a_batch_of_cut_datagrams_only_is_not_taken_for_silence(
    kind: str, open_socket: Callable[..., socket.socket]
) -> None:
    reader: Reader = BatchReader(2, near_bytes=8, far_bytes=8) if kind == "batch" else SingleReader(2, slot_bytes=16)
    sock, sender = open_socket(), open_socket()

    for _ in range(2):
        sender.sendto(bytes(17), sock.getsockname())
    received = reader.read(sock, 0)

    assert received is not None
    assert (len(received.datagrams), received.truncated, received.full) == (0, 2, True)


@pytest.mark.skipif(not recvmmsg.ANCILLARY, reason="this system does not tell of drops")
def test_the_kernels_drops_are_stated(
    reader_of: Callable[[int], Reader], open_socket: Callable[..., socket.socket]
) -> None:
    sock, sender = open_socket(buffer_bytes=4096), open_socket()
    reader = reader_of(64)

    for _ in range(500):
        sender.sendto(bytes(100), sock.getsockname())
    state = memory_state(sock)
    before = sum(len(received.datagrams) for received in read_all(reader, sock))
    sender.sendto(b"after", sock.getsockname())
    (last,) = read_all(reader, sock)

    assert 0 < before < 500
    assert last.drops_total == 500 - before
    assert state is not None
    assert state[0] > 0
    assert state[1] == 500 - before
    assert memory_state(sock) == (0, 500 - before)


def test_an_empty_socket_reads_as_none(
    reader_of: Callable[[int], Reader], open_socket: Callable[..., socket.socket]
) -> None:
    assert reader_of(4).read(open_socket(), 0) is None


def test_a_closed_socket_is_an_error(
    reader_of: Callable[[int], Reader], open_socket: Callable[..., socket.socket]
) -> None:
    sock = open_socket()
    sock.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        reader_of(4).read(sock, 0)


def test_without_recvmsg_the_given_time_is_used(open_socket: Callable[..., socket.socket]) -> None:
    sock, sender = open_socket(), open_socket()
    sender.sendto(b"plain", sock.getsockname())

    received = SingleReader(4).read(PlainSocket(sock), 77)  # type: ignore[arg-type]

    assert received is not None
    assert rows(received.datagrams) == [(b"plain", address_halves("127.0.0.1"), sender.getsockname()[1])]
    assert received.datagrams.time_received_us.tolist() == [77]
    assert received.drops_total == NO_TOTAL


@needs_recvmmsg
@pytest.mark.parametrize("sizes", [(1, 8, 8), (1025, 8, 8), (4, 7, 8), (4, 8, 9)])
def test_slots_that_cannot_be_laid_out_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="slots"):
        BatchReader(*sizes)


@needs_recvmmsg
def test_the_batch_does_not_change_when_its_slots_are_used_again(open_socket: Callable[..., socket.socket]) -> None:
    sock, sender = open_socket(), open_socket()
    reader = BatchReader(4)
    sender.sendto(b"first", sock.getsockname())
    first = reader.read(sock, 0)
    sender.sendto(b"other", sock.getsockname())
    reader.read(sock, 0)

    assert first is not None
    assert rows(first.datagrams)[0][0] == b"first"


KERNELS = [
    pytest.param(recvmmsg.unpack, id="compiled"),
    pytest.param(getattr(recvmmsg.unpack, "py_func", recvmmsg.unpack), id="uncompiled"),
]


@pytest.mark.parametrize("unpack", KERNELS)
@pytest.mark.parametrize(
    ("control", "time_us", "drops_total"),
    [
        ([32, 1 | 35 << 32, 1_700_000_000, 123_456_789], 1_700_000_000_123_456, NO_TOTAL),
        ([20, 1 | 40 << 32, 0xFFFF_FFFE, 0], 5, 0xFFFF_FFFE),
        ([20, 1 | 40 << 32, 3, 32, 1 | 35 << 32, 2, 999], 2_000_000, 3),
        ([32, 0 | 35 << 32, 2, 999], 5, NO_TOTAL),  # another level
        ([0, 1 | 35 << 32, 2, 999], 5, NO_TOTAL),  # no progress
        ([-8, 1 | 35 << 32, 2, 999], 5, NO_TOTAL),
        ([4096, 1 | 35 << 32, 2, 999], 5, NO_TOTAL),  # longer than there is
        ([24, 1 | 35 << 32, 2], 5, NO_TOTAL),  # too short for a time
        ([], 5, NO_TOTAL),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the words are written as a little-endian system does")
def test_control_messages_and_ipv6_senders_are_read(
    unpack: Callable[..., tuple[int, int, int, int]], control: list[int], time_us: int, drops_total: int
) -> None:
    names = np.zeros((2, 32), dtype=np.uint8)
    names[0, :28] = list(
        struct.pack("=H", socket.AF_INET6) + bytes([0x12, 0x34, 9, 9, 9, 9]) + bytes(range(16)) + b"zz__"
    )
    words = np.zeros((2, 8), dtype=np.int64)
    words[0, : len(control)] = control
    out = np.zeros(3, dtype=np.uint64)
    start, length, port, times = (np.full(1, -1, dtype=np.int64) for _ in range(4))
    address = np.zeros((1, 2), dtype=np.uint64)
    near = np.array([[0x0102], [0]], dtype=np.uint64)
    columns = np.zeros(2, dtype=[("length", np.uint32), ("flags", np.int32), ("control", np.uint64)])
    columns[0] = (2, 0, len(control) * 8)

    result = unpack(
        1, near, near, columns["length"], columns["flags"], names, names.view(np.uint16)[:, 0], columns["control"],
        words, words.view(np.int32), 5, out, 1, start, length, address, port, times,
    )  # fmt: skip

    assert result == (1, 2, 2, drops_total)
    assert out.tolist() == [0, 0x0102, 0]
    assert (start[0], length[0], port[0], times[0]) == (8, 2, 0x1234, time_us)
    assert address.tolist() == [[0x0001_0203_0405_0607, 0x0809_0A0B_0C0D_0E0F]]
