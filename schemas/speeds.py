"""The view `speed_settings`: speeds of interfaces that the operator states in the settings."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.text import sql_literal
from schemas.view import View

EVERY = "*"
"""Stands for all interfaces of which nobody says anything."""


def speed_settings(speeds: Mapping[str, int]) -> View:
    """The settings as a table: `{"host-a/vnet1": 10**9, "*": 10**10}`, in bits per second."""
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
