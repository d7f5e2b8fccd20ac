"""Which steps the paper's rule computes, and a plan's."""

from __future__ import annotations

import pytest

from adacache_core.paper.codebook import Codebook, codebook_for
from adacache_core.paper.measure import MotionRegularization
from adacache_core.paper.rule import SKIPPED, CodebookRule, PlanRule


def drive(rule, total: int, distance: float = 0.1, motion: float | None = None) -> list[int]:
    """The steps that compute if every compute observes the same distance and motion."""
    computed = []
    for step in range(total):
        if rule.reason(step) != SKIPPED:
            rule.observe(step, distance if computed else None, motion)
            computed.append(step)
    return computed


def test_codebook_rates_set_the_gaps_and_the_ends_are_forced():
    # Distance 0.2 per step: rate 1 is in force at step 1, so 0.2 -> rate 4; then 0.2 / 4 = 0.05 -> rate 6.
    rule = CodebookRule(Codebook(((0.08, 6), (0.24, 4), (1.0, 1)), 20), 20)
    assert drive(rule, 20, 0.2) == [0, 1, 5, 11, 17, 18, 19]


def test_reasons_say_why_a_step_computes():
    rule = CodebookRule(Codebook(((1.0, 4),), 20), 20)
    assert rule.reason(0) == "first steps"
    assert rule.observe(0, None).rate == 1
    assert rule.reason(1) == "schedule"
    rule.observe(1, 0.1)
    assert [rule.reason(step) for step in (2, 4, 5, 18, 19)] == [
        "skipped",
        "skipped",
        "schedule",
        "last steps",
        "last steps",
    ]


def test_few_steps_are_all_computed():
    rule = CodebookRule(codebook_for("paper-fast", 7), 7)
    assert drive(rule, 7, 0.0) == list(range(7))
    assert {rule.reason(step) for step in range(7)} == {"too few steps"}
    assert len(drive(CodebookRule(codebook_for("paper-fast", 12), 12), 12, 0.0)) < 12


def test_motion_scales_the_distance():
    motion = MotionRegularization(start_percent=0, end_percent=1, exponent=1, scale=0.5, gradient_multiplier=10)
    rule = CodebookRule(Codebook(((0.2, 4), (9.0, 1)), 20), 20, motion)
    rule.observe(0, None)
    # Score 0.25 / 0.5 = 0.5; gradient 10 * (0.5 - 1) / 1 = -5; distance 0.1 * (0.5 + 5) = 0.55 -> rate 1.
    observation = rule.observe(1, 0.1, 0.25)
    assert (observation.motion_score, observation.motion_gradient) == (0.5, -5.0)
    assert observation.distance == 0.1
    assert observation.regularized_distance == pytest.approx(0.55)
    assert observation.rate == 1
    # Same score again: gradient 0, 0.1 * 0.5 = 0.05 -> rate 4.
    assert rule.observe(2, 0.1, 0.25).rate == 4


def test_outside_its_window_motion_counts_as_one():
    motion = MotionRegularization(start_percent=0.5, end_percent=0.9, exponent=1, scale=0.5)
    rule = CodebookRule(Codebook(((1.0, 1),), 20), 20, motion)
    assert [rule.observe(step, 0.1, 0.25).motion_score for step in (8, 9, 17, 18)] == [1.0, 0.5, 0.5, 1.0]


def test_a_plan_is_followed_whatever_is_observed():
    rule = PlanRule(("first", None, "plan", None, "last"))
    assert drive(rule, 5, 0.0) == drive(rule, 5, 9.0) == [0, 2, 4]
    assert [rule.reason(step) for step in range(5)] == ["first", "skipped", "plan", "skipped", "last"]
    assert rule.observe(0, None) is None
