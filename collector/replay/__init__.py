"""Sending the datagrams of captures again: `vmflow replay`, and `replay` for tests and benches."""

from __future__ import annotations

from collector.replay.command import add_arguments, run
from collector.replay.exporters import SendError, TargetError
from collector.replay.send import ReplaySummary, replay

__all__ = ["ReplaySummary", "SendError", "TargetError", "add_arguments", "replay", "run"]
