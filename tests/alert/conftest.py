"""What all tests of alerts share."""

from __future__ import annotations

import pytest

from collector.alert import series


@pytest.fixture(autouse=True)
def _no_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules read their past at once, however slow the machine is: tests know in which window something fires."""
    monkeypatch.setattr(series, "PAST_SHARE", 100.0)
