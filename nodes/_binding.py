"""Binds a cache to a ComfyUI model, by wrappers of its ModelPatcher."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from comfy.model_management import get_free_memory
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrappersMP

from ..adacache_core import (
    CALIBRATE,
    PRESETS,
    CacheRun,
    Calibration,
    Codebook,
    ConfigurationError,
    Layout,
    MotionRegularization,
    RunStatistics,
    Storage,
    TokenRefresh,
    bytes_per_token,
    flow_time,
    layout_of,
    make_schedule,
    replay_for,
    require_sublayers,
)
from ..adacache_core.calibration import stride
from ..adacache_core.presets import codebook_for, planned_speedup
from ._model_call import (
    PostponedControl,
    condition_keys,
    controlled,
    prefetch_nothing_on_a_skip,
    without_side_stacks,
)
from .progress import reporter
from .statistics_log import LoggedRun, StatisticsLog

KEY = "adacache"
SAME_DEVICE, SYSTEM_MEMORY = "same device", "system memory"
# How much of the error of skips the next compute gives back. Euler goes along the model's output in plain steps and can
# take all of it back: 7 dB on the demo model at 13 of 30 steps. The multistep samplers use an output twice and are best
# off with half: 3 dB. UniPC's history does not bear it.
_REPAID = {"sample_euler": 1.0, "sample_dpmpp_2m": 0.5, "sample_res_multistep": 0.5}


@dataclass(frozen=True)
class CacheSettings:
    """The user's choices, as the AdaCache node takes them."""

    preset: str
    codebook: Codebook | None
    replay: str
    start_percent: float
    end_percent: float
    motion: MotionRegularization | None
    storage: str = "auto"
    cache_device: str = SAME_DEVICE
    target_speedup: float = 2.0
    calibration: Calibration | None = None
    token_refresh: TokenRefresh | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ConfigurationError(f"AdaCache: preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        planned_speedup(self.preset, self.target_speedup)
        replay_for(self.preset, self.replay)
        if not 0 <= self.start_percent < self.end_percent <= 1:
            raise ConfigurationError(
                f"AdaCache: start_percent must be below end_percent, both within 0 and 1, got {self.start_percent:g} "
                f"and {self.end_percent:g}. Steps between them may be skipped; 0 and 1 allow all."
            )
        if self.storage not in ("auto", "hidden", "output"):
            raise ConfigurationError(f'AdaCache: storage must be "auto", "hidden" or "output", got {self.storage!r}.')
        if self.cache_device not in (SAME_DEVICE, SYSTEM_MEMORY):
            raise ConfigurationError(
                f'AdaCache: cache_device must be "{SAME_DEVICE}" or "{SYSTEM_MEMORY}", got {self.cache_device!r}.'
            )

    def check_family(self, family: str) -> None:
        """Raise ``ConfigurationError`` where the calibration is of another model family."""
        if self.calibration is not None and self.calibration.family != family:
            raise ConfigurationError(
                f"AdaCache: the calibration must be of this model, {family}, got one of {self.calibration.family}. "
                f'Calibrate anew with the preset "{CALIBRATE}", or remove the calibration.'
            )


def bind(
    model: ModelPatcher, settings: CacheSettings, node_id: str | None = None
) -> tuple[ModelPatcher, StatisticsLog]:
    """A clone of the model that caches while it is sampled, and the log its statistics go to.

    Args:
        model: the loaded model.
        settings: the user's choices.
        node_id: the AdaCache node, for live progress; None without.

    Raises:
        UnsupportedModelError: not a video DiT with a known layout, or one that Token Refresh does not know.
        ConfigurationError: the model already has a cache, or the calibration is of another family.
    """
    layout = layout_of(model.model.diffusion_model)
    settings.check_family(layout.family)
    if settings.token_refresh is not None:
        require_sublayers(layout)
    _refuse_second_cache(model.model_options, model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY))
    binding = _Binding(settings, layout, StatisticsLog(), node_id)
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, binding.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, binding.calc_cond_batch)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, binding.apply_model)
    if layout.prefetches:
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, prefetch_nothing_on_a_skip)
    return patched, binding.log


def _refuse_second_cache(model_options: dict[str, Any], ours: list[Callable[..., Any]]) -> None:
    other = model_options.get("transformer_options", {}).get("easycache")
    name = getattr(other, "name", "EasyCache") if other is not None else "AdaCache" if ours else None
    if name is not None:
        raise ConfigurationError(
            f"AdaCache: the model already has a cache, {name}. Two caches on one model would replay each other's "
            f"replays. Remove or bypass the {'first AdaCache' if name == 'AdaCache' else name} node."
        )


@dataclass(frozen=True)
class _Binding:
    settings: CacheSettings
    layout: Layout
    log: StatisticsLog
    node_id: str | None

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the run, keep it for the length of one ``sample()``, drop it."""
        if len(args[3]) < 2:
            return executor(*args, **kwargs)  # one noise level, no step: SplitSigmas at an end
        guider = executor.class_obj
        latent_shapes = kwargs.get("latent_shapes") or [args[0].shape]
        original = guider.model_options
        _refuse_second_cache(original, [])
        conditions = _conditions(guider)
        run = self._start(guider.model_patcher, args[2], args[3], args[0].shape, latent_shapes[0], conditions)
        guider.model_options = create_model_options_clone(original)
        guider.model_options.setdefault("transformer_options", {})[KEY] = run
        try:
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
            return executor(*args, **kwargs)
        # Models of video and audio get both latents packed into one.
        latent_shape = tuple(kwargs["latent_shapes"][0] if "latent_shapes" in kwargs else args[0].shape)
        model = executor.class_obj.diffusion_model
        sigma = float(options["sigmas"][0])
        keys = condition_keys(options, args[0].shape, executor.class_obj)
        with run.call(model, self.layout, sigma, keys, latent_shape, kwargs) as skips:
            args, kwargs = without_side_stacks(self.layout, args, kwargs) if skips else (controlled(args), kwargs)
            return executor(*args, **kwargs)

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: list[list[dict[str, Any]] | None], *args: Any, **kwargs: Any
    ) -> Any:
        """One step: ControlNets would run before the model is called, when it is not yet known whether they need to."""
        postponed: dict[int, PostponedControl] = {}

        def of(cond: dict[str, Any]) -> dict[str, Any]:
            control = cond.get("control")
            if control is None:
                return cond
            # One for all conditions that share a ControlNet, or else they would no longer be batched.
            return {**cond, "control": postponed.setdefault(id(control), PostponedControl(control))}

        conds = [None if group is None else [of(cond) for cond in group] for group in conds]
        return executor(model, conds, *args, **kwargs)

    def _start(
        self,
        model: ModelPatcher,
        sampler: Any,
        sigmas: Any,
        noise_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        conditions: int,
    ) -> CacheRun:
        settings, sampling = self.settings, model.get_model_object("model_sampling")
        if settings.motion is not None:
            settings.motion.check_frames(self.layout.token_grid(tuple(latent_shape))[0])
        # Sorted, since a custom schedule may go back up (restart sampling) or upwards only (unsampling).
        noise_levels = sorted(sigmas.tolist(), reverse=True)
        sigma_max = float(sampling.sigma_max)
        times = [flow_time(sigma, sigma_max) for sigma in noise_levels[:-1]]
        first, last = (float(sampling.percent_to_sigma(p)) for p in (settings.start_percent, settings.end_percent))
        within = [step for step, sigma in enumerate(noise_levels[:-1]) if last < sigma <= first]
        skippable = range(within[0], within[-1] + 1) if within else range(0)
        replay = replay_for(settings.preset, settings.replay)
        planned = planned_speedup(settings.preset, settings.target_speedup)
        statistics = RunStatistics(self._in_force(len(times), replay.name, sigma_max), total_steps=len(times))
        self.log.append(LoggedRun(*executing_prompt(), statistics))
        token_bytes = self._token_bytes(model, tuple(latent_shape), conditions)
        sampler_name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
        return CacheRun(
            lambda: make_schedule(
                settings.preset,
                times,
                replay,
                settings.motion,
                skippable,
                settings.codebook,
                settings.target_speedup,
                settings.calibration,
            ),
            replay,
            noise_levels,
            statistics,
            sigma_max,
            self._storage(model, noise_shape),
            repaid=_REPAID.get(sampler_name, 0.0) if planned is not None and sigma_max <= 1 else 0.0,
            on_step=reporter(self.node_id),
            calibrates=stride(len(times)) if settings.preset == CALIBRATE else 0,
            refresh=settings.token_refresh,
            token_bytes=token_bytes,
        )

    def _token_bytes(self, model: ModelPatcher, latent_shape: tuple[int, ...], conditions: int) -> int:
        """Bytes that token refresh is about to keep, said before sampling; text and reference tokens come on top."""
        if self.settings.token_refresh is None:
            return 0
        dtype = model.model.manual_cast_dtype or model.model.get_dtype()
        tokens = latent_shape[0] * math.prod(self.layout.token_grid(latent_shape)) * conditions
        count = tokens * bytes_per_token(model.model.diffusion_model, self.layout, dtype.itemsize)
        where = "in system memory" if self.settings.cache_device == SYSTEM_MEMORY else "on the model's device"
        logging.info("AdaCache Token Refresh: keeps %.2f GiB %s.", count / 2**30, where)
        return count

    def _storage(self, model: ModelPatcher, noise_shape: tuple[int, ...]) -> Storage:
        def free_memory(device: torch.device) -> float:
            # What a compute takes, for both conditions of guidance, has to stay free.
            batch = [2 * noise_shape[0], *noise_shape[1:]]
            return float(get_free_memory(device) - (model.model.memory_required(batch) if device.type != "cpu" else 0))

        form = "hidden" if self.layout.keeps_hidden else self.settings.storage
        return Storage(form, torch.device("cpu") if self.settings.cache_device == SYSTEM_MEMORY else None, free_memory)

    def _in_force(self, total_steps: int, replay: str, sigma_max: float) -> dict[str, Any]:
        """The settings of this run, JSON-safe, as the inspector shows them."""
        settings = self.settings
        codebook = codebook_for(settings.preset, total_steps, settings.codebook)
        planned = planned_speedup(settings.preset, settings.target_speedup)
        return {
            "preset": settings.preset,
            "replay": replay,
            "planned_speedup": planned,
            "calibration": None if planned is None or settings.calibration is None else settings.calibration.source,
            "codebook": None if codebook is None else [list(entry) for entry in codebook.entries],
            "start_percent": settings.start_percent,
            "end_percent": settings.end_percent,
            "cache_device": settings.cache_device,
            "motion_regularization": None if settings.motion is None else asdict(settings.motion),
            "token_refresh": None if settings.token_refresh is None else asdict(settings.token_refresh),
            "family": self.layout.family,
            "sigma_max": sigma_max,
        }


def _conditions(guider: Any) -> int:
    """Conditions that the model is called for: the negative ones are left out at cfg 1."""
    conds = getattr(guider, "conds", {})
    counts = {name: len(group or ()) for name, group in conds.items()}
    if getattr(guider, "cfg", None) == 1:
        counts.pop("negative", None)
    return max(sum(counts.values()), 1)


def executing_prompt() -> tuple[str | None, str | None]:
    """The prompt and node that are executing, where this version of ComfyUI tells."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None, None
    context = get_executing_context()
    return (None, None) if context is None else (context.prompt_id, context.node_id)
