"""Makes the sublayers of the blocks keep what they give, or replay it but for chosen tokens, for one model call.

As in ``attach.py`` the ``forward`` of modules is shadowed and put back. Joint attention is no module: the function
that computes it is reached through the option ``optimized_attention_override`` of the model call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .attach import Forward, shadowed
from .errors import UnsupportedModelError
from .layout import Layout, Sublayers
from .layouts import LAYOUTS
from .tokens import CROSS_ATTENTION, MLP, Grid, Place, TokenCache, entropy, influence

_OVERRIDE = "optimized_attention_override"
_ATTENTION = "attention"  # place of joint attention's result


@dataclass(frozen=True)
class TokenCall:
    """One model call: its conditions in the order of the batch, its step, and where the video's tokens are.

    ``partial`` tells whether it replays; else it computes all, and everything is kept.
    """

    cache: TokenCache
    keys: Sequence[Hashable]
    step: int
    grid: Callable[[bool], Grid]
    partial: bool


def require_sublayers(layout: Layout) -> None:
    """Raises ``UnsupportedModelError`` where token refresh does not know the parts of a family's blocks."""
    if not any(blocks.sublayers for blocks in layout.blocks):
        families = ", ".join(row.family for row in LAYOUTS if any(blocks.sublayers for blocks in row.blocks))
        raise UnsupportedModelError(
            f"Token Refresh: the model is a {layout.family}, whose blocks it does not know in parts. It works with: "
            f"{families}. Remove the Token Refresh node, or load one of these."
        )


def bytes_per_token(model: nn.Module, layout: Layout, itemsize: int) -> int:
    """Bytes that the cache takes for one token of one condition, text and reference tokens aside."""
    width = 0
    for row, block in layout.block_modules(model):
        for path in row.sublayers.kept if row.sublayers else ():
            widths = [getattr(part, "out_features", 0) for part in _module(block, path).modules()]
            width += [found for found in widths if found][-1]
    return width * itemsize


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


class _Block:
    def __init__(self, call: TokenCall, sublayers: Sublayers, block: nn.Module, index: int, depth: float) -> None:
        self.call, self.cache, self.sublayers, self.block = call, call.cache, sublayers, block
        self.index, self.depth = index, depth
        self.in_cross_attention = False

    def forwards(self) -> dict[nn.Module, Forward]:
        """What stands in for the ``forward`` of the block and of its parts."""
        made: dict[nn.Module, Forward] = {self.block: self._with_attention(self.block.forward)}
        for path in (*self.sublayers.replayed, *self.sublayers.replayed_text):
            module = _module(self.block, path)
            made[module] = self._replayed((self.index, path), module.forward)
        for path in self.sublayers.silent if self.call.partial else ():
            module = _module(self.block, path)
            made[module] = self._silent(module)
        for path in self.sublayers.cross_attention:
            module = _module(self.block, path)
            made[module] = self._crossing(self._refreshed((self.index, path), CROSS_ATTENTION, module.forward))
        for first, last in self.sublayers.mlp:
            place = (self.index, last)
            if first != last and self.call.partial:
                module = _module(self.block, first)
                made[module] = self._spread(place, module.forward)
            module = _module(self.block, last)
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
        """The block itself, with an attention function of ours in its options."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            options = kwargs.get("transformer_options")
            if options is None:
                return original(*args, **kwargs)
            previous = options.get(_OVERRIDE)
            # In place, since blocks leave notes for each other in their options.
            options[_OVERRIDE] = self._attention(previous)
            try:
                return original(*args, **kwargs)
            finally:
                if previous is None:
                    del options[_OVERRIDE]
                else:
                    options[_OVERRIDE] = previous

        return forward

    def _attention(self, previous: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        place = (self.index, _ATTENTION)

        def attention(
            function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
        ) -> Tensor:
            def compute() -> Tensor:
                if previous is None:
                    return function(q, k, v, *args, **kwargs)
                return previous(function, q, k, v, *args, **kwargs)

            if self.in_cross_attention:
                self._score(q, k, *args, **kwargs)
                return compute()
            if self.sublayers.keeps_attention:
                if self._replays(place):
                    return self._kept(place, q.device)
                return self._keep(place, self._scored(compute(), q, k, *args, **kwargs))
            if self.sublayers.silent and all(self._replays((self.index, path)) for path in self.sublayers.replayed):
                # Joint attention gives [B, N, C]; nobody reads it.
                return q.transpose(1, 2).flatten(2) if kwargs.get("skip_reshape") else q
            return self._scored(compute(), q, k, *args, **kwargs)

        return attention

    def _scored(self, output: Tensor, q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._score(q, k, *args, **kwargs)
        return output

    def _score(
        self, q: Tensor, k: Tensor, heads: int, mask: Any = None, *args: Any, skip_reshape: bool = False, **kwargs: Any
    ) -> None:
        """Scores that need attention maps, at computed steps, where they are asked for."""
        settings = self.cache.settings
        name = "entropy" if self.in_cross_attention else "influence"
        if self.call.partial or not getattr(settings, name) or (name == "influence" and q.shape != k.shape):
            return
        if not skip_reshape:
            q, k = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k))
        if name == "influence":
            scores = influence(q, k)
        else:
            scores = entropy(q, k, mask if isinstance(mask, Tensor) else None)
        self.cache.score(self.index, name, self.call.keys, scores)


def _module(block: nn.Module, path: str) -> nn.Module:
    found: nn.Module = attrgetter(path)(block)
    return found
