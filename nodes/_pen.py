"""Draws the marks of the inspector's chart with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .words import Entry, say

WIDTH = 1024
# Okabe and Ito's colours, which the colour-blind tell apart; blue is also darker than orange, and orange dark enough
# for edges on white. web/adacache.css has them too.
COMPUTED, SKIPPED, SKIPPED_FILL, SCORE, GRADIENT = "#0072B2", "#B87A00", "#FBE3B0", "#009E73", "#A6DCCB"
PARTIAL = "#A9CFE6"  # with an edge of a computed step's colour
INK, MUTED, RULE, FAINT, PAPER, CARD = "#1D2530", "#5B6675", "#D9DEE5", "#F0F2F5", "#FFFFFF", "#F5F7F9"

# Fill and edge of a kind of mark; of several kinds the last one counts.
_BOXES: dict[str, tuple[str, str | None]] = {
    "computed": (COMPUTED, None),
    "skipped": (SKIPPED_FILL, SKIPPED),
    "partial": (PARTIAL, COMPUTED),
    "planned": (PAPER, COMPUTED),
    "pending": (FAINT, None),
    "score": (SCORE, None),
    "gradient": (GRADIENT, SCORE),
}
_LINES = {"axis": RULE, "grid": FAINT, "bound": SKIPPED, "unchanged": SCORE}
_DOTS = {"computed": COMPUTED, "score": SCORE, "plain": MUTED}
_TEXTS = {"title": (12, INK), "caption": (11, INK), "tick strong": (10, INK), "tick": (10, MUTED)}
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # of Pillow, on the baseline

# Drawn at twice the size and scaled down, which smooths lines and text alike.
_SCALE = 2


class Pen:
    """Draws in pixels of the final image, or in those of a panel that lies in it, see ``enter``."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH * _SCALE, height * _SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._left, self._top, self._zoom = 0.0, 0.0, 1.0
        self._columns, self._pitch = 0, 1.0

    def enter(self, panel: dict[str, Any], left: float, top: float, width: float, zoom: float) -> None:
        """From now on marks are those of a panel, enlarged, and columns share what its margins leave of the width."""
        plot = width - zoom * (panel["left"] + panel["right"])
        self._left, self._top, self._zoom = left + zoom * panel["left"], top, zoom
        self._columns, self._pitch = panel["columns"], plot / panel["columns"]

    def bar(self, column: int, y: float, height: float, kind: str) -> None:
        fill, edge = _BOXES[kind.split()[-1]]
        thick = max(self._pitch - max(1.0, min(4.0, self._pitch * 0.2)), 1.0)
        x, y = self._at(column + 0.5, y)
        self.box(x - thick / 2, y, thick, height * self._zoom, fill, edge, hatched=kind.endswith("skipped"))

    def rule(self, y: float, kind: str) -> None:
        (x, y), (to, _) = self._at(0, y), self._at(self._columns, y)
        if kind in ("axis", "grid"):
            self._line([(x, y), (to, y)], _LINES[kind])
        else:
            for start in np.arange(x, to, 6):
                self._line([(start, y), (min(start + 2.5, to), y)], _LINES[kind])

    def curve(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        self._line([self._at(*point) for point in points], INK, 1.5)

    def dot(self, x: float, y: float, kind: str) -> None:
        x, y = self._at(x, y)
        color = _DOTS.get(kind, INK)
        corners = [(x - 3) * _SCALE, (y - 3) * _SCALE, (x + 3) * _SCALE, (y + 3) * _SCALE]
        self._draw.ellipse(corners, PAPER if kind == "plain" else color, color, round(1.5 * _SCALE))

    def arrow(self, x: float, y: float, kind: str) -> None:
        x, y = self._at(x, y)
        corners = [(x - 4, y + 6), (x + 4, y + 6), (x, y)]
        self._draw.polygon([(a * _SCALE, b * _SCALE) for a, b in corners], fill=_DOTS.get(kind, INK))

    def text(self, x: float, shift: float, y: float, text: Entry | str, kind: str, anchor: str) -> None:
        x, y = self._at(x, y)
        size, color = _TEXTS[kind]
        self.write(x + shift * self._zoom, y, say(text), size * self._zoom, color, _ANCHORS[anchor])

    def swatch(self, x: float, y: float, kind: str) -> None:
        """What stands for a kind of mark in the legend, 14 wide, with its middle at this height."""
        if kind in _BOXES:
            self.box(x, y - 6, 13, 13, *_BOXES[kind], hatched=kind == "skipped")
        elif kind in _LINES:
            self._line([(x, y), (x + 5, y)], _LINES[kind])
            self._line([(x + 8, y), (x + 13, y)], _LINES[kind])
        else:
            self.dot(x + 7, y, kind)

    def box(
        self, x: float, y: float, w: float, h: float, fill: str, edge: str | None = None, hatched: bool = False
    ) -> None:
        corners = [round(x * _SCALE), round(y * _SCALE), round((x + w) * _SCALE) - 1, round((y + h) * _SCALE) - 1]
        if corners[2] < corners[0] or corners[3] < corners[1]:
            return
        self._draw.rectangle(corners, fill=fill, outline=edge, width=_SCALE)
        for shift in np.arange(5, w + h, 5) if hatched else ():
            start, end = (x + max(shift - h, 0), y + min(shift, h)), (x + min(shift, w), y + max(shift - w, 0))
            self._line([start, end], SKIPPED)

    def card(self, x: float, y: float, w: float, h: float) -> None:
        corners = [x * _SCALE, y * _SCALE, (x + w) * _SCALE, (y + h) * _SCALE]
        self._draw.rounded_rectangle(corners, radius=8 * _SCALE, fill=CARD)

    def write(self, x: float, y: float, text: str, size: float, color: str, anchor: str = "la") -> None:
        """Text in pixels of the image; for the anchor see Pillow."""
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=color, font=_font(size), anchor=anchor)

    def tensor(self) -> Tensor:
        small = self.image.resize((WIDTH, self.image.height // _SCALE), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._left + x * self._pitch, self._top + y * self._zoom

    def _line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=color, width=round(width * _SCALE), joint="curve")


def text_width(text: str, size: float) -> float:
    """Pixels of the final image that a text takes."""
    return _font(size).getlength(text) / _SCALE


@cache
def _font(size: float) -> Any:
    """Pillow's own typeface, for text of this size in pixels of the final image."""
    return ImageFont.load_default(size=size * _SCALE)
