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
PLAIN = ((0.10, 0.12, 0.18), (0.88, 0.88, 0.84))
TEXTURES = (((0.12, 0.14, 0.22), (0.30, 0.34, 0.44)), ((0.92, 0.91, 0.86), (0.68, 0.70, 0.72)))
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
        seed: everything that the attributes leave open (places, directions, which texture).
        frames: length of the clip.

    Returns:
        [frames, 128, 128, 3], float32, 0..1.
    """
    rng = random.Random(f"{scene} {seed}")
    shift = _pan(scene, rng, frames)
    clip = _background(scene, rng, shift)
    colors = ATTRIBUTES["color"]
    first = colors.index(scene.color)
    # Drawn last to first, so that the main object is in front. The others take the next colours of the wheel.
    objects = [(_radius(rng, i), RGB[colors[(first + 2 * i) % len(colors)]]) for i in range(int(scene.objects))]
    for radius, color in reversed(objects):
        path = _path(scene, rng, radius, frames)
        coverage = (0.5 - _distance(scene.shape, path - shift, radius)).clamp(0, 1)[..., None]
        clip = clip + coverage * (torch.tensor(color) - clip)
    return clip


def _radius(rng: random.Random, index: int) -> float:
    return rng.uniform(20, 26) if index == 0 else rng.uniform(14, 18)


def _pan(scene: Scene, rng: random.Random, frames: int) -> torch.Tensor:
    """[frames, 2]: how far (x, y) the camera has gone."""
    velocity = rng.choice((-PAN, PAN)) if scene.camera == "pan" else 0.0
    return torch.arange(frames)[:, None] * torch.tensor([velocity, 0.0])


def _progress(motion: str, rng: random.Random, frames: int) -> torch.Tensor:
    """[frames]: distance gone along the path, in pixels. `changing` sets off late, brakes, or turns back."""
    t = torch.arange(frames, dtype=torch.float32)
    if motion == "still":
        return t * 0
    if motion in ("slow", "fast"):
        return t * (SLOW if motion == "slow" else FAST)
    change = frames * rng.uniform(0.35, 0.65)
    late = FAST * (t - change).clamp(min=0)
    return rng.choice((late, FAST * t.clamp(max=change), FAST * t - 2 * late))


def _path(scene: Scene, rng: random.Random, radius: float, frames: int) -> torch.Tensor:
    """[frames, 2]: the centre of an object. It bounces off the borders of the world."""
    angle = rng.uniform(0, 2 * math.pi)
    direction = torch.tensor([math.cos(angle), math.sin(angle)])
    room = torch.tensor([WIDTH, HEIGHT]) - 2 * radius
    start = torch.tensor([rng.random(), rng.random()]) * room
    unfolded = start + _progress(scene.motion, rng, frames)[:, None] * direction
    return radius + room - (unfolded.remainder(2 * room) - room).abs()


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
    """[frames, 128, 128, 3]: one colour, or soft stripes, checks or blobs that move with the camera."""
    if scene.background == "plain":
        return torch.tensor(rng.choice(PLAIN)).expand(len(shift), HEIGHT, WIDTH, 3)
    low, high = (torch.tensor(color) for color in rng.choice(TEXTURES))
    phase = [rng.uniform(0, 2 * math.pi) for _ in range(2)]
    # Whole waves per width, so that the texture wraps around without a seam.
    x = 2 * math.pi / WIDTH * (torch.arange(WIDTH) + shift[:, :1])[:, None, :]
    y = 2 * math.pi / HEIGHT * torch.arange(HEIGHT)[None, :, None]
    stripes = torch.sin(3 * x + 2 * y + phase[0])
    checks = 1.5 * torch.sin(3 * x + phase[0]) * torch.sin(3 * y + phase[1])
    blobs = 0.6 * (torch.sin(2 * x + phase[0]) + torch.sin(2 * y + phase[1]) + torch.sin(x - 2 * y + phase[1]))
    mix = (0.5 + 0.5 * rng.choice((stripes, checks, blobs))).clamp(0, 1)[..., None]
    return low + mix * (high - low)
