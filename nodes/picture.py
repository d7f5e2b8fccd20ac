"""The inspector's chart as an image: four numbers, legend, panels and sentences."""

from __future__ import annotations

import textwrap
from typing import Any

from torch import Tensor

from ._pen import INK, MUTED, WIDTH, Pen, text_width
from .chart import make_chart
from .words import say

_MARGIN, _HEADER, _LINE, _TILE_GAP = 28, 132, 20, 12
_LETTERS = 150  # of a sentence that fit into a line
_ZOOM = 1.4  # of panels, which are laid out for a node of half the width


def draw_chart(report: dict[str, Any]) -> Tensor:
    """The chart of a report (see ``make_report``) as float ``[1, H, 1024, 3]`` in 0..1."""
    chart = make_chart(report)
    lines = [line for text in report["summary"].split("\n") for line in textwrap.wrap(text, _LETTERS)]
    heights = [panel["height"] * _ZOOM for panel in chart["panels"]]
    pen = Pen(round(_HEADER + sum(heights) + _LINE * len(lines) + _MARGIN))
    _draw_header(pen, chart)
    top = float(_HEADER)
    for line_top, line in enumerate(lines):
        pen.write(_MARGIN, top + sum(heights) + 8 + _LINE * line_top, line, 13.5, MUTED)
    for panel, height in zip(chart["panels"], heights, strict=True):
        pen.enter(panel, _MARGIN, top, WIDTH - 2 * _MARGIN, _ZOOM)
        for shape, *values in panel["marks"]:
            getattr(pen, shape)(*values)
        top += height
    return pen.tensor()


def _draw_header(pen: Pen, chart: dict[str, Any]) -> None:
    pen.write(_MARGIN, 18, "AdaCache", 19, INK)
    x = WIDTH - _MARGIN
    for kind, entry in reversed(chart["legend"]):
        label = say(entry)
        x -= text_width(label, 12.5) + 20
        pen.write(x + 20, 29, label, 12.5, MUTED, "lm")
        pen.swatch(x, 29, kind)
        x -= 18
    count = len(chart["tiles"])
    width = (WIDTH - 2 * _MARGIN - (count - 1) * _TILE_GAP) / count
    for column, (label, value) in enumerate(chart["tiles"]):
        left = _MARGIN + column * (width + _TILE_GAP)
        pen.card(left, 50, width, 66)
        shown = say(value)
        size = next((size for size in (25, 21, 17) if text_width(shown, size) < width - 24), 13)
        pen.write(left + 14, 79, shown, size, INK, "lm")
        pen.write(left + 14, 102, say(label), 12.5, MUTED, "lm")
