"""Noise levels for plain samplers, placed for each model as GITS does it (Chen et al., 2024, arXiv 2405.11326).

    python -m benchmarks.levels      # ten minutes

On development videos the way of a fine Euler run is recorded. What one step from any of its places to any other errs by
can be looked up there, so dynamic programming finds the places for so many steps that err the least in all. Written to
results/levels.json, which the bench's scheduler ``gits`` reads.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import scenes
from .bench import MODELS, PAIRS, REAL, UNCACHED, runner_of, videos_of
from .comfyui_runner import LEVELS, ComfyUIRunner
from .settings import EVALUATIONS, GUIDED, MAIN, Sampling, setting

FINE, VIDEOS = 80, 4
# What is still ahead counts so many fold at every step. Of 0.65 to 1.15 the best with IPNDM at 6 to 14 steps, on
# development videos of the demo model; at 8 and 10, 0.8 is 1.5 and 1.8 dB behind, 0.9 is 1.1 and 0.2.
AHEAD = 0.85
Way = list[tuple[float, Tensor, Tensor]]  # noise level, state and slope of every place


def trace(runner: ComfyUIRunner, video: scenes.Video, sampling: Sampling) -> Way:
    """The way that Euler goes, its end with a slope of 0."""
    from comfy.samplers import KSAMPLER

    way: Way = []

    def euler(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        for sigma, following in pairwise(sigmas):
            slope = (x - model(x, sigma * x.new_ones(len(x)), **extra_args)) / sigma
            way.append((float(sigma), x, slope))
            x = x + (following - sigma) * slope
        way.append((0.0, x, torch.zeros_like(x)))
        return x

    runner.sample(*video, sampling, setting(UNCACHED.method, "traced", solver=KSAMPLER(euler)))
    return way


def costs(way: Way) -> Tensor:
    """How far one Euler step from any place leads astray of any later one, ``[N, N]``, infinite backwards."""
    levels = torch.tensor([level for level, _, _ in way])
    x, slopes = (torch.cat([place[part] for place in way]).flatten(1) for part in (1, 2))
    errors = torch.full((len(way), len(way)), torch.inf, dtype=torch.float64)
    for start in range(len(way) - 1):
        reached = x[start] + (levels[start + 1 :] - levels[start]).unsqueeze(1) * slopes[start]
        errors[start, start + 1 :] = (reached - x[start + 1 :]).norm(dim=1)
    return errors


def placed(errors: Tensor, steps: int, ahead: float = AHEAD) -> list[int]:
    """The places, first and last among them, whose ``steps`` steps err the least in all."""
    best, choices = errors[:, -1], []
    for _ in range(steps - 1):
        best, chosen = (errors[:, :-1] + ahead * best[:-1]).min(dim=1)
        choices.append(chosen)
    places = [0]
    for chosen in reversed(choices):
        places.append(int(chosen[places[-1]]))
    return [*places, len(errors) - 1]


def main() -> None:
    """All models, at the guidance that the bench looks at."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for name in MODELS:
        if name in PAIRS:
            continue
        runner, videos, found[name] = runner_of(name), videos_of(name, "dev", VIDEOS), {}
        if name == REAL:  # all of its videos are for the tests: here with other noise
            videos = [(scene, seed + 5_000) for scene, seed in videos]
        for cfg in (MAIN[0].cfg, GUIDED.cfg):
            ways = [trace(runner, video, Sampling(FINE, "euler", MAIN[0].shift, cfg)) for video in videos]
            errors = torch.stack([costs(way) for way in ways]).mean(dim=0)
            levels = [level for level, _, _ in ways[0]]
            found[name][f"cfg {cfg:g}"] = {
                steps: [round(levels[place], 6) for place in placed(errors, steps)] for steps in EVALUATIONS
            }
            print(name, cfg, found[name][f"cfg {cfg:g}"][10], flush=True)
    LEVELS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
