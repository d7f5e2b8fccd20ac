"""One sampling run in which a plan decides: compute a prediction and keep it, or forecast it from those kept.

State lives in this object and is dropped with it.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from .forecast import FOLLOWS, SAME_TIME, Computed, bend_of, correction, error_shape, norm, precise, predict, remember
from .kept import Kept
from .motion import MEASURED_AT, motion_share
from .plan import parts, plan
from .response import Response
from .statistics import RunStatistics, StepRecord
from .steps import Steps, same_sigma


class PlannedRun:
    """Decides for every evaluation of the model by a sampler, and keeps what is needed for it.

    Used around each evaluation, in the order of the sampler's calls::

        run = PlannedRun(steps, 10, statistics, response)
        run.begin(sigma)
        denoised = run.recall("positive")
        if denoised is None:
            denoised = run.keep("positive", model(x, sigma, positive))
        denoised = run.end(guided)  # after the other conditions and guidance

    Args:
        steps: the schedule.
        computes: how many evaluations compute.
        statistics: filled in as the run goes; ``settings`` are read, ``total_steps`` and ``plan`` are set.
        response: what the sampler said of itself; None plans on the schedule's steps.
        corrects: whether computes make good for the error of the skips before them; needs a response.
        regulates: whether the number of computes follows what moves, see ``motion.py``.
        on_step: called after every finished step, e.g. to show progress.
        planner: places the computes, as ``plan`` does.
    """

    def __init__(
        self,
        steps: Steps,
        computes: int,
        statistics: RunStatistics,
        response: Response | None = None,
        corrects: bool = True,
        regulates: bool = False,
        on_step: Callable[[RunStatistics], None] | None = None,
        planner: Callable[..., tuple[str | None, ...]] = plan,
    ) -> None:
        self.statistics = statistics
        self._steps = steps
        self._computes = computes
        self._response = response
        self._corrects = corrects
        self._regulates = regulates
        self._on_step = on_step
        self._planner = planner
        self._kept = Kept()
        self._guided: tuple[Computed, ...] = ()
        self._bend = 1.0  # that forecasts follow, see ``bend_of``
        self._skipped: list[int] = []  # calls since the last compute
        self._record: StepRecord | None = None
        self._calls = 0
        self._computed = 0  # by plan
        self._time = self._started = 0.0
        self.corrected: tuple[float, Tensor] | None = None  # sigma, and what the last correction added there
        self._make_plan()

    def begin(self, sigma: float) -> None:
        """Open the next evaluation of the model."""
        if self._response is not None and self._calls == len(self._plan):
            self._repeat()
        if self._response is not None and not self._as_asked(sigma):
            self._response, self._corrects = None, False
            because = "it called the model at other noise levels than when it was asked"
            self.statistics.settings |= {"evaluations": None, "corrected": False, "uncorrected_because": because}
            self._make_plan()
            self._forget()
        call = self._calls if self._response is not None else self._steps.of(sigma)
        self._calls += 1
        self._kept.evaluate()
        self._time = self._steps.time(sigma)
        if self._record is None or self._record.step != call:
            self._open(call, sigma)

    def recall(self, slot: Hashable) -> Tensor | None:
        """The forecast of a condition's prediction, a new tensor; None where the model has to run."""
        record = self._current()
        record.calls += 1
        history = self._kept.ask(slot)
        return predict(history, self._time, self._bend) if history and self._plan[record.step] is None else None

    def keep(self, slot: Hashable, denoised: Tensor) -> Tensor:
        """Take in what the model predicted for a condition; returns it."""
        record = self._current()
        record.computed_calls += 1
        if record.kind != "computed":
            record.kind, record.reason = "computed", "new condition"
        if not math.isfinite(norm(denoised)):
            record.reason = "not finite"  # also where a node behind guidance hides it
            self._kept.refuse(slot)
        else:
            self._kept.add(slot, Computed(self._time, denoised.clone()), self._bend)  # guidance may change it in place
        return denoised

    def end(self, guided: Tensor) -> Tensor:
        """Close an evaluation with the guided prediction; returns what the sampler is to integrate."""
        record = self._current()
        self.statistics.conditions = max(self.statistics.conditions, record.calls)
        if record.calls == 0:
            record.kind, record.reason = "computed", "out of reach"  # guidance that calls the model on its own way
        if self._kept.changed:
            self._guided = ()
        answer = guided
        if self._plan[record.step] is not None or 0 < record.calls == record.computed_calls:
            answer, known = self._corrected(record, guided)
            self._remember_guided(known)
            self._skipped.clear()
            self._regulate(record)
        elif record.step not in self._skipped:
            self._skipped.append(record.step)
        tensors = [computed.denoised for computed in (*self._guided, *self._kept)] + list(self.corrected or ())[1:]
        held = {id(tensor): tensor.nbytes for tensor in tensors}
        self.statistics.cache_bytes = max(self.statistics.cache_bytes, sum(held.values()))
        return answer

    def finish(self) -> RunStatistics:
        """Close the last step; the statistics are complete."""
        self.statistics.finished = True
        self._close()
        return self.statistics

    def drop(self) -> None:
        """Let go of all tensors, though the run may live on in the traceback of an error."""
        self._forget()
        self.corrected = None

    def _make_plan(self, begun: Sequence[int] = ()) -> None:
        if self._response is not None:
            times = tuple(self._steps.time(sigma) for sigma in self._response.sigmas)
            influences = self._response.influences(self._steps.scales)
        else:
            times, influences = self._steps.times, self._steps.falls
        part = self._steps.share, self._steps.handed_on
        self._plan = self._planner(times, influences, self._computes, begun, *part)
        self._turns = {part.start for part in parts(times)} - {0}
        self.statistics.plan = self._plan
        self.statistics.total_steps = len(times)

    def _repeat(self) -> None:
        """A sampler that makes a video block by block goes through its calls again for each."""
        self._close()
        self._forget()
        self._calls = 0
        self.statistics.total_steps += len(self._plan)

    def _as_asked(self, sigma: float) -> bool:
        assert self._response is not None
        asked = self._response.sigmas[self._calls : self._calls + 1]
        return bool(asked) and same_sigma(asked[0], sigma)

    def _open(self, call: int, sigma: float) -> None:
        if call in self._turns or (self._record is not None and call < self._record.step):
            self._forget()  # back at high noise: what is known of lower noise tells nothing about it
        self._close()
        reason = self._plan[call]
        if reason is not None:
            self._kept.compute()
            self._computed += 1
        self._record = StepRecord(call, sigma, "skipped" if reason is None else "computed", reason or "skipped")
        self._started = clock.perf_counter()

    def _close(self) -> None:
        if self._record is None:
            return
        self._record.seconds = clock.perf_counter() - self._started
        self.statistics.steps.append(self._record)
        self._record = None
        if self._on_step is not None:
            self._on_step(self.statistics)

    def _current(self) -> StepRecord:
        assert self._record is not None, "begin comes first"
        return self._record

    def _corrected(self, record: StepRecord, guided: Tensor) -> tuple[Tensor, Tensor]:
        """Measure the surprise of a compute, and give back what the skips before it owe.

        Returns what the sampler is to integrate, and what is predicted in a state without the error of the skips.
        """
        size = norm(guided)
        if not math.isfinite(size):
            record.reason = "not finite"
        if not math.isfinite(size) or not self._guided:
            return guided, guided
        answer, surprise = guided, precise(guided) - precise(predict(self._guided, self._time, self._bend))
        record.miss = norm(surprise) / size if size else 0.0
        owed, factor = self._owed(record.step)
        if factor != 0:
            added = (surprise * factor).to(guided.dtype)
            self.corrected = (record.sigma, added)
            answer = guided + added
        if owed != 0 and self._kept.alone(guided):  # what guidance makes of several follows in no known way
            moved = (surprise * (FOLLOWS * owed / sum(self._steps.scales(record.sigma)))).to(guided.dtype)
            self._kept.move(moved)
            guided = guided + moved
        return answer, guided

    def _owed(self, call: int) -> tuple[float, float]:
        """What the skips owe to the state at a compute, and what the sampler is to be given for it, in surprises."""
        if self._response is None or not (self._corrects and self._skipped and self._guided):
            return 0.0, 0.0
        known = [computed.time for computed in self._guided]
        if min(abs(self._time - time) for time in known) <= SAME_TIME:
            return 0.0, 0.0  # back from a look ahead, where nothing was extrapolated
        times = [self._steps.time(self._response.sigmas[skipped]) for skipped in self._skipped]
        shapes = [error_shape(known, time, self._time, self._bend) for time in times]
        owed, *later = self._response.errors(self._skipped, shapes, call)
        return owed, correction(later, self._response.errors([call], [1.0], call)[1:])

    def _remember_guided(self, guided: Tensor) -> None:
        if self._current().reason == "not finite":
            self._forget()  # so that every later call computes, and the error shows as it would without a cache
            return
        straight = self._response is not None and self._response.straight
        self._bend = 0.0 if straight else bend_of(guided, self._kept.latest())
        self._guided = remember(self._guided, Computed(self._time, self._kept.copy(guided)), self._bend)

    def _regulate(self, record: StepRecord) -> None:
        """Once, at an early compute: what moves sets how many more there are to be."""
        if not self._regulates or self._computed != MEASURED_AT or self._turns:
            return
        self._regulates = False
        self.statistics.motion_share = share = motion_share(self._kept.latest())
        if share is not None:
            self._computes = round(self._computes * share)
            self._make_plan([call for call in range(record.step + 1) if self._plan[call] is not None])

    def _forget(self) -> None:
        self._kept, self._guided = Kept(), ()
        self._skipped.clear()
