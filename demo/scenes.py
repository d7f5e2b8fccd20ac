"""Procedural videos for the demo model: a few large, flat shapes that move as the attributes say.

Drawn with PyTorch from signed distances, so edges are anti-aliased, and from a seed, so clips repeat.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "demo_nodes"))  # not as a package: that one needs ComfyUI

from scene_embedding import ATTRIBUTES

FRAMES, HEIGHT, WIDTH = 33, 128, 128

RGB = {
    "red": (0.90, 0.16, 0.16),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.97, 0.90, 0.22),
    "green": (0.18, 0.76, 0.30),
    "blue": (0.20, 0.42, 0.95),
    "magenta": (0.86, 0.28, 0.84),
}
DARK, LIGHT = (0.10, 0.12, 0.18), (0.34, 0.38, 0.48)
LANES = (64, 22, 106)  # height at which each object moves, so that they never hide each other
SLOW, FAST, PAN = 1.0, 3.5, 1.5  # pixels per frame


@dataclass(frozen=True)
class Scene:
    """What a prompt says about a clip: of each attribute one of the values that `ATTRIBUTES` lists."""

    motion: str = "slow"
    camera: str = "static"
    background: str = "plain"
    objects: str = "1"
    color: str = "red"
    shape: str = "circle"


def sample_scene(rng: random.Random) -> Scene:
    """A scene with every attribute drawn uniformly."""
    return Scene(**{name: rng.choice(values) for name, values in ATTRIBUTES.items()})


def render(scene: Scene, seed: int, frames: int = FRAMES) -> torch.Tensor:
    """Draws a clip.

    Parameters:
        scene: the attributes.
        seed: everything that the attributes leave open (exact places and sizes, directions, which change of motion).
        frames: length of the clip.

    Returns:
        [frames, 128, 128, 3], float32, 0..1.
    """
    rng = random.Random(f"{scene} {seed}")
    shift = _pan(scene, frames)
    clip = _background(scene, rng, shift)
    colors = ATTRIBUTES["color"]
    first = colors.index(scene.color)
    for lane in range(int(scene.objects)):
        radius = rng.uniform(21, 24) if lane == 0 else rng.uniform(14, 16)
        path = _path(scene, rng, radius, lane, frames)
        coverage = (0.5 - _distance(scene.shape, path - shift, radius)).clamp(0, 1)[..., None]
        # The main object has the colour asked for, the others the next ones on the wheel.
        clip = clip + coverage * (torch.tensor(RGB[colors[(first + 2 * lane) % len(colors)]]) - clip)
    return clip


def _pan(scene: Scene, frames: int) -> torch.Tensor:
    """[frames, 2]: how far (x, y) the camera has gone."""
    velocity = PAN if scene.camera == "pan" else 0.0
    return torch.arange(frames)[:, None] * torch.tensor([velocity, 0.0])


def _progress(motion: str, rng: random.Random, frames: int) -> torch.Tensor:
    """[frames]: distance gone along the path, in pixels. `changing` sets off late or turns back."""
    t = torch.arange(frames, dtype=torch.float32)
    if motion == "still":
        return t * 0
    if motion in ("slow", "fast"):
        return t * (SLOW if motion == "slow" else FAST)
    late = FAST * (t - frames / 2).clamp(min=0)
    return rng.choice((late, FAST * t - 2 * late))


def _path(scene: Scene, rng: random.Random, radius: float, lane: int, frames: int) -> torch.Tensor:
    """[frames, 2]: the centre of an object. It starts about the middle, goes left or right, bounces off the borders."""
    room = WIDTH - 2 * radius
    gone = rng.choice((-1, 1)) * _progress(scene.motion, rng, frames)
    unfolded = WIDTH / 2 + rng.uniform(-8, 8) - radius + gone
    x = radius + room - (unfolded.remainder(2 * room) - room).abs()
    return torch.stack([x, torch.full_like(x, LANES[lane] + rng.uniform(-4, 4))], dim=1)


def _distance(shape: str, center: torch.Tensor, radius: float) -> torch.Tensor:
    """[frames, 128, 128]: signed distance to the outline in pixels, on a world that wraps around."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    x = (x - center[:, 0, None, None] + WIDTH / 2).remainder(WIDTH) - WIDTH / 2
    y = (y - center[:, 1, None, None] + HEIGHT / 2).remainder(HEIGHT) - HEIGHT / 2
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.88 * radius
    # An upright triangle: below two slanted edges and above the base.
    sides = x.abs() * math.cos(math.pi / 6) - (y + radius) * math.sin(math.pi / 6)
    return torch.maximum(sides, y - 0.75 * radius)


def _background(scene: Scene, rng: random.Random, shift: torch.Tensor) -> torch.Tensor:
    """[frames, 128, 128, 3]: one colour, or soft stripes that move with the camera."""
    dark, light = torch.tensor(DARK), torch.tensor(LIGHT)
    if scene.background == "plain":
        return dark.expand(len(shift), HEIGHT, WIDTH, 3)
    # Whole waves per width, so that the texture wraps around without a seam.
    x = 2 * math.pi / WIDTH * (torch.arange(WIDTH) + shift[:, :1])[:, None, :]
    y = 2 * math.pi / HEIGHT * torch.arange(HEIGHT)[None, :, None]
    mix = (0.5 + 0.5 * torch.sin(3 * x + 2 * y + rng.uniform(0, 2 * math.pi)))[..., None]
    return dark + mix * (light - dark)
