"""Where computes are placed, against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from adacache_core import Steps, computes_of, plan
from adacache_core.forecast import variable
from adacache_core.plan import HANDED_ON, LAST, MAXIMUM_HELD, amplification, curvature, drift, parts

from .solvers import flow_steps


def flow(count, shift):
    levels = [shift * (1 - i / count) / (1 + (shift - 1) * (1 - i / count)) for i in range(count)]
    return levels, [1 - after / before for before, after in zip(levels, [*levels[1:], 0.0], strict=True)]


def computed(reasons):
    return tuple(call for call, reason in enumerate(reasons) if reason is not None)


def held_error(times, influences, second):
    """What holding the first prediction makes of the state until the second compute."""
    strayed = sum(influences[j] * abs(drift(times[j]) - drift(times[0])) for j in range(1, second))
    return amplification(times[second]) * strayed


def error(times, influences, chosen, last=LAST):
    """The sum that a plan minimises, written down once more."""
    held = held_error(times, influences, chosen[1])
    total = held**2 if held <= MAXIMUM_HELD else np.inf
    for before, latest, after in zip(chosen, chosen[1:], chosen[2:], strict=False):
        u = [variable(times[call]) for call in (before, latest)]
        owed = sum(
            influences[j] * curvature(times[j]) * abs(variable(times[j]) - u[0]) * abs(variable(times[j]) - u[1])
            for j in range(latest + 1, after)
        )
        total += (amplification(times[after]) * (last if after == len(times) - 1 else 1) * owed) ** 2
    return total


@pytest.mark.parametrize("shift", [1, 3, 8])
@pytest.mark.parametrize("computes", [3, 4, 5, 7])
def test_no_other_choice_has_a_smaller_error(shift, computes):
    times, influences = flow(12, shift)
    choices = [(0, *inner, 11) for inner in itertools.combinations(range(1, 11), computes - 2)]
    best = min(error(times, influences, choice) for choice in choices)
    chosen = computed(plan(times, influences, computes))
    assert len(chosen) == computes and chosen[0] == 0 and chosen[-1] == 11
    assert error(times, influences, chosen) == pytest.approx(best, rel=1e-9)


def test_what_is_held_strays_as_it_bends():
    """Curvature is the second derivative; where noise is without end there is no slope."""
    v = np.geomspace(1e6, 2, 200_001)  # 1 / (1.01 - t)
    bend = [2 * curvature(1.01 - 1 / at) for at in v]
    slope = cumulative_trapezoid(bend, v)
    strayed = cumulative_trapezoid(slope, v)
    for start, end in ((100, 20), (50, 5), (10, 2)):
        one, other = (int(np.argmin(abs(v - at))) for at in (start, end))
        expected = strayed[other] - strayed[one]
        assert abs(drift(1.01 - 1 / v[other]) - drift(1.01 - 1 / v[one])) == pytest.approx(abs(expected), rel=1e-3)


def cumulative_trapezoid(values, at):
    values = np.asarray(values)
    return np.concatenate(([0.0], np.cumsum(np.diff(at) * (values[1:] + values[:-1]) / 2)))


def test_a_second_compute_waits_where_computes_are_few():
    """At high noise a prediction hardly changes from one step to the next."""
    times, influences = flow(20, 5)
    seconds = [computed(plan(times, influences, count))[1] for count in (5, 7, 10)]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 2 and seconds[-1] == 1


@pytest.mark.parametrize(("steps", "shift", "second"), [(20, 5, 3), (20, 3, 2), (20, 1, 1), (20, 8, 4), (8, 5, 1)])
def test_the_first_prediction_is_not_held_for_long(steps, shift, second):
    """However few computes, the second one is where holding would err by more than 1.2; what is not held cannot err."""
    times, influences = flow(steps, shift)
    assert held_error(times, influences, second) <= 1.2 < held_error(times, influences, second + 1)
    assert computed(plan(times, influences, 5))[1] == second


def test_a_plan_that_is_changed_in_the_middle_keeps_what_is_done():
    times, influences = flow(12, 3)
    begun = (0, 1, 4)
    chosen = computed(plan(times, influences, 6, begun))
    assert chosen[:3] == begun and len(chosen) == 6
    choices = [(*begun, *inner, 11) for inner in itertools.combinations(range(5, 11), 2)]
    best = min(error(times, influences, choice) for choice in choices)
    assert error(times, influences, chosen) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("steps", [8, 9, 10, 12, 20, 30, 50, 100])
def test_presets_differ_from_eight_steps_on(steps):
    times, influences = flow(steps, 5)
    counts = [len(computed(plan(times, influences, computes_of(name, steps)))) for name in ("fast", "balanced")]
    assert 5 <= counts[0] < counts[1] < steps


@pytest.mark.parametrize(
    ("calls", "counts"),
    [(20, (13, 10, 7)), (50, (33, 25, 17)), (12, (8, 6, 5)), (8, (7, 6, 5)), (3, (3, 3, 3))],
)
def test_presets_compute_a_share_but_not_too_few(calls, counts):
    assert tuple(computes_of(preset, calls) for preset in ("quality", "balanced", "fast")) == counts


def test_a_part_computes_what_the_whole_would_there():
    """Most at high noise; a part that has but one of the whole's computes, a least number."""
    times, influences = flow(20, 5)
    steps = Steps((*times, 0.0), lambda sigma: (1 - sigma, sigma))
    whole = plan(times, influences, 10)
    for start, end in ((0, 10), (10, 20)):
        part = Steps(steps.sigmas[start : end + 1], steps.scales, steps.sigmas[:start], steps.sigmas[end + 1 :])
        expected = len(computed(whole[start:end]))
        assert computes_of("balanced", 10, part) == expected
        assert computes_of("balanced", 20, part) == 2 * expected, "two calls a step"
    last = Steps(steps.sigmas[14:], steps.scales, steps.sigmas[:14])
    assert computes_of("fast", 6, last) == 4


def test_a_part_that_is_handed_on_need_not_compute_its_last_call():
    """What takes over computes its first call at once: it is one more of the plan, whose place is known."""
    times, influences = flow(20, 5)
    part, falls, end = times[:10], influences[:10], times[10]
    reasons = plan(part, falls, 6, share=0.5, handed_on=end)
    assert "last" not in reasons and len(computed(reasons)) == 6
    choices = [(0, *inner, 10) for inner in itertools.combinations(range(1, 10), 5)]
    errors = [error((*part, end), (*falls, 0.0), choice, HANDED_ON) for choice in choices]
    assert error((*part, end), (*falls, 0.0), (*computed(reasons), 10), HANDED_ON) == pytest.approx(min(errors))


def test_with_fewer_than_eight_calls_all_compute():
    times, influences = flow(7, 5)
    assert plan(times, influences, 3) == ("too few steps",) * 7


@pytest.mark.parametrize(
    ("calls", "share", "skips"),
    [(6, 0.3, True), (6, 0.5, False), (5, 0.25, True), (4, 0.2, False), (8, 1.0, True), (7, 1.0, False)],
)
def test_a_short_part_of_a_long_run_skips(calls, share, skips):
    """6 of 20 steps are a part; 6 of 12 are of a run with too few to tell what lies between two of them."""
    times, influences = flow(calls, 3)
    assert (None in plan(times, influences, calls // 2, share=share)) == skips


def test_reasons():
    times, influences = flow(10, 3)
    reasons = plan(times, influences, 5)
    assert reasons[0] == "first" and reasons[-1] == "last" and reasons.count("plan") == 3


def test_no_gap_is_longer_than_a_forecast_is_trusted():
    times, influences = flow(100, 3)
    chosen = computed(plan(times, influences, 3))
    assert max(b - a for a, b in itertools.pairwise(chosen)) <= 16
    assert len(chosen) == 8, "the least that reach over 100 calls"


def test_all_computes_asked_for_are_all_calls():
    times, influences = flow(10, 3)
    assert None not in plan(times, influences, 10)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.9, 0.7, 0.5, 0.3], [range(4)]),
        ([0.9, 0.7, 0.7, 0.5, 0.5, 0.3], [range(6)]),  # Heun
        ([0.9, 0.7, 0.5, 0.7, 0.5, 0.3], [range(6)]),  # a look ahead
        ([0.9, 0.7, 0.5, 0.3, 0.8, 0.6, 0.4], [range(4), range(4, 7)]),  # a restart
        ([0.1, 0.3, 0.5, 0.7], [range(4)]),  # upwards
    ],
)
def test_parts_are_stretches_that_go_one_way(times, expected):
    assert parts(times) == expected


def test_a_restart_is_planned_apart():
    times, influences = flow(10, 3)
    reasons = plan(times * 2, influences * 2, 10)
    assert reasons[:10] == reasons[10:] == plan(times, influences, 5)


def test_falls_are_what_an_euler_step_makes_of_an_error():
    steps = flow_steps(5)
    assert steps.falls == pytest.approx([1 - after / time for time, after in itertools.pairwise(steps.sigmas)])


def test_the_step_of_a_noise_level():
    steps = flow_steps(5)
    assert [steps.of(sigma) for sigma in steps.sigmas[:-1]] == [0, 1, 2, 3, 4]
    assert steps.of((steps.sigmas[1] + steps.sigmas[2]) / 2) == 1  # a midpoint belongs to the step it starts from
    assert steps.of(steps.sigmas[3] * (1 - 1e-6)) == 3 and steps.of(0.999) == 0 and steps.of(1e-6) == 4
