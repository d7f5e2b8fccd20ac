"""Draws lines, boxes and text with Pillow, in the colours of the inspector's chart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH = 1024
# Okabe and Ito's colours, which the colour-blind tell apart; blue is also darker than orange, and orange dark enough
# for edges on white. web/adacache.css has them too.
COMPUTED, SKIPPED, SKIPPED_FILL, SCORE, GRADIENT = "#0072B2", "#B87A00", "#FBE3B0", "#009E73", "#A6DCCB"
PARTIAL = "#A9CFE6"  # with an edge of a computed step's colour
INK, MUTED, RULE, FAINT, PAPER, CARD = "#1D2530", "#5B6675", "#D9DEE5", "#F0F2F5", "#FFFFFF", "#F5F7F9"

# Drawn at twice the size and scaled down, which smooths lines and text alike.
_SCALE = 2


class Pen:
    """Draws in pixels of the final image."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH * _SCALE, height * _SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def box(self, x: float, y: float, w: float, h: float, fill: str | None, edge: str | None = None) -> None:
        corners = [round(x * _SCALE), round(y * _SCALE), round((x + w) * _SCALE) - 1, round((y + h) * _SCALE) - 1]
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            self._draw.rectangle(corners, fill=fill, outline=edge, width=_SCALE)

    def card(self, x: float, y: float, w: float, h: float) -> None:
        corners = [x * _SCALE, y * _SCALE, (x + w) * _SCALE, (y + h) * _SCALE]
        self._draw.rounded_rectangle(corners, radius=8 * _SCALE, fill=CARD)

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=color, width=round(width * _SCALE), joint="curve")

    def dotted(self, x: float, y: float, to: float, color: str) -> None:
        for start in np.arange(x, to, 6):
            self.line([(start, y), (min(start + 2.5, to), y)], color)

    def dot(self, x: float, y: float, radius: float, color: str, hollow: bool = False) -> None:
        corners = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(corners, fill=PAPER if hollow else color, outline=color, width=round(1.5 * _SCALE))

    def arrow(self, x: float, y: float, color: str) -> None:
        """A small triangle that points up: the value lies above the axis."""
        corners = [(x - 4, y + 6), (x + 4, y + 6), (x, y)]
        self._draw.polygon([(a * _SCALE, b * _SCALE) for a, b in corners], fill=color)

    def hatched(self, x: float, y: float, w: float, h: float) -> None:
        """A skipped step: orange edge, light fill, diagonal strokes where there is room for them."""
        self.box(x, y, w, h, SKIPPED_FILL, SKIPPED)
        for shift in np.arange(5, w + h, 5):
            start, end = (x + max(shift - h, 0), y + min(shift, h)), (x + min(shift, w), y + max(shift - w, 0))
            self.line([start, end], SKIPPED)

    def text(self, x: float, y: float, text: str, size: float, color: str, anchor: str = "la") -> None:
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=color, font=_font(size), anchor=anchor)

    def tensor(self) -> Tensor:
        small = self.image.resize((WIDTH, self.image.height // _SCALE), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]


def text_width(text: str, size: float) -> float:
    """Pixels of the final image that a text takes."""
    return _font(size).getlength(text) / _SCALE


@cache
def _font(size: float) -> Any:
    """Pillow's own typeface, for text of this size in pixels of the final image."""
    return ImageFont.load_default(size=size * _SCALE)
