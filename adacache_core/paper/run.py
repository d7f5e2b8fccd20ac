"""One sampling run: it owns the cached residuals and the statistics, and is dropped at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from ..inside.attach import Allocating
from ..inside.layout import Layout
from ..statistics import RunStatistics, StepRecord
from ..steps import Steps
from .measure import Measurement, Video
from .residual import Residual, ResidualCache
from .rule import SKIPPED, Rule

# Where the video's tokens are among so many, text first or not, and their frames, rows and columns; or None.
Places = Callable[[bool, int], tuple[Tensor, tuple[int, int, int]] | None]


class PartialSteps(Protocol):
    """What a step does that would be skipped, see ``tokens/partial.py``."""

    @property
    def complete(self) -> bool:
        """Whether a partial step would compute everything."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def call(
        self, model: nn.Module, layout: Layout, keys: Sequence[Hashable], step: int, places: Places, partial: bool
    ) -> AbstractContextManager[None]:
        """Around a model call: keep what it computes, or let it compute a part."""

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other conditions."""


class ResidualRun:
    """Decides for every model call of one sampling run whether it computes or replays.

    Used around each model call::

        run = ResidualRun(lambda: CodebookRule(codebook, len(steps)), steps, statistics)
        for sigma in sigmas[:-1]:
            with run.call(model, layout, sigma, keys=("positive", "negative")):
                velocity = model(x, sigma, context)  # batch of two conditions
        run.finish()

    Conditions may be called from several threads, each with a model of its own on its own device: a decision belongs
    to a step, is taken at the step's first call, and all calls of the step follow it.

    Args:
        make_rule: makes a fresh rule; called again where the sampler goes back to an earlier noise level
            (a new block of frames, a restart), from where everything starts over.
        steps: noise levels of the run.
        statistics: filled in as the run goes; keeps numbers only.
        partial_steps: what takes the place of skips, or None.
        on_step: called after every finished step, e.g. to show progress.
        allocating: see ``inside/attach.py``.
    """

    def __init__(
        self,
        make_rule: Callable[[], Rule],
        steps: Steps,
        statistics: RunStatistics,
        partial_steps: PartialSteps | None = None,
        on_step: Callable[[RunStatistics], None] | None = None,
        allocating: Allocating = nullcontext,
    ) -> None:
        self._make_rule, self._rule = make_rule, make_rule()
        self._steps = steps
        self.statistics = statistics
        self._partial = partial_steps
        self._on_step = on_step
        self._allocating = allocating
        self._cache = ResidualCache(allocating)
        self._measured = Measurement()
        self._asked: set[Hashable] = set()  # conditions since the last scheduled compute
        self._conditions: set[Hashable] = set()  # of this step
        self._step: StepRecord | None = None
        self._scheduled = True  # whether the rule wants this step computed
        self._started = 0.0
        self._lock = threading.Lock()

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

        A partial step runs the blocks, so it does not count as a replay here.

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
        with self._lock:
            skips = self._enter(self._steps.of(sigma), sigma, keys)
            step = self._step.step if self._step else 0
            replaying = self._cache.skipping(model, layout, keys) if skips and self._partial is None else None
        tokens: AbstractContextManager[None] = nullcontext()
        if self._partial is not None:
            places = partial(layout.video_places, latent_shape, arguments)
            tokens = self._partial.call(model, layout, keys, step, places, skips)
        if not skips:
            video = None if latent_shape is None else partial(_video, layout, latent_shape, arguments)
            with self._computing(model, layout, keys, video), tokens:
                yield False
        elif replaying is not None:
            with replaying:
                yield True
        else:
            with tokens:
                yield False

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._cache.nbytes + (0 if self._partial is None else self._partial.nbytes)

    def finish(self) -> RunStatistics:
        """Close the last step; the statistics are complete."""
        self.statistics.finished = True
        self._leave()
        return self.statistics

    def drop(self) -> None:
        """Let go of all tensors, even if the run itself lives on in the traceback of an error."""
        self._measured = Measurement()
        self._keep(())

    def _enter(self, step: int, sigma: float, keys: Sequence[Hashable]) -> bool:
        """Count a model call, after opening its step if it is the first; returns whether the call skips."""
        left = self.statistics.steps[-1].step if self.statistics.steps else None
        if self._step is not None and step == left == self._step.step - 1:
            step += 1  # a sampler that looks ahead (heunpp2) comes back for the step that it just left
        if self._step is None or self._step.step != step:
            self._open(step, sigma)
        record = self._step
        assert record is not None
        self._asked.update(keys)
        self._conditions.update(keys)
        self.statistics.conditions = max(self.statistics.conditions, len(self._conditions))
        # By the rule alone, or else it would depend on which condition comes first, in threads on chance.
        skips = not self._scheduled and all(key in self._cache for key in keys)
        if not self._scheduled and not skips:
            record.kind, record.reason = "computed", "nothing cached for a condition"
        if skips and self._partial is not None and self._partial.complete:
            record.kind, record.reason, skips = "computed", "every token refreshed", False
        record.calls += len(keys)
        record.computed_calls += 0 if skips else len(keys)
        return skips

    def _open(self, step: int, sigma: float) -> None:
        previous = -1 if self._step is None else self._step.step
        self._leave()
        if step < previous:
            self._rule = self._make_rule()
            self._keep(())
        reason = self._rule.reason(step)
        self._scheduled = reason != SKIPPED
        if self._scheduled:
            self._step = StepRecord(step, sigma, "computed", reason)
        elif self._partial is not None:
            self._step = StepRecord(step, sigma, "partial", "partial")
        else:
            self._step = StepRecord(step, sigma, "skipped", reason)
        self._conditions = set()
        self._measured = Measurement(self._rule.motion)
        self._started = time.perf_counter()

    def _leave(self) -> None:
        """Close the current step: only now all of its conditions are known to the rule."""
        record, self._step = self._step, None
        if record is None:
            return
        if self._scheduled:
            # Context windows that move leave residuals behind that nobody asks for again.
            self._keep(self._asked)
            self._asked = set()
        # A condition for which nothing can be recorded computes at every step, and tells the rule nothing.
        if record.kind == "computed" and (self._scheduled or not self._measured.empty):
            self._observe(record)
        record.seconds = time.perf_counter() - self._started
        self.statistics.steps.append(record)
        if self._on_step is not None:
            self._on_step(self.statistics)

    def _observe(self, record: StepRecord) -> None:
        finite, measured = self._measured.finite, self._measured
        if not finite:
            # A residual that is not a number must never be replayed; computing on shows the error in the video
            # just as it would without a cache.
            self._keep(())
            record.reason = "residual is not finite"
        distance, motion = (measured.distance, measured.motion_score) if finite else (None, None)
        record.paper = self._rule.observe(record.step, distance, motion)

    def _keep(self, keys: Collection[Hashable]) -> None:
        self._cache.keep(keys)
        if self._partial is not None:
            self._partial.keep(keys)

    @contextmanager
    def _computing(self, model: nn.Module, layout: Layout, keys: Sequence[Hashable], video: Video) -> Iterator[None]:
        with self._cache.computing(model, layout, keys) as residuals:
            yield
        with self._lock, self._allocating():
            for key, residual in residuals.items():
                self._store(key, residual, video)

    def _store(self, key: Hashable, residual: Residual, video: Video) -> None:
        self._measured.check(residual)
        if key not in self._measured:
            # The first call of a step is the one to measure: later calls of the same step follow it too closely.
            last, current = self._cache.last(key), residual[0]
            self._measured.add(key, None if last is None else last[0].to(current.device), current, video)
        self._cache.store(key, residual)
        self.statistics.cache_bytes = max(self.statistics.cache_bytes, self.nbytes)


def _video(
    layout: Layout, latent_shape: tuple[int, ...], arguments: Mapping[str, Any] | None, tokens: Tensor
) -> tuple[Tensor, int]:
    return layout.video_tokens(tokens, latent_shape, arguments)
