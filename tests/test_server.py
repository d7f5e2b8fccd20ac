"""The nodes on a real server, over HTTP and websocket, with the demo model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import torch
from safetensors.torch import load

from adacache_core import SPEEDUPS
from demo.comfyui import ComfyError, ComfyServer, PromptRun, default_packs

NODES = (
    "AdaCache",
    "AdaCacheMoReg",
    "AdaCacheTokenRefresh",
    "AdaCacheARCache",
    "AdaCacheInspector",
)
STEPS = 12
SCENE = {
    "motion": "fast",
    "camera": "static",
    "background": "plain",
    "objects": "1",
    "color": "red",
    "shape": "circle",
}
ADACACHE = {"preset": "balanced"}
LATENT = 16 * 5 * 8 * 8 * 4  # bytes, in float32
MOREG = {
    "strides": "1",
    "start_percent": 0.13,
    "end_percent": 0.87,
    "scale": 0.385,
    "exponent": 8.0,
    "divisor": 1.0,
    "gradient_multiplier": 10.0,
}
EVERY_STEP = {"preset": "custom", "preset.codebook": "1.0:1"}

pytestmark = pytest.mark.usefixtures("demo_weights")


def prompt(
    adacache: dict[str, Any] | None = None, *, moreg: dict[str, Any] | None = None, seed: int = 5, **sampler: Any
) -> dict[str, Any]:
    """A text-to-video prompt of 5 latent frames of 8 x 8; with AdaCache and its inspector where settings are given."""
    nodes: dict[str, Any] = {
        "loader": ("UNETLoader", {"unet_name": "adacache_demo_dit.safetensors", "weight_dtype": "default"}),
        "model": ("ModelSamplingSD3", {"model": ["loader", 0], "shift": 3.0}),
        "positive": ("AdaCacheDemoScene", SCENE),
        "negative": ("AdaCacheDemoEmpty", {}),
        "latent": ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 17, "batch_size": 1}),
        "sampler": (
            "KSampler",
            {
                "model": ["model", 0] if adacache is None else ["adacache", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                "seed": seed,
                "steps": STEPS,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
                **sampler,
            },
        ),
        "save": ("SaveLatent", {"samples": ["sampler", 0], "filename_prefix": "test"}),
    }
    if adacache is not None:
        inputs = {**ADACACHE, **adacache, "model": ["model", 0]}
        if moreg is not None:
            nodes["moreg"] = ("AdaCacheMoReg", {**MOREG, **moreg})
            inputs["moreg"] = ["moreg", 0]
        nodes["adacache"] = ("AdaCache", inputs)
        nodes["inspector"] = ("AdaCacheInspector", {"latent": ["sampler", 0], "statistics": ["adacache", 1]})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def samples(server: ComfyServer, run: PromptRun) -> torch.Tensor:
    [file] = run.outputs["save"]["latents"]
    return load(server.download(file))["latent_tensor"]


def report(run: PromptRun) -> dict[str, Any]:
    [value] = run.outputs["inspector"]["adacache"]
    return value


@pytest.fixture(scope="module")
def plain_samples(server: ComfyServer) -> torch.Tensor:
    return samples(server, server.run(prompt()))


@pytest.mark.long
def test_a_pack_that_is_installed_but_not_used_changes_no_bit(comfyui_path, plain_samples):
    packs = {name: path for name, path in default_packs().items() if name != "adacache"}
    with ComfyServer(comfyui_path, packs=packs) as without_pack:
        assert "AdaCache" not in without_pack.object_info()
        assert torch.equal(samples(without_pack, without_pack.run(prompt())), plain_samples)


def test_computing_every_step_changes_no_bit(server, plain_samples):
    run = server.run(prompt(EVERY_STEP))
    assert torch.equal(samples(server, run), plain_samples)
    assert (report(run)["total_steps"], report(run)["computed_steps"]) == (STEPS, STEPS)


def test_after_a_cached_prompt_plain_sampling_is_unchanged(server, plain_samples):
    cached = samples(server, server.run(prompt({"preset": "fast"})))
    assert not torch.equal(cached, plain_samples), "this test must be able to notice a change"
    server.free()
    run = server.run(prompt())
    assert "sampler" in run.executed
    assert torch.equal(samples(server, run), plain_samples)


def test_the_same_seed_gives_the_same_bits_and_a_second_prompt_skips_as_much(server):
    first = server.run(prompt({"preset": "fast"}, seed=11))
    other = server.run(prompt({"preset": "fast"}, seed=12))
    again = server.run(prompt({"preset": "fast"}, seed=11))
    assert "sampler" in again.executed
    assert torch.equal(samples(server, first), samples(server, again))
    computed = [report(run)["computed_steps"] for run in (first, other, again)]
    assert computed[0] == computed[1] == computed[2] < STEPS


def test_the_report_is_the_same_in_the_node_and_as_text(server):
    graph = prompt({})
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["inspector", 1]}}
    graph["chart"] = {"class_type": "PreviewImage", "inputs": {"images": ["inspector", 2]}}
    run = server.run(graph)
    assert json.loads(run.outputs["text"]["text"][0]) == report(run)
    [image] = run.outputs["chart"]["images"]
    assert server.download(image)[:4] == b"\x89PNG"
    steps = report(run)["runs"][0]["steps"]
    assert len(steps) == STEPS
    assert sum(step["kind"] == "computed" for step in steps) == report(run)["computed_steps"] < STEPS
    # Three computes, of two conditions and of both together, and the last correction.
    assert report(run)["cache_bytes"] == (3 * (2 + 1) + 1) * LATENT
    assert report(run)["preset"] == "balanced"


def test_three_predictions_are_kept_of_each_condition_and_of_what_guidance_makes_of_them_two_where_it_is_strong(server):
    one, two, strong = (report(server.run(prompt({}, cfg=cfg))) for cfg in (1.0, 3.0, 6.0))
    assert one["cache_bytes"] == (3 + 1) * LATENT
    assert two["cache_bytes"] == (3 * 3 + 1) * LATENT
    assert strong["cache_bytes"] == (3 * 2 + 1) * LATENT
    assert one["computed_steps"] == two["computed_steps"] == strong["computed_steps"]


def test_moreg_scales_the_papers_distances(server):
    run = server.run(prompt({"preset": "paper-fast"}, moreg={"scale": 0.01, "exponent": 1.0}))
    plain = server.run(prompt({"preset": "paper-fast"}))
    assert report(run)["computed_steps"] > report(plain)["computed_steps"]
    scores = [step["paper"] and step["paper"]["motion_score"] for step in report(run)["runs"][0]["steps"]]
    assert any(score is not None and score > 1 for score in scores)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_moreg_sets_the_budget_of_a_plan_by_what_moves(server, cfg):
    made = report(server.run(prompt({}, moreg={}, steps=30, cfg=cfg)))
    [run] = made["runs"]
    assert run["motion_share"] is not None
    assert made["computed_steps"] == round(30 / SPEEDUPS["balanced"] * run["motion_share"])
    assert f"MoReg gave this video {run['motion_share']:.0%}".replace("%", " %") in made["summary"]


def test_an_inspector_without_statistics_says_so(server):
    graph = prompt({})
    del graph["inspector"]["inputs"]["statistics"]
    assert "No statistics connected" in report(server.run(graph))["summary"]


def test_two_samplers_on_one_patched_model_are_both_reported(server):
    graph = prompt({})
    graph["sampler"]["inputs"] |= {"steps": 10}
    graph["second"] = {
        "class_type": "KSampler",
        "inputs": {**graph["sampler"]["inputs"], "latent_image": ["sampler", 0], "denoise": 0.5, "seed": 3},
    }
    graph["inspector"]["inputs"]["latent"] = ["second", 0]
    assert [run["total_steps"] for run in report(server.run(graph))["runs"]] == [10, 10]


class TestInterrupt:
    @pytest.fixture
    def interrupted(self, server) -> Iterator[None]:
        graph = prompt({"preset": "paper-slow"}, steps=2000, seed=77)
        prompt_id = server.queue(graph)
        events = []
        for event in server.wait(prompt_id):
            events.append(event)
            if event.type == "progress" and event.data["node"] == "sampler" and event.data["value"] >= 5:
                server.interrupt()
        with pytest.raises(ComfyError, match="interrupted"):
            server.finish(prompt_id, events)
        yield

    def test_the_next_prompt_is_as_if_nothing_had_happened(self, server, interrupted):
        after = server.run(prompt({"preset": "fast"}, seed=11))
        assert report(after)["runs"][0]["finished"]
        server.free()
        fresh = server.run(prompt({"preset": "fast"}, seed=11))
        assert torch.equal(samples(server, after), samples(server, fresh))


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        (
            "adacache",
            {"preset": "custom", "preset.codebook": "0.08:6, 0.24:4, 0.16:5"},
            "codebook thresholds must ascend, got 0.16 after 0.24 (entry 3)",
        ),
        (
            "adacache",
            {"preset": "custom", "preset.codebook": "0.08=6"},
            "codebook entry 1 is '0.08=6', expected threshold:rate",
        ),
        ("adacache", {"preset": "custom", "preset.codebook": "0.08:0"}, "must be at least 1, got 0"),
        ("adacache", {"preset": "custom", "preset.codebook": ""}, "the codebook is empty"),
        ("adacache", {"preset": "target", "preset.target_speedup": 0.9}, "target_speedup of 1 or more, got 0.9"),
        ("adacache", {"preset": "turbo"}, "preset must be one of balanced, quality, fast, target, paper-fast"),
        ("adacache", {"moreg": True, "token_refresh": ["refresh", 0]}, "MoReg beside Token Refresh needs a preset"),
        ("moreg", {"strides": "0"}, "must be at least 1, got (0,)"),
        ("moreg", {"strides": "one"}, "strides must be whole numbers, got 'one'"),
        ("moreg", {"start_percent": 0.9, "end_percent": 0.1}, "MoReg: start_percent must be below end_percent"),
        ("window", {"window": 3, "anchors": 3}, "anchors must be below the window"),
    ],
)
def test_bad_settings_are_refused_on_queue_at_their_input(server, node, inputs, message):
    graph = prompt({}, moreg={} if node == "moreg" else None)
    refresh = {"preset": "open-sora", "ratio": 0.15, "random_seed": 0, "device": "same device"}
    graph["refresh"] = {"class_type": "AdaCacheTokenRefresh", "inputs": refresh}
    graph["window"] = {
        "class_type": "AdaCacheARCache",
        "inputs": {"model": ["adacache", 0], "window": 21, "anchors": 0},
    }
    graph["sampler"]["inputs"]["model"] = ["window", 0]
    graph[node]["inputs"] |= inputs
    refused = requests.post(f"{server.url}/prompt", json={"prompt": graph}).json()["node_errors"]
    assert refused.keys() == {node}
    said = {error["extra_info"]["input_name"]: error["details"] for error in refused[node]["errors"]}
    assert all(name in said for name in inputs if name != "preset")
    assert all(message in details for details in said.values())


def test_what_comes_over_a_link_is_refused_when_it_is_known(server):
    graph = prompt({"preset": "custom", "preset.codebook": ["text", 0]})
    graph["text"] = {"class_type": "PrimitiveString", "inputs": {"value": "0.08=6"}}
    with pytest.raises(ComfyError, match=r"codebook entry 1 is '0\.08=6', expected threshold:rate"):
        server.run(graph)
    graph["text"]["inputs"]["value"] = "0.08:3, 1.0:1"
    assert report(server.run(graph))["runs"][0]["settings"]["codebook"] == [[0.08, 3], [1.0, 1]]


def test_a_stride_that_the_video_is_too_short_for_is_refused_before_sampling(server):
    prompt_id = server.queue(prompt({"preset": "paper-fast"}, moreg={"strides": "5"}))
    events = list(server.wait(prompt_id))
    with pytest.raises(ComfyError, match="stride of 5 needs more than 5 latent frames, the video has 5"):
        server.finish(prompt_id, events)
    sampled = [event for event in events if event.type == "progress" and event.data.get("node") == "sampler"]
    assert not sampled, "an error must come before the first step"


def test_moreg_is_a_switch_or_a_link(server):
    switched, linked, off = (
        report(server.run(graph))["runs"][0]["settings"]["moreg"]
        for graph in (prompt({"moreg": True}), prompt({}, moreg={}), prompt({"moreg": False}))
    )
    assert switched == linked and switched["scale"] == MOREG["scale"]
    assert off is None


def test_the_nodes_document_themselves(server):
    info = server.object_info()
    for name in (*NODES, "AdaCacheSampler", "AdaCacheCard"):
        node = info[name]
        assert node["description"]
        assert node["search_aliases"]
        assert node["python_module"] == "custom_nodes.adacache"
        shown = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert not [key for key, (_, *options) in shown.items() if not (options and options[0].get("tooltip"))], name
    options = info["AdaCache"]["input"]["required"]["preset"][1]["options"]
    brought = {option["key"]: list(option["inputs"]["required"]) for option in options}
    assert brought == {
        "balanced": [],
        "quality": [],
        "fast": [],
        "target": ["target_speedup"],
        "paper-fast": [],
        "paper-slow": [],
        "custom": ["codebook"],
    }


def test_a_search_finds_the_main_node_and_experiments_are_marked(server):
    """What people look for names AdaCache only; the front end puts a name before an alias."""
    info = server.object_info()
    experimental = [name for name in NODES if info[name]["experimental"]]
    assert experimental == ["AdaCacheTokenRefresh", "AdaCacheARCache"]
    assert {info[name]["category"] for name in experimental} == {"advanced/model/experimental"}
    aliases = [alias for name in NODES if name != "AdaCache" for alias in info[name]["search_aliases"]]
    for wanted in ("cache", "faster", "speed", "teacache", "easycache", "moreg", "skip"):
        assert any(wanted in alias for alias in info["AdaCache"]["search_aliases"])
        assert not [alias for alias in aliases if wanted in alias.replace("adacache", "")], wanted
