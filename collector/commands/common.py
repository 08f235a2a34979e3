"""What commands share: the arguments that name the settings, and how mistakes in them are told."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from collector.settings import InvalidSettingsError, Settings, load
from collector.terminal import print_error

MACHINE, PLACE = Path("/etc"), Path("vmflow/vmflow.toml")
"""Where the settings of a machine are, and what their file is called there and among a user's own."""


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


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of commands that change something in the running service."""
    parser.add_argument(
        "--url", metavar="URL", help="address of the service (default: from settings web.host, web.port)"
    )
    parser.add_argument("--who", default="", metavar="NAME", help="who does it (default: you)")


def load_settings(args: argparse.Namespace) -> Settings | None:
    """The settings that the arguments name, or None once the mistake is told on standard error."""
    try:
        return load(args.config, args.overrides)
    except InvalidSettingsError as error:
        print_error(args.command, str(error))
        return None


def like(pattern: str) -> str:
    """A pattern with * and ? as LIKE has it."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
