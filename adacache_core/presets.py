"""Named settings: which schedule, and which replay goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .calibration import CALIBRATE, Calibration
from .codebook import PAPER_FAST, PAPER_SLOW, Codebook, nearest
from .errors import ConfigurationError
from .motion import MotionRegularization
from .replay import FORECAST, HOLD, Replay, replay_named
from .schedule import CodebookSchedule, PlannedSchedule, Schedule

# Ratio of all steps to computed steps; planned ahead, see PlannedSchedule.
SPEEDUPS = {"quality": 1.6, "balanced": 2.3, "fast": 3.2}
PAPER = {"paper-fast": PAPER_FAST, "paper-slow": PAPER_SLOW}
PRESETS = ("balanced", "quality", "fast", "target", "paper-fast", "paper-slow", "custom", CALIBRATE)


def replay_for(preset: str, choice: str = "auto") -> Replay:
    """The replay in force: the user's choice, or what the preset was made for (the paper's presets hold).

    Calibrating measures the forecast, whatever the choice.
    """
    if choice != "auto" and preset != CALIBRATE:
        return replay_named(choice)
    return HOLD if preset in PAPER else FORECAST


def codebook_for(preset: str, total_steps: int, custom: Codebook | None = None) -> Codebook | None:
    """The codebook of a preset for this many steps; None for the planned presets. A custom one is used as it is."""
    if preset == "custom":
        if custom is None:
            raise ConfigurationError('AdaCache: preset "custom" needs a codebook.')
        return custom
    return nearest(PAPER[preset], total_steps) if preset in PAPER else None


def planned_speedup(preset: str, target: float | None = None) -> float | None:
    """Ratio of all steps to computed steps that a planned preset aims at; None for those with a codebook."""
    if preset == "target":
        if target is None or not 1 <= target < math.inf:
            raise ConfigurationError(
                f'AdaCache: preset "target" needs a target_speedup of 1 or more, got {target}. 2 computes every second '
                f"step on average."
            )
        return target
    return SPEEDUPS.get(preset)


def make_schedule(
    preset: str,
    times: Sequence[float],
    replay: Replay,
    motion: MotionRegularization | None = None,
    skippable: range | None = None,
    custom: Codebook | None = None,
    target_speedup: float | None = None,
    calibration: Calibration | None = None,
) -> Schedule:
    """A fresh schedule for one run.

    Args:
        preset: one of ``PRESETS``.
        times: flow time of every step, descending.
        replay: the replay in force; a plan depends on how far it can be trusted.
        motion: MoReg settings, or None.
        skippable: steps that may be skipped at all.
        custom: the codebook of preset ``custom``.
        target_speedup: of preset ``target``, 1 or more.
        calibration: what was measured of the model, for the planned presets; None takes every model for the demo's.

    Raises:
        ConfigurationError: an unknown preset, ``custom`` without a codebook, ``target`` without a speedup.
    """
    if preset not in PRESETS:
        raise ConfigurationError(f"AdaCache: preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    codebook = codebook_for(preset, len(times), custom)
    if codebook is not None:
        return CodebookSchedule(codebook, len(times), motion, skippable)
    if preset == CALIBRATE:
        return PlannedSchedule(times, 1.0)
    speedup = planned_speedup(preset, target_speedup) or 1.0
    correction = None if calibration is None else calibration.correction
    return PlannedSchedule(times, speedup, replay.order, motion, skippable, correction)
