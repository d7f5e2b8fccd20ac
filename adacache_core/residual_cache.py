"""The tensors that are kept between steps: the last residuals of every condition."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from .errors import ShapeMismatchError
from .replay import ComputedResidual


class ResidualCache:
    """Residuals of the last computes, per condition.

    All blocks skip together and each adds a constant, so the sum of their residuals is the whole stack's output
    minus its input: one tensor per condition stands for two per block.

    Args:
        depth: computes kept per condition, 1 for ``hold``, 2 for ``forecast``.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._histories: dict[Hashable, tuple[ComputedResidual, ...]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._histories

    def history(self, key: Hashable) -> tuple[ComputedResidual, ...]:
        """Computes of a condition, newest first; empty where there is none."""
        return self._histories.get(key, ())

    def store(self, key: Hashable, computed: ComputedResidual) -> None:
        """Keep a compute; one at the same time (a second model call of a step) takes the earlier one's place.

        Raises:
            ShapeMismatchError: the residual has another shape than the condition's last one.
        """
        history = self.history(key)
        if history and _shapes(history[0].residual) != _shapes(computed.residual):
            raise ShapeMismatchError(
                f"AdaCache: a residual of shape {_shapes(computed.residual)} cannot follow one of shape "
                f"{_shapes(history[0].residual)}. Give another key to a condition of another shape."
            )
        if history and history[0].time == computed.time:
            history = history[1:]
        self._histories[key] = (computed, *history)[: self.depth]

    def discard(self, key: Hashable) -> None:
        """Forget a condition."""
        self._histories.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Bytes held by all residuals."""
        return sum(
            tensor.nbytes
            for history in self._histories.values()
            for computed in history
            for tensor in computed.residual
        )


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)
