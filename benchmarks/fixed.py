"""The control that every adaptive decision must beat: computes at even distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adacache_core.schedule import Schedule


class FixedInterval(Schedule):
    """The first three steps, the last one, and as many others, evenly spread, as make ``computes`` in all."""

    def __init__(self, total_steps: int, computes: int) -> None:
        spread = computes - 3
        self.steps = {0, 1, *(2 + round(index * (total_steps - 3) / spread) for index in range(spread + 1))}
        super().__init__(total_steps)

    def _forced_steps(self) -> frozenset[int]:
        return frozenset(self.steps)

    def _rate_without_distance(self, step: int) -> int:
        return self.total_steps

    def _next_rate(self, step: int, regularized_distance: float, motion_factor: float | None) -> int:
        return self.total_steps


def fixed_interval(computes: int) -> Callable[..., Schedule]:
    """Stands in for ``make_schedule`` with the same arguments."""

    def make(preset: str, times: Sequence[float], *_: Any) -> Schedule:
        return FixedInterval(len(times), computes)

    return make
