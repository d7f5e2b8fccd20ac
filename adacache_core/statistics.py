"""What happened in a run, as plain numbers that outlive it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Kind = Literal["computed", "skipped", "partial"]


@dataclass(frozen=True)
class Observation:
    """What the paper's rule made of a computed step, see ``paper/rule.py``.

    Attributes:
        rate: steps until the next compute, >= 1.
        distance: residual distance per step (AdaCache, Eq. 3); None at the first compute.
        motion_score: MoReg's score as it was applied (scaled; 1 outside MoReg's window); None without MoReg.
        motion_gradient: its change per step, signed; None without MoReg.
        regularized_distance: distance after MoReg (equals ``distance`` without); None at the first compute.
    """

    rate: int
    distance: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    regularized_distance: float | None = None


@dataclass
class StepRecord:
    """One evaluation of the model by the sampler; for most samplers that is one step.

    Attributes:
        step: zero-based number of the evaluation.
        sigma: its noise level.
        kind: ``computed`` (the model ran, for any condition), ``skipped`` (it did not run at all), or ``partial``
            (token refresh: the blocks ran for a part of the tokens).
        reason: why, in a word or two: ``first``, ``plan``, ``last``, ``unknown condition``, ..., ``skipped``.
        calls, computed_calls: conditions that were asked for, and how many of them the model ran for.
        seconds: time from this evaluation to the next one's.
        miss: ``|computed - predicted| / |computed|`` of the guided prediction, where a computed evaluation could have
            been predicted; None where not.
        paper: what the paper's rule observed; None for planned presets and skipped steps.
    """

    step: int
    sigma: float
    kind: Kind
    reason: str
    calls: int = 0
    computed_calls: int = 0
    seconds: float = 0.0
    miss: float | None = None
    paper: Observation | None = None


@dataclass
class RunStatistics:
    """One sampling run.

    Attributes:
        settings: what was in force, JSON-safe: ``preset``; for planned presets ``speedup`` (aimed at), ``computes``
            (planned, at first), ``evaluations`` (of the sampler, None where it could not be asked), ``sampler_steps``,
            ``adds_noise``, ``corrected`` and ``uncorrected_because``; for the paper's presets ``codebook``; ``moreg``
            and ``token_refresh`` or None.
        total_steps: evaluations of the model that the run will make.
        steps: records of those so far.
        conditions: most conditions that one evaluation asked for.
        cache_bytes: most bytes held at any time.
        motion_share: what MoReg multiplied a plan's computes by; None where it did not.
        plan: for planned presets why each evaluation computes, None where it is skipped; known before the first one.
        finer: how many of these steps stand for one of the schedule's.
        finished: False while it runs, and after an interrupt or an error.
    """

    settings: dict[str, Any]
    total_steps: int
    steps: list[StepRecord] = field(default_factory=list)
    conditions: int = 0
    cache_bytes: int = 0
    motion_share: float | None = None
    plan: tuple[str | None, ...] | None = None
    finer: int = 1
    finished: bool = False

    def count(self, kind: Kind) -> int:
        """How many steps were ``computed``, ``skipped`` or ``partial``."""
        return sum(record.kind == kind for record in self.steps)

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(record.seconds for record in self.steps)

    @property
    def usual_seconds(self) -> float:
        """Time of a computed step: their median without the first step, which often carries one-off work."""
        computed = [record.seconds for record in self.steps[1:] if record.kind == "computed"]
        return median(computed) if computed else sum(record.seconds for record in self.steps[:1])

    @property
    def speedup(self) -> float | None:
        """Time the steps would have taken had every one computed, over the time they took; the first step left out.

        A skipped or partial step counts with the usual time of a computed one, a computed step with its own; of finer
        steps so many as the schedule has.
        """
        rest, usual = self.steps[1:], self.usual_seconds
        took = sum(record.seconds for record in rest)
        uncached = sum(record.seconds if record.kind == "computed" else usual for record in rest)
        if self.finer > 1:
            uncached = usual * (len(self.steps) / self.finer - 1)
        return uncached / took if took > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe copy, with the derived numbers."""
        return {
            **asdict(self),
            "computed_steps": self.count("computed"),
            "partial_steps": self.count("partial"),
            "skipped_steps": self.count("skipped"),
            "seconds": self.seconds,
            "speedup": self.speedup,
        }
