"""The inspector's chart: its size, its colours where they must be, and that every kind of report can be drawn."""

from __future__ import annotations

import pytest
import torch

COMPUTED, SKIPPED, SCORE = (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)


@pytest.fixture
def draw(pack):
    from adacache.adacache_core import RunStatistics
    from adacache.adacache_core.statistics import StepRecord
    from adacache.nodes.chart import draw_chart
    from adacache.nodes.report import make_report

    def make(*patterns, total=None, codebook=None, motion=False, seconds=2.0):
        runs = []
        for pattern in patterns:
            run = RunStatistics(
                {"preset": "paper-fast", "replay": "hold", "codebook": codebook}, total or len(pattern), finished=True
            )
            for step, letter in enumerate(pattern):
                computed = letter == "c"
                record = StepRecord(step, 0.5, computed, "schedule" if computed else "skipped", 2, 2 * computed)
                record.seconds = seconds if computed else seconds / 20
                if computed and step:
                    record.rate, record.distance, record.regularized_distance = 1, 0.1, 0.2
                    if motion:
                        record.motion_score, record.motion_gradient = 0.5, -0.2
                run.steps.append(record)
            runs.append(run)
        return draw_chart(make_report(runs))

    return make


def share(image, color):
    """Part of the pixels that have this colour."""
    return float((image - torch.tensor(color) / 255).abs().amax(-1).lt(0.03).float().mean())


def test_it_is_an_image(draw):
    image = draw("cccscscc")
    assert image.dtype == torch.float32
    assert image.shape[0] == 1 and image.shape[2:] == (1024, 3)
    assert 0 <= float(image.min()) < float(image.max()) == 1


def test_computed_and_skipped_have_their_colours(draw):
    assert share(draw("cccccccc"), SKIPPED) < share(draw("ccccsccc"), SKIPPED)
    assert share(draw("ccssssss"), COMPUTED) < 0.5 * share(draw("cccccccc"), COMPUTED)


def test_they_differ_in_grey(draw):
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    computed, skipped = (float((torch.tensor(color) / 255 * weights).sum()) for color in (COMPUTED, SKIPPED))
    assert skipped - computed > 0.2


def test_motion_and_second_runs_get_room(draw):
    plain, motion, two = draw("ccscsccc"), draw("ccscsccc", motion=True), draw("ccscsccc", "ccscsccc")
    assert share(plain, SCORE) < share(motion, SCORE)
    assert plain.shape[1] < motion.shape[1] < two.shape[1]


@pytest.mark.parametrize(
    "drawing",
    [
        {"patterns": ()},
        {"patterns": ("",), "total": 10},
        {"patterns": ("c",)},
        {"patterns": ("cc",), "total": 30},
        {"patterns": ("cccssc" * 50,), "codebook": [(0.03, 12), (0.05, 10), (1.0, 3)]},
        {"patterns": ("ccscscc",), "codebook": [(0.08, 6), (1.0, 1)], "motion": True},
        {"patterns": ("cccc",), "seconds": 0.0},
        {"patterns": ("cccc",), "seconds": 5000.0},
    ],
)
def test_every_kind_of_report_can_be_drawn(draw, drawing):
    patterns = drawing.pop("patterns")
    assert float(draw(*patterns, **drawing).std()) > 0.01


def test_axes_end_at_round_numbers_and_clip_what_sticks_out(pack):
    from adacache.nodes.chart import scale_top

    assert scale_top([2.31, 2.4, 2.2]) == 2.4
    assert scale_top([40.0, 2.4, 2.3, 2.2, 2.1]) == 8
    assert scale_top([0.013]) == pytest.approx(0.016)
    assert scale_top([0.1], 0.46) == 0.5
    assert scale_top([]) == 1


def test_thresholds_are_drawn_where_the_rate_changes(pack):
    from adacache.nodes.chart import rate_bounds

    assert rate_bounds([(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (1.0, 1)]) == [(0.08, 3), (0.16, 2)]
    assert rate_bounds(None) == []
