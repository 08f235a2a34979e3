"""The versions that are installed, read when this is imported: a confined process may not look for them later."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("vmflow")


def _engine() -> str:
    try:
        return metadata.version("chdb")
    except metadata.PackageNotFoundError:
        return ""


ENGINE = _engine()
"""Of the embedded engine, chDB; empty where it is not installed."""
