"""A batch of an agent's results: octets in, rows of table `probes` out.  All of it is hostile: any agent may lie.

What an agent states of its own sessions cannot be proved.  But it must be possible: each number has a range, and those
that depend on one another agree.  One value that does not fit refuses the whole batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.column import Origin
from schemas.probes import MEASURED, PROBES
from schemas.text import clean

MOST_ROWS = 5000
MOST_AGE_US = 24 * 3600 * 1_000_000
"""Oldest window that is taken: an agent keeps results for hours while the collector is away."""
MOST_AHEAD_US = 60 * 1_000_000
"""By how much an agent's clock may be ahead."""
NAME_CHARACTERS = 100
MOST_SENT = 1 << 31
_HOUR_US = 3600 * 1_000_000
_DECADES_US = 1e15
"""Offset of two clocks of which one was never set."""

INTEGERS: dict[str, tuple[int, int]] = {
    "interval_us": (1_000_000, _HOUR_US), "session": (0, 2**32 - 1), "dst_port": (1, 65_535), "dscp": (0, 63),
    "octets": (1, 9000), "authenticated": (0, 1), "sent": (0, MOST_SENT), "received": (0, MOST_SENT),
    "lost": (0, MOST_SENT), "late": (0, MOST_SENT), "lost_forward": (0, MOST_SENT), "lost_reverse": (0, MOST_SENT),
    "duplicates": (0, MOST_SENT), "reordered": (0, MOST_SENT), "unreachable": (0, MOST_SENT), "unsent": (0, MOST_SENT),
    "refused": (0, MOST_SENT),
    "round_trips": (0, MOST_SENT), "hops": (0, 255),
}  # fmt: skip
FLOATS: dict[str, tuple[float, float]] = {
    **{f"rtt_{name}_us": (0, 60e6) for name in ("min", "median", "p99", "max")},
    "jitter_us": (0, 60e6), "residence_us": (0, 60e6),
    **{f"{way}_{what}": (0, 120e6) for way in ("forward", "reverse") for what in ("us", "error_us", "variation_us")},
    "clock_offset_us": (-_DECADES_US, _DECADES_US), "clock_error_us": (0, _DECADES_US),
    "skew_low_ppm": (-500, 500), "skew_high_ppm": (-500, 500),
}  # fmt: skip
"""Ranges of columns, in the unit of the column; a round trip ends after 3 s, or is the fault of a clock."""
NULLABLE = frozenset(column.name for column in MEASURED if column.nullable)
EXPECTED = frozenset(column.name for column in MEASURED) - {"time"} | {"time_us"}
Numbers = NDArray[np.float64]


class ResultsError(ValueError):
    """The batch is not one; the message says what was found."""


@dataclass(frozen=True)
class Results:
    """A batch that fits together."""

    boot: int
    batch: int
    columns: Mapping[str, Any]
    """Numbers by column, NaN for null; texts as they came, addresses as 16 octets."""
    rows: int

    def table(self, agent: str) -> pa.RecordBatch:
        """Return rows of `probes` without names."""
        numbers = self.columns
        low, high = wilson(numbers["lost"], numbers["sent"])
        all_columns = {
            **numbers, "time": numbers["time_us"], "loss_low": low, "loss_high": high,
            "agent": [agent] * self.rows, "boot": [self.boot] * self.rows, "batch": [self.batch] * self.rows,
        }  # fmt: skip
        schema = PROBES.arrow(Origin.DECODE)
        return pa.RecordBatch.from_arrays([_array(name, all_columns[name]) for name in schema.names], schema=schema)


def parse(body: bytes, now_us: int) -> Results:
    """Read a batch that came at `now_us`.  Raises ResultsError."""
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"it is no JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict) or set(found) != {"boot", "batch", "columns"}:
        raise ResultsError("an object with boot, batch and columns is expected")
    boot, batch, columns = found["boot"], found["batch"], found["columns"]
    if type(boot) is not int or not 0 < boot < 2**63:
        raise ResultsError("boot: a whole number from 1 to 2^63 - 1 is expected")
    if type(batch) is not int or not 0 < batch < 2**32:
        raise ResultsError("batch: a whole number from 1 to 2^32 - 1 is expected")
    if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
        raise ResultsError("columns: an object of lists is expected")
    if set(columns) != EXPECTED:
        wrong = sorted(set(columns) ^ EXPECTED)
        raise ResultsError(f"columns: {', '.join(repr(name[:40]) for name in wrong[:5])} unknown or missing")
    rows = len(columns["time_us"])
    if not 0 < rows <= MOST_ROWS or any(len(values) != rows for values in columns.values()):
        raise ResultsError(f"columns: lists of the same length are expected, from 1 to {MOST_ROWS}")
    read: dict[str, Any] = {}
    for name, (least, most) in INTEGERS.items():
        read[name] = _numbers(name, columns[name], least, most, frozenset({int}))
    for name, limits in FLOATS.items():
        read[name] = _numbers(name, columns[name], *limits, frozenset({int, float}))
    read["time_us"] = _numbers(
        "time_us", columns["time_us"], now_us - MOST_AGE_US, now_us + MOST_AHEAD_US, frozenset({int}),
        "the clock of the agent, or that of the collector, may be wrong",
    )  # fmt: skip
    for column in MEASURED:
        if column.names:
            read[column.name] = _texts(column.name, columns[column.name], frozenset(column.names).__contains__)
    names = _texts("reflector", columns["reflector"], lambda text: 0 < len(text) <= NAME_CHARACTERS)
    cleaned = {name: clean(name, NAME_CHARACTERS) for name in set(names)}
    read["reflector"] = [cleaned[name] for name in names]
    for name in ("src_ip", "dst_ip"):
        read[name] = [_address(text) for text in _texts(name, columns[name], lambda text: _address(text) is not None)]
    _check(read, now_us)
    return Results(boot, batch, read, rows)


def wilson(hits: Numbers, counts: Numbers, z: float = 1.959964) -> tuple[Numbers, Numbers]:
    """Return the 95 % intervals of ratios (Wilson 1927); NaN where nothing was counted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, square = hits / counts, z * z / counts
        middle = ratio + square / 2
        spread = z * np.sqrt(ratio * (1 - ratio) / counts + square / (4 * counts))
        low, high = (middle - spread) / (1 + square), (middle + spread) / (1 + square)
    low, high = np.where(hits == 0, 0.0, low), np.where(hits == counts, 1.0, high)
    return np.where(counts > 0, low, np.nan), np.where(counts > 0, high, np.nan)


def _check(of: Mapping[str, Any], now_us: int) -> None:
    """Raise ResultsError where columns contradict one another."""
    null = {name: np.isnan(of[name]) for name in NULLABLE}
    timed = of["round_trips"] > 0

    def both(one: str, other: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = null[one] == null[other]
        return found

    def ascend(*names: str) -> NDArray[np.bool_]:
        found = np.ones(len(timed), np.bool_)
        for one, other in pairwise(names):
            found &= null[one] | null[other] | (of[one] <= of[other])
        return found

    for holds, words in (
        (of["time_us"] + of["interval_us"] <= now_us + MOST_AHEAD_US, "the window ends in the future"),
        (of["sent"] == of["received"] + of["lost"], "sent is not received + lost"),
        (of["sent"] + of["unsent"] > 0, "nothing was to be sent"),
        (of["late"] <= of["lost"], "more late than lost"),
        (both("lost_forward", "lost_reverse"), "one direction of loss without the other"),
        (
            null["lost_forward"] | (of["lost_forward"] + of["lost_reverse"] <= of["lost"]),
            "more lost by direction than in all",
        ),
        (of["round_trips"] <= of["received"], "more round trips than replies"),
        *((null[f"rtt_{name}_us"] != timed, f"rtt_{name}_us without round trips, or the reverse") for name in (
            "min", "median", "p99", "max",
        )),
        (ascend("rtt_min_us", "rtt_median_us", "rtt_p99_us", "rtt_max_us"), "round trips do not ascend"),
        (timed | null["forward_us"], "delays one way without round trips"),
        *((both("forward_us", name), f"{name} without forward_us, or the reverse") for name in (
            "forward_error_us", "reverse_us", "reverse_error_us", "clock_offset_us", "clock_error_us",
        )),
        (both("skew_low_ppm", "skew_high_ppm") & ascend("skew_low_ppm", "skew_high_ppm"), "skew does not ascend"),
    ):  # fmt: skip
        if not np.all(holds):
            raise ResultsError(f"row {int(np.argmin(holds))}: {words}")


def _numbers(
    name: str, values: Sequence[Any], least: float, most: float, kinds: frozenset[type], hint: str = ""
) -> Numbers:
    """Return a column of numbers, NaN for null."""
    allowed = kinds | {type(None)} if name in NULLABLE else kinds
    if wrong := set(map(type, values)) - allowed:
        raise ResultsError(f"{name}: a number is expected, not {min(kind.__name__ for kind in wrong)}")
    try:
        read = np.array(values, np.float64)
    except (OverflowError, ValueError) as error:
        raise ResultsError(f"{name}: a number beyond all bounds") from error
    fits = np.isnan(read) | ((read >= least) & (read <= most))
    if not fits.all():
        at = int(np.argmin(fits))
        text = f"{name}: {values[at]!r:.40} in row {at} is not within {least:.16g} to {most:.16g}"
        raise ResultsError(f"{text}; {hint}" if hint else text)
    return read


def _texts(name: str, values: list[Any], fits: Callable[[str], bool]) -> list[str]:
    if set(map(type, values)) != {str} or not all(map(fits, set(values))):
        raise ResultsError(f"{name}: not all values are possible")
    return values


@lru_cache(maxsize=4096)
def _address(text: str) -> bytes | None:
    """Return the 16 octets of an address of one machine, IPv4 mapped; None of what is none."""
    if len(text) > 45:
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if found.is_multicast or found.is_unspecified or getattr(found, "scope_id", None):
        return None
    return found.packed if found.version == 6 else bytes(10) + b"\xff\xff" + found.packed


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _array(name: str, values: Any) -> pa.Array:
    column = PROBES[name]
    if not isinstance(values, np.ndarray):
        return column.array(values)
    null = np.isnan(values)
    if pa.types.is_floating(column.arrow):
        return pa.array(values.astype(column.arrow.to_pandas_dtype()), column.arrow, mask=null if null.any() else None)
    whole = np.where(null, 0, values).astype(np.int64)
    return pa.array(whole, pa.int64(), mask=null if null.any() else None).cast(column.arrow)
