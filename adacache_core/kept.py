"""The predictions that a run keeps: the last computes of each condition that the sampler's evaluations ask for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from .forecast import Computed, remember


class Kept:
    """Histories by slot: what makes a prediction another one, but for the state and the noise level.

    ``compute`` is called at every evaluation that computes by plan. What was not asked for since the last but one is
    dropped: context windows that move leave predictions behind that nobody asks for again.
    """

    def __init__(self) -> None:
        self._histories: dict[Hashable, tuple[Computed, ...]] = {}
        self._asked: dict[Hashable, int] = {}  # number of the planned compute since which a slot was last asked for
        self._computes = 0
        self._now: set[Hashable] = set()
        self._before: set[Hashable] = set()

    def evaluate(self) -> None:
        """An evaluation begins."""
        self._before, self._now = self._now, set()

    @property
    def changed(self) -> bool:
        """Whether this evaluation asked for other slots than the one before: guidance makes another thing of them."""
        return self._before != self._now

    def alone(self, guided: Tensor) -> bool:
        """Whether what is guided is of one condition, as it was before: without guidance, in other words."""
        return len(self._before | self._now) == 1 and all(kept.shape == guided.shape for kept in self.latest())

    def compute(self) -> None:
        """A planned compute begins."""
        self._computes += 1
        for slot in [slot for slot, at in self._asked.items() if at < self._computes - 2]:
            del self._asked[slot]
            self._histories.pop(slot, None)

    def ask(self, slot: Hashable) -> tuple[Computed, ...]:
        """A slot's history if a line can be drawn through it, or while no plan has asked for a second compute; newest
        first, else nothing."""
        self._asked[slot] = self._computes
        self._now.add(slot)
        history = self._histories.get(slot, ())
        return history if len(history) > 1 or self._computes < 2 else ()

    def add(self, slot: Hashable, computed: Computed, bend: float) -> None:
        """Keep a compute; those that no forecast of that bend needs are let go of."""
        self._histories[slot] = remember(self._histories.get(slot, ()), computed, bend)

    def refuse(self, slot: Hashable) -> None:
        """Let go of a slot whose prediction cannot be used."""
        self._histories.pop(slot, None)

    def latest(self) -> list[Tensor]:
        """The newest predictions of the slots that were asked for since the planned compute began."""
        return [history[0].denoised for slot, history in self._histories.items() if self._asked[slot] == self._computes]

    def copy(self, guided: Tensor) -> Tensor:
        """What is guided, to be kept: without guidance the condition's own prediction, which need not be kept twice."""
        latest = self.latest()
        same = len(latest) == 1 and latest[0].shape == guided.shape and torch.equal(latest[0], guided)
        return latest[0] if same else guided.clone()

    def move(self, by: Tensor) -> None:
        """Change the newest predictions, as they would be in another state."""
        for denoised in self.latest():
            denoised += by

    def __iter__(self) -> Iterator[Computed]:
        return (computed for history in self._histories.values() for computed in history)
