"""Motion of predictions, by hand, and what a plan makes of it."""

from __future__ import annotations

import pytest
import torch

from adacache_core import PlannedRun, RunStatistics
from adacache_core.motion import motion, motion_share

from .solvers import asked, euler, flow_steps

STEPS = flow_steps(20)


def video(*frames):
    """One channel, one row of two places a frame."""
    return torch.tensor(frames, dtype=torch.float32).view(1, 1, len(frames), 1, 2)


def test_motion_by_hand():
    """Two frames that swap 1 and -1 change by 2 everywhere and deviate from their mean by 1."""
    assert motion(video((1, -1), (-1, 1))) == 2.0
    assert motion(video((1, -1), (1, -1))) == 0.0
    assert motion(video((3, 3), (3, 3))) == 0.0
    # Brightness alone is no motion and size no matter.
    assert motion(video((1, -1), (-1, 1)) * 5 + 7) == pytest.approx(2.0)


def test_the_share_of_computes():
    moving, still = video((1, -1), (-1, 1)), video((1, -1), (1, -1))
    assert motion_share([moving]) == 1.3 and motion_share([still]) == 0.9
    usual = video((1, -1), (1, -1), (1, -1)).repeat(1, 1, 1, 1, 1)
    usual[:, :, 2] *= -1
    assert 0.9 < motion_share([usual]) <= 1.3
    # Of two conditions what they differ in counts: the moving part is in both and says nothing.
    assert motion_share([moving + still, moving]) == 0.9
    assert motion_share([torch.zeros(1, 4, 8, 8)]) is None  # an image
    assert motion_share([still, still, still]) is None


@pytest.mark.parametrize(("moving", "computes"), [(True, 10), (False, 7)])
def test_a_plan_gets_more_computes_where_more_moves(moving, computes):
    """8 planned: 30 % more, or a tenth less; what has been computed by then stays."""
    frames = video((1, -1), (-1, 1)) if moving else video((1, -1), (1, -1))
    statistics = RunStatistics({}, 20)
    run = PlannedRun(STEPS, 8, statistics, asked(euler, STEPS), regulates=True)
    before = statistics.plan
    for sigma in STEPS.sigmas[:-1]:
        run.begin(sigma)
        known = run.recall("only")
        run.end(run.keep("only", frames * (1 + sigma)) if known is None else known)
    run.finish()
    assert statistics.count("computed") == computes and statistics.motion_share == (1.3 if moving else 0.9)
    fourth = [call for call, reason in enumerate(before) if reason][3]
    assert statistics.plan[: fourth + 1] == before[: fourth + 1]


def test_a_condition_that_comes_up_then_does_not_count_motion_twice():
    """It computes beyond the plan, which has its share already: 8 planned, 10 with 30 % more."""
    frames, statistics = video((1, -1), (-1, 1)), RunStatistics({}, 20)
    run = PlannedRun(STEPS, 8, statistics, asked(euler, STEPS), regulates=True)
    fourth = [call for call, reason in enumerate(statistics.plan) if reason][3]
    for call, sigma in enumerate(STEPS.sigmas[:-1]):
        run.begin(sigma)
        slot = "early" if call <= fourth else "late"
        known = run.recall(slot)
        run.end(run.keep(slot, frames * (1 + sigma)) if known is None else known)
    run.finish()
    assert any(record.reason == "new condition" for record in statistics.steps)
    assert sum(reason is not None for reason in statistics.plan) == 10
