"""What a computed step tells: distance, motion score and forecast error, over all conditions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .distance import distance_terms, l1_norm
from .motion import MotionRegularization, motion_terms, score_of_terms
from .parallel import gather_tokens, sum_over

# Finds the video's tokens [B, N, C] and its number of frames in a residual; None where nobody knows.
Video = Callable[[Tensor], tuple[Tensor, int]] | None


class Measurement:
    """Sums of one step, condition by condition; they stay on the device until ``result`` is asked for.

    Args:
        motion: MoReg settings, or None.
        group: ranks that hold a part of the tokens each, or None.
        forecasts: whether to measure forecasts, too.
        relative: measure the relative motion instead of the motion score: that of what guidance adds, the difference
            of the two conditions' residuals, over that of the residuals themselves. Early in a run a residual is mostly
            noise, the same for both; what they differ in is what the prompt asks for.
    """

    def __init__(
        self,
        motion: MotionRegularization | None,
        group: ProcessGroup | None = None,
        forecasts: bool = False,
        relative: bool = False,
    ) -> None:
        self._motion = motion
        self._relative = relative
        self._unpaired: Tensor | None = None
        self._guidance: Tensor | None = None
        self._group = group
        self._forecasts = forecasts
        self._terms: dict[Hashable, _Terms] = {}
        self._sums: list[Tensor] = []

    def __contains__(self, key: Hashable) -> bool:
        return key in self._terms

    def add(
        self,
        key: Hashable,
        previous: Tensor | None,
        current: Tensor,
        video: Video,
        forecast: Tensor | None = None,
    ) -> None:
        """Take in the residual of a condition.

        Args:
            key: the condition.
            previous, current: its last two residuals, on one device; None where there is only one.
            video: finds the video in a residual.
            forecast: what was forecast for ``current``, same shape; None where there was nothing to forecast from.
        """
        if previous is not None:
            distance = distance_terms(previous, current)
        else:
            # Nothing to compare with: no distance (norm 0), but a residual that is not finite shows in the sum.
            size = l1_norm(current)
            distance = torch.stack((size, torch.zeros_like(size)))
        if self._forecasts:
            missed = torch.zeros_like(distance) if forecast is None else distance_terms(current, forecast)
            distance = torch.cat((distance, missed))
        moving = self._moving(current, video)
        self._terms[key] = _Terms(
            sum_over(self._group, distance), None if moving is None else self._motion_terms(moving)
        )
        if self._relative and moving is not None:
            self._pair(moving)

    def check(self, residual: Sequence[Tensor]) -> None:
        """Take in whether residuals are finite: of every call of the step and of every stream of the model."""
        # A sum, since it needs no memory of a residual's size; it is finite where all that goes into it is.
        sums = torch.stack([tensor.sum(dtype=torch.float32).double() for tensor in residual])
        self._sums.append(sum_over(self._group, sums))

    def _moving(self, current: Tensor, video: Video) -> tuple[Tensor, int] | None:
        """The video's tokens in a residual and its number of frames; None where motion is not to be measured."""
        if self._motion is None or video is None:
            return None
        tokens, frames = video(gather_tokens(self._group, current))
        # The last block of frames of an autoregressive model may be a short one.
        return (tokens, frames) if frames > max(self._motion.strides) else None

    def _motion_terms(self, moving: tuple[Tensor, int]) -> Tensor:
        assert self._motion is not None
        return motion_terms(*moving, self._motion.strides)

    def _pair(self, moving: tuple[Tensor, int]) -> None:
        """Take in what two conditions differ in; the first one is kept until the second one is here."""
        if self._unpaired is None:
            self._unpaired = moving[0]
            return
        tokens, frames = moving
        self._guidance = self._motion_terms((tokens.float() - self._unpaired.to(tokens.device).float(), frames))
        self._unpaired = None

    def _motion_score(self) -> float | None:
        moved = [term.motion for term in self._terms.values() if term.motion is not None]
        if not moved:
            return None
        score = score_of_terms(torch.tensor(_summed(moved)).view_as(moved[0]))
        if not self._relative:
            return score
        if len(moved) != 2 or self._guidance is None or score == 0 or not self._guidance[:, 1].all():
            return None
        return score_of_terms(self._guidance) / score

    def result(self) -> tuple[float | None, float | None, float | None, bool]:
        """Distance, motion and forecast error, None where nothing could be compared; and if all was finite.

        Motion is the raw motion score, or the relative motion, None without exactly two conditions. The forecast error
        is ``|residual - forecast|_1 / |residual|_1``.
        """
        terms = list(self._terms.values())
        change, norm, *missed = _summed([term.distance for term in terms]) if terms else (0.0, 0.0)
        if not (math.isfinite(change + norm) and all(total.isfinite().all() for total in self._sums)):
            return None, None, None, False
        forecast_error = missed[0] / missed[1] if missed and missed[1] > 0 else None
        return change / norm if norm > 0 else None, self._motion_score(), forecast_error, True


@dataclass
class _Terms:
    distance: Tensor  # numerator and denominator; and those of the forecast error
    motion: Tensor | None


def _summed(terms: list[Tensor]) -> list[float]:
    """Element-wise sum over conditions, exactly rounded, so that the order in which threads finish does not matter."""
    return [math.fsum(values) for values in zip(*(term.flatten().tolist() for term in terms), strict=True)]
