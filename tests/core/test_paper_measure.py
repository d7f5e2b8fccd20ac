from __future__ import annotations

import pytest
import torch

from adacache_core import ConfigurationError, ShapeMismatchError
from adacache_core.paper.measure import (
    Measurement,
    MotionRegularization,
    distance_terms,
    l1_norm,
    motion_score,
    motion_terms,
    residual_distance,
    score_of_terms,
)


def test_distance_is_the_change_relative_to_the_previous_residual():
    previous, current = torch.tensor([[[1.0, -3.0], [4.0, 0.0]]]), torch.tensor([[[2.0, -3.0], [1.0, 0.0]]])
    assert residual_distance(previous, current) == 0.5  # (1 + 0 + 3 + 0) / (1 + 3 + 4)
    assert residual_distance(current, previous) == pytest.approx(4 / 6)


def test_terms_of_two_conditions_add_up_to_the_distance_of_the_batch():
    torch.manual_seed(0)
    previous, current = torch.randn(2, 2, 6, 3).unbind(0)
    parts = sum(distance_terms(p, c) for p, c in zip(previous.chunk(2), current.chunk(2), strict=True))
    assert (parts[0] / parts[1]).item() == pytest.approx(residual_distance(previous, current), rel=1e-6)


def test_residuals_of_other_shapes_are_not_compared():
    with pytest.raises(ShapeMismatchError, match=r"\(2, 2\) cannot follow one of shape \(1, 2\)"):
        residual_distance(torch.ones(1, 2), torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_large_tensors_do_not_stagnate(dtype):
    # A plain float32 norm of as many equal values is a third too small.
    values = torch.full((3, 1 << 24), 0.5, dtype=dtype)
    assert l1_norm(values).item() == 3 * (1 << 23)


def test_norm_handles_pieces_and_rest():
    assert l1_norm(torch.full((65_536 + 3,), -1.0)).item() == 65_539
    assert l1_norm(torch.zeros(0)).item() == 0
    # Several pieces at a time, several times, and a rest.
    long = torch.arange(5_000_001) % 3 - 1.0
    assert l1_norm(long).item() == long.abs().sum(dtype=torch.float64).item() == 3_333_334
    assert l1_norm(long, 2 * long).item() == 3_333_334
    assert l1_norm(long.view(1, -1, 1).expand(2, -1, 3), torch.zeros(2, 5_000_001, 3)).item() == 6 * 3_333_334


def most_at_once(work) -> int:
    """Bytes of the largest sum of tensors that were alive at a time, made by ``work``."""
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
        work()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_measuring_takes_a_small_part_of_a_residuals_memory():
    previous, current = torch.randn(2, 1, 16 * 40_000, 32).unbind(0)
    measurement = Measurement(MotionRegularization())
    taken = most_at_once(
        lambda: (measurement.check((current,)), measurement.add("a", previous, current, lambda x: (x, 16)))
    )
    assert measurement.distance > 1 and measurement.motion_score > 0.5
    assert 0 < taken < current.nbytes / 3


def frames(*values: float) -> torch.Tensor:
    """``[1, frames x 2 tokens, 1]`` with one value per frame."""
    return torch.tensor(values, dtype=torch.float32).repeat_interleave(2)[None, :, None]


def test_a_still_video_has_no_motion_and_an_alternating_one_all():
    assert motion_score(frames(3, 3, 3), 3) == 0.0
    assert motion_score(frames(1, -1, 1), 3) == 1.0


def test_motion_score_is_the_frame_difference_over_the_sum_of_sizes():
    # stride 1: |3-1| + |5-3| = 4 over (3 + 5) + (1 + 3) = 12; stride 2: |5-1| = 4 over 6.
    assert motion_score(frames(1, 3, 5), 3, (1,)) == pytest.approx(4 / 12)
    assert motion_score(frames(1, 3, 5), 3, (1, 2)) == pytest.approx((4 / 12 + 4 / 6) / 2)


def test_motion_terms_add_up_over_conditions():
    both = torch.cat((frames(1, 3), frames(2, 2)))
    added = motion_terms(frames(1, 3), 2, (1,)) + motion_terms(frames(2, 2), 2, (1,))
    assert score_of_terms(added) == motion_score(both, 2) == pytest.approx(2 / 8)


def test_scaled_score_and_gradient_follow_the_released_formulas():
    settings = MotionRegularization(divisor=2.0)
    assert settings.scaled(0.385) == pytest.approx(0.5)
    assert settings.scaled(0.77) == pytest.approx(128.0)
    assert settings.gradient(0.5, 1.0, 5) == pytest.approx(-1.0)  # 10 * (0.5 - 1) / 5


def test_default_window_is_the_released_one_at_30_steps():
    assert MotionRegularization().window(30) == range(3, 26)  # steps 4 to 26, one-based
    assert MotionRegularization(start_percent=0.1, end_percent=0.9).window(100) == range(9, 90)
    assert MotionRegularization(start_percent=0.0, end_percent=1.0).window(30) == range(0, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": ()}, "must be at least 1, got"),
        ({"strides": (0,)}, r"must be at least 1, got \(0,\)"),
        ({"strides": (1, -2)}, r"got \(1, -2\)"),
        ({"start_percent": 0.9, "end_percent": 0.1}, "must be below end_percent, both within 0 and 1, got 0.9 and 0.1"),
        ({"end_percent": 1.5}, "got 0.13 and 1.5"),
        ({"scale": 0.0}, "scale must be above 0, got 0"),
        ({"exponent": -1.0}, "exponent must be above 0, got -1"),
        ({"divisor": float("nan")}, "divisor must be above 0, got nan"),
        ({"gradient_multiplier": -1.0}, "gradient_multiplier must be 0 or more, got -1"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        MotionRegularization(**arguments)


def test_strides_are_parsed_and_checked_against_the_video():
    assert MotionRegularization.parse_strides("1, 2,") == (1, 2)
    with pytest.raises(ConfigurationError, match=r"must be whole numbers, got '1\.5'"):
        MotionRegularization.parse_strides("1.5")
    MotionRegularization(strides=(2,)).check_frames(3)
    with pytest.raises(ConfigurationError, match="stride of 3 needs more than 3 latent frames, the video has 3"):
        MotionRegularization(strides=(1, 3)).check_frames(3)


def test_a_step_is_measured_over_all_of_its_conditions():
    measurement = Measurement(MotionRegularization())
    measurement.add("a", frames(1, 1), frames(1, 3), lambda tokens: (tokens, 2))
    measurement.add("b", frames(2, 2), frames(2, 2), lambda tokens: (tokens, 2))
    measurement.check((frames(1, 3), frames(2, 2)))
    assert "a" in measurement and "c" not in measurement
    assert measurement.distance == 4 / 12  # 2 tokens a frame changed by 2, of 2 x (1 + 1 + 2 + 2)
    assert measurement.motion_score == pytest.approx(2 / 8)
    assert measurement.finite
    measurement.check((frames(float("nan")),))
    assert not measurement.finite


def test_a_first_residual_has_no_distance_and_a_short_video_no_motion():
    measurement = Measurement(MotionRegularization(strides=(2,)))
    measurement.add("a", None, frames(1, 3), lambda tokens: (tokens, 2))
    assert measurement.distance is None
    assert measurement.motion_score is None
    assert measurement.finite
