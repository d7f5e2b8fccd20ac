from __future__ import annotations

import pytest
import torch

from adacache_core import ConfigurationError, MotionRegularization, ShapeMismatchError, motion_score, residual_distance
from adacache_core.distance import distance_terms, l1_norm
from adacache_core.measurement import Measurement
from adacache_core.motion import motion_terms, score_of_terms


def test_distance_is_the_change_relative_to_the_previous_residual():
    previous, current = torch.tensor([[[1.0, -3.0], [4.0, 0.0]]]), torch.tensor([[[2.0, -3.0], [1.0, 0.0]]])
    assert residual_distance(previous, current).item() == 0.5  # (1 + 0 + 3 + 0) / (1 + 3 + 4)
    assert residual_distance(current, previous).item() == pytest.approx(4 / 6)


def test_terms_of_two_conditions_add_up_to_the_distance_of_the_batch():
    torch.manual_seed(0)
    previous, current = torch.randn(2, 2, 6, 3).unbind(0)
    parts = sum(distance_terms(p, c) for p, c in zip(previous.chunk(2), current.chunk(2), strict=True))
    assert (parts[0] / parts[1]).item() == pytest.approx(residual_distance(previous, current).item(), rel=1e-6)


def test_residuals_of_other_shapes_are_not_compared():
    with pytest.raises(ShapeMismatchError, match=r"\(1, 2\) and \(2, 2\)"):
        residual_distance(torch.ones(1, 2), torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_large_tensors_do_not_stagnate(dtype):
    # A plain float32 norm of as many equal values is a third too small.
    values = torch.full((3, 1 << 24), 0.5, dtype=dtype)
    assert l1_norm(values).item() == 3 * (1 << 23)


def test_norm_handles_pieces_and_rest():
    assert l1_norm(torch.full((65_536 + 3,), -1.0)).item() == 65_539
    assert l1_norm(torch.zeros(0)).item() == 0


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


class TestRelativeMotion:
    @staticmethod
    def measured(*conditions: torch.Tensor) -> float | None:
        measurement = Measurement(MotionRegularization(), relative=True)
        for key, residual in enumerate(conditions):
            # A model may put the prompt's tokens in front, as many as it has.
            text = torch.full((1, key, 1), 100.0)
            measurement.add(key, None, torch.cat((text, residual), 1), lambda tokens, key=key: (tokens[:, key:], 2))
        return measurement.result()[1]

    def test_is_that_of_what_guidance_adds_over_that_of_all(self):
        # The conditions differ by -1 and 1: |1 + 1| / (1 + 1) = 1. They themselves: (|4 - 2| + |3 - 3|) / (6 + 6).
        assert self.measured(frames(2, 4), frames(3, 3)) == pytest.approx(1 / (2 / 12))
        # What differs stays the same in both frames.
        assert self.measured(frames(2, 4), frames(3, 5)) == 0.0

    def test_needs_two_conditions_that_differ(self):
        assert self.measured(frames(2, 4)) is None
        assert self.measured(frames(2, 4), frames(3, 3), frames(1, 3)) is None
        assert self.measured(frames(2, 4), frames(2, 4)) is None

    def test_needs_something_that_moves(self):
        assert self.measured(frames(2, 2), frames(3, 3)) is None
