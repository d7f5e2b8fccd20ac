"""Which sampling step a model call belongs to, by its noise level."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from .planning import flow_time

# Two sigmas closer than this (relative) are one: samplers recompute them with float32 rounding.
_SAME_SIGMA = 1e-4


class NoiseLevels:
    """The noise levels of a run.

    Args:
        sigmas: descending; the last one ends the run and is not a step.
        sigma_max: largest sigma of the model; at most 1 for flow models.

    Attributes:
        times: flow time of every noise level, 1 (noise) to 0 (video).
    """

    def __init__(self, sigmas: Sequence[float], sigma_max: float) -> None:
        self._ascending = [-sigma for sigma in sigmas[:-1]]
        self._sigma_max = sigma_max
        self.times = [self.time(sigma) for sigma in sigmas]

    def time(self, sigma: float) -> float:
        """Flow time of any noise level."""
        return flow_time(sigma, self._sigma_max)

    def step(self, sigma: float) -> int:
        """Zero-based step a sigma belongs to: the last one whose noise level is not below it.

        Midpoints of multi-call samplers belong to the step they start from; Heun's second call, which is made at
        the next noise level, to the next step, whose first call sees that noise level too.
        """
        tolerated = -sigma + abs(sigma) * _SAME_SIGMA
        return max(bisect.bisect_right(self._ascending, tolerated) - 1, 0)

    def starts(self, step: int, time: float) -> bool:
        """Whether a model call at this flow time is the one that a step starts with."""
        return abs(time - self.times[step]) <= _SAME_SIGMA * time

    def duration(self, step: int) -> float:
        """Flow time from a step to the next; negative."""
        return self.times[step + 1] - self.times[step]
