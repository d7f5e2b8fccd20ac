"""Which tokens a partial step computes, and what the others keep.

A partial step runs the blocks, but self-attention's output comes from the cache, and cross-attention and the MLP run
for a few chosen tokens. Outputs are kept as they are before their gates: the modulation of the current step applies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigurationError
from ..inside.attach import Allocating

CROSS_ATTENTION, MLP = "cross_attention", "mlp"
Place = tuple[int, str]  # number of the block, and path of the sublayer in it
Grid = Callable[[int], tuple[Tensor, tuple[int, int, int]] | None]
_MAP_ELEMENTS = 2**25  # of an attention map that is held at a time


@dataclass(frozen=True)
class TokenRefresh:
    """How many tokens a partial step computes, and which: those of the highest weighted sum of scores.

    Attributes:
        ratio: part of the tokens, 0 to 1; 1 leaves nothing to be cached, every step computes.
        influence: weight of s1, the attention that other tokens pay to a token. Makes attention maps, in pieces.
            Nothing where attention sees more tokens than the MLP (HunyuanVideo's double blocks), or is called without
            options (PixArt).
        entropy: weight of s2, the entropy of a token's cross-attention. Nothing where a family has joint
            attention, and in PixArt.
        age: weight of s3, partial steps since the token was computed, over steps since the last full compute.
        spread: weight of s4, a bonus for the best token of each cell of ``cell`` x ``cell`` within a frame.
        random: weight of a random number, the control.
        cell: edge of a cell in tokens.
        cross_attention, mlp: factors of the ratio for these sublayers; 0 replays them.
        depth: the first block computes 1 + depth, the last one 1 - depth times the ratio, the others in between.
        seed: of the random numbers.
        device: where sublayers' outputs are kept, as PyTorch names it; None is where they are computed.
    """

    ratio: float = 0.15
    influence: float = 0.0
    entropy: float = 0.0
    age: float = 0.25
    spread: float = 0.0
    random: float = 0.0
    cell: int = 2
    cross_attention: float = 1.0
    mlp: float = 1.0
    depth: float = 0.0
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigurationError(
                f"Token Refresh: ratio must be above 0 and at most 1, got {self.ratio:g}. Without Token Refresh no "
                f"token of a skipped step is computed."
            )
        for name in ("influence", "entropy", "age", "spread", "random", CROSS_ATTENTION, MLP):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"Token Refresh: {name} must not be negative, got {getattr(self, name):g}.")
        if not -1 <= self.depth <= 1:
            raise ConfigurationError(f"Token Refresh: depth must be within -1 and 1, got {self.depth:g}.")
        if self.cell < 1:
            raise ConfigurationError(f"Token Refresh: cell must be at least 1, got {self.cell}.")

    def share(self, sublayer: str, depth: float) -> float:
        """Part of the tokens that a sublayer computes; ``depth`` is 0 at the first block and 1 at the last one."""
        factor = self.cross_attention if sublayer == CROSS_ATTENTION else self.mlp
        return min(self.ratio * factor * (1 + self.depth - 2 * self.depth * depth), 1.0)

    @property
    def complete(self) -> bool:
        """Whether every token of every sublayer is chosen, so that there is nothing to gain from a partial step."""
        return all(self.share(sublayer, depth) == 1 for sublayer in (CROSS_ATTENTION, MLP) for depth in (0.0, 1.0))


# ToCa on Open-Sora: about 15 % of the MLP's tokens, cross-attention from the cache, age 0.25 (the paper). The weights
# of entropy and spread are ours.
OPEN_SORA = TokenRefresh(ratio=0.15, entropy=1.0, age=0.25, spread=0.4, cross_attention=0.0)
# The control that the authors' follow-up found hard to beat.
RANDOM = TokenRefresh(ratio=0.15, age=0.0, random=1.0, cross_attention=0.0)


def influence(q: Tensor, k: Tensor) -> Tensor:
    """s1: the attention that each token gets from all tokens, mean over heads, over its maximum; ``[B, N]``.

    Args:
        q, k: queries and keys ``[B, H, N, D]``.
    """
    sums = torch.stack([rows.sum(2).mean(1) for rows in _attention(q, k, None)]).sum(0)
    return sums / sums.amax(1, keepdim=True)


def entropy(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """s2: entropy of each token's attention over the prompt, mean over heads, over its largest value; ``[B, N]``.

    Args:
        q, k: queries ``[B, H, N, D]`` and keys ``[B, H, K, D]``.
        mask: added to the products, or true where a key counts; ``[..., 1, K]``.
    """
    found = [-torch.xlogy(rows, rows).sum(-1).mean(1) for rows in _attention(q, k, mask)]
    return torch.cat(found, 1) / torch.tensor(max(k.shape[2], 2)).log().item()


def _attention(q: Tensor, k: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    """Attention maps ``[B, H, n, K]`` of a few queries at a time: a whole map of a video would fill any memory."""
    count = max(_MAP_ELEMENTS // (q.shape[0] * q.shape[1] * k.shape[2]), 1)
    for queries in torch.split(q, count, 2):
        products = queries.float() @ k.float().transpose(2, 3) / q.shape[3] ** 0.5
        if mask is not None:
            products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
        yield products.softmax(-1)


def best_of_cells(scores: Tensor, grid: tuple[int, int, int], cell: int) -> Tensor:
    """s4: 1 for the best token of each cell, else 0; ``[N]``.

    Args:
        scores: ``[N]``, N = frames x rows x columns.
        grid: frames, rows, columns.
        cell: edge of a cell; cells at the edges are smaller where it does not divide them.
    """
    _, rows, columns = grid
    edges = (0, -columns % cell, 0, -rows % cell)
    padded = functional.pad(scores.view(grid), edges, value=-torch.inf)
    cells = rearrange(padded, "t (h a) (w b) -> t h w (a b)", a=cell, b=cell)
    best = functional.one_hot(cells.argmax(-1), cell * cell)
    best = rearrange(best, "t h w (a b) -> t (h a) (w b)", a=cell)[:, :rows, :columns]
    return best.flatten().to(scores.dtype)


class TokenCache:
    """Outputs of the blocks' sublayers per condition, and the tokens that the partial steps chose.

    Conditions with equally many tokens share the choice, as both halves of guidance must.

    Args:
        settings: the user's choices.
        allocating: see ``inside/attach.py``.
    """

    def __init__(self, settings: TokenRefresh, allocating: Allocating = nullcontext) -> None:
        self.settings = settings
        self._allocating = allocating
        self._kept: dict[tuple[Place, Hashable], Tensor] = {}
        self._scores: dict[tuple[int, str, Hashable], Tensor] = {}
        self._computed: dict[tuple[Place, int], int] = {}  # step of the last full compute
        self._refreshed: dict[tuple[Place, int], Tensor] = {}  # step, per token
        self._choices: dict[tuple[Place, int], tuple[int, Tensor]] = {}
        self._lock = threading.Lock()

    def holds(self, place: Place, keys: Sequence[Hashable]) -> bool:
        """Whether there is something to replay at a place."""
        return all((place, key) in self._kept for key in keys)

    def store(self, place: Place, keys: Sequence[Hashable], output: Tensor, step: int) -> None:
        """Keep a full output ``[B, N, C]`` of conditions that are stacked along the batch."""
        with self._allocating():
            for key, part in zip(keys, output.chunk(len(keys)), strict=True):
                self._kept[place, key] = part.to(self.settings.device or part.device, copy=True)
        with self._lock:
            self._computed[place, output.shape[1]] = step
            self._refreshed.pop((place, output.shape[1]), None)

    def refresh(self, place: Place, keys: Sequence[Hashable], chosen: Tensor, output: Tensor) -> None:
        """Put the output ``[B, n, C]`` of chosen tokens ``[n]`` in the place of the kept one."""
        for key, part in zip(keys, output.chunk(len(keys)), strict=True):
            kept = self._kept[place, key]
            kept.index_copy_(1, chosen.to(kept.device), part.to(kept))

    def replayed(self, place: Place, keys: Sequence[Hashable], device: torch.device) -> Tensor:
        """The kept outputs of these conditions, stacked along the batch; a new tensor ``[B, N, C]``."""
        return torch.cat([self._kept[place, key].to(device) for key in keys])

    def score(self, block: int, name: str, keys: Sequence[Hashable], scores: Tensor) -> None:
        """Keep ``"influence"`` or ``"entropy"`` of a block, ``[B, N]``."""
        with self._allocating():
            for key, part in zip(keys, scores.chunk(len(keys)), strict=True):
                self._scores[block, name, key] = part.mean(0)

    def chosen(self, place: Place, sublayer: str, depth: float, tokens: Tensor, step: int, grid: Grid) -> Tensor:
        """Ascending indices ``[n]`` of the tokens to compute, the same for all calls of a step.

        Args:
            place: block and sublayer.
            sublayer: ``CROSS_ATTENTION`` or ``MLP``.
            depth: 0 at the first block, 1 at the last one.
            tokens: what goes into the sublayer, ``[B, N, C]``.
            step: number of the step.
            grid: gives for N the indices of the video's tokens and their frames, rows and columns; or None.
        """
        count, device = tokens.shape[1], tokens.device
        with self._lock, self._allocating():
            known = self._choices.get((place, count))
            if known is None or known[0] != step:
                number = round(count * self.settings.share(sublayer, depth))
                scores = self._total(place, sublayer, count, step, grid, device)
                # Sorted stably, or else it would depend on the device which of equals are chosen.
                chosen = scores.argsort(descending=True, stable=True)[:number].sort().values
                refreshed = self._refreshed_at(place, count, device)
                self._refreshed[place, count] = refreshed.index_fill(0, chosen, step)
                known = self._choices[place, count] = (step, chosen)
        return known[1].to(device)

    def _refreshed_at(self, place: Place, count: int, device: torch.device) -> Tensor:
        known = self._refreshed.get((place, count))
        if known is not None:
            return known.to(device)
        return torch.full((count,), self._computed[place, count], device=device)

    def _total(self, place: Place, sublayer: str, count: int, step: int, grid: Grid, device: torch.device) -> Tensor:
        settings, (block, _) = self.settings, place
        total = torch.zeros(count, device=device)
        for (scored, name, _), scores in self._scores.items():
            if scored == block and len(scores) == count:
                total += getattr(settings, name) * scores.to(device)
        since = max(step - self._computed[place, count], 1)
        total += settings.age * (step - self._refreshed_at(place, count, device)) / since
        if settings.random:
            # On the CPU, so that all devices choose alike.
            seed = ((settings.seed * 1_000_003 + step) * 1_000_003 + block) * 2 + (sublayer == MLP)
            generator = torch.Generator().manual_seed(seed % 2**63)
            total += settings.random * torch.rand(count, generator=generator).to(device)
        video = grid(count) if settings.spread else None
        if video is not None:
            places, shape = video[0].to(device), video[1]
            total[places] += settings.spread * best_of_cells(total[places], shape, settings.cell)
        return total

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other conditions."""
        self._kept = {at: tensor for at, tensor in self._kept.items() if at[1] in keys}
        self._scores = {at: tensor for at, tensor in self._scores.items() if at[2] in keys}
        if not self._kept:
            self._computed, self._refreshed, self._choices = {}, {}, {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for kept in (self._kept, self._scores) for tensor in kept.values())
