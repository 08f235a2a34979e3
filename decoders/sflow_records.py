"""Finding the records of one sFlow sample: which formats are known, how short they may be, where they stand.

Records come in any order, so a sample is read twice: first the place of each known record is noted, then the row is
filled in an order of our own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.jit import forced
from decoders.sflow_state import report
from decoders.wire import u32

# Flow records: sFlow version 5, flow_record
(
    R_HEADER,
    R_ETHERNET,
    R_IPV4,
    R_IPV6,
    R_SWITCH,
    R_VLANS,
    R_OUT4,
    R_IN4,
    R_OUT6,
    R_IN6,
    R_DECAP_OUT,
    R_DECAP_IN,
    R_VNI_OUT,
    R_VNI_IN,
    R_TIME,
    R_FUNCTION,
    R_TRAP,
    R_LINUX,
    R_TCP,
    RECORDS,
) = range(20)

# Counter records: sFlow version 5, counter_record
(
    C_INTERFACE,
    C_ETHERNET,
    C_OF_PORT,
    C_NAME,
    C_HOST_NET,
    C_VIRT_NET,
    C_DATAPATH,
    C_HOST,
    C_ADAPTERS,
    C_PARENT,
    COUNTER_RECORDS,
) = range(11)

_PACKET_FORMATS = {
    1: (R_HEADER, 16),
    2: (R_ETHERNET, 20),
    3: (R_IPV4, 32),
    4: (R_IPV6, 56),
    1001: (R_SWITCH, 16),
    1012: (R_VLANS, 4),
    1023: (R_OUT4, 32),
    1024: (R_IN4, 32),
    1025: (R_OUT6, 56),
    1026: (R_IN6, 56),
    1027: (R_DECAP_OUT, 4),
    1028: (R_DECAP_IN, 4),
    1029: (R_VNI_OUT, 4),
    1030: (R_VNI_IN, 4),
    1043: (R_TIME, 8),
}
_FLOW_FORMATS = {**_PACKET_FORMATS, 2209: (R_TCP, 48)}
_DROP_FORMATS = {**_PACKET_FORMATS, 1038: (R_FUNCTION, 4), 1041: (R_TRAP, 8), 1042: (R_LINUX, 4)}
_COUNTER_FORMATS = {
    1: (C_INTERFACE, 88),
    2: (C_ETHERNET, 52),
    1004: (C_OF_PORT, 12),
    1005: (C_NAME, 4),
    2000: (C_HOST, 32),
    2001: (C_ADAPTERS, 4),
    2002: (C_PARENT, 8),
    2006: (C_HOST_NET, 40),
    2104: (C_VIRT_NET, 40),
    2207: (C_DATAPATH, 24),
}


def _format_table(formats: dict[int, tuple[int, int]]) -> NDArray[np.int32]:
    """[highest format + 1, 2]: (place + 1 or 0, least length) by format number of enterprise 0."""
    table = np.zeros((max(formats) + 1, 2), np.int32)
    for number, (place, least) in formats.items():
        table[number] = place + 1, least
    return table


FLOW_FORMATS = _format_table(_FLOW_FORMATS)
DROP_FORMATS = _format_table(_DROP_FORMATS)
COUNTER_FORMATS = _format_table(_COUNTER_FORMATS)

_COUNT = Reason.COUNT.value
_RECORD_LENGTH = Reason.RECORD_LENGTH.value
_RECORD_SHORT = Reason.RECORD_SHORT.value
_SKIPPED = Reason.SKIPPED_RECORD.value


@forced
def find_records(octets, at, end, count, limit, formats, found, problems, log):  # type: ignore[no-untyped-def]
    """Note in `found` [places, 2] offset and length of the first record of each known format in `octets[at:end]`.

    Offset 0 stands for "not there".  `count`: records announced, of which at most `limit` are read.  A record
    that runs over the sample ends the sample, one that is too short or not known is left out.
    """
    for place in range(found.shape[0]):
        found[place, 0] = 0
    announced = count  # −1: its being wrong is counted already
    if count > limit or count * 8 > end - at:
        report(problems, log, at, _COUNT, count)
        announced = -1
        count = min(count, limit)
    for _ in range(count):
        if at + 8 > end:
            if announced == count:
                report(problems, log, at, _COUNT, count)
            break
        number = u32(octets, at)
        length = u32(octets, at + 4)
        if length > end - at - 8:
            report(problems, log, at, _RECORD_LENGTH, number)
            break
        known = np.int64(formats[number, 0]) if number < formats.shape[0] else np.int64(0)
        if known == 0:
            report(problems, log, at, _SKIPPED, number)
        elif length < formats[number, 1]:
            report(problems, log, at, _RECORD_SHORT, number)
        elif found[known - 1, 0] == 0:
            found[known - 1, 0] = at + 8
            found[known - 1, 1] = length
        at += 8 + ((length + 3) & ~3)
