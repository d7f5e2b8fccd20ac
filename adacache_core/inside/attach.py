"""The one mechanism that makes a model compute or skip its blocks, for the length of one call.

The ``forward`` of the blocks and of the heads is shadowed by an instance attribute and put back afterwards. The
first block notes the hidden state before the stack. On a skip every block returns its input unchanged, and the head
reads ``noted input + residual``. Replacing at the head, rather than adding along the way, keeps whatever the model
adds between blocks (ControlNet, VACE) from counting twice: the residual already holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from einops import parse_shape, rearrange
from torch import Tensor, nn

from ..errors import ConfigurationError, ShapeMismatchError
from .layout import Blocks, Layout, Stream

Forward = Callable[..., Any]
# Put around what is allocated in a call of the model or of a block and outlives it.
Allocating = Callable[[], AbstractContextManager[Any]]
_ABSENT = object()


@contextmanager
def shadowed(forwards: dict[nn.Module, Forward]) -> Iterator[None]:
    """Replace ``forward`` of some modules; whatever stood there before is restored, also after an exception."""
    previous = {module: module.__dict__.get("forward", _ABSENT) for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in previous.items():
            if forward is _ABSENT:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


@contextmanager
def computing(
    model: nn.Module,
    layout: Layout,
    record: Callable[[int, Tensor, Tensor], None],
    allocating: Allocating = nullcontext,
) -> Iterator[None]:
    """Let the model compute, and report every stream's hidden state before and after the blocks.

    Args:
        record: called as ``record(stream_index, before, after)`` with tensors of the same shape ``[B, N, C]``, of which
            neither may be changed or kept. Not called where the first block is bypassed by somebody's replacement.
        allocating: see ``Allocating``.
    """
    noted: dict[int, Tensor] = {}
    report = _outside_of_graphs(record)

    def head(index: int, stream: Stream, original: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if index in noted:
                report(index, *_as_tokens(stream, noted.pop(index), x))
            return original(x, *args, **kwargs)

        return forward

    _, first = next(layout.block_modules(model))
    forwards = {first: _noting(layout.streams, noted, first.forward, allocating)}
    forwards |= _heads(model, layout, head)
    with shadowed(forwards):
        yield


@contextmanager
def skipping(
    model: nn.Module,
    layout: Layout,
    replay: Callable[[int, Tensor], Tensor],
    allocating: Allocating = nullcontext,
) -> Iterator[None]:
    """Let no block run; every head reads what ``replay`` makes of the hidden state before the blocks.

    Args:
        replay: called as ``replay(stream_index, before)``, returns the hidden state after the blocks, same shape.
        allocating: see ``Allocating``.
    """
    noted: dict[int, Tensor] = {}
    replayed = _outside_of_graphs(replay)

    def head(index: int, stream: Stream, original: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if index not in noted:
                raise ConfigurationError(
                    "AdaCache: something replaced the first block of the model at a step that is skipped, so that "
                    "nothing tells what goes into the blocks. Remove it, or AdaCache."
                )
            before = noted.pop(index)
            after = replayed(index, _as_tokens(stream, before, x)[0])
            return original(_at_head(stream, after.to(x.dtype), before, x), *args, **kwargs)

        return forward

    blocks = list(layout.block_modules(model))
    forwards = {block: _identity(row) for row, block in blocks}
    forwards[blocks[0][1]] = _noting(layout.streams, noted, forwards[blocks[0][1]], allocating)
    forwards |= _heads(model, layout, head)
    with shadowed(forwards):
        yield


def _outside_of_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps ``torch.compile`` from tracing what differs from step to step, which would compile the model anew."""
    outside: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return outside


def _heads(
    model: nn.Module, layout: Layout, head: Callable[[int, Stream, Forward], Forward]
) -> dict[nn.Module, Forward]:
    return {module: head(index, layout.streams[index], module.forward) for index, module in layout.head_modules(model)}


def _noting(
    streams: tuple[Stream, ...], noted: dict[int, Tensor], original: Forward, allocating: Allocating
) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        for index, stream in enumerate(streams):
            hidden = _argument(stream.argument, args, kwargs)
            with allocating():
                # A clone, because some blocks and adapters change the hidden state in place.
                noted[index] = (hidden if stream.item is None else hidden[stream.item]).clone()
        return original(*args, **kwargs)

    return forward


def _identity(row: Blocks) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        unchanged: tuple[Any, ...] = tuple(
            0.0 if name is None else _argument(name, args, kwargs) for name in row.returns
        )
        if row.on_skip is not None:
            row.on_skip(kwargs, unchanged[0])
        return unchanged[0] if len(unchanged) == 1 else unchanged

    return forward


def _argument(name: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[name] if isinstance(name, int) else kwargs[name]


def _as_tokens(stream: Stream, before: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden state before the blocks and at the head, both as tokens ``[B, N, C]``."""
    if stream.forms is not None:
        sizes = _sizes(stream, before, head)
        before = _formed(before, stream.forms.before, stream.forms.tokens, sizes)
        head = _formed(head, stream.forms.head, stream.forms.tokens, sizes)
    if stream.loses_first_tokens:
        before = before[:, -head.shape[1] :]
    if before.shape != head.shape:
        raise ShapeMismatchError(
            f"AdaCache: the hidden state has shape {tuple(before.shape)} before the blocks and {tuple(head.shape)} "
            f"at the head. This use of the model is not supported; bypass AdaCache."
        )
    return before, head


def _at_head(stream: Stream, tokens: Tensor, before: Tensor, head: Tensor) -> Tensor:
    """Tokens ``[B, N, C]`` in the form in which the head takes them."""
    if stream.forms is None:
        return tokens
    return _formed(tokens, stream.forms.tokens, stream.forms.head, _sizes(stream, before, head))


def _sizes(stream: Stream, before: Tensor, head: Tensor) -> dict[str, int]:
    """Sizes of the axes, read off the tensors whose form names every axis."""
    assert stream.forms is not None
    forms = ((before, stream.forms.before), (head, stream.forms.head))
    return {axis: size for x, form in forms if "(" not in form for axis, size in parse_shape(x, form).items()}


def _formed(x: Tensor, old: str, new: str, sizes: dict[str, int]) -> Tensor:
    return x if old == new else rearrange(x, f"{old} -> {new}", **{axis: sizes[axis] for axis in sizes if axis in old})
