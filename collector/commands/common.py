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


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of commands that change something in the running service."""
    parser.add_argument(
        "--url", metavar="URL", help="address of the service (default: from settings web.host, web.port)"
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    parser.add_argument("--who", default="", metavar="NAME", help="who does it (default: you)")


def settings_or_none(args: argparse.Namespace) -> Settings | None:
    """The settings that the arguments name, or None once the mistake is told on standard error."""
    try:
        return load(args.config, args.overrides)
    except InvalidSettingsError as error:
        complain(args.command, str(error))
        return None
