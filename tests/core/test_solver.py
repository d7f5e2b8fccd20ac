"""The main road as what it is, a multistep method: on models of one number whose results can be worked out."""

from __future__ import annotations

import math

import pytest
import torch

from adacache_core import Computed, PlannedRun, RunStatistics, Steps, correction, planned, predict
from adacache_core.forecast import bend_of, error_shape, remember, variable

from .solvers import ancestral, asked, euler, evaluate, flow_steps, heun, ones, with_plan

STEPS = flow_steps(21)
EVERY_THIRD = tuple("plan" if call < 2 or call % 3 == 2 else None for call in range(21))
ALL = ("plan",) * 21


def line(x, sigma):
    return 0.3 - 0.7 * variable(sigma) + 0 * x


def bent(x, sigma):
    return 0.3 - 0.7 * variable(sigma) + 0.02 * variable(sigma) ** 2 + 0 * x


def cubic(x, sigma):
    return bent(x, sigma) - 0.001 * variable(sigma) ** 3


@pytest.mark.parametrize(
    ("model", "times"), [(line, (0.6, 0.8)), (bent, (0.6, 0.8, 0.9)), (cubic, (0.6, 0.8, 0.9, 0.95))]
)
def test_a_forecast_is_the_polynomial_through_the_computes(model, times):
    history = [Computed(time, model(ones(1), time)) for time in times]
    assert predict(history, 0.3).item() == pytest.approx(model(ones(1), 0.3).item(), abs=1e-14)


@pytest.mark.parametrize("bend", [0.0, 0.25, 1.0])
def test_a_forecast_follows_so_much_of_a_bend(bend):
    history = [Computed(time, bent(ones(1), time)) for time in (0.6, 0.8, 0.9)]
    straight, curved = predict(history[:2], 0.3).item(), bent(ones(1), 0.3).item()
    assert abs(straight - curved) > 0.05
    assert predict(history, 0.3, bend).item() == pytest.approx((1 - bend) * straight + bend * curved, abs=1e-14)


@pytest.mark.parametrize(
    ("strength", "bend"), [(0.5, 1.0), (1.0, 1.0), (2.0, 0.75), (3.0, 0.5), (3.5, 0.375), (5.0, 0.0), (7.5, 0.0)]
)
def test_how_much_of_a_bend_guidance_bears(strength, bend):
    c, u = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([1.0, 1.0, 3.0])
    assert bend_of(u + strength * (c - u), [c, u]) == pytest.approx(bend, abs=1e-6)


def test_how_much_of_a_bend_others_bear():
    one, other = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0])
    assert bend_of(torch.cat((one, one)), [one]) == bend_of(one, [one]) == 1, "without guidance"
    assert bend_of(one, [one, one]) == 0, "conditions that agree say nothing of it"
    assert bend_of(one, [one, other, other]) == bend_of(torch.cat((one, other)), [one, other]) == 0, "context windows"


def test_one_compute_is_held():
    assert predict([Computed(0.9, torch.tensor([2.0]))], 0.1).tolist() == [2.0]


def test_a_forecast_has_the_type_of_what_was_computed():
    history = [Computed(time, torch.tensor([time], dtype=torch.bfloat16)) for time in (0.5, 0.9)]
    assert predict(history, 0.4).dtype == torch.bfloat16


def test_a_compute_at_the_same_time_takes_the_others_place():
    history = (Computed(0.5, torch.zeros(1)), Computed(0.7, torch.zeros(1)))
    history = remember(history, Computed(0.5, torch.ones(1)))
    assert [(known.time, known.denoised.item()) for known in history] == [(0.5, 1.0), (0.7, 0.0)]


@pytest.mark.parametrize(("model", "times"), [(bent, (0.6, 0.8)), (cubic, (0.6, 0.8, 0.9))])
def test_the_error_of_a_forecast_has_the_shape_that_is_said(model, times):
    """Of a line through a parabola, and of a parabola through a cubic."""
    history = [Computed(time, model(ones(1), time)) for time in times]
    missed = [(model(ones(1), time) - predict(history, time)).item() for time in (0.3, 0.45)]
    assert missed[1] / missed[0] == pytest.approx(error_shape(times, 0.45, 0.3), rel=1e-9)
    assert error_shape(times, 0.6, 0.3) == 0 and error_shape(times, 0.3, 0.3) == 1


@pytest.mark.parametrize(
    ("errors", "own", "factor"),
    [
        ([0.3, 0.2], [0.2, 0.1], 2.0),  # leaves (0.3 - 0.4)^2, less than 0.3^2 + 0.2^2
        ([1.0, 1.0], [0.1, 0.1], 4.0),  # clamped
        ([-1.0, -1.0], [0.1, 0.1], -4.0),
        ([0.1, -0.2], [1.0, 0.1], 0.0),  # -2 would leave 2.1 at the next call, where there is 0.1
        ([1.0, 1.0], [1.0, 0.0], 0.0),
    ],
)
def test_the_correction_by_hand(errors, own, factor):
    assert correction(errors, own) == pytest.approx(factor)


@pytest.mark.parametrize("sampler", [euler, heun])
def test_with_every_step_planned_the_result_has_the_same_bits(sampler):
    def model(x, sigma):
        return torch.tanh(x) + bent(x, sigma)

    response = asked(sampler, STEPS)
    out, statistics = with_plan(sampler, model, STEPS, ("plan",) * len(response.sigmas), response)
    assert torch.equal(out, sampler(model, ones(1), STEPS.sigmas))
    assert statistics.count("computed") == statistics.total_steps == len(response.sigmas)


def test_skips_of_a_model_that_is_linear_in_the_variable_are_exact():
    response = asked(euler, STEPS)
    out, statistics = with_plan(euler, line, STEPS, EVERY_THIRD, response)
    assert out.item() == pytest.approx(euler(line, ones(1), STEPS.sigmas).item(), abs=1e-12)
    assert statistics.count("skipped") == 12
    assert max(record.miss for record in statistics.steps if record.miss is not None and record.step > 1) < 1e-12


@pytest.mark.parametrize(("model", "conditions"), [(bent, 2), (cubic, 1)])
def test_a_model_that_bends_once_more_than_forecasts_ends_exactly_with_correction_only(model, conditions, monkeypatch):
    """Forecasts are parabolas where a condition is alone; conditions that agree say nothing of guidance: lines."""
    monkeypatch.setattr(planned, "FOLLOWS", 0.0)  # these predictions do not follow the state
    exact = euler(model, ones(1), STEPS.sigmas).item()
    response = asked(euler, STEPS)
    corrected, _ = with_plan(euler, model, STEPS, EVERY_THIRD, response, conditions=conditions)
    plain, _ = with_plan(euler, model, STEPS, EVERY_THIRD, response, corrects=False, conditions=conditions)
    assert corrected.item() == pytest.approx(exact, abs=1e-12)
    assert abs(plain.item() - exact) > 2e-3


@pytest.mark.parametrize("conditions", [1, 2])
def test_what_is_kept_is_what_the_state_without_the_error_of_a_skip_would_have_given(conditions):
    """The skip's error of ``shape * surprise`` moves Euler's next state by ``1 - sigma' / sigma`` of it."""
    plan = ("plan", "plan", "plan", None, "plan", None, *["plan"] * 15)
    run = PlannedRun(STEPS, 19, RunStatistics({}, 21), asked(euler, STEPS), planner=lambda *_: plan)
    given, answers = [0.5, 0.6, 0.8, None, 1.7, None], []
    for sigma, value in zip(STEPS.sigmas, given, strict=False):
        answers.append(evaluate(run, lambda x, sigma, value=value: value * x, ones(1), sigma, conditions))
    bend, times = float(conditions == 1), STEPS.times  # conditions that agree: lines
    history = [Computed(times[call], given[call] * ones(1)) for call in (2, 1, 0)]
    surprise = 1.7 - predict(history, times[4], bend).item()
    shape = error_shape([known.time for known in history], times[3], times[4], bend)
    follows = 1 if conditions == 1 else 0  # with guidance each condition follows in a way of its own
    kept = Computed(times[4], (1.7 + follows * (1 - times[4] / times[3]) * shape * surprise) * ones(1))
    assert answers[5].item() == pytest.approx(predict([kept, *history][:3], times[5], bend).item(), abs=1e-12)


def test_a_prediction_of_a_part_of_what_is_guided_stays_as_it_is():
    """A pack that has the model predict a crop alone, and puts it into the rest."""
    run = PlannedRun(STEPS, 7, RunStatistics({}, 21), asked(euler, STEPS), planner=lambda *_: EVERY_THIRD)
    for call, sigma in enumerate(STEPS.sigmas[:9]):
        run.begin(sigma)
        known = run.recall("crop")
        crop = run.keep("crop", cubic(ones(1), sigma)) if known is None else known
        assert known is None or call in (3, 4, 6, 7)
        assert run.end(torch.cat((crop, crop))).shape == (2, 1)
    history = [Computed(STEPS.times[call], cubic(ones(1), STEPS.times[call])) for call in (8, 5, 2)]
    run.begin(STEPS.sigmas[9])
    assert run.recall("crop").item() == pytest.approx(predict(history, STEPS.times[9]).item(), abs=1e-12)


def test_skips_are_closer_where_what_is_kept_follows_the_state_as_the_model_does(monkeypatch):
    def model(x, sigma):
        return x + 0.3 * torch.sin(variable(sigma) + 0 * x)

    exact, response = euler(model, ones(1), STEPS.sigmas).item(), asked(euler, STEPS, follow=1.0)
    errors = []
    for follows in (1.0, 0.0):
        monkeypatch.setattr(planned, "FOLLOWS", follows)
        out, _ = with_plan(euler, model, STEPS, EVERY_THIRD, response)
        errors.append(abs(out.item() - exact))
    assert errors[0] < 0.7 * errors[1], errors


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bend", [cubic, lambda x, s: torch.sin(3 * variable(s) + 0 * x)])
def test_the_order_of_convergence(bend, order):
    """Halving the distance between computes makes the error of uncorrected skips four or eight times smaller."""

    def error(count):
        # Even in the variable, so that distances do halve; noise levels by bisection.
        ends = variable(0.9), variable(0.1)
        levels = [level(ends[0] + (ends[1] - ends[0]) * i / count) for i in range(count)]
        history = [Computed(levels[at], bend(ones(1), levels[at])) for at in range(count // 2, count // 2 - order, -1)]
        here = levels[count // 2 + 1]
        return abs((predict(history, here) - bend(ones(1), here)).item())

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.3)


def level(u):
    low, high = 0.01, 0.99
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if variable(middle) < u else (low, middle)
    return low


def test_what_is_known_of_a_condition_decides_for_it_alone():
    """A condition that comes up in the middle is computed where it is new; the other one goes on being forecast."""
    statistics = RunStatistics({}, 21)
    run = PlannedRun(STEPS, 7, statistics, asked(euler, STEPS), planner=lambda *_: EVERY_THIRD)
    computed = []
    for call, sigma in enumerate(STEPS.sigmas[:-1]):
        run.begin(sigma)
        for slot in ("old", "new") if call >= 9 else ("old",):
            if run.recall(slot) is None:
                computed.append((slot, call))
                run.keep(slot, line(ones(1), sigma))
        run.end(line(ones(1), sigma))
    steps = run.finish().steps
    assert [call for slot, call in computed if slot == "old"] == [0, 1, 2, 5, 8, 11, 14, 17, 20]
    assert [call for slot, call in computed if slot == "new"][:3] == [9, 10, 11]
    assert (steps[9].kind, steps[9].reason, steps[9].calls, steps[9].computed_calls) == (
        "computed",
        "new condition",
        2,
        1,
    )
    assert (steps[12].kind, steps[12].reason) == ("skipped", "skipped")
    assert statistics.conditions == 2


def test_predictions_that_are_no_numbers_are_not_kept():
    def model(x, sigma):
        return line(x, sigma) if sigma > 0.7 else line(x, sigma) * math.nan

    out, statistics = with_plan(euler, model, STEPS, EVERY_THIRD, asked(euler, STEPS))
    broken = [record for record in statistics.steps if record.sigma <= 0.7]
    assert math.isnan(out.item())
    # From the compute that shows it on, every call computes: nothing is known any more.
    first = next(i for i, record in enumerate(broken) if record.kind == "computed")
    assert all(record.kind == "computed" for record in broken[first:]) and broken[first].reason == "not finite"


@pytest.mark.parametrize(("conditions", "kept"), [(1, 3), (2, 2 * 2 + 2)])
def test_bytes_are_those_of_the_predictions_kept(conditions, kept):
    """Three of a condition alone; two of each of two that agree, and of what is made of them: lines need no more."""

    def model(x, sigma):
        return line(x, sigma).expand(1, 64).float()

    run = PlannedRun(STEPS, 7, RunStatistics({}, 21), None, planner=lambda *_: EVERY_THIRD)
    for sigma in STEPS.sigmas[:-1]:
        evaluate(run, model, ones(1), sigma, conditions)
    assert run.finish().cache_bytes == kept * 64 * 4


def test_what_is_held_before_the_second_compute_is_put_right_there():
    """A prediction that is a line in the variable strays from what is held as the correction says."""
    exact, response = euler(line, ones(1), STEPS.sigmas).item(), asked(euler, STEPS)
    second = tuple(None if 0 < call < 3 else "plan" for call in range(21))
    corrected, statistics = with_plan(euler, line, STEPS, second, response)
    plain, _ = with_plan(euler, line, STEPS, second, response, corrects=False)
    assert statistics.count("skipped") == 2
    assert corrected.item() == pytest.approx(exact, abs=1e-12)
    assert abs(plain.item() - exact) > 1e-2


def test_a_restart_forgets_what_is_known_of_lower_noise():
    down = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    steps = Steps((*down, *down, 0.0), lambda sigma: (1 - sigma, sigma))
    run = PlannedRun(steps, 8, RunStatistics({}, 16), asked(euler, steps))
    for sigma in steps.sigmas[:-1]:
        evaluate(run, line, ones(1), sigma)
    records = run.finish().steps
    assert [record.reason for record in records if record.step in (0, 7, 8, 15)] == ["first", "last"] * 2
    assert records[8].miss is None


def test_a_sampler_that_goes_other_ways_than_it_said_is_planned_on_the_schedule():
    statistics_of = []
    for spoiled in (False, True):
        run = PlannedRun(STEPS, 10, RunStatistics({}, 21), asked(euler, STEPS))
        for call, sigma in enumerate(STEPS.sigmas[:-1]):
            evaluate(run, line, ones(1), sigma * (0.97 if spoiled and call == 5 else 1))
        statistics_of.append(run.finish())
    good, spoilt = statistics_of
    assert "uncorrected_because" not in good.settings and good.count("skipped") == 11
    assert "other noise levels" in spoilt.settings["uncorrected_because"] and spoilt.settings["corrected"] is False
    assert spoilt.count("skipped") > 0


def test_nothing_is_corrected_where_noise_is_added():
    response = asked(ancestral, STEPS)
    assert response.adds_noise


def test_forecasts_are_lines_where_noise_is_added():
    response = asked(ancestral, STEPS)
    run = PlannedRun(STEPS, 7, RunStatistics({}, 21), response, corrects=False, planner=lambda *_: EVERY_THIRD)
    for sigma in STEPS.sigmas[:9]:
        evaluate(run, bent, ones(1), sigma)
    history = [Computed(STEPS.times[call], bent(ones(1), STEPS.times[call])) for call in (8, 5)]
    answer = evaluate(run, bent, ones(1), STEPS.sigmas[9])
    assert answer.item() == pytest.approx(predict(history, STEPS.times[9]).item(), abs=1e-12)


def test_a_compute_back_at_a_known_noise_level_owes_nothing():
    """A sampler that looks ahead comes back to a level that was computed: there is no surprise to be shared out."""
    levels = [0.9, 0.8, 0.7, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    steps = Steps((*levels, 0.0), lambda sigma: (1 - sigma, sigma))
    planned = ["plan", "plan", None, "plan", *[None] * 4, "plan"]
    run = PlannedRun(steps, 4, RunStatistics({}, 9), asked(euler, steps), planner=lambda *_: tuple(planned))
    for sigma in levels[:4]:
        run.begin(sigma)
        known = run.recall("only")
        guided = bent(ones(1), sigma)
        answer = run.end(run.keep("only", guided) if known is None else known)
    assert torch.equal(answer, guided)
