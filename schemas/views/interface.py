"""The view `interface_metrics`: rates, utilisation, loss and errors of one interface per window, from its counters.

If several sources read the same interface (sFlow, libvirt, OVSDB), the one that covers most of the window counts.
Speeds that the operator states in the settings come from the view `speed_settings`, also defined here.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.rollups import COUNTED, LEVELS
from schemas.text import sql_literal
from schemas.views.common import View

EVERY = "*"
"""The key for all interfaces whose speed is not set by name."""


def speed_settings(speeds: Mapping[str, int]) -> View:
    """Return the settings as a table: `{"host-a/vnet1": 10**9, "*": 10**10}`, in bits per second."""
    rows = []
    for where, speed in sorted(speeds.items()):
        host, _, interface = where.partition("/")
        rows.append(f"tuple({sql_literal(host)}, {sql_literal(interface)}, toUInt64({speed}))")
    kind = "Array(Tuple(String, String, UInt64))"
    select = (
        "SELECT tupleElement(stated, 1) AS host, tupleElement(stated, 2) AS interface, tupleElement(stated, 3) AS speed"
        f"\nFROM (SELECT arrayJoin(CAST([{', '.join(rows)}], '{kind}')) AS stated)"
    )
    return View("speed_settings", "Speeds of interfaces by the settings (`store.interface_speeds`).", select)


_SUMS = tuple(f"{way}_{measure}" for way in ("in", "out") for measure in COUNTED)

_CARRIED = ("source", "covered", *_SUMS, "if_speed", "half_duplex", "vm", "vm_uuid", "network")


def _chosen(level: str) -> str:
    sums = ",\n            ".join(f"sum({name}) AS {name}" for name in _SUMS)
    taken = ", ".join(f"tupleElement(best, {number}) AS {name}" for number, name in enumerate(_CARRIED, 1))
    return f"""
    SELECT time, hypervisor AS host, device AS interface, {taken}
    FROM (
      SELECT time, hypervisor, device, argMax(tuple({", ".join(_CARRIED)}), tuple(covered, -toInt8(source))) AS best
      FROM (
        SELECT
            time,
            if(host != '', toString(host), replaceOne(toString(agent), '::ffff:', '')) AS hypervisor,
            if(if_name != '', toString(if_name), concat('ifIndex ', toString(if_index))) AS device,
            source, vm, vm_uuid, network,
            sum(covered_seconds) AS covered,
            {sums},
            max(if_speed) AS if_speed,
            max(half_duplex) AS half_duplex
        FROM interface_{level}
        GROUP BY time, hypervisor, device, source, vm, vm_uuid, network
        HAVING covered > 0
      )
      GROUP BY time, hypervisor, device
    )"""


def _ratio(part: str, whole: str) -> str:
    return f"if({whole} + {part} > 0, ({part}) / ({whole} + {part}), NULL)"


def interface_metrics(level: str) -> str:
    """Return the query of the view for windows of this level."""
    return f"""SELECT
    time,
    counters.host AS host,
    counters.interface AS interface,
    vm,
    network,
    in_bytes * 8 / covered AS in_bits_per_second,
    out_bytes * 8 / covered AS out_bits_per_second,
    in_packets / covered AS in_packets_per_second,
    out_packets / covered AS out_packets_per_second,
    if(speed > 0, if(half_duplex = 1, in_bits_per_second + out_bits_per_second,
        greatest(in_bits_per_second, out_bits_per_second)) / speed, NULL) AS utilisation,
    -- Where nothing joins there are zeros or NULLs: the reader's settings decide.
    toUInt64(ifNull(multiIf(set_speed > 0, set_speed, known_speed > 0, known_speed, if_speed > 0, if_speed,
        default_speed), 0)) AS speed,
    multiIf(set_speed > 0, 'settings', known_speed > 0, ifNull(known_by, ''), if_speed > 0, 'sflow',
        default_speed > 0, 'default', 'unknown') AS speed_source,
    {_ratio("in_discards + out_discards", "in_packets + out_packets")} AS loss_ratio,
    {_ratio("in_errors + out_errors", "in_packets + out_packets")} AS error_ratio,
    in_bytes,
    out_bytes,
    in_packets,
    out_packets,
    in_discards,
    out_discards,
    in_errors,
    out_errors,
    covered / {LEVELS[level]} AS coverage,
    source AS counters_from,
    vm_uuid
FROM ({_chosen(level)}
) AS counters
LEFT JOIN (
    SELECT host, interface, max(speed) AS set_speed FROM speed_settings WHERE host != '{EVERY}' GROUP BY host, interface
) AS settings ON settings.host = counters.host AND settings.interface = counters.interface
LEFT JOIN (
    SELECT
        toString(host) AS hypervisor,
        toString(port_name) AS device,
        argMax(speed, valid_to) AS known_speed,
        toString(argMax(source, valid_to)) AS known_by
    FROM inventory
    WHERE speed > 0
    GROUP BY hypervisor, device
) AS known ON known.hypervisor = counters.host AND known.device = counters.interface
CROSS JOIN (SELECT max(speed) AS default_speed FROM speed_settings WHERE host = '{EVERY}') AS defaults"""
