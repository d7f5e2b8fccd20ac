"""Samples the demo model through diffusers, with the caches of diffusers and cache-dit, and with ``adacache_core``.

Both conditions of guidance go through the model as one batch, which FasterCache asks for and which suits all of them.
"""

from __future__ import annotations

import ast
import copy
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adacache_core import PlannedRun, RunStatistics, Steps, ask, computes_of, following, plan
from adacache_core.response import Model
from demo.scenes import Scene

from .comfyui_runner import LATENT, ComfyUIRunner, Facts, Sampled
from .fixed import evenly
from .scenes import embed
from .settings import Sampling, Setting

# Of blocks 0 to Fn - 1; the default of 8 is made for models with some 40 blocks, a fifth of which is 2 of our 10.
FIRST_BLOCKS = 2
TOKENS = LATENT[2] * LATENT[3] // 2 * LATENT[4] // 2


def load_model(weights: Path) -> nn.Module:
    """The demo's weights in diffusers' class, converted by diffusers."""
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    with safe_open(weights, "pt") as file:
        heads = json.loads(file.metadata()["config"])["transformer"]["num_heads"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    width = len(tensors["patch_embedding.bias"])
    model = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        text_dim=tensors["text_embedding.0.weight"].shape[1],
        freq_dim=tensors["time_embedding.0.weight"].shape[1],
        ffn_dim=len(tensors["blocks.0.ffn.0.bias"]),
        num_layers=sum(name.endswith(".ffn.0.bias") for name in tensors),
    )
    model.load_state_dict(convert_wan_transformer_to_diffusers(tensors))
    return model.float().eval().requires_grad_(False)


class DiffusersRunner:
    """The demo model in diffusers.

    Args:
        weights: a diffusion model's file, Wan 2.1 architecture.
        comfyui: decodes the latents, so that every runner's are decoded alike.
    """

    name = "diffusers"

    def __init__(self, weights: Path, comfyui: ComfyUIRunner) -> None:
        self.model = weights.stem
        self.decode = comfyui.decode
        self._model = load_model(weights)
        self._magnitudes: dict[Sampling, list[float]] = {}

    @torch.no_grad()
    def sample(self, scene: Scene, seed: int, sampling: Sampling, setting: Setting) -> Sampled:
        """Sample a scene; ``uncached`` is the model as it is, ``fewer`` the same with that many steps."""
        if setting.method == "fewer":
            sampling = replace(sampling, steps=setting.arguments["computes"])
        if setting.method == "magcache" and sampling not in self._magnitudes:
            self._magnitudes[sampling] = self._calibrate_magcache(sampling)
        model = copy.deepcopy(self._model)  # hooks never come off entirely
        loop = _Loop(model, sampling)
        plain = setting.method in ("uncached", "fewer")
        caching = nullcontext(Facts()) if plain else self._cached(loop, setting)
        with caching as facts, _counted(model) as work:
            started = time.perf_counter()
            latent = loop(scene, seed, facts)
            seconds = time.perf_counter() - started
        # Multiply-adds of the blocks' linear layers, in steps of which all blocks compute.
        full = sum(layer.weight.numel() for layer in _linears(model)) * loop.conditions * TOKENS
        return Sampled(latent, seconds, sum(work) / full, facts.cache_bytes)

    def _calibrate_magcache(self, sampling: Sampling) -> list[float]:
        from diffusers.hooks import MagCacheConfig

        model = copy.deepcopy(self._model)
        model.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=sampling.steps))
        with redirect_stdout(io.StringIO()) as printed:
            _Loop(model, sampling)(Scene("slow", "static", "plain", "2", "green", "circle"), 4_999, Facts())
        ratios: list[float] = ast.literal_eval(next(x for x in printed.getvalue().splitlines() if x.startswith("[1.0")))
        return ratios

    @contextmanager
    def _cached(self, loop: _Loop, setting: Setting) -> Iterator[Facts]:
        sampling, options = loop.sampling, setting.arguments
        if setting.method in ("adacache", "fixed"):
            yield loop.attach(setting.method, **options)
            return
        if setting.method == "dbcache":
            import cache_dit

            order = options.pop("order", 0)
            calibrator = {
                "taylorseer": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order),
                "foca": cache_dit.FoCaCalibratorConfig(),
                "dmd": cache_dit.DMDCalibratorConfig(),
                None: None,
            }[options.pop("calibrator", None)]
            if policy := options.pop("mask", None):
                options["steps_computation_mask"] = cache_dit.steps_mask(mask_policy=policy, total_steps=sampling.steps)
                options["steps_computation_policy"] = "static"
            cache_dit.enable_cache(
                loop.model,
                cache_config=cache_dit.DBCacheConfig(
                    Fn_compute_blocks=FIRST_BLOCKS,
                    max_warmup_steps=3,
                    num_inference_steps=sampling.steps,
                    enable_separate_cfg=False,
                    **options,
                ),
                calibrator_config=calibrator,
            )
        else:
            from diffusers import hooks

            made = {
                "fbcache": hooks.FirstBlockCacheConfig,
                "taylorseer": hooks.TaylorSeerCacheConfig,
                "magcache": hooks.MagCacheConfig,
                "fastercache": hooks.FasterCacheConfig,
                "pab": hooks.PyramidAttentionBroadcastConfig,
                "seacache": hooks.SeaCacheConfig,
            }[setting.method]
            if setting.method == "magcache":
                options |= {"num_inference_steps": sampling.steps, "mag_ratios": self._magnitudes[sampling]}
            if setting.method in ("fastercache", "pab"):
                options["current_timestep_callback"] = lambda: loop.timestep
            if setting.method == "taylorseer":
                options["taylor_factors_dtype"] = torch.float32
                options["cache_identifiers"] = list(options.get("cache_identifiers", ())) or None
            loop.model.enable_cache(made(**options))
        yield Facts()


def scales(sigma: float) -> tuple[float, float]:
    """Signal and noise of a flow model's latent."""
    return 1 - sigma, sigma


class _Loop:
    """Sampling with a scheduler of diffusers."""

    def __init__(self, model: Any, sampling: Sampling) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

        self.model, self.sampling = model, sampling
        self.scheduler = (
            UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=sampling.shift)
            if sampling.sampler == "uni_pc"
            else FlowMatchEulerDiscreteScheduler(shift=sampling.shift)
        )
        self.scheduler.set_timesteps(sampling.steps)
        self.timestep = 0.0
        self.conditions = 1 if sampling.cfg == 1 else 2
        self._start: Callable[[], PlannedRun] | None = None

    def attach(self, method: str, preset: str = "target", computes: int | None = None, repays: bool = True) -> Facts:
        """Use ``adacache_core`` in this loop; ``fixed`` is with computes at even distances."""
        steps = Steps(tuple(self.scheduler.sigmas.tolist()), scales)
        statistics = RunStatistics({}, len(steps))

        def start() -> PlannedRun:
            response = ask(self._alone, lambda sigma: following(*scales(sigma)), len(steps))
            count = computes or computes_of(preset, len(steps))
            planner = evenly if method == "fixed" else plan
            return PlannedRun(steps, count, statistics, response, repays, planner=planner)

        self._start = start
        return Facts(lambda: statistics.cache_bytes)

    def __call__(self, scene: Scene, seed: int, facts: Facts) -> Tensor:
        from scene_embedding import embed_empty  # on the path through demo.scenes

        latent = torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))
        text = embed(scene)
        if self.conditions == 2:
            # Attention to copies of one token is attention to that token.
            text = torch.cat([embed_empty().expand_as(text), text])
        run = self._start() if self._start else None
        for index, timestep in enumerate(self.scheduler.timesteps):
            self.timestep = float(timestep)
            sigma = float(self.scheduler.sigmas[index])
            if run is not None:
                run.begin(sigma)
            slots = range(self.conditions)
            denoised = [None if run is None else run.recall(slot) for slot in slots]
            if any(known is None for known in denoised):
                denoised = list(self._denoised(latent, index, text).chunk(self.conditions))
                if run is not None:
                    denoised = [run.keep(slot, denoised[slot]) for slot in slots]
            guided = denoised[0] + self.sampling.cfg * (denoised[-1] - denoised[0])
            guided = guided if run is None else run.end(guided)
            latent = self.scheduler.step((latent - guided) / sigma, timestep, latent, return_dict=False)[0]
            facts.step()
        if run is not None:
            run.finish()
        return latent

    def _denoised(self, latent: Tensor, step: int, text: Tensor) -> Tensor:
        sigma = float(self.scheduler.sigmas[step])
        place = {"step_index": step, "sigma": sigma, "num_inference_steps": self.sampling.steps}
        with self.model.cache_context("both", **place):  # SeaCache asks for all of it, the others for the name
            velocity = self.model(
                hidden_states=torch.cat([latent] * self.conditions),
                timestep=self.scheduler.timesteps[step].expand(self.conditions),
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        denoised: Tensor = latent - sigma * velocity
        return denoised

    def _alone(self, model: Model, rows: int) -> Tensor:
        """The scheduler with another model, on rows of one number each; see ``adacache_core.ask``."""
        scheduler, x = copy.deepcopy(self.scheduler), torch.ones(rows, 1, 1, 1, 1)
        for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
            velocity = (x - model(x, sigma.expand(rows))) / sigma
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        return x


def _linears(model: nn.Module) -> list[nn.Linear]:
    """Layers that see the video's tokens; keys and values of the prompt are few."""
    return [
        module
        for name, module in model.blocks.named_modules()
        if isinstance(module, nn.Linear) and ".attn2.to_k" not in name and ".attn2.to_v" not in name
    ]


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """Multiply-adds of every call of a block's linear layer."""
    work: list[int] = []

    def note(layer: nn.Linear, args: tuple[Tensor, ...]) -> None:
        work.append(args[0].shape[:-1].numel() * layer.weight.numel())

    handles = [layer.register_forward_pre_hook(note) for layer in _linears(model)]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()
