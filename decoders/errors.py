"""Why a part of a datagram was not decoded: a closed list, used as metric label and column value."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Each problem affects only the smallest unit that carries its own length; its neighbours are decoded."""

    EMPTY = 0
    """Datagram without payload, or under 4 octets."""
    VERSION = 1
    """The version field is not that of a protocol that is decoded."""
    SHORT_HEADER = 2
    """The datagram ends inside its header."""
    AGENT_ADDRESS = 3
    """sFlow agent address of an unknown type."""
    SAMPLE_LENGTH = 4
    """An sFlow sample is longer than what is left of the datagram; the rest of the datagram is lost."""
    SAMPLE_SHORT = 5
    """An sFlow sample is too short for its own fields."""
    RECORD_LENGTH = 6
    """An sFlow record is longer than what is left of its sample."""
    RECORD_SHORT = 7
    """An sFlow record is shorter than its known layout."""
    COUNT = 8
    """A count announces more than the octets can hold."""
    RATE_ZERO = 9
    """Sampling rate 0: the row is kept, its rate set to 1 and marked unstated."""
    FRAME_LENGTH = 10
    """An sFlow header is longer than its frame, or more was stripped than there is: `frame_bytes` is not known."""
    SKIPPED_SAMPLE = 11
    """A well-formed sFlow sample of a format that is not decoded."""
    SKIPPED_RECORD = 12
    """A well-formed sFlow record of a format that feeds no column."""
    SET_LENGTH = 13
    """A v9 or IPFIX set is shorter than its header or longer than what is left."""
    MESSAGE_LENGTH = 14
    """The IPFIX length field disagrees with the datagram."""
    TRAILING = 15
    """Octets after the end of the message."""
    TEMPLATE_MALFORMED = 16
    """A template ends inside its fields, or has none."""
    TEMPLATE_EMPTY = 17
    """A template whose records would have no length."""
    TEMPLATE_FIELDS = 18
    """A template with more fields than the limit."""
    TEMPLATE_SCOPE = 19
    """An options template without scope, or with more scope than fields."""
    TEMPLATE_LIMIT = 20
    """More templates than the limit of the exporter or of all: one of least standing was dropped, or this one."""
    TEMPLATE_CHANGED = 21
    """A template was redefined with other content."""
    WITHDRAWAL = 22
    """A template withdrawal without effect: over UDP (RFC 7011 section 8.4), or of a template that is not known."""
    NO_TEMPLATE = 23
    """Data without template that could not be held, or whose template did not come in time."""
    HELD = 24
    """Data held until its template comes."""
    RESERVED_SET = 25
    """A set id that is reserved."""
    FIELD_OVERRUN = 26
    """A variable-length field runs over the end of its set."""
    COUNT_MISMATCH = 27
    """The header's record count disagrees with the records present."""
    TIME = 28
    """An impossible flow time: end before start, or far from the header's time; clamped."""
    NO_ADDRESS = 29
    """A record without any IP or MAC address, such as those of routers that aggregate by prefix or autonomous system:
    kept out of `flows`."""
    DUPLICATE = 30
    """A datagram that was received before; dropped."""
    SESSION_LIMIT = 31
    """More exporters than the limit: the datagram was not decoded."""
    DENIED = 32
    """The sender is not in the list of allowed exporters."""
    ROW_LIMIT = 33
    """One datagram announced more rows than the limit."""
    NESTING = 34
    """Structured data or encapsulation nested deeper than the limit."""
    INTERNAL = 35
    """A defect of the decoder: the datagram was skipped.  Please report it."""
    RATE_LIMIT = 36
    """The exporter announced sampling rates for more scopes than the limit: this one was not kept."""
    COUNT_ABSURD = 37
    """A record with an impossible number of packets or octets (2^53, times its sampling rate 2^63): kept out of
    `flows`."""
    TOTAL = 38
    """The first total of a flow that began before the collector saw it: kept as base of the next one, not as a row."""
    CLOCK = 39
    """The clock in the header was never set (before September 2001): the time of receipt counts instead."""
    SEQUENCE_UNITS = 40
    """Numbered in other units than the protocol's, such as records in NetFlow v9: no loss is derived from it."""
    NAME_LIMIT = 41
    """An interface name longer than 255 octets, or without room in the table: stored as empty."""


REASONS = tuple(reason.name.lower() for reason in Reason)
"""Names for labels and columns, in the order of the numbers."""
