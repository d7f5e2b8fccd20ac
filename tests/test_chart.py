"""The inspector's chart: its size, its colours where they must be, and that every kind of report can be drawn."""

from __future__ import annotations

import pytest
import torch
from colors import BLINDNESS, contrast, difference
from PIL import ImageColor

pytestmark = pytest.mark.usefixtures("pack")

COMPUTED, SKIPPED, SCORE = (0x00, 0x72, 0xB2), (0xB8, 0x7A, 0x00), (0x00, 0x9E, 0x73)
SKIPPED_FILL = (0xFB, 0xE3, 0xB0)


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
                {
                    "preset": "paper-fast",
                    "replay": "hold",
                    "codebook": codebook,
                    "planned_speedup": None,
                    "cache_device": "same device",
                },
                total or len(pattern),
                conditions=2,
                finished=True,
            )
            for step, letter in enumerate(pattern):
                computed = letter == "c"
                record = StepRecord(step, 0.5, computed, "schedule" if computed else "skipped")
                record.count([0, 1], computed)
                if letter == "m":  # mixed: the second condition only
                    record = StepRecord(step, 0.5, True, "nothing cached for a condition")
                    record.count([0], False)
                    record.count([1], True)
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


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_colour_blind_tell_them_apart(blindness):
    from adacache.nodes import _pen

    computed, ground, edge, score, gradient = map(
        ImageColor.getrgb, (_pen.COMPUTED, _pen.SKIPPED_FILL, _pen.SKIPPED, _pen.SCORE, _pen.GRADIENT)
    )
    assert (computed, edge, score) == (COMPUTED, SKIPPED, SCORE)
    assert difference(computed, ground, blindness) > 40
    assert difference(computed, edge, blindness) > 40
    assert difference(score, gradient, blindness) > 20


def test_all_stands_out_from_the_paper_and_computed_from_skipped_in_grey():
    from adacache.nodes import _pen

    paper, card = ImageColor.getrgb(_pen.PAPER), ImageColor.getrgb(_pen.CARD)
    for ink in (_pen.INK, _pen.MUTED):
        assert min(contrast(ImageColor.getrgb(ink), ground) for ground in (paper, card)) >= 4.5
    for shape in (COMPUTED, SKIPPED, SCORE):
        assert contrast(shape, paper) >= 3
    assert contrast(COMPUTED, ImageColor.getrgb(_pen.SKIPPED_FILL)) >= 3


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


def test_conditions_get_lanes_where_they_differ(draw):
    alike, differing = draw("ccscsccc"), draw("ccscmccc")
    assert differing.shape[1] - alike.shape[1] == 2 * 16 + 28 + 20, "two rows, a gap and a sentence"
    # The middle of the fifth of eight steps, between 132 and 996; rows begin under header, title, bars and strip.
    fifth, rows = round(132 + 4.5 / 8 * (996 - 132)), 132 + 34 + 120 + 56 + 28
    first, second = (differing[0, rows + 16 * row + 6, fifth - 8 : fifth + 8] for row in (0, 1))
    assert share(second, COMPUTED) == 1
    assert share(first, COMPUTED) == 0 and share(first, SKIPPED_FILL) > 0.1


def test_lanes_hold_conditions_that_do_alike(pack):
    from adacache.nodes._scales import condition_lanes

    def lanes(*letters):
        return condition_lanes({"steps": [{"by_condition": each} for each in letters], "conditions": len(letters[-1])})

    assert lanes("cc", "ss", "cc") == []
    assert lanes("cc", "sc", "ss") == [("1", "css"), ("2", "ccs")]
    assert lanes("cc", "ss", "sscs", "cccc") == [("1, 2", "cssc"), ("3", "--cc"), ("4", "--sc")]
    assert lanes("ccccc", "ccccs") == [("1 +3", "cc"), ("5", "cs")]
    assert lanes("cc", "c", "cc") == [], "not called is no difference by itself"


def test_axes_end_at_round_numbers_and_clip_what_sticks_out(pack):
    from adacache.nodes._scales import scale_top

    assert scale_top([2.31, 2.4, 2.2]) == 2.4
    assert scale_top([40.0, 2.4, 2.3, 2.2, 2.1]) == 8
    assert scale_top([0.013]) == pytest.approx(0.016)
    assert scale_top([0.1], 0.46) == 0.5
    assert scale_top([]) == 1


def test_thresholds_are_drawn_where_the_rate_changes(pack):
    from adacache.nodes._scales import rate_bounds

    assert rate_bounds([(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (1.0, 1)]) == [(0.08, 3), (0.16, 2)]
    assert rate_bounds(None) == []
