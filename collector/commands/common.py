"""What commands share: arguments that name the settings and the service, reading both, and files of `deploy/`."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import tempfile
from importlib import resources
from pathlib import Path

from collector.settings import InvalidSettingsError, Settings, load
from collector.terminal import UsageError

MACHINE, PLACE = Path("/etc"), Path("vmflow/vmflow.toml")
"""Where the settings of a machine are, and what their file is called there and among a user's own."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of commands that read settings."""
    parser.add_argument("--config", type=Path, default=settings_file(), metavar="FILE", help="settings file (TOML)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting"
    )


def settings_file() -> Path | None:
    """The settings file that is read where the command names none.

    That of VMFLOW_CONFIG, whose empty value means none; else the user's own, else that of the machine, if there is one.
    """
    named = os.environ.get("VMFLOW_CONFIG")
    if named is not None:
        return Path(named) if named else None
    own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    # A directory that may not be searched counts as one without the file: it is the service's, not this user's.
    return next((file for file in (own / PLACE, MACHINE / PLACE) if os.path.isfile(file)), None)


def load_settings(args: argparse.Namespace) -> Settings:
    """The settings that the arguments name.  Raises UsageError."""
    try:
        return load(args.config, args.overrides)
    except InvalidSettingsError as error:
        raise UsageError(str(error)) from error


def add_url_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the argument of commands that ask the running service."""
    parser.add_argument(
        "--url", metavar="URL", help="address of the service (default: from settings web.host, web.port)"
    )


def add_who_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the argument of commands that change something there."""
    parser.add_argument("--who", default="", metavar="NAME", help="who does it (default: you)")


def who(args: argparse.Namespace) -> str:
    """The name of the person who gives the command."""
    return args.who or getpass.getuser()


def seconds(text: str) -> int:
    """Seconds of `30m`, `2h` or `7d`.  Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"{text}: a duration such as 30m, 2h or 7d is expected")
    return int(found[1]) * UNITS[found[2]]


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
