"""The card to share: where frames, words and chart are, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

# Left and right edge of a frame by hand: 1024 wide, margins of 28, gaps of 12.
WHOLE, HALVES = [(28, 996)], [(28, 506), (518, 996)]
QUARTERS = [(28, 261), (273, 506), (518, 751), (763, 996)]
TOP = 92


@pytest.fixture
def report(pack):
    """Of a run that computed 2 of 4 steps, each in a second, in half the time."""
    from adacache.adacache_core import RunStatistics, StepRecord
    from adacache.nodes.reference import Closeness
    from adacache.nodes.report import make_report

    run = RunStatistics({"preset": "fast", "speedup": 2.0, "codebook": None, "moreg": None}, 4, finished=True)
    for step, kind in enumerate(("computed", "skipped", "skipped", "computed")):
        run.steps.append(StepRecord(step, 0.5, kind, "plan", calls=1, computed_calls=int(kind == "computed")))
        run.steps[-1].seconds = float(kind == "computed")
    return make_report([run], close=Closeness(38.0))


@pytest.fixture
def draw(report):
    """The card of a video, and of another one without AdaCache."""
    from adacache.nodes.card import AdaCacheCard

    def make(images, reference=None, said=report):
        card = AdaCacheCard.execute(images, json.dumps(said), reference).args[0]
        assert card.dtype == torch.float32 and 0 <= card.min() and card.max() <= 1
        return card

    return make


def video(height, width, *greys):
    """A frame of each grey."""
    return torch.tensor(greys).reshape(-1, 1, 1, 1).expand(-1, height, width, 3)


def filled(card, across, down, grey):
    """Whether a frame fills this place, and ends there."""
    (left, right), (top, bottom) = across, down
    around = [card[0, top - 1, left], card[0, bottom, right - 1], card[0, top, left - 1], card[0, top, right]]
    inside = card[0, top:bottom, left:right]
    return torch.allclose(inside, torch.tensor(grey), atol=1e-5) and all(bool((edge == 1).all()) for edge in around)


def test_square_frames_lie_in_a_row_above_the_chart(draw, report):
    from adacache.nodes.picture import draw_chart

    card = draw(video(8, 8, 0.3, 0.9, 0.4), video(8, 8, 0.1, 0.9, 0.2))
    for across, grey in zip(QUARTERS, (0.1, 0.2, 0.3, 0.4), strict=True):
        assert filled(card, across, (TOP, TOP + 233), grey)
    chart = draw_chart(report)
    assert card.shape == (1, TOP + 233 + 12 + chart.shape[1], 1024, 3)
    assert torch.equal(card[:, TOP + 233 + 12 :], chart)


def test_wide_frames_of_two_videos_lie_below_each_other(draw):
    card = draw(video(4, 8, 0.3, 0.4), video(4, 8, 0.1, 0.2))
    rows = [(TOP, TOP + 239), (TOP + 251, TOP + 490)]
    for across, greys in zip(HALVES, ((0.1, 0.2), (0.3, 0.4)), strict=True):
        for down, grey in zip(rows, greys, strict=True):
            assert filled(card, across, down, grey)


def test_without_a_reference_its_two_frames_fill_the_width(draw):
    card = draw(video(4, 8, 0.3, 0.4))
    for across, grey in zip(HALVES, (0.3, 0.4), strict=True):
        assert filled(card, across, (TOP, TOP + 239), grey)


def test_an_image_is_shown_once_and_videos_may_differ_in_size(draw):
    assert filled(draw(video(2, 8, 0.3)), WHOLE[0], (TOP, TOP + 242), 0.3)
    card = draw(video(8, 16, 0.3), video(8, 8, 0.1))
    assert filled(card, HALVES[0], (TOP, TOP + 478), 0.1) and filled(card, HALVES[1], (TOP, TOP + 239), 0.3)


def test_frames_with_transparency_lose_it(draw):
    assert torch.equal(draw(torch.full((2, 8, 8, 4), 0.5)), draw(video(8, 8, 0.5, 0.5)))


def test_the_line_of_numbers(report):
    from adacache.nodes.card import _line

    shown = (
        f"fast: 2 of 4 steps, {report['speedup']:.2f}x, 38.0 dB against the uncached run, first and last of 33 frames"
    )
    assert _line(report, 33) == shown
    assert _line({**report, "reference": None, "speedup": None}, 1) == "fast: 2 of 4 steps"


def test_a_run_without_a_cache_has_a_card_too(draw):
    from adacache.nodes.card import _line
    from adacache.nodes.report import make_report

    nothing = make_report([], connected=False)
    assert _line(nothing, 2) == "first and last of 2 frames"
    assert draw(video(8, 8, 0.3, 0.4), said=nothing).shape[2] == 1024


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "1", "{}", '{"runs": []}'])
def test_what_is_no_report_is_refused(pack, text):
    from adacache.adacache_core import ConfigurationError
    from adacache.nodes.card import AdaCacheCard

    with pytest.raises(ConfigurationError, match=r"report must be the JSON of an AdaCache Inspector, got '"):
        AdaCacheCard.execute(torch.zeros(1, 8, 8, 3), text)
