"""Where the blocks and the head of each model family are: one row of data per family, no forward is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from torch import nn

from .errors import UnsupportedModelError


@dataclass(frozen=True)
class Blocks:
    """A list of transformer blocks.

    Attributes:
        path: attribute path of the ``nn.ModuleList`` or ``nn.ModuleDict`` on the model.
        returns: the arguments (position or name) that a block returns in changed form; a skipped block
            returns them as they came. One is returned alone, several as a tuple.
    """

    path: str
    returns: tuple[int | str, ...] = (0,)


@dataclass(frozen=True)
class Stream:
    """A hidden state that runs through the blocks into a head.

    Attributes:
        head: attribute path of the module that reads the hidden state after the last block (argument 0).
        argument: argument of the first block (position or name) that is the hidden state before the stack.
    """

    head: str
    argument: int | str = 0


@dataclass(frozen=True)
class Layout:
    """What AdaCache needs to know of a model family.

    Attributes:
        family: name for people.
        model: qualified name of the model's class.
        blocks: block lists in the order they run.
        streams: hidden states, each with its head.
        patch: frames, rows and columns of latent that make one token.
        reference_tokens: where tokens that are not part of the video stand in the sequence, ``"first"`` or ``"last"``.
    """

    family: str
    model: str
    blocks: tuple[Blocks, ...]
    streams: tuple[Stream, ...]
    patch: tuple[int, int, int] = (1, 2, 2)
    reference_tokens: str = "first"

    def block_modules(self, model: nn.Module) -> Iterator[tuple[Blocks, nn.Module]]:
        """All blocks in the order they run, each with the row it belongs to."""
        for blocks in self.blocks:
            modules = attrgetter(blocks.path)(model)
            for block in modules.values() if isinstance(modules, nn.ModuleDict) else modules:
                yield blocks, block

    def head_modules(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """The head of every stream."""
        return tuple(attrgetter(stream.head)(model) for stream in self.streams)

    def token_grid(self, latent_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Frames, rows and columns of video tokens for a latent of shape ``[B, C, T, H, W]``."""
        return tuple(-(-size // patch) for size, patch in zip(latent_shape[2:5], self.patch, strict=True))  # type: ignore[return-value]


LAYOUTS = (
    Layout(
        family="Wan 2.1 / 2.2",
        model="comfy.ldm.wan.model.WanModel",
        blocks=(Blocks("blocks"),),
        streams=(Stream(head="head"),),
    ),
)


def layout_of(model: nn.Module, layouts: tuple[Layout, ...] = LAYOUTS) -> Layout:
    """The layout of a model, checked against the model itself.

    Raises:
        UnsupportedModelError: the class is not in the table, or the model lacks the modules its row names.
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    layout = next((row for row in layouts if row.model == name), None)
    if layout is None:
        families = ", ".join(row.family for row in layouts)
        raise UnsupportedModelError(
            f"AdaCache: the model is a {name}, which is not a video DiT that AdaCache knows. "
            f"Load one of: {families}; or bypass the AdaCache node."
        )
    try:
        complete = any(True for _ in layout.block_modules(model)) and bool(layout.head_modules(model))
    except AttributeError as error:
        raise UnsupportedModelError(
            f"AdaCache: {name} has no {error.name!r}; this version of the model is laid out differently. "
            f"Update AdaCache, or bypass the AdaCache node."
        ) from error
    if not complete:
        raise UnsupportedModelError(f"AdaCache: {name} has no blocks in {layout.blocks[0].path!r}; nothing to cache.")
    return layout
