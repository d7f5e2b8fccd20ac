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

    def begin(self, start: int, frames: int) -> None:
        """Note that a block begins, with so many latent frames in the cache, its own included; again at each step."""
        if not self.blocks or self.blocks[-1].start != start:
            self.blocks.append(WindowBlock(start, frames, frames * self.frame_bytes))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe copy."""
        return {**asdict(self), "unbounded_bytes": self.video_frames * self.frame_bytes}


def make_room(buffers: Sequence[Tensor], used: int, needed: int, anchors: int = 0) -> int:
    """Drop the oldest tokens but the anchors, so that as many fit as are needed; nothing where they do already.

    Every step of a block may call it: after the first, and after the sampler took the block back, it fits.

    Args:
        buffers: keys and values of one layer, ``[B, L, heads, head size]``, filled from the front; changed in place.
        used: tokens in them.
        needed: tokens that are about to be appended.
        anchors: first tokens, which stay.

    Returns:
        Tokens in use afterwards.
    """
    excess = used + needed - buffers[0].shape[1]
    if excess <= 0:
        return used
    for buffer in buffers:
        # Cloned, since the places overlap.
        buffer[:, anchors : used - excess] = buffer[:, anchors + excess : used].clone()
    return used - excess
