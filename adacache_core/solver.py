"""The predictor and the corrector of the cache as a solver of its own: so many evaluations, on levels that it places.

Between computes the state is integrated along the forecast exactly, where a sampler on the cached model takes Euler
steps. It is a variable-step Adams-Bashforth predictor of order 2, or 3 without guidance, with the Adams-Moulton
corrector of one order more (PEC: the prediction is not evaluated again at the corrected state), as DEIS (arXiv
2204.13902), DPM-Solver++ (arXiv 2211.01095) and UniPC (arXiv 2302.04867) are; those are linear in log signal-to-noise,
this is in the variable of ``forecast``, and its levels come from ``plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from .finer import refine
from .forecast import FOLLOWS, Computed, error_shape, precise, predict, remember, weights
from .plan import plan
from .steps import Steps, flow_time

# Levels that an evaluation may be placed on, for each of them; the most from one to the next; and the flow time of the
# last one, over their number: nearer to the end there is little new to learn. Fitted.
_CHOICE, _FARTHEST, _LAST = 8, 32, 0.8
_NODES = tuple(zip(*(values.tolist() for values in np.polynomial.legendre.leggauss(64)), strict=True))


def place(steps: Steps, evaluations: int) -> tuple[float, ...]:
    """The levels that are evaluated, the last one of the schedule behind them.

    Args:
        steps: any schedule from where the state is to where it is to go, descending; the levels lie on it or between
            its own.
        evaluations: 3 or more.
    """
    factor = -(-_CHOICE * evaluations // len(steps))
    fine = refine(steps, factor).sigmas
    soon = [sigma for sigma in fine[:-1] if steps.time(sigma) >= _LAST / evaluations]
    ends = steps.time(fine[-1]) < _LAST / evaluations and len(soon) >= evaluations
    grid = Steps((*soon, fine[-1]) if ends else fine, steps.scales)
    reasons = plan(grid.times, grid.falls, evaluations, longest=_FARTHEST)
    return tuple(sigma for sigma, why in zip(grid.sigmas, reasons, strict=False) if why) + grid.sigmas[-1:]


def solve(
    model: Callable[[Tensor, float], Tensor],
    x: Tensor,
    levels: Sequence[float],
    scales: Callable[[float], tuple[float, float]],
    on_step: Callable[[int, Tensor, Tensor], None] = lambda step, x, denoised: None,
    conditions: Callable[[], int] = lambda: 2,
) -> Tensor:
    """Integrate ``dx / dsigma = (x - denoised) / sigma``, the probability-flow equation in k-diffusion's form.

    Args:
        model: ``(x, sigma) -> denoised``, shaped as x; called once for each level but the last.
        x: the state at the first level.
        levels: descending; the last one may be 0, where the state is the last prediction.
        scales: how much signal and how much noise the state holds at a sigma.
        on_step: told the number, corrected state and prediction of each evaluation.
        conditions: how many the last evaluation was made of.
    """

    def time(sigma: float) -> float:
        return flow_time(*scales(sigma))

    history: tuple[Computed, ...] = ()
    for step, (sigma, after) in enumerate(pairwise(levels)):
        asked, denoised = x, model(x, sigma)
        if history:
            x = _correct(x, history, denoised, levels[step - 1], sigma, time)
        on_step(step, x, denoised)
        # Not evaluated again: the prediction follows the state.
        denoised = denoised.add(x - asked, alpha=FOLLOWS / sum(scales(sigma)))
        history = remember(history, Computed(time(sigma), denoised), float(conditions() == 1))
        x = denoised if after == 0 else _advance(x, history, sigma, after, time)
    return x


def _correct(
    x: Tensor,
    history: Sequence[Computed],
    denoised: Tensor,
    before: float,
    sigma: float,
    time: Callable[[float], float],
) -> Tensor:
    """The state at a level, had the way to it gone along the curve through this prediction and the last ones."""
    known, now = [computed.time for computed in history], time(sigma)
    surprise = precise(denoised) - precise(predict(history, now))
    share = _integral(lambda at: error_shape(known, time(at), now), before, sigma)
    return precise(x).add(surprise, alpha=share).to(x.dtype)


def _advance(
    x: Tensor, history: Sequence[Computed], sigma: float, after: float, time: Callable[[float], float]
) -> Tensor:
    """The state at the next level, along the forecast."""
    newest, known = precise(history[0].denoised), [computed.time for computed in history]
    moved = precise(x).mul(after / sigma).add(newest, alpha=1 - after / sigma)
    for number, computed in enumerate(history[1:], 1):

        def weight(at: float, number: int = number) -> float:
            return weights(known, time(at))[number]

        moved = moved.add(precise(computed.denoised) - newest, alpha=_integral(weight, sigma, after))
    return moved.to(x.dtype)


def _integral(of: Callable[[float], float], start: float, end: float) -> float:
    """``end * integral of f(sigma) / sigma^2`` from end to start: what a prediction of that course makes of the state.

    Over ``end / sigma``, which is even in what counts.
    """
    first = end / start
    half = (1 - first) / 2
    return half * float(sum(weight * of(end / (1 - half * (1 - node))) for node, weight in _NODES))
