"""The input of the decoders: a batch of UDP payloads, or of messages that came over connections, as columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
from numpy.typing import NDArray

MAPPED_PREFIX = 0xFFFF << 32
"""Upper part of the low half of an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`)."""


@dataclass(frozen=True, slots=True)
class Datagrams:
    """`n` datagrams, in the order in which they were received.

    All arrays are C-contiguous and writable (a read-only array is another type to the compiled kernels), but are not
    written to after the batch is made.
    """

    octets: NDArray[np.uint8]
    """The payloads, back to back or with gaps."""
    start: NDArray[np.int64]
    """[n] offset of each payload in `octets`."""
    length: NDArray[np.int64]
    """[n] octets of each payload, 0 to 65,535."""
    address: NDArray[np.uint64]
    """[n, 2] sender address as two numbers, high and low half of the IPv6 form; IPv4 is mapped (`::ffff:a.b.c.d`)."""
    port: NDArray[np.int64]
    """[n] source port of the sender."""
    time_received_us: NDArray[np.int64]
    """[n] time of receipt, microseconds since 1970 UTC."""
    connection: NDArray[np.int64]
    """[n] number of the TCP or TLS connection that brought the message, never used again; 0 for UDP.  A message without
    octets means that its connection has ended."""

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of(cls, datagrams: Iterable[tuple[bytes, str, int, int]]) -> Datagrams:
        """Build a batch from (payload, sender address, sender port, time received in µs) tuples.

        For files, tests and tools: the listener fills the arrays without an object per datagram.
        Raises ValueError if an address is not an IP address.
        """
        rows = list(datagrams)
        octets = np.frombuffer(bytearray(b"".join(row[0] for row in rows)), dtype=np.uint8)
        length = np.array([len(row[0]) for row in rows], dtype=np.int64)
        start = np.zeros(len(rows), dtype=np.int64)
        np.cumsum(length[:-1], out=start[1:])
        address = np.array([address_halves(row[1]) for row in rows], dtype=np.uint64).reshape(len(rows), 2)
        port = np.array([row[2] for row in rows], dtype=np.int64)
        time_received_us = np.array([row[3] for row in rows], dtype=np.int64)
        return cls(octets, start, length, address, port, time_received_us, np.zeros(len(rows), dtype=np.int64))

    def those(self, chosen: NDArray[np.bool_] | slice) -> Datagrams:
        """Return the datagrams that are chosen, [n] or a slice; the payloads of the others are released."""
        start, length = self.start[chosen], self.length[chosen]
        place = np.cumsum(length) - length
        octets = self.octets[np.repeat(start - place, length) + np.arange(int(length.sum()))]
        return Datagrams(
            octets,
            place,
            length,
            self.address[chosen],
            self.port[chosen],
            self.time_received_us[chosen],
            self.connection[chosen],
        )


def address_halves(address: str | IPv4Address | IPv6Address) -> tuple[int, int]:
    """Split an IP address into the two numbers that `Datagrams.address` holds.  Raises ValueError for other text."""
    parsed = ip_address(address) if isinstance(address, str) else address
    if isinstance(parsed, IPv4Address):
        return 0, MAPPED_PREFIX | int(parsed)
    return int(parsed) >> 64, int(parsed) & 0xFFFF_FFFF_FFFF_FFFF


def address_text(address: bytes | int) -> str:
    """Return the 16 octets of an address, or its number, in the usual notation: IPv4 without the mapping."""
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)
