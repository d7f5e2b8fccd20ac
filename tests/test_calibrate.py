"""The Calibrate node on a real server: one run of the demo model measured, turned into settings, and used."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load
from test_server import STEPS, prompt, report, samples

from adacache_core import Calibration, plan
from demo.comfyui import ComfyError, ComfyServer, PromptRun

FAMILY = "Wan 2.1 / 2.2"
QUALITY = 8  # steps that "quality" computes of 12
FORCED = {0, 1, STEPS - 1}
pytestmark = pytest.mark.usefixtures("demo_weights")


def written(family: str = FAMILY, **changes: Any) -> str:
    """A calibration as text, of a model that bends ten times as fast every tenth of flow time towards the video."""
    curve = [[n / 10, 10.0 ** (9 - n)] for n in range(1, 10)]
    return json.dumps({"adacache_calibration": 1, "family": family, "source": "by hand", "curve": curve, **changes})


def calibrated(text: Any, adacache: dict[str, Any] | None = None, **sampler: Any) -> dict[str, Any]:
    """A prompt whose AdaCache has the calibration of a text, or of a link to one."""
    graph = prompt({"preset": "quality", **(adacache or {})}, **sampler)
    graph["calibrate"] = {"class_type": "AdaCacheCalibrate", "inputs": {"report": text}}
    graph["adacache"]["inputs"]["calibration"] = ["calibrate", 0]
    return graph


def calibrating_and_using(**sampler: Any) -> dict[str, Any]:
    """Measured and used in one prompt: the nodes of the run that measures have names with ``measured``."""
    first = prompt({"preset": sampler.pop("preset", "calibrate")}, **sampler)
    shared = {"loader", "model", "positive", "negative", "latent"}
    names = {name: name if name in shared else f"measured {name}" for name in first}

    def renamed(value: Any) -> Any:
        return [names[value[0]], value[1]] if isinstance(value, list) else value

    measured = {
        names[name]: {**node, "inputs": {key: renamed(value) for key, value in node["inputs"].items()}}
        for name, node in first.items()
    }
    return {
        **measured,
        **calibrated(["measured inspector", 1]),
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["calibrate", 1]}},
    }


def steps_of(run: PromptRun) -> tuple[int, ...]:
    [sampled] = report(run)["runs"]
    return tuple(record["step"] for record in sampled["steps"] if record["computed"])


def refusal(server: ComfyServer, graph: dict[str, Any]) -> str:
    """Why a prompt failed; no step of its last sampler may have run."""
    prompt_id = server.queue(graph)
    events = list(server.wait(prompt_id))
    assert not [event for event in events if event.type == "progress" and event.data.get("node") == "sampler"]
    with pytest.raises(ComfyError) as error:
        server.finish(prompt_id, events)
    return str(error.value)


def test_one_run_is_measured_and_its_calibration_used(server):
    run = server.run(calibrating_and_using())
    plain = server.run(prompt())
    [file] = run.outputs["measured save"]["latents"]
    measured = load(server.download(file))["latent_tensor"]
    assert torch.equal(measured, samples(server, plain)), "measuring changed the video"

    [shown] = run.outputs["measured inspector"]["adacache"]
    assert (shown["preset"], shown["replay"], shown["computed_steps"]) == ("calibrate", "forecast", STEPS)
    assert shown["summary"].endswith(
        "Every step was computed to measure this model. Connect the report to an AdaCache Calibrate node, and its "
        "calibration to AdaCache."
    )
    records = shown["runs"][0]["steps"]
    errors = [record["forecast_error"] for record in records]
    assert errors[:2] == [None, None]
    assert all(0 < error < 1 for error in errors[2:])

    text = run.outputs["text"]["text"][0]
    kept = json.loads(text)
    assert (kept["family"], kept["source"]) == (FAMILY, f"{FAMILY}, all of {STEPS} steps computed")
    sigmas = [record["sigma"] for record in records]
    for (time, curvature), step in zip(kept["curve"], range(STEPS - 1, 1, -1), strict=True):
        third, second, first = sigmas[step - 2 : step + 1]
        assert time == pytest.approx((first + second + third) / 3, rel=1e-4)
        here, last, before = (1 / (1.01 - sigma) + math.log(sigma + 0.02) for sigma in (first, second, third))
        assert curvature == pytest.approx(errors[step] / ((last - here) * (before - here)), rel=1e-4)

    assert steps_of(run) == plan(sigmas, QUALITY, FORCED, correction=Calibration.parse(text).correction)
    assert report(run)["runs"][0]["settings"]["calibration"] == kept["source"]
    again = server.run(calibrated(text, seed=6))
    assert "sampler" in again.executed
    assert steps_of(again) == steps_of(run), "one run serves for ever"


def test_another_calibration_gives_another_plan_to_planned_presets_only(server):
    usual, bent = server.run(prompt({"preset": "quality"})), server.run(calibrated(written()))
    sigmas = [record["sigma"] for record in report(bent)["runs"][0]["steps"]]
    assert steps_of(usual) == plan(sigmas, QUALITY, FORCED)
    assert steps_of(bent) == plan(sigmas, QUALITY, FORCED, correction=Calibration.parse(written()).correction)
    assert steps_of(bent) != steps_of(usual)
    assert report(usual)["runs"][0]["settings"]["calibration"] is None

    paper = server.run(calibrated(written(), {"preset": "paper-fast"}))
    assert report(paper)["runs"][0]["settings"]["calibration"] is None
    assert torch.equal(samples(server, paper), samples(server, server.run(prompt({"preset": "paper-fast"}))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the report must be JSON, which this text is not"),
        ("Every step was computed", "the report must be JSON, which this text is not"),
        ('{"prompt": 1}', "this must be a report or a calibration, and is neither"),
        ('{"runs": []}', "a report must be of runs of one model, got no run"),
        (written(curve=[[0.5, 1]]), "a calibration needs 6 measured steps or more, got 1"),
        (written(curve=None), "this calibration must have a family, a source and a curve of pairs"),
        (written("LTX-Video"), f"the calibration must be of this model, {FAMILY}, got one of LTX-Video"),
    ],
)
def test_a_text_that_is_no_calibration_of_this_model(server, text, message):
    assert f"AdaCache: {message}" in refusal(server, calibrated(text))


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"preset": "balanced"}, 'preset "balanced", which skipped 7 of 12 steps and measured nothing'),
        ({"steps": 7}, "a calibration needs 6 measured steps or more, got 5"),
        # Heun's second call is made at the next noise level.
        ({"sampler_name": "heun"}, "the sampler called the model more than once at step 2"),
    ],
)
def test_a_run_that_measured_too_little(server, sampling, message):
    assert message in refusal(server, calibrating_and_using(**sampling))
