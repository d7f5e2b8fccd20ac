"""How much a residual changed between two computed steps, and how much moves in it (AdaCache, Sec. 3.2 and 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from ..errors import ConfigurationError, ShapeMismatchError

# Finds the video's tokens [B, N, C] and its number of frames in a residual; None where nobody knows.
Video = Callable[[Tensor], tuple[Tensor, int]] | None

_PIECE = 1 << 16
_PIECES_AT_ONCE = 1 << 6
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


def l1_norm(x: Tensor, other: Tensor | None = None) -> Tensor:
    """``sum |x|`` or ``sum |x - other|`` of tensors of one shape, float64 0-d.

    Pieces of 65,536 values are summed in float32, as the released code sums everything; the pieces in float64,
    since a float32 sum of 100 million values, a usual residual, is a third too small on a CPU. A few pieces at a time:
    the difference of two residuals would take as much memory as a third one.
    """
    dtype, sums = torch.promote_types(x.dtype, torch.float32), []
    others = None if other is None else torch.split(other.flatten(), _PIECE * _PIECES_AT_ONCE)
    for number, part in enumerate(torch.split(x.flatten(), _PIECE * _PIECES_AT_ONCE)):
        part = part if others is None else part - others[number]
        whole = part.numel() // _PIECE * _PIECE
        pieces = torch.linalg.vector_norm(part[:whole].view(-1, _PIECE), 1, dim=1, dtype=dtype)
        sums += [pieces, torch.linalg.vector_norm(part[whole:], 1, dtype=dtype).view(1)]
    return torch.cat(sums).sum(dtype=torch.float64)


def distance_terms(previous: Tensor, current: Tensor) -> Tensor:
    """The sums a distance is made of: ``[sum |previous - current|, sum |previous|]``, float64 of shape [2].

    Sums, so that terms of several conditions add up before the division: the released code takes one distance over
    both halves of a CFG batch.

    Args:
        previous, current: residuals of the same shape.

    Raises:
        ShapeMismatchError: the shapes differ.
    """
    if previous.shape != current.shape:
        raise ShapeMismatchError(
            f"AdaCache: a residual of shape {tuple(current.shape)} cannot follow one of shape "
            f"{tuple(previous.shape)} within one run. This use of the model is not supported; bypass AdaCache."
        )
    return torch.stack((l1_norm(previous, current), l1_norm(previous)))


def residual_distance(previous: Tensor, current: Tensor) -> float:
    """Relative L1 distance ``||previous - current||_1 / ||previous||_1`` (Eq. 3, as released), >= 0.

    >>> residual_distance(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0]))
    0.25
    """
    change, norm = distance_terms(previous, current).tolist()
    return float(change / norm)


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
        terms.append(torch.stack((l1_norm(later, earlier), l1_norm(later) + l1_norm(earlier))))
    return torch.stack(terms)


def score_of_terms(terms: Tensor) -> float:
    """Motion score of the (added up) terms of ``motion_terms``: mean of the ratios over strides.

    Where a residual is 0 throughout, nothing moves.
    """
    return float((terms[:, 0].float() / terms[:, 1].float()).nan_to_num(0.0).mean())


def motion_score(residual: Tensor, frames: int, strides: tuple[int, ...] = (1,)) -> float:
    """Motion score in 0..1: change between latent frames relative to their size, mean over strides (Eq. 5).

    The arguments are those of ``motion_terms``.
    """
    return score_of_terms(motion_terms(residual, frames, strides))


@dataclass
class Measurement:
    """Sums of one step, condition by condition; they stay on the device until they are asked for.

    Attributes:
        motion: MoReg settings, or None.
    """

    motion: MotionRegularization | None = None
    _distances: dict[Hashable, Tensor] = field(default_factory=dict)
    _motions: list[Tensor] = field(default_factory=list)
    _sums: list[Tensor] = field(default_factory=list)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._distances

    @property
    def empty(self) -> bool:
        """Whether there was no residual."""
        return not self._sums

    def add(self, key: Hashable, previous: Tensor | None, current: Tensor, video: Video) -> None:
        """Take in the residual of a condition.

        Args:
            key: the condition.
            previous, current: its last two residuals, on one device; None where there is only one.
            video: finds the video in a residual.
        """
        # Nothing to compare with is no distance: a norm of 0.
        self._distances[key] = torch.zeros(2) if previous is None else distance_terms(previous, current)
        if self.motion is not None and video is not None:
            tokens, frames = video(current)
            # The last block of frames of an autoregressive model may be a short one.
            if frames > max(self.motion.strides):
                self._motions.append(motion_terms(tokens, frames, self.motion.strides))

    def check(self, residual: Sequence[Tensor]) -> None:
        """Take in whether residuals are finite: of every call of the step and of every stream of the model."""
        # A sum, since it needs no memory of a residual's size; it is finite where all that goes into it is.
        self._sums += [tensor.sum(dtype=torch.float32) for tensor in residual]

    @property
    def finite(self) -> bool:
        """Whether all residuals of the step were."""
        return all(bool(total.isfinite().all()) for total in (*self._sums, *self._distances.values()))

    @property
    def distance(self) -> float | None:
        """Of all conditions together; None where nothing could be compared."""
        change, norm = _summed(list(self._distances.values())) if self._distances else (0.0, 0.0)
        return change / norm if norm > 0 else None

    @property
    def motion_score(self) -> float | None:
        """Raw motion score of all conditions together; None without MoReg."""
        if not self._motions:
            return None
        return score_of_terms(torch.tensor(_summed(self._motions)).view_as(self._motions[0]))


def _summed(terms: list[Tensor]) -> list[float]:
    """Element-wise sum over conditions, exactly rounded, so that the order in which threads finish does not matter."""
    return [math.fsum(values) for values in zip(*(term.flatten().tolist() for term in terms), strict=True)]
