"""What the sampler's callback is told of a run: previews and ``denoised_output`` are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..adacache_core import PlannedRun, same_sigma


def at_own_steps(callback: Callable[..., Any], factor: int) -> Callable[..., Any]:
    """The sampler's callback, told of the steps that it knows of."""

    def own(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> Any:
        if (step + 1) % factor == 0:
            return callback(step // factor, denoised, x, total_steps // factor)
        return None

    return own


def true_denoised(
    callback: Callable[..., Any],
    run: PlannedRun,
    guider: Any,
    sigmas: Tensor,
    options: dict[str, Any],
    denoise_mask: Tensor | None,
) -> Callable[..., Any]:
    """The sampler's callback, given what the model predicts instead of what the sampler integrates.

    Previews and ``denoised_output`` are made of it; with its correction a prediction overshoots.
    """

    def true(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> Any:
        if run.corrected is not None:
            sigma, added = run.corrected
            if step < len(sigmas) and same_sigma(float(sigmas[step]), sigma):
                mask = denoise_mask
                if mask is not None and "denoise_mask_function" in options:
                    extra = {"model": guider, "sigmas": sigmas}
                    mask = options["denoise_mask_function"](sigmas[step], mask, extra_options=extra)
                denoised = denoised - (added if mask is None else added * mask)
        return callback(step, denoised, x, total_steps)

    return true
