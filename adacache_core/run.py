"""One sampling run: it owns the schedule, the cached residuals and the statistics, and is dropped at the end."""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from . import model_call, sublayers
from .layout import Layout
from .measurement import Measurement, Video
from .noise_levels import NoiseLevels
from .replay import ComputedResidual, Replay, repayment
from .residual_cache import ResidualCache, Storage
from .schedule import Schedule
from .statistics import RunStatistics, StepRecord
from .tokens import Grid, TokenCache, TokenRefresh


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
        storage: in which form and where residuals are kept.
        repaid: part of the error of skips that the next compute gives back, 0 to 1; for samplers that take a plain step
            along the model's output (Euler) or nearly so.
        group: ranks that hold a part of the tokens each and must decide alike; None is one process.
        on_step: called after every finished step, e.g. to show progress.
        calibrates: of the steps, all computed, every this many-th measures how well the two such before it forecast it;
            needs ``FORECAST``. 0 is none.
        refresh: makes partial steps of the steps that would be skipped, see ``tokens.py``; nothing is repaid then.
        token_bytes: what that will keep; a run that has not so much memory ends before its first step.
    """

    def __init__(
        self,
        make_schedule: Callable[[], Schedule],
        replay: Replay,
        sigmas: Sequence[float],
        statistics: RunStatistics,
        sigma_max: float = 1.0,
        storage: Storage | None = None,
        repaid: float = 0.0,
        group: ProcessGroup | None = None,
        on_step: Callable[[RunStatistics], None] | None = None,
        calibrates: int = 0,
        refresh: TokenRefresh | None = None,
        token_bytes: int = 0,
    ) -> None:
        self._make_schedule = make_schedule
        self.schedule = make_schedule()
        self.replay = replay
        self.statistics = statistics
        self._levels = NoiseLevels(sigmas, sigma_max)
        self._storage = storage or Storage()
        self._outputs = self._storage.form == "output"
        self._repaid = repaid if refresh is None else 0.0
        self._refresh = refresh
        self._token_bytes = token_bytes
        self._group = group
        self._calibrates = calibrates
        self._on_step = on_step
        self._cache = ResidualCache(replay.order, self._storage.device)
        self._tokens = self._empty_tokens()
        self._measured = Measurement(None)
        self._conditions: dict[Hashable, int] = {}  # numbered as they come up
        self._asked: set[Hashable] = set()  # conditions since the last scheduled compute
        self._emptied: StepRecord | None = None  # the last step at which the cache was
        self._step: StepRecord | None = None
        self._skipped: list[int] = []  # steps since the last compute
        self._started = 0.0
        self._lock = threading.Lock()
        statistics.storage = "output" if self._outputs else "hidden"
        statistics.repaid = 0.0 if self._outputs else self._repaid

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

        A partial step (token refresh) runs the blocks, so it does not count as a replay here.

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
        time = self._levels.time(sigma)
        video = None if latent_shape is None else partial(_video, layout, latent_shape, arguments)
        with self._lock:
            if self._token_bytes and not self._conditions:
                # Not earlier: now the model is where it runs, and what is free is free.
                self._storage.require(self._token_bytes, next(model.parameters()).device)
            skips = self._enter(self._levels.step(sigma), sigma, keys)
            cache, outputs = self._cache, self._outputs
            tokens = self._token_call(layout, keys, latent_shape, arguments, skips)
        if skips and tokens is not None:
            with sublayers.refreshing(model, layout, tokens):
                yield False
        elif skips:
            dtypes = [part.dtype for part in cache.history(keys[0])[0].residual] if outputs else []
            with model_call.replaying(model, layout, partial(cache.replayed, self.replay, keys, time), dtypes):
                yield True
        else:
            keeping = nullcontext() if tokens is None else sublayers.refreshing(model, layout, tokens)
            with self._computing(model, layout, keys, time, video, outputs), keeping:
                yield False

    def _token_call(
        self,
        layout: Layout,
        keys: Sequence[Hashable],
        latent_shape: tuple[int, ...] | None,
        arguments: Mapping[str, Any] | None,
        partial_step: bool,
    ) -> sublayers.TokenCall | None:
        if self._tokens is None or self._step is None:
            return None

        def grid(text_first: bool) -> Grid:
            return partial(layout.video_places, latent_shape, arguments, text_first)

        return sublayers.TokenCall(self._tokens, keys, self._step.step, grid, partial_step)

    @contextmanager
    def _computing(
        self, model: nn.Module, layout: Layout, keys: Sequence[Hashable], time: float, video: Video, outputs: bool
    ) -> Iterator[None]:
        owed = 0.0 if outputs else self._owed(keys, time)
        replayed = partial(self._cache.replayed, self.replay, keys, time)
        with model_call.recording(model, layout, keys, replayed, owed, outputs) as residuals:
            yield
        computed = {key: ComputedResidual(time, tensors) for key, tensors in residuals.items()}
        with self._lock:
            self._choose_form(computed)
            if outputs == self._outputs:
                for key, residual in computed.items():
                    self._store(key, residual, video)

    def finish(self) -> RunStatistics:
        """Close the last step; the statistics are complete."""
        self._leave()
        self.statistics.finished = True
        return self.statistics

    def drop(self) -> None:
        """Let go of all tensors, even if the run itself lives on in the traceback of an error."""
        self._cache.keep(())
        self._measured = Measurement(None)
        if self._tokens is not None:
            self._tokens.keep(())

    def _enter(self, step: int, sigma: float, keys: Sequence[Hashable]) -> bool:
        """Count a model call, after opening its step if it is the first; returns whether the call skips."""
        left = self.statistics.steps[-1].step if self.statistics.steps else None
        if self._step is not None and step == left == self._step.step - 1:
            step += 1  # a sampler that looks ahead (heunpp2) comes back for the step that it just left
        if self._step is None or self._step.step != step:
            previous = -1 if self._step is None else self._step.step
            self._leave()
            if step < previous:
                self.schedule = self._make_schedule()
                self._forget()
            reason = self.schedule.reason(step)
            self._step = StepRecord(step, sigma, computed=reason != "skipped", reason=reason)
            self._step.partial = self._refresh is not None and not self._step.computed
            if self._step.partial:
                self._step.reason = "partial"
            self._started = clock.perf_counter()
            motion = self.schedule.motion if self.schedule.measures_motion(step) else None
            relative = self.schedule.relative_motion
            self._measured = Measurement(motion, self._group, bool(self._calibrates), relative)
        record = self._step
        numbers = [self._conditions.setdefault(key, len(self._conditions)) for key in keys]
        self._asked.update(keys)
        self.statistics.conditions = len(self._conditions)
        # By the schedule alone, or else it would depend on which condition comes first, in threads on chance.
        planned = self.schedule.computes(record.step)
        skips = not planned and all(key in self._cache for key in keys)
        if not planned and not skips:
            record.computed, record.reason = True, "nothing cached for a condition"
            if self.statistics.steps[-1:] == [self._emptied]:
                record.reason = "cache was emptied"
        if skips and self._refresh is not None and self._refresh.complete:
            record.computed, record.reason, skips = True, "every token refreshed", False
        record.count(numbers, computed=not skips, partial=record.partial)
        return skips

    def _leave(self) -> None:
        """Close the current step: only now all of its conditions are known to the schedule."""
        record = self._step
        if record is None:
            return
        if self.schedule.computes(record.step):
            # Context windows that move leave residuals behind that nobody asks for again.
            self._cache.keep(self._asked)
            if self._tokens is not None:
                self._tokens.keep(self._asked)
            self._asked.clear()
        if record.computed:
            self._observe(record)
            self._skipped.clear()
        else:
            self._skipped.append(record.step)
        record.seconds = clock.perf_counter() - self._started
        self.statistics.steps.append(record)
        self._step = None
        if self._on_step is not None:
            self._on_step(self.statistics)

    def _observe(self, record: StepRecord) -> None:
        distance, motion_score, record.forecast_error, finite = self._measured.result()
        if not finite:
            # A residual that is not a number must never be replayed; computing on shows the error in the video
            # just as it would without a cache.
            self._forget()
            record.reason = "residual is not finite"
        for name, value in vars(self.schedule.observe(record.step, distance, motion_score)).items():
            setattr(record, name, value)

    def _store(self, key: Hashable, computed: ComputedResidual, video: Video) -> None:
        self._measured.check(computed.residual)
        if self._calibrates and self._step is not None and self._step.step % self._calibrates:
            return
        history, current, again = self._cache.history(key), computed.residual[0], key in self._measured
        forecast = None
        if self._calibrates and len(history) == 2:
            forecast = self._cache.replayed(self.replay, (key,), computed.time, 0, current.device)
        self._cache.store(key, computed, again)
        held = self._cache.nbytes + (0 if self._tokens is None else self._tokens.nbytes)
        self.statistics.cache_bytes = max(self.statistics.cache_bytes, held)
        if not again:
            # The first call of a step is the one to measure: later calls of the same step follow it too closely.
            previous = history[0].residual[0].to(current.device) if history and self._calibrates < 2 else None
            self._measured.add(key, previous, current, video, forecast)

    def _forget(self) -> None:
        self._cache = ResidualCache(self.replay.order, self._storage.device)
        self._tokens = self._empty_tokens()
        self._skipped.clear()
        self._emptied = self._step

    def _empty_tokens(self) -> TokenCache | None:
        return None if self._refresh is None else TokenCache(self._refresh, self._storage.device)

    def _choose_form(self, computed: Mapping[Hashable, ComputedResidual]) -> None:
        """Keep outputs from now on where new conditions' hidden states would not fit; the next steps then compute."""
        new = [residual for key, residual in computed.items() if key not in self._cache]
        if self._storage.form == "auto" and not self._outputs and not self._storage.holds(new, self.replay.order):
            self._outputs = True
            self.statistics.storage = "output"
            self.statistics.repaid = 0.0
            self._forget()

    def _owed(self, keys: Sequence[Hashable], time: float) -> float:
        """Factor of the surprise of a compute that is given back; 0 where nothing was skipped before it."""
        step = self._step.step if self._step else 0
        histories = {tuple(computed.time for computed in self._cache.history(key)) for key in keys}
        if not (self._repaid and self._skipped and self._levels.starts(step, time) and len(histories) == 1):
            return 0.0
        [times] = histories
        duration = self._levels.duration(step)
        if not times or duration == 0:
            return 0.0
        skipped = [(self._levels.times[earlier], self._levels.duration(earlier)) for earlier in self._skipped]
        return repayment(times, skipped, time, duration, self._repaid)


def _video(
    layout: Layout, latent_shape: tuple[int, ...], arguments: Mapping[str, Any] | None, tokens: Tensor
) -> tuple[Tensor, int]:
    return layout.video_tokens(tokens, latent_shape, arguments)
