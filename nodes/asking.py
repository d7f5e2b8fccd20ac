"""Runs a sampler of ComfyUI on a few numbers, so that it tells how it uses the model; see the core's ``response``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import create_model_options_clone
from torch import Tensor

_MOST_LEVELS = 100  # before or behind a part, however short it is


def scales_of(model_sampling: Any) -> Callable[[float], tuple[float, float]]:
    """How much signal and how much noise is in the state at a sigma, asked of the model's own parameterisation."""
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)

    def scales(sigma: float) -> tuple[float, float]:
        level = torch.tensor([sigma])
        signal = model_sampling.noise_scaling(level, zero.clone(), one.clone())
        noise = model_sampling.noise_scaling(level, one.clone(), zero.clone())
        return float(signal), float(noise)

    return scales


def rest_of(model_sampling: Any, sigmas: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Noise levels that a whole run has before a schedule and behind it, if it is a part of one.

    They are on the way that the model's own schedule goes from noise to nothing, as dense as the schedule is.
    """
    steps = len(sigmas) - 1
    highest, lowest = float(sigmas.max()), float(sigmas.min())
    if not hasattr(model_sampling, "percent_to_sigma"):
        return (), ()

    def percent(sigma: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if model_sampling.percent_to_sigma(middle) > sigma else (low, middle)
        return low

    def level(way: float) -> float:  # what is above all noise levels stands for the start
        return min(float(model_sampling.percent_to_sigma(way)), float(model_sampling.sigma_max))

    start, end = percent(highest), percent(lowest)
    if start == end:
        return (), ()
    above, below = (min(round(steps * way / (end - start)), _MOST_LEVELS) for way in (start, 1 - end))
    before = tuple(level(start * step / above) for step in range(above))
    after = tuple(level(end + (1 - end) * (step + 1) / below) for step in range(below))
    return (before, after) if sigmas[0] >= sigmas[-1] else (after[-2::-1], before[::-1])  # up from nothing is no step


def alone(
    sampler: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], dimensions: int, looks: list[float]
) -> Callable[[Callable[[Tensor, Tensor], Tensor], int], Tensor]:
    """The sampler as it is, on the CPU, on rows of one number each.

    ``looks`` takes the noise levels at which it looks past guidance, at the conditions' own predictions (CFG++).
    """

    def sample(model: Callable[[Tensor, Tensor], Tensor], rows: int) -> Tensor:
        options = create_model_options_clone(extra_args["model_options"])
        options.pop("sampler_post_cfg_function", None)  # what is there then is the sampler's own
        start = torch.ones(rows, *(1,) * (dimensions - 1))
        arguments = {**extra_args, "model_options": options}
        result: Tensor = sampler.sample(
            _StandIn(guider, model, looks), sigmas.cpu(), arguments, None, start, torch.zeros_like(start), None, True
        )
        return result

    return sample


class _StandIn:
    """The guider, but for what it predicts."""

    def __init__(self, guider: Any, model: Callable[[Tensor, Tensor], Tensor], looks: list[float]) -> None:
        self._guider = guider
        self._model = model
        self._looks = looks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None, seed: Any = None) -> Any:
        denoised = self._model(x, sigma)
        # Samplers of the CFG++ kind look at the unconditional prediction on its way out of guidance.
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            parts = dict.fromkeys(("denoised", "cond_denoised", "uncond_denoised"), denoised)
            given = {"input": x, "sigma": sigma, "model": self._guider.inner_model, "model_options": model_options}
            self._looks.append(float(sigma.flatten()[0]))
            denoised = function({**parts, **given, "cond": None, "uncond": None, "cond_scale": 1.0})
        return denoised
