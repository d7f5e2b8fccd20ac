"""The noise levels of a sampling run, and the time they are measured in."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

# Two sigmas closer than this (relative) are one: samplers recompute them with float32 rounding.
SAME_SIGMA = 1e-4


def same_sigma(one: float, other: float) -> bool:
    """Whether two sigmas are one noise level."""
    return abs(one - other) <= SAME_SIGMA * abs(other)


def flow_time(signal: float, noise: float) -> float:
    """Flow-matching time of a noisy latent ``signal * video + noise * epsilon``: 0 is the video, 1 is noise alone.

    The same for every parameterisation: a flow model has ``signal = 1 - sigma, noise = sigma``, a variance-exploding
    one (eps, v, EDM in k-diffusion's form) ``signal = 1, noise = sigma``.
    """
    return noise / (signal + noise)


@dataclass(frozen=True)
class Steps:
    """The schedule of a run.

    Args:
        sigmas: noise levels in the order in which they are sampled; the last one ends the run and is no step. Mostly
            descending; restarts go back up, unsampling goes upwards only.
        scales: how much signal and how much noise the latent holds at a sigma.
        before, after: levels of the run that these are a part of (two experts, KSampler Advanced, SplitSigmas), where
            others sample; empty for a whole run.

    Attributes:
        times: flow time of every step.
    """

    sigmas: tuple[float, ...]
    scales: Callable[[float], tuple[float, float]]
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    times: tuple[float, ...] = field(init=False)
    _ascending: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(self.time(sigma) for sigma in self.sigmas[:-1]))
        object.__setattr__(self, "_ascending", tuple(sorted(-sigma for sigma in self.sigmas[:-1])))

    def __len__(self) -> int:
        return len(self.times)

    def time(self, sigma: float) -> float:
        """Flow time of any sigma."""
        return flow_time(*self.scales(sigma))

    @property
    def falls(self) -> list[float]:
        """Share of its noise that each step takes, which is what an error of its prediction makes of Euler's state."""
        ends = [*self.times[1:], self.time(self.sigmas[-1])]
        return [abs(1 - after / time) for time, after in zip(self.times, ends, strict=True)]

    @property
    def whole(self) -> Steps:
        """The steps of the run that these are a part of."""
        return Steps((*self.before, *self.sigmas, *self.after), self.scales)

    @property
    def share(self) -> float:
        """Which part of the whole run these steps are, 0 to 1."""
        return len(self) / (len(self.before) + len(self) + len(self.after))

    @property
    def handed_on(self) -> float | None:
        """Flow time at which others go on with the run; None where it ends."""
        return self.time(self.sigmas[-1]) if self.after else None

    def of(self, sigma: float) -> int:
        """Zero-based step that a model call at this noise level belongs to: the last one that is not below it.

        Midpoints of samplers with several calls belong to the step they start from. Steps count from the noisiest on,
        in whatever order they are sampled.
        """
        tolerated = -sigma + abs(sigma) * SAME_SIGMA
        return max(bisect.bisect_right(self._ascending, tolerated) - 1, 0)
