"""Condition `absent`: a series that was there fell silent.

Silence is counted in windows that were looked at, so a pause of vmflow itself, or of its store, is no silence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.conditions import Verdict
from collector.alert.frame import SECOND_US, Frame, Limits, Past, Series
from collector.alert.measures import LEVEL_US
from collector.alert.rules import Rule

SEED_WINDOWS = 60
"""Windows before the first that are read at start, to know who was there."""


class Absent:
    """Remembers who was seen; at most `most` series."""

    def __init__(self, rule: Rule, most: int) -> None:
        self.rule = rule
        self.left_out = 0
        """Series that were not remembered, for lack of room."""
        self._most = most
        self._seeded = False
        self._past = Past(rule, SEED_WINDOWS)
        self._series: Series = np.zeros(0, np.uint64)
        self._last_us: NDArray[np.int64] = np.zeros(0, np.int64)
        self._silent: NDArray[np.int64] = np.zeros(0, np.int64)
        self._texts = {name: pa.array([], pa.string()) for name in rule.view.labels}

    def __len__(self) -> int:
        return len(self._series)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Before the first window: learn who was there shortly before."""
        if self._seeded:
            return True
        for frame in self._past.frames(client, start_us, limits):
            self._see(frame)
        self._seeded = self._past.read_us >= start_us
        return self._seeded

    def adopt(self, alerts: Mapping[int, tuple[dict[str, str], int]]) -> None:
        """Remember series that have an alert already: by series, their labels and when they were last seen (µs)."""
        fresh = [number for number in alerts if not np.isin(np.uint64(number), self._series)]
        if fresh:
            self._add(
                np.array(fresh, np.uint64),
                np.array([alerts[number][1] for number in fresh], np.int64),
                {name: pa.array([alerts[number][0].get(name, "") for number in fresh]) for name in self._texts},
            )
            self._silent[np.isin(self._series, np.array(fresh, np.uint64))] = self.rule.windows

    def judge(self, frame: Frame) -> Verdict:
        """Judge all who are remembered, whether or not they are in the frame."""
        self._silent += 1
        self._see(frame)
        silence = (frame.end_us - self._last_us) / SECOND_US
        gone = silence >= self.rule.forget_seconds
        beyond = ~gone & (self._silent >= self.rule.windows)
        series, texts = self._series, self._texts
        count = len(series)
        limit = self.rule.windows * LEVEL_US[self.rule.level] / SECOND_US
        verdict = Verdict(
            series=series,
            data=np.ones(count, bool),
            beyond=beyond,
            certain=beyond,
            clear=self._silent == 0,
            value=silence,
            low=silence,
            high=silence,
            threshold=np.full(count, limit),
            samples=np.full(count, np.nan),
            labels=lambda row: {name: str(text[row].as_py()) for name, text in texts.items()},
            evidence=lambda row: "",
            bounded=False,
            gone=gone,
        )
        if gone.any():
            self._keep(~gone)
        return verdict

    def _see(self, frame: Frame) -> None:
        passes = frame.passes.get(self.rule.name)
        here = frame.present if passes is None else frame.present & passes
        places = np.searchsorted(self._series, frame.series)
        known = np.zeros(len(frame.series), bool)
        inside = places < len(self._series)
        known[inside] = self._series[places[inside]] == frame.series[inside]
        back = places[here & known]
        self._last_us[back] = np.maximum(self._last_us[back], frame.end_us)
        self._silent[back] = 0
        fresh = np.flatnonzero(here & ~known)
        room = self._most - len(self._series)
        self.left_out += max(0, len(fresh) - room)
        fresh = fresh[: max(0, room)]
        if len(fresh):
            texts = {name: frame.texts[name].take(pa.array(fresh)) for name in self._texts}
            self._add(frame.series[fresh], np.full(len(fresh), frame.end_us, np.int64), texts)

    def _add(self, series: Series, last_us: NDArray[np.int64], texts: Mapping[str, pa.Array]) -> None:
        joined = np.concatenate((self._series, series))
        order = np.argsort(joined, kind="stable")
        self._last_us = np.concatenate((self._last_us, last_us))[order]
        self._silent = np.concatenate((self._silent, np.zeros(len(series), np.int64)))[order]
        self._texts = {
            name: pa.concat_arrays([old, texts[name].cast(pa.string())]).take(pa.array(order))
            for name, old in self._texts.items()
        }
        self._series = joined[order]

    def _keep(self, mask: NDArray[np.bool_]) -> None:
        self._series, self._last_us, self._silent = self._series[mask], self._last_us[mask], self._silent[mask]
        self._texts = {name: text.filter(pa.array(mask)) for name, text in self._texts.items()}
