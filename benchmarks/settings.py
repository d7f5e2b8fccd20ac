"""What is compared: methods with their settings, ways of sampling, scenes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from demo.scenes import Scene

PRESETS = ("quality", "balanced", "fast", "paper-slow", "paper-fast")
# EasyCache's and LazyCache's reuse_threshold; the nodes' default is 0.2.
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
MOTIONS = ("still", "slow", "fast", "changing")
COLORS = ("red", "orange", "yellow", "green", "blue", "magenta")
SHAPES = ("circle", "square", "triangle")


@dataclass(frozen=True)
class Sampling:
    """How the model is sampled; what the peers are compared on is the default."""

    steps: int = 30
    sampler: str = "euler"
    shift: float = 3.0
    cfg: float = 3.0

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.sampler}, shift {self.shift:g}, cfg {self.cfg:g}"


@dataclass(frozen=True)
class Setting:
    """A method with its settings.

    Attributes:
        method: ``adacache``, or a peer.
        label: for people, unique within a method.
        options: for the runner, as pairs, so that a setting is hashable.
    """

    method: str
    label: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """The options by name."""
        return dict(self.options)


def setting(method: str, label: str, **options: Any) -> Setting:
    """A setting with options given by name."""
    return Setting(method, label, tuple(sorted(options.items())))


def scenes(count: int) -> list[tuple[Scene, int]]:
    """Prompts with their seeds: as many of each motion class, everything else in turn. Not those of the training."""
    motions, colors, shapes = (itertools.cycle(values) for values in (MOTIONS, COLORS, SHAPES))
    found = []
    for index in range(count):
        scene = Scene(
            motion=next(motions),
            camera=("static", "pan")[index // 4 % 2],
            background=("plain", "textured")[index // 8 % 2],
            objects="123"[index // 2 % 3],
            color=next(colors),
            shape=next(shapes),
        )
        if index % len(MOTIONS) == len(MOTIONS) - 1:
            next(colors)  # or else two of the six colours would never meet two of the four motions
        found.append((scene, 5_000 + index))
    return found


def equal_computes(steps: int) -> tuple[int, ...]:
    """Counts of computed steps at which schedules are compared: a half, two fifths and a third, as 15, 12, 10 of 30."""
    return tuple(round(steps * share) for share in (1 / 2, 2 / 5, 1 / 3))


def comfyui_settings(sampling: Sampling, short: bool) -> Iterator[Setting]:
    """Rows of the ComfyUI runner; the first ones are what the short form shows."""
    for preset in PRESETS:
        yield setting("adacache", preset, preset=preset)
    for threshold in THRESHOLDS:
        yield setting("lazycache", f"threshold {threshold:g}", threshold=threshold)
        yield setting("easycache", f"threshold {threshold:g}", threshold=threshold)
    for count in equal_computes(sampling.steps):
        yield setting("adacache", f"{count} computes", preset="target", computes=count)
        yield setting("fixed", f"forecast, {count} computes", replay="forecast", computes=count)
    if short:
        return
    for count in equal_computes(sampling.steps):
        yield setting("adacache", f"{count} computes, no repayment", preset="target", computes=count, repays=False)
        yield setting("adacache", f"{count} computes, output", preset="target", computes=count, storage="output")
        yield setting("adacache", f"{count} computes, hold", preset="target", computes=count, replay="hold")
        yield setting("fixed", f"hold, {count} computes", replay="hold", computes=count)
    for preset in PRESETS:
        yield setting("adacache", f"{preset}, MoReg", preset=preset, moreg=True)
    for threshold in THRESHOLDS:
        yield setting("easycache", f"threshold {threshold:g}, bf16", threshold=threshold, dtype="bfloat16")
