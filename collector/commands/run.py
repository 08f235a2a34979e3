"""`vmflow run`: the service.  `startup.begin` comes before all other imports, hence their places."""
# ruff: noqa: PLC0415

from __future__ import annotations

import argparse

from collector.process import startup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    startup.begin()
    from collector.commands.common import add_settings_arguments

    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the service until SIGTERM or Ctrl-C; exit code 0 after an orderly stop, 2 for settings that cannot be
    used."""
    from collector.commands.serve import run as serve

    return serve(args)
