"""What works inside of a model reads and changes of the arguments of one of ComfyUI's model calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from einops import rearrange
from torch import Tensor

from ..adacache_core.inside.layout import Layout
from ..adacache_core.tokens.sublayers import Attention

_SKIPS = "adacache_skips"
_ATTENTION = "optimized_attention_override"


def without_side_stacks(
    layout: Layout, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a skipped call: what feeds only adapters, whose work the residual holds, is left out."""
    kwargs = {name: None if name in layout.unneeded else value for name, value in kwargs.items()}
    options = dict(args[5] if len(args) > 5 else kwargs["transformer_options"])
    if "patches" in options:
        options["patches"] = {name: patch for name, patch in options["patches"].items() if name != "double_block"}
    options[_SKIPS] = True
    if len(args) > 5:
        return (*args[:4], None, options, *args[6:]), kwargs
    return args, {**kwargs, "transformer_options": options}


class PostponedControl:
    """A ControlNet that runs once the model is about to compute."""

    def __init__(self, control: Any) -> None:
        self._control = control

    def get_control(self, *args: Any) -> partial[Any]:
        """What to call for the ControlNet's residuals."""
        return partial(self._control.get_control, *args)

    def get_instance_for_device(self, device: Any) -> PostponedControl | None:
        """The ControlNet's clone on another device, postponed too; None where it has none."""
        clone = self._control.get_instance_for_device(device)
        return None if clone is None else PostponedControl(clone)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


def postponed(conds: list[list[dict[str, Any]] | None]) -> list[list[dict[str, Any]] | None]:
    """The same conditions with their ControlNets postponed: they would run before it is known whether they need to."""
    made: dict[int, PostponedControl] = {}

    def of(cond: dict[str, Any]) -> dict[str, Any]:
        control = cond.get("control")
        if control is None:
            return cond
        # One for all conditions that share a ControlNet, or else they would no longer be batched.
        return {**cond, "control": made.setdefault(id(control), PostponedControl(control))}

    return [None if group is None else [of(cond) for cond in group] for group in conds]


def controlled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a computed call, its ControlNet run."""
    if len(args) > 4 and isinstance(args[4], partial):
        return (*args[:4], args[4](), *args[5:])
    return args


def prefetch_nothing_on_a_skip(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """ComfyUI asks for the prefetching of block weights after APPLY_MODEL wrappers had their turn."""
    for options in (*args, *kwargs.values()):
        if isinstance(options, dict) and options.get(_SKIPS):
            options["prefetch_dynamic_vbars"] = False
    return executor(*args, **kwargs)


def condition_keys(options: dict[str, Any], latent_shape: tuple[int, ...], model: Any) -> list[Hashable]:
    """One key per condition of the batch: everything that makes its residual another one.

    The uuid alone does not: a negative prompt gets copies of the positive one's regions, uuid included; skip-layer
    guidance calls the model again with other replaced blocks; context windows differ in their frames; hooks change
    the weights where a keyframe begins.
    """
    uuids, window = options["uuids"], options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    replaced = frozenset(options.get("patches_replace", {}).get("dit", {}))
    hooks = getattr(model.current_patcher, "current_hooks", None)
    strengths = () if hooks is None else tuple(hook.strength for hook in hooks.hooks)
    shared = (frames, replaced, strengths, latent_shape[0] // len(uuids), *latent_shape[1:])
    return [(uuid, index, *shared) for uuid, index in zip(uuids, options["cond_or_uncond"], strict=True)]


@contextmanager
def with_attention(arguments: Mapping[str, Any], attention: Attention) -> Iterator[None]:
    """Let a block that is called with these arguments attend through ``attention``, where it is given any options."""
    options = arguments.get("transformer_options")
    if options is None:
        yield
        return
    previous = options.get(_ATTENTION)
    # In place, since blocks leave notes for each other in their options.
    options[_ATTENTION] = _overriding(attention, previous)
    try:
        yield
    finally:
        if previous is None:
            del options[_ATTENTION]
        else:
            options[_ATTENTION] = previous


def _overriding(attention: Attention, previous: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    def override(
        function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        compute = partial(
            function if previous is None else partial(previous, function), q, k, v, heads, *args, **kwargs
        )
        mask = kwargs.get("mask", args[0] if args else None)
        if not kwargs.get("skip_reshape"):
            q, k = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k))
        return attention(compute, q, k, mask if isinstance(mask, Tensor) else None)

    return override
