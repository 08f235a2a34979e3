"""Read a UDP socket many datagrams at a time: one system call and one compiled pass per batch.

Strategy.  `recvmmsg` fills up to 1,024 slots in one call.  A slot is two pieces: a near one that holds any datagram of
an ordinary Ethernet (so the memory in use stays dense and in cache), and a far one for the rest of the largest UDP
payload (memory that costs nothing until such a datagram comes).  The kernel writes beside each the sender's address,
the time of receipt and the running total of drops.  `unpack` then copies all this into arrays, the payloads after those
of the previous read, so that the slots are free for the next call.  No Python runs once per datagram.

`SingleReader` does the same datagram by datagram where the system has no `recvmmsg`.

Sources: recvmmsg(2), recvmsg(2), cmsg(3), socket(7), Linux include/uapi/asm-generic/socket.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from decoders.datagrams import MAPPED_PREFIX, Datagrams
from decoders.jit import kernel
from decoders.memory import BLOCKS, MemoryPool

BLOCK_BYTES = 8 << 20
"""As much as the pipeline waits for by default: a batch is one block, so that no copy is needed."""


class Memory:
    """The pool of blocks for payloads.  One thread takes them; any thread that drops the last batch of a block returns
    it.

    Reads fill one block after the other, so that their payloads can be passed on without being copied.  A block of
    which no batch is left is filled again (`decoders.memory`).
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES, blocks: MemoryPool = BLOCKS) -> None:
        self._block_bytes = block_bytes
        self._blocks = blocks
        self._take_block()

    def room(self, octets: int) -> tuple[NDArray[np.uint8], NDArray[np.uint64], int]:
        """Return a block with room for this many octets: as octets, as words of 8 octets, and the first free word."""
        words = -(-octets // 8)
        if words > self._block_bytes // 8:
            large = np.empty(words, np.uint64)
            return large.view(np.uint8), large, 0
        if self._filled + words > len(self._words):
            self._take_block()
        return self._bytes, self._words, self._filled

    def use(self, words: NDArray[np.uint64], filled: int) -> None:
        """Note that the `words` from `room` are in use up to word `filled`."""
        if words is self._words:
            self._filled = filled

    def _take_block(self) -> None:
        self._bytes = self._blocks.take(self._block_bytes)
        self._words = self._bytes.view(np.uint64)
        self._filled = 0


# Python 3.11 names none of these.  The numbers are those of asm-generic/socket.h, which x86, ARM, RISC-V, POWER (for
# these) and s390 use; the systems that number otherwise also have another SOL_SOCKET.
ANCILLARY = sys.platform == "linux" and socket.SOL_SOCKET == 1
SO_TIMESTAMPNS = 35
SO_RXQ_OVFL = 40
SO_MEMINFO = 55

SLOTS = 1024
"""Datagrams per call: the kernel's own limit (UIO_MAXIOV), beyond which it reads no more per call."""
NEAR_BYTES = 2048
"""First piece of a slot: any datagram of an ordinary Ethernet (at most 1,472 octets of payload)."""
FAR_BYTES = 65_536 - NEAR_BYTES
"""The rest: UDP's length field is 16 bits wide (RFC 768), so no datagram is larger than both pieces."""

NAME_BYTES = 32
CONTROL_BYTES = 64
"""Room for the two control messages: 16 + 16 octets of a time, 16 + 4 (padded to 8) of a drop total."""
NO_TOTAL = -1
"""`Received.drops_total` when no datagram of the batch stated one."""


class Received(NamedTuple):
    """What one read brought."""

    datagrams: Datagrams
    octets: int
    """Octets of all payloads."""
    truncated: int
    """Datagrams larger than a slot, which were dropped."""
    drops_total: int
    """Newest running total of the kernel's drops on this socket (32 bits, wraps), or -1 where none was stated."""
    full: bool
    """True if the read ended because the slots did: more datagrams may wait."""


class Reader(Protocol):
    """The reader of what a non-blocking UDP socket holds."""

    def warm(self) -> None:
        """Do what would slow down the first read."""

    def read(self, sock: socket.socket, now_us: int) -> Received | None:
        """Take up to one batch; None if nothing waits.

        `now_us` (µs since 1970 UTC) is the time of receipt where the kernel states none.  Raises OSError like the
        socket, except BlockingIOError.
        """


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr: a struct msghdr and the length received."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int32),
        ("padding", ctypes.c_uint32),  # the inner structure ends on a pointer's boundary
        ("length", ctypes.c_uint32),
    )


# The layout above is checked for the 64-bit systems only; the others take the slower reader.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 else None
_recvmmsg: Any = getattr(_libc, "recvmmsg", None)
AVAILABLE = ANCILLARY and _recvmmsg is not None
if _recvmmsg is not None:
    _recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    _recvmmsg.restype = ctypes.c_int

_AF_INET = int(socket.AF_INET)
_AF_INET6 = int(socket.AF_INET6)
_SOL_SOCKET = int(socket.SOL_SOCKET)
_MSG_TRUNC = int(getattr(socket, "MSG_TRUNC", 0x20))
_CMSG_HEADER = 16
"""struct cmsghdr on a 64-bit system: length (8 octets, header included), level, type (4 each)."""
_TIMESPEC = struct.Struct("@ll")
_NOTHING_WAITS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


@kernel
def unpack(
    count: int,
    near: NDArray[np.uint64],
    far: NDArray[np.uint64],
    lengths: NDArray[np.uint32],
    flags: NDArray[np.int32],
    names: NDArray[np.uint8],
    families: NDArray[np.uint16],
    control_lengths: NDArray[np.uint64],
    control_words: NDArray[np.int64],
    control_halves: NDArray[np.int32],
    now_us: int,
    words: NDArray[np.uint64],
    fill: int,
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    address: NDArray[np.uint64],
    port: NDArray[np.int64],
    time_received_us: NDArray[np.int64],
) -> tuple[int, int, int, int]:
    """Move the `count` datagrams that `recvmmsg` left in the slots into the columns of a `Datagrams`.

    `near` to `control_halves` have a row per slot: the two pieces of its payload as 8-octet words, its length and
    flags, the sender (a struct sockaddr; its family once more as a number), and the control messages as 8 and 4 octet
    words.  `words` receives the payloads from word `fill` on, each starting at a new word: a copy by words costs a
    ninth of one by octets.  It must have room for the lengths, each rounded up (the gaps may hold anything); the
    columns hold `count` rows.

    Returns how many datagrams were kept (the others were cut by the kernel, MSG_TRUNC), their octets, the first word
    behind them, and the newest drop total or -1.
    """
    near_words = near.shape[1]
    slot_bytes = (near_words + far.shape[1]) * 8
    kept = 0
    kept_bytes = 0
    drops_total = NO_TOTAL
    for row in range(count):
        received_us = now_us
        # Control messages: each states its own length, and the next starts at a multiple of 8.
        at = 0
        end = min(int(control_lengths[row]), control_words.shape[1] * 8)
        while at + _CMSG_HEADER <= end:
            size = control_words[row, at >> 3]
            if size < _CMSG_HEADER or at + size > end:
                break
            kind = control_halves[row, (at >> 2) + 3]
            if control_halves[row, (at >> 2) + 2] == _SOL_SOCKET:
                body = (at + _CMSG_HEADER) >> 3
                if kind == SO_TIMESTAMPNS and size >= _CMSG_HEADER + 16:
                    received_us = control_words[row, body] * 1_000_000 + control_words[row, body + 1] // 1000
                elif kind == SO_RXQ_OVFL and size >= _CMSG_HEADER + 4:
                    drops_total = int(control_halves[row, 2 * body]) & 0xFFFF_FFFF
            at += (size + 7) & ~7

        octets = int(lengths[row])
        if flags[row] & _MSG_TRUNC or octets > slot_bytes:
            continue

        # The sender: port at 2, IPv4 address at 4, IPv6 address at 8, all in network order.
        port[kept] = (int(names[row, 2]) << 8) | int(names[row, 3])
        high = np.uint64(0)
        low = np.uint64(0)
        if families[row] == _AF_INET:
            for place in range(4, 8):
                low = (low << np.uint64(8)) | np.uint64(names[row, place])
            low |= np.uint64(MAPPED_PREFIX)
        elif families[row] == _AF_INET6:
            for place in range(8, 16):
                high = (high << np.uint64(8)) | np.uint64(names[row, place])
                low = (low << np.uint64(8)) | np.uint64(names[row, place + 8])
        address[kept, 0] = high
        address[kept, 1] = low

        whole = (octets + 7) >> 3
        first = min(whole, near_words)
        words[fill : fill + first] = near[row, :first]
        if whole > first:
            words[fill + first : fill + whole] = far[row, : whole - first]
        start[kept] = fill * 8
        length[kept] = octets
        time_received_us[kept] = received_us
        fill += whole
        kept += 1
        kept_bytes += octets
    return kept, kept_bytes, fill, drops_total


class BatchReader:
    """The reader of batches with `recvmmsg`.  One is enough for all sockets of an event loop; not thread-safe.

    Memory: 2 MiB of near pieces, and 62 MiB of far ones, of which only those touched by a large datagram take memory.
    Payloads are in blocks besides that.
    """

    def __init__(self, slots: int = SLOTS, near_bytes: int = NEAR_BYTES, far_bytes: int = FAR_BYTES) -> None:
        """Lay out `slots` (2 to 1,024) slots of two pieces, each a multiple of 8 octets.

        Raises ValueError for other sizes and OSError if the system has no `recvmmsg`.
        """
        if _recvmmsg is None or not AVAILABLE:
            raise OSError(errno.ENOSYS, "this system has no recvmmsg that vmflow knows")
        # With one slot the columns below would be contiguous, which is another type to the compiled kernel.
        if not 2 <= slots <= SLOTS or near_bytes % 8 or far_bytes % 8:
            raise ValueError(f"{slots} slots of {near_bytes} + {far_bytes} octets")
        self._slots = slots
        self._near = np.zeros((slots, near_bytes // 8), dtype=np.uint64)
        self._far = np.zeros((slots, far_bytes // 8), dtype=np.uint64)
        self._names = np.zeros((slots, NAME_BYTES), dtype=np.uint8)
        self._families = self._names.view(np.uint16)[:, 0]
        self._control = np.zeros((slots, CONTROL_BYTES // 8), dtype=np.int64)
        self._control_halves = self._control.view(np.int32)
        self._vectors = np.zeros((slots, 2), dtype=np.dtype(_IoVec))
        self._vectors["base"] = np.stack((_row_addresses(self._near), _row_addresses(self._far)), axis=1)
        self._vectors["length"] = near_bytes, far_bytes
        self._messages = np.zeros(slots, dtype=np.dtype(_Message))
        self._messages["name"] = _row_addresses(self._names)
        self._messages["name_length"] = NAME_BYTES
        self._messages["vector"] = _row_addresses(self._vectors)
        self._messages["vector_length"] = 2
        self._messages["control"] = _row_addresses(self._control)
        self._messages["control_length"] = CONTROL_BYTES
        self._pristine = self._messages.copy()
        self._messages_at = self._messages.ctypes.data
        self._lengths = self._messages["length"]
        self._flags = self._messages["flags"]
        self._control_lengths = self._messages["control_length"]
        self._memory = Memory()

    def warm(self) -> None:
        """Compile the kernel, or load it compiled: the first read should not wait for that."""
        self._unpack(0, 0)

    def read(self, sock: socket.socket, now_us: int) -> Received | None:
        """See `Reader.read`."""
        count = _recvmmsg(sock.fileno(), self._messages_at, self._slots, socket.MSG_DONTWAIT, None)
        if count <= 0:
            code = ctypes.get_errno()
            if count == 0 or code in _NOTHING_WAITS:
                return None
            raise OSError(code, os.strerror(code))
        received = self._unpack(count, now_us)
        # The kernel overwrote the room it was offered for names and control messages with what it used.
        self._messages[:count] = self._pristine[:count]
        return received

    def _unpack(self, count: int, now_us: int) -> Received:
        octets, words, fill = self._memory.room(int(self._lengths[:count].sum()) + 7 * count)
        start = np.empty(count, dtype=np.int64)
        length = np.empty(count, dtype=np.int64)
        address = np.empty((count, 2), dtype=np.uint64)
        port = np.empty(count, dtype=np.int64)
        time_received_us = np.empty(count, dtype=np.int64)
        kept, kept_bytes, filled, drops_total = unpack(
            count,
            self._near,
            self._far,
            self._lengths,
            self._flags,
            self._names,
            self._families,
            self._control_lengths,
            self._control,
            self._control_halves,
            now_us,
            words,
            fill,
            start,
            length,
            address,
            port,
            time_received_us,
        )
        self._memory.use(words, filled)
        datagrams = Datagrams(
            octets,
            start[:kept],
            length[:kept],
            address[:kept],
            port[:kept],
            time_received_us[:kept],
            np.zeros(kept, dtype=np.int64),
        )
        return Received(datagrams, kept_bytes, count - kept, drops_total, count == self._slots)


class SingleReader:
    """The reader datagram by datagram, for systems without `recvmmsg`.  If `recvmsg` is missing, too, drops are not
    seen."""

    def __init__(self, slots: int = SLOTS, slot_bytes: int = NEAR_BYTES + FAR_BYTES) -> None:
        """Read up to `slots` datagrams of up to `slot_bytes` at a time."""
        self._slots = slots
        self._buffer = bytearray(slot_bytes)
        self._view = memoryview(self._buffer)

    def warm(self) -> None:
        """Do nothing: nothing here is compiled."""

    def read(self, sock: socket.socket, now_us: int) -> Received | None:
        """See `Reader.read`."""
        rows: list[tuple[bytes, str, int, int]] = []
        truncated = 0
        drops_total = NO_TOTAL
        while len(rows) + truncated < self._slots:
            try:
                size, ancillary, flags, sender = self._receive(sock)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                if rows or truncated:
                    break  # the next read gets the error again, or it is over
                raise
            received_us, drops_total = _read_ancillary(ancillary, now_us, drops_total)
            if flags & _MSG_TRUNC:
                truncated += 1
                continue
            # A link-local sender carries its interface after a percent sign; the columns have no room for that.
            rows.append((bytes(self._view[:size]), sender[0].partition("%")[0], sender[1], received_us))
        if not rows and not truncated:
            return None
        octets = sum(len(row[0]) for row in rows)
        return Received(Datagrams.of(rows), octets, truncated, drops_total, len(rows) + truncated == self._slots)

    def _receive(self, sock: socket.socket) -> tuple[int, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        """Return the octets in the buffer, the control messages, the flags and the sender."""
        if hasattr(sock, "recvmsg_into"):
            size, ancillary, flags, sender = sock.recvmsg_into([self._view], CONTROL_BYTES if ANCILLARY else 0)
            return size, ancillary, flags, sender[:2]
        size, sender = sock.recvfrom_into(self._view)
        return size, [], 0, sender[:2]


def _read_ancillary(ancillary: list[tuple[int, int, bytes]], now_us: int, drops_total: int) -> tuple[int, int]:
    """Return the time of receipt and the drop total that the control messages state, else the two arguments."""
    for level, kind, body in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == SO_TIMESTAMPNS and len(body) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(body)
            now_us = seconds * 1_000_000 + nanoseconds // 1000
        elif kind == SO_RXQ_OVFL and len(body) >= 4:
            drops_total = int.from_bytes(body[:4], sys.byteorder)
    return now_us, drops_total


def best_reader() -> Reader:
    """Return the fastest reader that this system has."""
    return BatchReader() if AVAILABLE else SingleReader()


def _row_addresses(array: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the machine address of each row of `array`, [rows]."""
    return np.uint64(array.ctypes.data) + np.arange(len(array), dtype=np.uint64) * np.uint64(array.strides[0])
