"""Draws docs/instead.png: how close AdaCache comes to the uncached run, and how close as many plain steps do.

python -m benchmarks.instead      # from results/redesign.md
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

RESULTS = Path(__file__).parent / "results" / "redesign.md"
PICTURE = Path(__file__).parents[1] / "docs" / "instead.png"
ROW = re.compile(
    r"^\| (\w+, \d+ of \d+, cfg [\d.]+), .*? \| ([\d.-]+) .*? \| ([\d.-]+) .*? \| .*? \| ([\d.-]+) ", re.MULTILINE
)
OURS, THEIRS = "#0072B2", "#B87A00"  # the Inspector's computed and skipped


def rows() -> list[tuple[str, float, float]]:
    """Of the demo model: the way of sampling, dB of AdaCache and of fewer steps."""
    demo = RESULTS.read_text(encoding="utf-8").partition("## Narrow")[0]
    return [(name, float(now), float(fewer)) for name, _, now, fewer in ROW.findall(demo)]


def draw() -> None:
    """Write the picture."""
    found = rows()
    figure, axes = pyplot.subplots(figsize=(7.6, 0.26 * len(found) + 0.9), dpi=120)
    for place, (_, now, fewer) in enumerate(reversed(found)):
        axes.plot([fewer, now], [place, place], color="#D9DEE5", linewidth=4, zorder=1)
        axes.scatter([fewer], [place], color=THEIRS, zorder=2, label="as many plain steps" if place == 0 else None)
        axes.scatter([now], [place], color=OURS, zorder=3, label="AdaCache" if place == 0 else None)
    axes.set_yticks(range(len(found)), [name for name, *_ in reversed(found)], fontsize=8)
    axes.set_xlabel("signal-to-error against the uncached run, dB (demo model, 8 test videos)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#F0F2F5")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE)


if __name__ == "__main__":
    draw()
