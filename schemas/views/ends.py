"""The views `vm_metrics` and `host_metrics`: what a VM, or all VMs of a hypervisor, sent and received per window.

`vm_10s` … `host_1h` show each row of the pairs twice, as sent by one end and as received by the other.

Traffic comes from the sightings at the VM's own port (`source` and `both` for what it sent, `destination` and `both`
for what it received).  Where no exporter sees that port in a whole network, what was seen at the other end counts.
Utilisation, loss and errors come from the counters of the interfaces.  Unwatched time and smear widen the intervals as
they do those of pairs (`schemas.views.pair`).
"""

from __future__ import annotations

from uuid import UUID

from schemas.rollups import CONNECTIONS, LEVELS, MEASURES
from schemas.views.common import MOST_MISSED, bound, counted_pairs, missed, missed_by_all, smear, stray, suffix

_ENDS = {"sent": ("source", "destination"), "received": ("destination", "source")}
"""Where a VM's own port sees each direction, and where the other end does."""

_SMEAR = ("first_smear", "last_smear", "first_smear_squares", "last_smear_squares")
_TRAFFIC = (
    "records",
    "packets",
    "packets_variance",
    "bytes",
    "bytes_variance",
    "frame_bytes",
    "samples",
    "first_packets",
    "last_packets",
    "rate_unstated",
    *_SMEAR,
)
_OPENED = ("connections_opened", "tcp_flags_missing")
_COUNTERS = (
    "in_bytes", "out_bytes", "in_packets", "out_packets", "in_discards", "out_discards", "in_errors", "out_errors",
)  # fmt: skip
_MERGE = CONNECTIONS.replace("(", "Merge(")
_MERGE_STATE = CONNECTIONS.replace("(", "MergeState(")


def end_rows(what: str, level: str) -> str:
    """Return the query of the view `vm_…` or `host_…`: rows of pairs as rows of their ends, not added up.

    It is a union of two queries, so that a condition on the VM reaches the sorting key of the pairs.
    """
    measures = ", ".join(column.name for column in MEASURES)

    def half(side: str, direction: str) -> str:
        vm = f"{side}_vm AS vm, {side}_vm_uuid AS vm_uuid, network, " if what == "vm" else ""
        known = (
            f"{side}_vm != '' OR {side}_vm_uuid != toUUID('{UUID(int=0)}')" if what == "vm" else f"{side}_host != ''"
        )
        return (
            f"SELECT time, {vm}{side}_host AS host, '{direction}' AS direction, sighting, {measures}\n"
            f"FROM {counted_pairs(level)}\nWHERE {known}"
        )

    return f"{half('src', 'sent')}\nUNION ALL\n{half('dst', 'received')}"


def _once(measure: str, direction: str) -> str:
    """Return a measure of one direction, each packet counted once."""
    own, other = _ENDS[direction]
    return (
        f"if(sumIf(packets, direction = '{direction}' AND sighting IN ('{own}', 'both')) > 0, "
        f"sumIf({measure}, direction = '{direction}' AND sighting IN ('{own}', 'both')), "
        f"sumIf({measure}, direction = '{direction}' AND sighting = '{other}')) AS {direction}_{measure}"
    )


def _traffic(what: str, keys: str, level: str) -> str:
    """Return a query with one row per VM or hypervisor; each network is counted at the end where it is seen."""
    split = [(measure, way) for way in _ENDS for measure in _TRAFFIC] + [(measure, "sent") for measure in _OPENED]
    once = ",\n            ".join(_once(measure, way) for measure, way in split)
    sums = ",\n        ".join(f"sum({way}_{measure}) AS {way}_{measure}" for measure, way in split)
    network, inner_host, host = (
        ("network,", "max(host) AS host,", "max(host) AS host,") if what == "vm" else ("", "", "")
    )
    return f"""
    SELECT
        {keys},
        {host}
        {sums},
        sum(drops) AS drops,
        max(rate) AS sampling_rate,
        {_MERGE}(connected) AS connections
    FROM (
        SELECT
            {network}
            {keys},
            {inner_host}
            {once},
            sum(drops) AS drops,
            max(sampling_rate_max) AS rate,
            {_MERGE_STATE}(connections) AS connected
        FROM {what}_{level}
        GROUP BY {network} {keys}
    )
    GROUP BY {keys}"""


def _counted(keys: str, level: str) -> str:
    """Return a query of the counters of all interfaces of the VM or hypervisor."""
    sums = ",\n        ".join(f"sum({name}) AS {name}" for name in _COUNTERS)
    return f"""
    SELECT
        {keys},
        {sums},
        max(utilisation) AS highest_utilisation,
        argMax(interface, ifNull(utilisation, -1)) AS busiest_interface
    FROM interface_metrics{suffix(level)}
    GROUP BY {keys}"""


def end_metrics(what: str, level: str) -> str:
    """Return the query of the view of `what`, "vm" or "host", for windows of this level."""
    seconds = LEVELS[level]
    keys = "time, vm, vm_uuid" if what == "vm" else "time, host"

    def interval(way: str, measure: str, name: str, factor: str) -> str:
        value = f"{way}_{measure}"
        first, last, first_squares, last_squares = (f"{way}_{part}" for part in _SMEAR)
        strays = f"greatest({smear(f'{first} + {last}', f'{first_squares} + {last_squares}')}, {stray(way)})"
        off = f"if({way}_packets > 0, {strays} * {value} / {way}_packets, 0)"
        parts = {
            "": f"{value} * {seconds} / watched_seconds",
            "_low": f"greatest(0, {bound(value, f'{value}_variance', '-')} - {off})",
            "_high": f"({bound(value, f'{value}_variance', '+')} + {off})"
            f" * (2 * {seconds} - watched_seconds) / watched_seconds",
        }
        whole = f"watched_seconds >= {(1 - MOST_MISSED) * seconds}"
        return ",\n    ".join(
            f"if({whole}, ({sql}) * {factor}, NULL) AS {way}_{name}{end}" for end, sql in parts.items()
        )

    rates = ",\n    ".join(
        interval(way, measure, name, factor)
        for way in _ENDS
        for measure, name, factor in (
            ("bytes", "bits_per_second", f"8 / {seconds}"),
            ("packets", "packets_per_second", f"1 / {seconds}"),
        )
    )
    packets, discards, errors = (f"ifNull(in_{name} + out_{name}, 0)" for name in ("packets", "discards", "errors"))
    # Where nothing joins there are zeros or NULLs, depending on the reader's settings.
    counted = ",\n    ".join(f"ifNull({name}, 0) AS counted_{name}" for name in _COUNTERS[:4])
    first = "time,\n    vm,\n    host" if what == "vm" else "time,\n    host"
    last = ",\n    vm_uuid" if what == "vm" else ""
    vantage = "cityHash64(if(host != '', host, vm))" if what == "vm" else "cityHash64(host)"
    return f"""SELECT
    {first},
    {rates},
    highest_utilisation AS utilisation,
    ifNull(busiest_interface, '') AS busiest_interface,
    if({packets} + {discards} > 0, {discards} / ({packets} + {discards}), NULL) AS loss_ratio,
    if({packets} + {errors} > 0, {errors} / ({packets} + {errors}), NULL) AS error_ratio,
    connections,
    if(sampling_rate = 1 AND sent_rate_unstated + received_rate_unstated = 0 AND watched_seconds = {seconds},
        'exact', 'at least') AS connections_evidence,
    if(sent_tcp_flags_missing = 0 AND watched_seconds = {seconds}, sent_connections_opened / {seconds}, NULL)
        AS new_connections_per_second,
    drops,
    watched_seconds,
    sent_packets,
    received_packets,
    sent_bytes,
    received_bytes,
    if(sent_bytes + received_bytes > 0, sent_bytes / (sent_bytes + received_bytes), NULL) AS sent_share,
    sent_frame_bytes,
    received_frame_bytes,
    sent_samples,
    received_samples,
    sampling_rate,
    here_restarted OR all_restarted AS restarted,
    {counted}{last}
FROM (
    SELECT *, {seconds} - least({seconds}, here_missed + all_missed) AS watched_seconds
    FROM (SELECT *, {vantage} AS vantage, toUInt64(0) AS everywhere FROM ({_traffic(what, keys, level)}
    )) AS seen
    LEFT JOIN (SELECT time, vantage, missed_seconds AS here_missed, restarted AS here_restarted FROM ({missed(level)}
    )) AS here USING (time, vantage)
    LEFT JOIN (SELECT time, vantage AS everywhere, missed_seconds AS all_missed, restarted AS all_restarted
        FROM ({missed_by_all(level)}
    )) AS all USING (time, everywhere)
) AS traffic
LEFT JOIN ({_counted(keys, level)}
) AS counted USING ({keys})"""
