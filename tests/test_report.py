"""The inspector's report: numbers and sentences of hand-made runs."""

from __future__ import annotations

import json
import re

import pytest

from demo.comfyui import REPOSITORY

CODEBOOK = [[0.08, 6], [0.16, 3], [0.4, 1]]
SETTINGS = {
    "preset": "balanced",
    "replay": "forecast",
    "planned_speedup": 2.2,
    "motion_regularization": None,
    "codebook": None,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "cache_device": "same device",
}
REPAID = "Computed steps gave back 100 % of the error of the skips before them (error repayment)."


@pytest.fixture
def report(pack):
    from adacache.nodes.report import make_report

    return make_report


@pytest.fixture
def run(pack):
    """Statistics of a run: one letter per step, ``c`` computed, ``s`` skipped, ``f`` forced to compute."""
    from adacache.adacache_core import RunStatistics
    from adacache.adacache_core.statistics import StepRecord

    reasons = {"c": "schedule", "s": "skipped", "f": "first steps", "w": "outside window", "t": "too few steps"}

    def make(steps, total=None, finished=True, distances=(), regularized=(), first=None, **settings):
        statistics = RunStatistics({**SETTINGS, **settings}, total or len(steps), repaid=1.0, finished=finished)
        for index, letter in enumerate(steps):
            computed = letter != "s"
            record = StepRecord(index, 1 - index / 10, computed, reasons[letter], calls=2, computed_calls=2 * computed)
            record.seconds = 2.0 if computed else 0.5
            record.distance = dict(enumerate(distances)).get(index)
            record.regularized_distance = dict(enumerate(regularized)).get(index, record.distance)
            statistics.steps.append(record)
        if first is not None:
            statistics.steps[0].seconds = first
        statistics.cache_bytes = 3 * 2**20
        return statistics

    return make


def keys(report):
    return [entry["key"] for entry in report["explanation"]]


def test_totals_and_sentences_of_a_run(report, run):
    made = report([run("ffcscssscf")])
    assert made["total_steps"] == 10
    assert (made["computed_steps"], made["skipped_steps"]) == (6, 4)
    assert made["seconds"] == 6 * 2.0 + 4 * 0.5
    assert made["speedup"] == pytest.approx(9 * 2.0 / (5 * 2.0 + 4 * 0.5))
    assert made["cache_bytes"] == 3 * 2**20
    assert (made["preset"], made["replay"]) == ("balanced", "forecast")
    assert made["summary"].split("\n") == [
        "Sampling took 14.0 s; with every step computed it would have taken about 20.0 s.",
        "A computed step usually took 2.00 s, a skipped one 0.50 s on average.",
        "The middle third of sampling was skipped most: 2 of its 3 steps (5 to 7).",
        REPAID,
    ]
    assert json.loads(json.dumps(made)) == made


def test_a_slow_first_step_is_told_apart(report, run):
    made = report([run("ffcscssscf", first=9.0)])
    assert made["speedup"] == pytest.approx(9 * 2.0 / 12)
    assert {"key": "first", "first": "9.00 s"} in made["explanation"]
    assert "The first step took 9.00 s, with one-off work such as loading; the speedup" in made["summary"]
    assert "it would have taken about 27.0 s" in made["summary"]


def test_two_experts_are_weighed_by_their_time(report, run):
    high, low = run("ffssssssff", preset="fast"), run("ffcccccccf", preset="quality")
    made = report([high, low])
    assert made["total_steps"] == 20
    assert made["speedup"] == pytest.approx((high.speedup * high.seconds + low.speedup * low.seconds) / made["seconds"])
    assert made["preset"] == "fast + quality"
    assert made["replay"] == "forecast"
    assert [entry["run"] for entry in made["explanation"] if entry["key"] == "run"] == [1, 2]
    assert "Run 2 of 2:\nSampling took 20.0 s." in made["summary"]


def test_the_target_is_shown(report, run):
    two = [run("ffcs", preset="target", planned_speedup=2.5), run("ffcs", preset="target", planned_speedup=3.0)]
    assert report(two[:1])["preset"] == "target 2.5x"
    assert report(two)["preset"] == "target 2.5x + target 3x"


def test_what_was_kept_and_where(report, run):
    hidden, output = run("ffcs"), run("ffcs", cache_device="system memory")
    output.storage = "output"
    assert (report([hidden])["storage"], report([hidden])["cache_device"]) == ("hidden", "same device")
    made = report([hidden, output])
    assert (made["storage"], made["cache_device"]) == ("hidden + output", "same device + system memory")


def test_whether_errors_were_repaid(report, run):
    def how(repaid=1.0, storage="hidden", **settings):
        statistics = run("ffcscssscf", **settings)
        statistics.repaid, statistics.storage = repaid, storage
        return report([statistics])["summary"].split("\n")[3:]

    assert how() == [REPAID]
    assert how(repaid=0.5) == [REPAID.replace("100", "50")]
    assert how(repaid=0.0) == [
        "Error repayment was off: it needs a flow model and the sampler euler, dpmpp_2m or res_multistep."
    ]
    assert how(repaid=0.0, storage="output") == [
        "Only the model's outputs were kept: they take little memory, and skipped steps come out less exact than with "
        "hidden states."
    ]
    assert how(repaid=0.0, planned_speedup=None, codebook=CODEBOOK) == [], "the paper's presets never repay"
    assert "repaid" not in keys(report([run("ffcccc")])), "nothing was skipped"


def test_what_moreg_made_of_a_plan(report, run):
    def said(share, **settings):
        statistics = run("ffcscssscf", **{"motion_regularization": {"strides": [1]}, **settings})
        statistics.steps[2].motion_score = share
        return report([statistics])["summary"].split("\n")[3:]

    assert said(1.1234) == [
        REPAID,
        "MoReg gave this video 112 % of the planned computes, by how much moves in what the prompt asks for.",
    ]
    assert said(None)[1:] == [
        "MoReg left the plan as it is: it compares the two conditions of guidance, which this run did not have."
    ]
    assert said(1.1, motion_regularization=None) == [REPAID]
    assert said(1.1, planned_speedup=None, codebook=CODEBOOK) == [], "a codebook shows it in its distances"


@pytest.mark.parametrize(("steps", "third"), [("fsssccccccff", "early"), ("ffccccccsssf", "late")])
def test_the_third_that_was_skipped_most(report, run, steps, third):
    assert f"The {third} third of sampling was skipped most: 3 of its 4 steps" in report([run(steps)])["summary"]


@pytest.mark.parametrize(
    ("steps", "more", "sentence"),
    [
        ("t", {}, "No step was skipped: 1 step is too few, a skip needs computed steps before and after it."),
        ("tttt", {}, "No step was skipped: 4 steps are too few, the video changes too much from one to the next."),
        (
            "ffwwwwwwff",
            {"start_percent": 0.9},
            "No step was skipped: start_percent 0.9 and end_percent 1.0 leave none that may be.",
        ),
        (
            "ffccccccff",
            {"codebook": CODEBOOK, "distances": [None, 0.5, 0.3, 0.25, 0.21, 0.21, 0.21, 0.21]},
            "No step was skipped: the distance stayed above 0.16, the largest threshold with a rate over 1; "
            "the lowest was 0.210.",
        ),
        (
            "ffccccccff",
            {"codebook": CODEBOOK, "distances": [0.1] * 10, "regularized": [0.3] * 10},
            "No step was skipped because of motion: MoReg raised the lowest distance from 0.100 to 0.300.",
        ),
        (
            "ffccccccff",
            {"codebook": [[0.1, 1], [1.0, 1]], "distances": [0.05] * 10},
            "No step was skipped: every rate of the codebook is 1. A rate of 2 or more allows skips.",
        ),
        (
            "ffccccccff",
            {"codebook": CODEBOOK, "distances": [0.1] * 10},
            "No step was skipped: the ones that may be are followed by steps that are always computed.",
        ),
    ],
)
def test_why_nothing_was_skipped(report, run, steps, more, sentence):
    assert report([run(steps, **more)])["summary"].split("\n")[1:] == [sentence]


def test_what_did_not_go_as_planned(report, run):
    statistics = run("ffcscss", total=20, finished=False)
    statistics.steps[2].reason = "residual is not finite"
    statistics.steps[4].reason = "nothing cached for a condition"
    made = report([statistics])
    assert keys(made)[-3:] == ["not_finite", "new_condition", "stopped"]
    assert made["summary"].split("\n")[-3:] == [
        "1 step gave values that are not finite (NaN): it was not cached. Check model and LoRAs.",
        "1 planned skip was computed because a condition was new at it.",
        "The run stopped after 7 of 20 steps: it was interrupted or failed.",
    ]


def test_more_than_one_step_that_did_not_go_as_planned(report, run):
    statistics = run("ffcscscss")
    for step, reason in ((2, "residual is not finite"), (4, "nothing cached for a condition")):
        statistics.steps[step].reason = statistics.steps[step + 2].reason = reason
    assert "\n2 planned skips were computed because a condition was new at them." in report([statistics])["summary"]
    statistics.steps[4].reason = "residual is not finite"
    assert "\n2 steps gave values that are not finite (NaN): they were not cached." in report([statistics])["summary"]


@pytest.mark.parametrize(("connected", "beginning"), [(False, "No statistics connected"), (True, "The model with Ada")])
def test_no_run(report, connected, beginning):
    made = report([], connected=connected)
    assert made["summary"].startswith(beginning)
    assert (made["speedup"], made["preset"], made["total_steps"], made["runs"]) == (None, None, 0, [])


def test_a_run_without_steps_yet(report, run):
    made = report([run("", total=10, finished=False)])
    assert made["speedup"] is None
    assert made["summary"] == "The run stopped after 0 of 10 steps: it was interrupted or failed."


def test_human_numbers(pack):
    from adacache.nodes.report import human_bytes, human_seconds

    assert [human_bytes(n) for n in (0, 51200, 3 * 2**20, 5 * 2**30)] == ["0 KiB", "50 KiB", "3.0 MiB", "5.00 GiB"]
    assert [human_seconds(s) for s in (0.0123, 0.5, 12.34, 59.99, 95)] == [
        "12 ms",
        "0.50 s",
        "12.3 s",
        "1 min 0 s",
        "1 min 35 s",
    ]


def words(language):
    """Texts of web/strings.js: top-level ones by key, and sentences by ``sentences.key``."""
    source = (REPOSITORY / "web" / "strings.js").read_text(encoding="utf-8")
    block = re.search(rf"^const {language} = {{\n(.*?)^}}$", source, re.MULTILINE | re.DOTALL)[1]
    found, part = {}, ""
    for line in block.splitlines():
        if opened := re.fullmatch(r"  (\w+): {", line):
            part = f"{opened[1]}."
        elif entry := re.fullmatch(r"  +'?([\w ]+?)'?: '(.*)',?", line):
            found[part + entry[1]] = entry[2]
        elif line == "  }," or line == "  }":
            part = ""
    return found


def placeholders(text):
    return set(re.findall(r"{(\w+)}", text))


def test_every_sentence_has_its_chinese(pack):
    from adacache.nodes.report import SENTENCES

    chinese = {key[10:]: text for key, text in words("zh").items() if key.startswith("sentences.")}
    assert chinese.keys() == SENTENCES.keys()
    assert all(placeholders(chinese[key]) == placeholders(sentence) for key, sentence in SENTENCES.items())


def test_every_reason_has_its_chinese():
    core = "".join((REPOSITORY / "adacache_core" / f"{name}.py").read_text() for name in ("schedule", "run"))
    reasons = {key[8:] for key in words("zh") if key.startswith("reasons.")}
    assert {reason for reason in reasons if f'"{reason}"' not in core} == set()
    assert set(re.findall(r'return "([a-z ]+)"', core)) <= reasons
    assert set(re.findall(r'reason = (?:True, )?"([a-z ]+)"', core)) <= reasons


def test_every_other_text_has_its_chinese():
    english, chinese = ({k: v for k, v in words(name).items() if "." not in k} for name in ("en", "zh"))
    assert len(english) > 40
    assert chinese.keys() == english.keys()
    assert {key for key in english if placeholders(english[key]) != placeholders(chinese[key])} == set()
    same = {key for key in english if english[key] == chinese[key]}
    assert same == {"tipSigma"}, "not translated"
