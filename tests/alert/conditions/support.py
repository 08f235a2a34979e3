"""Windows made up in memory, for conditions and states without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from collector.alert.conditions.base import Judge
from collector.alert.rules import Rule
from collector.alert.series import WindowSeries
from collector.alert.state import AlertStates, Change
from schemas.rollups import LEVEL_US

NOON_US = 1_800_014_400 * 1_000_000
"""A full hour."""
NAN = float("nan")


def frame(
    rule: Rule, number: int, values: Mapping[int, float], spans: Mapping[int, tuple[float, float]] | None = None
) -> WindowSeries:
    """Window `number` after NOON_US: value by series, and ends of its interval where they differ from it."""
    length = LEVEL_US[rule.level]
    series = sorted(values)
    found = np.array([values[one] for one in series])
    figures = {rule.measure: found} if rule.measure else {}
    if rule.about.low:
        ends = [(spans or {}).get(one, (values[one], values[one])) for one in series]
        figures[f"{rule.measure}_low"] = np.array([low for low, _ in ends])
        figures[f"{rule.measure}_high"] = np.array([high for _, high in ends])
    texts = {name: pa.array([f"{name}-{one}" for one in series], pa.string()) for name in rule.view.labels}
    if rule.about.evidence:
        texts[f"{rule.measure}_evidence"] = pa.array(["measured"] * len(series), pa.string())
    present = np.isfinite(found)
    start_us = NOON_US + number * length
    return WindowSeries(start_us, start_us + length, np.array(series, np.uint64), present, figures, texts, {}, present)


def happened(judge: Judge, book: AlertStates, frames: Sequence[WindowSeries]) -> list[tuple[int, int, str]]:
    """Number of the window, series and event of all changes over these windows."""
    found = []
    for number, one in enumerate(frames):
        for change in step(judge, book, one):
            found.append((number, change.alert.series, change.event))
    return found


def step(judge: Judge, book: AlertStates, window: WindowSeries) -> list[Change]:
    """One window."""
    return book.apply(judge.rule, judge.judge(window), window.start_us, window.end_us)
