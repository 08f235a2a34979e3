"""`server`, the API over a real store that its own tests use, for the commands that ask it; `terminal`, in which they
run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.commands.terminal import Start, Terminal
from tests.web.conftest import server  # noqa: F401 - a fixture


@pytest.fixture
def terminal() -> Iterator[Start]:
    """Starts a command in so many columns, with these variables; ends it with a test that fails, too."""
    with ExitStack() as ends:

        def start(arguments: Sequence[str], columns: int, **variables: str) -> Terminal:
            shown = Terminal(arguments, columns, **variables)
            ends.callback(shown.close)
            return shown

        yield start
