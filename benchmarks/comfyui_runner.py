"""Samples the demo model through ComfyUI's own loader, samplers and nodes, in this process."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from demo.comfyui import REPOSITORY, find_comfyui
from demo.scenes import Scene

from .fixed import evenly
from .scenes import Words, embed
from .settings import GITS, Sampling, Setting

LATENT = (1, 16, 5, 16, 16)  # 17 frames of 128 x 128
LEVELS = Path(__file__).parent / "results" / "levels.json"  # see levels.py

PLAIN = ("uncached", "fewer", "solver")  # ComfyUI's samplers on the model as it is


@dataclass(frozen=True)
class Sampled:
    """A sampled latent, with what it took."""

    latent: Tensor
    seconds: float
    computed_steps: float
    cache_bytes: int | None


def import_comfyui() -> Path:
    """Make ``import comfy`` work in this process, and this pack a package named ``adacache``."""
    comfyui = find_comfyui()
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # read when comfy.model_management is imported
    if "adacache" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "adacache", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules["adacache"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["adacache"])
    return comfyui


class ComfyUIRunner:
    """The demo models in ComfyUI.

    Args:
        weights: a diffusion model's file.
        vae: the VAE's file.
    """

    name = "comfyui"

    def __init__(self, weights: Path, vae: Path) -> None:
        import_comfyui()
        import comfy.sd
        import comfy.utils
        from comfy.ldm.wan.vae import RMS_norm

        RMS_norm.forward = normalize  # the same to 1e-7; decoding is what takes most of the time
        self.model = weights.stem
        self._model = comfy.sd.load_diffusion_model(str(weights))
        self._vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(vae)))

    def sample(self, scene: Scene | Words, seed: int, sampling: Sampling, setting: Setting) -> Sampled:
        """Sample a scene; ``uncached`` is the model as it is, ``fewer`` the same with that many steps."""
        options = setting.arguments
        if setting.method in PLAIN:
            other = options.get("sampler", sampling.sampler)
            sampling = replace(sampling, steps=options.get("computes", sampling.steps), sampler=other)
        if options.get("scheduler") == GITS:
            options["levels"] = json.loads(LEVELS.read_text())[self.model][f"cfg {sampling.cfg:g}"][str(sampling.steps)]
        noise = torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))
        latent, seconds, work, held = torch.zeros(LATENT), 0.0, 0.0, list[int]()
        for base, part in self._parts(sampling):
            with patched(base, sampling, setting) as (model, facts), counted(first_block(base)) as done:
                started = time.perf_counter()
                latent = denoise(model, noise, latent, scene, seed, sampling, part, facts, options)
                seconds += time.perf_counter() - started
            work += done()
            held += [facts.cache_bytes] if facts.cache_bytes is not None else []
        conditions = 1 if sampling.cfg == 1 else 2
        return Sampled(latent, seconds, work / conditions, max(held, default=None))

    def _parts(self, sampling: Sampling) -> list[tuple[Any, range]]:
        """The models that sample, and which of the steps each of them takes."""
        return [(self._model, range(sampling.steps))]

    def decode(self, latent: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Frames ``[B, F, H, W, 3]``, uint8, of latents ``[B, ...]``."""
        frames: Tensor = self._vae.decode(latent)
        return frames.clamp(0, 1).mul(255).round().byte().numpy()


class ExpertsRunner(ComfyUIRunner):
    """Two experts, as Wan 2.2 has them: one model for the first half of the steps, another one for the second.

    Args:
        weights: files of the two; their latents have to be alike.
        vae: the VAE's file.
        name: of the pair.
    """

    def __init__(self, weights: tuple[Path, Path], vae: Path, name: str) -> None:
        super().__init__(weights[0], vae)
        import comfy.sd

        self.model = name
        self._second = comfy.sd.load_diffusion_model(str(weights[1]))

    def _parts(self, sampling: Sampling) -> list[tuple[Any, range]]:
        half = round(sampling.steps / 2)
        return [(self._model, range(half)), (self._second, range(half, sampling.steps))]


def denoise(
    model: Any,
    noise: Tensor,
    latent: Tensor,
    scene: Scene | Words,
    seed: int,
    sampling: Sampling,
    part: range,
    facts: Facts,
    options: dict[str, Any],
) -> Tensor:
    """A part of the steps, from noise where it is the first one; what KSampler (Advanced) does."""
    import comfy.sample
    import comfy.samplers
    from scene_embedding import embed_empty

    pooled = {"pooled_output": torch.zeros(1, 768)}  # HunyuanVideo's second text encoder, which has nothing to say
    conditions = [[embed(scene), pooled]], [[embed_empty(), pooled]]
    common = {"callback": lambda *_: facts.step(), "disable_pbar": True, "seed": seed}
    sampled: Tensor
    own, sigmas = options.get("solver"), torch.tensor(options.get("levels", ()))
    if "evaluations" in options:
        from adacache.nodes.sampler import AdaCacheSampler

        (own,) = AdaCacheSampler.execute(options["evaluations"]).args
    elif len(sigmas):
        own = comfy.samplers.sampler_object(sampling.sampler)
    if own is not None:
        if not len(sigmas):
            model_sampling = model.get_model_object("model_sampling")
            sigmas = comfy.samplers.calculate_sigmas(model_sampling, "simple", sampling.steps)
        sampled = comfy.sample.sample_custom(model, noise, sampling.cfg, own, sigmas, *conditions, latent, **common)
        return sampled
    sampled = comfy.sample.sample(
        model,
        noise if part.start == 0 else torch.zeros_like(noise),
        sampling.steps,
        sampling.cfg,
        sampling.sampler,
        options.get("scheduler", "simple"),
        *conditions,
        latent,
        disable_noise=part.start > 0,
        start_step=part.start,
        last_step=part.stop,
        **common,
    )
    return sampled


@contextmanager
def patched(base: Any, sampling: Sampling, setting: Setting) -> Iterator[tuple[Any, Facts]]:
    """A model with a method on it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    (model,) = ModelSamplingSD3().patch(base, sampling.shift)
    options = setting.arguments
    if setting.method in (*PLAIN, "adacache sampler"):
        yield model, Facts()
    elif setting.method in ("easycache", "lazycache"):
        yield peer(model, setting.method, options["threshold"])
    else:
        with ours(model, sampling, setting.method, **options) as bound:
            yield bound


class Facts:
    """What a method says of itself: ``cache_bytes`` is the most that it holds after any step."""

    def __init__(self, held: Callable[[], int | None] = lambda: None) -> None:
        self._held = held
        self.cache_bytes: int | None = None

    def step(self) -> None:
        """To be called after every step."""
        held = self._held()
        if held is not None:
            self.cache_bytes = max(held, self.cache_bytes or 0)


def peer(model: Any, method: str, threshold: float) -> tuple[Any, Facts]:
    """ComfyUI's own EasyCache or LazyCache, at the node's default start and end."""
    from comfy.patcher_extension import WrappersMP
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    node = {"easycache": EasyCacheNode, "lazycache": LazyCacheNode}[method]
    model = model.clone()
    if method == "easycache":
        # In float32 that of ComfyUI 0.30.0 adds to the sampler's own tensor, in the half precision of real models to
        # a copy: so it gets one.
        model.add_wrapper_with_key(
            WrappersMP.DIFFUSION_MODEL, "copy", lambda run, x, *rest, **kw: run(x.clone(), *rest, **kw)
        )
    patched = node.execute(model, threshold, 0.15, 0.95, False).args[0]

    def held() -> int:
        # The node clones its holder for each run and keeps that one in the options of the sampling.
        holder = running["easycache"]
        tensors = holder.uuid_cache_diffs.values() if method == "easycache" else [holder.cache_diff]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    running: dict[str, Any] = {}

    def remember(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("model_options") or args[2]
        running["easycache"] = options["transformer_options"]["easycache"]
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "benchmark", remember)
    return patched, Facts(held)


@contextmanager
def ours(
    model: Any,
    sampling: Sampling,
    method: str,
    preset: str = "target",
    computes: int | None = None,
    moreg: bool = False,
    repays: bool = True,
    finer: str = "off",
    tokens: str | None = None,
    ratio: float = 0.15,
) -> Iterator[tuple[Any, Facts]]:
    """AdaCache as its node binds it; or ``fixed``, the same with computes at even distances.

    Args:
        model: the ModelPatcher.
        sampling: how it is about to be sampled.
        method: ``adacache``, ``token refresh`` or ``fixed``.
        preset: of the node.
        computes: of all steps, with preset ``target``.
        moreg: with MoReg at its defaults.
        repays: whether computes make good for the error of the skips before them.
        finer: of the node.
        tokens: scores of Token Refresh, ``open-sora`` or ``random``; None is without.
        ratio: of tokens that it computes.
    """
    from adacache.adacache_core import planned
    from adacache.adacache_core.paper.measure import MotionRegularization
    from adacache.adacache_core.tokens.choice import OPEN_SORA, RANDOM
    from adacache.nodes import predictions
    from adacache.nodes.binding import bind
    from adacache.nodes.settings import Settings

    settings = Settings(
        preset,
        target_speedup=sampling.steps / computes if computes else 2.0,
        finer=finer,
        moreg=MotionRegularization() if moreg else None,
        token_refresh=replace({"open-sora": OPEN_SORA, "random": RANDOM}[tokens], ratio=ratio) if tokens else None,
    )
    patched, log = bind(model, settings)

    def held() -> int:
        bytes_: int = log.of_prompt(None)[-1].statistics.cache_bytes
        return bytes_

    with ExitStack() as patches:
        if method == "fixed":
            patches.enter_context(patch.object(predictions, "plan", evenly))
        if not repays:
            patches.enter_context(patch.object(planned, "correction", lambda *_: 0.0))
        yield patched, Facts(held)


def normalize(self: Any, x: Tensor) -> Tensor:
    """``RMS_norm`` of ComfyUI's Wan VAE by plain algebra: twice as fast on a CPU."""
    return x * ((x * x).mean(1, keepdim=True) + 1e-12).rsqrt() * self.gamma


def first_block(model: Any) -> torch.nn.Module:
    """The first block of a ModelPatcher's model."""
    network = model.model.diffusion_model
    block: torch.nn.Module = (network.blocks if hasattr(network, "blocks") else network.double_blocks)[0]
    return block


@contextmanager
def counted(block: torch.nn.Module) -> Iterator[Callable[[], float]]:
    """What a block computes, in floating-point operations over those of a whole call for one condition.

    Of Wan counted where matrices are multiplied, but for what is done with the few tokens of a prompt: their number
    differs. Of others, which nothing computes in part, by calls.
    """
    if not hasattr(block, "cross_attn"):
        with called(block) as work:
            yield work
        return
    calls: list[tuple[int, list[int]]] = []

    def call(module: torch.nn.Module, args: Any) -> None:
        calls.append((len(args[0]), []))

    def multiply(module: torch.nn.Module, args: Any) -> None:
        batch, tokens, width = args[0].shape
        # Queries and keys, then weights and values: 2 x tokens x tokens x width each.
        attention = 4 * batch * tokens**2 * width if module is block.self_attn.q else 0
        calls[-1][1].append(2 * batch * tokens * width * module.out_features + attention)

    of_prompt = (block.cross_attn.k, block.cross_attn.v)
    linear = [module for module in block.modules() if isinstance(module, torch.nn.Linear) and module not in of_prompt]
    handles = [block.register_forward_pre_hook(call), *(m.register_forward_pre_hook(multiply) for m in linear)]

    def work() -> float:
        each = [(batch, sum(counts)) for batch, counts in calls]
        whole = max(count / batch for batch, count in each)
        return sum(count / whole for _, count in each)

    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def called(block: torch.nn.Module) -> Iterator[Callable[[], float]]:
    """For how many conditions a block was called."""
    batches: list[int] = []

    def call(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        batches.append(len(args[0] if args else kwargs["img"]))

    handle = block.register_forward_pre_hook(call, with_kwargs=True)
    try:
        yield lambda: float(sum(batches))
    finally:
        handle.remove()
