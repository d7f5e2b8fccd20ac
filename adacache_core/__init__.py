"""AdaCache's algorithm in pure torch, without ComfyUI.

Skipping with a forecast is a multistep solver on the steps that compute. Read it in this order: ``steps`` (noise levels
and their time), ``plan`` (step-size control: which calls compute), ``forecast`` (predictor and corrector), ``response``
(what the sampler makes of a prediction), ``planned`` (one run). What skipped steps that cost nothing allow: ``finer``
(more of them), ``solver`` (predictor and corrector as a sampler of its own).

AdaCache and MoReg as published are in ``paper/``, token refresh (ToCa) in ``tokens/``, how to reach a model's blocks
for both in ``inside/``, and a bounded key/value cache for causal video (Ca2-VDM) in ``window``.
"""

from .errors import AdaCacheError, ConfigurationError, ShapeMismatchError, UnsupportedModelError
from .finer import refine
from .forecast import Computed, correction, predict
from .plan import SPEEDUPS, computes_of, plan
from .planned import PlannedRun
from .response import CannotAskError, Response, ask, following
from .solver import place, solve
from .statistics import Observation, RunStatistics, StepRecord
from .steps import Steps, flow_time, same_sigma
from .window import Window, WindowStatistics

__all__ = [
    "SPEEDUPS",
    "AdaCacheError",
    "CannotAskError",
    "Computed",
    "ConfigurationError",
    "Observation",
    "PlannedRun",
    "Response",
    "RunStatistics",
    "ShapeMismatchError",
    "StepRecord",
    "Steps",
    "UnsupportedModelError",
    "Window",
    "WindowStatistics",
    "ask",
    "computes_of",
    "correction",
    "flow_time",
    "following",
    "place",
    "plan",
    "predict",
    "refine",
    "same_sigma",
    "solve",
]
