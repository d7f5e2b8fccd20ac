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
_MOST = 4.0  # a correction is never larger than so many surprises


@dataclass(frozen=True)
class Computed:
    """A prediction that the model has made: flow time of the call, and the denoised latent (any shape)."""

    time: float
    denoised: Tensor


def order_of(conditions: int) -> int:
    """How many computes a forecast looks back on.

    A parabola through three follows bends, and adds up more of what they err by than a line through two, which guidance
    enlarges where it enlarges the difference of two conditions. Fitted, see docs/how-it-works.md.
    """
    return 3 if conditions == 1 else 2


def variable(time: float) -> float:
    """The coordinate in which predictions run straightest, of a flow time within 0 (video) and 1 (noise).

    At high noise it follows the noise-to-signal ratio t / (1 - t), at low noise the logarithm of t; both offsets keep
    the ends finite. Fitted, see benchmarks/README.md.
    """
    return 1 / (1.01 - time) + math.log(time + 0.02)


def predict(history: Sequence[Computed], time: float) -> Tensor:
    """The polynomial through the computes in ``variable``, extended to a flow time: one is held, two give a line.

    Args:
        history: newest first, at least one.
        time: flow time of the skipped call.

    Returns:
        A new tensor in the shape and type of the newest compute; evaluated in float32 or better.
    """
    last, *before = history
    new = precise(last.denoised)
    answer = new.clone()
    for computed, weight in zip(before, weights([known.time for known in history], time)[1:], strict=True):
        answer.add_(precise(computed.denoised) - new, alpha=weight)
    return answer.to(last.denoised.dtype)


def weights(times: Sequence[float], time: float) -> list[float]:
    """How much computes at ``times`` weigh in the polynomial through them at ``time``: Lagrange's, 1 in all."""
    here, known = variable(time), [variable(at) for at in times]
    return [math.prod((here - other) / (own - other) for other in known if other != own) for own in known]


def precise(x: Tensor) -> Tensor:
    """In float32, or better where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(x: Tensor) -> float:
    """Euclidean length; no finite number where there is a NaN or an infinity in it."""
    return float(torch.linalg.vector_norm(precise(x)))


def remember(history: Sequence[Computed], computed: Computed, order: int) -> tuple[Computed, ...]:
    """One more compute and the last before it, ``order`` in all; of two at one flow time, the newer one."""
    older = [known for known in history if abs(known.time - computed.time) > SAME_TIME]
    return (computed, *older)[:order]


def error_shape(times: Sequence[float], time: float, at: float) -> float:
    """Error of a forecast at one flow time, over its error at another: ``prod (u - u_i) / (u_at - u_i)``.

    That is how the remainder of an interpolation grows: it is 0 at the computes and, for a prediction that bends evenly
    in ``variable``, exactly this in between.

    Args:
        times: flow times of the computes that the forecast looks back on.
        time, at: where the error is asked for, and where it is known.
    """
    here, known = variable(time), variable(at)
    return math.prod((here - variable(before)) / (known - variable(before)) for before in times)


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
