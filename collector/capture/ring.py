"""Frames of an interface, from a ring that the kernel fills (AF_PACKET, TPACKET_V3).

The kernel copies the first octets of each frame into blocks of 256 KiB and hands over a block when it is full or 20 ms
old.  Nothing runs per frame in Python: a kernel lists the frames of a block, and they are counted where they lie.

What the network card took out of a frame (the VLAN tag) and what it merged (TCP segments) stand in the frame's header.

Sources: packet(7); Linux Documentation/networking/packet_mmap.rst, include/uapi/linux/if_packet.h, virtio_net.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from decoders.jit import kernel
from decoders.mirror.meter import Frames

SOL_PACKET = 263
ADD_MEMBERSHIP, RX_RING, STATISTICS, VERSION, VNET_HEADER, IGNORE_OUTGOING = 1, 5, 6, 10, 15, 23
SO_ATTACH_FILTER = 26
GET_FLAGS, UP = 0x8913, 1
ETHERNET, LOOPBACK = 1, 772
"""Hardware types (ARPHRD_…) whose frames begin with an Ethernet header."""
TPACKET_V3 = 2
PROMISCUOUS = 1
ALL_PROTOCOLS = 3

BLOCK_BYTES = 1 << 18
FRAME_BYTES = 2048
"""The kernel wants to know a size of frames, and does not use it in this version of the ring."""
RETIRE_MS = 20
SNAP_BYTES = 192
"""Octets of each frame that are copied: VXLAN in ERSPAN has 154 of headers."""
MOST_FRAMES = BLOCK_BYTES // 64
"""A frame takes more than 64 octets of a block: its header alone has 48."""

B_STATUS, B_FRAMES, B_FIRST = 8, 12, 16
"""Offsets in a block's header."""
STATUS_USER = 1
VLAN_VALID = 0x10
VNET_BYTES = 10
OUTGOING = 4

LOSSES = ("rx_dropped", "rx_missed_errors", "rx_fifo_errors")
"""Statistics of an interface: frames that it could not hand over."""


class Lost(NamedTuple):
    """Frames that did not come, since the ring was opened."""

    ring: int
    """The ring was full: the meter is too slow."""
    interface: int
    """The network card or its driver dropped them; at least so many where its counters began again."""


@kernel
def list_frames(octets, halves, words, block, count, vnet, outgoing, start, length, original, ns, vlan, segment):
    """List the frames of the block at an offset; `halves` and `words` are its octets as numbers of 16 and 32 bits.

    `vnet`: a virtio_net_hdr is before each frame.  `outgoing`: those that this host sends, too.  Returns how many.
    """
    at = block + np.int64(words[(block + 16) // 4])
    listed = 0
    for _ in range(count):
        word = at // 4
        place = at + np.int64(halves[at // 2 + 12])
        if outgoing or octets[at + 58] != OUTGOING:
            start[listed] = place
            length[listed] = np.int64(words[word + 3])
            original[listed] = np.int64(words[word + 4])
            ns[listed] = np.int64(words[word + 1]) * 1_000_000_000 + np.int64(words[word + 2])
            vlan[listed] = 0
            if words[word + 5] & VLAN_VALID != 0:
                vlan[listed] = np.int64(words[word + 8]) & 0x0FFF
            segment[listed] = 0
            if vnet and octets[place - VNET_BYTES + 1] != 0 and place % 2 == 0:
                segment[listed] = np.int64(halves[(place - VNET_BYTES + 4) // 2])
            listed += 1
        if words[word] == 0:
            break
        at += np.int64(words[word])
    return listed


class Ring:
    """The ring of an interface.  Entering it opens it and takes CAP_NET_RAW; OSError says what is missing."""

    def __init__(self, interface: str, octets: int, *, outgoing: bool = False) -> None:
        self.interface = interface
        self._blocks = max(2, octets // BLOCK_BYTES)
        self._outgoing = outgoing
        self._vnet = False
        self._next = 0
        self._dropped = 0
        self._missed = 0

    def __enter__(self) -> Self:
        try:
            self._number = socket.if_nametoindex(self.interface)
        except OSError:
            raise OSError(errno.ENODEV, "no such interface", self.interface) from None
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise OSError(
                errno.EPERM, "only root, or who has CAP_NET_RAW, may take its packets", self.interface
            ) from None
        try:
            self._set_up(self._socket)
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The arrays refer to the memory: it goes with the last of them.
        del self._octets, self._halves, self._words
        self._socket.close()

    def _set_up(self, ring: socket.socket) -> None:
        ring.bind((self.interface, 0))  # no packets yet
        kind = ring.getsockname()[3]
        if kind not in (ETHERNET, LOOPBACK):
            raise OSError(
                errno.EOPNOTSUPP,
                f"its frames are not Ethernet (ARPHRD type {kind}); a tunnel's packets are at the interface below it",
                self.interface,
            )
        ring.setsockopt(SOL_PACKET, VERSION, TPACKET_V3)
        try:
            ring.setsockopt(SOL_PACKET, VNET_HEADER, 1)
            self._vnet = True
        except OSError:
            pass  # an old kernel: what was merged is counted by the handshake's segment size
        if not self._outgoing:
            ring.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
        self._cut(ring)
        frames = BLOCK_BYTES // FRAME_BYTES * self._blocks
        request = struct.pack("7I", BLOCK_BYTES, self._blocks, FRAME_BYTES, frames, RETIRE_MS, 0, 0)
        ring.setsockopt(SOL_PACKET, RX_RING, request)
        memory = mmap.mmap(ring.fileno(), BLOCK_BYTES * self._blocks)
        self._octets: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self._halves = self._octets.view(np.uint16)
        self._words = self._octets.view(np.uint32)
        self._columns = [np.zeros(MOST_FRAMES, np.int64) for _ in range(6)]
        self._before = self._counters()
        ring.bind((self.interface, ALL_PROTOCOLS))
        ring.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, struct.pack("iHH8x", self._number, PROMISCUOUS, 0))

    @staticmethod
    def _cut(ring: socket.socket) -> None:
        """Have the kernel copy no more of a frame than its headers: a filter of one instruction, "return n"."""
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, SNAP_BYTES))
        program = struct.pack("HP", 1, ctypes.addressof(instruction))
        ring.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def read(self, wait_seconds: float) -> Iterator[Frames]:
        """Yield the frames of each block that is ready; wait for one at most so long.

        They lie in the ring, and are overwritten once the next ones are asked for.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not self._ready() and any(event & select.POLLERR for _, event in poll.poll(round(wait_seconds * 1000))):
            # The interface went down.  Until the error is fetched no poll would wait again.
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        for _ in range(self._blocks):
            if not self._ready():
                return
            block = self._next * BLOCK_BYTES
            try:
                yield self._frames(block)
            finally:
                self._words[(block + B_STATUS) // 4] = 0
                self._next = (self._next + 1) % self._blocks

    def is_up(self) -> bool:
        """Return whether packets may come; OSError if the interface is gone, and never will be this one again."""
        try:
            name = socket.if_indextoname(self._number)
            flags = fcntl.ioctl(self._socket, GET_FLAGS, struct.pack("16sH22x", name.encode(), 0))
        except OSError:
            raise OSError(errno.ENODEV, "the interface is gone", self.interface) from None
        return bool(struct.unpack_from("H", flags, 16)[0] & UP)

    def filled(self) -> float:
        """Return which part of the ring waits to be read."""
        return float(np.mean(self._words[B_STATUS // 4 :: BLOCK_BYTES // 4] & STATUS_USER))

    def _ready(self) -> bool:
        return bool(self._words[(self._next * BLOCK_BYTES + B_STATUS) // 4] & STATUS_USER)

    def _frames(self, block: int) -> Frames:
        count = int(self._words[(block + B_FRAMES) // 4])
        listed = list_frames(
            self._octets, self._halves, self._words, block, count, self._vnet, self._outgoing, *self._columns
        )
        return Frames(self._octets, *(column[:listed] for column in self._columns))

    def lost(self) -> Lost:
        """Return what was lost so far."""
        _packets, dropped, _freezes = struct.unpack("3I", self._socket.getsockopt(SOL_PACKET, STATISTICS, 12))
        self._dropped += dropped
        now = self._counters()
        self._missed += sum(grown(self._before.get(name, count), count) for name, count in now.items())
        self._before |= now
        return Lost(self._dropped, self._missed)

    def _counters(self) -> dict[str, int]:
        folder = Path("/sys/class/net") / self.interface / "statistics"
        counters = {}
        for name in LOSSES:
            try:
                counters[name] = int((folder / name).read_text())
            except OSError:
                continue  # the interface is gone
        return counters


def grown(before: int, now: int) -> int:
    """Return by how much a counter has grown; one that wraps or begins again is then at least at what it says."""
    return now - before if now >= before else now


def warm_up() -> None:
    """Compile the kernel, or load it from the cache.  Only who may open a ring could do it otherwise."""
    octets = np.zeros(128, np.uint8)
    columns = [np.zeros(1, np.int64) for _ in range(6)]
    list_frames(octets, octets.view(np.uint16), octets.view(np.uint32), 0, 0, True, False, *columns)
