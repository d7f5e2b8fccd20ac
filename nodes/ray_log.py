"""Statistics of a sampling in another process, as Ray brings them: steps while it goes, all of it when it is done."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

from ..adacache_core import RunStatistics
from .runs import SECONDS_APART, LoggedRun, RunLog, reporter

# For a worker's last words; what it has sampled is here by then.
_SECONDS = 60


class RayLog(RunLog):
    """The sampling runs of a node whose model samples in a worker of Ray's."""

    def __init__(self) -> None:
        super().__init__()
        self._following: list[Thread] = []

    def follow(self, node_id: str | None, key: str, result: Any) -> None:
        """Log a sampling of the executing prompt from now on.

        Args:
            node_id: the AdaCache node, for live progress; None without.
            key: where the worker's ``sender`` leaves its progress.
            result: Ray's reference to the list of its statistics.
        """
        run = RunStatistics({}, 0)
        self.start(run)
        self._following = [thread for thread in self._following if thread.is_alive()]
        thread = Thread(target=_follow, args=(run, key, result, reporter(node_id)), name="adacache-ray", daemon=True)
        thread.start()
        self._following.append(thread)

    def of_prompt(self, *prompt: Any, **more: Any) -> list[LoggedRun]:
        for thread in self._following:
            thread.join(_SECONDS)
        # Without steps: the worker died, or was not asked to sample.
        return [run for run in super().of_prompt(*prompt, **more) if run.statistics.total_steps]


def sender(key: str) -> Callable[[RunStatistics], None]:
    """What a worker calls after every step, so that those who ``follow`` can read how far it is."""
    from ray.experimental import internal_kv

    sent = float("-inf")

    def send(statistics: RunStatistics) -> None:
        nonlocal sent
        now = time.monotonic()
        if now - sent >= SECONDS_APART:
            sent = now
            internal_kv._internal_kv_put(key, pickle.dumps(statistics))

    return send


def _follow(run: RunStatistics, key: str, result: Any, report: Callable[[RunStatistics], None] | None) -> None:
    """Ends with the worker's sampling, with the worker, or with Ray."""
    import ray
    from ray.experimental import internal_kv

    def show(statistics: RunStatistics) -> None:
        run.__dict__.update(vars(statistics))
        if report is not None:
            report(run)

    try:
        while not ray.wait([result], timeout=SECONDS_APART)[0]:
            sent = internal_kv._internal_kv_get(key) if report is not None else None
            if sent is not None:
                show(pickle.loads(sent))
        for statistics in ray.get(result)[-1:]:
            show(statistics)
        internal_kv._internal_kv_del(key)
    except (ray.exceptions.RayError, ConnectionError):
        pass  # whoever waits for the latent hears of it
