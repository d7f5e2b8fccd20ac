"""One sampling run: it owns the schedule, the cached residuals and the statistics, and is dropped at the end."""

from __future__ import annotations

import bisect
import math
import threading
import time as clock
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import attach
from .distance import distance_terms, l1_norm
from .layouts import Layout
from .motion import motion_terms, score_of_terms
from .replay import ComputedResidual, Replay
from .residual_cache import ResidualCache
from .schedule import Schedule, flow_time
from .statistics import RunStatistics, StepRecord

# Two sigmas closer than this (relative) are one: samplers recompute them with float32 rounding.
_SAME_SIGMA = 1e-4


class CacheRun:
    """Decides for every model call of one sampling run whether it computes or replays.

    Used around each model call::

        run = CacheRun(make_schedule, FORECAST, sigmas, statistics)
        for sigma in sigmas[:-1]:
            with run.call(model, layout, sigma, keys=("positive", "negative")):
                velocity = model(x, sigma, context)  # batch of two conditions
        run.finish()

    Conditions may be called from several threads, each with a model of its own on its own device: a decision belongs
    to a step, is taken at the step's first call, and all calls of the step follow it.

    Args:
        make_schedule: makes a fresh schedule; called again where the sampler goes back to an earlier noise level
            (a new block of frames, a restart), from where everything starts over.
        replay: ``HOLD`` or ``FORECAST``.
        sigmas: noise levels of the run, descending; the last one ends it and is not a step.
        statistics: filled in as the run goes; keeps numbers only.
        sigma_max: largest sigma of the model; at most 1 for flow models.
        on_step: called after every finished step, e.g. to show progress.
    """

    def __init__(
        self,
        make_schedule: Callable[[], Schedule],
        replay: Replay,
        sigmas: Sequence[float],
        statistics: RunStatistics,
        sigma_max: float = 1.0,
        on_step: Callable[[RunStatistics], None] | None = None,
    ) -> None:
        self._make_schedule = make_schedule
        self.schedule = make_schedule()
        self.replay = replay
        self.statistics = statistics
        self._ascending = [-sigma for sigma in sigmas[: self.schedule.total_steps]]
        self._sigma_max = sigma_max
        self._on_step = on_step
        self._cache = ResidualCache(replay.order)
        self._conditions: set[Hashable] = set()
        self._step: StepRecord | None = None
        self._started = 0.0
        self._terms: dict[Hashable, _Terms] = {}
        self._lock = threading.Lock()

    def step_index(self, sigma: float) -> int:
        """Zero-based step a sigma belongs to: the last one whose noise level is not below it.

        Midpoints of multi-call samplers belong to the step they start from; Heun's second call, which is made at
        the next noise level, to the next step, whose first call sees that noise level too.
        """
        tolerated = -sigma + abs(sigma) * _SAME_SIGMA
        return max(bisect.bisect_right(self._ascending, tolerated) - 1, 0)

    @contextmanager
    def call(
        self,
        model: nn.Module,
        layout: Layout,
        sigma: float,
        keys: Sequence[Hashable],
        latent_shape: tuple[int, ...] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Iterator[bool]:
        """Make one model call compute or replay; tells whether it replays.

        Args:
            model: the module that holds the blocks.
            layout: its layout.
            sigma: noise level of this call.
            keys: one key per condition, in the order in which they are stacked along the batch. Everything that
                makes a residual another one belongs into the key.
            latent_shape: ``[B, C, T, H, W]`` of the video latent, for MoReg's token grid.
            arguments: arguments of the model call by name, for the same purpose.
        """
        if sigma <= 0:
            # Not a step: an autoregressive model reads finished frames into its key/value cache.
            yield False
            return
        time = flow_time(sigma, self._sigma_max)
        with self._lock:
            skips = self._enter(self.step_index(sigma), sigma, keys)
        if skips:
            with attach.skipping(model, layout, lambda stream, before: self._replayed(stream, before, keys, time)):
                yield True
            return
        residuals: dict[Hashable, list[Tensor]] = {key: [] for key in keys}

        def record_residual(stream: int, before: Tensor, after: Tensor) -> None:
            for key, old, new in zip(keys, before.chunk(len(keys)), after.chunk(len(keys)), strict=True):
                residuals[key].append((new.float() - old.float()).to(new.dtype))

        with attach.computing(model, layout, record_residual):
            yield False
        with self._lock:
            for key, residual in residuals.items():
                if residual:
                    self._store(key, ComputedResidual(time, tuple(residual)), layout, latent_shape, arguments)

    def finish(self) -> RunStatistics:
        """Close the last step; the statistics are complete."""
        self._leave()
        self.statistics.finished = True
        return self.statistics

    def _enter(self, step: int, sigma: float, keys: Sequence[Hashable]) -> bool:
        """Count a model call, after opening its step if it is the first; returns whether the call skips."""
        if self._step is None or self._step.step != step:
            previous = -1 if self._step is None else self._step.step
            self._leave()
            if step < previous:
                self.schedule = self._make_schedule()
                self._cache = ResidualCache(self.replay.order)
            reason = self.schedule.reason(step)
            self._step = StepRecord(step, sigma, computed=reason != "skipped", reason=reason)
            self._started = clock.perf_counter()
        record = self._step
        self._conditions.update(keys)
        self.statistics.conditions = len(self._conditions)
        record.calls += len(keys)
        if not record.computed:
            if all(key in self._cache for key in keys):
                return True
            record.computed, record.reason = True, "nothing cached for a condition"
        record.computed_calls += len(keys)
        return False

    def _leave(self) -> None:
        """Close the current step: only now all of its conditions are known to the schedule."""
        record = self._step
        if record is None:
            return
        if record.computed:
            self._observe(record)
        record.seconds = clock.perf_counter() - self._started
        self.statistics.steps.append(record)
        self._step = None
        if self._on_step is not None:
            self._on_step(self.statistics)

    def _observe(self, record: StepRecord) -> None:
        terms, self._terms = list(self._terms.values()), {}
        change, norm = _summed([term.distance for term in terms]) if terms else (0.0, 0.0)
        if not math.isfinite(change + norm):
            # A residual that is not a number must never be replayed; computing on shows the error in the video
            # just as it would without a cache.
            self._cache = ResidualCache(self.replay.order)
            record.reason = "residual is not finite"
            change, norm, terms = 0.0, 0.0, []
        moved = [term.motion for term in terms if term.motion is not None]
        observation = self.schedule.observe(
            record.step,
            change / norm if norm > 0 else None,
            score_of_terms(torch.tensor(_summed(moved)).view_as(moved[0])) if moved else None,
        )
        record.rate = observation.rate
        record.distance = observation.distance
        record.motion_score = observation.motion_score
        record.motion_gradient = observation.motion_gradient
        record.regularized_distance = observation.regularized_distance

    def _store(
        self,
        key: Hashable,
        computed: ComputedResidual,
        layout: Layout,
        latent_shape: tuple[int, ...] | None,
        arguments: Mapping[str, Any] | None,
    ) -> None:
        if key not in self._terms:
            # The first call of a step is the one to measure: later calls of the same step follow it too closely.
            self._terms[key] = self._measure(key, computed.residual[0], layout, latent_shape, arguments)
        self._cache.store(key, computed)
        self.statistics.cache_bytes = max(self.statistics.cache_bytes, self._cache.nbytes)

    def _measure(
        self,
        key: Hashable,
        video: Tensor,
        layout: Layout,
        latent_shape: tuple[int, ...] | None,
        arguments: Mapping[str, Any] | None,
    ) -> _Terms:
        history = self._cache.history(key)
        if history:
            distance = distance_terms(history[0].residual[0].to(video.device), video)
        else:
            # Nothing to compare with: no distance (norm 0), but a residual that is not finite shows in the sum.
            size = l1_norm(video)
            distance = torch.stack((size, torch.zeros_like(size)))
        motion = self.schedule.motion
        if motion is None or latent_shape is None:
            return _Terms(distance)
        of_video, frames = layout.video_tokens(video, latent_shape, arguments)
        if frames <= max(motion.strides):
            # The last block of frames of an autoregressive model may be a short one.
            return _Terms(distance)
        return _Terms(distance, motion_terms(of_video, frames, motion.strides))

    def _replayed(self, stream: int, before: Tensor, keys: Sequence[Hashable], time: float) -> Tensor:
        """``input + residual`` for every condition of the batch, in float32."""
        replayed = []
        for key, chunk in zip(keys, before.chunk(len(keys)), strict=True):
            residual = self.replay.residual(self._cache.history(key), time)[stream]
            replayed.append(chunk.float() + residual.to(chunk.device).float())
        return torch.cat(replayed)


@dataclass
class _Terms:
    """Sums of one condition at the current step; they stay on the device until the step is closed."""

    distance: Tensor
    motion: Tensor | None = None


def _summed(terms: list[Tensor]) -> list[float]:
    """Element-wise sum over conditions, exactly rounded, so that the order in which threads finish does not matter."""
    return [math.fsum(values) for values in zip(*(term.flatten().tolist() for term in terms), strict=True)]
