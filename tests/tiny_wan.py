"""A tiny Wan as the tests sample it: prompts, the AdaCache node's patch, and counts of what really ran.

ComfyUI must be importable (fixture ``pack``) by the time a function is called.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

BLOCKS = 3
WIDTH = 128


def planned(evaluations: int) -> int:
    """Evaluations of the model that ``balanced`` computes: half of them, and 6 at least."""
    return max(round(evaluations / 2), min(evaluations, 6))


def text(seed: int, tokens: int = 6, **values: Any) -> list[list[Any]]:
    """A prompt as a CLIP node gives it."""
    return [[torch.randn(1, tokens, 4096, generator=torch.Generator().manual_seed(seed)), values]]


def noise(frames: int = 5, size: int = 8, batch: int = 1, seed: int = 1) -> Tensor:
    """Latent noise ``[batch, 16, frames, size, size]``."""
    return torch.randn(batch, 16, frames, size, size, generator=torch.Generator().manual_seed(seed))


def bind(model: Any, preset: str = "balanced", **choices: Any) -> tuple[Any, Any]:
    """Patch a model as the AdaCache node does; gives the patched model and its log."""
    from adacache.nodes.binding import bind as bind_settings
    from adacache.nodes.settings import Settings

    return bind_settings(model, Settings(preset, **choices))


def bind_every_step(model: Any) -> tuple[Any, Any]:
    """Patch a model so that every step is computed."""
    return bind(model, "target", target_speedup=1.0)


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
    """``comfy.sample.sample`` from noise, or from a ``latent`` with noise on it."""
    import comfy.sample

    start, latent = arguments.pop("noise", None), arguments.pop("latent", None)
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
        torch.zeros_like(start) if latent is None else latent,
        disable_pbar=True,
        seed=seed,
        **arguments,
    )


def cfg_guider(model: Any, cfg: float = 3.0, positive: Any = None, negative: Any = None) -> Any:
    """What the node CFGGuider gives."""
    from comfy_extras.nodes_custom_sampler import CFGGuider

    return CFGGuider.execute(model, positive or text(7), negative or text(8), cfg).args[0]


def sigmas(model: Any, steps: int = 10, scheduler: str = "simple") -> Tensor:
    """What the node BasicScheduler gives."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    made: Tensor = BasicScheduler.execute(model, scheduler, steps, 1.0).args[0]
    return made


def run_guider(guider: Any, sigmas: Tensor, sampler: Any = "euler", shape: Sequence[int] = (1, 16, 5, 8, 8)) -> Tensor:
    """What SamplerCustomAdvanced makes of an empty latent, with a sampler or the name of one."""
    samples: Tensor = run_guider_for_both(guider, sigmas, sampler, shape)[0]
    return samples


def run_guider_for_both(guider: Any, sigmas: Tensor, sampler: Any, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Both outputs of SamplerCustomAdvanced: the latent and ``denoised_output``."""
    from comfy_extras.nodes_custom_sampler import KSamplerSelect, RandomNoise, SamplerCustomAdvanced

    if isinstance(sampler, str):
        sampler = KSamplerSelect.execute(sampler).args[0]
    latent = {"samples": torch.zeros(*shape)}
    made = SamplerCustomAdvanced.execute(RandomNoise.execute(1).args[0], guider, sampler, sigmas, latent).args
    return made[0]["samples"], made[1]["samples"]


def runs(log: Any) -> list[Any]:
    """Statistics of all sampling runs, oldest first."""
    return [run.statistics for run in log.of_prompt(None)]


def only_run(log: Any) -> Any:
    """Statistics of the one sampling run."""
    [run] = runs(log)
    return run


def decisions(run: Any) -> list[bool]:
    """Per step, whether it computed."""
    return [record.kind == "computed" for record in run.steps]


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


def latents(count: int, frames: int = 5, size: int = 8, itemsize: int = 4) -> int:
    """Bytes of so many latents of a video."""
    return count * 16 * frames * size**2 * itemsize


def lora() -> dict[str, Tensor]:
    """A LoRA of rank 2 on the first block."""
    generator = torch.Generator().manual_seed(3)
    name = "diffusion_model.blocks.0.self_attn.v"
    return {
        f"{name}.lora_A.weight": torch.randn(2, 128, generator=generator),
        f"{name}.lora_B.weight": torch.randn(128, 2, generator=generator),
    }


def with_hooks(prompt: list[list[Any]], *keyframes: tuple[float, float]) -> Any:
    """The LoRA as a hook on a prompt; keyframes are (start in 0..1, strength)."""
    from comfy.hooks import HookKeyframe, HookKeyframeGroup, create_hook_lora, set_hooks_for_conditioning

    hooks = create_hook_lora(lora(), 1.0, 0.0)
    if keyframes:
        group = HookKeyframeGroup()
        for start, strength in keyframes:
            group.add(HookKeyframe(strength, start))
        hooks.set_keyframes_on_hooks(group)
    return set_hooks_for_conditioning(prompt, hooks)


def memory(at_least: int = 0) -> int:
    """Bytes of all memory that tensors keep, a view's whole memory included.

    Args:
        at_least: without those of fewer bytes, such as a few numbers about a schedule.
    """
    gc.collect()
    # Not the fakes that torch.compile leaves.
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter)]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for size in held.values() if size >= at_least)


def shadows(model: Any) -> list[str]:
    """Modules whose ``forward`` is replaced."""
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal but for the rounding of matrix products of another batch size."""
    return math.isclose(float((one - other).abs().max()), 0.0, abs_tol=tolerance * float(other.abs().max()))
