"""What the blocks added to the hidden state when they last ran, per condition; a skipped step adds it again.

All blocks skip together and each adds a constant, so the sum of their residuals is the whole stack's output minus its
input: one tensor per condition and stream stands for two per block, and a skip holds the last one (AdaCache, Eq. 2).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import ShapeMismatchError
from ..inside.attach import Allocating, computing, skipping
from ..inside.layout import Layout

# One tensor [B, N, C] for each stream of the model.
Residual = tuple[Tensor, ...]


class ResidualCache:
    """The last residual of every condition.

    Args:
        allocating: see ``Allocating``.
    """

    def __init__(self, allocating: Allocating = nullcontext) -> None:
        self._allocating = allocating
        self._kept: dict[Hashable, Residual] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def last(self, key: Hashable) -> Residual | None:
        """The residual of a condition; None where there is none."""
        return self._kept.get(key)

    def store(self, key: Hashable, residual: Residual) -> None:
        """Keep a residual in place of the condition's last one."""
        self._kept[key] = residual

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other conditions."""
        self._kept = {key: residual for key, residual in self._kept.items() if key in keys}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for residual in self._kept.values() for tensor in residual)

    @contextmanager
    def computing(
        self, model: nn.Module, layout: Layout, keys: Sequence[Hashable]
    ) -> Iterator[dict[Hashable, Residual]]:
        """Let the model compute; what is yielded holds the residual of every condition afterwards.

        Nothing where the first block is bypassed by somebody's replacement.

        Args:
            model: the module that holds the blocks.
            layout: its layout.
            keys: one per condition, in the order of the batch.
        """
        residuals: dict[Hashable, Residual] = {}

        def record(stream: int, before: Tensor, after: Tensor) -> None:
            with self._allocating():
                for key, old, new in zip(keys, before.chunk(len(keys)), after.chunk(len(keys)), strict=True):
                    # One tensor per condition, or else one would hold the memory of all. Half precision is subtracted
                    # in float32 and rounded once, by PyTorch itself.
                    residuals[key] = (*residuals.get(key, ()), torch.sub(new, old).to(new.dtype))

        with computing(model, layout, record, self._allocating):
            yield residuals

    def skipping(self, model: nn.Module, layout: Layout, keys: Sequence[Hashable]) -> AbstractContextManager[None]:
        """Let no block run; the head sees the hidden state before the blocks plus the last residuals."""
        # What is kept now: another thread may forget it before the model gets there.
        return skipping(model, layout, partial(_replayed, [self._kept[key] for key in keys]), self._allocating)


def _replayed(residuals: Sequence[Residual], stream: int, before: Tensor) -> Tensor:
    residual = torch.cat([tensors[stream].to(before.device) for tensors in residuals])
    if residual.shape != before.shape:
        raise ShapeMismatchError(
            f"AdaCache: a residual of shape {tuple(residual.shape)} cannot be replayed onto a hidden state of shape "
            f"{tuple(before.shape)}. This use of the model is not supported; bypass AdaCache."
        )
    return before + residual
