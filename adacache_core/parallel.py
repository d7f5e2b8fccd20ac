"""Sequence parallelism: every rank holds an equal part of the tokens, in rank order, and all must decide alike."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup


def sum_over(group: ProcessGroup | None, terms: Tensor) -> Tensor:
    """``terms`` summed over the ranks of a group; as they are without one."""
    if group is not None:
        torch.distributed.all_reduce(terms, group=group)
    return terms


def gather_tokens(group: ProcessGroup | None, part: Tensor) -> Tensor:
    """All tokens ``[B, N, C]`` of a sequence of which every rank has a part ``[B, N / ranks, C]``.

    Motion needs them, since the same place in the next frame may lie on another rank.
    """
    if group is None:
        return part
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, part.contiguous(), group=group)
    return torch.cat(parts, dim=1)
