"""The official implementation's decisions, reproduced: computed steps exactly, every number to 1e-5 relative."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adacache_core.paper.codebook import Codebook
from adacache_core.paper.measure import MotionRegularization, motion_score, residual_distance
from adacache_core.paper.residual import ResidualCache
from adacache_core.paper.rule import SKIPPED, CodebookRule

FOLDER = Path(os.environ.get("ADACACHE_TRACES", Path(__file__).parents[1] / "data" / "traces"))
CASES = json.loads((FOLDER / "official_traces.json").read_text())
NUMBERS = {
    "distance_per_step": "distance",
    "motion_score_applied": "motion_score",
    "motion_gradient": "motion_gradient",
    "regularized_distance": "regularized_distance",
}


@pytest.fixture(scope="module")
def residuals() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "official_traces.safetensors")


def motion_settings(case: dict) -> MotionRegularization | None:
    """The case's settings; its one-based step window as parts of the run."""
    settings = case["motion_regularization"]
    if settings is None:
        return None
    first, last = settings["step_window_inclusive"]
    return MotionRegularization(
        strides=tuple(settings["strides"]),
        start_percent=first / case["steps"],
        end_percent=last / case["steps"],
        scale=settings["scale"],
        exponent=settings["exponent"],
        divisor=settings["divisor"],
        gradient_multiplier=settings["gradient_multiplier"],
    )


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_trace_is_reproduced(case, residuals):
    motion = motion_settings(case)
    codebook = Codebook(tuple((threshold, rate) for threshold, rate in case["codebook"]), case["steps"])
    rule = CodebookRule(codebook, case["steps"], motion)
    cache = ResidualCache()
    expected = {decision["step"]: decision for decision in case["decisions"]}
    computed_steps = []
    for step, residual in enumerate(residuals[case["name"]]):
        number = step + 1
        if rule.reason(step) != SKIPPED:
            computed_steps.append(number)
            last = cache.last("all")
            distance = residual_distance(last[0], residual) if last else None
            score = motion_score(residual, case["frames"], motion.strides) if motion else None
            observation = rule.observe(step, distance, score)
            cache.store("all", (residual,))
            if number in expected:
                decision = expected.pop(number)
                assert distance == pytest.approx(decision["distance"], rel=1e-5)
                assert observation.rate == decision["rate"]
                for theirs, ours in NUMBERS.items():
                    if theirs in decision:
                        assert getattr(observation, ours) == pytest.approx(decision[theirs], rel=1e-5), theirs
        [held] = cache.last("all")
        assert held.abs().mean().item() == pytest.approx(case["output_abs_mean"][step], rel=1e-5)
    assert computed_steps == case["computed_steps"]
    assert not expected, "every decision of the trace was met"
