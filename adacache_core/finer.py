"""Noise levels between those of a schedule: what lies between two computes is a forecast and costs nothing.

A sampler's own error is that of its steps, which a cache inherits. Steps that are skipped run nothing of the model, so
there may be more of them than the user asked for: the result then comes close to what so many steps would have given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from .forecast import variable
from .steps import Steps

_HALVINGS = 24  # of what lies between two levels: to a ten-millionth of it


def refine(steps: Steps, factor: int) -> Steps:
    """The schedule with ``factor`` steps, 1 or more, for each of its own, of even length in the forecast's variable.

    Its own levels stay, in any direction; a part of a run stays the part that it is.
    """
    if factor == 1:
        return steps
    whole = steps.whole.sigmas
    levels = [whole[0]]
    for start, end in pairwise(whole):
        levels += [_between(start, end, part / factor, steps.time) for part in range(1, factor)]
        levels.append(end)
    first, last = factor * len(steps.before), factor * (len(steps.before) + len(steps))
    before, own, after = levels[:first], levels[first : last + 1], levels[last + 1 :]
    return replace(steps, sigmas=tuple(own), before=tuple(before), after=tuple(after))


def _between(start: float, end: float, part: float, time: Callable[[float], float]) -> float:
    """The sigma at a part of the way, 0 to 1, in ``variable``; by bisection, since it rises with sigma."""
    wanted = (1 - part) * variable(time(start)) + part * variable(time(end))
    low, high = min(start, end), max(start, end)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if variable(time(middle)) < wanted else (low, middle)
    return (low + high) / 2
