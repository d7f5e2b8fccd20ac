"""The main road: keeps what the model predicts for each condition, and returns a forecast of it where the plan skips.

Three places of ComfyUI's sampling are wrapped: one run of the sampler (the plan is made and dropped there), one
evaluation of the model (whose guided prediction is corrected), and the conditions of an evaluation (kept or forecast).
Nothing below them is known, so every model, guidance and sampler is served alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..adacache_core import (
    CannotAskError,
    PlannedRun,
    Response,
    RunStatistics,
    Steps,
    ask,
    following,
    plan,
    refine,
)
from ..adacache_core.plan import MAXIMUM_GAP
from .asking import alone, rest_of, scales_of
from .callbacks import at_own_steps, true_denoised
from .other_caches import other_caches
from .runs import RunLog, reporter
from .settings import Settings

KEY = "adacache"


def add(patched: ModelPatcher, settings: Settings, log: RunLog, node_id: str | None) -> None:
    """Wrap a clone of the model, in place; its runs go to the log.

    Args:
        patched: the clone.
        settings: the user's choices, of a planned preset.
        log: takes the statistics.
        node_id: the AdaCache node, for live progress; None without.
    """
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _Binding(settings, log, node_id).sampler_sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict_noise)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calc_cond_batch)


@dataclass(frozen=True)
class _Binding:
    settings: Settings
    log: RunLog
    node_id: str | None

    def sampler_sample(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., Any] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One run of the sampler: ask it, make the plan, keep the run in its options, drop it."""
        if len(sigmas) < 2:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)
        if self.settings.moreg is not None and noise.ndim == 5:
            self.settings.moreg.check_frames(noise.shape[2])
        run, sigmas, factor = self._start(executor.class_obj, guider, sigmas, extra_args, noise.ndim)
        options = create_model_options_clone(extra_args["model_options"])
        options.setdefault("transformer_options", {}).update({KEY: _Calls(run), "sample_sigmas": sigmas})
        extra_args = {**extra_args, "model_options": options}
        if callback is not None:
            callback = at_own_steps(callback, factor)
            callback = true_denoised(callback, run, guider, sigmas, options, denoise_mask)
        try:
            samples = executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)
            run.finish()
            return samples
        finally:
            run.drop()

    def _start(
        self, sampler: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], dimensions: int
    ) -> tuple[PlannedRun, Tensor, int]:
        """The run, the noise levels that the sampler goes through, and how many of its steps are one of the user's."""
        suspects = other_caches(guider.model_patcher, extra_args["model_options"])
        model_sampling = guider.inner_model.model_sampling
        scales = scales_of(model_sampling)
        own = Steps(tuple(sigmas.tolist()), scales, *rest_of(model_sampling, sigmas))

        def asked(steps: Steps) -> tuple[Response | None, str | None]:
            looks: list[float] = []
            try:
                sample = alone(sampler, guider, sigmas.new_tensor(steps.sigmas), extra_args, dimensions, looks)
                response = ask(sample, lambda sigma: following(*scales(sigma)), len(steps))
            except CannotAskError as reason:
                return None, str(reason)
            return replace(response, looks_past=bool(looks)), "it adds noise" if response.adds_noise else None

        factor = self.settings.factor(len(own))
        steps = refine(own, factor)
        response, because = asked(steps)
        if factor > 1 and because is not None:
            factor, steps = 1, own  # finer steps would draw other noise, or none knows what they would do
            response, because = asked(steps)
        evaluations = len(steps) if response is None else len(response.sigmas)
        computes = self.settings.computes(evaluations // factor, own)
        statistics = RunStatistics(self._in_force(steps, response, because), evaluations, finer=factor)
        statistics.settings["other_caches"] = suspects
        statistics.settings["fewer_is_better"] = response is not None and response.renews(scales)
        statistics.settings["finer"] = self.settings.finer
        self.log.start(statistics)
        regulates, report = self.settings.moreg is not None, reporter(self.node_id)
        planner = partial(plan, longest=factor * MAXIMUM_GAP)
        run = PlannedRun(steps, computes, statistics, response, because is None, regulates, report, planner)
        statistics.settings["computes"] = sum(reason is not None for reason in statistics.plan or ())
        if report is not None:
            report(statistics)
        return run, sigmas.new_tensor(steps.sigmas) if factor > 1 else sigmas, factor

    def _in_force(self, steps: Steps, response: Response | None, because: str | None) -> dict[str, Any]:
        """The settings of this run, JSON-safe, as the inspector shows them."""
        settings = self.settings
        return {
            "preset": settings.preset,
            "speedup": settings.speedup,
            "sampler_steps": len(steps),
            "evaluations": None if response is None else len(response.sigmas),
            "adds_noise": None if response is None else response.adds_noise,
            "corrected": because is None,
            "uncorrected_because": because,
            "codebook": None,
            "moreg": None if settings.moreg is None else asdict(settings.moreg),
            "token_refresh": None,
        }


class _Calls:
    """The run as the wrappers below find it.

    Attributes:
        number: batches of conditions that the evaluation has asked for so far.
        advance: by how many tokens the last computed batch advanced an autoregressive model's key/value cache.
    """

    def __init__(self, run: PlannedRun) -> None:
        self.run = run
        self.number = 0
        self.advance = 0


def predict_noise(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any) -> Tensor:
    """One evaluation of the model by the sampler."""
    calls = model_options.get("transformer_options", {}).get(KEY)
    if calls is None:
        guided: Tensor = executor(x, timestep, model_options, *args)
        return guided
    calls.run.begin(float(timestep.flatten()[0]))
    calls.number = 0
    return calls.run.end(executor(x, timestep, model_options, *args))


def calc_cond_batch(
    executor: Any, model: Any, conds: list[Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """The conditions of one evaluation, or of one context window of it, or of a second look that guidance takes."""
    calls = model_options.get("transformer_options", {}).get(KEY)
    if calls is None:
        denoised: list[Tensor] = executor(model, conds, x, timestep, model_options)
        return denoised
    run, call = calls.run, calls.number
    calls.number += 1
    slots = [(call, place, *_asked_for(model, cond, x, timestep, model_options)) for place, cond in enumerate(conds)]
    recalled = [None if cond is None else run.recall(slot) for slot, cond in zip(slots, conds, strict=True)]
    caches = model_options["transformer_options"].get("ar_state", {}).get("kv_caches", ())
    if all(cond is None or known is not None for cond, known in zip(conds, recalled, strict=True)):
        for cache in caches:  # the sampler takes back what the model would have written
            cache["end"] += calls.advance
        return [torch.zeros_like(x) if known is None else known for known in recalled]
    # All of them or none: guidance enlarges the difference of two, and their forecasts err alike.
    ends = [cache["end"] for cache in caches]
    answers = executor(model, conds, x, timestep, model_options)
    calls.advance = caches[0]["end"] - ends[0] if ends else 0
    return [
        answer if cond is None else run.keep(slot, answer)
        for slot, cond, answer in zip(slots, conds, answers, strict=True)
    ]


def _asked_for(
    model: Any, conds: list[dict[str, Any]] | None, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> tuple[Hashable, ...]:
    """Everything that makes a prediction of these conditions another one, but for the state and the noise level."""
    options = model_options.get("transformer_options", {})
    window = options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    replaced = frozenset(options.get("patches_replace", {}).get("dit", {}))
    active = [cond for cond in conds or () if _is_active(cond, float(timestep.flatten()[0]))]
    strengths = []
    for hooks in (cond["hooks"] for cond in active if cond.get("hooks") is not None):
        # As ComfyUI does itself a little later: keyframes change how strong a LoRA is from some noise level on.
        model.current_patcher.prepare_hook_patches_current_keyframe(timestep, hooks, model_options)
        strengths += [hook.strength for hook in hooks.hooks]
    return frames, replaced, tuple(cond.get("uuid") for cond in active), tuple(strengths), tuple(x.shape)


def _is_active(cond: dict[str, Any], sigma: float) -> bool:
    return float(cond.get("timestep_end", 0.0)) <= sigma <= float(cond.get("timestep_start", float("inf")))
