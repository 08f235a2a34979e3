"""A made-up alert, to try a receiver with."""

from __future__ import annotations

from uuid import uuid4

from collector.deliver.figures import SECOND_US
from collector.deliver.settings import Language
from collector.notice import Event, Group, Notice

SUMMARIES: dict[Language, str] = {
    "en": "This is a test of vmflow. Nothing is wrong, and nothing is to be done.",
    "zh": "这是 vmflow 的测试消息，一切正常，无需处理。",
}


def sample(receiver: str, now_us: int, language: Language, event: Event = "firing") -> Group:
    """A group of one notice that says that it is a test.  `now_us` is the time, µs since 1970."""
    end_us = now_us // (10 * SECOND_US) * 10 * SECOND_US
    notice = Notice(
        alert_id=uuid4().hex,
        fingerprint="vmflow_test",
        event=event,
        rule="vmflow_test",
        severity="info",
        scope="pair",
        labels={"src_vm": "test-vm-1", "dst_vm": "test-vm-2", "network": "test-network"},
        measure="loss_ratio",
        unit="ratio",
        value=0.061,
        low=0.048,
        high=0.075,
        samples=21_040,
        evidence="measured",
        threshold=0.01,
        condition="threshold",
        level="10s",
        window_start_us=end_us - 10 * SECOND_US,
        window_end_us=end_us,
        since_us=end_us - 30 * SECOND_US,
        now_us=now_us,
        summary=SUMMARIES[language],
        runbook="",
        sql="",
    )
    return Group("vmflow_test", "info", (receiver,), (notice,))
