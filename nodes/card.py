"""The AdaCache Card node: a run's frames and chart in one picture, to share."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional

from ..adacache_core import ConfigurationError
from ._pen import INK, MUTED, WIDTH, Pen
from .picture import draw_chart
from .types import CATEGORY

_MARGIN, _HEADER, _GAP = 28, 92, 12


class AdaCacheCard(io.ComfyNode):
    """Draws the first and the last frame of each video above the chart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheCard",
            display_name="AdaCache Card",
            category=CATEGORY,
            description="One picture to share: first and last frame, with and without AdaCache, and the run's chart.",
            search_aliases=["adacache share", "adacache picture"],
            inputs=[
                io.Image.Input("images", tooltip="The frames that were sampled with AdaCache."),
                io.String.Input("report", force_input=True, tooltip="From the AdaCache Inspector."),
                io.Image.Input("reference_images", optional=True, tooltip="The same video's frames without AdaCache."),
            ],
            outputs=[io.Image.Output("card", display_name="card", tooltip="The picture, for Save Image.")],
        )

    @classmethod
    def execute(cls, images: Tensor, report: str, reference_images: Tensor | None = None) -> io.NodeOutput:
        numbers = _parse(report)
        videos = {"Without AdaCache": reference_images, "With AdaCache": images}
        shown = {label: frames for label, frames in videos.items() if frames is not None}
        return io.NodeOutput(torch.cat([_draw_frames(shown, _line(numbers, len(images))), draw_chart(numbers)], 1))


def _parse(report: str) -> dict[str, Any]:
    with suppress(ValueError):
        numbers = json.loads(report)
        if isinstance(numbers, dict) and {"runs", "preset", "speedup", "reference", "summary"} <= numbers.keys():
            return numbers
    raise ConfigurationError(
        f"AdaCache Card: report must be the JSON of an AdaCache Inspector, got {report[:40]!r}. Connect its report."
    )


def _line(report: dict[str, Any], frames: int) -> str:
    parts = [f"{report['preset']}: {report['computed_steps']} of {report['total_steps']} steps"] * bool(report["runs"])
    if report["speedup"] is not None:
        parts.append(f"{report['speedup']:.2f}x")
    if report["reference"] and (db := report["reference"]["signal_to_error_db"]) is not None:
        parts.append(f"{db:.1f} dB against the uncached run")
    return ", ".join([*parts, f"first and last of {frames} frames"] if frames > 1 else parts)


def _draw_frames(videos: dict[str, Tensor], line: str) -> Tensor:
    """A column for each video, ``[1, H, 1024, 3]``: wide frames of two videos below each other, else side by side."""
    column = (WIDTH - 2 * _MARGIN - (len(videos) - 1) * _GAP) // len(videos)
    placed = []
    for number, frames in enumerate(videos.values()):
        ends = frames[:1] if len(frames) == 1 else frames[[0, -1]]
        height, width = ends.shape[1:3]
        across = 1 if width > height and len(videos) > 1 else len(ends)
        wide = (column - (across - 1) * _GAP) // across
        size = (max(round(wide * height / width), 1), wide)
        pixels = functional.interpolate(ends[..., :3].movedim(-1, 1), size, mode="bicubic", antialias=True)
        for place, frame in enumerate(pixels.clamp(0, 1).movedim(1, -1)):
            left = _MARGIN + number * (column + _GAP) + place % across * (wide + _GAP)
            placed.append((left, _HEADER + place // across * (size[0] + _GAP), frame))
    pen = Pen(max(top + len(frame) for _, top, frame in placed) + _GAP)
    pen.write(_MARGIN, 24, line, 19, INK)
    for number, label in enumerate(videos):
        pen.write(_MARGIN + number * (column + _GAP), 66, label, 12.5, MUTED)
    card = pen.tensor()
    for left, top, frame in placed:
        card[0, top : top + len(frame), left : left + frame.shape[1]] = frame
    return card
