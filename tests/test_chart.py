"""The inspector's chart: what it shows and where, in which colours, and that every report can be drawn."""

from __future__ import annotations

import json

import pytest
import torch
from colors import BLINDNESS, contrast, difference
from PIL import ImageColor

pytestmark = pytest.mark.usefixtures("pack")

COMPUTED, SKIPPED, SCORE = (0x00, 0x72, 0xB2), (0xB8, 0x7A, 0x00), (0x00, 0x9E, 0x73)
CODEBOOK = [[0.08, 6], [0.16, 3], [1.0, 1]]


@pytest.fixture
def report(pack):
    """A report of runs by letters: ``c`` computed, ``m`` one condition of two, ``p`` partial, ``s`` skipped."""
    from adacache.adacache_core import Observation, RunStatistics, StepRecord
    from adacache.nodes.report import make_report

    kinds = {"c": "computed", "m": "computed", "s": "skipped", "p": "partial"}

    def make(*patterns, total=None, codebook=None, motion=False, seconds=2.0, plan=None):
        runs = []
        for pattern in patterns:
            settings = {"preset": "fast", "speedup": 2.0, "codebook": codebook, "moreg": None}
            run = RunStatistics(settings, total or len(pattern), conditions=2, plan=plan, finished=True)
            for step, letter in enumerate(pattern):
                record = StepRecord(step, 0.5, kinds[letter], "plan", calls=2)
                record.computed_calls = {"c": 2, "m": 1}.get(letter, 0)
                record.seconds = seconds / (1 if letter == "c" else 20)
                if letter == "c" and step and codebook:
                    record.paper = Observation(1, 0.1, *((0.5, -0.2, 0.07) if motion else (None, None, 0.1)))
                elif letter == "c" and step > 1:
                    record.miss = 0.01
                run.steps.append(record)
            runs.append(run)
        return make_report(runs)

    return make


@pytest.fixture
def draw(report):
    from adacache.nodes.picture import draw_chart

    return lambda *patterns, **more: draw_chart(report(*patterns, **more))


@pytest.fixture
def chart(report):
    from adacache.nodes.chart import make_chart

    return lambda *patterns, **more: make_chart(report(*patterns, **more))


def of(panel, shape, kind):
    """Arguments of a panel's marks of a shape and kind, without the kind."""
    at = {"text": -2}.get(shape, -1)
    return [mark[1:] for mark in panel["marks"] if mark[0] == shape and mark[at] == kind]


def share(image, color):
    """Part of the pixels that have this colour."""
    return float((image - torch.tensor(color) / 255).abs().amax(-1).lt(0.03).float().mean())


def captions(panel):
    return [text["key"] for _, _, _, text, *_ in of(panel, "text", "caption")]


def test_cells_say_what_each_step_was(chart):
    [panel] = chart("ccsp", total=6, plan=("first", "first", None, "plan", None, "last"))["panels"]
    cells = [mark for mark in panel["marks"] if mark[0] == "bar" and mark[-1].startswith("cell")]
    assert [(column, kind) for _, column, _, _, kind in cells] == [
        (0, "cell computed"),
        (1, "cell computed"),
        (2, "cell skipped"),
        (3, "cell partial"),
        (4, "cell pending"),
        (5, "cell pending planned"),
    ]


def test_bars_are_as_high_as_steps_took_and_the_plan_is_outlined(chart):
    [panel] = chart("ccsm", total=6, plan=("first", "first", None, "plan", None, "last"))["panels"]
    # 84 pixels for 2 s, up from 29 + 84; a tenth of a second is 4.2 pixels, of which half the conditions computed.
    assert of(panel, "bar", "computed") == [
        (0, 29, 84, "computed"),
        (1, 29, 84, "computed"),
        (3, 110.9, 2.1, "computed"),
    ]
    assert of(panel, "bar", "skipped") == [(2, 108.8, 4.2, "skipped"), (3, 108.8, 4.2, "skipped")]
    # As high as a computed step usually is: the median of 2, 2 and 0.1 s.
    assert of(panel, "bar", "planned") == [(5, 29, 84, "planned")]


def test_planned_presets_show_misses_and_the_papers_show_distances(chart):
    [planned] = chart("ccscsc")["panels"]
    assert captions(planned) == ["time_lane", "miss_lane"]
    # 0.01 is the top of the lane, which lies below bars, cells and numbers.
    top = 29 + 84 + 31 + 29
    assert of(planned, "dot", "miss") == [(column + 0.5, top, "miss") for column in (3, 5)]
    assert of(planned, "curve", "miss-curve") == [([(3.5, top), (5.5, top)], "miss-curve")]
    [paper] = chart("ccscsc", codebook=CODEBOOK)["panels"]
    assert captions(paper) == ["time_lane", "distance_lane"]
    # The axis ends at 0.2; there are 13 pixels more for the rates.
    assert of(paper, "dot", "distance")[0] == (1.5, top + 13 + 31, "distance")
    assert [
        text["rate"] for _, _, _, text, *_ in of(paper, "text", "tick") if isinstance(text, dict) and "rate" in text
    ] == [6, 3]
    assert of(paper, "rule", "bound") == [(top + 13 + 62 * 0.6, "bound"), (top + 13 + round(62 * 0.2, 1), "bound")]


def test_moreg_shows_both_distances_and_its_factor(chart):
    [panel] = chart("ccsc", codebook=CODEBOOK, motion=True)["panels"]
    assert captions(panel) == ["time_lane", "distance_lane", "motion_lane"]
    assert [len(of(panel, "dot", kind)) for kind in ("distance", "plain")] == [2, 2]
    # 0.5 and 0.2 of an axis that ends at 1, 62 pixels high.
    assert [height for _, _, height, _ in of(panel, "bar", "score")] == [31, 31]
    assert [height for _, _, height, _ in of(panel, "bar", "gradient")] == [12.4, 12.4]


def test_the_legend_tells_what_is_there(chart):
    def legend(*patterns, **more):
        return [kind for kind, _ in chart(*patterns, **more)["legend"]]

    assert legend("cccc") == ["computed", "miss"]
    assert legend("ccsp", total=5, plan=(None,) * 4 + ("last",)) == ["computed", "skipped", "partial", "planned"]
    assert legend("ccsc", codebook=CODEBOOK, motion=True) == [
        *("computed", "skipped", "distance", "plain", "bound", "score", "gradient")
    ]
    assert legend() == []


def test_tiles(chart, report):
    made = report("ccsc")
    made["cache_bytes"] = 3 * 2**20
    from adacache.nodes.chart import make_chart
    from adacache.nodes.words import say

    shown = [(say(label), say(value)) for label, value in make_chart(made)["tiles"]]
    # Three steps but the first: 2 + 0.1 + 2 s, all computed 6.
    assert shown == [
        ("speedup, measured", "1.46x"),
        ("steps computed", "3 of 4"),
        ("cache memory", "3.0 MiB"),
        ("preset", "fast"),
    ]
    assert [value for _, value in chart()["tiles"]] == ["-"] * 4


def test_several_runs_have_titles(chart):
    one, two = chart("ccsc")["panels"][0], chart("ccsc", "cccc")["panels"]
    assert of(one, "text", "title") == []
    [(_, _, _, title, _, _)] = of(two[1], "text", "title")
    assert (title["key"], title["run"], title["computed"], title["first"]) == ("run_title", 2, 4, "0.5")


def test_it_is_json_and_small(chart):
    made = chart("cs" * 50, total=100)
    assert len(json.dumps(made)) < 20_000


def test_it_is_an_image(draw):
    image = draw("cccscscc")
    assert image.dtype == torch.float32
    assert image.shape[0] == 1 and image.shape[2:] == (1024, 3)
    assert 0 <= float(image.min()) < float(image.max()) == 1


def test_computed_and_skipped_have_their_colours(draw):
    assert share(draw("cccccccc"), SKIPPED) < share(draw("ccccsccc"), SKIPPED)
    assert share(draw("ccssssss"), COMPUTED) < 0.5 * share(draw("cccccccc"), COMPUTED)


def test_motion_and_second_runs_get_room(draw):
    plain, two = draw("ccscsccc", codebook=CODEBOOK), draw("ccscsccc", "ccscsccc", codebook=CODEBOOK)
    motion = draw("ccscsccc", codebook=CODEBOOK, motion=True)
    assert share(plain, SCORE) < share(motion, SCORE)
    assert plain.shape[1] < motion.shape[1] < two.shape[1]


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


@pytest.mark.parametrize(
    "drawing",
    [
        {"patterns": ()},
        {"patterns": ("",), "total": 10},
        {"patterns": ("", ""), "total": 10, "plan": ("first",) * 10},
        {"patterns": ("c",)},
        {"patterns": ("cc",), "total": 30},
        {"patterns": ("cccssc" * 50,), "codebook": [(0.03, 12), (0.05, 10), (1.0, 3)]},
        {"patterns": ("ccscpcc",), "codebook": [(0.08, 6), (1.0, 1)], "motion": True},
        {"patterns": ("cccc",), "seconds": 0.0},
        {"patterns": ("cccc",), "seconds": 5000.0},
    ],
)
def test_every_kind_of_report_can_be_drawn(draw, drawing):
    patterns = drawing.pop("patterns")
    assert float(draw(*patterns, **drawing).std()) > 0.01


def test_axes_end_at_round_numbers_and_clip_what_sticks_out(chart):
    from adacache.nodes.chart import scale_top

    assert scale_top([2.31, 2.4, 2.2]) == 2.4
    assert scale_top([40.0, 2.4, 2.3, 2.2, 2.1]) == 8
    assert scale_top([0.013]) == pytest.approx(0.016)
    assert scale_top([0.1], 0.46) == 0.5
    assert scale_top([]) == 1


def test_thresholds_are_drawn_where_the_rate_changes():
    from adacache.nodes.chart import rate_bounds

    assert rate_bounds([(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (1.0, 1)]) == [(0.08, 3), (0.16, 2)]
    assert rate_bounds(None) == []
