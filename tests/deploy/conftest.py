"""What tests with the made-up cloud share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest


@pytest.fixture
def recent() -> str:
    """A start of a run of some minutes that lies in the last hour: rows must not be old, nor of the future."""
    return (datetime.now(UTC) - timedelta(minutes=20)).replace(second=0, microsecond=0).isoformat()
