"""The inspector's chart, laid out once for browser and image: a panel per sampling run, a column per step.

A panel is a list of marks, each a shape with its arguments (see ``Panel``). Across they count in columns, so that they
fit any width; down in pixels from the panel's top. What a mark is called says how it looks: ``web/adacache.css`` and
``_pen.py`` have the colours. Texts are strings or entries, see ``report.py``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from .why import MOST_PANELS
from .words import Entry, human_bytes, human_seconds

Record = dict[str, Any]

_LEFT, _RIGHT, _LABELS = 40, 6, 78
_TITLE, _CAPTION, _BARS, _STRIP, _LANE, _GAP = 22, 29, 84, 44, 62, 8
# How many columns wide a label is, as a part of all of them, where a chart is no wider than it needs to be.
_NUMBER, _SECONDS = 1 / 24, 1 / 7
_MOST_NUMBERS = 17
# Kinds of marks that the legend explains, in its order.
_LEGEND = "computed skipped partial planned miss distance plain bound score gradient".split()


def make_chart(report: dict[str, Any]) -> dict[str, Any]:
    """The chart of a report, JSON-safe.

    Returns:
        ``tiles`` (label and value of a few numbers), ``legend`` (kind and label of what it shows) and ``panels``:
        ``run`` (its place in the report), ``columns``, margins ``left`` and ``right``, ``height``, ``marks``.
    """
    runs = report["runs"]
    panels = [Panel(run, number, len(runs)) for number, run in enumerate(runs, start=1)][-MOST_PANELS:]
    shown = {kind for panel in panels for kind in panel.kinds}
    speedup = report["speedup"]
    steps = {"key": "of", "computed": report["computed_steps"], "total": report["total_steps"]}
    tiles: dict[str, Entry | str] = dict.fromkeys(("speedup", "steps", "memory", "preset"), "-")
    if runs:
        measured = "-" if speedup is None else f"{speedup:.2f}x"
        tiles = {"speedup": measured, "steps": steps, "memory": human_bytes(report["cache_bytes"])}
        tiles["preset"] = report["preset"]
    if reference := report.get("reference"):
        db = reference["signal_to_error_db"]
        tiles["reference"] = {"key": "equal"} if reference["equal"] else "-" if db is None else f"{db:.1f} dB"
    return {
        "tiles": [({"key": f"{name}_label"}, value) for name, value in tiles.items()],
        "legend": [(kind, {"key": kind}) for kind in _LEGEND if kind in shown],
        "panels": [panel.to_dict() for panel in panels],
    }


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


class Panel:
    """One run. Columns follow the order of the steps, not their numbers: a sampler may go back and start over."""

    def __init__(self, run: Record, number: int, runs: int) -> None:
        self.run = number - 1
        self.steps: list[Record] = run["steps"]
        self.columns = max(run["total_steps"], len(self.steps), 1)
        self.marks: list[tuple[Any, ...]] = []
        self.kinds: set[str] = set()
        self.top = 0.0
        self.bounds = rate_bounds(run["settings"].get("codebook"))
        self.plan: list[str | None] = list(run["plan"] or [])
        if runs > 1:
            self._title(run, number, runs)
        self._seconds()
        self._strip()
        observed = [(column, record["paper"]) for column, record in enumerate(self.steps) if record["paper"]]
        if distances := [(column, seen) for column, seen in observed if seen["distance"] is not None]:
            self._distance(distances)
        if moved := [(column, seen) for column, seen in observed if seen["motion_score"] is not None]:
            self._motion(moved)
        if missed := [(column, r["miss"]) for column, r in enumerate(self.steps) if r["miss"] is not None]:
            self._curve(missed, self._axis("miss_lane", _LANE, scale_top(miss for _, miss in missed)), "miss")
        self.labelled = bool(self.bounds and distances)

    def to_dict(self) -> dict[str, Any]:
        right = _LABELS if self.labelled else _RIGHT
        shape = {"columns": self.columns, "left": _LEFT, "right": right, "height": self.top + _GAP}
        return {"run": self.run, **shape, "marks": self.marks}

    def bar(self, column: int, y: float, height: float, kind: str) -> None:
        """A box of a column's width; words in front of the kind tell what it is part of."""
        self.marks.append(("bar", column, round(y, 1), round(height, 1), kind))
        self.kinds.update(kind.split())

    def rule(self, y: float, kind: str) -> None:
        """A line across all columns."""
        self.marks.append(("rule", round(y, 1), kind))
        self.kinds.add(kind)

    def dot(self, column: int, y: float, kind: str) -> None:
        self.marks.append(("dot", column + 0.5, round(y, 1), kind))
        self.kinds.add(kind)

    def arrow(self, column: int, y: float, kind: str) -> None:
        """A small triangle that points up: the value lies above the axis."""
        self.marks.append(("arrow", column + 0.5, round(y, 1), kind))

    def curve(self, points: list[tuple[float, float]], kind: str) -> None:
        self.marks.append(("curve", [(x, round(y, 1)) for x, y in points], kind))

    def text(self, x: float, shift: float, y: float, text: Entry | str, kind: str, anchor: str) -> None:
        """Text beside a place: its baseline, shifted by pixels, with its ``start``, ``middle`` or ``end`` there."""
        self.marks.append(("text", x, shift, round(y, 1), text, kind, anchor))

    def _title(self, run: Record, number: int, runs: int) -> None:
        """Which of several runs: of two experts, the one for high noise has the larger sigmas."""
        title: Entry = {"key": "run", "run": number, "runs": runs}
        if self.steps:
            first, last = (f"{self.steps[at]['sigma']:.3g}" for at in (0, -1))
            title |= {"key": "run_title", "first": first, "last": last, "computed": run["computed_steps"],
                      "total": len(self.steps), "seconds": human_seconds(run["seconds"])}  # fmt: skip
        self.text(0, -_LEFT, 14, title, "title", "start")
        self.top += _TITLE

    def _axis(self, caption: str, height: float, ceiling: float) -> Lane:
        self.text(0, -_LEFT, self.top + 16, {"key": caption}, "caption", "start")
        lane = Lane(self.top + _CAPTION, height, ceiling)
        for part in (0.0, 0.5, 1.0):
            self.rule(lane.y(part * ceiling), "grid" if part else "axis")
            self.text(0, -5, lane.y(part * ceiling) + 3.5, f"{part * ceiling:.3g}", "tick", "end")
        self.top += _CAPTION + height
        return lane

    def _seconds(self) -> None:
        computed = [record["seconds"] for record in self.steps if record["kind"] == "computed"]
        ceiling = scale_top(computed or [record["seconds"] for record in self.steps])
        lane = self._axis("time_lane", _BARS, ceiling)
        free_from = 0.0
        for column, record in enumerate(self.steps):
            high = lane.length(record["seconds"])
            if record["kind"] == "partial":
                self.bar(column, lane.bottom - max(high, 2), max(high, 2), "partial")
            else:  # both where the model ran for some of the conditions only
                ran = record["computed_calls"] / record["calls"] if record["calls"] else record["kind"] == "computed"
                if ran < 1:
                    self.bar(column, lane.bottom - max(high, 2), max(high, 2), "skipped")
                if ran > 0:
                    self.bar(column, lane.bottom - high * ran, high * ran, "computed")
            if record["seconds"] > ceiling:
                self.arrow(column, lane.top - 7, "computed")
                if column >= free_from:
                    late = column > self.columns * (1 - _SECONDS)
                    shift, anchor = (-7, "end") if late else (7, "start")
                    label = human_seconds(record["seconds"])
                    self.text(column + 0.5, shift, lane.top - 1, label, "tick", anchor)
                    free_from = column + self.columns * _SECONDS
        usual = lane.length(statistics.median(computed)) if computed else _BARS / 2
        for column in range(len(self.steps), len(self.plan)):
            if self.plan[column]:
                self.bar(column, lane.bottom - usual, usual, "planned")

    def _strip(self) -> None:
        """What each step was, for bars too low to tell; under it step numbers, and rates where the paper decides."""
        top = self.top + 4
        for column in range(self.columns):
            coming = "pending planned" if column < len(self.plan) and self.plan[column] else "pending"
            kind = self.steps[column]["kind"] if column < len(self.steps) else coming
            self.bar(column, top, 9, f"cell {kind}")
        self.text(0, -5, top + 21, {"key": "step"}, "tick", "end")
        every = next(n for n in (1, 2, 5, 10, 20, 50, 10**6) if self.columns / n <= _MOST_NUMBERS)
        for column in sorted({0, *range(every - 1 if every != 2 else 3, self.columns, every)}):
            number = self.steps[column]["step"] if column < len(self.steps) else column
            self.text(column + 0.5, 0, top + 21, str(number + 1), "tick", "middle")
        rates = [(column, record["paper"]["rate"]) for column, record in enumerate(self.steps) if record["paper"]]
        if rates:
            self.text(0, -5, top + 34, {"key": "rate"}, "tick", "end")
        free_from = 0.0
        for column, rate in rates:
            if column >= free_from:
                self.text(column + 0.5, 0, top + 34, str(rate), "tick strong", "middle")
                free_from = column + self.columns * _NUMBER
        self.top += _STRIP if rates else _STRIP - 13

    def _distance(self, observed: list[tuple[int, Record]]) -> None:
        applied = [
            (column, seen["distance"] if seen["regularized_distance"] is None else seen["regularized_distance"])
            for column, seen in observed
        ]
        ceiling = scale_top((value for _, value in applied), self.bounds[-1][0] * 1.15 if self.bounds else 0.0)
        lane = self._axis("distance_lane", _LANE, ceiling)
        label = math.inf
        for bound, rate in self.bounds:
            self.rule(lane.y(bound), "bound")
            label = min(lane.y(bound), label - 11)  # labels of lines that lie close together are moved up
            if label >= lane.top - 6:
                below = {"key": "below", "bound": f"{bound:.3g}", "rate": rate}
                self.text(self.columns, 5, label + 3.5, below, "tick", "start")
        for (column, value), (_, seen) in zip(applied, observed, strict=True):
            if seen["distance"] != value:
                self.dot(column, lane.y(seen["distance"]), "plain")
        self._curve(applied, lane, "distance")

    def _curve(self, points: list[tuple[int, float]], lane: Lane, kind: str) -> None:
        self.curve([(column + 0.5, lane.y(value)) for column, value in points], f"{kind}-curve")
        for column, value in points:
            if value > lane.ceiling:
                self.arrow(column, lane.top - 6, kind)
            else:
                self.dot(column, lane.y(value), kind)

    def _motion(self, observed: list[tuple[int, Record]]) -> None:
        """Score plus size of the gradient: what MoReg multiplies the distance by."""
        parts = [(column, seen["motion_score"], abs(seen["motion_gradient"] or 0.0)) for column, seen in observed]
        lane = self._axis("motion_lane", _LANE, scale_top((score + gradient for _, score, gradient in parts), 1.0))
        for column, score, gradient in parts:
            low, high = lane.y(score), lane.y(score + gradient)
            self.bar(column, high, low - high, "gradient")
            self.bar(column, low, lane.bottom - low, "score")
            if score + gradient > lane.ceiling:
                self.arrow(column, lane.top - 6, "score")
        self.rule(lane.y(1), "unchanged")


class Lane:
    """An axis from 0 to a ceiling, in pixels of its panel; values above it end at it."""

    def __init__(self, top: float, height: float, ceiling: float) -> None:
        self.top, self.height, self.ceiling, self.bottom = top, height, ceiling, top + height

    def length(self, value: float) -> float:
        return min(value / self.ceiling, 1) * self.height

    def y(self, value: float) -> float:
        return self.bottom - self.length(value)
