"""`vmflow --print-completion SHELL`: what a shell completes, from the parser of all commands."""

from __future__ import annotations

import argparse
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The text that a shell reads.  Arguments that are files are completed as files."""
    import shtab  # noqa: PLC0415 - for this alone

    _mark_files(parser, shtab.FILE)
    return str(shtab.complete(parser, shell))


def _mark_files(parser: argparse.ArgumentParser, how: object) -> None:
    # argparse has no other way to list the arguments.
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _mark_files(command, how)
        elif action.type is Path or action.metavar == "FILE":
            action.complete = how  # type: ignore[attr-defined] # shtab's own attribute
