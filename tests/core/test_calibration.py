"""Calibration by hand: what a run measures, what its report becomes, and where the plan then computes."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from adacache_core import (
    CALIBRATE,
    FORECAST,
    CacheRun,
    Calibration,
    CodebookSchedule,
    ConfigurationError,
    RunStatistics,
    make_schedule,
    plan,
    replay_for,
)
from adacache_core.calibration import DEMO, stride

from .doubling import LAYOUT, DoublingModel, ones
from .test_schedule import brute_force, drive, shifted

STEPS = 10
TIMES = [1 - step / STEPS for step in range(STEPS)]


def u(time: float) -> float:
    """What a forecast is linear in; 10 more than 1 / (1.01 - t) + ln(t + 0.02), so that it is above 0."""
    return 10 + 1 / (1.01 - time) + math.log(time + 0.02)


def missed(times: list[float]) -> list[float]:
    """How far a line through u squared at two places before misses the next, of its size: (u - u1)(u - u2) / u^2."""
    return [(u(t) - u(t1)) * (u(t) - u(t2)) / u(t) ** 2 for t, t1, t2 in zip(times[2:], times[1:], times, strict=False)]


SETTINGS = {"preset": CALIBRATE, "family": "doubling", "sigma_max": 1.0}


def quadratic(
    constant: float | None = None, calls: int = 1, calibrates: bool = True, dtype=torch.float32, steps: int = STEPS
):
    """Of a run with residual 7 u squared; that of a second condition is 7 times a constant."""
    model, statistics = DoublingModel(), RunStatistics(SETTINGS, steps)
    times = [1 - step / steps for step in range(steps)]
    run = CacheRun(
        lambda: make_schedule(CALIBRATE, times, FORECAST),
        FORECAST,
        [*times, 0.0],
        statistics,
        calibrates=stride(steps) if calibrates else 0,
    )
    for time in times:
        values = [u(time) ** 2] if constant is None else [u(time) ** 2, constant]
        for _ in range(calls):
            with run.call(model, LAYOUT, time, ("a", "b")[: len(values)]):
                model(torch.cat([ones(value) for value in values]).to(dtype))
    return run.finish()


@pytest.fixture
def report():
    """Of a run whose residual is 7 u squared: its second divided difference is 7, or 1 / u squared of its size."""
    return {"runs": [json.loads(json.dumps(quadratic().to_dict()))]}


def flat(family: str = "doubling", **places: float) -> Calibration:
    """Curvature 1 at flow times 0.1 to 0.9, but for the ones given: ``t5=4`` is 4 at 0.5."""
    return Calibration(family, "by hand", tuple((n / 10, float(places.get(f"t{n}", 1))) for n in range(1, 10)))


def test_the_forecast_error_of_a_quadratic_residual():
    records = quadratic().steps
    assert all(record.computed for record in records)
    assert [record.forecast_error for record in records[:2]] == [None, None]
    # A line misses 7 u squared by 7 (u - u1)(u - u2).
    assert [record.forecast_error for record in records[2:]] == pytest.approx(missed(TIMES), rel=1e-4)


def test_conditions_add_up_before_the_division():
    # The other condition's residual stays 7 x 300, which a line does not miss.
    errors = [record.forecast_error for record in quadratic(constant=300.0).steps[2:]]
    expected = [
        error * u(time) ** 2 / (u(time) ** 2 + 300) for error, time in zip(missed(TIMES), TIMES[2:], strict=True)
    ]
    assert errors == pytest.approx(expected, rel=1e-4)


def test_low_precision_residuals_are_forecast_in_float32():
    errors = [record.forecast_error for record in quadratic(dtype=torch.bfloat16).steps[2:5]]
    assert errors == pytest.approx([missed_in_bfloat16(step) for step in (2, 3, 4)], rel=1e-4)


def missed_in_bfloat16(step: int) -> float:
    """The forecast error of a step with residuals rounded as the model rounds them: 8 h - h of a rounded input h."""
    inputs = torch.tensor([u(time) ** 2 for time in TIMES]).bfloat16()
    residuals = (8 * inputs).float() - inputs.float()
    new, last, before = residuals.bfloat16().double()[[step, step - 1, step - 2]]
    slope = (u(TIMES[step]) - u(TIMES[step - 1])) / (u(TIMES[step - 1]) - u(TIMES[step - 2]))
    return float(abs(new - (last + slope * (last - before))) / new)


def test_nothing_is_measured_otherwise():
    assert {record.forecast_error for record in quadratic(calibrates=False).steps} == {None}


@pytest.mark.parametrize(("steps", "every"), [(8, 1), (14, 1), (15, 2), (30, 3), (100, 10)])
def test_longer_runs_measure_over_several_steps(steps, every):
    statistics = quadratic(steps=steps)
    assert stride(steps) == every
    times = [1 - step / steps for step in range(steps)]
    measured = {step: record.forecast_error for step, record in enumerate(statistics.steps) if record.forecast_error}
    assert list(measured) == list(range(2 * every, steps, every))
    assert list(measured.values()) == pytest.approx(missed(times[::every]), rel=1e-3)
    made = Calibration.from_report({"runs": [statistics.to_dict()]})
    ends = times[2 * every :: every][::-1]
    assert [time for time, _ in made.curve] == pytest.approx([end + every / steps for end in ends], abs=1e-6)
    assert [curvature for _, curvature in made.curve] == pytest.approx([1 / u(end) ** 2 for end in ends], rel=1e-3)


def test_calibrating_computes_every_step_and_forecasts_whatever_else_is_chosen():
    assert drive(make_schedule(CALIBRATE, shifted(30), FORECAST, skippable=range(3, 9))) == list(range(30))
    assert replay_for(CALIBRATE, "hold") is FORECAST


def test_a_report_becomes_a_curve(report):
    made = Calibration.from_report(report)
    assert (made.family, made.source) == ("doubling", "doubling, all of 10 steps computed")
    times, curvatures = zip(*made.curve, strict=True)
    # The mean of three flow times is the middle one; (u - u1)(u - u2) / u^2 over (u - u1)(u - u2) is 1 / u^2.
    assert times == pytest.approx(TIMES[1:-1][::-1])
    assert curvatures == pytest.approx([1 / u(time) ** 2 for time in TIMES[2:][::-1]], rel=1e-4)


def test_a_model_with_large_sigmas_is_measured_in_flow_time(report):
    # Sigma 4 of at most 80 is flow time 0.8: so 4, 3, ..., the run's sigmas, are 0.8, 0.75 and so on.
    [run] = report["runs"]
    run["settings"]["sigma_max"] = 80.0
    for record, sigma in zip(run["steps"], (9, 4, 3, 2, 1, 0.5, 0.4, 0.3, 0.2, 0.1), strict=True):
        record["sigma"] = float(sigma)
    run["steps"][2]["forecast_error"] = 0.3
    time, curvature = Calibration.from_report(report).curve[-1]
    assert time == pytest.approx((0.9 + 0.8 + 0.75) / 3, abs=1e-6)
    assert curvature == pytest.approx(0.3 / ((u(0.75) - u(0.8)) * (u(0.75) - u(0.9))))


def test_runs_of_one_model_are_averaged_and_put_together(report):
    """Two seeds, or two experts: places that both measured take the geometric mean."""
    other = copy.deepcopy(report["runs"][0])
    for record in other["steps"]:
        record["forecast_error"] = record["forecast_error"] and 4 * record["forecast_error"]
    # The second run is of an expert that took over at step 4.
    other["steps"], other["total_steps"] = other["steps"][4:], 6
    other["steps"][0]["forecast_error"] = other["steps"][1]["forecast_error"] = None
    made = Calibration.from_report({"runs": [report["runs"][0], other]})
    factors = [curvature * u(time) ** 2 for (_, curvature), time in zip(made.curve, TIMES[2:][::-1], strict=True)]
    assert factors == pytest.approx([2, 2, 2, 2, 1, 1, 1, 1], rel=1e-4)
    assert made.source == "doubling, all of 10 + 6 steps computed"


def test_text_that_was_kept_serves_as_well(report):
    made = Calibration.from_report(report)
    again = Calibration.parse(made.to_json())
    assert (again.family, again.source) == (made.family, made.source)
    assert [value for place in again.curve for value in place] == pytest.approx(
        [value for place in made.curve for value in place], rel=1e-4
    )
    assert again.to_json() == made.to_json()
    assert Calibration.parse(json.dumps(report)) == made


def test_the_correction_is_the_curvature_over_the_demo_models():
    assert DEMO.correction(torch.linspace(0, 1, 7)).tolist() == [1.0] * 7
    threefold = Calibration("any", "by hand", tuple((time, 3 * curvature) for time, curvature in DEMO.curve))
    assert threefold.correction(torch.tensor([0.01, 0.4, 0.97])).tolist() == pytest.approx([3.0] * 3)


def test_between_its_places_a_curve_is_straight_in_the_logarithm_and_level_beyond_them():
    times = torch.tensor([0.05, 0.45, 0.5, 0.55, 0.575, 0.95, 1.0], dtype=torch.float64)
    ratio = flat(t5=4, t6=1, t9=9).correction(times) / flat().correction(times)
    assert ratio.tolist() == pytest.approx([1, 2, 4, 2, 2**0.5, 9, 9])


BENT_LATE = flat(t1=1e6, t2=1e5, t3=1e4, t4=1e3, t5=100, t6=10)


def test_a_calibrated_plan_is_the_best_of_all_choices_by_the_corrected_weight():
    times, forced = shifted(13), {0, 1, 12}
    for order in (1, 2):
        planned = plan(times, 7, forced, order, correction=BENT_LATE.correction)
        assert planned == brute_force(times, 7, forced, order, correction=BENT_LATE.correction)
        assert planned != plan(times, 7, forced, order)


def test_planned_presets_follow_the_calibration_and_the_papers_do_not():
    times = shifted(30)
    late, usual = (make_schedule("balanced", times, FORECAST, calibration=made) for made in (BENT_LATE, None))
    assert len(late.steps) == len(usual.steps) == 13
    assert sum(step >= 20 for step in late.steps) > sum(step >= 20 for step in usual.steps)
    assert make_schedule("balanced", times, FORECAST, calibration=DEMO).steps == usual.steps
    assert isinstance(make_schedule("paper-fast", times, FORECAST, calibration=BENT_LATE), CodebookSchedule)


def changed(report, **settings):
    """The report with other settings, and with other values of its run."""
    [run] = report["runs"]
    in_settings = {name: settings.pop(name) for name in ("preset",) if name in settings}
    return {"runs": [{**run, **settings, "settings": {**run["settings"], **in_settings}}]}


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the report must be JSON, which this text is not"),
            ("{", "the report must be JSON, which this text is not"),
            ("[]", "this must be a report or a calibration, and is neither"),
            ("3", "this must be a report or a calibration, and is neither"),
            ("{}", "this must be a report or a calibration, and is neither"),
            ('{"runs": 3}', "this must be a report or a calibration, and is neither"),
            ('{"runs": [{}]}', "this must be a report or a calibration, and is neither"),
            ('{"runs": []}', "a report must be of runs of one model, got no run"),
            ('{"adacache_calibration": 1}', "this calibration must have a family, a source and a curve of pairs"),
            (
                '{"adacache_calibration": 1, "family": "f", "source": "s", "curve": [[0.1]]}',
                "this calibration must have a family, a source and a curve of pairs",
            ),
            (
                '{"adacache_calibration": 1, "family": "f", "source": "s", "curve": [[0.1, 2]]}',
                "a calibration needs 6 measured steps or more, got 1",
            ),
        ],
    )
    def test_text_that_is_no_report(self, text, message):
        with pytest.raises(ConfigurationError, match=f"^AdaCache: {message}.* Sample once with the AdaCache preset"):
            Calibration.parse(text)

    def test_a_preset_that_does_not_measure(self, report):
        with pytest.raises(
            ConfigurationError, match='of preset "fast", which skipped 4 of 10 steps and measured nothing'
        ):
            Calibration.from_report(changed(report, preset="fast", skipped_steps=4))

    def test_a_run_that_was_interrupted(self, report):
        stopped = changed(report, finished=False, steps=report["runs"][0]["steps"][:9])
        with pytest.raises(ConfigurationError, match="the run stopped after 9 of 10 steps, a complete one is needed"):
            Calibration.from_report(stopped)

    def test_a_run_of_too_few_steps(self, report):
        short = changed(report, total_steps=7, steps=report["runs"][0]["steps"][:7])
        with pytest.raises(ConfigurationError, match="needs 6 measured steps or more, got 5"):
            Calibration.from_report(short)

    def test_a_report_of_another_kind_of_statistics(self, report):
        for record in report["runs"][0]["steps"]:
            del record["forecast_error"]
        with pytest.raises(ConfigurationError, match="this must be a report or a calibration, and is neither"):
            Calibration.from_report(report)

    def test_runs_of_two_models(self, report):
        other = copy.deepcopy(report["runs"][0])
        other["settings"]["family"] = "tripling"
        with pytest.raises(ConfigurationError, match="must be of runs of one model, got doubling and tripling"):
            Calibration.from_report({"runs": [*report["runs"], other]})

    def test_a_sampler_that_calls_the_model_twice_a_step(self):
        report = {"runs": [quadratic(calls=2).to_dict()]}
        with pytest.raises(ConfigurationError, match=r"called the model more than once at step 1\. .* such as euler"):
            Calibration.from_report(report)

    def test_residuals_that_are_not_numbers_or_never_bend(self, report):
        report["runs"][0]["steps"][4]["reason"] = "residual is not finite"
        with pytest.raises(ConfigurationError, match="must give usual numbers, and step 5 did not"):
            Calibration.from_report(report)
        report["runs"][0]["steps"][4]["reason"] = "schedule"
        report["runs"][0]["steps"][6]["forecast_error"] = 0.0
        with pytest.raises(ConfigurationError, match="must give usual numbers, and step 7 did not"):
            Calibration.from_report(report)

    @pytest.mark.parametrize("time", [0.0, 0.1, 1.5, float("nan")])
    def test_flow_times_that_do_not_ascend_within_0_and_1(self, time):
        with pytest.raises(ConfigurationError, match="flow times of a calibration must ascend within 0 and 1"):
            Calibration("f", "s", (*flat().curve, (time, 1.0)))

    @pytest.mark.parametrize("curvature", [0.0, -1.0, float("inf"), float("nan")])
    def test_curvatures_that_are_no_positive_numbers(self, curvature):
        with pytest.raises(ConfigurationError, match="every curvature of a calibration must be a number above 0"):
            flat(t3=curvature)
