"""The engine's syntax tree of a statement, as `EXPLAIN AST` prints it, and how large a plan may grow from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

ALIAS, CHILDREN = " (alias ", " (children "
"""What the tree puts after a node's text.  No name may contain it, or the end of the text would be unknown."""

ENDLESS = 10**12
"""Growth beyond this is not counted."""
DEEPEST_ALIASES = 100
"""Length of a chain of aliases that name each other; longer ones count as endless growth."""
EQUAL_ALIASES = 4
"""Expressions of one SELECT with the same alias that are read: the engine accepts them if they are the same."""


@dataclass(eq=False)
class Node:
    """A node of the engine's syntax tree."""

    kind: str
    text: str
    alias: str
    parent: Node | None
    number: int
    """Its position in the tree, and `last`: that of the last node below it."""
    last: int
    children: list[Node] = field(default_factory=list)

    def holds(self, other: Node) -> bool:
        """Return whether the other one is this node, or below it."""
        return self.number <= other.number <= self.last


def parse(lines: Sequence[str]) -> list[Node]:
    """The nodes of a tree, each with its parent, in order: parents before children.

    Raises ValueError for anything that is not such a tree.
    """
    nodes: list[Node] = []
    above: list[Node] = []
    for line in lines:
        plain = line.lstrip(" ")
        depth = len(line) - len(plain)
        kind, _, text = plain.partition(" ")
        alias = ""
        if kind != "Literal":  # whose text may look like the end of another node
            kind, text, alias = _parts(plain)
        if not kind.replace("::", "").isalpha() or depth > len(above):
            raise ValueError(f"no tree: {plain[:60]!r}")
        node = Node(kind, text, alias, above[depth - 1] if depth else None, len(nodes), len(nodes))
        if node.parent is not None:
            node.parent.children.append(node)
        above[depth:] = [node]
        nodes.append(node)
    for node in reversed(nodes):
        if node.parent is not None:
            node.parent.last = max(node.parent.last, node.last)
    return nodes


def _parts(line: str) -> tuple[str, str, str]:
    """Return kind, text and alias of a node, from its line without indentation; in a time that grows with its
    length."""
    head, children, count = line.rpartition(CHILDREN)
    if children and count.endswith(")") and count[:-1].isdecimal():
        line = head
    head, alias, name = line.partition(ALIAS)
    if alias and name.endswith(")"):
        line = head
    else:
        name = ""
    kind, _, text = line.partition(" ")
    return kind, text, name.removesuffix(")")


def inside(select: Node) -> Iterator[Node]:
    """Yield the nodes of a SELECT except those of others within it; without recursion, since statements are deep."""
    left = list(select.children)
    while left:
        node = left.pop()
        if node.kind != "SelectQuery":
            yield node
            left += node.children


def nesting(nodes: Iterable[Node]) -> int:
    """Return how deep subqueries of expressions may be nested, if all common table expressions name each other."""
    deepest: dict[Node | None, int] = {}
    for node in nodes:
        deep, at = 0, node
        while at.parent is not None and at.kind != "WithElement":
            deep += _asks(at)
            at = at.parent
        scope = at if at.kind == "WithElement" else None
        deepest[scope] = max(deepest.get(scope, 0), deep)
    return sum(deepest.values())


def _asks(node: Node) -> bool:
    """Return whether it is a subquery of an expression: `(SELECT …)`, or the name of a table after IN."""
    parent = node.parent
    if node.kind == "Subquery":
        return parent is None or parent.kind not in ("TableExpression", "WithElement")
    if node.kind not in ("Identifier", "TableIdentifier") or parent is None or parent.parent is None:
        return False
    name = parent.parent.text.lower().removeprefix("global").removesuffix("ignoreset")
    called = parent.parent.kind == "Function" and name in ("in", "notin", "nullin", "notnullin")
    return called and node is parent.children[-1] and len(parent.children) == 2


def growth(nodes: Sequence[Node], tables: Collection[str]) -> int:
    """Return how often a column of the innermost SELECT may occur in the plan of the outermost, `ENDLESS` at most.

    The engine substitutes the expressions of a subquery wherever its columns are named, and names each result by its
    whole expression: 40 times `SELECT x * x + x AS x FROM (…)` would make a name of 3^40 letters, which no memory limit
    covers.  At each SELECT a column counts as often as the one named most often, after alias substitution; this
    multiplies where SELECTs read from each other, and adds up where several are read.  The tree does not name common
    table expressions: one may read from all before it, if it reads from anything not in `tables`.
    """
    plan = _Plan(nodes, tables)
    known: dict[tuple[tuple[str, str, str], ...], int] = {}
    for element in (node for node in nodes if node.kind == "WithElement"):
        shape = tuple((node.kind, node.text, node.alias) for node in _below(element))
        if shape not in known:  # a UNION has a copy of each
            known[shape] = max((plan.growth(select) for select in plan.within[element]), default=1)
        plan.shared = max(plan.shared, known[shape])
    return max((plan.growth(select) for select in plan.own), default=1)


class _Plan:
    """How the SELECTs of a statement read from each other."""

    def __init__(self, nodes: Sequence[Node], tables: Collection[str]) -> None:
        self.shared = 1
        """Growth of the common table expressions processed so far."""
        self.own = {node: list(inside(node)) for node in nodes if node.kind == "SelectQuery"}
        self.within: dict[Node, list[Node]] = defaultdict(list)
        """SELECTs that are a common table expression."""
        self._tables = tables
        self._read: dict[Node, list[Node]] = defaultdict(list)
        """SELECTs after FROM, by the one that reads from them."""
        self._growth: dict[Node, int] = {}
        for select in self.own:
            at, behind_from = select.parent, False
            while at is not None and at.kind not in ("SelectQuery", "WithElement"):
                behind_from |= at.kind == "TableExpression"
                at = at.parent
            if at is not None and at.kind == "WithElement":
                self.within[at].append(select)
            elif at is not None and behind_from:
                self._read[at].append(select)
        self._times = _Times(self.own)

    def growth(self, select: Node) -> int:
        """Return how often a column of the innermost SELECT that this one reads from may occur in its plan."""
        if select not in self._growth:
            read = [self.growth(one) for one in self._read[select]]
            tables = [node.text for node in self.own[select] if node.kind == "TableIdentifier"]
            read += [self.shared for name in tables if name not in self._tables]
            self._growth[select] = min(ENDLESS, self._times.most(select) * max(1, sum(read)))
        return self._growth[select]


class _Times:
    """How often the parts of a SELECT occur after alias substitution."""

    def __init__(self, own: Mapping[Node, Sequence[Node]]) -> None:
        self._own = own
        self._aliases: dict[tuple[Node, str], list[Node]] = defaultdict(list)
        for select, nodes in own.items():
            for node in nodes:
                same = self._aliases[select, node.alias]
                if node.alias and len(same) < EQUAL_ALIASES:
                    same.append(node)
        self._named: dict[Node, list[Node]] = defaultdict(list)
        """Where the alias of each expression is named."""
        for select, nodes in own.items():
            for node in nodes:
                if node.kind == "Identifier":
                    for expression in self._meant(select, node):
                        self._named[expression].append(node)
        self._times: dict[Node, int] = {}

    def most(self, select: Node) -> int:
        """Return the count of the column named most often, at least 1."""
        counts: dict[str, int] = defaultdict(int)
        for node in self._own[select]:
            if node.kind == "Identifier":
                counts[node.text.rpartition(".")[2]] += self._of(node, 0)
        return max(counts.values(), default=1)

    def _meant(self, select: Node | None, identifier: Node) -> list[Node]:
        """Return the expressions that an identifier may name: of its own SELECT, or in a WITH around it."""
        names = {identifier.text, identifier.text.rpartition(".")[2]}
        own = True
        while select is not None:
            found = [one for name in names for one in self._aliases.get((select, name), ())]
            found = [one for one in found if not one.holds(identifier) and (own or _in_with(one))]
            if found:
                return found
            select, own = _above(select), False
        return []

    def _of(self, node: Node, depth: int) -> int:
        """Return how often a node occurs in its SELECT: as often as the aliased expression that it is part of."""
        if depth > DEEPEST_ALIASES:
            return ENDLESS
        at: Node | None = node
        while at is not None and at.kind != "SelectQuery" and not at.alias:
            at = at.parent
        if at is None or at.kind == "SelectQuery":
            return 1
        if at not in self._times:
            self._times[at] = ENDLESS  # names itself through others: the engine refuses it
            times = 1 if at.parent is None else self._of(at.parent, depth + 1)
            for one in self._named[at]:
                times += self._of(one, depth + 1)
                if times >= ENDLESS:
                    break
            self._times[at] = min(times, ENDLESS)
        return self._times[at]


def _in_with(node: Node) -> bool:
    """Return whether a node is in what may be the WITH of its SELECT: two lists begin it, or it has no WITH."""
    at = node
    while at.parent is not None and at.parent.kind != "SelectQuery":
        at = at.parent
    lists = [child.kind for child in at.parent.children[:2]] if at.parent is not None else []
    return lists == ["ExpressionList", "ExpressionList"] and at.parent is not None and at is at.parent.children[0]


def _above(select: Node) -> Node | None:
    """Return the SELECT around another one."""
    at = select.parent
    while at is not None and at.kind != "SelectQuery":
        at = at.parent
    return at


def _below(node: Node) -> Iterator[Node]:
    """Yield a node and all below it, in order."""
    left = [node]
    while left:
        node = left.pop()
        yield node
        left += reversed(node.children)
