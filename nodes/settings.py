"""The user's choices, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..adacache_core import SPEEDUPS, ConfigurationError, Steps, computes_of
from ..adacache_core.paper.codebook import PAPER, Codebook, codebook_for
from ..adacache_core.paper.measure import MotionRegularization
from ..adacache_core.tokens.choice import TokenRefresh

TARGET, CUSTOM = "target", "custom"
OFF, AUTO = "off", "auto"
FINER = (OFF, "2", "4", AUTO)
# Below so many computes, steps finer by this factor would come between computes too far apart to fill the gaps well.
_FINEST = {4: 10, 2: 8}
PRESETS = ("balanced", "quality", "fast", TARGET, *PAPER, CUSTOM)


@dataclass(frozen=True)
class Settings:
    """What the AdaCache node and those that plug into it ask for.

    Attributes:
        preset: one of ``PRESETS``.
        codebook: of preset ``custom``.
        target_speedup: of preset ``target``: evaluations of the model without a cache over those with it, >= 1.
        moreg: motion regularisation, or None.
        token_refresh: what a step does that would be skipped; None skips it.
        finer: one of ``FINER``: how many steps the sampler takes for each of its own, of a planned preset.

    Raises:
        ConfigurationError: a choice out of range, or one that does not go with another.
    """

    preset: str = "balanced"
    codebook: Codebook | None = None
    target_speedup: float = 2.0
    moreg: MotionRegularization | None = None
    token_refresh: TokenRefresh | None = None
    finer: str = OFF

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ConfigurationError(f"AdaCache: preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        if self.preset == TARGET and not 1 <= self.target_speedup < math.inf:
            raise ConfigurationError(
                f'AdaCache: preset "target" needs a target_speedup of 1 or more, got {self.target_speedup:g}. 2 '
                f"computes every second step on average."
            )
        if self.finer not in FINER:
            raise ConfigurationError(f"AdaCache: finer must be one of {', '.join(FINER)}, got {self.finer!r}.")
        if self.finer != OFF and (not self.planned or self.token_refresh is not None):
            raise ConfigurationError(
                f"AdaCache: finer steps need a planned preset without Token Refresh, whose skipped steps cost nothing; "
                f'got {self.preset}. Choose balanced, quality, fast or target, or set finer to "{OFF}".'
            )
        if not self.planned:
            codebook_for(self.preset, 30, self.codebook)
        elif self.moreg is not None and self.token_refresh is not None:
            raise ConfigurationError(
                f"AdaCache: MoReg beside Token Refresh needs a preset that decides while it samples: "
                f"{', '.join((*PAPER, CUSTOM))}; got {self.preset}. Choose one of these, or remove MoReg."
            )

    @property
    def planned(self) -> bool:
        """Whether the steps that compute are chosen before sampling; else the paper's rule decides while it goes."""
        return self.preset not in PAPER and self.preset != CUSTOM

    @property
    def speedup(self) -> float | None:
        """What a planned preset aims at; None for the paper's presets."""
        if not self.planned:
            return None
        return self.target_speedup if self.preset == TARGET else SPEEDUPS[self.preset]

    def computes(self, calls: int, steps: Steps | None = None) -> int:
        """How many of a run's calls of the model a planned preset computes; ``steps`` as of ``computes_of``."""
        if self.preset == TARGET:
            return round(calls / self.target_speedup)
        return computes_of(self.preset, calls, steps)

    def factor(self, steps: int) -> int:
        """How many steps the sampler takes for each of a schedule's."""
        if self.speedup is None or self.finer == OFF:
            return 1
        if self.finer != AUTO:
            return int(self.finer)
        return next((factor for factor, least in _FINEST.items() if steps / self.speedup >= least), 1)
