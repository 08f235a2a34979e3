"""Files that commands write for people, and those that come with vmflow: `deploy/` of the source tree."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

PACKAGE, FOLDER = "collector", "deploy"
"""In the source tree the folder is a link to `deploy/`; the wheel has a copy (`package-data` in pyproject.toml)."""


def packaged(name: str) -> str:
    """Text of a file of `deploy/`, by its path in there.  Raises FileNotFoundError where it was not installed."""
    return (resources.files(PACKAGE) / FOLDER).joinpath(*name.split("/")).read_text("utf-8")


def write_file(path: Path, text: str, mode: int, *, force: bool) -> None:
    """Write a file whole or not at all.  Raises FileExistsError if it is there, unless `force`; else OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(name, path)
        else:
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
