"""A batch of an agent's results that fits together, to be spoilt."""

from __future__ import annotations

import json
from typing import Any

NOW_US = 1_796_064_013_500_000
ROW: dict[str, Any] = {
    "time_us": 1_796_064_000_000_000, "interval_us": 10_000_000, "session": 7, "reflector": "hv2",
    "src_ip": "192.0.2.1", "dst_ip": "2001:db8::2", "dst_port": 862, "dscp": 46, "octets": 88, "authenticated": 1,
    "sent": 10, "received": 8, "lost": 2, "late": 1, "lost_forward": 1, "lost_reverse": 0, "duplicates": 0,
    "reordered": 0, "unreachable": 0, "unsent": 0, "refused": 0, "round_trips": 7,
    "rtt_min_us": 90.5, "rtt_median_us": 100, "rtt_p99_us": 130.0, "rtt_max_us": 130.0,
    "jitter_us": 3.25, "residence_us": 20.0, "forward_us": 60.0,
    "forward_error_us": 5.0, "forward_variation_us": 30.0, "reverse_us": 40.0, "reverse_error_us": 50.0,
    "reverse_variation_us": 2.0, "clock_offset_us": -1234567.25, "clock_error_us": 5.0, "skew_low_ppm": -1.5,
    "skew_high_ppm": 2.5, "clocks": "synchronised", "hops": 2, "timestamps": "kernel",
    "reflector_timestamps": "software", "reflector_mode": "stateful",
}  # fmt: skip


def batch(*rows: dict[str, Any], number: int = 1, boot: int = 99) -> dict[str, Any]:
    """A batch of rows, each of which differs from ROW as given."""
    whole = [ROW | row for row in rows or ({},)]
    return {"boot": boot, "batch": number, "columns": {name: [row[name] for row in whole] for name in whole[0]}}


def body(*rows: dict[str, Any], **about: int) -> bytes:
    return json.dumps(batch(*rows, **about)).encode()
