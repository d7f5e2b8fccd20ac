"""The object that carries finished statistics from a patched model to the inspector: numbers only, no tensors."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from ..adacache_core import RunStatistics, WindowStatistics


@dataclass(frozen=True)
class LoggedRun:
    """Statistics of one sampling run, with the prompt and the sampler node it belongs to (None if unknown).

    ``started`` is only good for putting runs of several logs in order.
    """

    prompt_id: str | None
    node_id: str | None
    statistics: RunStatistics | WindowStatistics
    started: float = field(default_factory=time.monotonic)


class StatisticsLog:
    """The last sampling runs of one AdaCache or AR Cache node, newest last. Shared by reference along the graph."""

    def __init__(self) -> None:
        self._runs: deque[LoggedRun] = deque(maxlen=16)

    def append(self, run: LoggedRun) -> None:
        """Add a run as it starts; its statistics fill in while it goes."""
        self._runs.append(run)

    def of_prompt(self, prompt_id: str | None) -> list[LoggedRun]:
        """Runs of a prompt; where it ran none (its samples came from the cache), those of the last prompt that did."""
        runs = [run for run in self._runs if run.prompt_id == prompt_id]
        return runs or [run for run in self._runs if run.prompt_id == self._runs[-1].prompt_id]
