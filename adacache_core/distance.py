"""How much a residual changed between two computed steps (AdaCache, Eq. 3, as released)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .errors import ShapeMismatchError
from .parallel import sum_over

_PIECE = 1 << 16


def l1_norm(x: Tensor) -> Tensor:
    """Sum of absolute values of a tensor of any shape, float64 0-d.

    Pieces of 65,536 values are summed in float32, as the released code sums everything; the pieces in float64,
    since a float32 sum of 100 million values, a usual residual, is a third too small on a CPU.
    """
    flat, dtype = x.flatten(), torch.promote_types(x.dtype, torch.float32)
    whole = flat.numel() // _PIECE * _PIECE
    pieces = torch.linalg.vector_norm(flat[:whole].view(-1, _PIECE), 1, dim=1, dtype=dtype)
    rest = torch.linalg.vector_norm(flat[whole:], 1, dtype=dtype)
    total: Tensor = pieces.sum(dtype=torch.float64) + rest.double()
    return total


def distance_terms(previous: Tensor, current: Tensor) -> Tensor:
    """The sums a distance is made of: ``[sum |previous - current|, sum |previous|]``, float64 of shape [2].

    Sums, so that terms of several conditions (or of several ranks holding a part of the tokens each) add up
    before the division: the released code takes one distance over both halves of a CFG batch.

    Args:
        previous, current: residuals of the same shape, e.g. ``[B, N, C]`` with N = frames x tokens per frame.

    Raises:
        ShapeMismatchError: the shapes differ.
    """
    if previous.shape != current.shape:
        raise ShapeMismatchError(
            f"AdaCache: residuals of shapes {tuple(previous.shape)} and {tuple(current.shape)} cannot be compared. "
            f"Start a new run when the resolution or the batch changes."
        )
    return torch.stack((l1_norm(previous - current), l1_norm(previous)))


def residual_distance(previous: Tensor, current: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Relative L1 distance ``||previous - current||_1 / ||previous||_1``, a float64 0-d tensor >= 0.

    With a process group, of the tokens of all its ranks.

    >>> float(residual_distance(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0])))
    0.25
    """
    change, norm = sum_over(group, distance_terms(previous, current))
    distance: Tensor = change / norm
    return distance
