"""The pages of README, docs and deploy, as blocks of text between fences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.service import ROOT

QUICK_STARTS = sorted(ROOT.glob("docs/quickstart/*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("deploy/*.md")),
]
FENCE = re.compile(r"^```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    language: str
    info: dict[str, str]
    """What stands behind the language: `on` says where commands are typed, if not here; `file` what the text is."""
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands of a shell block: what is indented, or follows a backslash, goes on the line before."""
        joined = re.sub(r"(?:\\\n|\n(?=[ \t]))\s*", " ", self.text)
        return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for match in FENCE.finditer(page.read_text("utf-8")):
        info = dict(word.split("=", 1) for word in shlex.split(match["info"]) if "=" in word)
        yield Block(page, match["language"], info, match["text"])


def outside_fences(page: Path) -> str:
    """The text of a page without its blocks and without code in its lines."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text("utf-8")))
