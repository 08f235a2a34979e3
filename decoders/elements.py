"""The registry of information elements: what an element is called, its type, and how long its values are.

The data is `elements.iespec`, in the notation that templates, documents and tests share:
`octetDeltaCount(1)<unsigned64>[8]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

VARIABLE = 65_535
"""Field length that says "each value states its own" (RFC 7011 section 7)."""

REVERSE = 29_305
"""Enterprise number of the reverse direction of a biflow (RFC 5103 section 6.1)."""

VMWARE = 6_876
"""Enterprise number of VMware: its logical switches, and the tunnels of Open vSwitch, which came from Nicira."""

_LINE = re.compile(r"(?P<name>\w+)\((?:(?P<enterprise>\d+)/)?(?P<number>\d+)\)<(?P<kind>\w+)>\[(?P<size>\d+|v)\]")


@dataclass(frozen=True, slots=True)
class Element:
    """One information element."""

    enterprise: int
    number: int
    name: str
    kind: str
    """Abstract type of RFC 7011 section 6.1, such as `unsigned64`."""
    size: int
    """Octets of a value in full, `VARIABLE` where there is no such size."""

    def __str__(self) -> str:
        number = f"{self.enterprise}/{self.number}" if self.enterprise else str(self.number)
        return f"{self.name}({number})<{self.kind}>[{'v' if self.size == VARIABLE else self.size}]"


def parse(text: str) -> Element:
    """One line of the notation.  Raises ValueError if it is not in it."""
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an information element: {text!r}")
    size = VARIABLE if match["size"] == "v" else int(match["size"])
    return Element(int(match["enterprise"] or 0), int(match["number"]), match["name"], match["kind"], size)


@cache
def registry() -> dict[tuple[int, int], Element]:
    """(enterprise, number) -> element, of every line of the data file."""
    text = resources.files("decoders").joinpath("elements.iespec").read_text("utf-8")
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {(element.enterprise, element.number): element for element in map(parse, lines)}


def describe(enterprise: int, number: int, size: int) -> str:
    """A field of a template in the notation; elements that the registry does not have are named by number."""
    shown = "v" if size == VARIABLE else str(size)
    if enterprise == REVERSE and (forward := registry().get((0, number))):
        name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
        return f"{name}({REVERSE}/{number})<{forward.kind}>[{shown}]"
    element = registry().get((enterprise, number))
    prefix = f"{enterprise}/" if enterprise else ""
    if element is None:
        return f"unknown({prefix}{number})<octetArray>[{shown}]"
    return f"{element.name}({prefix}{number})<{element.kind}>[{shown}]"


_COUNTERS = frozenset({"unsigned16", "unsigned32", "unsigned64"})


def plausible(enterprise: int, number: int, size: int) -> bool:
    """True if a field of this length can hold the element.

    NetFlow v9 types from 128 on belong to vendors, most of whom follow the IPFIX registry; one that does not is told
    by its length.  Numbers may be shorter than in full (RFC 7011 section 6.2); addresses and absolute times may not.
    """
    element = registry().get((enterprise, number))
    if element is None:
        return False
    if VARIABLE in (element.size, size):
        return element.size == VARIABLE
    return size == element.size or (element.kind in _COUNTERS and 0 < size <= element.size)
