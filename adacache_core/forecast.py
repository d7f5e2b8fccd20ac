"""What a skipped step gets in place of the model's prediction, and how the next compute makes good for its error.

A linear multistep predictor over the computed steps, and a corrector: where the sampler is a multistep method on every
step, this is one on the steps that compute. Both are of the denoised prediction, in one variable, from one history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAME_TIME = 1e-5
# How the prediction for one condition follows its state, d denoised / d x, the state scaled as a flow model's: so a
# compute is kept as it would be without the error of the skips before it. Fitted, see docs/how-it-works.md.
FOLLOWS = 1.0
_STRAIGHT = 5.0  # strength of guidance from which on forecasts are lines
_MOST = 4.0  # a correction is never larger than so many surprises


@dataclass(frozen=True)
class Computed:
    """A prediction that the model has made: flow time of the call, and the denoised latent (any shape)."""

    time: float
    denoised: Tensor


def variable(time: float) -> float:
    """The coordinate in which predictions run straightest, of a flow time within 0 (video) and 1 (noise).

    At high noise it follows the noise-to-signal ratio t / (1 - t), at low noise the logarithm of t; both offsets keep
    the ends finite. Fitted, see benchmarks/README.md.
    """
    return 1 / (1.01 - time) + math.log(time + 0.02)


def predict(history: Sequence[Computed], time: float, bend: float = 1.0) -> Tensor:
    """The polynomial through the computes in ``variable``, extended to a flow time: one is held, two give a line.

    Args:
        history: newest first, at least one.
        time: flow time of the skipped call.
        bend: see ``weights``.

    Returns:
        A new tensor in the shape and type of the newest compute; evaluated in float32 or better.
    """
    last, *before = history
    new = precise(last.denoised)
    answer = new.clone()
    for computed, weight in zip(before, weights([known.time for known in history], time, bend)[1:], strict=True):
        answer.add_(precise(computed.denoised) - new, alpha=weight)
    return answer.to(last.denoised.dtype)


def weights(times: Sequence[float], time: float, bend: float = 1.0) -> list[float]:
    """How much computes at ``times`` weigh in the polynomial through them at ``time``: Lagrange's, 1 in all.

    Args:
        times: newest first.
        time: where it is asked for.
        bend: how much the polynomial counts; the rest is the line through the newest two.
    """
    here, known = variable(time), [variable(at) for at in times]

    def through(newest: list[float]) -> list[float]:
        return [math.prod((here - other) / (own - other) for other in newest if other != own) for own in newest]

    line = [*through(known[:2]), *[0.0] * len(known[2:])]
    return [bend * curved + (1 - bend) * straight for curved, straight in zip(through(known), line, strict=True)]


def bend_of(guided: Tensor, predictions: Sequence[Tensor]) -> float:
    """How much of a parabola's bend forecasts follow, 0 to 1.

    A parabola follows bends, and adds up more of what its computes err by than a line, which guidance enlarges: in
    ``u + s (c - u)`` by its strength s. So it is 1 without guidance, and falls evenly to 0 at a strength of 5. Fitted,
    see docs/how-it-works.md.

    Args:
        guided: what guidance made of the predictions.
        predictions: of the conditions of the same evaluation, shaped alike.
    """
    if len(predictions) == 1:
        return 1.0
    if len(predictions) != 2 or any(prediction.shape != guided.shape for prediction in predictions):
        return 0.0  # context windows, or conditions for a part of the video each
    one, other = map(precise, predictions)
    apart = norm(one - other)
    strength = 0.5 + norm(precise(guided) - (one + other) / 2) / apart if apart else math.inf
    return round(min(max(0.0, (_STRAIGHT - strength) / (_STRAIGHT - 1)), 1.0), 3)


def precise(x: Tensor) -> Tensor:
    """In float32, or better where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(x: Tensor) -> float:
    """Euclidean length; no finite number where there is a NaN or an infinity in it."""
    return float(torch.linalg.vector_norm(precise(x)))


def remember(history: Sequence[Computed], computed: Computed, bend: float = 1.0) -> tuple[Computed, ...]:
    """One more compute and those before it that forecasts of that bend need; of two at one flow time, the newer."""
    older = [known for known in history if abs(known.time - computed.time) > SAME_TIME]
    return (computed, *older)[: 3 if bend else 2]


def error_shape(times: Sequence[float], time: float, at: float, bend: float = 1.0) -> float:
    """Error of a forecast at one flow time, over its error at another: ``prod (u - u_i) / (u_at - u_i)``.

    That is how the remainder of an interpolation grows: it is 0 at the computes and, for a prediction that bends evenly
    in ``variable``, exactly this in between.

    Args:
        times: flow times of the computes that the forecast looks back on, newest first.
        time, at: where the error is asked for, and where it is known.
        bend: of the forecast; below 1 what it leaves of the bend is most of its error, as it is of a line's.
    """
    here, known = variable(time), variable(at)
    through = times if bend == 1 else times[:2]
    return math.prod((here - variable(before)) / (known - variable(before)) for before in through)


def correction(errors: Sequence[float], own: Sequence[float]) -> float:
    """How many surprises to add to a computed prediction, so that the sampler's state loses the error of the skips.

    The surprise is ``computed - predicted`` at the compute. A skipped call's error is its ``error_shape`` fold of it,
    and what the sampler makes of that is known (``response.py``). A multistep sampler uses a prediction at two calls,
    so the state is put right at the call after the next; not at all where that would leave the states on the way
    further off than they are, as with a sampler that has a corrector of its own.

    Args:
        errors: what the skips have made of the state at the next calls, in surprises; two or more.
        own: what one surprise, added to the compute, makes of the same states.

    Returns:
        Within -4 and 4; 0 where it does not help.
    """
    if own[1] == 0:
        return 0.0
    factor = max(-_MOST, min(errors[1] / own[1], _MOST))
    left = sum((error - factor * weight) ** 2 for error, weight in zip(errors, own, strict=True))
    return factor if left < sum(error**2 for error in errors) else 0.0
