"""AdaCache for any ``nn.Module`` with a layout row: pure torch and einops, no ComfyUI.

Read ``schedule.py`` for which steps compute (``planning.py`` places those of a plan), ``replay.py`` for what the others
see, ``attach.py`` for how.
"""

from .calibration import CALIBRATE, Calibration
from .codebook import PAPER_FAST, PAPER_SLOW, Codebook
from .distance import residual_distance
from .errors import (
    AdaCacheError,
    ConfigurationError,
    ShapeMismatchError,
    UnsupportedModelError,
)
from .layout import Blocks, Layout, Stream, Sublayers
from .layouts import LAYOUTS, layout_of
from .motion import MotionRegularization, motion_score
from .planning import flow_time, plan
from .presets import PRESETS, make_schedule, replay_for
from .replay import FORECAST, HOLD, Replay
from .residual_cache import ResidualCache, Storage
from .run import CacheRun
from .schedule import CodebookSchedule, PlannedSchedule, Schedule
from .statistics import RunStatistics, StepRecord
from .sublayers import bytes_per_token, require_sublayers
from .tokens import OPEN_SORA, RANDOM, TokenRefresh
from .window import Window, WindowedCache, WindowStatistics, make_room

__all__ = [
    "CALIBRATE",
    "FORECAST",
    "HOLD",
    "LAYOUTS",
    "OPEN_SORA",
    "PAPER_FAST",
    "PAPER_SLOW",
    "PRESETS",
    "RANDOM",
    "AdaCacheError",
    "Blocks",
    "CacheRun",
    "Calibration",
    "Codebook",
    "CodebookSchedule",
    "ConfigurationError",
    "Layout",
    "MotionRegularization",
    "PlannedSchedule",
    "Replay",
    "ResidualCache",
    "RunStatistics",
    "Schedule",
    "ShapeMismatchError",
    "StepRecord",
    "Storage",
    "Stream",
    "Sublayers",
    "TokenRefresh",
    "UnsupportedModelError",
    "Window",
    "WindowStatistics",
    "WindowedCache",
    "bytes_per_token",
    "flow_time",
    "layout_of",
    "make_room",
    "make_schedule",
    "motion_score",
    "plan",
    "replay_for",
    "require_sublayers",
    "residual_distance",
]
