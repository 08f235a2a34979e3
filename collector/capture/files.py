"""Capture files to frames: pcap and pcapng, both byte orders, any time resolution, gzip-compressed or not.

Strategy: one window of octets that is refilled from the stream in pieces of 1 MiB, so that memory stays flat however
large the file is, and a pipe is read as it flows.  Each format is one generator over that window.  What is wrong with
the file as a whole is an exception (`CaptureError`); what is wrong with a frame is counted by reason
(`CaptureProblems`).

Why not scapy's readers (read in version 2.8): they end silently where a file is cut or damaged, so nothing can be
counted or reported; in pcapng they ignore `if_tsoffset`, keep the interfaces of the section before, and read a simple
packet block as empty when its interface has no snap length; they take in a block of any length.  The tests have scapy
and Wireshark's editcap as second opinions instead.

Sources: pcap and pcapng Internet-Drafts (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import gzip
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast


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


REFILL_BYTES = 1 << 20
RECORD_LIMIT = 1 << 20
"""Octets of one captured frame.  libpcap refuses snap lengths above 262,144; beyond that the length field is damage."""
BLOCK_LIMIT = 16 << 20
"""Octets of one pcapng block: name tables and decryption secrets are larger than frames, but not by this much."""
INTERFACE_LIMIT = 65_536
"""Interfaces of one section: the old packet block cannot name more."""
TIME_LIMIT_US = 1 << 62
"""Times at or above this (the year 148,000) would not fit a signed 64-bit count of microseconds with room to add."""

WindowSeries = tuple[int, int, bytes, bool]
"""(time in µs since 1970, link type, captured octets, True if the frame was longer on the wire)."""

PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1),
    b"\xa1\xb2\xc3\xd4": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1000),
}
"""First four octets -> byte order, and parts of a microsecond in the second time word."""
SECTION_HEADER = b"\x0a\x0d\x0d\x0a"
BYTE_ORDER = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
INTERFACE_BLOCK, OLD_PACKET_BLOCK, SIMPLE_PACKET_BLOCK, ENHANCED_PACKET_BLOCK = 1, 2, 3, 6
PACKET_BLOCKS = frozenset((ENHANCED_PACKET_BLOCK, OLD_PACKET_BLOCK))
OPTION_END, OPTION_TIME_RESOLUTION, OPTION_TIME_OFFSET = 0, 9, 14


class Window:
    """The octets of a stream from `position` on.  `octets[position:]` is what is at hand; `need` brings more."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.octets = b""
        self.position = 0
        self._stream = stream
        self._dropped = 0

    @property
    def offset(self) -> int:
        """Octets of the (uncompressed) file before `position`."""
        return self._dropped + self.position

    def need(self, size: int) -> bool:
        """Make `size` octets available at `position`; False if the stream ends before.  Raises CaptureError."""
        if len(self.octets) - self.position >= size:
            return True
        parts = [self.octets[self.position :]]
        have = len(parts[0])
        while have < size:
            part = self._read()
            if not part:
                break
            parts.append(part)
            have += len(part)
        self._dropped += self.position
        self.octets = b"".join(parts)
        self.position = 0
        return have >= size

    def take(self, size: int, what: str) -> bytes:
        """The next `size` octets; raises CaptureError, with the name of `what` was expected, if there are fewer."""
        if not self.need(size):
            raise self.error(f"expected {what} of {size} octets, the file ends after {len(self.octets)}")
        taken = self.octets[self.position : self.position + size]
        self.position += size
        return taken

    def error(self, message: str) -> CaptureError:
        return CaptureError(f"{self.name}: at offset {self.offset}: {message}")

    def _read(self) -> bytes:
        try:
            # read1: what a pipe has now, instead of waiting for a full piece.
            return cast(bytes, self._stream.read1(REFILL_BYTES))  # type: ignore[attr-defined]
        except EOFError:
            return b""  # gzip data that ends early: the record it ends in is counted as truncated
        except (OSError, zlib.error) as error:
            raise self.error(f"cannot read on: {error}") from error


def read_frames(path: str | Path, problems: CaptureProblems) -> Iterator[WindowSeries]:
    """Yield the frames of the pcap or pcapng file at `path` (`-`: standard input), in the order of the file.

    Frames are counted into `problems`, as are those that cannot be used.  A file that ends within a record is read up
    to there.  Raises CaptureError if the file cannot be opened, is no capture, or is damaged.
    """
    name = "standard input" if str(path) == "-" else str(path)
    with _open(path, name) as stream:
        window = Window(stream, name)
        if not window.need(4):
            raise window.error(f"expected a pcap or pcapng file, found {len(window.octets) or 'no'} octets")
        magic = window.octets[:4]
        if magic in PCAP_MAGIC:
            yield from _pcap(window, problems)
        elif magic == SECTION_HEADER:
            yield from _pcapng(window, problems)
        else:
            raise window.error(f"expected a pcap or pcapng file, found {magic.hex(' ')} at its start")


@contextmanager
def _open(path: str | Path, name: str) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield _uncompressed(sys.stdin.buffer)
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (the with statement is just below; only opening may be reworded)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CaptureError(f"{name}: cannot open: {reason}") from error
    with file:
        try:
            stream = _uncompressed(file)
        except OSError as error:
            raise CaptureError(f"{name}: cannot read: {error.strerror}") from error
        yield stream


def _uncompressed(stream: BinaryIO) -> BinaryIO:
    if stream.peek(2)[:2] == b"\x1f\x8b":  # type: ignore[attr-defined]
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return stream


def _truncated(problems: CaptureProblems) -> None:
    problems.frames += 1
    problems.skipped[Skip.TRUNCATED_FILE] += 1


def _pcap(window: Window, problems: CaptureProblems) -> Iterator[WindowSeries]:
    header = window.take(24, "a pcap file header")
    order, parts = PCAP_MAGIC[header[:4]]
    major, _minor, _zone, _figures, _snap, link_word = struct.unpack_from(order + "HHiIII", header, 4)
    if major != 2:
        raise window.error(f"expected pcap version 2, found {major}")
    link = link_word & 0xFFFF  # the upper bits state the length of a frame check sequence
    unpack = struct.Struct(order + "IIII").unpack_from
    while window.need(16):
        octets, at = window.octets, window.position
        while at + 16 <= len(octets):
            seconds, fraction, captured, original = unpack(octets, at)
            start, end = at + 16, at + 16 + captured
            if captured > RECORD_LIMIT or end > len(octets):
                break
            problems.frames += 1
            at = end
            yield seconds * 1_000_000 + fraction // parts, link, octets[start:end], captured < original
        window.position = at
        if not window.need(16):
            break
        captured = unpack(window.octets, window.position)[2]
        if captured > RECORD_LIMIT:
            raise window.error(f"expected a packet of at most {RECORD_LIMIT} octets, found a length of {captured}")
        if not window.need(16 + captured):
            _truncated(problems)
            return
    if len(window.octets) > window.position:
        _truncated(problems)


class Interface(NamedTuple):
    """How the packets of one pcapng interface are to be read."""

    link: int
    snap: int
    """Octets kept of each frame; 0 is no limit."""
    units: int
    """Time units per second."""
    offset_us: int

    def time_us(self, ticks: int) -> int:
        if self.units != 1_000_000:
            ticks = ticks * 1_000_000 // self.units
        return ticks + self.offset_us


class DamageError(Exception):
    """A block that contradicts itself; the message says what was expected."""


class Section:
    """A section of a pcapng file: its byte order, and the interfaces described so far.

    The methods take a block's body and raise DamageError.
    """

    def __init__(self, order: str) -> None:
        self.order = order
        self.interfaces: list[Interface] = []
        self.lengths = struct.Struct(order + "II").unpack_from
        self._headers = {
            ENHANCED_PACKET_BLOCK: struct.Struct(order + "IIIII").unpack_from,
            OLD_PACKET_BLOCK: struct.Struct(order + "HxxIIII").unpack_from,
        }

    def packet(self, kind: int, body: bytes) -> WindowSeries | Skip:
        """Read an enhanced or an old packet block: they differ in the width of the interface number."""
        if len(body) < 20:
            raise DamageError(f"expected a packet block with 20 octets of header, found {len(body)}")
        index, high, low, captured, original = self._headers[kind](body)
        if captured > len(body) - 20:
            raise DamageError(f"expected a packet of at most {len(body) - 20} octets in its block, found {captured}")
        if index >= len(self.interfaces):
            return Skip.INTERFACE
        interface = self.interfaces[index]
        time_us = interface.time_us(high << 32 | low)
        if not 0 <= time_us < TIME_LIMIT_US:
            return Skip.TIME
        return time_us, interface.link, body[20 : 20 + captured], captured < original

    def simple_packet(self, body: bytes, time_us: int) -> WindowSeries | Skip:
        """Read a packet of interface 0 without a time: it gets `time_us`, that of the packet before it."""
        if len(body) < 4:
            raise DamageError(f"expected a simple packet block with 4 octets of header, found {len(body)}")
        if not self.interfaces:
            return Skip.INTERFACE
        interface = self.interfaces[0]
        (original,) = struct.unpack_from(self.order + "I", body)
        captured = min(original, interface.snap or original, len(body) - 4)
        return time_us, interface.link, body[4 : 4 + captured], captured < original

    def describe(self, body: bytes) -> None:
        """Read an interface description block."""
        if len(body) < 8:
            raise DamageError(f"expected an interface description of at least 8 octets, found {len(body)}")
        if len(self.interfaces) == INTERFACE_LIMIT:
            raise DamageError(f"expected at most {INTERFACE_LIMIT} interfaces in a section")
        link, snap = struct.unpack_from(self.order + "HxxI", body)
        units, offset = 1_000_000, 0
        for code, value in self._options(body, 8):
            if code == OPTION_TIME_RESOLUTION and len(value) == 1:
                units = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == OPTION_TIME_OFFSET and len(value) == 8:
                (offset,) = struct.unpack(self.order + "q", value)
        self.interfaces.append(Interface(link, snap, units, offset * 1_000_000))

    def _options(self, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        while len(body) - at >= 4:
            code, length = struct.unpack_from(self.order + "HH", body, at)
            at += 4
            if code == OPTION_END:
                return
            if length > len(body) - at:
                raise DamageError(f"expected an option of at most {len(body) - at} octets, found {length}")
            yield code, body[at : at + length]
            at += length + (-length & 3)


def _pcapng(window: Window, problems: CaptureProblems) -> Iterator[WindowSeries]:
    section = _section(window)
    time_us = 0
    while window.need(12):
        octets, at = window.octets, window.position
        if octets.startswith(SECTION_HEADER, at):
            section = _section(window)
            octets, at = window.octets, window.position
        kind, length = section.lengths(octets, at)
        if length < 12 or length % 4 or length > BLOCK_LIMIT:
            raise window.error(f"expected a block of 12 to {BLOCK_LIMIT} octets, a multiple of 4, found {length}")
        if at + length > len(octets):
            if not window.need(length):
                _truncated(problems)
                return
            octets, at = window.octets, window.position
        end = at + length
        if octets[at + 4 : at + 8] != octets[end - 4 : end]:
            again = section.lengths(octets, end - 8)[1]
            raise window.error(f"expected a block that ends with its length {length}, found {again}")
        try:
            frame = _block(section, kind, octets[at + 8 : end - 4], time_us)
        except DamageError as damage:
            raise window.error(str(damage)) from damage
        window.position = end
        if frame is None:
            continue
        problems.frames += 1
        if isinstance(frame, Skip):
            problems.skipped[frame] += 1
        else:
            time_us = frame[0]
            yield frame
    if len(window.octets) > window.position:
        _truncated(problems)


def _block(section: Section, kind: int, body: bytes, time_us: int) -> WindowSeries | Skip | None:
    """What a block brings: a frame, the reason why there is none, or None if it is of another kind."""
    if kind in PACKET_BLOCKS:
        return section.packet(kind, body)
    if kind == SIMPLE_PACKET_BLOCK:
        return section.simple_packet(body, time_us)
    if kind == INTERFACE_BLOCK:
        section.describe(body)
    return None


def _section(window: Window) -> Section:
    if not window.need(28):
        raise window.error("expected a section header of at least 28 octets, the file ends before")
    at = window.position
    mark = window.octets[at + 8 : at + 12]
    if mark not in BYTE_ORDER:
        raise window.error(f"expected a byte order mark in the section header, found {mark.hex(' ')}")
    section = Section(BYTE_ORDER[mark])
    length, major = struct.unpack_from(section.order + "4xI4xH", window.octets, at)
    if major != 1:
        raise window.error(f"expected pcapng version 1, found {major}")
    if length < 28:
        raise window.error(f"expected a section header of at least 28 octets, found {length}")
    return section
