"""The inspector's report: numbers and sentences of hand-made runs, in every language."""

from __future__ import annotations

import json
import re

import pytest

from demo.comfyui import REPOSITORY

CODEBOOK = [[0.08, 6], [0.16, 3], [0.4, 1]]
PLANNED = {
    "preset": "balanced",
    "speedup": 2.0,
    "computes": 5,
    "evaluations": 10,
    "sampler_steps": 10,
    "adds_noise": False,
    "corrected": True,
    "uncorrected_because": None,
    "codebook": None,
    "moreg": None,
    "token_refresh": None,
}
PAPER = {
    "preset": "paper-fast",
    "speedup": None,
    "codebook": CODEBOOK,
    "moreg": None,
    "token_refresh": None,
    "family": "Wan",
}
MIDDLE = "The middle third of sampling was skipped most: 2 of its 3 steps (5 to 7)."
CORRECTED = "Computed steps take back the error of the skips before them (correction)."


@pytest.fixture
def report(pack):
    from adacache.nodes.report import make_report

    return make_report


@pytest.fixture
def run(pack):
    """Statistics of a run: one letter per step, ``c`` computed, ``s`` skipped, ``f`` first, ``t`` too few steps."""
    from adacache.adacache_core import RunStatistics, StepRecord

    reasons = {"c": "plan", "s": "skipped", "f": "first", "t": "too few steps"}

    def make(steps, total=None, finished=True, first=None, settings=PLANNED, **more):
        statistics = RunStatistics({**settings, **more}, total or len(steps), finished=finished)
        for index, letter in enumerate(steps):
            computed = letter != "s"
            kind = "computed" if computed else "skipped"
            record = StepRecord(index, 1 - index / 10, kind, reasons[letter], calls=2, computed_calls=2 * computed)
            record.seconds = 2.0 if computed else 0.5
            statistics.steps.append(record)
        if first is not None:
            statistics.steps[0].seconds = first
        statistics.cache_bytes = 3 * 2**20
        return statistics

    return make


@pytest.fixture
def paper_run(run):
    """Statistics of a run in which the paper's rule decided on every step but the first two and the last two."""
    from adacache.adacache_core import Observation

    def make(steps, distance, regularized=None, **more):
        statistics = run(steps, settings=PAPER, **more)
        for record in statistics.steps[2:-2]:
            record.reason = "schedule"
            record.paper = Observation(1, distance, regularized_distance=regularized)
        return statistics

    return make


def keys(report):
    return [entry["key"] for entry in report["explanation"]]


def test_totals_and_sentences_of_a_run(report, run):
    made = report([run("ffcscssscf")])
    assert made["total_steps"] == 10
    assert (made["computed_steps"], made["partial_steps"], made["skipped_steps"]) == (6, 0, 4)
    assert made["seconds"] == 6 * 2.0 + 4 * 0.5
    assert made["speedup"] == pytest.approx(9 * 2.0 / (5 * 2.0 + 4 * 0.5))
    assert made["cache_bytes"] == 3 * 2**20
    assert made["preset"] == "balanced"
    assert made["summary"].split("\n") == [
        "Preset balanced computed 6 of 10 steps.",
        "Sampling took 14.0 s; with every step computed it would have taken about 20 s.",
        "A computed step usually took 2.00 s, a skipped one 0.50 s on average.",
        MIDDLE,
        CORRECTED,
    ]
    assert json.loads(json.dumps(made)) == made


def test_a_slow_first_step_is_told_apart(report, run):
    made = report([run("ffcscssscf", first=9.0)])
    assert made["speedup"] == pytest.approx(9 * 2.0 / 12)
    assert {"key": "first", "first": "9.00 s"} in made["explanation"]
    assert "The first step took 9.00 s, with one-off work such as loading; the speedup" in made["summary"]
    assert "it would have taken about 27 s" in made["summary"]


def test_two_experts_are_weighed_by_their_time(report, run):
    high, low = run("ffssssssff", preset="fast"), run("ffcccccccf", preset="quality")
    made = report([high, low])
    assert made["total_steps"] == 20
    assert made["speedup"] == pytest.approx((high.speedup * high.seconds + low.speedup * low.seconds) / made["seconds"])
    assert made["preset"] == "fast + quality"
    assert [entry["run"] for entry in made["explanation"] if entry["key"] == "run"] == [1, 2]
    assert "Run 2 of 2:\nPreset quality computed 10 of 10 steps.\nSampling took 20.0 s." in made["summary"]


def test_the_target_is_shown(report, run):
    two = [run("ffcs", preset="target", speedup=2.5), run("ffcs", preset="target", speedup=3.0)]
    assert report(two[:1])["preset"] == "target 2.5x"
    assert report(two)["preset"] == "target 2.5x + target 3x"


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        ({}, [MIDDLE, CORRECTED]),
        (
            {"evaluations": 20, "sampler_steps": 10, "computes": 10},
            ["The sampler asks the model 20 times in 10 steps; each time is counted as a step.", MIDDLE, CORRECTED],
        ),
        (
            {"adds_noise": True, "corrected": False, "uncorrected_because": "it adds noise"},
            [MIDDLE, "This sampler adds noise: skipped steps come out less exact with it, and correction is off."],
        ),
        (
            {"corrected": False, "uncorrected_because": "it corrects itself"},
            [MIDDLE, "Correction is off, because of the sampler: it corrects itself."],
        ),
        (
            {"evaluations": None, "adds_noise": None, "corrected": False, "uncorrected_because": "it fails"},
            [MIDDLE, "Steps were planned on the schedule, without correction, because of the sampler: it fails."],
        ),
        (
            {"fewer_is_better": True},
            [
                MIDDLE,
                CORRECTED,
                "With this sampler, fewer steps are closer than skipping: 5 steps without AdaCache take about as long.",
            ],
        ),
    ],
)
def test_what_asking_the_sampler_found(report, run, settings, sentences):
    total = settings.get("evaluations") or 10
    statistics = run("ffcscssscf", **settings)
    statistics.total_steps = 10
    if total == 20:
        statistics.settings["speedup"] = 1.0
    assert report([statistics])["summary"].split("\n")[3:] == sentences


def test_the_papers_presets_and_runs_without_skips_say_nothing_of_it(report, run, paper_run):
    assert report([paper_run("ffcscssscf", 0.1)])["summary"].split("\n")[3:] == [MIDDLE]
    assert "corrected" not in keys(report([run("ffcccc", speedup=1.0)]))


def test_a_target_that_cannot_be_had(report, run):
    statistics = run("ff" + "ssss" * 4 + "cf", preset="target", speedup=8.0, computes=5)
    statistics.steps[5].kind = "computed"
    made = report([statistics])
    assert made["summary"].split("\n")[3] == (
        "target 8x asks for 2 of 20 steps; 5 is the least here, so 5 were planned (4x)."
    )
    reached = run("ff" + "ssss" * 4 + "cf", preset="target", speedup=4.0, computes=5)
    assert "least" not in keys(report([reached]))


def test_what_moreg_made_of_a_plan(report, run, paper_run):
    def said(share, **settings):
        statistics = run("ffcscssscf", **{"moreg": {"strides": [1]}, **settings})
        statistics.motion_share = share
        return report([statistics])["summary"].split("\n")[5:]

    assert said(1.1234) == ["MoReg gave this video 112 % of the planned computes, by how much moves in it."]
    assert said(None) == [
        "MoReg left the plan as it is: it compares the frames of one or two conditions at the fourth computed step, "
        "which this run did not have."
    ]
    assert said(None, moreg=None) == []
    assert not {"moved", "not_moved"} & set(keys(report([paper_run("ffcscssscf", 0.1, moreg={"strides": [1]})])))


def test_partial_steps(report, run):
    statistics = run("ffcscssscf", corrected=False)
    for record in statistics.steps:
        if record.kind == "skipped":
            record.kind = "partial"
    made = report([statistics])
    assert (made["computed_steps"], made["partial_steps"], made["skipped_steps"]) == (6, 4, 0)
    assert made["summary"].split("\n")[2:] == [
        "A computed step usually took 2.00 s, a partial one 0.50 s on average.",
        "Token Refresh made partial steps of all 4 steps that would have been skipped: each computed a part of the "
        "tokens.",
    ]


@pytest.mark.parametrize(("steps", "third"), [("fsssccccccff", "early"), ("ffccccccsssf", "late")])
def test_the_third_that_was_skipped_most(report, run, steps, third):
    assert f"The {third} third of sampling was skipped most: 3 of its 4 steps" in report([run(steps)])["summary"]


@pytest.mark.parametrize(
    ("steps", "settings", "sentence"),
    [
        ("tttt", {"computes": 4}, "with so few steps (4) the video changes too much from one to the next."),
        ("ffccccccff", {"preset": "target", "speedup": 1.0, "computes": 10}, "target 1x asks for every step."),
    ],
)
def test_why_a_plan_skipped_nothing(report, run, steps, settings, sentence):
    assert report([run(steps, **settings)])["summary"].split("\n")[2:] == [f"No step was skipped: {sentence}"]


@pytest.mark.parametrize(
    ("distance", "regularized", "codebook", "sentence"),
    [
        (
            0.21,
            None,
            CODEBOOK,
            "No step was skipped: the distance stayed above 0.16, the largest threshold with a rate over 1; the lowest "
            "was 0.210.",
        ),
        (
            0.1,
            0.3,
            CODEBOOK,
            "No step was skipped because of motion: MoReg raised the lowest distance from 0.100 to 0.300.",
        ),
        (
            0.05,
            None,
            [[0.1, 1], [1.0, 1]],
            "No step was skipped: every rate of the codebook is 1. A rate of 2 or more allows skips.",
        ),
        (
            0.1,
            None,
            CODEBOOK,
            "No step was skipped: the ones that may be are followed by steps that are always computed.",
        ),
    ],
)
def test_why_the_papers_rule_skipped_nothing(report, paper_run, distance, regularized, codebook, sentence):
    made = report([paper_run("ffccccccff", distance, regularized, codebook=codebook)])
    assert made["summary"].split("\n")[2:] == [sentence]


@pytest.mark.parametrize("reasons", [("not finite", "new condition"), ("residual is not finite", None)])
def test_what_did_not_go_as_planned(report, run, reasons):
    statistics = run("ffcscss", total=20, finished=False, computes=10)
    statistics.steps[2].reason = reasons[0]
    statistics.steps[4].reason = reasons[1] or "nothing cached for a condition"
    made = report([statistics])
    assert made["summary"].split("\n")[-3:] == [
        "Values that are not finite (NaN) came up in 1 of 7 steps and were not cached. Check model and LoRAs.",
        "New conditions made 1 of the planned skips compute.",
        "The run stopped after step 7 of 20: it was interrupted or failed.",
    ]


def test_what_looks_like_a_second_cache_is_named(report, run):
    named = run("ffcs", other_caches=["Spectrum (object patch from spectrum)"])
    assert report([named])["summary"].split("\n")[-1] == (
        "Spectrum (object patch from spectrum) looks like a second cache on this model. If it is one, remove one of "
        "the two."
    )
    assert "second_cache" not in keys(report([run("ffcs", other_caches=[])]))


def test_nothing_is_claimed_where_nothing_is_connected(report):
    made = report([], connected=False)
    assert made["summary"] == (
        "No statistics connected: nothing is known about this run. Connect the statistics of the AdaCache node; a "
        "bypassed one has none."
    )
    assert (made["speedup"], made["preset"], made["total_steps"], made["runs"]) == (None, None, 0, [])


def test_nothing_was_sampled(report):
    assert report([])["summary"].startswith("The model with AdaCache has not been sampled for this latent.")


def test_a_run_without_steps_yet(report, run):
    made = report([run("", total=10, finished=False)])
    assert made["speedup"] is None
    assert made["summary"] == "The run stopped after step 0 of 10: it was interrupted or failed."


def test_while_it_goes_on(run):
    from adacache.nodes.report import live_report, make_report

    going = run("ffcs", total=10, finished=False)
    made = live_report([going])
    assert (made["summary"], made["computed_steps"], made["preset"]) == ("Sampling: step 4 of 10.", 3, "balanced")
    assert live_report([run("ffcscssscf"), going])["summary"] == "Run 2:\nSampling: step 4 of 10."
    whole = run("ffcscssscf")
    assert live_report([whole]) == make_report([whole])


def test_the_time_saved_is_of_the_users_steps_where_the_sampler_takes_finer_ones(pack):
    """Four of the user's, taken as eight, three computed in 1 s each: one of four is saved, not five of eight."""
    from adacache.adacache_core import RunStatistics, StepRecord
    from adacache.nodes.report import live_report

    records = [
        StepRecord(0, 1.0, "computed", "first", seconds=1.0),
        StepRecord(1, 0.9, "computed", "first", seconds=1.0),
    ]
    plan = ("first", "first", *[None] * 5, "last")
    going = live_report([RunStatistics({"preset": "balanced"}, 8, records, plan=plan, finer=2)])
    [entry] = going["explanation"]
    assert (entry["left"], entry["saved"]) == ("1 s", "1 s")


def test_human_numbers(pack):
    from adacache.nodes.words import human_bytes, human_seconds

    assert [human_bytes(n) for n in (0, 51200, 3 * 2**20, 5 * 2**30)] == ["0 KiB", "50 KiB", "3.0 MiB", "5.00 GiB"]
    assert [human_seconds(s) for s in (0.0123, 0.5, 12.34, 59.99, 95)] == [
        "12 ms",
        "0.50 s",
        "12.3 s",
        "1 min 0 s",
        "1 min 35 s",
    ]


def words(language):
    return json.loads((REPOSITORY / "locales" / language / "main.json").read_text(encoding="utf-8"))["adacache"]


def placeholders(text):
    return set(re.findall(r"{(\w+)}", text))


def test_every_text_has_its_chinese():
    english, chinese = ({k: v for k, v in words(name).items() if isinstance(v, str)} for name in ("en", "zh"))
    assert len(english) > 60
    assert chinese.keys() == english.keys()
    assert {key for key in english if placeholders(english[key]) != placeholders(chinese[key])} == set()
    assert [text for text in chinese.values() if not re.search("[\u4e00-\u9fff]|}", text)] == []


def test_every_text_is_used():
    files = [*(REPOSITORY / "nodes").glob("*.py"), *(REPOSITORY / "web").glob("*.js")]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    spelt = set(re.findall(r"[\w-]+", source))
    spelt |= {f"{name}_label" for name in ("speedup", "steps", "memory", "preset", "reference")}
    assert {key for key in words("en") if key not in spelt} == set()


def test_every_reason_has_its_words():
    english, chinese = words("en")["reasons"], words("zh")["reasons"]
    assert chinese.keys() == english.keys()
    core = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "adacache_core").rglob("*.py"))
    assert {reason for reason in english if f'"{reason}"' not in core} == set(), "nobody gives these"
    given = re.findall(r'reason(?:, \w+)? = (?:"computed", )?"([a-z ]+)"', core)
    given += re.findall(r'return "([a-z ]+)"', (REPOSITORY / "adacache_core" / "paper" / "rule.py").read_text())
    assert len(given) > 8 and set(given) <= english.keys()
