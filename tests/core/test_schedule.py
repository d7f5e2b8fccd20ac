from __future__ import annotations

import itertools
import math

import pytest
import torch

from adacache_core import (
    FORECAST,
    HOLD,
    PRESETS,
    Codebook,
    CodebookSchedule,
    ConfigurationError,
    MotionRegularization,
    PlannedSchedule,
    flow_time,
    make_schedule,
    plan,
    replay_for,
)
from adacache_core.planning import MAXIMUM_GAP, error_weight
from adacache_core.schedule import typical_motion


def shifted(steps: int, shift: float = 3.0) -> list[float]:
    """Flow times of the simple scheduler at a shift."""
    return [shift * t / (1 + (shift - 1) * t) for t in (1 - step / steps for step in range(steps))]


def drive(schedule, distance: float = 0.1, motion: float | None = None) -> list[int]:
    """The steps that compute if every compute observes the same distance and motion."""
    computed = []
    for step in range(schedule.total_steps):
        if schedule.computes(step):
            schedule.observe(step, distance if computed else None, motion)
            computed.append(step)
    return computed


def test_codebook_rates_set_the_gaps_and_the_ends_are_forced():
    # Distance 0.2 per step: rate 1 is in force at step 1, so 0.2 -> rate 4; then 0.2 / 4 = 0.05 -> rate 6.
    schedule = CodebookSchedule(Codebook(((0.08, 6), (0.24, 4), (1.0, 1)), 20), 20)
    assert drive(schedule, 0.2) == [0, 1, 5, 11, 17, 18, 19]


def test_reasons_say_why_a_step_computes():
    schedule = CodebookSchedule(Codebook(((1.0, 4),), 20), 20, skippable=range(0, 15))
    drive(schedule)
    fresh = CodebookSchedule(Codebook(((1.0, 4),), 20), 20, skippable=range(0, 15))
    assert fresh.reason(0) == "first steps"
    fresh.observe(0, None)
    fresh.observe(1, 0.1)
    assert [fresh.reason(step) for step in (2, 5, 16, 19)] == ["skipped", "schedule", "outside window", "last steps"]


def test_outside_the_users_window_every_step_computes():
    schedule = CodebookSchedule(Codebook(((1.0, 5),), 20), 20, skippable=range(8, 14))
    computed = drive(schedule)
    assert set(range(20)) - set(computed) <= set(range(8, 14))
    assert set(computed) > {0, 1, 2, 7, 14, 15, 19}


def test_few_steps_are_all_computed():
    for preset in ("fast", "paper-fast"):
        schedule = make_schedule(preset, shifted(7), FORECAST)
        assert drive(schedule, 0.0) == list(range(7))
        assert schedule.reason(3) == "too few steps"
        assert len(drive(make_schedule(preset, shifted(12), FORECAST), 0.0)) < 12


def brute_force(times, computes, forced, order, correction=torch.ones_like):
    """Every choice of steps, costed with the formula of ``plan``'s docstring."""
    total = len(times)
    t = torch.tensor(times, dtype=torch.float64)
    weight = error_weight(t) * correction(t)
    best, chosen = None, None
    for rest in itertools.combinations(sorted(set(range(total)) - forced), computes - len(forced)):
        steps = sorted(forced | set(rest))
        cost = 0.0
        for a, b, c in zip(steps, steps[1:], steps[2:], strict=False):
            for j in range(b + 1, c):
                after = t[j + 1] if j + 1 < total else 0.0
                error = abs(t[j] - after) * weight[j] * abs(t[j] - t[b])
                cost += float(error * abs(t[j] - t[a]) if order == 2 else error)
        if best is None or cost < best:
            best, chosen = cost, tuple(steps)
    return chosen


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("steps", "computes", "shift"), [(12, 6, 3.0), (12, 8, 8.0), (13, 5, 1.0)])
def test_the_plan_is_the_best_of_all_choices(steps, computes, shift, order):
    times, forced = shifted(steps, shift), {0, 1, steps - 1}
    assert plan(times, computes, forced, order) == brute_force(times, computes, forced, order)


def test_the_plan_keeps_to_its_budget_and_to_forced_steps():
    times = shifted(30)
    assert len(plan(times, 12, {0, 1, 28, 29})) == 12
    assert plan(times, 30, {0, 1, 29}) == tuple(range(30))
    assert plan(times[:20], 2, {0, 1, 10, 18, 19}) == (0, 1, 10, 18, 19)


def test_no_gap_is_longer_than_the_limit():
    steps = plan(shifted(100), 4, {0, 1, 99})
    assert max(later - earlier for earlier, later in itertools.pairwise(steps)) <= MAXIMUM_GAP


@pytest.mark.parametrize(("steps", "computed"), [(10, 5), (20, 9), (30, 13), (50, 22), (100, 43)])
def test_balanced_computes_what_its_speedup_says(steps, computed):
    assert len(drive(make_schedule("balanced", shifted(steps), FORECAST))) == computed


@pytest.mark.parametrize(("computes", "forced"), [(8, {0, 1, 29}), (9, {0, 1, 28, 29}), (10, {0, 1, 28, 29})])
def test_the_last_but_one_step_computes_where_it_is_worth_it(computes, forced):
    times = shifted(30)
    schedule = PlannedSchedule(times, 30 / computes)
    assert schedule.forced == forced
    assert schedule.steps == plan(times, computes, forced)
    assert len(schedule.steps) == computes


def test_the_usual_motion_grows_from_the_start_on():
    assert [typical_motion(time) for time in (1.0, 0.972, 0.0)] == pytest.approx([0.62, 1.05 - 0.43 / math.e, 1.05])


@pytest.mark.parametrize(("motion", "computed"), [(0.0, 9), (0.7, 9), (1.0, 10), (1.256, 12), (1.4, 13), (9.0, 13)])
def test_a_moving_video_gets_more_computes_and_a_still_one_fewer(motion, computed):
    # 10 of 30 computes times the 0.8th power of the relative motion over the usual one, within 0.9 and 1.3.
    times = shifted(30)
    schedule = PlannedSchedule(times, 3.0, motion=MotionRegularization())
    usual = 1.05 - 0.43 * math.exp((times[2] - 1) / 0.028)
    assert len(drive(schedule, motion=motion * usual)) == computed
    assert schedule.steps == plan(times, computed, {0, 1, 2, 28, 29})  # step 2 was computed by then


def test_the_third_compute_alone_sets_the_budget():
    times = shifted(30)
    schedule = PlannedSchedule(times, 3.0, motion=MotionRegularization())
    assert schedule.steps[:4] == (0, 1, 2, 4)
    assert [step for step in range(30) if schedule.measures_motion(step)] == [2]
    schedule.observe(0, None)
    assert schedule.observe(1, 0.1, 5.0).motion_score is None
    # The time is 3 * 28 / (30 + 2 * 28) = 0.97674; 1.05 - 0.43 exp(-0.02326 / 0.028) is 0.86259. Half as much again
    # is a factor of 1.5 ** 0.8 = 1.383, of which 1.3.
    assert schedule.observe(2, 0.1, 0.86259).motion_score == pytest.approx(1.0, abs=1e-4)
    assert schedule.observe(2, 0.1, 1.5 * 0.86259).motion_score == 1.3
    budgeted = schedule.steps
    assert len(budgeted) == 13
    for step in budgeted[3:]:
        assert schedule.observe(step, 0.1, 0.1).motion_score is None
    assert schedule.steps == budgeted


@pytest.mark.parametrize("steps", range(5))
def test_a_run_of_few_steps_or_none_computes_them_all(steps):
    schedule = PlannedSchedule([1.0, 0.8, 0.6, 0.4, 0.2][:steps], 2.0, motion=MotionRegularization())
    assert schedule.steps == tuple(range(steps))
    assert drive(schedule, motion=1.0) == list(range(steps))


@pytest.mark.parametrize(("motion", "computed"), [(0.1, 7), (9.0, 10)])
def test_a_new_budget_changes_nothing_that_has_happened(motion, computed):
    schedule = PlannedSchedule(shifted(30), 30 / 8, motion=MotionRegularization())
    assert schedule.steps[:3] == (0, 1, 3)
    steps = drive(schedule, motion=motion)
    assert steps[:3] == [0, 1, 3]
    assert steps == list(schedule.steps)
    assert len(steps) == computed
    assert (28 in steps) == (computed >= 9), "what so many computes force"


def test_motion_of_a_codebook_scales_the_distance():
    motion = MotionRegularization(start_percent=0, end_percent=1, exponent=1, scale=0.5, gradient_multiplier=10)
    schedule = CodebookSchedule(Codebook(((0.2, 4), (9.0, 1)), 20), 20, motion)
    schedule.observe(0, None)
    # Score 0.25 / 0.5 = 0.5; gradient 10 * (0.5 - 1) / 1 = -5; distance 0.1 * (0.5 + 5) = 0.55 -> rate 1.
    observation = schedule.observe(1, 0.1, 0.25)
    assert (observation.motion_score, observation.motion_gradient) == (0.5, -5.0)
    assert observation.regularized_distance == pytest.approx(0.55)
    assert observation.rate == 1
    # Same score again: gradient 0, 0.1 * 0.5 = 0.05 -> rate 4.
    assert schedule.observe(2, 0.1, 0.25).rate == 4


def test_flow_time_maps_large_sigmas_into_one():
    assert flow_time(0.7, 1.0) == 0.7
    assert flow_time(80.0, 80.0) == pytest.approx(80 / 81)
    assert flow_time(0.0, 80.0) == 0.0


def test_presets_choose_schedule_and_replay():
    assert [replay_for(preset).name for preset in PRESETS] == ["forecast"] * 4 + ["hold"] * 2 + ["forecast"] * 2
    assert replay_for("balanced", "hold") is HOLD
    assert len(make_schedule("target", shifted(30), FORECAST, target_speedup=3.0).steps) == 10
    with pytest.raises(ConfigurationError, match=r"needs a target_speedup of 1 or more, got 0\.9"):
        make_schedule("target", shifted(30), FORECAST, target_speedup=0.9)
    custom = Codebook(((0.5, 2),))
    assert make_schedule("custom", shifted(30), HOLD, custom=custom).codebook is custom
    with pytest.raises(ConfigurationError, match='preset "custom" needs a codebook'):
        make_schedule("custom", shifted(30), HOLD)
    with pytest.raises(ConfigurationError, match=r"must be one of balanced, quality.*got 'turbo'"):
        make_schedule("turbo", shifted(30), HOLD)
    with pytest.raises(ConfigurationError, match='replay must be "hold" or "forecast", got \'taylor\''):
        replay_for("balanced", "taylor")
    with pytest.raises(ConfigurationError, match=r"speedup is a ratio of 1 or more, got 0\.5"):
        PlannedSchedule(shifted(30), 0.5)
