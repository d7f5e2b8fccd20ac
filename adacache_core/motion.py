"""Motion regularisation, MoReg: more compute where there is motion (AdaCache, Sec. 3.3, as released)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.distributed import ProcessGroup

from .distance import l1_norm
from .errors import ConfigurationError
from .parallel import gather_tokens

# Far more than any codebook asks for, and far from where float32 ends: a difference of two of these is a number.
_LARGEST_SCORE = 1e30


@dataclass(frozen=True)
class MotionRegularization:
    """Settings of MoReg. The defaults are the values of the released code for Open-Sora.

    The regularised distance is ``distance * (motion_score + |motion_gradient|)`` (Eq. 7, as released).

    Args:
        strides: frame strides over which latent frames are compared, each >= 1; their scores are averaged.
        start_percent, end_percent: part of the run, 0 to 1, in which the score counts; outside it is 1.
            0.13 and 0.87 give the released windows at 30 steps (4 to 26, one-based, inclusive).
        scale: motion score that counts as 1, > 0.
        exponent: contrast, > 0.
        divisor: divides the result, > 0.
        gradient_multiplier: weight of the change of the score between computed steps, >= 0.

    Raises:
        ConfigurationError: a value out of the ranges above.
    """

    strides: tuple[int, ...] = (1,)
    start_percent: float = 0.13
    end_percent: float = 0.87
    scale: float = 0.385
    exponent: float = 8.0
    divisor: float = 1.0
    gradient_multiplier: float = 10.0

    def __post_init__(self) -> None:
        if not self.strides or any(stride < 1 for stride in self.strides):
            raise ConfigurationError(
                f"AdaCache MoReg: strides are distances in latent frames and must be at least 1, "
                f'got {self.strides}. Write them as "1" or "1, 2".'
            )
        if not 0 <= self.start_percent < self.end_percent <= 1:
            raise ConfigurationError(
                f"AdaCache MoReg: start_percent must be below end_percent, both within 0 and 1, "
                f"got {self.start_percent:g} and {self.end_percent:g}."
            )
        for name in ("scale", "exponent", "divisor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"AdaCache MoReg: {name} must be above 0, got {getattr(self, name):g}.")
        if not 0 <= self.gradient_multiplier < math.inf:
            raise ConfigurationError(
                f"AdaCache MoReg: gradient_multiplier must be 0 or more, got {self.gradient_multiplier:g}."
            )

    @classmethod
    def parse_strides(cls, text: str) -> tuple[int, ...]:
        """Read ``"1, 2"``."""
        try:
            return tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError:
            raise ConfigurationError(
                f'AdaCache MoReg: strides must be whole numbers, got {text!r}. Write them as "1" or "1, 2".'
            ) from None

    def check_frames(self, frames: int) -> None:
        """Raise ``ConfigurationError`` where a stride does not fit into ``frames`` latent frames."""
        if max(self.strides) >= frames:
            raise ConfigurationError(
                f"AdaCache MoReg: a stride of {max(self.strides)} needs more than {max(self.strides)} latent frames, "
                f"the video has {frames}. Use smaller strides or a longer video."
            )

    def window(self, total_steps: int) -> range:
        """Zero-based steps in which the motion score counts."""
        first, last = round(self.start_percent * total_steps), round(self.end_percent * total_steps)
        return range(max(first, 1) - 1, last)

    def scaled(self, motion_score: float) -> float:
        """``(motion_score / scale) ** exponent / divisor``.

        In float32 as released: the motion gradient is a small difference of these values, and its sign and size
        would otherwise differ from the released code's.
        """
        score = torch.tensor(motion_score, dtype=torch.float32)
        return float(((1 / self.scale * score) ** self.exponent / self.divisor).clamp(max=_LARGEST_SCORE))

    def gradient(self, score: float, previous_score: float, previous_rate: int) -> float:
        """Change of the scaled score per step, ``multiplier * (score - previous) / previous_rate`` (Eq. 6)."""
        change = torch.tensor(score, dtype=torch.float32) - torch.tensor(previous_score, dtype=torch.float32)
        return float(self.gradient_multiplier * change / previous_rate)


def motion_terms(residual: Tensor, frames: int, strides: tuple[int, ...]) -> Tensor:
    """The sums a motion score is made of, float64 of shape ``[len(strides), 2]``; they add up over conditions.

    Args:
        residual: ``[B, N, C]`` with N = frames x tokens per frame, frames slowest.
        frames: number of latent frames.
        strides: frame strides, each smaller than ``frames``.
    """
    video = rearrange(residual, "b (f n) c -> b f n c", f=frames)
    terms = []
    for stride in strides:
        later, earlier = video[:, stride:], video[:, :-stride]
        terms.append(torch.stack((l1_norm(later - earlier), l1_norm(later) + l1_norm(earlier))))
    return torch.stack(terms)


def score_of_terms(terms: Tensor) -> float:
    """Motion score of the (added up) terms of ``motion_terms``: mean of the ratios over strides.

    Where a residual is 0 throughout, nothing moves.
    """
    return float((terms[:, 0].float() / terms[:, 1].float()).nan_to_num(0.0).mean())


def motion_score(
    residual: Tensor, frames: int, strides: tuple[int, ...] = (1,), group: ProcessGroup | None = None
) -> float:
    """Motion score in 0..1: change between latent frames relative to their size, mean over strides (Eq. 5).

    Args:
        residual: ``[B, N, C]`` with N = frames x tokens per frame; with a process group this rank's part of them.
        frames: number of latent frames.
        strides: frame strides, each smaller than ``frames``.
        group: ranks that hold a part of the tokens each.
    """
    return score_of_terms(motion_terms(gather_tokens(group, residual), frames, strides))
