"""The tensors that are kept between steps: the last residuals of every condition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import ConfigurationError, ShapeMismatchError
from .replay import ComputedResidual, Replay


@dataclass(frozen=True)
class Storage:
    """In which form and where residuals are kept.

    Attributes:
        form: ``"hidden"``, the hidden state's residual, exact; ``"output"``, the model's output, a small part of the
            bytes and 1 to 3 dB less; ``"auto"``, hidden while the free memory holds it.
        device: where they are kept; None is where they are computed.
        free_memory: bytes that may be used on a device, for ``"auto"``; None where nobody knows.
    """

    form: str = "auto"
    device: torch.device | None = None
    free_memory: Callable[[torch.device], float] | None = None

    def holds(self, computed: Sequence[ComputedResidual], depth: int) -> bool:
        """Whether there is room for ``depth`` computes of these sizes; as much again is needed to replay them."""
        if self.free_memory is None or not computed:
            return True
        device = self.device or computed[0].residual[0].device
        return 2 * depth * sum(residual.nbytes for residual in computed) <= self.free_memory(device)

    def require(self, count: int, device: torch.device) -> None:
        """Raises ``ConfigurationError`` where ``count`` bytes do not fit; ``device`` is where the model computes."""
        if not count or self.free_memory is None:
            return
        device = self.device or device
        free = max(self.free_memory(device), 0)
        if count > free:
            raise ConfigurationError(
                f"Token Refresh: it has to keep {count / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free on "
                f"{device}. Set cache_device to system memory, make the video smaller, or remove Token Refresh."
            )


class ResidualCache:
    """Residuals of the last computes, per condition.

    All blocks skip together and each adds a constant, so the sum of their residuals is the whole stack's output
    minus its input: one tensor per condition stands for two per block.

    Args:
        depth: computes kept per condition, 1 for ``hold``, 2 for ``forecast``.
        device: where they are kept; None is where they are computed.
    """

    def __init__(self, depth: int, device: torch.device | None = None) -> None:
        self.depth = depth
        self.device = device
        self._histories: dict[Hashable, tuple[ComputedResidual, ...]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._histories

    def history(self, key: Hashable) -> tuple[ComputedResidual, ...]:
        """Computes of a condition, newest first; empty where there is none."""
        return self._histories.get(key, ())

    def store(self, key: Hashable, computed: ComputedResidual, again: bool = False) -> None:
        """Keep a compute; one at the same time, or a second one of a step, takes the earlier one's place.

        The model calls of a step lie so close together that a line through them tells nothing about the steps ahead.

        Args:
            key: the condition.
            computed: its residual.
            again: whether this step has stored one for the condition before.

        Raises:
            ShapeMismatchError: the residual has another shape than the condition's last one.
        """
        history = self.history(key)
        if history and _shapes(history[0].residual) != _shapes(computed.residual):
            raise ShapeMismatchError(
                f"AdaCache: a residual of shape {_shapes(computed.residual)} cannot follow one of shape "
                f"{_shapes(history[0].residual)} within one run. This use of the model is not supported; bypass the "
                f"AdaCache node."
            )
        if history and (again or history[0].time == computed.time):
            history = history[1:]
        if self.device is not None:
            computed = replace(computed, residual=tuple(tensor.to(self.device) for tensor in computed.residual))
        self._histories[key] = (computed, *history)[: self.depth]

    def replayed(
        self, replay: Replay, keys: Sequence[Hashable], time: float, stream: int, device: torch.device
    ) -> Tensor:
        """What a replay makes of the residuals of these conditions, stacked along the batch; a new tensor.

        Args:
            replay: hold or forecast.
            keys: the conditions; all of them are in the cache.
            time: flow time of the skipped step.
            stream: which tensor of the residuals.
            device: where it is wanted.
        """
        replayed = []
        for key in keys:
            history = self.history(key)
            residuals = [computed.residual[stream].to(device) for computed in history]
            replayed.append(replay.residual([computed.time for computed in history], residuals, time))
        return torch.cat(replayed)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other conditions."""
        self._histories = {key: history for key, history in self._histories.items() if key in keys}

    @property
    def nbytes(self) -> int:
        """Bytes held by all residuals."""
        return sum(computed.nbytes for history in self._histories.values() for computed in history)


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)
