"""Gather the pages of the site in build/pages: docs/ and those that stand outside of it, with links that hold there.

Run by `make docs`, before the site generator.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/ovs.md")
"""Pages of the tree that are part of the site; README.md is about.md there, since a folder's README is its index."""
RENAMED = {"README.md": "about.md"}
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def pages() -> dict[str, str]:
    """Path in the tree and path on the site of each page and picture."""
    inside = {
        file.relative_to(ROOT).as_posix(): file.relative_to(ROOT / "docs").as_posix()
        for kind in ("md", "svg", "png")
        for file in sorted((ROOT / "docs").rglob(f"*.{kind}"))
    }
    return inside | {name: RENAMED.get(name, name) for name in OUTSIDE}


def staged(path: str, known: dict[str, str]) -> str:
    """The text of a page as the site has it: links between pages hold, fences are named by their language alone.

    A link to a folder or a source file, which the site does not have, is left as text.  Raises ValueError for a link
    to what is not there.
    """
    here, home = posixpath.dirname(known[path]), posixpath.dirname(path)

    def link(found: re.Match[str]) -> str:
        image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if ":" in target:
            return found[0]
        wanted = posixpath.normpath(posixpath.join(home, target))
        if wanted in known:
            return f"{image}[{text}]({posixpath.relpath(known[wanted], here or '.')}{anchor})"
        if (ROOT / wanted).exists():
            return text
        raise ValueError(f"{path}: {target} is not there")

    parts = FENCE.split((ROOT / path).read_text("utf-8"))
    return "".join(
        re.sub(r"\A```(\w+)[^\n]*", r"```\1", part) if part.startswith("```") else LINK.sub(link, part)
        for part in parts
    )


def main(folder: Path) -> None:
    """Write all pages into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    known = pages()
    for path, uri in known.items():
        file = folder / uri
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            file.write_text(staged(path, known), "utf-8")
        else:
            shutil.copy(ROOT / path, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
