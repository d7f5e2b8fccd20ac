"""One model call: it computes and hands its residuals over, or replays those of earlier computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from . import attach
from .errors import ShapeMismatchError
from .layout import Layout

# Gives the residuals of a call's conditions, stacked along the batch: of one stream (or output), on a device.
Replayed = Callable[[int, torch.device], Tensor]


@contextmanager
def recording(
    model: nn.Module, layout: Layout, keys: Sequence[Hashable], replayed: Replayed, owed: float, outputs: bool
) -> Iterator[dict[Hashable, tuple[Tensor, ...]]]:
    """Let the model compute; what is yielded holds the residuals of every condition afterwards, one per stream.

    Args:
        model: the module that holds the blocks.
        layout: its layout.
        keys: one per condition, in the order of the batch.
        replayed: what a skip would have replayed here.
        owed: the hidden state gets this fold of ``residual - replayed`` on top, see ``replay.repayment``.
        outputs: keep the model's outputs instead.
    """
    residuals: dict[Hashable, tuple[Tensor, ...]] = {}

    def keep(tensor: Tensor, dtype: torch.dtype) -> None:
        # Copies, or else one condition would hold the memory of all; and the sampler may change its output.
        for key, part in zip(keys, tensor.chunk(len(keys)), strict=True):
            residuals[key] = (*residuals.get(key, ()), part.to(dtype, copy=True))

    def record(stream: int, before: Tensor, after: Tensor) -> Tensor:
        change = after.float() - before.float()
        keep(change, after.dtype)
        if owed == 0:
            return after
        return after.float() + owed * (change - _fitting(replayed(stream, after.device), change))

    def record_output(index: int, output: Tensor) -> None:
        keep(output, output.dtype)

    with attach.computing_output(model, record_output) if outputs else attach.computing(model, layout, record):
        yield residuals


def replaying(
    model: nn.Module, layout: Layout, replayed: Replayed, output_dtypes: Sequence[torch.dtype]
) -> AbstractContextManager[None]:
    """Let no block run; the head sees the hidden state before the blocks plus what is replayed.

    Args:
        model: the module that holds the blocks.
        layout: its layout.
        replayed: residuals, or the model's outputs.
        output_dtypes: one per output where outputs are replayed; empty where residuals are.
    """

    def hidden(stream: int, before: Tensor) -> Tensor:
        return before.float() + _fitting(replayed(stream, before.device), before)

    def output(device: torch.device) -> list[Tensor]:
        return [replayed(index, device).to(dtype) for index, dtype in enumerate(output_dtypes)]

    return attach.skipping_output(model, output) if output_dtypes else attach.skipping(model, layout, hidden)


def _fitting(residual: Tensor, hidden: Tensor) -> Tensor:
    if residual.shape != hidden.shape:
        raise ShapeMismatchError(
            f"AdaCache: a residual of shape {tuple(residual.shape)} cannot be replayed onto a hidden state of shape "
            f"{tuple(hidden.shape)}. This use of the model is not supported; bypass the AdaCache node."
        )
    return residual
