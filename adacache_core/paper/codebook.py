"""Codebook: how many steps a residual may be reused, given how fast it changes (AdaCache, Sec. 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigurationError

EXAMPLE = '"0.08:6, 0.16:5, 1.0:1"'


@dataclass(frozen=True)
class Codebook:
    """Ascending distance thresholds, each with a cache rate.

    Args:
        entries: pairs ``(threshold, rate)``. A distance below the first matching threshold gets its rate;
            a distance above every threshold gets the last rate. Thresholds are relative L1 distances per
            step (> 0, ascending); a rate is the number of steps until the next compute (>= 1).
        steps: number of sampling steps the entries were made for.

    Raises:
        ConfigurationError: empty, thresholds not ascending or not positive, a rate under 1.
    """

    entries: tuple[tuple[float, int], ...]
    steps: int = 30

    def __post_init__(self) -> None:
        if not self.entries:
            raise ConfigurationError(f"AdaCache: the codebook is empty. Write entries as {EXAMPLE}.")
        previous = 0.0
        for number, (threshold, rate) in enumerate(self.entries, start=1):
            if not previous < threshold < math.inf:
                met = f"{threshold:g} after {previous:g}" if number > 1 else f"{threshold:g}"
                rule = "must ascend" if number > 1 else "must be above 0"
                rule += " and be finite" if threshold == math.inf else ""
                raise ConfigurationError(
                    f"AdaCache: codebook thresholds {rule}, got {met} (entry {number}). Write them as {EXAMPLE}."
                )
            if rate < 1:
                raise ConfigurationError(
                    f"AdaCache: a codebook rate is the number of steps until the next compute and must be at least 1, "
                    f"got {rate} (entry {number}). Use 1 to compute every step."
                )
            previous = threshold

    @classmethod
    def parse(cls, text: str, steps: int = 30) -> Codebook:
        """Read ``"threshold:rate, threshold:rate, ..."``.

        >>> Codebook.parse("0.08:6, 1.0:1").rate(0.5)
        1
        """
        entries: list[tuple[float, int]] = []
        for number, item in enumerate((part.strip() for part in text.replace("\n", ",").split(",")), start=1):
            if not item:
                continue
            try:
                threshold, rate = item.split(":")
                entries.append((float(threshold), int(rate)))
            except ValueError:
                raise ConfigurationError(
                    f"AdaCache: codebook entry {number} is {item!r}, expected threshold:rate with a whole rate. "
                    f"Write entries as {EXAMPLE}."
                ) from None
        return cls(tuple(entries), steps)

    def rate(self, distance: float) -> int:
        """Steps until the next compute for a distance per step (``distance < threshold`` picks the entry)."""
        for threshold, rate in self.entries:
            if distance < threshold:
                return rate
        return self.entries[-1][1]

    def for_steps(self, steps: int) -> Codebook:
        """The same codebook for another number of steps.

        Twice the steps change the residual half as much per step and may skip twice as many of them, so
        thresholds shrink and rates grow in proportion. The paper's own pair (30 and 100 steps) follows this
        rule to about a quarter.
        """
        if steps == self.steps:
            return self
        scale = steps / self.steps
        entries = tuple((threshold / scale, max(1, round(rate * scale))) for threshold, rate in self.entries)
        return Codebook(entries, steps)


def nearest(codebooks: Iterable[Codebook], steps: int) -> Codebook:
    """The codebook made for the nearest step count (as a ratio), scaled to ``steps``."""
    best = min(codebooks, key=lambda book: max(book.steps / steps, steps / book.steps))
    return best.for_steps(steps)


# AdaCache (arXiv 2411.02397), released configurations for Open-Sora v1.2.
PAPER_FAST = (
    Codebook(((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.00, 1)), steps=30),
    Codebook(((0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.00, 3)), steps=100),
)
PAPER_SLOW = (Codebook(((0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (0.40, 1), (1.00, 1)), steps=30),)
PAPER = {"paper-fast": PAPER_FAST, "paper-slow": PAPER_SLOW}


def codebook_for(preset: str, total_steps: int, custom: Codebook | None = None) -> Codebook:
    """The codebook of a preset for this many steps; ``custom`` is the one of preset ``custom``, used as it is.

    Raises:
        ConfigurationError: ``custom`` without a codebook.
    """
    if preset in PAPER:
        return nearest(PAPER[preset], total_steps)
    if custom is None:
        raise ConfigurationError(f'AdaCache: preset "{preset}" needs a codebook. Write one as {EXAMPLE}.')
    return custom
