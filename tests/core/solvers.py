"""A few samplers of k-diffusion, written down once more in float64, and a model of one number to sample with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from adacache_core import PlannedRun, Response, RunStatistics, Steps, ask

Model = Callable[[Tensor, float], Tensor]


def euler(model: Model, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """x' = x + (x - D) / sigma * (sigma' - sigma)."""
    for sigma, after in itertools.pairwise(sigmas):
        x = x + (x - model(x, sigma)) / sigma * (after - sigma)
    return x


def heun(model: Model, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Euler's step, and a second one from the mean of both slopes; no second one to noise level 0."""
    for sigma, after in itertools.pairwise(sigmas):
        slope = (x - model(x, sigma)) / sigma
        guess = x + slope * (after - sigma)
        if after > 0:
            slope = (slope + (guess - model(guess, after)) / after) / 2
        x = x + slope * (after - sigma)
    return x


def ancestral(model: Model, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Every step ends at no noise and gets new noise."""
    for sigma, after in itertools.pairwise(sigmas):
        x = model(x, sigma) + after * torch.randn_like(x)
    return x


def adaptive(model: Model, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Makes a step more where a prediction is large."""
    for sigma, after in itertools.pairwise(sigmas):
        slope = (x - model(x, sigma)) / sigma
        if float(slope.abs().max()) > 1.5:
            middle = (sigma + after) / 2
            x = x + slope * (middle - sigma)
            slope, sigma = (x - model(x, middle)) / middle, middle
        x = x + slope * (after - sigma)
    return x


def flow_steps(count: int) -> Steps:
    """A flow model's schedule with shift 3 that ends before the last noise is gone, and with it all that went wrong."""
    levels = [3 * s / (1 + 2 * s) for s in ((count - step - 0.5) / count for step in range(count))]
    return Steps((*levels, levels[-1] / 2), lambda sigma: (1 - sigma, sigma))


def asked(sampler: Callable[..., Tensor], steps: Steps, follow: float = 0.0) -> Response:
    """The sampler's response, with a stand-in whose prediction follows the state by a constant."""

    def sample(model: Callable[[Tensor, Tensor], Tensor], rows: int) -> Tensor:
        return sampler(lambda x, sigma: model(x, torch.tensor([sigma], dtype=torch.float64)), ones(rows), steps.sigmas)

    return ask(sample, lambda sigma: follow, len(steps))


def ones(rows: int) -> Tensor:
    """The start of every run here."""
    return torch.ones(rows, 1, dtype=torch.float64)


def with_plan(
    sampler: Callable[..., Tensor],
    model: Model,
    steps: Steps,
    plan: Sequence[str | None],
    response: Response | None,
    corrects: bool = True,
    conditions: int = 1,
) -> tuple[Tensor, RunStatistics]:
    """Sample with a given plan; every evaluation asks for so many conditions, which are alike."""
    statistics = RunStatistics({}, len(plan))
    run = PlannedRun(steps, len(plan), statistics, response, corrects, planner=lambda *_: tuple(plan))
    evaluated = partial(evaluate, run, model, conditions=conditions)
    return sampler(evaluated, ones(1), steps.sigmas), run.finish()


def evaluate(run: PlannedRun, model: Model, x: Tensor, sigma: float, conditions: int = 1) -> Tensor:
    """One evaluation of conditions that are alike, so that guidance changes nothing."""
    run.begin(sigma)
    known = [run.recall(slot) for slot in range(conditions)]
    answers = [run.keep(slot, model(x, sigma)) if old is None else old for slot, old in enumerate(known)]
    return run.end(answers[-1])
