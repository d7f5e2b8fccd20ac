"""What a skipped step sees in place of the blocks: the residual of the last compute, or its forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import ConfigurationError


@dataclass(frozen=True)
class ComputedResidual:
    """Residual of one condition at one computed step.

    Attributes:
        time: flow time of the model call, 1 (noise) to 0 (video).
        residual: last block's output minus first block's input, ``[B, N, C]``; one tensor per stream of the model.
    """

    time: float
    residual: tuple[Tensor, ...]


def hold(history: Sequence[ComputedResidual], time: float) -> tuple[Tensor, ...]:
    """The residual of the last compute (AdaCache, Eq. 2). ``history`` is newest first."""
    return history[0].residual


def forecast(history: Sequence[ComputedResidual], time: float) -> tuple[Tensor, ...]:
    """The line through the last two computes, extended to ``time``; held while there is only one.

    Linear in flow time: higher orders lose at the gaps that are worth having, lower ones hold. Evaluated in float32.
    """
    if len(history) < 2:
        return hold(history, time)
    last, before = history[0], history[1]
    slope = (time - last.time) / (last.time - before.time)
    return tuple(
        new.float().add(new.float() - old.float(), alpha=slope)
        for new, old in zip(last.residual, before.residual, strict=True)
    )


@dataclass(frozen=True)
class Replay:
    """A way to replay: its name, how many computes it looks back on, and the function itself."""

    name: str
    order: int
    residual: Callable[[Sequence[ComputedResidual], float], tuple[Tensor, ...]]


HOLD = Replay("hold", 1, hold)
FORECAST = Replay("forecast", 2, forecast)


def replay_named(name: str) -> Replay:
    """``"hold"`` or ``"forecast"``; raises ``ConfigurationError`` for anything else."""
    for replay in (HOLD, FORECAST):
        if replay.name == name:
            return replay
    raise ConfigurationError(f'AdaCache: replay must be "hold" or "forecast", got {name!r}.')
