"""Which sampling steps compute and which replay the cache. A schedule decides by step, never by model call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from .codebook import Codebook
from .errors import ConfigurationError
from .motion import MotionRegularization
from .planning import plan

# With fewer steps than this every step changes the video too much to be replayed: distilled few-step models.
MINIMUM_STEPS = 8
# MoReg multiplies the number of computes of a plan by this power of the motion score, within 1 and the second number.
# Not below 1: with fewer computes a still video lost more than a moving one gained.
MOTION_CONTRAST, MOST_MOTION_SHARE = 1.5, 1.5
# A plan never computes fewer steps than this, whatever the speedup: with less, a forecast has nothing to go by.
MINIMUM_COMPUTES = 5


@dataclass(frozen=True)
class Observation:
    """What a schedule made of a computed step.

    Attributes:
        rate: steps until the next compute, >= 1.
        distance: residual distance divided by the rate that was in force; None at the first compute.
        motion_score: the score that was applied (scaled; 1 outside MoReg's window); None without MoReg.
        motion_gradient: its change per step, signed; None without MoReg.
        regularized_distance: distance after MoReg (equals ``distance`` without); None at the first compute.
    """

    rate: int
    distance: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    regularized_distance: float | None = None


class Schedule(ABC):
    """Common part: forced steps, the next compute, and MoReg's running motion score.

    Args:
        total_steps: sampling steps of this run.
        motion: MoReg settings, or None.
        skippable: zero-based steps that may be skipped at all (the user's start and end); default all.
    """

    def __init__(
        self, total_steps: int, motion: MotionRegularization | None = None, skippable: range | None = None
    ) -> None:
        self.total_steps = total_steps
        self.motion = motion
        self.skippable = range(total_steps) if skippable is None else skippable
        self.forced = self._forced_steps()
        self.next_compute = 0
        self.rate = 1
        self._motion_score = 1.0
        self._motion_window = motion.window(total_steps) if motion else range(0)

    def computes(self, step: int) -> bool:
        """Whether the model runs at this zero-based step."""
        return self.reason(step) != "skipped"

    def reason(self, step: int) -> str:
        """Why a step computes, in a word or two; ``"skipped"`` where it does not."""
        if self.total_steps < MINIMUM_STEPS:
            return "too few steps"
        if step in self.forced:
            return "first steps" if step < self.total_steps // 2 else "last steps"
        if step not in self.skippable:
            return "outside window"
        return "schedule" if step >= self.next_compute else "skipped"

    def observe(self, step: int, distance: float | None, motion_score: float | None = None) -> Observation:
        """Learn from a computed step; sets when the next compute is due.

        Args:
            step: zero-based step that was computed.
            distance: residual distance to the last computed step, None if there was none.
            motion_score: raw motion score of the new residual (0..1), None without MoReg.
        """
        if distance is None:
            self.rate = self._rate_without_distance(step)
            self.next_compute = step + self.rate
            return Observation(self.rate)
        per_step = distance / self.rate
        applied, gradient = self._regularize(step, motion_score)
        factor = 1.0 if applied is None or gradient is None else applied + abs(gradient)
        self.rate = self._next_rate(step, per_step * factor, applied)
        self.next_compute = step + self.rate
        return Observation(self.rate, per_step, applied, gradient, per_step * factor)

    def _regularize(self, step: int, motion_score: float | None) -> tuple[float | None, float | None]:
        if self.motion is None or motion_score is None:
            return None, None
        applied = self.motion.scaled(motion_score) if step in self._motion_window else 1.0
        gradient = self.motion.gradient(applied, self._motion_score, self.rate)
        self._motion_score = applied
        return applied, gradient

    def _rate_without_distance(self, step: int) -> int:
        return 1

    @abstractmethod
    def _forced_steps(self) -> frozenset[int]: ...

    @abstractmethod
    def _next_rate(self, step: int, regularized_distance: float, motion_score: float | None) -> int: ...


class CodebookSchedule(Schedule):
    """The paper's rule: the codebook turns the distance into the number of steps to skip (Sec. 3.2).

    As in the released code the first and the last two steps compute, and the rate starts at 1, so that the
    second step computes too.

    Args:
        codebook: thresholds and rates, made for this number of steps (see ``Codebook.for_steps``).
    """

    def __init__(
        self,
        codebook: Codebook,
        total_steps: int,
        motion: MotionRegularization | None = None,
        skippable: range | None = None,
    ) -> None:
        self.codebook = codebook
        super().__init__(total_steps, motion, skippable)

    def _forced_steps(self) -> frozenset[int]:
        return frozenset({0, self.total_steps - 2, self.total_steps - 1})

    def _next_rate(self, step: int, regularized_distance: float, motion_score: float | None) -> int:
        return self.codebook.rate(regularized_distance)


class PlannedSchedule(Schedule):
    """Steps chosen before sampling so that the expected error of the replay is smallest for a given speedup.

    The error of a replayed step grows with its distance in time from the computes it is replayed from, and
    early errors are amplified by the steps that follow. ``plan`` places the computes accordingly: dense
    early, sparse in the middle, whatever the number of steps, the scheduler and the shift. With MoReg the
    motion score of the second step sets the budget: more computes for a video whose scaled score is above 1.

    Args:
        times: flow time of every step, descending within 1..0 (sigma of a flow model; see ``flow_time``).
        speedup: wanted ratio of all steps to computed steps, >= 1; at least ``MINIMUM_COMPUTES`` steps compute.
        order: 1 if the replay holds the last residual, 2 if it forecasts from the last two.
        correction: factor of the error weight at flow times, for a calibrated model; see ``plan``.
    """

    def __init__(
        self,
        times: Sequence[float],
        speedup: float,
        order: int = 2,
        motion: MotionRegularization | None = None,
        skippable: range | None = None,
        correction: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not speedup >= 1:
            raise ConfigurationError(f"AdaCache: speedup is a ratio of 1 or more, got {speedup:g}.")
        super().__init__(len(times), motion, skippable)
        kept = {step for step in range(len(times)) if step not in self.skippable}
        self._plan = partial(plan, times, forced=self.forced | kept, order=order, correction=correction)
        self._computes = len(times) / speedup
        # The second step, for any window: it is early enough to spend the budget where it matters, at once after it.
        self._motion_window = range(1, 2)
        self.steps: tuple[int, ...] = self._plan(self._budget(1.0))

    def _forced_steps(self) -> frozenset[int]:
        last = 2 if self.total_steps > 20 else 1
        steps = {0, 1, *range(self.total_steps - last, self.total_steps)}
        return frozenset(step for step in steps if 0 <= step < self.total_steps)

    def _budget(self, motion_score: float) -> int:
        share: float = min(max(motion_score**MOTION_CONTRAST, 1.0), MOST_MOTION_SHARE)
        return max(MINIMUM_COMPUTES, round(self._computes * share))

    def _rate_without_distance(self, step: int) -> int:
        return next((later for later in self.steps if later > step), step + 1) - step

    def _next_rate(self, step: int, regularized_distance: float, motion_score: float | None) -> int:
        if motion_score is not None and step in self._motion_window:
            self.steps = self._plan(self._budget(motion_score))
        return self._rate_without_distance(step)
