"""What commands share: the arguments that name the settings, and how mistakes in them are told."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from collector.settings import InvalidSettingsError, Settings, load
from collector.terminal import complain


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of commands that read settings."""
    default = os.environ.get("VMFLOW_CONFIG")
    parser.add_argument(
        "--config", type=Path, default=Path(default) if default else None, metavar="FILE", help="settings file (TOML)"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting"
    )


def settings_or_none(args: argparse.Namespace) -> Settings | None:
    """The settings that the arguments name, or None once the mistake is told on standard error."""
    try:
        return load(args.config, args.overrides)
    except InvalidSettingsError as error:
        complain(args.command, str(error))
        return None
