"""The SQL of README, docs and deploy: what stands in fences, in `vmflow query` and in calls of curl."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.service import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("deploy/*.md"))]
_FORMS = (
    re.compile(r"```sql\n(.*?)```", re.DOTALL),
    re.compile(r'vmflow query (?:-\S+ \S+ )*"(\s*(?:SELECT|WITH)\b[^"]*)"'),
    re.compile(r"(?:-d|--data|--data-binary) '((?:SELECT|WITH)\b[^']*)'"),
    re.compile(r"(?<!`)`((?:SELECT|WITH) [^`]* FROM [^`]*)`(?!`)"),
)


@dataclass(frozen=True)
class Statement:
    """One statement and where it stands."""

    page: Path
    sql: str

    @property
    def name(self) -> str:
        """For people: page, and the title or the first words."""
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.sql.split())[:60]}"

    def now(self) -> str:
        """The statement over the last three hours, of the database it is sent to and a protocol that is there."""
        sql = self.sql.replace("database = 'vmflow'", "database = currentDatabase()")
        sql = re.sub(r"LIMIT \d+$", "", sql.replace("protocol = 'netflow9'", "protocol = 'ipfix'"))
        return re.sub(r"now\(\) - INTERVAL \d+ \w+", "now() - INTERVAL 3 HOUR", sql)


def statements() -> list[Statement]:
    """All of them, in the order of the pages; `…` stands for what a reader fills in, so such ones are left out."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for form in _FORMS:
            found += [Statement(page, sql.strip()) for sql in form.findall(text) if "…" not in sql]
    return found
