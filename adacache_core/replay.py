"""What a skipped step sees in place of the blocks: the residual of the last compute, or its forecast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import ConfigurationError


@dataclass(frozen=True)
class ComputedResidual:
    """Residual of one condition at one computed step.

    Attributes:
        time: flow time of the model call, 1 (noise) to 0 (video).
        residual: last block's output minus first block's input, ``[B, N, C]``, one tensor per stream of the model; or
            the model's output.
    """

    time: float
    residual: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all streams."""
        return sum(tensor.nbytes for tensor in self.residual)


def hold(times: Sequence[float], residuals: Sequence[Tensor], time: float) -> Tensor:
    """The residual of the last compute (AdaCache, Eq. 2).

    Args:
        times: flow times of the last computes, newest first.
        residuals: their residuals, any shape.
        time: flow time of the skipped step.
    """
    return residuals[0]


def forecast_time(time: float) -> float:
    """The variable in which residuals run straightest, of a flow time within 0 and 1.

    At high noise they follow the noise-to-signal ratio t / (1 - t), at low noise the logarithm of t; both offsets keep
    the ends finite. A line in it misses the next residuals of two small Wan models by 30 % less than a line in t,
    which overshoots at high noise: there a residual changes half as much in the next gap as the last gap suggests.
    """
    return 1 / (1.01 - time) + math.log(time + 0.02)


def forecast(times: Sequence[float], residuals: Sequence[Tensor], time: float) -> Tensor:
    """The line through the last two computes, extended to ``time``; held while there is only one.

    Linear in ``forecast_time``: higher orders lose at the gaps that are worth having. Evaluated in float32.
    """
    if len(residuals) < 2:
        return hold(times, residuals, time)
    last, before = forecast_time(times[0]), forecast_time(times[1])
    slope = (forecast_time(time) - last) / (last - before)
    new, old = residuals[0].float(), residuals[1].float()
    return new.add(new - old, alpha=slope)


@dataclass(frozen=True)
class Replay:
    """A way to replay: its name, how many computes it looks back on, and the function itself."""

    name: str
    order: int
    residual: Callable[[Sequence[float], Sequence[Tensor], float], Tensor]


HOLD = Replay("hold", 1, hold)
FORECAST = Replay("forecast", 2, forecast)


def replay_named(name: str) -> Replay:
    """``"hold"`` or ``"forecast"``; raises ``ConfigurationError`` for anything else."""
    for replay in (HOLD, FORECAST):
        if replay.name == name:
            return replay
    raise ConfigurationError(f'AdaCache: replay must be "hold" or "forecast", got {name!r}.')


def repayment(
    times: Sequence[float], skipped: Sequence[tuple[float, float]], time: float, duration: float, share: float = 1.0
) -> float:
    """How much of a compute's surprise to add to it, so as to undo the error of the steps skipped before it.

    At a compute the replay for that very step is known to be wrong by ``residual - replayed``. Before the last compute
    it was exact, so its error at a skipped step is about the ``phi(u) = prod (u - u_i) / (u_c - u_i)`` fold of that;
    u is the skipped step's ``forecast_time``, u_c this compute's, u_i those of the computes that it looked back on. An
    Euler step integrates ``error x duration``; the result times the surprise, added at this step, takes the sum back.

    Args:
        times: flow times of the computes before this one, newest first.
        skipped: flow time and duration (next time minus time) of the steps skipped since.
        time, duration: of this step.
        share: of the error to undo, 0 to 1.

    Returns:
        Factor of ``residual - replayed``, within -4 and 4.
    """
    this, *computed = map(forecast_time, (time, *times))

    def phi(skipped_time: float) -> float:
        return math.prod((forecast_time(skipped_time) - before) / (this - before) for before in computed)

    error = sum(skipped_duration * phi(skipped_time) for skipped_time, skipped_duration in skipped)
    return max(-4.0, min(share * error / duration, 4.0))
