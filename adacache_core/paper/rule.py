"""Which sampling steps compute. A rule decides by step, never by model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..statistics import Observation
from .codebook import Codebook
from .measure import MotionRegularization

SKIPPED = "skipped"
# With fewer steps than this every step changes the video too much to be replayed: distilled few-step models.
MINIMUM_STEPS = 8


class Rule(Protocol):
    """What a run asks at every step, and tells after every computed one."""

    motion: MotionRegularization | None

    def reason(self, step: int) -> str:
        """Why a zero-based step computes, in a word or two; ``SKIPPED`` where it does not."""

    def observe(self, step: int, distance: float | None, motion: float | None) -> Observation | None:
        """Learn from a computed step.

        Args:
            step: zero-based step that was computed.
            distance: residual distance to the last computed step, None if there was none.
            motion: raw motion score of the new residual, 0 to 1; None without MoReg.
        """


class CodebookRule:
    """The paper's rule: the codebook turns the distance into the number of steps to skip (Sec. 3.2).

    As in the released code the first and the last two steps compute, and the rate starts at 1, so that the
    second step computes too.

    Args:
        codebook: thresholds and rates, made for this number of steps (see ``Codebook.for_steps``).
        total_steps: sampling steps of this run.
        motion: MoReg settings, or None.
    """

    def __init__(self, codebook: Codebook, total_steps: int, motion: MotionRegularization | None = None) -> None:
        self.codebook = codebook
        self.total_steps = total_steps
        self.motion = motion
        self.next_compute = 0
        self.rate = 1
        self._motion_score = 1.0

    def reason(self, step: int) -> str:
        """See ``Rule``."""
        if self.total_steps < MINIMUM_STEPS:
            return "too few steps"
        if step == 0:
            return "first steps"
        if step >= self.total_steps - 2:
            return "last steps"
        return "schedule" if step >= self.next_compute else SKIPPED

    def observe(self, step: int, distance: float | None, motion: float | None = None) -> Observation:
        """See ``Rule``; sets when the next compute is due."""
        if distance is None:
            self.rate = 1
            observation = Observation(self.rate)
        else:
            per_step = distance / self.rate
            applied, gradient = self._regularize(step, motion)
            factor = 1.0 if applied is None or gradient is None else applied + abs(gradient)
            self.rate = self.codebook.rate(per_step * factor)
            observation = Observation(self.rate, per_step, applied, gradient, per_step * factor)
        self.next_compute = step + self.rate
        return observation

    def _regularize(self, step: int, motion: float | None) -> tuple[float | None, float | None]:
        if self.motion is None or motion is None:
            return None, None
        applied = self.motion.scaled(motion) if step in self.motion.window(self.total_steps) else 1.0
        gradient = self.motion.gradient(applied, self._motion_score, self.rate)
        self._motion_score = applied
        return applied, gradient


@dataclass(frozen=True)
class PlanRule:
    """Follows a plan that was made before the run, see ``plan.py``: for token refresh with a planned preset.

    Args:
        reasons: per step why it computes; None where it is skipped.
    """

    reasons: Sequence[str | None]
    motion: None = None

    def reason(self, step: int) -> str:
        """See ``Rule``."""
        return self.reasons[step] or SKIPPED

    def observe(self, step: int, distance: float | None, motion: float | None = None) -> None:
        """See ``Rule``; a plan has nothing to learn."""
