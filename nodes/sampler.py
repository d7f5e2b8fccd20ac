"""The AdaCache Sampler node: the cache's predictor and corrector as a solver that places its own evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import KSAMPLER
from comfy_api.latest import io
from torch import Tensor
from tqdm.auto import tqdm

from ..adacache_core import Steps, place, solve
from .asking import scales_of
from .types import EXPERIMENTAL

LEAST = 4


class AdaCacheSampler(io.ComfyNode):
    """A SAMPLER for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheSampler",
            display_name="AdaCache Sampler",
            category=EXPERIMENTAL,
            is_experimental=True,
            description=(
                "A sampler that calls the model as often as it is told, at noise levels that it chooses itself within "
                "those of the schedule, and follows AdaCache's forecast in between. The model needs no AdaCache node."
            ),
            search_aliases=["adacache solver"],
            inputs=[
                io.Int.Input(
                    "evaluations",
                    default=10,
                    min=LEAST,
                    max=100,
                    tooltip=(
                        "How often the model is called. The number of steps of the schedule does not matter; where it "
                        "starts and ends does."
                    ),
                )
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, evaluations: int) -> io.NodeOutput:
        return io.NodeOutput(KSAMPLER(sample_adacache, {"evaluations": evaluations}))


@torch.no_grad()
def sample_adacache(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    evaluations: int = 10,
) -> Tensor:
    """``solve`` with the signature of k-diffusion's samplers.

    Args:
        model: ``(x, sigma, **extra_args) -> denoised``.
        x: latent at the first sigma, any shape with the batch first.
        sigmas: descending, the last one may be 0.
        evaluations: of the model.
    """
    if len(sigmas) < 2:
        return x
    scales = scales_of(model.inner_model.inner_model.model_sampling)
    steps = Steps(tuple(sigmas.tolist()), scales)
    levels, ones = place(steps, evaluations), x.new_ones(len(x))
    with tqdm(total=len(levels) - 1, disable=disable) as progress:

        def told(number: int, x: Tensor, denoised: Tensor) -> None:
            progress.update()
            if callback is not None:
                # In steps of the schedule, which is what previews and progress bars count in.
                step = round((number + 1) / (len(levels) - 1) * len(steps)) - 1
                sigma = levels[number]
                callback({"x": x, "i": max(step, 0), "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

        asked: list[Any] = []
        arguments = _watched(extra_args or {}, asked)

        def evaluate(x: Tensor, sigma: float) -> Any:
            asked.clear()
            return model(x, sigma * ones, **arguments)

        return solve(evaluate, x, levels, scales, told, lambda: len(asked))


def _watched(extra_args: dict[str, Any], asked: list[Any]) -> dict[str, Any]:
    """The arguments of an evaluation, which then notes the conditions that it asks the model for."""

    def note(executor: Any, model: Any, conds: list[Any], *args: Any) -> Any:
        asked.extend(cond for cond in conds if cond is not None)
        return executor(model, conds, *args)

    options = create_model_options_clone(extra_args.get("model_options", {}))
    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "adacache_sampler", note, options, is_model_options=True)
    return {**extra_args, "model_options": options}
