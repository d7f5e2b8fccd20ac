"""The inspector's chart as an image, drawn with Pillow: one panel per sampling run, one column per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ._pen import COMPUTED, FAINT, GRADIENT, INK, MUTED, PARTIAL, RULE, SCORE, SKIPPED, WIDTH, Pen, text_width
from ._scales import MARGIN, Columns, Record, condition_lanes, has_distance, has_motion, rate_bounds, scale_top
from .report import human_bytes, human_seconds

_HEADER, _FOOTER_LINE = 132, 20
_TITLE, _BARS, _STRIP, _LANE, _ROW, _GAP = 34, 120, 56, 92, 16, 28
_MOST_ROWS = 8


def draw_chart(report: dict[str, Any]) -> Tensor:
    """The chart of a report (see ``make_report``) as float ``[1, H, 1024, 3]`` in 0..1."""
    lines = [line for text in report["summary"].split("\n") for line in _wrapped(text)]
    panels = [_panel_height(run) for run in report["runs"]]
    pen = Pen(_HEADER + sum(panels) + _FOOTER_LINE * len(lines) + MARGIN)
    _draw_header(pen, report)
    top = _HEADER
    for number, (run, height) in enumerate(zip(report["runs"], panels, strict=True), start=1):
        _draw_run(pen, run, top, _prefix(run, number, len(panels)))
        top += height
    for line in lines:
        pen.text(MARGIN, top + 8, line, 13.5, MUTED)
        top += _FOOTER_LINE
    return pen.tensor()


def _prefix(run: Record, number: int, runs: int) -> str:
    """Which of several runs: of two experts, the one for high noise has the larger sigmas."""
    sigmas = [f"{record['sigma']:.3g}" for record in run["steps"]]
    span = f", sigma {sigmas[0]} to {sigmas[-1]}" if sigmas else ""
    return f"Run {number} of {runs}{span}: " if runs > 1 else ""


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, 13.5) > WIDTH - 2 * MARGIN and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_header(pen: Pen, report: dict[str, Any]) -> None:
    pen.text(MARGIN, 18, "AdaCache", 19, INK)
    _draw_legend(pen, report["runs"])
    speedup = report["speedup"]
    numbers = (
        ("speedup, measured", "-" if speedup is None else f"{speedup:.2f}x"),
        ("steps computed", f"{report['computed_steps']} of {report['total_steps']}" if report["runs"] else "-"),
        (_memory_label(report), human_bytes(report["cache_bytes"]) if report["runs"] else "-"),
        (f"preset, replay {report['replay']}" if report["runs"] else "preset", report["preset"] or "-"),
    )
    width = (WIDTH - 2 * MARGIN - 3 * 12) / 4
    for column, (label, value) in enumerate(numbers):
        left = MARGIN + column * (width + 12)
        pen.card(left, 50, width, 66)
        size = next((size for size in (25, 21, 17) if text_width(value, size) < width - 24), 13)
        pen.text(left + 14, 79, value, size, INK, "lm")
        pen.text(left + 14, 102, label, 12.5, MUTED, "lm")


def _memory_label(report: dict[str, Any]) -> str:
    place = "cache in system memory" if report["cache_device"] == "system memory" else "cache memory"
    return f"{place}, outputs only" if report["storage"] == "output" else place


def _draw_legend(pen: Pen, runs: list[Record]) -> None:
    has_distance = any(record["distance"] is not None for run in runs for record in run["steps"])
    x = WIDTH - MARGIN
    has_partial = any(run["partial_steps"] for run in runs)
    motion = any(has_motion(run) for run in runs)
    for label, swatch in reversed(_legend_entries(bool(runs), has_partial, has_distance, motion)):
        x -= text_width(label, 12.5)
        pen.text(x, 29, label, 12.5, MUTED, "lm")
        x -= 20
        swatch(pen, x, 29)
        x -= 18


def _legend_entries(
    has_runs: bool, has_partial: bool, has_distance: bool, has_motion: bool
) -> list[tuple[str, Callable[[Pen, float, float], None]]]:
    entries: list[tuple[str, Callable[[Pen, float, float], None]]] = []
    if has_runs:
        entries.append(("computed", lambda pen, x, y: pen.box(x, y - 6, 13, 13, COMPUTED)))
        entries.append(("skipped", lambda pen, x, y: pen.hatched(x, y - 6, 13, 13)))
    if has_partial:
        entries.append(("partial", lambda pen, x, y: pen.box(x, y - 6, 13, 13, PARTIAL, COMPUTED)))
    if has_distance:
        entries.append(("distance", lambda pen, x, y: pen.dot(x + 7, y, 3.5, INK)))
    if has_motion:
        entries.append(("without MoReg", lambda pen, x, y: pen.dot(x + 7, y, 3.5, MUTED, hollow=True)))
        entries.append(("motion score", lambda pen, x, y: pen.box(x, y - 6, 13, 13, SCORE)))
        entries.append(("gradient", lambda pen, x, y: pen.box(x, y - 6, 13, 13, GRADIENT, SCORE)))
    return entries


def _panel_height(run: Record) -> int:
    parts = int(has_distance(run)) + int(has_motion(run))
    rows = min(len(condition_lanes(run)), _MOST_ROWS)
    return _TITLE + _BARS + _STRIP + parts * (_LANE + _GAP) + (rows * _ROW + _GAP if rows else 0) + 26


def _draw_run(pen: Pen, run: Record, top: float, prefix: str) -> None:
    columns, steps = Columns(run), run["steps"]
    title = f"{prefix}{run['total_steps']} steps, {run['computed_steps']} computed, {run['skipped_steps']} skipped"
    title += f", {run['partial_steps']} partial" if run["partial_steps"] else ""
    state = "" if run["finished"] else ", stopped early"
    pen.text(MARGIN, top + 12, f"{title}, {human_seconds(run['seconds'])}{state}", 14.5, INK, "lm")
    top += _TITLE
    _draw_seconds(pen, columns, steps, top)
    _draw_strip(pen, columns, steps, top + _BARS + 6)
    top += _BARS + _STRIP + _GAP
    if lanes := condition_lanes(run):
        _draw_conditions(pen, columns, lanes, top)
        top += min(len(lanes), _MOST_ROWS) * _ROW + _GAP
    if has_distance(run):
        _draw_distance(pen, columns, run, top)
        top += _LANE + _GAP
    if has_motion(run):
        _draw_motion(pen, columns, steps, top)


def _draw_axis(pen: Pen, columns: Columns, top: float, height: float, ceiling: float, name: Sequence[str]) -> None:
    pen.line([(columns.left, top + height), (columns.right, top + height)], RULE)
    for fraction in (0.0, 0.5, 1.0):
        y = top + height * (1 - fraction)
        if fraction:
            pen.line([(columns.left, y), (columns.right, y)], FAINT)
        pen.text(columns.left - 8, y, f"{ceiling * fraction:.3g}", 11.5, MUTED, "rm")
    for row, text in enumerate(name):
        pen.text(MARGIN, top + height / 2 + 15 * (row - (len(name) - 1) / 2), text, 12, INK, "lm")


def _draw_seconds(pen: Pen, columns: Columns, steps: list[Record], top: float) -> None:
    ceiling = scale_top([r["seconds"] for r in steps if r["computed"]] or [r["seconds"] for r in steps])
    _draw_axis(pen, columns, top, _BARS, ceiling, ("time", "per step", "(s)"))
    free_from = 0.0
    for column, record in enumerate(steps):
        x, height = columns.start(column), min(record["seconds"] / ceiling, 1) * _BARS
        # Both where only some of a step's calls replayed, e.g. for one condition of two.
        ran = record["computed_calls"] / record["calls"] if record["calls"] else float(record["computed"])
        if ran < 1 and record["partial"]:
            pen.box(x, top + _BARS - max(height, 2), columns.width, max(height, 2), PARTIAL, COMPUTED)
        elif ran < 1:
            pen.hatched(x, top + _BARS - max(height, 2), columns.width, max(height, 2))
        if ran > 0:
            pen.box(x, top + _BARS - height * ran, columns.width, height * ran, COMPUTED)
        if record["seconds"] > ceiling:
            pen.arrow(columns.middle(column), top - 7, COMPUTED)
            if columns.middle(column) >= free_from:
                beside, anchor = (7, "lm") if columns.middle(column) + 60 < columns.right else (-7, "rm")
                pen.text(
                    columns.middle(column) + beside, top - 5, human_seconds(record["seconds"]), 11.5, MUTED, anchor
                )
                free_from = columns.middle(column) + 60


def _draw_strip(pen: Pen, columns: Columns, steps: list[Record], top: float) -> None:
    """Computed or skipped, for bars too low to tell; under it step numbers and rates."""
    pen.text(MARGIN, top + 7, "step", 12, INK, "lm")
    _draw_cells(pen, columns, "".join(_letter(record) for record in steps), top)
    for column in columns.ticks():
        number = steps[column]["step"] if column < len(steps) else column
        pen.text(columns.middle(column), top + 25, str(number + 1), 11.5, MUTED, "mm")
    pen.text(MARGIN, top + 43, "rate", 12, INK, "lm")
    free_from = 0.0
    for column, record in enumerate(steps):
        if record["rate"] and columns.middle(column) >= free_from:
            pen.text(columns.middle(column), top + 43, str(record["rate"]), 11.5, INK, "mm")
            free_from = columns.middle(column) + 17


def _letter(record: Record) -> str:
    return "c" if record["computed"] else "p" if record["partial"] else "s"


def _draw_cells(pen: Pen, columns: Columns, letters: str, top: float) -> None:
    for column, letter in enumerate(letters.ljust(columns.count, "-")):
        x = columns.start(column)
        if letter == "s":
            pen.hatched(x, top, columns.width, 13)
        elif letter == "p":
            pen.box(x, top, columns.width, 13, PARTIAL, COMPUTED)
        else:
            pen.box(x, top, columns.width, 13, COMPUTED if letter == "c" else FAINT)


def _draw_conditions(pen: Pen, columns: Columns, lanes: list[tuple[str, str]], top: float) -> None:
    """Where conditions differ, a row for each, or for those that do alike."""
    shown = lanes[:_MOST_ROWS]
    name = ["conditions", f"({len(shown)} of {len(lanes)})"] if len(shown) < len(lanes) else ["conditions"]
    for row, text in enumerate(name):
        pen.text(MARGIN, top + 7 + 15 * row, text, 12, INK, "lm")
    for row, (conditions, letters) in enumerate(shown):
        pen.text(columns.left - 8, top + row * _ROW + 7, conditions, 11.5, MUTED, "rm")
        _draw_cells(pen, columns, letters, top + row * _ROW)


def _draw_distance(pen: Pen, columns: Columns, run: Record, top: float) -> None:
    bounds = rate_bounds(run["settings"]["codebook"])
    points = [(c, r) for c, r in enumerate(run["steps"]) if r["distance"] is not None]
    applied = [r["distance"] if r["regularized_distance"] is None else r["regularized_distance"] for _, r in points]
    ceiling = scale_top(applied, bounds[-1][0] * 1.15 if bounds else 0.0)
    _draw_axis(pen, columns, top, _LANE, ceiling, ("distance", "per step"))

    def place(column: int, value: float) -> tuple[float, float]:
        return columns.middle(column), top + _LANE * (1 - min(value / ceiling, 1))

    _draw_bounds(pen, columns, bounds, ceiling, top)
    pen.line([place(column, value) for (column, _), value in zip(points, applied, strict=True)], INK, 1.5)
    for (column, record), value in zip(points, applied, strict=True):
        if record["regularized_distance"] not in (None, record["distance"]):
            pen.dot(*place(column, record["distance"]), 2.8, MUTED, hollow=True)
        if value > ceiling:
            pen.arrow(columns.middle(column), top - 6, INK)
        else:
            pen.dot(*place(column, value), 3.2, INK)


def _draw_bounds(pen: Pen, columns: Columns, bounds: list[tuple[float, int]], ceiling: float, top: float) -> None:
    label = float("inf")
    for bound, rate in bounds:
        y = top + _LANE * (1 - bound / ceiling)
        pen.dotted(columns.left, y, columns.right, SKIPPED)
        label = min(y, label - 13)  # labels of lines that lie close together are moved up
        if label >= top - 6:
            pen.text(columns.right + 10, label, f"below {bound:.3g}: rate {rate}", 11.5, MUTED, "lm")


def _draw_motion(pen: Pen, columns: Columns, steps: list[Record], top: float) -> None:
    """Score plus size of the gradient: what MoReg multiplies the distance by."""
    measured = [(c, r["motion_score"], abs(r["motion_gradient"] or 0.0)) for c, r in enumerate(steps)
                if r["motion_score"] is not None]  # fmt: skip
    ceiling = scale_top((score + gradient for _, score, gradient in measured), 1.0)
    _draw_axis(pen, columns, top, _LANE, ceiling, ("motion", "factor"))
    unchanged = top + _LANE * (1 - 1 / ceiling)
    pen.dotted(columns.left, unchanged, columns.right, SCORE)
    pen.text(columns.right + 10, unchanged, "1: no change", 11.5, MUTED, "lm")
    for column, score, gradient in measured:
        x, low, high = columns.start(column), min(score / ceiling, 1), min((score + gradient) / ceiling, 1)
        pen.box(x, top + _LANE * (1 - high), columns.width, _LANE * (high - low), GRADIENT, SCORE)
        pen.box(x, top + _LANE * (1 - low), columns.width, _LANE * low, SCORE)
        if score + gradient > ceiling:
            pen.arrow(columns.middle(column), top - 6, SCORE)
