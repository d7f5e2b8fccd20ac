"""What AdaCache reads and changes of the arguments of one of ComfyUI's model calls."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from ..adacache_core import Layout

_SKIPS = "adacache_skips"


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

    def get_instance_for_device(self, device: Any) -> PostponedControl:
        """The ControlNet's clone on another device, postponed too."""
        return PostponedControl(self._control.get_instance_for_device(device))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


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
