"""What one run of a model with every step computed tells about where its errors grow, as data with its source."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigurationError
from .planning import flow_time
from .replay import forecast_time
from .schedule import MINIMUM_STEPS

CALIBRATE = "calibrate"  # the preset that measures
_FORMAT = "adacache_calibration"
# The first two that a run measures have nothing to forecast from.
_LEAST_PLACES = MINIMUM_STEPS - 2
# In how many parts a run is measured: from one step to the next, a residual that trembles a little would look bent.
_PARTS = 10
_AGAIN = f'Sample once with the AdaCache preset "{CALIBRATE}" and connect the report of its AdaCache Inspector.'


@dataclass(frozen=True)
class Calibration:
    """How fast a model's residual bends along its sampling, by flow time: no step count, scheduler or shift is in it.

    Attributes:
        family: the model family that was measured, see ``Layout``.
        source: what was measured, for people.
        curve: pairs of flow time (1 noise to 0 video, ascending) and curvature (> 0), see ``from_report``.
    """

    family: str
    source: str
    curve: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.curve) < _LEAST_PLACES:
            raise _error(f"a calibration needs {_LEAST_PLACES} measured steps or more, got {len(self.curve)}")
        times = [time for time, _ in self.curve]
        if not (sorted(set(times)) == times and 0 < times[0] and times[-1] <= 1):
            raise _error("flow times of a calibration must ascend within 0 and 1")
        if not all(0 < curvature < math.inf for _, curvature in self.curve):
            raise _error("every curvature of a calibration must be a number above 0")

    def correction(self, times: Tensor) -> Tensor:
        """Factor of the plan's error weight at flow times of any shape: this model's curvature over the demo model's.

        The error weight is the demo model's: its curvature, times how much its later steps amplify an error, which a
        single run cannot tell. So the curvature is replaced and the amplification kept.
        """
        known = times.clamp(self.curve[0][0], self.curve[-1][0])  # beyond its ends the two are taken to go alike
        return torch.exp(_log_curvature(self, known) - _log_curvature(DEMO, known))

    def to_json(self) -> str:
        """One line of text that ``parse`` reads."""
        curve = [[float(f"{value:.5g}") for value in place] for place in self.curve]
        return json.dumps({_FORMAT: 1, "family": self.family, "source": self.source, "curve": curve})

    @classmethod
    def parse(cls, text: str) -> Calibration:
        """From an inspector's report, or from what ``to_json`` wrote.

        Raises:
            ConfigurationError: it is neither, or not of runs to calibrate with.
        """
        try:
            parsed = json.loads(text)
        except ValueError:
            raise _error("the report must be JSON, which this text is not") from None
        if not (isinstance(parsed, dict) and _FORMAT in parsed):
            return cls.from_report(parsed)
        try:
            curve = tuple((float(time), float(curvature)) for time, curvature in parsed["curve"])
            family, source = str(parsed["family"]), str(parsed["source"])
        except (KeyError, TypeError, ValueError):
            raise _error("this calibration must have a family, a source and a curve of pairs") from None
        return cls(family, source, curve)

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Calibration:
        """From the report of runs of one model, or of the experts that share its steps.

        From two steps before (see ``stride``) a forecast is wrong by ``curvature |u - u_1| |u - u_2|`` times the
        residual, u being the ``forecast_time``: a second divided difference, which is taken to belong to the mean of
        the three flow times. Where several runs measured there, their geometric mean counts.

        Raises:
            ConfigurationError: not a report, or not of complete runs with the preset ``calibrate``.
        """
        try:
            runs = [_Run(run) for run in report["runs"]]
            places = list(chain.from_iterable(run.places() for run in runs))
        except (KeyError, TypeError, AttributeError, IndexError):
            raise _error("this must be a report or a calibration, and is neither") from None
        families = sorted({run.family for run in runs})
        if len(families) != 1:
            raise _error(f"a report must be of runs of one model, got {' and '.join(families) or 'no run'}")
        logs: dict[float, list[float]] = {}
        for time, curvature in places:
            logs.setdefault(round(time, 6), []).append(math.log(curvature))
        curve = tuple((time, math.exp(math.fsum(logs[time]) / len(logs[time]))) for time in sorted(logs))
        steps = " + ".join(str(run.steps) for run in runs)
        return cls(families[0], f"{families[0]}, all of {steps} steps computed", curve)


def stride(total_steps: int) -> int:
    """Of how many steps a calibrating run measures one: about as many as a plan skips in a row, whatever the number."""
    return max(1, round(total_steps / _PARTS))


class _Run:
    """One run of a report, checked for what a calibration needs of it."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        settings, self._records = run["settings"], run["steps"]
        self.family, self.steps = str(settings["family"]), int(run["total_steps"])
        if settings["preset"] != CALIBRATE:
            raise _error(
                f'the report is of preset "{settings["preset"]}", which skipped {run["skipped_steps"]} of {self.steps} '
                f"steps and measured nothing"
            )
        if not run["finished"]:
            raise _error(f"the run stopped after {len(self._records)} of {self.steps} steps, a complete one is needed")
        self._sigma_max = float(settings["sigma_max"])

    def places(self) -> Iterator[tuple[float, float]]:
        """Flow time and curvature of every step that was forecast."""
        times = [flow_time(float(record["sigma"]), self._sigma_max) for record in self._records]
        gap = stride(self.steps)
        for index, record in enumerate(self._records):
            error = record["forecast_error"]
            if record["calls"] > len(record["by_condition"].replace("-", "")):
                raise _error(
                    f"the sampler called the model more than once at step {index + 1}. A calibration needs one that "
                    f"calls it once, such as euler"
                )
            if record["reason"] == "residual is not finite" or error == 0:
                raise _error(f"the model must give usual numbers, and step {index + 1} did not. Check model and LoRAs")
            if error is not None:
                before, before_that = times[index - gap], times[index - 2 * gap]
                here, last, first = map(forecast_time, (times[index], before, before_that))
                curvature = error / abs((here - last) * (here - first))
                yield (times[index] + before + before_that) / 3, curvature


def _error(met: str) -> ConfigurationError:
    return ConfigurationError(f"AdaCache: {met}. {_AGAIN}")


def _log_curvature(calibration: Calibration, times: Tensor) -> Tensor:
    """By straight lines between the places of the curve; beyond its ends as at them."""
    known, curvatures = torch.tensor(calibration.curve, dtype=times.dtype).T
    right = torch.searchsorted(known.contiguous(), times.contiguous()).clamp(1, len(known) - 1)
    share = ((times - known[right - 1]) / (known[right] - known[right - 1])).clamp(0, 1)
    return torch.lerp(curvatures.log()[right - 1], curvatures.log()[right], share)


# What the error weight of ``planning.py`` was fitted to.
DEMO = Calibration(
    "Wan 2.1 / 2.2",
    "the demo model, three videos (slow, fast, changing), each of 30 steps forecast from those 3 and 6 before; euler, "
    "shift 3, cfg 3",
    (
        (0.2969, 0.107),
        (0.3583, 0.0873),
        (0.4137, 0.0746),
        (0.4653, 0.0642),
        (0.5109, 0.0559),
        (0.5526, 0.0494),
        (0.592, 0.0359),
        (0.6272, 0.0342),
        (0.6597, 0.0243),
        (0.6908, 0.021),
        (0.7188, 0.0162),
        (0.7449, 0.0141),
        (0.7701, 0.00993),
        (0.7929, 0.00865),
        (0.8144, 0.00661),
        (0.8352, 0.00542),
        (0.8542, 0.00415),
        (0.8721, 0.00348),
        (0.8895, 0.00264),
        (0.9056, 0.00213),
        (0.9208, 0.0014),
        (0.9357, 0.000858),
        (0.9494, 0.000467),
        (0.9625, 0.0002),
    ),
)
