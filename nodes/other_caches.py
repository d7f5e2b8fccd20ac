"""Whether something else on a model caches too: refused where that is certain, named where it is likely."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..adacache_core import ConfigurationError

# Keys of transformer_options that only a cache sets which skips calls of the model, or all of its blocks.
_CERTAIN = {
    "easycache": "EasyCache",  # comfy_extras/nodes_easycache.py; its holder says whether it is LazyCache
    "rel_l1_thresh": "TeaCache",  # welltop-cn/ComfyUI-TeaCache and its forks, older kijai/ComfyUI-KJNodes
    "magcache_thresh": "MagCache",  # Zehong-Ma/ComfyUI-MagCache
    **dict.fromkeys(("cache_dit_turbo", "wan_cache", "ltx2_cache"), "CacheDiT"),  # Jasonzzt/ComfyUI-CacheDiT
}
# How those who reuse or forecast what a step computed call it; what else around a model is called a cache, is not it.
_OTHERS = "kv|attn|attention|hook|lora|weight|text|prompt|rope|empty|lru"
_CACHE = re.compile(rf"(?!.*({_OTHERS})s?[_-]?cach).*(cach[ei]|forecast|spectrum|taylorseer)", re.IGNORECASE)
_OURS = re.split(r"[\\/]", __name__)[-1].removesuffix("nodes.other_caches")


def refuse_second_cache(model: ModelPatcher, model_options: dict[str, Any]) -> None:
    """Raise ``ConfigurationError`` where more than one cache is on the model for certain.

    Args:
        model: has an AdaCache.
        model_options: its own, or those of the guider that is about to sample it.
    """
    options = model_options.get("transformer_options", {})
    certain = (getattr(options[key], "name", None) or name for key, name in _CERTAIN.items() if key in options)
    ours = sum(_names(wrapper)[0].startswith(_OURS) for wrapper in model.get_all_wrappers(WrappersMP.CALC_COND_BATCH))
    name = next(certain, "AdaCache" if ours > 1 else None)
    if name is not None:
        raise ConfigurationError(
            f"AdaCache: the model already has a cache, {name}. Two caches on one model would replay each other's "
            f"replays. Remove or bypass the {'first AdaCache' if name == 'AdaCache' else name} node."
        )


def other_caches(model: ModelPatcher, model_options: dict[str, Any]) -> list[str]:
    """What looks like a second cache, one of each pack, also to the log: what it calls itself, where it is, from where:
    ``"SpectrumSDXL (model_function_wrapper from ComfyUI-Spectrum-sdxl.spectrum_node)"``.

    Asked are functions around calls of the model and of its blocks or in the place of its methods, what they hold,
    their modules, and the keys of wrappers. Arguments and errors are those of ``refuse_second_cache``.
    """
    refuse_second_cache(model, model_options)
    seen, found = set[int](), dict[str, str]()
    for place, key, attached in _around_the_model(model, model_options):
        for thing in _held(attached, seen):
            module, names = _names(thing)
            asked = [*([key] if thing is attached else []), *names, *module.split(".")]
            for name in filter(_CACHE.match, asked if not module.startswith(_OURS) else ()):
                found.setdefault(module.partition(".")[0], f"{name} ({place} from {module})")
    for name in found.values():
        logging.warning("AdaCache: %s looks like a second cache on this model. If it is, remove one of them.", name)
    return list(found.values())


def _around_the_model(model: ModelPatcher, model_options: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Place, key and function of all that can answer instead of the model or one of its blocks."""
    options = model_options.get("transformer_options", {})
    for place in ("model_function_wrapper", "sampler_calc_cond_batch_function"):
        yield place, "", model_options.get(place)
    for kind, by_key in (*model.wrappers.items(), *options.get("wrappers", {}).items()):
        yield from ((f"{kind} wrapper", str(key), wrapper) for key, several in by_key.items() for wrapper in several)
    for block in options.get("patches_replace", {}).get("dit", {}).values():
        yield "block replacement", "", block
    yield from ((f"object patch {name}", "", patch) for name, patch in model.object_patches.items())
    for path, module in model.model.named_modules():
        yield path, "", module
        for name, value in vars(module).items():
            if callable(value) and hasattr(type(module), name):
                yield f"{path}.{name}".lstrip("."), "", value


def _held(thing: Any, seen: set[int]) -> Iterator[Any]:
    """A function and what its closure holds, e.g. the wrapper that was there before, which it calls."""
    if id(thing) not in seen:
        seen.add(id(thing))
        yield thing
        for cell in getattr(_function(thing), "__closure__", None) or ():
            if cell != type(cell)():  # empty: the variable has no value
                yield from _held(cell.cell_contents, seen)


def _function(thing: Any) -> Any:
    while isinstance(thing, (partial, MethodType)):
        thing = thing.func if isinstance(thing, partial) else thing.__func__
    return thing


def _names(thing: Any) -> tuple[str, list[str]]:
    """The module, without the path that is a part of it in custom nodes, and names of a function or of a class."""
    thing = _function(thing)
    if isinstance(thing, FunctionType):
        # functools.wraps gives what replaces a method that method's name and module; the code tells the true ones.
        module, names = thing.__globals__.get("__name__", ""), [*thing.__qualname__.split("."), thing.__code__.co_name]
    else:
        module, names = type(thing).__module__, type(thing).__qualname__.split(".")
    return re.split(r"[\\/]", module)[-1], names
