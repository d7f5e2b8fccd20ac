"""What the inspector's chart shows of a run, and where: axes, columns, lanes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ._pen import WIDTH

MARGIN = 28
_LABELS_LEFT, _LABELS_RIGHT = 104, 132

Record = dict[str, Any]


def scale_top(values: Iterable[float], least: float = 0.0) -> float:
    """Round top of an axis: the largest value, but not so far above the usual ones that these could not be read.

    A first step that loads weights may take ten times as long as the others; what sticks out is marked as such.
    """
    present = [value for value in values if value > 0]
    usual = 3 * statistics.median(present) if present else 0.0
    top = max(min(max(present, default=0.0), usual), least) or 1.0
    unit = 10.0 ** math.floor(math.log10(top))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * unit >= top * 0.999)


def rate_bounds(codebook: Sequence[tuple[float, int]] | None) -> list[tuple[float, int]]:
    """Thresholds at which the rate changes, with the rate below them. The last threshold of a codebook never does."""
    pairs = list(codebook or [])
    return [(bound, rate) for (bound, rate), (_, above) in pairwise(pairs) if rate != above]


def has_motion(run: Record) -> bool:
    return any(record["motion_score"] is not None for record in run["steps"])


def has_distance(run: Record) -> bool:
    return any(record["distance"] is not None for record in run["steps"])


def condition_lanes(run: Record) -> list[tuple[str, str]]:
    """Conditions that did not do alike: numbers of those that share a lane, and a letter per step.

    See ``StepRecord.by_condition`` for the letters. Empty where at each step either all computed or all skipped.
    """
    steps = [record["by_condition"] for record in run["steps"]]
    if not any("c" in letters and "s" in letters for letters in steps):
        return []
    alike: dict[str, list[int]] = {}
    for condition in range(run["conditions"]):
        letters = "".join(letters[condition : condition + 1] or "-" for letters in steps)
        alike.setdefault(letters, []).append(condition + 1)
    return [(_numbers(conditions), letters) for letters, conditions in alike.items()]


def _numbers(conditions: list[int]) -> str:
    return ", ".join(map(str, conditions)) if len(conditions) < 4 else f"{conditions[0]} +{len(conditions) - 1}"


class Columns:
    """Where steps lie from left to right. By order, not by step index: a sampler may go back and start over."""

    def __init__(self, run: Record) -> None:
        self.count = max(run["total_steps"], len(run["steps"]), 1)
        labelled = has_motion(run) or (has_distance(run) and run["settings"]["codebook"])
        self.left, self.right = MARGIN + _LABELS_LEFT, WIDTH - MARGIN - (_LABELS_RIGHT if labelled else 0)
        self.pitch = (self.right - self.left) / self.count
        self.width = max(self.pitch - max(1.0, min(4.0, self.pitch * 0.2)), 1.0)

    def start(self, column: int) -> float:
        return self.left + column * self.pitch + (self.pitch - self.width) / 2

    def middle(self, column: int) -> float:
        return self.left + (column + 0.5) * self.pitch

    def ticks(self) -> list[int]:
        every = next(n for n in (1, 2, 5, 10, 20, 50, 10**6) if n * self.pitch >= 24)
        return sorted({0, *range(every - 1, self.count, every)} - ({every - 1} if every == 2 else set()))
