"""Draws docs/models.jpg: what the models of the benchmarks make, first and last frame of their first test videos.

python -m benchmarks.models      # two minutes
"""

from __future__ import annotations

import torch
from PIL import Image

from .bench import MODELS, PAIRS, UNCACHED, runner_of, videos_of
from .readme import ROOT
from .settings import MAIN

PICTURE = ROOT / "docs" / "models.jpg"
VIDEOS, SIDE, GAP = 8, 112, 4


def draw() -> None:
    """Write the picture: two rows a model, a column a video."""
    models = [name for name in MODELS if name not in PAIRS]
    height = len(models) * (2 * SIDE + GAP) - GAP
    sheet = Image.new("RGB", (VIDEOS * (SIDE + GAP) - GAP, height), "white")
    for row, name in enumerate(models):
        runner = runner_of(name)
        for column, (scene, seed) in enumerate(videos_of(name, "test", VIDEOS)):
            frames = runner.decode(runner.sample(scene, seed, MAIN[0], UNCACHED).latent)[0]
            for half, frame in enumerate((frames[0], frames[-1])):
                place = column * (SIDE + GAP), row * (2 * SIDE + GAP) + half * SIDE
                sheet.paste(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
    sheet.save(PICTURE, quality=85, optimize=True)


if __name__ == "__main__":
    with torch.inference_mode():
        draw()
