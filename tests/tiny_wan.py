"""A tiny Wan as the tests sample it: prompts, the AdaCache node's patch, and counts of what really ran.

ComfyUI must be importable (fixture ``pack``) by the time a function is called.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

BLOCKS = 3
WIDTH = 128
EVERY_STEP = ((1.0, 1),)
SPEEDUP = 2.3  # of the preset "balanced"


def planned(steps: int) -> int:
    """Steps that ``balanced`` computes: one in 2.3, but never fewer than five."""
    return max(round(steps / SPEEDUP), 5)


def text(seed: int, tokens: int = 6, **values: Any) -> list[list[Any]]:
    """A prompt as a CLIP node gives it."""
    return [[torch.randn(1, tokens, 4096, generator=torch.Generator().manual_seed(seed)), values]]


def noise(frames: int = 5, size: int = 8, batch: int = 1, seed: int = 1) -> Tensor:
    """Latent noise ``[batch, 16, frames, size, size]``."""
    return torch.randn(batch, 16, frames, size, size, generator=torch.Generator().manual_seed(seed))


def bind(
    model: Any,
    preset: str = "balanced",
    entries: Sequence[tuple[float, int]] | None = None,
    replay: str = "auto",
    start: float = 0.0,
    end: float = 1.0,
    motion: Any = None,
    **choices: Any,
) -> tuple[Any, Any]:
    """Patch a model as the AdaCache node does; gives the patched model and its statistics log."""
    from adacache.adacache_core import Codebook
    from adacache.nodes._binding import CacheSettings
    from adacache.nodes._binding import bind as bind_settings

    codebook = Codebook(tuple(entries)) if entries else None
    return bind_settings(model, CacheSettings(preset, codebook, replay, start, end, motion, **choices))


def bind_every_step(model: Any) -> tuple[Any, Any]:
    """Patch a model so that every step is computed."""
    return bind(model, "custom", EVERY_STEP)


def sample(
    model: Any,
    *,
    sampler: str = "euler",
    scheduler: str = "simple",
    steps: int = 10,
    cfg: float = 3.0,
    seed: int = 1,
    frames: int = 5,
    size: int = 8,
    batch: int = 1,
    positive: list[Any] | None = None,
    negative: list[Any] | None = None,
    **arguments: Any,
) -> Tensor:
    """``comfy.sample.sample`` from noise."""
    import comfy.sample

    start = arguments.pop("noise", None)
    if start is None:
        start = noise(frames, size, batch, seed)
    return comfy.sample.sample(
        model,
        start,
        steps,
        cfg,
        sampler,
        scheduler,
        text(7) if positive is None else positive,
        text(8) if negative is None else negative,
        torch.zeros_like(start),
        disable_pbar=True,
        seed=seed,
        **arguments,
    )


def run_guider(guider: Any, sigmas: Tensor, sampler: str = "euler", frames: int = 5) -> Tensor:
    """What SamplerCustomAdvanced makes of an empty latent."""
    from comfy_extras.nodes_custom_sampler import KSamplerSelect, RandomNoise, SamplerCustomAdvanced

    latent = {"samples": torch.zeros(1, 16, frames, 8, 8)}
    made = SamplerCustomAdvanced.execute(
        RandomNoise.execute(1).args[0], guider, KSamplerSelect.execute(sampler).args[0], sigmas, latent
    )
    samples: Tensor = made.args[0]["samples"]
    return samples


def runs(log: Any) -> list[Any]:
    """Statistics of all sampling runs, oldest first."""
    return [run.statistics for run in log.of_prompt(None)]


def only_run(log: Any) -> Any:
    """Statistics of the one sampling run."""
    [run] = runs(log)
    return run


def decisions(run: Any) -> list[bool]:
    """Per step, whether it computed."""
    return [record.computed for record in run.steps]


@dataclass
class Ran:
    """What ran since: calls of the diffusion model with the number of conditions in each, and calls of its blocks."""

    conditions: list[int] = field(default_factory=list)
    blocks: int = 0

    @property
    def calls(self) -> int:
        return len(self.conditions)


@contextmanager
def counting(batch: int = 1) -> Iterator[Ran]:
    """Count calls of Wan and of its blocks in their classes, where a shadowed ``forward`` of an instance shows not."""
    from comfy.ldm.wan.model import WanAttentionBlock, WanModel

    ran = Ran()
    of_model, of_block = WanModel.forward, WanAttentionBlock.forward

    def model_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        ran.conditions.append(x.shape[0] // batch)
        return of_model(self, x, *args, **kwargs)

    def block_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.blocks += 1
        return of_block(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WanModel, "forward", model_forward)
        patch.setattr(WanAttentionBlock, "forward", block_forward)
        yield ran


def residual_bytes(conditions: int, computes: int = 2, frames: int = 5, size: int = 8, itemsize: int = 4) -> int:
    """Bytes of residuals: one per condition and compute that is looked back on, a token per 2 x 2 of latent."""
    return conditions * computes * frames * (size // 2) ** 2 * WIDTH * itemsize


@contextmanager
def watching() -> Iterator[dict[Any, tuple[Any, ...]]]:
    """Check at every cached model call that a key stands for one condition only: never another one's residual.

    Gives, per key, what the condition was: its prompt and image, frames of the context window, latent shape, replaced
    blocks, and the strengths of the hooks that the weights were patched with.
    """
    from adacache.adacache_core import CacheRun
    from comfy.model_base import BaseModel

    seen: dict[Any, tuple[Any, ...]] = {}
    current = threading.local()
    apply_model, call = BaseModel.apply_model, CacheRun.call

    def watched_apply_model(self: Any, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
        options = kwargs["transformer_options"]
        count = len(options["uuids"])
        window = options.get("context_window")
        hooks = self.current_patcher.current_hooks
        shared = (
            None if window is None else tuple(window.index_list),
            (x.shape[0] // count, *x.shape[1:]),
            tuple(sorted(options.get("patches_replace", {}).get("dit", {}))),
            () if hooks is None else tuple(hook.strength for hook in hooks.hooks),
        )
        prompts = [float(prompt.double().sum()) for prompt in kwargs["c_crossattn"].chunk(count)]
        image = kwargs.get("c_concat")
        images = [None] * count if image is None else [float(part.double().sum()) for part in image.chunk(count)]
        current.conditions = [(*both, *shared) for both in zip(prompts, images, strict=True)]
        return apply_model(self, x, t, **kwargs)

    def watched_call(self: Any, model: Any, layout: Any, sigma: float, keys: Any, *args: Any, **kwargs: Any) -> Any:
        for key, condition in zip(keys, current.conditions, strict=True):
            assert seen.setdefault(key, condition) == condition, f"{key} stands for two conditions"
        assert len(set(keys)) == len(keys)
        return call(self, model, layout, sigma, keys, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "apply_model", watched_apply_model)
        patch.setattr(CacheRun, "call", watched_call)
        yield seen


def shadows(model: Any) -> list[str]:
    """Modules whose ``forward`` is replaced."""
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal but for the rounding of matrix products of another batch size."""
    return math.isclose(float((one - other).abs().max()), 0.0, abs_tol=tolerance * float(other.abs().max()))
