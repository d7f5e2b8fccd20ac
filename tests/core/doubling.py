"""A model whose every value can be worked out by hand: each block doubles, the head passes on what it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adacache_core.inside.layout import Blocks, Layout, Stream


class Allocating:
    """Stands in for the place where what outlives a model's forward is allocated; knows whether one is in it."""

    def __init__(self) -> None:
        self.inside = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False


class Doubling(nn.Module):
    """``x -> 2 x``; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


class InPlaceDoubling(Doubling):
    """Doubles its input in place, as HunyuanVideo's and LTX's blocks change theirs."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mul_(2)


class Seeing(nn.Module):
    """A head that keeps what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.clone()
        return x


class DoublingModel(nn.Module):
    """Three blocks: stack input 1 gives stack output 8, residual 7."""

    def __init__(self, block: type[Doubling] = Doubling, count: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(count))
        self.head = Seeing()

    def forward(self, x: Tensor) -> Tensor:
        # A view of the caller's tensor reaches the first block, as in a model whose embedding is the identity.
        hidden = x.view_as(x)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)

    @property
    def block_calls(self) -> int:
        return sum(block.calls for block in self.blocks)


LAYOUT = Layout("doubling", "doubling.DoublingModel", (Blocks("blocks"),), (Stream(head="head"),))


def ones(value: float = 1.0, batch: int = 1) -> Tensor:
    """Hidden state ``[batch, 4 tokens, 2 channels]``."""
    return torch.full((batch, 4, 2), float(value))
