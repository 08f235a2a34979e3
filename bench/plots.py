"""Draws docs/growth.svg from what `bench.growth --save` wrote: `python -m bench.plots FILE` (extra `bench`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.growth import SERIES

TARGET = Path(__file__).resolve().parent.parent / "docs" / "growth.svg"


def draw(file: Path) -> None:
    """One panel a series, both axes logarithmic: a cost that does not grow is level."""
    found = json.loads(file.read_text())["series"]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vmflow", "font.size": 8})
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axes, (name, series) in zip(figure.subplots(2, 2).flat, SERIES.items(), strict=True):
        steps = found[name]
        numbers = [step["number"] for step in steps]
        axes.loglog(numbers, [step["per_record"] for step in steps], marker="o", label=f"a record: {series.record}")
        axes.loglog(numbers, [step["per_more"] for step in steps], marker="s", label=f"each one: {series.more}")
        axes.set(xlabel=name, ylabel="µs of CPU", ylim=(0.05, 2000))
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="upper right", fontsize=6)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
