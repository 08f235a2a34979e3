"""What can be wrong with a capture: the file as a whole (an exception), or one frame of it (counted by reason)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class CaptureError(Exception):
    """The file cannot be read (further): not a capture, damaged, or unreadable.  The message names file and offset."""


class Skip(StrEnum):
    """Why a frame gave no datagram.  Each skipped frame is counted once."""

    LINK_TYPE = "link_type"
    """Link type that is not read here (802.11, USB, …)."""
    NOT_IP = "not_ip"
    """ARP, LLDP, STP and all else that is neither IPv4 nor IPv6."""
    NOT_UDP = "not_udp"
    """TCP, ICMP and all else over IP."""
    CUT = "cut"
    """Captured shorter than it was on the wire: a prefix is never handed on."""
    IP_HEADER = "ip_header"
    """Link or IP header too short, or with impossible lengths."""
    UDP_LENGTH = "udp_length"
    """UDP length below 8 or above what the IP packet holds."""
    FRAGMENT_INVALID = "fragment_invalid"
    """Fragments that overlap, pass 65,535 octets, or are not multiples of 8 octets."""
    FRAGMENT_DUPLICATE = "fragment_duplicate"
    """The same fragment again, as captures on several interfaces have it."""
    FRAGMENT_INCOMPLETE = "fragment_incomplete"
    """The other fragments did not come in time, or the limits on held fragments were reached."""
    INTERFACE = "interface"
    """A pcapng packet that names an interface which its section does not describe."""
    TIME = "time"
    """A pcapng time that no 64-bit count of microseconds since 1970 can hold."""
    TRUNCATED_FILE = "truncated_file"
    """The file ends in the middle of its last record."""


@dataclass(slots=True)
class CaptureProblems:
    """Counts over one or more captures.  `frames == datagrams + joined + sum(skipped.values())` once all is read."""

    frames: int = 0
    """Packet records seen, the cut-off one at the end of a truncated file included."""
    datagrams: int = 0
    """UDP datagrams handed on."""
    joined: int = 0
    """Frames that were further fragments of a datagram handed on (its first is counted by `datagrams`)."""
    skipped: Counter[Skip] = field(default_factory=Counter)
    """Frames without a datagram, by reason."""

    def __str__(self) -> str:
        """`3 not_udp, 1 cut`, most frequent first; `none` if nothing was skipped."""
        return ", ".join(f"{count} {reason}" for reason, count in self.skipped.most_common() if count) or "none"

    def add(self, other: CaptureProblems) -> None:
        """Add the counts of another capture to these."""
        self.frames += other.frames
        self.datagrams += other.datagrams
        self.joined += other.joined
        self.skipped.update(other.skipped)
