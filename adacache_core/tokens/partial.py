"""The partial steps of one sampling run: what stands in for its skips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial as bound

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..inside.attach import Allocating
from ..inside.layout import Layout
from .choice import TokenCache, TokenRefresh
from .sublayers import Installing, TokenCall, module_at, refreshing


def bytes_per_token(model: nn.Module, layout: Layout, itemsize: int) -> int:
    """Bytes that are kept for one token of one condition, text and reference tokens aside."""
    width = 0
    for row, block in layout.block_modules(model):
        for path in row.sublayers.kept if row.sublayers else ():
            widths = [getattr(part, "out_features", 0) for part in module_at(block, path).modules()]
            width += [found for found in widths if found][-1]
    return width * itemsize


class TokenSteps:
    """Partial steps, as ``paper.run.ResidualRun`` takes them.

    Args:
        settings: the user's choices.
        installing: reaches the model's attention, see ``sublayers.py``.
        needed: bytes that are about to be kept; a run that has not so much memory ends before its first step.
        free_memory: bytes that are free on a device.
        allocating: see ``inside/attach.py``.
    """

    def __init__(
        self,
        settings: TokenRefresh,
        installing: Installing | None = None,
        needed: int = 0,
        free_memory: Callable[[torch.device], float] | None = None,
        allocating: Allocating = nullcontext,
    ) -> None:
        self.complete = settings.complete
        self._cache = TokenCache(settings, allocating)
        self._installing = installing
        self._needed = needed
        self._free_memory = free_memory

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._cache.nbytes

    def call(
        self,
        model: nn.Module,
        layout: Layout,
        keys: Sequence[Hashable],
        step: int,
        places: Callable[[bool, int], tuple[Tensor, tuple[int, int, int]] | None],
        partial: bool,
    ) -> AbstractContextManager[None]:
        """Around a model call: keep what it computes, or let it compute chosen tokens only.

        Raises:
            ConfigurationError: at the first call, where what is needed does not fit.
        """
        if self._free_memory is not None:
            # Not earlier: now the model is where it runs, and what is free is free.
            self._require(self._free_memory, next(model.parameters()).device)
            self._free_memory = None

        def grid(text_first: bool) -> Callable[[int], tuple[Tensor, tuple[int, int, int]] | None]:
            return bound(places, text_first)

        return refreshing(model, layout, TokenCall(self._cache, keys, step, grid, partial, self._installing))

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other conditions."""
        self._cache.keep(keys)

    def _require(self, free_memory: Callable[[torch.device], float], model_device: torch.device) -> None:
        chosen = self._cache.settings.device
        device = torch.device(chosen) if chosen else model_device
        free = max(free_memory(device), 0)
        if self._needed > free:
            advice = "make the video smaller" if chosen else "keep it in system memory, make the video smaller"
            raise ConfigurationError(
                f"Token Refresh: it has to keep {self._needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free on "
                f"{device}. What helps: {advice}, or remove Token Refresh."
            )
