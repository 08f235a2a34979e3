"""The version that is installed, read when this is imported: a confined process may not look for it later."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("vmflow")
