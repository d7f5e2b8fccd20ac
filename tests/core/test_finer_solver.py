"""Finer steps, and the solver, on equations whose solution is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adacache_core import RunStatistics, StepRecord, Steps, place, refine, solve, solver
from adacache_core.forecast import variable


def flow(steps: int, shift: float = 3.0) -> Steps:
    """A flow model's schedule."""
    t = [1 - step / steps for step in range(steps + 1)]
    return Steps(tuple(shift * level / (1 + (shift - 1) * level) for level in t), lambda sigma: (1 - sigma, sigma))


class TestRefine:
    def test_the_levels_given_stay_and_those_between_are_even_in_the_forecasts_variable(self):
        steps = flow(4)
        fine = refine(steps, 4).sigmas
        assert fine[::4] == steps.sigmas
        assert list(fine) == sorted(fine, reverse=True)
        u = np.array([variable(steps.time(sigma)) for sigma in fine])
        lengths = np.diff(u).reshape(4, 4)
        assert np.allclose(lengths, lengths.mean(1, keepdims=True), rtol=1e-6)

    @pytest.mark.parametrize(
        "sigmas",
        [(1.0, 0.5, 0.5, 0.0), (0.1, 0.4, 0.9), (1.0, 0.4, 0.8, 0.0)],
        ids=["twice the same", "upwards", "back up"],
    )
    def test_any_schedule(self, sigmas):
        fine = refine(Steps(sigmas, scales), 2).sigmas
        assert fine[::2] == sigmas
        between = zip(sigmas[:-1], fine[1::2], sigmas[1:], strict=True)
        assert all(min(start, end) <= level <= max(start, end) for start, level, end in between)

    def test_one_step_for_each_is_the_schedule_itself(self):
        steps = flow(7)
        assert refine(steps, 1) == steps

    def test_the_noise_of_a_variance_exploding_model_is_cut_at_the_same_flow_times(self):
        exploding = Steps((14.6, 3.0, 0.7, 0.0), lambda sigma: (1.0, sigma))
        fine = refine(exploding, 2)
        flowing = refine(Steps((*exploding.times, 0.0), scales), 2)
        assert fine.times == pytest.approx(flowing.times, rel=1e-6)

    def test_a_part_of_a_run_is_as_large_a_part_of_the_finer_one(self):
        whole = flow(8)
        part = Steps(whole.sigmas[2:6], whole.scales, whole.sigmas[:2], whole.sigmas[6:])
        fine = refine(part, 4)
        assert fine.whole == refine(whole, 4) and fine.sigmas == refine(whole, 4).sigmas[8:21]
        assert fine.share == part.share == 3 / 8 and fine.handed_on == part.handed_on == whole.times[5]


def exact(denoised, start: float, end: float, x: float) -> float:
    """The solution of ``dx / dsigma = (x - denoised) / sigma`` at the end, by very many trapezoids."""
    share = np.linspace(end / start, 1, 40_001)
    values = np.array([denoised(end / part) for part in share])
    return end / start * x + float(np.trapezoid(values, share))


def scales(sigma: float) -> tuple[float, float]:
    """Of a flow model."""
    return 1 - sigma, sigma


@pytest.fixture
def stays(monkeypatch):
    """These predictions do not follow the state."""
    monkeypatch.setattr(solver, "FOLLOWS", 0.0)


def solved(denoised, levels, conditions=2) -> tuple[float, int]:
    """What the solver makes of 0.3, and how often it asks."""
    calls = []

    def model(x, sigma):
        calls.append(sigma)
        return torch.full_like(x, denoised(sigma))

    x = solve(model, torch.full((1, 1), 0.3, dtype=torch.float64), levels, scales, conditions=lambda: conditions)
    return float(x), len(calls)


class TestSolve:
    @pytest.mark.usefixtures("stays")
    def test_a_prediction_that_is_a_line_in_the_variable_is_followed_exactly(self):
        levels = (0.95, 0.8, 0.45, 0.2)
        made, calls = solved(lambda sigma: 2 - 0.7 * variable(sigma), levels)
        wanted = exact(lambda sigma: 2 - 0.7 * variable(sigma), 0.95, 0.2, 0.3)
        # All but the stretch behind the last evaluation is corrected; there the line goes on.
        assert made == pytest.approx(wanted, abs=1e-7)
        assert calls == 3

    @pytest.mark.usefixtures("stays")
    def test_a_parabola_is_corrected_up_to_the_last_evaluation(self, monkeypatch):
        def denoised(sigma):
            return 0.1 * variable(sigma) ** 2

        def end(levels):
            seen = []
            solve(
                lambda x, sigma: torch.full_like(x, denoised(sigma)),
                torch.full((1, 1), 0.3, dtype=torch.float64),
                levels,
                scales,
                lambda step, x, _: seen.append(float(x)),
            )
            return seen

        # On the first stretch one prediction is known, and the correction draws a line; then parabolas.
        levels, wanted = (0.95, 0.9499, 0.7, 0.4, 0.1, 0.0), exact(denoised, 0.95, 0.1, 0.3)
        assert end(levels)[-1] == pytest.approx(wanted, abs=1e-5)
        monkeypatch.setattr(solver, "_correct", lambda x, *_: x)
        assert abs(end(levels)[-1] - wanted) > 0.05

    @pytest.mark.usefixtures("stays")
    @pytest.mark.parametrize(("conditions", "least"), [(2, 6), (1, 12)])
    def test_twice_as_many_evaluations_err_eight_or_sixteen_times_less(self, conditions, least):
        """Of order 3, and of order 4 where a condition is alone."""

        def denoised(sigma):
            return math.sin(variable(sigma))

        errors = []
        for count in (40, 80):
            u = np.linspace(variable(0.9), variable(0.05), count + 1)
            grid = np.linspace(0.05, 0.9, 20_001)
            levels = np.interp(u[::-1], [variable(level) for level in grid], grid)[::-1].tolist()
            made, _ = solved(denoised, levels, conditions)
            errors.append(abs(made - exact(denoised, levels[0], levels[-1], 0.3)))
        assert errors[0] / errors[1] > least

    def test_a_prediction_that_follows_the_state_is_as_good_as_evaluated_again(self, monkeypatch):
        """``denoised = x + c(sigma)``: then ``dx / dsigma = -c / sigma``."""
        levels = (0.9, 0.8, 0.6, 0.4, 0.2, 0.1999)  # what is behind the last evaluation is not corrected
        sigma = np.linspace(0.1999, 0.9, 100_001)
        wanted = 0.3 + float(np.trapezoid([0.1 * variable(level) / level for level in sigma], sigma))

        def error() -> float:
            start = torch.full((1, 1), 0.3, dtype=torch.float64)
            return abs(float(solve(lambda x, level: x + 0.1 * variable(level), start, levels, scales)) - wanted)

        followed = error()
        monkeypatch.setattr(solver, "FOLLOWS", 0.0)
        assert followed < 0.5 * error()

    @pytest.mark.usefixtures("stays")
    def test_without_noise_the_state_is_the_last_prediction(self):
        made, calls = solved(lambda sigma: 1 + sigma, (0.5, 0.3, 0.1, 0.0))
        assert (made, calls) == (pytest.approx(1.1), 3)

    def test_half_precision_stays_half_precision(self):
        x = solve(lambda x, sigma: 0.5 * x, torch.ones(2, 3, dtype=torch.bfloat16), (1.0, 0.5, 0.0), scales)
        assert x.dtype == torch.bfloat16


class TestPlace:
    @pytest.mark.parametrize("evaluations", [4, 6, 10, 30])
    @pytest.mark.parametrize("steps", [flow(20), flow(8), flow(1)], ids=["20", "8", "1"])
    def test_so_many_levels_between_the_ends_of_the_schedule(self, steps, evaluations):
        levels = place(steps, evaluations)
        assert len(levels) == evaluations + 1
        assert levels[0] == steps.sigmas[0]
        assert levels[-1] == 0
        assert list(levels) == sorted(set(levels), reverse=True)

    def test_the_last_one_is_not_where_nothing_is_left_to_decide(self):
        """At flow time 0.8 over the evaluations or a little before; where a schedule ends sooner, at its end."""
        for evaluations in (6, 10, 20):
            last = place(flow(20), evaluations)[-2]
            assert 0.8 / evaluations <= last < 2 / evaluations
        part = Steps(flow(20).sigmas[:9], flow(20).scales)
        assert place(part, 8)[-1] == part.sigmas[-1]
        assert place(part, 8)[-2] < place(part, 8)[-3] and len(place(part, 8)) == 9


def test_the_speedup_of_finer_steps_is_against_the_schedules_own():
    """Eight steps for two of the schedule; four computes of 1 s, behind a first one that loads weights."""
    kinds = ["computed", "skipped", "computed", "skipped", "computed", "skipped", "skipped", "computed"]
    steps = [
        StepRecord(step, 0.5, kind, "", seconds=1.0 if kind == "computed" else 0.0) for step, kind in enumerate(kinds)
    ]
    steps[0].seconds = 9.0
    assert RunStatistics({}, 8, steps, finer=4).speedup == pytest.approx(1 / 3)
    assert RunStatistics({}, 8, steps).speedup == pytest.approx(7 / 3)
