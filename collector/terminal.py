"""The only output to a terminal: all that a command prints goes through here, and nothing in it controls the terminal.

Output may come from others: names of VMs and interfaces, messages of servers, file names, what a store held before
names were cleaned.  Characters that control a terminal or mislead the eye are written as escapes (`schemas.text`); an
argument is one line, whatever is in it.  No other module of `collector` prints; `tests/test_architecture.py` checks
this.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from schemas.text import visible

MISTAKE_CHARACTERS = 60
"""Characters of a word that is compared with known words."""
_CHOICE = re.compile(r"invalid choice: '(.{1,60})' \(choose from (.*)\)", re.DOTALL)
_OPTION = re.compile(r"unrecognized arguments: (--[a-z-]{1,60})")


class CommandError(Exception):
    """A command cannot do what is asked; the message is for the user."""

    code = 1
    """Exit code."""


class UsageError(CommandError):
    """A mistake in the call, or in the settings."""

    code = 2


WIDEST = 100_000
"""Columns of the widest table that is printed to a file without breaking lines."""
_STYLES = {"critical": "bold red", "warning": "yellow", "firing": "bold", "resolved": "dim"}


class Parser(argparse.ArgumentParser):
    """The parser of arguments; an error quotes them, and they may be file names that someone else chose."""

    def error(self, message: str) -> NoReturn:
        """Report the mistake and what may have been meant, and exit like argparse."""
        self.print_usage(sys.stderr)
        choice, option = _CHOICE.search(message), _OPTION.search(message)
        hint = ""
        if choice is not None:
            hint = similar(choice[1], re.findall(r"'([^']*)'", choice[2]))
        elif option is not None:
            hint = similar(option[1], sorted(_options(self)))
        tell(f"{self.prog}: error: {message}{hint}")
        raise SystemExit(2)


def similar(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` if one of these words resembles `word`, else nothing."""
    found = difflib.get_close_matches(word[:MISTAKE_CHARACTERS], list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of a command line and of the command given."""
    # argparse has no other way to list them.
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                found |= _options(command)
    return found


class _Plain(logging.Formatter):
    """The handler that writes a library's warning like `tell`."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def begin() -> None:
    """Print characters that the terminal's character set lacks as escapes, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        # Warnings of libraries when no log is set up, as in all commands but `run`.
        logging.lastResort.setFormatter(_Plain())


def say(*lines: object) -> None:
    """Print lines on standard output."""
    for line in lines:
        print(visible(str(line)))


def tell(*lines: object) -> None:
    """Print lines on standard error, at once."""
    for line in lines:
        print(visible(str(line)), file=sys.stderr, flush=True)


def print_error(command: str, message: str) -> None:
    """Report a user's mistake, or why something cannot be done, one line each."""
    tell(*(f"vmflow {command}: {line}" for line in message.split("\n") if line))


def on_terminal() -> bool:
    """Return whether `say` prints to a terminal."""
    return sys.stdout.isatty()


def interactive() -> bool:
    """Return whether a person can answer."""
    return sys.stdin.isatty() and on_terminal()


def ask_line(question: str) -> str:
    """Return a person's answer, without the end of the line.  Raises KeyboardInterrupt at the end of the input."""
    print(visible(question), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        raise KeyboardInterrupt
    return answer.rstrip("\n")


def data(octets: bytes) -> None:
    """Print data for a program unchanged; on a terminal print its lines as text, like `say`."""
    if on_terminal():
        say(*octets.decode("utf-8", "backslashreplace").removesuffix("\n").split("\n"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(octets)
    sys.stdout.flush()


def table(names: Sequence[str], rows: Sequence[Sequence[Any]], *, ruled: bool = True, header: bool = True) -> None:
    """Print a table; columns of numbers are right-aligned, None is empty.  In a file, lines have any length."""
    from rich.console import Console  # noqa: PLC0415 - slow to load, and most commands print no table
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = (
        Table(show_edge=False, header_style="bold") if ruled else Table(box=None, show_header=header, pad_edge=False)
    )
    for position, name in enumerate(names):
        numeric = bool(rows) and isinstance(rows[0][position], int | float)
        shown.add_column(Text(visible(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, not markup: rich would interpret brackets.
        texts = ["" if cell is None else visible(str(cell)) for cell in row]
        shown.add_row(*(Text(text, "" if ruled else _STYLES.get(text, "")) for text in texts))
    console = Console(highlight=False)
    if not console.is_terminal:
        # A file has no width: do not break lines.
        console = Console(width=Console(width=WIDEST).measure(shown).maximum + 1, highlight=False)
    console.print(shown)


def leave(code: int) -> NoReturn:
    """End the process at once, with all that was printed: Python would take a while to unload its modules."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


class Progress:
    """Show a progress bar on standard error, if that is a terminal; else nothing, and `report` is None."""

    def __init__(self, what: str, unit: str) -> None:
        self._what = what
        self._unit = unit
        self._bar: Any = None
        self.report: Callable[[int, int | None], None] | None = None
        """Set how many are done, and of how many."""

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress  # noqa: PLC0415 - slow to load
            from rich.console import Console  # noqa: PLC0415

            columns: Iterable[Any] = (
                progress.TextColumn(self._what), progress.BarColumn(), progress.MofNCompleteColumn(),
                progress.TextColumn(self._unit), progress.TimeElapsedColumn(),
            )  # fmt: skip
            self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            task = self._bar.add_task(self._what, total=None)
            self.report = lambda done, total: self._bar.update(task, completed=done, total=total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class Field(NamedTuple):
    """A column of a screen."""

    name: str
    width: int
    """Characters; 0 shares what the others leave."""
    right: bool = False


class Screen:
    """A screen that fills the terminal, shows one picture after the other, and restores the terminal."""

    def __init__(self) -> None:
        self._live: Any = None

    def __enter__(self) -> Screen:
        from rich.console import Console  # noqa: PLC0415 - slow to load
        from rich.live import Live  # noqa: PLC0415

        self._live = Live(console=Console(highlight=False), screen=True, auto_refresh=False)
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    @property
    def width(self) -> int:
        """The current number of columns of the terminal."""
        return int(self._live.console.width)

    def show(
        self,
        lines: Sequence[str],
        fields: Sequence[Field],
        rows: Sequence[tuple[Sequence[str], str]],
        foot: Sequence[str] = (),
    ) -> None:
        """Show lines, and below them as many rows as fit: their cells, each truncated to its column, and the name of a
        style.  `foot` is what stands at the bottom."""
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        shown = Table(box=None, pad_edge=False, expand=True, header_style="bold")
        for field in fields:
            shown.add_column(
                field.name, justify="right" if field.right else "left", width=field.width or None,
                ratio=None if field.width else 1, no_wrap=True, overflow="ellipsis",
            )  # fmt: skip
        console = self._live.console
        head, end = (
            [part for line in group for part in Text(visible(line)).wrap(console, console.width)]
            for group in (lines, foot)
        )
        fitting = rows[: max(0, console.height - len(head) - len(end) - 2 - bool(end))]
        for cells, style in fitting:
            shown.add_row(*(Text(visible(cell), _STYLES.get(style, "")) for cell in cells))
        parts = [*head, Text(), shown] if fields else head
        self._live.update(Group(*parts, *([Text(), *end] if end else [])), refresh=True)
