"""What happened in a run, as plain numbers that outlive it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass
class StepRecord:
    """One sampling step.

    Attributes:
        step: zero-based index.
        sigma: noise level of its first model call.
        computed: whether the blocks ran in full, for any condition.
        reason: why it computed (``first steps``, ``schedule``, ``outside window``, ...), or ``skipped``, or
            ``partial`` where token refresh computed some tokens.
        calls, computed_calls: model calls of the step, and how many of them ran the blocks in full; a call counts
            once per condition in it.
        by_condition: a letter per condition, in the order in which the run met them: ``c`` computed, ``s`` skipped,
            ``p`` partial, ``-`` not called. They differ where a condition that was new computed at a step that the
            others did not.
        rate: steps until the next compute, decided at this step.
        distance: residual distance per step (AdaCache, Eq. 3).
        motion_score, motion_gradient, regularized_distance: see ``Observation``; None without MoReg.
        seconds: time from the step's first model call to the next step's.
        forecast_error: how far the line through two residuals before misses this one,
            ``|forecast - residual|_1 / |residual|_1``; None but at some steps when calibrating.
        partial: whether the calls that did not compute in full ran the blocks for a part of the tokens, rather than
            skip. A partial step counts as neither computed nor skipped.
    """

    step: int
    sigma: float
    computed: bool
    reason: str
    calls: int = 0
    computed_calls: int = 0
    by_condition: str = ""
    rate: int | None = None
    distance: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    regularized_distance: float | None = None
    seconds: float = 0.0
    forecast_error: float | None = None
    partial: bool = False

    def count(self, conditions: Sequence[int], computed: bool, partial: bool = False) -> None:
        """Count a model call for these conditions (numbers from 0); one computed call makes a condition computed."""
        self.calls += len(conditions)
        self.computed_calls += len(conditions) * computed
        letters = list(self.by_condition.ljust(max(conditions) + 1, "-"))
        for condition in conditions:
            if letters[condition] != "c":
                letters[condition] = "c" if computed else "p" if partial else "s"
        self.by_condition = "".join(letters)


@dataclass
class RunStatistics:
    """One sampling run.

    Attributes:
        settings: the user's choices in force, JSON-safe (preset, replay, codebook, ...).
        total_steps: sampling steps of the run.
        steps: records of the steps so far.
        conditions: number of conditions seen, each with a residual of its own.
        storage: what was kept, ``"hidden"`` or ``"output"``, see ``Storage``.
        repaid: part of the error of skips that the next compute gives back, 0 to 1, see ``CacheRun``.
        cache_bytes: most bytes held at any time, by residuals and by what token refresh keeps.
        finished: False while it runs, and after an interrupt or an error.
    """

    settings: dict[str, Any]
    total_steps: int
    steps: list[StepRecord] = field(default_factory=list)
    conditions: int = 0
    storage: str = "hidden"
    repaid: float = 0.0
    cache_bytes: int = 0
    finished: bool = False

    @property
    def computed_steps(self) -> int:
        """Steps at which the blocks ran in full; partial steps do not count."""
        return sum(record.computed for record in self.steps)

    @property
    def partial_steps(self) -> int:
        """Steps at which the blocks ran for a part of the tokens."""
        return sum(record.partial for record in self.steps if not record.computed)

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(record.seconds for record in self.steps)

    @property
    def usual_seconds(self) -> float:
        """Time of a computed step: their median without the first step, which often carries one-off work."""
        computed = [record.seconds for record in self.steps[1:] if record.computed]
        return median(computed) if computed else sum(record.seconds for record in self.steps[:1])

    @property
    def speedup(self) -> float | None:
        """Time the steps would have taken had every one computed, over the time they took; the first step left out.

        A skipped or partial step counts with the usual time of a computed one, a computed step with its own.
        """
        rest, usual = self.steps[1:], self.usual_seconds
        took = sum(record.seconds for record in rest)
        uncached = sum(record.seconds if record.computed else usual for record in rest)
        return uncached / took if took > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe copy, with the derived numbers."""
        return {
            **asdict(self),
            "computed_steps": self.computed_steps,
            "partial_steps": self.partial_steps,
            "skipped_steps": len(self.steps) - self.computed_steps - self.partial_steps,
            "seconds": self.seconds,
            "speedup": self.speedup,
        }
