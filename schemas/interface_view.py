"""The view `interface_metrics`: rates, utilisation, loss and errors of one interface per window, from its counters.

Where several sources read the same interface (sFlow, libvirt, OVSDB), the one that covers most of the window counts.
"""

from __future__ import annotations

from schemas.rollups import COUNTED, LEVELS
from schemas.speeds import EVERY

_SUMS = tuple(f"{way}_{measure}" for way in ("in", "out") for measure in COUNTED)

_CARRIED = ("source", "covered_seconds", *_SUMS, "if_speed", "half_duplex", "vm", "vm_uuid", "network")


def _chosen(level: str) -> str:
    sums = ",\n            ".join(f"sum({name}) AS {name}" for name in ("covered_seconds", *_SUMS))
    taken = ", ".join(f"tupleElement(best, {number}) AS {name}" for number, name in enumerate(_CARRIED, 1))
    return f"""
    SELECT time, host, interface, {taken}
    FROM (
      SELECT time, host, interface, argMax(tuple({", ".join(_CARRIED)}), tuple(covered_seconds, -toInt8(source))) AS best
      FROM (
        SELECT
            time,
            if(host != '', toString(host), replaceOne(toString(agent), '::ffff:', '')) AS host,
            if(if_name != '', toString(if_name), concat('ifIndex ', toString(if_index))) AS interface,
            source, vm, vm_uuid, network,
            {sums},
            max(if_speed) AS if_speed,
            max(half_duplex) AS half_duplex
        FROM interface_{level}
        GROUP BY time, host, interface, source, vm, vm_uuid, network
        HAVING covered_seconds > 0
      )
      GROUP BY time, host, interface
    )"""


def _ratio(part: str, whole: str) -> str:
    return f"if({whole} + {part} > 0, {part} / ({whole} + {part}), NULL)"


def interface_metrics(level: str) -> str:
    """The query of the view for windows of this level."""
    return f"""SELECT
    time,
    host,
    interface,
    vm,
    network,
    in_octets * 8 / covered_seconds AS in_bits_per_second,
    out_octets * 8 / covered_seconds AS out_bits_per_second,
    in_packets / covered_seconds AS in_packets_per_second,
    out_packets / covered_seconds AS out_packets_per_second,
    if(speed > 0, if(half_duplex = 1, in_bits_per_second + out_bits_per_second,
        greatest(in_bits_per_second, out_bits_per_second)) / speed, NULL) AS utilisation,
    multiIf(set_speed > 0, set_speed, known_speed > 0, known_speed, if_speed > 0, if_speed, default_speed) AS speed,
    multiIf(set_speed > 0, 'settings', known_speed > 0, known_by, if_speed > 0, 'sflow', default_speed > 0, 'default',
        'unknown') AS speed_source,
    {_ratio("in_discards + out_discards", "in_packets + out_packets")} AS loss_ratio,
    {_ratio("in_errors + out_errors", "in_packets + out_packets")} AS error_ratio,
    in_octets,
    out_octets,
    in_packets,
    out_packets,
    in_discards,
    out_discards,
    in_errors,
    out_errors,
    covered_seconds / {LEVELS[level]} AS coverage,
    source AS counters_from,
    vm_uuid
FROM ({_chosen(level)}
) AS counters
LEFT JOIN (
    SELECT host, interface, max(speed) AS set_speed FROM speed_settings WHERE host != '{EVERY}' GROUP BY host, interface
) AS settings USING (host, interface)
LEFT JOIN (
    SELECT
        toString(host) AS host,
        toString(port_name) AS interface,
        argMax(speed, valid_to) AS known_speed,
        toString(argMax(source, valid_to)) AS known_by
    FROM inventory
    WHERE speed > 0
    GROUP BY host, interface
) AS known USING (host, interface)
CROSS JOIN (SELECT max(speed) AS default_speed FROM speed_settings WHERE host = '{EVERY}') AS defaults"""
