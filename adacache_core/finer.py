"""Noise levels between those of a schedule: what lies between two computes is a forecast and costs nothing.

A sampler's own error is that of its steps, which a cache inherits. Steps that are skipped run nothing of the model, so
there may be more of them than the user asked for: the result then comes close to what so many steps would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from .forecast import variable

_HALVINGS = 24  # of what lies between two levels: to a ten-millionth of it


def refine(sigmas: Sequence[float], factor: int, time: Callable[[float], float]) -> tuple[float, ...]:
    """The schedule with ``factor`` steps for each of its own, of even length in the variable of the forecast.

    Args:
        sigmas: noise levels in the order in which they are sampled, in any direction; all of them stay.
        factor: 1 or more.
        time: flow time of a sigma, rising with it.
    """
    levels = [sigmas[0]]
    for start, end in pairwise(sigmas):
        levels += [_between(start, end, part / factor, time) for part in range(1, factor)]
        levels.append(end)
    return tuple(levels)


def _between(start: float, end: float, part: float, time: Callable[[float], float]) -> float:
    """The sigma at a part of the way, 0 to 1, in ``variable``; by bisection, since it rises with sigma."""
    wanted = (1 - part) * variable(time(start)) + part * variable(time(end))
    low, high = min(start, end), max(start, end)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if variable(time(middle)) < wanted else (low, middle)
    return (low + high) / 2
