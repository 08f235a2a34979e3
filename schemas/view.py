"""A named query that the store offers."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.column import mark_of


@dataclass(frozen=True)
class View:
    """A named query."""

    name: str
    doc: str
    select: str

    @property
    def mark(self) -> str:
        """Stands in the view's comment: tells whether a store has this text."""
        return mark_of(self.select)


def suffix(level: str) -> str:
    """End of a view's name: nothing for windows of 10 s, else the level."""
    return "" if level == "10s" else f"_{level}"
