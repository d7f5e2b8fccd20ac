"""The inspector's chart as an image, drawn with Pillow: one panel per sampling run, one column per step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .report import human_bytes, human_seconds

# Drawn at twice the size and scaled down, which smooths lines and text alike.
_SCALE = 2
_WIDTH, _MARGIN, _LEFT, _RIGHT = 1024, 28, 86, 132
_HEADER, _FOOTER_LINE = 132, 20
_TITLE, _BARS, _STRIP, _LANE, _GAP = 34, 120, 56, 92, 28

# Okabe and Ito's colours, which the colour-blind tell apart; blue is also much darker than orange.
_COMPUTED, _SKIPPED, _SKIPPED_FILL, _SCORE, _GRADIENT = "#0072B2", "#E69F00", "#FBE3B0", "#009E73", "#A6DCCB"
_INK, _MUTED, _RULE, _FAINT, _PAPER, _CARD = "#1D2530", "#5B6675", "#D9DEE5", "#F0F2F5", "#FFFFFF", "#F5F7F9"

Record = dict[str, Any]


def draw_chart(report: dict[str, Any]) -> Tensor:
    """The chart of a report (see ``make_report``) as float ``[1, H, 1024, 3]`` in 0..1."""
    lines = [line for text in report["summary"].split("\n") for line in _wrapped(text)]
    panels = [_panel_height(run) for run in report["runs"]]
    pen = _Pen(_HEADER + sum(panels) + _FOOTER_LINE * len(lines) + _MARGIN)
    _draw_header(pen, report)
    top = _HEADER
    for number, (run, height) in enumerate(zip(report["runs"], panels, strict=True), start=1):
        _draw_run(pen, run, top, f"Run {number} of {len(panels)}: " if len(panels) > 1 else "")
        top += height
    for line in lines:
        pen.text(_MARGIN, top + 8, line, 13.5, _MUTED)
        top += _FOOTER_LINE
    return pen.tensor()


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


class _Pen:
    """Draws in pixels of the final image."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def box(self, x: float, y: float, w: float, h: float, fill: str | None, edge: str | None = None) -> None:
        corners = [round(x * _SCALE), round(y * _SCALE), round((x + w) * _SCALE) - 1, round((y + h) * _SCALE) - 1]
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            self._draw.rectangle(corners, fill=fill, outline=edge, width=_SCALE)

    def card(self, x: float, y: float, w: float, h: float) -> None:
        corners = [x * _SCALE, y * _SCALE, (x + w) * _SCALE, (y + h) * _SCALE]
        self._draw.rounded_rectangle(corners, radius=8 * _SCALE, fill=_CARD)

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=color, width=round(width * _SCALE), joint="curve")

    def dotted(self, x: float, y: float, to: float, color: str) -> None:
        for start in np.arange(x, to, 6):
            self.line([(start, y), (min(start + 2.5, to), y)], color)

    def dot(self, x: float, y: float, radius: float, color: str, hollow: bool = False) -> None:
        corners = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(corners, fill=_PAPER if hollow else color, outline=color, width=round(1.5 * _SCALE))

    def arrow(self, x: float, y: float, color: str) -> None:
        """A small triangle that points up: the value lies above the axis."""
        corners = [(x - 4, y + 6), (x + 4, y + 6), (x, y)]
        self._draw.polygon([(a * _SCALE, b * _SCALE) for a, b in corners], fill=color)

    def hatched(self, x: float, y: float, w: float, h: float) -> None:
        """A skipped step: orange edge, light fill, diagonal strokes where there is room for them."""
        self.box(x, y, w, h, _SKIPPED_FILL, _SKIPPED)
        for shift in np.arange(5, w + h, 5):
            start, end = (x + max(shift - h, 0), y + min(shift, h)), (x + min(shift, w), y + max(shift - w, 0))
            self.line([start, end], _SKIPPED)

    def text(self, x: float, y: float, text: str, size: float, color: str, anchor: str = "la") -> None:
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=color, font=_font(size), anchor=anchor)

    def tensor(self) -> Tensor:
        small = self.image.resize((_WIDTH, self.image.height // _SCALE), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]


@cache
def _font(size: float) -> Any:
    return ImageFont.load_default(size=size * _SCALE)


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(13.5).getlength(longer) / _SCALE > _WIDTH - 2 * _MARGIN and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_header(pen: _Pen, report: dict[str, Any]) -> None:
    pen.text(_MARGIN, 18, "AdaCache", 19, _INK)
    _draw_legend(pen, report["runs"])
    speedup = report["speedup"]
    numbers = (
        ("speedup, measured", "-" if speedup is None else f"{speedup:.2f}x"),
        ("steps computed", f"{report['computed_steps']} of {report['total_steps']}" if report["runs"] else "-"),
        ("cache memory", human_bytes(report["cache_bytes"]) if report["runs"] else "-"),
        (f"preset, replay {report['replay']}" if report["runs"] else "preset", report["preset"] or "-"),
    )
    width = (_WIDTH - 2 * _MARGIN - 3 * 12) / 4
    for column, (label, value) in enumerate(numbers):
        left = _MARGIN + column * (width + 12)
        pen.card(left, 50, width, 66)
        size = next((size for size in (25, 21, 17) if _font(size).getlength(value) / _SCALE < width - 24), 13)
        pen.text(left + 14, 79, value, size, _INK, "lm")
        pen.text(left + 14, 102, label, 12.5, _MUTED, "lm")


def _draw_legend(pen: _Pen, runs: list[Record]) -> None:
    has_distance = any(record["distance"] is not None for run in runs for record in run["steps"])
    x = _WIDTH - _MARGIN
    for label, swatch in reversed(_legend_entries(bool(runs), has_distance, any(_has_motion(run) for run in runs))):
        x -= _font(12.5).getlength(label) / _SCALE
        pen.text(x, 29, label, 12.5, _MUTED, "lm")
        x -= 20
        swatch(pen, x, 29)
        x -= 18


def _legend_entries(
    has_runs: bool, has_distance: bool, has_motion: bool
) -> list[tuple[str, Callable[[_Pen, float, float], None]]]:
    entries: list[tuple[str, Callable[[_Pen, float, float], None]]] = []
    if has_runs:
        entries.append(("computed", lambda pen, x, y: pen.box(x, y - 6, 13, 13, _COMPUTED)))
        entries.append(("skipped", lambda pen, x, y: pen.hatched(x, y - 6, 13, 13)))
    if has_distance:
        entries.append(("distance", lambda pen, x, y: pen.dot(x + 7, y, 3.5, _INK)))
    if has_motion:
        entries.append(("without MoReg", lambda pen, x, y: pen.dot(x + 7, y, 3.5, _MUTED, hollow=True)))
        entries.append(("motion score", lambda pen, x, y: pen.box(x, y - 6, 13, 13, _SCORE)))
        entries.append(("gradient", lambda pen, x, y: pen.box(x, y - 6, 13, 13, _GRADIENT, _SCORE)))
    return entries


def _has_motion(run: Record) -> bool:
    return any(record["motion_score"] is not None for record in run["steps"])


def _has_distance(run: Record) -> bool:
    return any(record["distance"] is not None for record in run["steps"])


def _panel_height(run: Record) -> int:
    lanes = int(_has_distance(run)) + int(_has_motion(run))
    return _TITLE + _BARS + _STRIP + lanes * (_LANE + _GAP) + 26


class _Columns:
    """Where steps lie from left to right. By order, not by step index: a sampler may go back and start over."""

    def __init__(self, run: Record) -> None:
        self.count = max(run["total_steps"], len(run["steps"]), 1)
        labelled = _has_motion(run) or (_has_distance(run) and run["settings"]["codebook"])
        self.left, self.right = _MARGIN + _LEFT, _WIDTH - _MARGIN - (_RIGHT if labelled else 0)
        self.pitch = (self.right - self.left) / self.count
        self.width = max(self.pitch - max(1.0, min(4.0, self.pitch * 0.2)), 1.0)

    def start(self, column: int) -> float:
        return self.left + column * self.pitch + (self.pitch - self.width) / 2

    def middle(self, column: int) -> float:
        return self.left + (column + 0.5) * self.pitch

    def ticks(self) -> list[int]:
        every = next(n for n in (1, 2, 5, 10, 20, 50, 10**6) if n * self.pitch >= 24)
        return sorted({0, *range(every - 1, self.count, every)} - ({every - 1} if every == 2 else set()))


def _draw_run(pen: _Pen, run: Record, top: float, prefix: str) -> None:
    columns, steps = _Columns(run), run["steps"]
    title = f"{prefix}{run['total_steps']} steps, {run['computed_steps']} computed, {run['skipped_steps']} skipped"
    state = "" if run["finished"] else ", stopped early"
    pen.text(_MARGIN, top + 12, f"{title}, {human_seconds(run['seconds'])}{state}", 14.5, _INK, "lm")
    top += _TITLE
    _draw_seconds(pen, columns, steps, top)
    _draw_strip(pen, columns, steps, top + _BARS + 6)
    top += _BARS + _STRIP + _GAP
    if _has_distance(run):
        _draw_distance(pen, columns, run, top)
        top += _LANE + _GAP
    if _has_motion(run):
        _draw_motion(pen, columns, steps, top)


def _draw_axis(pen: _Pen, columns: _Columns, top: float, height: float, ceiling: float, name: Sequence[str]) -> None:
    pen.line([(columns.left, top + height), (columns.right, top + height)], _RULE)
    for fraction in (0.0, 0.5, 1.0):
        y = top + height * (1 - fraction)
        if fraction:
            pen.line([(columns.left, y), (columns.right, y)], _FAINT)
        pen.text(columns.left - 8, y, f"{ceiling * fraction:.3g}", 11.5, _MUTED, "rm")
    for row, text in enumerate(name):
        pen.text(_MARGIN, top + height / 2 + 15 * (row - (len(name) - 1) / 2), text, 12, _INK, "lm")


def _draw_seconds(pen: _Pen, columns: _Columns, steps: list[Record], top: float) -> None:
    ceiling = scale_top([r["seconds"] for r in steps if r["computed"]] or [r["seconds"] for r in steps])
    _draw_axis(pen, columns, top, _BARS, ceiling, ("time", "per step", "(s)"))
    free_from = 0.0
    for column, record in enumerate(steps):
        x, height = columns.start(column), min(record["seconds"] / ceiling, 1) * _BARS
        # Both where only some of a step's calls replayed, e.g. for one condition of two.
        ran = record["computed_calls"] / record["calls"] if record["calls"] else float(record["computed"])
        if ran < 1:
            pen.hatched(x, top + _BARS - max(height, 2), columns.width, max(height, 2))
        if ran > 0:
            pen.box(x, top + _BARS - height * ran, columns.width, height * ran, _COMPUTED)
        if record["seconds"] > ceiling:
            pen.arrow(columns.middle(column), top - 7, _COMPUTED)
            if columns.middle(column) >= free_from:
                beside, anchor = (7, "lm") if columns.middle(column) + 60 < columns.right else (-7, "rm")
                pen.text(
                    columns.middle(column) + beside, top - 5, human_seconds(record["seconds"]), 11.5, _MUTED, anchor
                )
                free_from = columns.middle(column) + 60


def _draw_strip(pen: _Pen, columns: _Columns, steps: list[Record], top: float) -> None:
    """Computed or skipped, for bars too low to tell; under it step numbers and rates."""
    pen.text(_MARGIN, top + 7, "step", 12, _INK, "lm")
    for column in range(columns.count):
        x = columns.start(column)
        if column >= len(steps):
            pen.box(x, top, columns.width, 13, _FAINT)
        elif steps[column]["computed"]:
            pen.box(x, top, columns.width, 13, _COMPUTED)
        else:
            pen.hatched(x, top, columns.width, 13)
    for column in columns.ticks():
        number = steps[column]["step"] if column < len(steps) else column
        pen.text(columns.middle(column), top + 25, str(number + 1), 11.5, _MUTED, "mm")
    pen.text(_MARGIN, top + 43, "rate", 12, _INK, "lm")
    free_from = 0.0
    for column, record in enumerate(steps):
        if record["rate"] and columns.middle(column) >= free_from:
            pen.text(columns.middle(column), top + 43, str(record["rate"]), 11.5, _INK, "mm")
            free_from = columns.middle(column) + 17


def _draw_distance(pen: _Pen, columns: _Columns, run: Record, top: float) -> None:
    bounds = rate_bounds(run["settings"]["codebook"])
    points = [(c, r) for c, r in enumerate(run["steps"]) if r["distance"] is not None]
    applied = [r["distance"] if r["regularized_distance"] is None else r["regularized_distance"] for _, r in points]
    ceiling = scale_top(applied, bounds[-1][0] * 1.15 if bounds else 0.0)
    _draw_axis(pen, columns, top, _LANE, ceiling, ("distance", "per step"))

    def place(column: int, value: float) -> tuple[float, float]:
        return columns.middle(column), top + _LANE * (1 - min(value / ceiling, 1))

    _draw_bounds(pen, columns, bounds, ceiling, top)
    pen.line([place(column, value) for (column, _), value in zip(points, applied, strict=True)], _INK, 1.5)
    for (column, record), value in zip(points, applied, strict=True):
        if record["regularized_distance"] not in (None, record["distance"]):
            pen.dot(*place(column, record["distance"]), 2.8, _MUTED, hollow=True)
        if value > ceiling:
            pen.arrow(columns.middle(column), top - 6, _INK)
        else:
            pen.dot(*place(column, value), 3.2, _INK)


def _draw_bounds(pen: _Pen, columns: _Columns, bounds: list[tuple[float, int]], ceiling: float, top: float) -> None:
    label_below = float("inf")
    for bound, rate in bounds:
        y = top + _LANE * (1 - bound / ceiling)
        pen.dotted(columns.left, y, columns.right, _SKIPPED)
        if label_below - y >= 12:
            pen.text(columns.right + 10, y, f"below {bound:.3g}: rate {rate}", 11.5, _MUTED, "lm")
            label_below = y


def _draw_motion(pen: _Pen, columns: _Columns, steps: list[Record], top: float) -> None:
    """Score plus size of the gradient: what MoReg multiplies the distance by."""
    measured = [(c, r["motion_score"], abs(r["motion_gradient"] or 0.0)) for c, r in enumerate(steps)
                if r["motion_score"] is not None]  # fmt: skip
    ceiling = scale_top((score + gradient for _, score, gradient in measured), 1.0)
    _draw_axis(pen, columns, top, _LANE, ceiling, ("motion", "factor"))
    unchanged = top + _LANE * (1 - 1 / ceiling)
    pen.dotted(columns.left, unchanged, columns.right, _SCORE)
    pen.text(columns.right + 10, unchanged, "1: no change", 11.5, _MUTED, "lm")
    for column, score, gradient in measured:
        x, low, high = columns.start(column), min(score / ceiling, 1), min((score + gradient) / ceiling, 1)
        pen.box(x, top + _LANE * (1 - high), columns.width, _LANE * (high - low), _GRADIENT, _SCORE)
        pen.box(x, top + _LANE * (1 - low), columns.width, _LANE * low, _SCORE)
        if score + gradient > ceiling:
            pen.arrow(columns.middle(column), top - 6, _SCORE)
