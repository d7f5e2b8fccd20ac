"""What has to be known of a model to cache inside of it: one row of data, no forward is copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import ConfigurationError, UnsupportedModelError


@dataclass(frozen=True)
class Sublayers:
    """The parts of a block that token refresh tells apart, as attribute paths on the block.

    Attributes:
        replayed: modules whose output comes from the cache at a partial step: self-attention, or where it is joint
            attention of text and video, what follows it.
        replayed_text: the same, of modules that see the prompt's tokens only.
        silent: modules that feed nothing but a replayed attention.
        cross_attention: modules that compute chosen queries only; argument 0 is ``[B, N, C]``.
        mlp: first and last module of an MLP, which compute chosen tokens only; often one and the same.
        keeps_attention: the attention's own result is kept, where the module after it takes in the MLP's too.
        text_first: the prompt's tokens stand before the video's in the MLP.
    """

    replayed: tuple[str, ...] = ()
    replayed_text: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    cross_attention: tuple[str, ...] = ()
    mlp: tuple[tuple[str, str], ...] = ()
    keeps_attention: bool = False
    text_first: bool = False

    @property
    def kept(self) -> tuple[str, ...]:
        """Modules as wide as what is kept of the video's tokens, one for each output."""
        last = tuple(last for _, last in self.mlp)
        return (*self.replayed, *self.cross_attention, *last, *(last if self.keeps_attention else ()))


@dataclass(frozen=True)
class Blocks:
    """A list of transformer blocks.

    Attributes:
        path: attribute path of the ``nn.ModuleList`` or ``nn.ModuleDict`` on the model.
        returns: the arguments (position or name) that a block returns in changed form; a skipped block
            returns them as they came. One is returned alone, several as a tuple. None stands for what a side
            block contributes to the main ones: nothing, on a skip.
        on_skip: called for every skipped block with its keyword arguments and what it returns first, for what a block
            leaves behind besides: the place of its tokens in a key/value cache.
        sublayers: parts of each block, for token refresh; None where it does not know them.
    """

    path: str
    returns: tuple[int | str | None, ...] = (0,)
    on_skip: Callable[[Mapping[str, Any], Tensor], None] | None = None
    sublayers: Sublayers | None = None


@dataclass(frozen=True)
class Forms:
    """How one hidden state is laid out, as einops patterns: before the blocks, at the head, and as plain tokens.

    Tokens are ``[B, N, C]`` with N = frames x rows x columns, in which form residuals are kept.
    """

    before: str
    head: str
    tokens: str


@dataclass(frozen=True)
class Stream:
    """A hidden state that runs through the blocks into a head.

    Attributes:
        head: attribute path of the module that reads the hidden state after the last block (argument 0).
        argument: argument of the first block (position or name) that is the hidden state before the stack.
        item: which one, where that argument is a tuple of hidden states.
        other_head: a head that the model may use in place of ``head``.
        loses_first_tokens: the model cuts reference tokens off the front before the head.
        forms: where the hidden state is not ``[B, N, C]`` throughout.
    """

    head: str
    argument: int | str = 0
    item: int | None = None
    other_head: str | None = None
    loses_first_tokens: bool = False
    forms: Forms | None = None


@dataclass(frozen=True)
class Layout:
    """What has to be known of a model family.

    Attributes:
        family: name for people.
        model: qualified name of the model's class.
        blocks: block lists, that of the first block to run first.
        streams: hidden states, each with its head; the video comes first.
        patch: frames, rows and columns of latent that make one token, or names of the model's attributes that say so.
        references_before: call arguments (latents) whose frames stand before the video's tokens in the sequence.
            Whatever else is in the sequence stands after them.
        video_last: the video's tokens are the last ones instead.
        frames_in_batch: the batch is ``videos x frames``, a sequence the tokens of one frame.
        guides: call argument with the positions of guide tokens, for which the latent itself has frames at its end.
        unneeded: call arguments that feed side stacks only; None on a skip.
        prefetches: the model fetches a block's weights before it calls the block.
    """

    family: str
    model: str
    blocks: tuple[Blocks, ...]
    streams: tuple[Stream, ...]
    patch: tuple[int | str, ...] = (1, 2, 2)
    references_before: tuple[str, ...] = ()
    video_last: bool = False
    frames_in_batch: bool = False
    guides: str | None = None
    unneeded: tuple[str, ...] = ()
    prefetches: bool = False

    def block_modules(self, model: nn.Module) -> Iterator[tuple[Blocks, nn.Module]]:
        """All blocks, the first to run first, each with the row it belongs to."""
        for blocks in self.blocks:
            modules = attrgetter(blocks.path)(model)
            for block in modules.values() if isinstance(modules, nn.ModuleDict) else modules:
                yield blocks, block

    def head_modules(self, model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
        """The heads, each with the number of its stream."""
        for index, stream in enumerate(self.streams):
            for path in filter(None, (stream.head, stream.other_head)):
                yield index, attrgetter(path)(model)

    def token_grid(
        self, latent_shape: tuple[int, ...], arguments: Mapping[str, Any] | None = None
    ) -> tuple[int, int, int]:
        """Frames, rows and columns of video tokens, reference frames excluded.

        Args:
            latent_shape: ``[B, C, T, H, W]``, or ``[B, C, H, W]`` of an image.
            arguments: arguments of the model call by name.
        """
        sizes = (1, *latent_shape[2:])[-3:]
        frames, rows, columns = (-(-size // int(patch)) for size, patch in zip(sizes, self.patch, strict=True))
        guides = (arguments or {}).get(self.guides or "")
        if guides is not None:
            frames -= guides.shape[2] // (rows * columns)
        return frames, rows, columns

    def video_tokens(
        self, tokens: Tensor, latent_shape: tuple[int, ...], arguments: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, int]:
        """The video's part of a hidden state ``[B, N, C]`` of the first stream, and its number of frames.

        Raises:
            ConfigurationError: the sequence does not hold every token of the grid.
        """
        frames, rows, columns = self.token_grid(latent_shape, arguments)
        if self.frames_in_batch:
            return rearrange(tokens, "(b t) n c -> b (t n) c", t=frames), frames
        count, spare = frames * rows * columns, tokens.shape[1] - frames * rows * columns
        if spare < 0:
            raise ConfigurationError(
                f"AdaCache MoReg: {self.family} keeps {tokens.shape[1]} tokens of a video of {frames} x {rows} x "
                f"{columns}, so that there is no motion between frames to measure. Remove MoReg."
            )
        references = [(arguments or {}).get(name) for name in self.references_before]
        before = sum(1 if latent.ndim == 4 else latent.shape[2] for latent in references if latent is not None)
        # No more than there is room for: some models take a reference latent and make nothing of it.
        first = spare if self.video_last else min(before * rows * columns, spare)
        return tokens[:, first : first + count], frames

    def video_places(
        self,
        latent_shape: tuple[int, ...] | None,
        arguments: Mapping[str, Any] | None,
        text_first: bool,
        count: int,
    ) -> tuple[Tensor, tuple[int, int, int]] | None:
        """Where in a sequence of ``count`` tokens the video's are, ``[N]``, and their frames, rows and columns.

        None where nobody knows: a part of the grid is missing, or there is no latent's shape.
        """
        if latent_shape is None:
            return None
        grid = self.token_grid(latent_shape, arguments)
        if count < math.prod(grid):
            return None
        layout = replace(self, video_last=True) if text_first else self
        places, _ = layout.video_tokens(torch.arange(count).view(1, count, 1), latent_shape, arguments)
        return places.flatten(), grid


def layout_of(model: nn.Module, layouts: Sequence[Layout]) -> Layout:
    """The layout of a model, checked against the model itself.

    Raises:
        UnsupportedModelError: no row is of its class, or the model lacks the modules that its row names.
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    layout = next((row for row in layouts if row.model == name), None)
    if layout is None:
        families = ", ".join(row.family for row in layouts)
        raise UnsupportedModelError(f"AdaCache: the model is a {name}, whose blocks are not known. Known: {families}.")
    try:
        complete = any(True for _ in layout.block_modules(model)) and any(True for _ in layout.head_modules(model))
        patch = _resolved(layout.patch, model)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"AdaCache: {name} has no {error.name!r}; this version of the model is laid out differently. "
            f"Update AdaCache."
        ) from error
    if not complete:
        raise UnsupportedModelError(f"AdaCache: {name} has no blocks in {layout.blocks[0].path!r}; nothing to cache.")
    return layout if patch == layout.patch else replace(layout, patch=patch)


def _resolved(patch: tuple[int | str, ...], model: nn.Module) -> tuple[int, ...]:
    """The patch as three numbers, attributes looked up; an image model's two numbers get one frame."""
    sizes = [attrgetter(size)(model) if isinstance(size, str) else size for size in patch]
    flat = [number or 1 for size in sizes for number in (size if isinstance(size, list | tuple) else (size,))]
    return (1, *flat)[-3:]
