"""Many datagrams with one system call: sendmmsg(2) through ctypes, send(2) one by one where it is missing."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable

import numpy as np

BATCH_LIMIT = 1024
"""UIO_MAXIOV: the kernel takes no more messages in one call."""
FEWEST = 4
"""Below this many datagrams, laying them out for sendmmsg costs more than the calls it saves."""

IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
MMSGHDR = np.dtype(
    {
        "names": ["name", "name_length", "iov", "iov_count", "control", "control_length", "flags", "sent"],
        "formats": ["u8", "u4", "u8", "u8", "u8", "u8", "i4", "u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
"""`struct mmsghdr` of 64-bit Linux: `struct msghdr` (56 octets) and the octets sent."""


def _find() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "sendmmsg", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_sendmmsg = _find()


class Batch:
    """Up to `BATCH_LIMIT` payloads for one connected socket.  May be sent any number of times."""

    def __init__(self, payloads: list[bytes], one_call: bool = True) -> None:
        """`one_call` False: never use sendmmsg."""
        if len(payloads) > BATCH_LIMIT:
            raise ValueError(f"expected at most {BATCH_LIMIT} payloads, found {len(payloads)}")
        self.payloads = payloads
        self._headers = 0
        if not one_call or _sendmmsg is None or len(payloads) < FEWEST:
            return
        count = len(payloads)
        # These three stay referenced: the headers hold plain addresses.
        self.octets = np.frombuffer(bytearray(b"".join(payloads) or b"\0"), dtype=np.uint8)
        """All payloads, one after the other: what `send` sends.  May be written to between two calls."""
        self._vectors = np.zeros(count, IOVEC)
        self._messages = np.zeros(count, MMSGHDR)
        length = np.fromiter(map(len, payloads), np.uint64, count)
        self._vectors["base"] = np.cumsum(length) - length + np.uint64(self.octets.ctypes.data)
        self._vectors["length"] = length
        step = np.arange(count, dtype=np.uint64) * np.uint64(IOVEC.itemsize)
        self._messages["iov"] = step + np.uint64(self._vectors.ctypes.data)
        self._messages["iov_count"] = 1
        self._headers = self._messages.ctypes.data

    def __len__(self) -> int:
        return len(self.payloads)

    def send(self, sender: socket.socket, first: int = 0) -> int:
        """Send the payloads from number `first` on; returns how many went out, at least 1.

        Raises OSError as send(2) does if not even the first one went out.
        """
        if self._headers and _sendmmsg is not None:
            at = self._headers + first * MMSGHDR.itemsize
            sent = _sendmmsg(sender.fileno(), at, len(self.payloads) - first, 0)
            if sent < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            return sent
        sender.send(self.payloads[first])
        return 1
