"""The AR Cache node: a bound for the key/value cache of autoregressive video models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import nn

from ..adacache_core import ConfigurationError, UnsupportedModelError, Window, WindowStatistics
from ..adacache_core.window import make_room
from .runs import RunLog
from .types import EXPERIMENTAL, Statistics, accepts

KEY = "adacache_ar_cache"
_SAMPLER = "sample_ar_video"


class ARCache(io.ComfyNode):
    """Patches an autoregressive video model so that its cache of finished frames stops growing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheARCache",
            display_name="AR Cache",
            category=EXPERIMENTAL,
            description=(
                "Bounds the key/value cache of an autoregressive video model: each new block sees the latest frames, "
                "and memory and time per block stay the same however long the video gets. Connect it between the "
                "model loader and the sampler; works with AdaCache and without."
            ),
            search_aliases=["long video", "causal video", "self forcing", "ca2-vdm"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="An autoregressive video model, e.g. Wan with Self-Forcing."),
                io.Int.Input(
                    "window",
                    default=21,
                    min=1,
                    max=4096,
                    tooltip=(
                        "Latent frames that the cache holds at most, the block in work included. Not more than the "
                        "model was trained on: 21 latent frames are 81 frames of video."
                    ),
                ),
                io.Int.Input(
                    "anchors",
                    default=0,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="First latent frames of the video that stay in the cache, as part of the window.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the bounded cache; connect it to the sampler."),
                Statistics.Output(
                    "statistics",
                    display_name="statistics",
                    tooltip="Frames and bytes of the cache; connect it to an AdaCache Inspector.",
                ),
            ],
            # Two nodes with equal inputs would share one execution, and with it the log of their runs.
            not_idempotent=True,
        )

    @classmethod
    def validate_inputs(cls, window: int, anchors: int = 0) -> bool | str:
        """Anchors that do not leave room; a value that comes over a link is None here."""
        return None in (window, anchors) or accepts(lambda: Window(window, anchors))

    @classmethod
    def execute(cls, model: Any, window: int, anchors: int = 0) -> io.NodeOutput:
        return io.NodeOutput(*bind(model, Window(window, anchors)))


def bind(model: ModelPatcher, window: Window) -> tuple[ModelPatcher, RunLog]:
    """A clone of the model whose key/value cache is bounded while it is sampled, and the log of its statistics.

    Raises:
        UnsupportedModelError: the model keeps no key/value cache.
        ConfigurationError: the cache has a bound already.
    """
    network = model.model.diffusion_model
    if not callable(getattr(network, "init_kv_caches", None)):
        raise UnsupportedModelError(
            f"AR Cache: the model is a {type(network).__module__}.{type(network).__qualname__}, which is not "
            f"autoregressive: it keeps no key/value cache of finished frames. Load an autoregressive Wan model, or "
            f"bypass the AR Cache node."
        )
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        raise ConfigurationError("AR Cache: the model has a window already. Remove one of the two AR Cache nodes.")
    binding = _Binding(window, RunLog())
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, binding.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_model)
    return patched, binding.log


@dataclass(frozen=True)
class _Binding:
    window: Window
    log: RunLog

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One sampling run: the sampler gets a bounded cache when it asks the model for one."""
        guider, noise, sampler = executor.class_obj, args[0], args[2]
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
        if name != _SAMPLER:
            raise ConfigurationError(
                f"AR Cache: the sampler is {name.removeprefix('sample_')}, which makes all frames at once and so has "
                f"no cache of finished ones. Connect Sampler AR Video, or bypass the AR Cache node."
            )
        given = guider.model_options.get("transformer_options", {}).get("ar_config", {}).get("initial_latent")
        given_frames = 0 if given is None else given.shape[2]
        frames = noise.shape[2]
        block = min(sampler.extra_options.get("num_frame_per_block", 1), max(1, frames - given_frames))
        self.window.check(block, given_frames, frames)
        statistics = WindowStatistics(self.window, frames)
        self.log.start(statistics)
        with _bounded(guider.model_patcher.model.diffusion_model, statistics):
            return executor(*args, **kwargs)


class WindowedCache(dict[str, Any]):
    """The key/value cache of one layer as ComfyUI's model and sampler have it, which never outgrows its buffers.

    ``"k"`` and ``"v"`` are ``[B, L, heads, head size]``; ``"end"`` is the number of tokens in use, counted from the
    front. The model appends the tokens of a block there and reads all of them; the sampler takes the block back by
    lowering ``"end"`` before it repeats it.

    Args:
        layer: an empty cache, its length a whole number of frames.
        frame_tokens: tokens of one latent frame.
        statistics: one for all layers, filled in as the run goes.
    """

    def __init__(self, layer: dict[str, Any], frame_tokens: int, statistics: WindowStatistics) -> None:
        super().__init__(layer)
        self.frame_tokens = frame_tokens
        self.statistics = statistics
        nbytes = self["k"].nbytes + self["v"].nbytes
        statistics.cache_bytes += nbytes
        statistics.frame_bytes += nbytes * frame_tokens // self["k"].shape[1]

    def make_room(self, start: int, frames: int) -> None:
        """Make room for a block of so many latent frames, the first of which has a number in the whole video."""
        anchors = self.statistics.window.anchors * self.frame_tokens
        self["end"] = make_room((self["k"], self["v"]), self["end"], frames * self.frame_tokens, anchors)
        self.statistics.begin(start, self["end"] // self.frame_tokens + frames)


@contextmanager
def _bounded(network: nn.Module, statistics: WindowStatistics) -> Iterator[None]:
    """Lets the network hand out bounded caches, by an instance attribute in front of its class's method."""
    original = network.init_kv_caches
    shadowed = network.__dict__.get("init_kv_caches")

    def init_kv_caches(batch: int, tokens: int, device: torch.device, dtype: torch.dtype) -> list[WindowedCache]:
        frame_tokens = tokens // statistics.video_frames
        frames = min(statistics.window.frames, statistics.video_frames)
        layers = original(batch, frames * frame_tokens, device, dtype)
        if not all({"k", "v", "end"} <= layer.keys() for layer in layers):
            raise UnsupportedModelError(
                "AR Cache: this version of ComfyUI lays its key/value cache out differently. Update AdaCache, or "
                "bypass the AR Cache node."
            )
        return [WindowedCache(layer, frame_tokens, statistics) for layer in layers]

    network.__dict__["init_kv_caches"] = init_kv_caches
    try:
        yield
    finally:
        del network.__dict__["init_kv_caches"]
        if shadowed is not None:
            network.__dict__["init_kv_caches"] = shadowed


def _apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """One model call: the frames that it is about to append get room."""
    options = args[5] if len(args) > 5 else kwargs["transformer_options"]
    state = options.get("ar_state", {})
    for cache in state.get("kv_caches", ()):
        if isinstance(cache, WindowedCache):
            cache.make_room(state["start_frame"], args[0].shape[2])
    return executor(*args, **kwargs)
