"""What AdaCache costs itself: memory at real sizes, computed from shapes, and seconds before the first step, measured.

python -m benchmarks.cost       # writes results/cost.json, which docs/numbers.md shows
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from adacache_core.forecast import bend_of

from . import scenes
from .bench import machine, runner_of
from .readme import RESULTS
from .settings import Sampling, setting

SAMPLERS, STEPS, REPEATS = ("euler", "res_multistep", "dpmpp_2m", "heun", "uni_pc", "er_sde"), (20, 50, 100), 5
BANDWIDTH = 1e12  # bytes a second: a usual card's; an H100's is three times that


@dataclass(frozen=True)
class Size:
    """What a model samples.

    Attributes:
        shapes: of its latents, all that are sampled together, without the batch.
        cfg: strength of guidance; above 1 two conditions are sampled.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    cfg: float

    @property
    def latent_bytes(self) -> int:
        """Of one prediction, in float32 as ComfyUI samples."""
        return 4 * sum(map(math.prod, self.shapes))

    @property
    def kept_bytes(self) -> int:
        """Of each condition and of what guidance makes of two, what a forecast needs; a correction."""
        return (self._needed * (3 if self.cfg > 1 else 1) + 1) * self.latent_bytes

    @property
    def skip_seconds(self) -> float:
        """Of a forecast of each condition: 8 latents read and written for a line, 14 with a bend, pass by pass."""
        return (2 if self.cfg > 1 else 1) * (14 if self._needed == 3 else 8) * self.latent_bytes / BANDWIDTH

    @property
    def _needed(self) -> int:
        # Of conditions that predict 1 and 0, what guidance makes is its strength.
        return 3 if bend_of(torch.tensor([self.cfg]), [torch.ones(1), torch.zeros(1)]) else 2


SIZES = (
    Size("Wan 2.2 14B, 81 frames of 1280 x 720, cfg 3.5", ((16, 21, 90, 160),), 3.5),
    Size("Wan 2.1 1.3B, 81 frames of 832 x 480, cfg 6", ((16, 21, 60, 104),), 6.0),
    Size("MiniMax H3, 124 frames of 864 x 480 with sound", ((24, 37, 30, 54), (32, 2, 130)), 1.0),
    Size("LTX-2, 121 frames of 960 x 544 with sound, cfg 4", ((128, 16, 17, 30), (8, 126, 16)), 4.0),
    Size("Qwen-Image, 1328 x 1328, cfg 4", ((16, 1, 166, 166),), 4.0),
)


@contextmanager
def timed(owner: Any, name: str) -> Iterator[list[float]]:
    """Seconds of every call of a function."""
    seconds: list[float] = []
    original: Callable[..., Any] = getattr(owner, name)

    def timing(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - started)

    with patch.object(owner, name, timing):
        yield seconds


def main() -> None:
    torch.set_num_threads(1)
    runner = runner_of("adacache_narrow_dit")
    from adacache.adacache_core import PlannedRun
    from adacache.nodes import predictions

    (scene, seed), balanced = scenes.development(1)[0], setting("adacache", "balanced", preset="balanced")
    rows = []
    for sampler in SAMPLERS:
        for steps in STEPS:
            with timed(predictions, "ask") as asking, timed(PlannedRun, "_make_plan") as planning:
                for _ in range(REPEATS):
                    runner.sample(scene, seed, Sampling(steps, sampler, 5.0, 1.0), balanced)
            middle = {"ask": statistics.median(asking), "plan": statistics.median(planning)}
            rows.append({"sampler": sampler, "steps": steps, **middle})
            print(rows[-1], flush=True)
    sizes = [
        {"name": size.name, "latent": size.latent_bytes, "kept": size.kept_bytes, "skip": size.skip_seconds}
        for size in SIZES
    ]
    found = {"machine": machine(), "seconds": rows, "sizes": sizes}
    (RESULTS / "cost.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
