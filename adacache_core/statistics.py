"""What happened in a run, as plain numbers that outlive it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class StepRecord:
    """One sampling step.

    Attributes:
        step: zero-based index.
        sigma: noise level of its first model call.
        computed: whether the blocks ran, for any condition.
        reason: why it computed (``first steps``, ``schedule``, ``outside window``, ...), or ``skipped``.
        calls, computed_calls: model calls of the step, and how many of them ran the blocks; a call counts once per
            condition in it.
        rate: steps until the next compute, decided at this step.
        distance: residual distance per step (AdaCache, Eq. 3).
        motion_score, motion_gradient, regularized_distance: see ``Observation``; None without MoReg.
        seconds: time from the step's first model call to the next step's.
    """

    step: int
    sigma: float
    computed: bool
    reason: str
    calls: int = 0
    computed_calls: int = 0
    rate: int | None = None
    distance: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    regularized_distance: float | None = None
    seconds: float = 0.0


@dataclass
class RunStatistics:
    """One sampling run.

    Attributes:
        settings: the user's choices in force, JSON-safe (preset, replay, codebook, ...).
        total_steps: sampling steps of the run.
        steps: records of the steps so far.
        conditions: number of conditions seen, each with a residual of its own.
        cache_bytes: most bytes held by residuals at any time.
        notes: sentences that explain the run to the user.
        finished: False while it runs, and after an interrupt or an error.
    """

    settings: dict[str, Any]
    total_steps: int
    steps: list[StepRecord] = field(default_factory=list)
    conditions: int = 0
    cache_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    finished: bool = False

    @property
    def computed_steps(self) -> int:
        """Steps at which the blocks ran."""
        return sum(record.computed for record in self.steps)

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(record.seconds for record in self.steps)

    @property
    def speedup(self) -> float | None:
        """Time the steps would have taken had each cost as much as a computed one, over the time they took.

        The first computed step is left out of the mean where there are others: it often carries one-off work.
        """
        computed = [record.seconds for record in self.steps if record.computed]
        mean = sum(computed[1:]) / len(computed[1:]) if len(computed) > 1 else sum(computed)
        rest = sum(record.seconds for record in self.steps[1:])
        return mean * len(self.steps[1:]) / rest if rest > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe copy, with the derived numbers."""
        return {
            **asdict(self),
            "computed_steps": self.computed_steps,
            "skipped_steps": len(self.steps) - self.computed_steps,
            "seconds": self.seconds,
            "speedup": self.speedup,
        }
