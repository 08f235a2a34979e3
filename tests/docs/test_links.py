"""Links between pages lead somewhere, to the heading too, in tree and site; the site loads nothing of other hosts.

Pages stay short, and their lines narrow.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import FENCE, PAGES, outside_fences
from tests.service import ROOT

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
ALL = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "fixtures/pcaps/README.md"]
STAGE = runpy.run_path(str(ROOT / "docs/stage.py"))


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as GitHub and the site's `toc` make them."""
    found: dict[str, int] = {}
    names = set()
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKC", re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading))
        name = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def links() -> list[tuple[Path, str]]:
    """Page and target of every link."""
    return [(page, target) for page in ALL for target in LINK.findall(outside_fences(page))]


def test_every_link_leads_somewhere() -> None:
    assert len(links()) > 150
    lost = []
    for page, target in links():
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(f"{page.relative_to(ROOT)}: {target}")

    assert lost == []


@pytest.mark.parametrize(
    ("page", "most"), [("CHANGELOG.md", 40), ("docs/architecture.md", 120), ("docs/performance.md", 90)]
)
def test_pages_that_grow_by_themselves_stay_short(page: str, most: int) -> None:
    assert len((ROOT / page).read_text("utf-8").splitlines()) <= most


def test_lines_of_prose_are_narrow() -> None:
    """Blocks and tables aside: what a terminal or a review shows whole."""
    wide = []
    for page in ALL:
        text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))
        lines = enumerate(text.splitlines(), 1)
        wide += [f"{page.relative_to(ROOT)}:{at}" for at, line in lines if len(line) > 120 and line[:1] != "|"]

    assert wide == []


def test_every_page_is_in_the_index_and_on_the_site() -> None:
    index = (ROOT / "docs/index.md").read_text("utf-8")
    listed = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in LINK.findall(index)}
    pages = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {ROOT / "docs/index.md"}
    assert pages <= listed

    shown = set(re.findall(r"[\w/-]+\.md", yaml.dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])))
    assert shown == {uri for uri in STAGE["pages"]().values() if uri.endswith(".md")}


def test_pages_of_the_site_link_to_one_another(tmp_path: Path) -> None:
    """As docs/stage.py gathers them: no link leaves the site but to the web."""
    STAGE["main"](tmp_path / "pages")

    gathered = list((tmp_path / "pages").rglob("*.md"))
    assert len(gathered) == len([page for page in STAGE["pages"]() if page.endswith(".md")])
    lost = []
    for page in gathered:
        for target in LINK.findall(outside_fences(page)):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not target.startswith("https:") and (not file.exists() or (anchor and anchor not in anchors(file))):
                lost.append(f"{page.name}: {target}")
    assert lost == []


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="zensical is not installed (extra docs)")
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    STAGE["main"](tmp_path / "build/pages")

    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build/site"
    for uri in STAGE["pages"]().values():
        html = (site / uri).with_suffix(".html") if uri.endswith(".md") else site / uri
        assert html.exists(), uri
        if uri.endswith(".md"):
            loaded = re.findall(
                r'<(?:script|img|iframe)[^>]* src="([^"]+)|<link[^>]* rel="?stylesheet"?[^>]* href="?([^" >]+)',
                html.read_text(),
            )
            assert [one for pair in loaded for one in pair if one.startswith(("http", "//"))] == [], uri
