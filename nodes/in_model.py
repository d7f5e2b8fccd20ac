"""The second road: the paper's presets, and Token Refresh with any preset, which work inside of a model.

Three places of ComfyUI's sampling are wrapped: one sampling run (made and dropped there), the conditions of a step
(whose ControlNets are postponed), and one call of the model (which computes or skips).
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from comfy.cli_args import args as command_line
from comfy.model_management import get_free_memory
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrappersMP

from ..adacache_core import RunStatistics, Steps, plan
from ..adacache_core.inside.layout import Layout
from ..adacache_core.paper.codebook import codebook_for
from ..adacache_core.paper.rule import CodebookRule, PlanRule, Rule
from ..adacache_core.paper.run import ResidualRun
from ..adacache_core.tokens.partial import TokenSteps, bytes_per_token
from .asking import scales_of
from .families import layout_of, require_sublayers
from .model_call import (
    condition_keys,
    controlled,
    postponed,
    prefetch_nothing_on_a_skip,
    with_attention,
    without_side_stacks,
)
from .other_caches import other_caches
from .runs import RunLog, reporter
from .settings import Settings

KEY = "adacache"


def add(patched: ModelPatcher, settings: Settings, log: RunLog, node_id: str | None) -> None:
    """Wrap a clone of the model, in place; its runs go to the log.

    Args:
        patched: the clone.
        settings: the user's choices.
        log: takes the statistics.
        node_id: the AdaCache node, for live progress; None without.

    Raises:
        UnsupportedModelError: the model's blocks are not known, or Token Refresh does not know them in parts.
    """
    layout = layout_of(patched.model.diffusion_model)
    if settings.token_refresh is not None:
        require_sublayers(layout)
    binding = _Binding(settings, layout, log, node_id)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, binding.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calc_cond_batch)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, binding.apply_model)
    if layout.prefetches:
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, prefetch_nothing_on_a_skip)


@dataclass(frozen=True)
class _Binding:
    settings: Settings
    layout: Layout
    log: RunLog
    node_id: str | None

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the run, keep it for the length of one ``sample()``, drop it."""
        noise, sigmas, guider = args[0], args[3], executor.class_obj
        if len(sigmas) < 2:
            return executor(*args, **kwargs)  # one noise level, no step: SplitSigmas at an end
        latent_shapes = kwargs.get("latent_shapes") or [noise.shape]
        run = self._start(guider, sigmas.tolist(), tuple(noise.shape), tuple(latent_shapes[0]))
        original = guider.model_options
        guider.model_options = create_model_options_clone(original)
        guider.model_options.setdefault("transformer_options", {})[KEY] = run
        try:
            with varying_allocations():
                samples = executor(*args, **kwargs)
            run.finish()
            return samples
        finally:
            guider.model_options = original
            run.drop()

    def apply_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One model call: compute or replay."""
        options = args[5] if len(args) > 5 else kwargs["transformer_options"]
        run = options.get(KEY)
        if run is None:
            # Called outside of sampling, e.g. by a trainer.
            return executor(*controlled(args), **kwargs)
        # Models of video and audio get both latents packed into one.
        latent_shape = tuple(kwargs["latent_shapes"][0] if "latent_shapes" in kwargs else args[0].shape)
        model = executor.class_obj.diffusion_model
        keys = condition_keys(options, args[0].shape, executor.class_obj)
        with run.call(model, self.layout, float(options["sigmas"][0]), keys, latent_shape, kwargs) as skips:
            args, kwargs = without_side_stacks(self.layout, args, kwargs) if skips else (controlled(args), kwargs)
            return executor(*args, **kwargs)

    def _start(
        self, guider: Any, sigmas: list[float], noise_shape: tuple[int, ...], latent_shape: tuple[int, ...]
    ) -> ResidualRun:
        settings = self.settings
        if settings.moreg is not None:
            settings.moreg.check_frames(self.layout.token_grid(latent_shape)[0])
        scales = scales_of(guider.model_patcher.get_model_object("model_sampling"))
        # Sorted, since a custom schedule may go back up (restart sampling) or upwards only (unsampling).
        steps = Steps(tuple(sorted(sigmas, reverse=True)), scales)
        statistics = RunStatistics(self._in_force(len(steps)), total_steps=len(steps))
        statistics.settings["other_caches"] = other_caches(guider.model_patcher, guider.model_options)
        self.log.start(statistics)
        return ResidualRun(
            self._rule(steps, statistics),
            steps,
            statistics,
            self._partial_steps(guider, noise_shape, latent_shape),
            reporter(self.node_id),
            allocating,
        )

    def _rule(self, steps: Steps, statistics: RunStatistics) -> Callable[[], Rule]:
        settings, total = self.settings, len(steps)
        if settings.speedup is None:
            codebook = codebook_for(settings.preset, total, settings.codebook)
            return lambda: CodebookRule(codebook, total, settings.moreg)
        reasons = plan(steps.times, steps.falls, settings.computes(total))
        statistics.plan = reasons
        return lambda: PlanRule(reasons)

    def _partial_steps(
        self, guider: Any, noise_shape: tuple[int, ...], latent_shape: tuple[int, ...]
    ) -> TokenSteps | None:
        refresh, model = self.settings.token_refresh, guider.model_patcher.model
        if refresh is None:
            return None
        dtype = model.manual_cast_dtype or model.get_dtype()
        # Text and reference tokens come on top.
        tokens = latent_shape[0] * math.prod(self.layout.token_grid(latent_shape)) * _conditions(guider)
        needed = tokens * bytes_per_token(model.diffusion_model, self.layout, dtype.itemsize)
        where = "on the model's device" if refresh.device is None else "in system memory"
        logging.info("AdaCache Token Refresh: keeps %.2f GiB %s.", needed / 2**30, where)

        def free_memory(device: torch.device) -> float:
            # What a compute takes, for both conditions of guidance, has to stay free.
            batch = [2 * noise_shape[0], *noise_shape[1:]]
            return float(get_free_memory(device) - (model.memory_required(batch) if device.type != "cpu" else 0))

        return TokenSteps(refresh, with_attention, needed, free_memory, allocating)

    def _in_force(self, total_steps: int) -> dict[str, Any]:
        """The settings of this run, JSON-safe, as the inspector shows them."""
        settings = self.settings
        codebook = None if settings.planned else codebook_for(settings.preset, total_steps, settings.codebook)
        return {
            "preset": settings.preset,
            "speedup": settings.speedup,
            "codebook": None if codebook is None else [list(entry) for entry in codebook.entries],
            "moreg": None if settings.moreg is None else asdict(settings.moreg),
            "token_refresh": None if settings.token_refresh is None else asdict(settings.token_refresh),
            "family": self.layout.family,
        }


def calc_cond_batch(
    executor: Any, model: Any, conds: list[list[dict[str, Any]] | None], *args: Any, **kwargs: Any
) -> Any:
    """The conditions of one step."""
    return executor(model, postponed(conds), *args, **kwargs)


def allocating() -> AbstractContextManager[Any]:
    """Around what outlives a call of the model or of a block: ComfyUI may replay the allocations of the call before."""
    # Not imported: older versions have no such module, and no models that record.
    pause = getattr(sys.modules.get("comfy.model_prefetch"), "pause_malloc_graph", nullcontext)
    context: AbstractContextManager[Any] = pause()
    return context


@contextmanager
def varying_allocations() -> Iterator[None]:
    """ComfyUI's compiler replays one step's allocations at the next, which would be others at a skip; it rests."""
    before = getattr(command_line, "disable_comfy_compiler", None)
    if before is None:
        yield
        return
    command_line.disable_comfy_compiler = True
    try:
        yield
    finally:
        command_line.disable_comfy_compiler = before


def _conditions(guider: Any) -> int:
    """Conditions that the model is called for: the negative ones are left out at cfg 1."""
    counts = {name: len(group or ()) for name, group in getattr(guider, "conds", {}).items()}
    if getattr(guider, "cfg", None) == 1:
        counts.pop("negative", None)
    return max(sum(counts.values()), 1)
