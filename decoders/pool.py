"""The plans of all templates put together in arrays that kernels read; equal templates share one plan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders import plan as p

_SPARE = 64
"""Plans kept though no template uses them, before the arrays are put together anew."""


class Plans(NamedTuple):
    """Plans back to back."""

    head: NDArray[np.int64]
    """[plans, P_WORDS]"""
    width: NDArray[np.int64]
    """[fields] octets as the template says, −1 where they vary."""
    size: NDArray[np.int64]
    """[fields] octets in the record at hand."""
    off: NDArray[np.int64]
    """[fields] offset from the start of the record at hand."""
    op: NDArray[np.int64]
    """[operations, OPS]"""


class PlanPool:
    """Plans by template, counted by use."""

    def __init__(self) -> None:
        self._number: dict[p.Template, int] = {}
        self._uses: dict[int, int] = {}
        self._plans: list[p.Plan] = []
        self._templates: list[p.Template] = []
        self._unused = 0
        self.fields = 0
        """Of all plans in use: what they take of memory."""
        self.arrays = _empty(1, 16, 16)
        self._filled = [0, 0, 0]

    def take(self, template: p.Template) -> int:
        """The number of this template's plan, which is compiled if it is not known."""
        number = self._number.get(template)
        if number is None:
            number = len(self._plans)
            plan = p.compile_plan(template)
            self._plans.append(plan)
            self._templates.append(template)
            self._number[template] = number
            self._uses[number] = 0
            self._unused += 1
            self._append(number, plan)
        if self._uses[number] == 0:
            self._unused -= 1
            self.fields += len(template.fields)
        self._uses[number] += 1
        return number

    def template(self, number: int) -> p.Template:
        """The template of a plan; equal ones are one object, of which large clouds have thousands."""
        return self._templates[number]

    def give_back(self, number: int) -> None:
        """One template less uses this plan."""
        self._uses[number] -= 1
        if self._uses[number] == 0:
            self._unused += 1
            self.fields -= len(self._templates[number].fields)

    @property
    def crowded(self) -> bool:
        """True if `compact` is worth its time."""
        return self._unused > _SPARE and self._unused > len(self._uses) // 2

    def compact(self) -> dict[int, int]:
        """Forget unused plans; returns old number -> new number of those that stay."""
        kept = [(template, number) for template, number in self._number.items() if self._uses[number] > 0]
        plans = {number: self._plans[number] for _, number in kept}
        renumbered = {old: new for new, (_, old) in enumerate(kept)}
        self._number = {template: renumbered[number] for template, number in kept}
        self._uses = {renumbered[number]: self._uses[number] for _, number in kept}
        self._plans = [plans[number] for _, number in kept]
        self._templates = [template for template, _ in kept]
        self._unused = 0
        self._filled = [0, 0, 0]
        for number, plan in enumerate(self._plans):
            self._append(number, plan)
        return renumbered

    def _append(self, number: int, plan: p.Plan) -> None:
        heads, fields, ops = self._filled
        widths = plan.sizes
        self.arrays = _grown(self.arrays, heads + 1, fields + len(widths), ops + len(plan.ops))
        head, width, size, off, op = self.arrays
        head[number] = plan.head
        head[number, p.P_FIELD] = fields
        head[number, p.P_OP] = ops
        end = fields + len(widths)
        width[fields:end] = widths
        size[fields:end] = widths
        off[fields:end] = np.cumsum(widths) - widths
        op[ops : ops + len(plan.ops)] = plan.ops
        self._filled = [heads + 1, end, ops + len(plan.ops)]


def _empty(plans: int, fields: int, ops: int) -> Plans:
    return Plans(
        np.zeros((plans, p.P_WORDS), np.int64),
        np.zeros(fields, np.int64),
        np.zeros(fields, np.int64),
        np.zeros(fields, np.int64),
        np.zeros((ops, p.OPS), np.int64),
    )


def _grown(arrays: Plans, plans: int, fields: int, ops: int) -> Plans:
    """The same arrays if they have room for so many, else copies of at least twice the size."""
    if plans <= len(arrays.head) and fields <= len(arrays.width) and ops <= len(arrays.op):
        return arrays
    larger = _empty(max(plans, 2 * len(arrays.head)), max(fields, 2 * len(arrays.width)), max(ops, 2 * len(arrays.op)))
    for old, new in zip(arrays, larger, strict=True):
        new[: len(old)] = old
    return larger
