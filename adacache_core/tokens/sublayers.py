"""Makes the sublayers of the blocks keep what they give, or replay it but for chosen tokens, for one model call.

As in ``inside/attach.py`` the ``forward`` of modules is shadowed and put back. Joint attention is no module: whoever
knows how the model finds its attention function installs ours around a block.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..inside.attach import Forward, shadowed
from ..inside.layout import Layout, Sublayers
from .choice import CROSS_ATTENTION, MLP, Grid, Place, TokenCache, entropy, influence

_ATTENTION = "attention"  # place of joint attention's result

# What stands in for an attention: called with what computes it, with queries and keys ``[B, H, N, D]`` and ``[B, H, K,
# D]``, and with a mask or None, as ``choice.entropy`` takes it; gives ``[B, N, H D]``.
Attention = Callable[[Callable[[], Tensor], Tensor, Tensor, Tensor | None], Tensor]
# Installs an attention for the length of one call of a block, given the block's keyword arguments.
Installing = Callable[[Mapping[str, Any], Attention], AbstractContextManager[None]]


@dataclass(frozen=True)
class TokenCall:
    """One model call.

    Attributes:
        cache: what is kept.
        keys: its conditions in the order of the batch.
        step: number of its step.
        grid: where the video's tokens are, text first or not.
        partial: whether it replays; else it computes all, and everything is kept.
        installing: see ``Installing``; None where a model's attention cannot be reached.
    """

    cache: TokenCache
    keys: Sequence[Hashable]
    step: int
    grid: Callable[[bool], Grid]
    partial: bool
    installing: Installing | None = None


@contextmanager
def refreshing(model: nn.Module, layout: Layout, call: TokenCall) -> Iterator[None]:
    """Let all blocks of a model keep or replay their sublayers, for the length of one model call."""
    blocks = [(row.sublayers, block) for row, block in layout.block_modules(model)]
    forwards: dict[nn.Module, Forward] = {}
    for index, (sublayers, block) in enumerate(blocks):
        if sublayers is not None:
            forwards |= _Block(call, sublayers, block, index, index / max(len(blocks) - 1, 1)).forwards()
    with shadowed(forwards):
        yield


def module_at(block: nn.Module, path: str) -> nn.Module:
    """A part of a block."""
    found: nn.Module = attrgetter(path)(block)
    return found


class _Block:
    def __init__(self, call: TokenCall, sublayers: Sublayers, block: nn.Module, index: int, depth: float) -> None:
        self.call, self.cache, self.sublayers, self.block = call, call.cache, sublayers, block
        self.index, self.depth = index, depth
        self.in_cross_attention = False

    def forwards(self) -> dict[nn.Module, Forward]:
        """What stands in for the ``forward`` of the block and of its parts."""
        made: dict[nn.Module, Forward] = {self.block: self._with_attention(self.block.forward)}
        for path in (*self.sublayers.replayed, *self.sublayers.replayed_text):
            module = module_at(self.block, path)
            made[module] = self._replayed((self.index, path), module.forward)
        for path in self.sublayers.silent if self.call.partial else ():
            module = module_at(self.block, path)
            made[module] = self._silent(module)
        for path in self.sublayers.cross_attention:
            module = module_at(self.block, path)
            made[module] = self._crossing(self._refreshed((self.index, path), CROSS_ATTENTION, module.forward))
        for first, last in self.sublayers.mlp:
            place = (self.index, last)
            if first != last and self.call.partial:
                module = module_at(self.block, first)
                made[module] = self._spread(place, module.forward)
            module = module_at(self.block, last)
            made[module] = self._refreshed(place, MLP, module.forward)
        return {module: torch.compiler.disable(forward) for module, forward in made.items()}  # type: ignore[no-untyped-call]

    def _replays(self, place: Place) -> bool:
        return self.call.partial and self.cache.holds(place, self.call.keys)

    def _keep(self, place: Place, output: Tensor) -> Tensor:
        self.cache.store(place, self.call.keys, output, self.call.step)
        return output

    def _kept(self, place: Place, device: torch.device) -> Tensor:
        return self.cache.replayed(place, self.call.keys, device)

    def _chosen(self, place: Place, sublayer: str, tokens: Tensor) -> Tensor:
        grid = self.call.grid(self.sublayers.text_first)
        return self.cache.chosen(place, sublayer, self.depth, tokens, self.call.step, grid)

    def _replayed(self, place: Place, original: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self._replays(place):
                return self._kept(place, x.device)
            return self._keep(place, original(x, *args, **kwargs))

        return forward

    def _refreshed(self, place: Place, sublayer: str, original: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not self._replays(place):
                return self._keep(place, original(x, *args, **kwargs))
            chosen = self._chosen(place, sublayer, x)
            if len(chosen):
                output = original(x.index_select(1, chosen), *args, **kwargs)
                self.cache.refresh(place, self.call.keys, chosen, output)
            return self._kept(place, x.device)

        return forward

    def _spread(self, place: Place, original: Forward) -> Forward:
        """An MLP's first module: computes chosen tokens and leaves the places of the others empty."""

        def forward(x: Tensor) -> Tensor:
            chosen = self._chosen(place, MLP, x) if self._replays(place) else None
            output: Tensor = original(x if chosen is None else x.index_select(1, chosen))
            if chosen is None:
                return output
            full: Tensor = output.new_zeros((*x.shape[:2], output.shape[2]))
            full[:, chosen] = output
            return full

        return forward

    def _silent(self, module: nn.Module) -> Forward:
        """What only feeds an attention that is replayed need not run; its output's shape is still looked at."""
        replayed = [(self.index, path) for path in self.sublayers.replayed]
        original = module.forward

        def forward(x: Tensor) -> Tensor:
            if not all(self._replays(place) for place in replayed):
                output: Tensor = original(x)
                return output
            nothing: Tensor = x.new_zeros((*x.shape[:-1], module.out_features))  # type: ignore[arg-type]
            return nothing

        return forward

    def _crossing(self, inner: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.in_cross_attention = True
            try:
                return inner(*args, **kwargs)
            finally:
                self.in_cross_attention = False

        return forward

    def _with_attention(self, original: Forward) -> Forward:
        """The block itself, with an attention function of ours."""
        installing = self.call.installing
        if installing is None:
            return original

        def forward(*args: Any, **kwargs: Any) -> Any:
            with installing(kwargs, self._attention):
                return original(*args, **kwargs)

        return forward

    def _attention(self, compute: Callable[[], Tensor], q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Attention``."""
        place = (self.index, _ATTENTION)
        if self.sublayers.keeps_attention and not self.in_cross_attention and self._replays(place):
            return self._kept(place, q.device)
        replayed = [(self.index, path) for path in self.sublayers.replayed]
        if self.sublayers.silent and not self.in_cross_attention and all(map(self._replays, replayed)):
            return rearrange(q, "b h n d -> b n (h d)")  # nobody reads it
        output = compute()
        self._score(q, k, mask)
        if self.sublayers.keeps_attention and not self.in_cross_attention:
            self._keep(place, output)
        return output

    def _score(self, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        """Scores that need attention maps, at computed steps, where they are asked for."""
        settings = self.cache.settings
        name = "entropy" if self.in_cross_attention else "influence"
        if self.call.partial or not getattr(settings, name) or (name == "influence" and q.shape != k.shape):
            return
        scores = influence(q, k) if name == "influence" else entropy(q, k, mask)
        self.cache.score(self.index, name, self.call.keys, scores)
