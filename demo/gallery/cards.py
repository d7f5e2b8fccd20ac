"""The pictures of the template browser: a drawn card per graph. No model has made a video for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from demo.gallery.notes import planned_parts
from demo.gallery.parts import Recipe

SIZE, MARGIN = 480, 36
SCALE = 2  # drawn at twice the size and scaled down, which smooths lines and text
# The colours of the inspector's chart.
COMPUTED, SKIPPED, SKIPPED_FILL = "#0072B2", "#E69F00", "#FBE3B0"
INK, MUTED, RULE, PAPER = "#1D2530", "#5B6675", "#D9DEE5", "#FFFFFF"

Rows = Sequence[Sequence[bool]]


def draw_card(recipe: Recipe) -> Image.Image:
    """480 x 480: the model's name, what it does, and the steps that are computed."""
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), PAPER)
    pen = ImageDraw.Draw(image)
    _text(pen, MARGIN, 40, "AdaCache", 22, COMPUTED)
    _text(pen, MARGIN, 74, recipe.title, 46 if len(recipe.title) < 16 else 40, INK)
    _text(pen, MARGIN, 134, recipe.task, 26, MUTED)
    rows = rows_of(recipe)
    if rows:
        _draw_rows(pen, rows, top=200, height=160)
    else:
        _draw_window(pen, top=250, height=60)
    steps = [step for row in rows for step in row]
    _rectangle(pen, MARGIN, 396, SIZE - MARGIN, 398, RULE)
    _text(pen, MARGIN, 412, recipe.caption or f"computes {sum(steps)} of {len(steps)} steps", 24, INK)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def rows_of(recipe: Recipe) -> Rows:
    """Which steps are computed, a row for each part of each run that is drawn."""
    rows = []
    for preset in recipe.drawn:
        parts = planned_parts(preset, recipe.steps) if preset else map(range, recipe.steps)
        rows += [[step in part for step in range(steps)] for part, steps in zip(parts, recipe.steps, strict=True)]
    return rows


def _draw_rows(pen: ImageDraw.ImageDraw, rows: Rows, top: float, height: float) -> None:
    """A column per step, high and blue if it is computed, low and orange if not."""
    gap = 24 if len(rows) < 3 else 6
    high = (height - gap * (len(rows) - 1)) / len(rows)
    for number, row in enumerate(rows):
        base, width = top + number * (high + gap) + high, (SIZE - 2 * MARGIN) / len(row)
        for step, computed in enumerate(row):
            left, right = MARGIN + step * width, MARGIN + (step + 1) * width - max(1.5, width / 5)
            if computed:
                _rectangle(pen, left, base - high, right, base, COMPUTED)
            else:
                _rectangle(pen, left, base - high / 4, right, base, SKIPPED_FILL)
                _rectangle(pen, left, base - high / 4, right, base - high / 4 + min(4, high / 8), SKIPPED)


def _draw_window(pen: ImageDraw.ImageDraw, top: float, height: float) -> None:
    """A long video of which the last frames are kept."""
    frames, kept = 30, 3
    width = (SIZE - 2 * MARGIN) / frames
    for frame in range(frames):
        left, last = MARGIN + frame * width, frame >= frames - kept
        _rectangle(pen, left, top, left + width * 0.8, top + height, COMPUTED if last else SKIPPED_FILL)


def _rectangle(pen: ImageDraw.ImageDraw, left: float, top: float, right: float, bottom: float, color: str) -> None:
    pen.rectangle([round(value * SCALE) for value in (left, top, right, bottom)], fill=color)


def _text(pen: ImageDraw.ImageDraw, x: float, y: float, words: str, size: float, color: str) -> None:
    pen.text((x * SCALE, y * SCALE), words, color, _font(size * SCALE))


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # Pillow's own, the same on every machine
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
