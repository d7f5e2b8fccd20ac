"""The one mechanism that makes a model compute or replay, for the length of one call.

The ``forward`` of the blocks and of the heads is shadowed by an instance attribute and put back afterwards. The
first block notes the hidden state before the stack. On a skip every block returns its input unchanged, and the head
reads ``noted input + residual``. Replacing at the head, rather than adding along the way, keeps whatever the model
adds between blocks (ControlNet, VACE) from counting twice: the residual already holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .errors import ShapeMismatchError
from .layouts import Blocks, Layout, Stream

Forward = Callable[..., Any]
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
def computing(model: nn.Module, layout: Layout, record: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """Let the model compute, and report every stream's hidden state before and after the blocks.

    Args:
        record: called as ``record(stream_index, before, after)`` with tensors of the same shape ``[B, N, C]``.
            Not called where the first block is bypassed by somebody's replacement.
    """
    noted: dict[int, Tensor] = {}

    def head(index: int, stream: Stream, original: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if index in noted:
                record(index, _aligned(noted.pop(index), x), x)
            return original(x, *args, **kwargs)

        return forward

    _, first = next(layout.block_modules(model))
    forwards = {first: _noting(layout.streams, noted, first.forward)}
    forwards |= _heads(model, layout, head)
    with shadowed(forwards):
        yield


@contextmanager
def skipping(model: nn.Module, layout: Layout, replay: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Let no block run; every head reads what ``replay`` makes of the hidden state before the blocks.

    Args:
        replay: called as ``replay(stream_index, before)``, returns the hidden state after the blocks, same shape.
    """
    noted: dict[int, Tensor] = {}

    def head(index: int, stream: Stream, original: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            after = replay(index, _aligned(noted.pop(index), x))
            return original(after.to(x.dtype), *args, **kwargs)

        return forward

    blocks = list(layout.block_modules(model))
    forwards = {block: _identity(row) for row, block in blocks}
    forwards[blocks[0][1]] = _noting(layout.streams, noted, forwards[blocks[0][1]])
    forwards |= _heads(model, layout, head)
    with shadowed(forwards):
        yield


def _heads(
    model: nn.Module, layout: Layout, head: Callable[[int, Stream, Forward], Forward]
) -> dict[nn.Module, Forward]:
    modules = layout.head_modules(model)
    return {
        module: head(index, stream, module.forward)
        for index, (stream, module) in enumerate(zip(layout.streams, modules, strict=True))
    }


def _noting(streams: tuple[Stream, ...], noted: dict[int, Tensor], original: Forward) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        for index, stream in enumerate(streams):
            # A clone, because some blocks and adapters change the hidden state in place.
            noted[index] = _argument(stream.argument, args, kwargs).clone()
        return original(*args, **kwargs)

    return forward


def _identity(row: Blocks) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        unchanged = tuple(_argument(name, args, kwargs) for name in row.returns)
        return unchanged[0] if len(unchanged) == 1 else unchanged

    return forward


def _argument(name: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[name] if isinstance(name, int) else kwargs[name]


def _aligned(before: Tensor, after: Tensor) -> Tensor:
    if before.shape != after.shape:
        raise ShapeMismatchError(
            f"AdaCache: the hidden state has shape {tuple(before.shape)} before the blocks and {tuple(after.shape)} "
            f"at the head. This use of the model is not supported; bypass the AdaCache node."
        )
    return before
