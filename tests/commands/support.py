"""The commands that README, docs/ and deploy/ tell people to type."""

from __future__ import annotations

import argparse
import re
import shlex
from itertools import takewhile

from collector.__main__ import whole_parser
from tests.service import ROOT

FILES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("deploy/*.md")),
    ROOT / "deploy/vmflow.toml",
]
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`(vmflow [^`]*)`")


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    parsers = next(action for action in whole_parser()._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = parsers.choices[command]
    return found


def documented() -> list[list[str]]:
    """Arguments of each command, in the order of the files, none twice; examples in them stand as they are written."""
    found: dict[tuple[str, ...], None] = {}
    for file in FILES:
        text = file.read_text("utf-8")
        # What is indented goes on the line before.
        lines = [line for block in _BLOCK.findall(text) for line in re.sub(r"\n\s+", " ", block).splitlines()]
        for line in [*lines, *_INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]:
            if line.startswith("vmflow "):
                arguments = shlex.split(line, comments=True)[1:]
                # Not where a shell would write it, nor what stands for anything.
                kept = takewhile(lambda argument: argument != ">", arguments)
                found.setdefault(tuple(argument for argument in kept if argument != "…"))
    return [list(arguments) for arguments in found]
