"""Fragments of IP packets put together again, within limits that no capture can pass."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from collector.capture.errors import CaptureProblems, Skip
from collector.capture.frames import Packet, Piece, inner_packet

PACKET_LIMIT = 65_535
"""Octets of a packet's fragmented part (RFC 791: total length; RFC 8200 section 4.5: payload length)."""
HELD_LIMIT = 8 << 20
"""Octets held in all, with `PIECE_COST` for each piece: 100 packets of full size."""
PIECE_COST = 256
"""What a held piece costs beside its octets, about."""
PIECES_LIMIT = 256
"""Pieces of one packet.  65,535 octets over the smallest usual link (576 octets) make 119."""
AGE_LIMIT_US = 30_000_000
"""Time in the capture that a packet may stay incomplete (Linux: net.ipv4.ipfrag_time, 30 s)."""
ECHO_US = 1_000_000
"""Time for which a finished packet's pieces, seen again, are doubles, not a new packet (RFC 4963)."""
FINISHED_LIMIT = 4096

Key = tuple[bytes, bytes, int, int]


@dataclass(slots=True)
class Partial:
    """A packet of which some pieces have come."""

    since_us: int
    pieces: dict[int, Piece] = field(default_factory=dict)
    """By offset."""
    octets: int = 0
    total: int | None = None
    """Octets of the whole, known once the last piece is there."""

    @property
    def cost(self) -> int:
        return self.octets + PIECE_COST * len(self.pieces)


class Fragments:
    """Collects pieces until their packet is whole.  Every piece ends in a packet or as a counted problem."""

    def __init__(self, problems: CaptureProblems) -> None:
        self._problems = problems
        self._partial: OrderedDict[Key, Partial] = OrderedDict()
        self._finished: OrderedDict[Key, int] = OrderedDict()
        self._held = 0

    def add(self, piece: Piece, time_us: int) -> Packet | Skip | None:
        """Take a piece: the packet if it is whole now, the reason if the piece is of no use, None if more must come."""
        self._expire(time_us)
        end = piece.offset + len(piece.body)
        if not piece.body or end > PACKET_LIMIT or (piece.more and len(piece.body) % 8):
            return Skip.FRAGMENT_INVALID
        # IPv6 keeps no protocol in the key: only the first fragment has the right one (RFC 8200 section 4.5).
        protocol = piece.protocol if len(piece.source) == 4 else -1
        key = (piece.source, piece.destination, protocol, piece.identification)
        partial = self._partial.get(key)
        if partial is None:
            if abs(time_us - self._finished.get(key, -ECHO_US - 1)) <= ECHO_US:
                return Skip.FRAGMENT_DUPLICATE
            partial = self._partial[key] = Partial(time_us)
        elif partial.pieces.get(piece.offset) == piece:
            return Skip.FRAGMENT_DUPLICATE
        if not piece.more and partial.total is None:
            partial.total = end
        elif not piece.more or piece.offset in partial.pieces or len(partial.pieces) == PIECES_LIMIT:
            self._forget(key, Skip.FRAGMENT_INVALID)
            return Skip.FRAGMENT_INVALID
        partial.pieces[piece.offset] = piece
        partial.octets += len(piece.body)
        self._held += len(piece.body) + PIECE_COST
        if partial.total is not None and partial.octets >= partial.total:
            self._remove(key)
            return self._finish(key, partial, time_us)
        while self._held > HELD_LIMIT:
            self._forget(next(iter(self._partial)), Skip.FRAGMENT_INCOMPLETE)
        return None

    def close(self) -> None:
        """Count what never became whole: the capture has ended."""
        while self._partial:
            self._forget(next(iter(self._partial)), Skip.FRAGMENT_INCOMPLETE)

    def _finish(self, key: Key, partial: Partial, time_us: int) -> Packet | Skip:
        """Join the pieces.  All but the last to come are counted here; the caller counts that by what is returned."""
        pieces = [partial.pieces[offset] for offset in sorted(partial.pieces)]
        end = 0
        for piece in pieces:
            if piece.offset == end:
                end += len(piece.body)
        # As many octets as the whole, but not side by side: some overlap or lie beyond the end (RFC 5722).
        sound = end == partial.total == partial.octets
        packet = inner_packet(pieces[0], b"".join(piece.body for piece in pieces)) if sound else Skip.FRAGMENT_INVALID
        if isinstance(packet, Skip):
            self._problems.skipped[packet] += len(pieces) - 1
        else:
            self._problems.joined += len(pieces) - 1
            self._finished[key] = time_us
            self._finished.move_to_end(key)
            if len(self._finished) > FINISHED_LIMIT:
                self._finished.popitem(last=False)
        return packet

    def _forget(self, key: Key, reason: Skip) -> None:
        self._problems.skipped[reason] += len(self._remove(key).pieces)

    def _remove(self, key: Key) -> Partial:
        partial = self._partial.pop(key)
        self._held -= partial.cost
        return partial

    def _expire(self, now_us: int) -> None:
        """Forget what is too old.  The oldest come first, as far as the capture's times rise."""
        while self._partial:
            key = next(iter(self._partial))
            if now_us - self._partial[key].since_us <= AGE_LIMIT_US:
                break
            self._forget(key, Skip.FRAGMENT_INCOMPLETE)
