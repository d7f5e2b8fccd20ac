"""Which sampling steps compute and which replay the cache. A schedule decides by step, never by model call."""

from __future__ import annotations

import math
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
# MoReg multiplies the number of computes of a plan by this power of the relative motion, within these bounds.
MOTION_CONTRAST, LEAST_MOTION_SHARE, MOST_MOTION_SHARE = 0.8, 0.9, 1.3
# A plan never computes fewer steps than this, whatever the speedup: with less, a forecast has nothing to go by.
MINIMUM_COMPUTES = 5
# From so many computes on, the last but one step is one of them (measured at 30 and 50 steps, on two models).
FEWEST_WITH_TWO_LAST = 9


@dataclass(frozen=True)
class Observation:
    """What a schedule made of a computed step.

    Attributes:
        rate: steps until the next compute, >= 1.
        distance: residual distance divided by the rate that was in force; None at the first compute.
        motion_score: the score that was applied (scaled; 1 outside MoReg's window), with a plan the factor of its
            computes; None without MoReg.
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

    Attributes:
        relative_motion: whether ``observe`` takes the relative motion, see ``Measurement``, or the raw motion score.
    """

    relative_motion = False

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

    def measures_motion(self, step: int) -> bool:
        """Whether ``observe`` wants to know how much moves at this step."""
        return self.motion is not None

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
            motion_score: raw motion score of the new residual (0..1), or its relative motion; None without MoReg.
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


def typical_motion(time: float) -> float:
    """The relative motion of a usual video at a flow time: a fit to scenes from still to fast, of two small Wan models.

    At the very start what guidance adds moves less than the rest, most of which is noise.
    """
    return 1.05 - 0.43 * math.exp((time - 1) / 0.028)


class PlannedSchedule(Schedule):
    """Steps chosen before sampling so that the expected error of the replay is smallest for a given speedup.

    The error of a replayed step grows with its distance in time from the computes it is replayed from, and
    early errors are amplified by the steps that follow. ``plan`` places the computes accordingly: dense
    early, sparse in the middle, whatever the number of steps, the scheduler and the shift. With MoReg the relative
    motion of the third compute sets the budget: more computes than planned for a video in which more than usual moves,
    fewer for one in which less does.

    Args:
        times: flow time of every step, descending within 1..0 (sigma of a flow model; see ``flow_time``).
        speedup: wanted ratio of all steps to computed steps, >= 1; at least ``MINIMUM_COMPUTES`` steps compute.
        order: 1 if the replay holds the last residual, 2 if it forecasts from the last two.
        correction: factor of the error weight at flow times, for a calibrated model; see ``plan``.
    """

    relative_motion = True

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
        self._speedup = speedup
        self._times = times
        self._place = partial(plan, order=order, correction=correction)
        self._budget = self._share_of_budget(1.0)
        super().__init__(len(times), motion, skippable)
        self.steps = self._planned(range(self.total_steps))

    def _share_of_budget(self, share: float) -> int:
        return max(MINIMUM_COMPUTES, round(len(self._times) / self._speedup * share))

    def _forced_steps(self) -> frozenset[int]:
        total = len(self._times)
        # The last but one is worth a compute in a long run, but not one of so few.
        last = 2 if total > 20 and self._budget >= FEWEST_WITH_TWO_LAST else 1
        return frozenset(step for step in (0, 1, *range(total - last, total)) if 0 <= step < total)

    def _planned(self, steps: Sequence[int], begun: int = 0) -> tuple[int, ...]:
        """Those of ``steps`` that compute within the budget; the first ``begun`` of them have done so."""
        kept = {i for i, step in enumerate(steps) if i < begun or step in self.forced or step not in self.skippable}
        return tuple(steps[i] for i in self._place([self._times[step] for step in steps], self._budget, kept))

    def measures_motion(self, step: int) -> bool:
        """At the third compute: the first two say less, and after it there is still something to decide."""
        return self.motion is not None and self.steps[2:3] == (step,)

    def _regularize(self, step: int, motion_score: float | None) -> tuple[float | None, float | None]:
        if motion_score is None or not self.measures_motion(step):
            return None, None
        share: float = (motion_score / typical_motion(self._times[step])) ** MOTION_CONTRAST
        return min(max(share, LEAST_MOTION_SHARE), MOST_MOTION_SHARE), 0.0

    def _rate_without_distance(self, step: int) -> int:
        return next((later for later in self.steps if later > step), step + 1) - step

    def _next_rate(self, step: int, regularized_distance: float, motion_score: float | None) -> int:
        if motion_score is not None:
            self._budget = self._share_of_budget(motion_score)
            self.forced = self._forced_steps()
            begun = [computed for computed in self.steps if computed <= step]
            self.steps = self._planned([*begun, *range(step + 1, self.total_steps)], len(begun))
        return self._rate_without_distance(step)
