"""The installed versions, read at import: a confined process cannot look for them later."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("vmflow")


def _engine() -> str:
    try:
        return metadata.version("chdb")
    except metadata.PackageNotFoundError:
        return ""


ENGINE = _engine()
"""Version of the embedded engine, chDB; empty where it is not installed."""
