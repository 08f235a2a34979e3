"""Numbers and times for people: percent, Mbit/s, ms, counts; points in time and durations."""

from __future__ import annotations

from datetime import UTC, datetime

SECOND_US = 1_000_000

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIME = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))
_SCALED = {"bit/s": "bit/s", "bits/s": "bit/s", "bytes": "B", "bytes/s": "B/s"}
_MICROSECONDS = {"µs": 1.0, "us": 1.0, "ms": 1e3, "s": 1e6, "seconds": 1e6}
_RATIOS = ("ratio", "share")
_RATIO_MEASURES = ("utilisation", "coverage")


def is_ratio(unit: str, measure: str) -> bool:
    """Whether values run from 0 to 1 and are shown in percent."""
    if unit in _RATIOS:
        return True
    return unit in ("", "1") and (measure.endswith("_ratio") or measure in _RATIO_MEASURES)


def figures(values: list[float], unit: str, measure: str) -> tuple[list[str], str]:
    """Return numbers in one common unit, and that unit (empty for plain numbers).

    The unit fits the largest of the values, so that an interval reads `4.8–7.5 %`.  `unit` is that of the schema.
    """
    largest = max((abs(value) for value in values), default=0.0)
    if is_ratio(unit, measure):
        return [number(100 * value) for value in values], "%"
    if unit == "%":
        return [number(value) for value in values], "%"
    if unit in _SCALED:
        factor, prefix = next(((size, sign) for size, sign in _SI if largest >= size), (1.0, ""))
        return [number(value / factor) for value in values], prefix + _SCALED[unit]
    if unit in _MICROSECONDS:
        to_us = _MICROSECONDS[unit]
        factor, name = next(((size, sign) for size, sign in _TIME if largest * to_us >= size), (1.0, "µs"))
        return [number(value * to_us / factor) for value in values], name
    if unit in ("1/s", "/s"):
        return [number(value) for value in values], "/s"
    return [number(value) for value in values], "" if unit == "1" else unit


def figure(value: float | None, unit: str, measure: str = "") -> str:
    """Return one number with its unit; `?` where there is none."""
    if value is None:
        return "?"
    (text,), name = figures([value], unit, measure)
    return f"{text} {name}".rstrip()


def number(value: float) -> str:
    """Return a number with two significant digits below 1, one decimal below 1000, thousands set apart by commas."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is not equal to itself
        return "?"
    size = abs(value)
    if size >= 1000 or value == int(value):
        return f"{value:,.0f}"
    if size >= 1:
        text = f"{value:.1f}"
        return text.removesuffix(".0")
    decimals = 2
    while decimals < 9 and round(size, decimals) * 10 ** (decimals - 1) < 1:
        decimals += 1
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def moment(time_us: int) -> str:
    """Return a time as `2026-11-25 19:10:00 UTC`."""
    return f"{datetime.fromtimestamp(time_us / SECOND_US, UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(time_us: int) -> str:
    """Return only the time of day, as `19:10 UTC`."""
    return f"{datetime.fromtimestamp(time_us / SECOND_US, UTC):%H:%M} UTC"


def duration(length_us: int, names: tuple[str, str, str, str]) -> str:
    """Return the two largest units of a duration, as `3 min 20 s`; `names` are those of day, hour, minute, second."""
    seconds = max(0, length_us) // SECOND_US
    sizes = (86_400, 3600, 60, 1)
    parts = []
    for size, name in zip(sizes, names, strict=True):
        count, seconds = divmod(seconds, size)
        parts.append((count, name))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [part for part in parts[first : first + 2] if part[0]] or [parts[-1]]
    return " ".join(f"{count} {name}" for count, name in shown)
