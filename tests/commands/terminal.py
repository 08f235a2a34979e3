"""Commands in a terminal of their own, and what they show there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len

from tests.service import ROOT

SECONDS = 300


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, arguments: Sequence[str], columns: int, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "collector", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            cwd=ROOT, env=environment | {"TERM": "xterm-256color"} | variables,
        )  # fmt: skip
        os.close(theirs)
        self.text = ""

    def picture(self) -> list[str]:
        """The lines of the last picture that is there whole."""
        frames = self.text.split("\x1b[H")[1:-1]
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-1]) if frames else ""
        return [line.rstrip() for line in plain.replace("\r", "").split("\n")]

    def until(self, wanted: Callable[[list[str]], object], seconds: float = SECONDS) -> list[str]:
        """Read until a picture is like that."""
        poll = select.poll()  # select() fails for file descriptors above 1023, and the tests' store has many files open
        poll.register(self._ours, select.POLLIN)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if poll.poll(200):
                self.text += os.read(self._ours, 65536).decode("utf-8", "replace")
                if wanted(self.picture()):
                    return self.picture()
        raise AssertionError(self.text[-4000:])

    def end(self, number: int) -> int:
        """Send a signal, and read what is said at the end."""
        self.process.send_signal(number)
        reader = threading.Thread(target=self._drain)
        reader.start()
        code = self.process.wait(SECONDS)
        reader.join()
        os.close(self._ours)
        return code

    def close(self) -> None:
        """End it if a test did not: by a signal that it obeys, for what it started must end with it."""
        if self.process.poll() is not None:
            return
        patience = threading.Timer(SECONDS, self.process.kill)
        patience.start()
        self.end(signal.SIGTERM)
        patience.cancel()

    def _drain(self) -> None:
        try:
            while part := os.read(self._ours, 65536):
                self.text += part.decode("utf-8", "replace")
        except OSError:  # the other end is closed
            pass


Start = Callable[..., Terminal]


def fits(lines: Sequence[str], columns: int) -> None:
    assert len(lines) <= 24
    assert all(cell_len(line) <= columns for line in lines)
