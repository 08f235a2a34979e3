"""Condition `absent`: a series that was there fell silent.

Silence is counted in windows that were evaluated, so a pause of vmflow itself, or of its store, is no silence.

An exporter is expected at its own rhythm: one whose records come every ten minutes is not silent after three.  Where
another stream of the same sender began as it ended, it was not lost but replaced, as by a change of the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.conditions.base import Judge, Verdict
from collector.alert.rules import Rule
from collector.alert.series import SECOND_US, Flags, Limits, Past, Series, WindowSeries
from collector.alert.settings import AlertSettings
from schemas.rollups import LEVEL_US, LEVELS

SEED_WINDOWS = 60
"""Windows before the first that are read at start, to know which series were there."""
PAUSES = 32
"""Pauses between signs of life from which a rhythm is known."""
LEAST_PAUSES = 2
"""With fewer, the rhythm of a series is not known."""
SLOWEST_SECONDS = 1260
"""Silence that a series of unknown rhythm may keep: twice the slowest default of Open vSwitch, and a minute."""
DISMISSED_US = 15 * SECOND_US
"""A dismissed series may still be reported for this long: rows about exporters come every 10 s, after the fact."""
ENDED = ("", "clear")
"""`resolved_by` of what is not dismissed: it lasts, or is there again."""


class Absent(Judge):
    """Remembers the series that were seen, at most `most`."""

    def __init__(self, rule: Rule, most: int) -> None:
        super().__init__(rule)
        self._most = most
        self._seeded = False
        self._past = Past(rule, SEED_WINDOWS)
        self._length_us = LEVEL_US[rule.level]
        self._series: Series = np.zeros(0, np.uint64)
        self._first_us: NDArray[np.int64] = np.zeros(0, np.int64)
        self._last_us: NDArray[np.int64] = np.zeros(0, np.int64)
        self._silent: NDArray[np.int64] = np.zeros(0, np.int64)
        self._pauses: NDArray[np.uint16] = np.zeros((0, PAUSES if rule.view.rhythm else 0), np.uint16)
        """Windows from one sign of life to the next, the newest last; 0 = none yet."""
        self._texts = {name: pa.array([], pa.string()) for name in rule.view.labels}
        self._dismissed: dict[int, int] = {}
        """Series that people do not expect any more, and since when (µs)."""
        self._named: Series = np.zeros(0, np.uint64)
        """Replaced series that the last verdict named."""

    @classmethod
    def of(cls, rule: Rule, settings: AlertSettings) -> Judge:
        """Return the condition of a rule."""
        return cls(rule, settings.series)

    def series(self, frame: WindowSeries) -> int:
        """Return how many series are remembered."""
        return len(self._series)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Before the first window: read which series were there shortly before."""
        if self._seeded:
            return True
        for frame in self._past.frames(client, start_us, limits):
            # Nothing was evaluated before the start: silence begins with the first window.
            self._see(frame, (frame.end_us - self._last_us) // self._length_us)
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

    def dismiss(self, series: int, now_us: int) -> None:
        """Do not expect this series any more, until it gives a sign of life after this time."""
        self._dismissed[series] = max(now_us, self._dismissed.get(series, 0))
        self._keep(self._series != np.uint64(series))

    def known(self, wanted: Mapping[str, str]) -> dict[int, tuple[dict[str, str], int]]:
        """Series with these labels: their labels, and when they were last seen (µs)."""
        columns = {name: text.to_pylist() for name, text in self._texts.items()}
        return {
            int(series): ({name: str(column[row]) for name, column in columns.items()}, int(self._last_us[row]))
            for row, series in enumerate(self._series)
            if all(columns[name][row] == text for name, text in wanted.items())
        }

    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge all series that are remembered, whether or not they are in the frame."""
        self._silent += 1
        self._see(frame, self._silent)
        rule = self.rule
        silence = (frame.end_us - self._last_us) / SECOND_US
        limits = self._limits()
        long = self._silent >= limits
        successors = self._successors(np.flatnonzero(long)) if rule.view.rhythm else {}
        replaced = np.zeros(len(self._series), bool)
        replaced[list(successors)] = True
        # What is expected seldom is not given up after a day.
        patience = 2 * limits * LEVELS[rule.level] if rule.view.rhythm else 0
        gone = silence >= np.maximum(rule.forget_after, patience)
        if rule.replaced:
            gone |= np.isin(self._series, self._named)
            beyond = ~gone & long & replaced
            self._named = self._series[beyond]
        else:
            gone |= long & replaced
            beyond = ~gone & long
        count = len(self._series)
        verdict = Verdict(
            series=self._series,
            data=np.ones(count, bool),
            beyond=beyond,
            certain=beyond,
            clear=self._silent == 0,
            value=silence,
            low=silence,
            high=silence,
            threshold=(limits * LEVELS[rule.level]).astype(np.float64),
            samples=np.full(count, np.nan),
            labels=self._labeller(),
            evidence=lambda row: successors.get(row, ""),
            bounded=False,
            gone=gone,
            why=lambda row: _why(successors.get(row, "")),
        )
        if gone.any():
            self._keep(~gone)
        return verdict

    def _labeller(self) -> Callable[[int], dict[str, str]]:
        texts = self._texts
        return lambda row: {name: str(text[row].as_py()) for name, text in texts.items()}

    def _limits(self) -> NDArray[np.int64]:
        """Silent windows after which each series is missed: those of the rule, or twice its own longest pause.

        Of the pauses the second longest counts: the longest may have been an outage.
        """
        least = np.full(len(self._series), self.rule.windows, np.int64)
        if not self.rule.view.rhythm:
            return least
        known = (self._pauses > 0).sum(axis=1) >= LEAST_PAUSES
        longest = np.sort(self._pauses, axis=1)[:, -2].astype(np.int64)
        patient = math.ceil(SLOWEST_SECONDS / LEVELS[self.rule.level])
        return np.maximum(least, np.where(known, np.where(longest > 1, 2 * longest + 1, 1), patient))

    def _successors(self, rows: NDArray[np.int64]) -> dict[int, str]:
        """Return those of these rows that another stream of the same sender replaced, and which stream."""
        if not len(rows):
            return {}
        labels = {name: text.to_pylist() for name, text in self._texts.items()}
        of_sender: dict[str, list[int]] = {}
        for row, sender in enumerate(labels["exporter"]):
            of_sender.setdefault(sender, []).append(row)
        found = {}
        for row in rows.tolist():
            for other in of_sender[labels["exporter"][row]]:
                began, ended = int(self._first_us[other]), int(self._last_us[row])
                # It began as the other ended, one window more or less, and was not there beside it before.
                if self._silent[other] == 0 and began >= ended - self._length_us and began > self._first_us[row]:
                    found[row] = f"{labels['protocol'][other]}, domain {labels['domain'][other]}"
        return found

    def _see(self, frame: WindowSeries, pauses: NDArray[np.int64]) -> None:
        """Take the signs of life of a window; `pauses`: windows since each remembered series gave the last one."""
        passes = frame.passes.get(self.rule.name)
        here = frame.present if passes is None else frame.present & passes
        if self._dismissed:
            here = here & self._expected(frame)
        places = np.searchsorted(self._series, frame.series)
        known = np.zeros(len(frame.series), bool)
        inside = places < len(self._series)
        known[inside] = self._series[places[inside]] == frame.series[inside]
        back = places[here & known]
        self._rename(back, frame, np.flatnonzero(here & known))
        if self._pauses.shape[1]:
            self._pauses[back, :-1] = self._pauses[back, 1:]
            self._pauses[back, -1] = np.clip(pauses[back], 1, 0xFFFF)
        self._last_us[back] = np.maximum(self._last_us[back], frame.end_us)
        self._silent[back] = 0
        fresh = np.flatnonzero(here & frame.counts & ~known)
        room = self._most - len(self._series)
        self.left_out += max(0, len(fresh) - room)
        fresh = fresh[: max(0, room)]
        if len(fresh):
            texts = {name: frame.texts[name].take(pa.array(fresh)) for name in self._texts}
            self._add(frame.series[fresh], np.full(len(fresh), frame.end_us, np.int64), texts)

    def _rename(self, back: NDArray[np.int64], frame: WindowSeries, rows: NDArray[np.int64]) -> None:
        """Take over the labels of the window where they changed; `back` is in order, as the series of a frame are."""
        for name, text in self._texts.items():
            new = frame.texts[name].take(pa.array(rows)).cast(pa.string())
            if not text.take(pa.array(back)).equals(new):
                mask = np.zeros(len(self._series), bool)
                mask[back] = True
                self._texts[name] = pc.replace_with_mask(text, pa.array(mask), new)

    def _expected(self, frame: WindowSeries) -> Flags:
        """Which series of a window are not dismissed; what was dismissed long before it is forgotten."""
        for series, since_us in list(self._dismissed.items()):
            if frame.start_us > since_us + DISMISSED_US:
                del self._dismissed[series]
        return ~np.isin(frame.series, np.array(list(self._dismissed), np.uint64))

    def _add(self, series: Series, last_us: NDArray[np.int64], texts: Mapping[str, pa.Array]) -> None:
        joined = np.concatenate((self._series, series))
        order = np.argsort(joined, kind="stable")
        nothing = np.zeros(len(series), np.int64)
        self._first_us = np.concatenate((self._first_us, last_us))[order]
        self._last_us = np.concatenate((self._last_us, last_us))[order]
        self._silent = np.concatenate((self._silent, nothing))[order]
        none = np.zeros((len(series), self._pauses.shape[1]), np.uint16)
        self._pauses = np.concatenate((self._pauses, none))[order]
        self._texts = {
            name: pa.concat_arrays([old, texts[name].cast(pa.string())]).take(pa.array(order))
            for name, old in self._texts.items()
        }
        self._series = joined[order]

    def _keep(self, mask: Flags) -> None:
        self._series, self._last_us, self._silent = self._series[mask], self._last_us[mask], self._silent[mask]
        self._first_us, self._pauses = self._first_us[mask], self._pauses[mask]
        self._texts = {name: text.filter(pa.array(mask)) for name, text in self._texts.items()}


def _why(successor: str) -> str:
    if successor:
        return f"{successor} of the same exporter took its place"
    return "it stayed away for so long that it is taken for gone"
