"""Condition `threshold`: beyond a limit, in one window or by evidence that adds up over many."""

from __future__ import annotations

import numpy as np
from clickhouse_connect.driver import Client

from collector.alert.conditions import Verdict, evidence, figures, labeller
from collector.alert.evidence import Evidence
from collector.alert.frame import Frame, Limits
from collector.alert.rules import Rule


class Threshold:
    """Beyond a limit: the whole interval, where the measure has one."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._evidence = None if rule.certain_windows is None else Evidence(rule, rule.certain_windows)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Nothing to read."""
        return True

    def judge(self, frame: Frame) -> Verdict:
        """Judge the window."""
        rule, found = self.rule, figures(self.rule, frame)
        limit, clear = rule.limit, rule.limit if rule.clear is None else rule.clear
        near = found.low if rule.sign > 0 else found.high
        beyond = found.data & (near > limit if rule.sign > 0 else near < limit)
        certain, quiet, began = np.zeros(len(beyond), bool), np.ones(len(beyond), bool), None
        if self._evidence is not None:
            certain, quiet, began = self._evidence.add(frame.series, found, frame.end_us)
            beyond |= certain
        behind = found.value <= clear if rule.sign > 0 else found.value >= clear
        return Verdict(
            series=frame.series,
            data=found.data,
            beyond=beyond,
            certain=certain,
            clear=found.data & ~beyond & quiet & behind,
            value=found.value,
            low=found.low,
            high=found.high,
            threshold=np.full(len(frame.series), limit),
            samples=found.samples,
            labels=labeller(rule, frame),
            evidence=evidence(rule, frame),
            bounded=bool(rule.about.low),
            began_us=began,
        )
