"""A key/value cache of bounded length: finished frames leave it in the order in which they came (Ca2-VDM).

An autoregressive video model keeps the keys and values of finished frames, written once by a clean pass at sigma 0
and read by every denoising step of every later block. Bounded, memory and time per block stay the same however long
the video gets.

Keys are kept after rotary embedding, with the frame's number in the whole video. Attention sees differences of numbers
only, so an entry that stays, or that moves to another place of the buffer, keeps its right distance to every later
frame; within the window no distance is larger than in a video as long as the window. An anchor's distance grows with
the video instead, beyond what a model was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from .errors import ConfigurationError


@dataclass(frozen=True)
class Window:
    """How much is kept, in latent frames.

    Attributes:
        frames: the most that the cache holds, the block in work included.
        anchors: first frames of the video that never leave, as part of ``frames``.
    """

    frames: int
    anchors: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 <= self.anchors < self.frames:
            raise ConfigurationError(
                f"AR Cache: anchors must be below the window and neither of them negative, got a window of "
                f"{self.frames} latent frames and {self.anchors} anchors."
            )

    def check(self, block: int, given: int, video: int) -> None:
        """Refuse a video that would not fit.

        Args:
            block: latent frames that are generated at a time.
            given: latent frames that the video starts from, 0 for text-to-video.
            video: latent frames of the whole video; one that fits as a whole is always right.

        Raises:
            ConfigurationError: with the numbers and what to change.
        """
        if video <= self.frames:
            return
        if given > self.frames:
            raise ConfigurationError(
                f"AR Cache: the video starts from {given} latent frames, more than the window of {self.frames} holds. "
                f"Raise the window to {given + block} or more, or start from fewer frames."
            )
        if block > self.frames - self.anchors:
            beside = f" beside {self.anchors} anchors" if self.anchors else ""
            raise ConfigurationError(
                f"AR Cache: a block of {block} latent frames does not fit into a window of {self.frames}{beside}. "
                f"Raise the window to {block + self.anchors} or more; its frames beyond that are the past that a "
                f"block sees."
            )


@dataclass
class WindowBlock:
    """What the cache holds while one block of the video is made.

    Attributes:
        start: number of the block's first latent frame.
        frames: latent frames in the cache, the block included.
        nbytes: what they take, over all layers.
    """

    start: int
    frames: int
    nbytes: int


@dataclass
class WindowStatistics:
    """The cache over a sampling run, as plain numbers that outlive it.

    Attributes:
        window: its bound.
        video_frames: latent frames of the whole video.
        frame_bytes: what one latent frame takes, over all layers.
        cache_bytes: what is allocated from the beginning to the end of the run.
        blocks: one record per block, in order; frames that the video starts from are one too.
    """

    window: Window
    video_frames: int
    frame_bytes: int = 0
    cache_bytes: int = 0
    blocks: list[WindowBlock] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe copy."""
        return {**asdict(self), "unbounded_bytes": self.video_frames * self.frame_bytes}


class WindowedCache(dict[str, Any]):
    """The key/value cache of one layer, which never holds more than its buffers do.

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
        nbytes = _nbytes(self["k"]) + _nbytes(self["v"])
        statistics.cache_bytes += nbytes
        statistics.frame_bytes += nbytes * frame_tokens // self["k"].shape[1]

    def make_room(self, frames: int) -> None:
        """Drop the oldest frames but the anchors, so that these many fit; nothing where they do already."""
        excess: int = self["end"] + frames * self.frame_tokens - self["k"].shape[1]
        if excess <= 0:
            return
        first, kept = self.statistics.window.anchors * self.frame_tokens, self["end"] - excess
        for name in ("k", "v"):
            # Cloned, since the places overlap.
            self[name][:, first:kept] = self[name][:, first + excess : self["end"]].clone()
        self["end"] = kept


def make_room(caches: Sequence[WindowedCache], start: int, frames: int) -> None:
    """Make room for a block in all layers.

    Every step of a block may call it: after the first, and after the sampler took the block back, it fits.

    Args:
        caches: one per layer.
        start: number of the block's first latent frame in the video.
        frames: latent frames of the block.
    """
    for cache in caches:
        cache.make_room(frames)
    first, statistics = caches[0], caches[0].statistics
    if not statistics.blocks or statistics.blocks[-1].start != start:
        held = first["end"] // first.frame_tokens + frames
        statistics.blocks.append(WindowBlock(start, held, held * statistics.frame_bytes))


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
