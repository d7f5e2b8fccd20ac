"""Token refresh on tiny models of ComfyUI's own classes, loaded by its loader and sampled by its sampler."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, Family, found, load, sample
from tiny_wan import shadows
from torch import nn

from demo.comfyui import REPOSITORY
from demo.workflow import to_prompt

WORKFLOW = REPOSITORY / "workflows" / "AdaCache Demo Token Refresh.json"
STEPS = 10
COMPUTED = 6  # that "balanced" computes of ten
RATIO = 0.25
SUPPORTED = (
    "WAN21_T2V",
    "WAN21_T2V-references",
    "WAN21_I2V",
    "WAN21_FunControl2V",
    "WAN21_Camera",
    "WAN21_Vace",
    "WAN22_S2V",
    "WAN22_Animate",
    "WAN21_HuMo",
    "WAN21_SCAIL",
    "WAN21_SCAIL2",
    "WAN22_WanDancer",
    "HunyuanVideo",
    "HunyuanVideo-ControlNet",
    "HunyuanVideo15",
    "CogVideoX_T2V",
    "CogVideoX_I2V",
    "LTXV",
    "LTXV-keyframes",
    "PixArtAlpha",
    "PixArtSigma",
)
pytestmark = pytest.mark.usefixtures("without_gradients")
EVERY_SCORE = {"influence": 1.0, "entropy": 1.0, "age": 0.25, "spread": 0.4, "random": 0.1}


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest, pack: Any) -> Iterator[tuple[Family, Any]]:
    row = next(row for row in FAMILIES if row.name == request.param)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for path, stand_in in row.stand_ins.items():
            owner, _, name = path.rpartition(".")
            patch.setattr(found(owner), name, stand_in)
        yield row, load(row.name)


families = pytest.mark.parametrize("tiny", SUPPORTED, indirect=True)
# One of each kind of block.
kinds = pytest.mark.parametrize(
    "tiny", ["WAN21_T2V", "HunyuanVideo", "CogVideoX_T2V", "LTXV", "PixArtAlpha"], indirect=True
)


def bind(patcher: Any, preset: str = "balanced", **refresh: Any) -> tuple[Any, Any]:
    """Patched as the AdaCache node does it, with a Token Refresh node plugged in."""
    from adacache.adacache_core.tokens.choice import TokenRefresh
    from adacache.nodes.binding import bind as bind_settings
    from adacache.nodes.settings import Settings

    return bind_settings(patcher, Settings(preset, token_refresh=TokenRefresh(**refresh)))


def only_run(log: Any) -> Any:
    [run] = log.of_prompt(None)
    return run.statistics


@contextmanager
def rows_of(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Tokens that went into the parts that a layout names, per call, by role: what really ran, not what was asked."""
    from adacache.nodes.families import layout_of

    counts: dict[str, list[int]] = defaultdict(list)

    def count(role: str, module: nn.Module) -> None:
        # The first matrix of a part; its own forward is never replaced where the part is a module of several.
        linear = next(part for part in module.modules() if hasattr(part, "out_features"))
        original = type(linear).forward

        def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            if self in watched:
                counts[watched[self]].append(x.shape[1])
            return original(self, x, *args, **kwargs)

        watched[linear] = role
        patches.setdefault(type(linear), forward)

    watched: dict[nn.Module, str] = {}
    patches: dict[type, Any] = {}
    for row, block in layout_of(model).block_modules(model):
        parts = row.sublayers
        if parts is None:
            continue
        for path in (*parts.replayed, *parts.replayed_text, *parts.silent):
            count("attention", attrgetter(path)(block))
        for path in parts.cross_attention:
            count("cross_attention", attrgetter(path)(block))
        for first, _ in parts.mlp:
            count("mlp", attrgetter(first)(block))
    with pytest.MonkeyPatch.context() as patch:
        for owner, forward in patches.items():
            patch.setattr(owner, "forward", forward)
        yield counts


@kinds
def test_family_ratio_one_is_bit_identical(tiny: tuple[Family, Any]) -> None:
    row, patcher = tiny
    plain = sample(patcher, row, STEPS)
    patched, log = bind(patcher, ratio=1.0)
    assert torch.equal(sample(patched, row, STEPS), plain)
    assert only_run(log).count("computed") == STEPS


@families
def test_family_partial_step_on_an_unchanged_input_is_bit_identical(tiny: tuple[Family, Any]) -> None:
    """One real model call, made twice: in full, and as a partial step that chooses every token."""
    from adacache.adacache_core.tokens.choice import TokenCache, TokenRefresh
    from adacache.adacache_core.tokens.sublayers import TokenCall, refreshing
    from adacache.nodes.families import layout_of
    from adacache.nodes.model_call import with_attention
    from comfy.patcher_extension import WrappersMP

    row, patcher = tiny
    model = patcher.model.diffusion_model
    layout = layout_of(model)
    same: list[bool] = []

    def twice(executor: Any, *args: Any, **kwargs: Any) -> Any:
        cache = TokenCache(TokenRefresh(ratio=1.0))
        control = args[4]
        outputs = []
        for step in (0, 1):
            keys = ["a", "b"][: args[0].shape[0]]
            call = TokenCall(cache, keys, step, lambda first: lambda count: None, step > 0, with_attention)
            with refreshing(model, layout, call):
                given = control and {name: list(parts) for name, parts in control.items()}
                outputs.append(executor(args[0].clone(), *args[1:4], given, *args[5:], **kwargs))
        same.append(torch.equal(*outputs))
        return outputs[0]

    patched = patcher.clone()
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", twice)
    sample(patched, row, 2)
    assert set(same) == {True}
    assert shadows(model) == []


@families
def test_family_partial_steps_run_the_chosen_tokens_only(tiny: tuple[Family, Any]) -> None:
    row, patcher = tiny
    model = patcher.model.diffusion_model
    with rows_of(model) as counts:
        plain = sample(patcher, row, STEPS)
        full = {role: list(rows) for role, rows in counts.items()}
        counts.clear()
        patched, log = bind(patcher, ratio=RATIO, mlp=2.0)
        samples = sample(patched, row, STEPS)
        ran = {role: list(rows) for role, rows in counts.items()}
    run = only_run(log)
    assert (run.count("computed"), run.count("partial")) == (COMPUTED, STEPS - COMPUTED)
    factors = {"attention": 0.0, "cross_attention": RATIO, "mlp": 2 * RATIO}
    for role, rows in full.items():
        of_a_step = rows[: len(rows) // STEPS]
        expected = [
            round(count * (1 if record.kind == "computed" else factors[role]))
            for record in run.steps
            for count in of_a_step
            if record.kind == "computed" or factors[role]
        ]
        assert ran[role] == expected, role
    assert samples.isfinite().all()
    assert not torch.equal(samples, plain)
    assert shadows(model) == []


@kinds
def test_family_every_score_and_the_bytes_that_were_said(tiny: tuple[Family, Any], caplog: Any) -> None:
    from adacache.adacache_core.tokens.partial import bytes_per_token
    from adacache.nodes.families import layout_of

    caplog.set_level("INFO")
    row, patcher = tiny
    patched, log = bind(patcher, ratio=RATIO, **EVERY_SCORE)
    samples = sample(patched, row, STEPS)
    assert samples.isfinite().all()
    held = only_run(log).cache_bytes
    assert torch.equal(sample(patched, row, STEPS), samples), "the same seed gives other bits"
    model = patcher.model.diffusion_model
    said = bytes_per_token(model, layout_of(model), 4) * 2 * math.prod(row.grid)
    [message, _] = [record.getMessage() for record in caplog.records if "Token Refresh" in record.getMessage()]
    assert message == f"AdaCache Token Refresh: keeps {said / 2**30:.2f} GiB on the model's device."
    # A residual of each condition, and text, reference tokens and scores come on top.
    assert said < held


@pytest.fixture(scope="module")
def wan(pack: Any) -> Any:
    with torch.no_grad():
        return load("WAN21_T2V")


WAN = next(row for row in FAMILIES if row.name == "WAN21_T2V")
# Three blocks keep three outputs of 60 tokens x 128 channels for each of two conditions, in float32.
WAN_BYTES = 3 * 3 * 60 * 128 * 4 * 2


def test_the_bytes_said_are_those_held(wan: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    patched, log = bind(wan)
    sample(patched, WAN, STEPS)
    residuals = 2 * 60 * 128 * 4
    assert only_run(log).cache_bytes == WAN_BYTES + residuals
    assert f"keeps {WAN_BYTES / 2**30:.2f} GiB" in caplog.text


@pytest.mark.parametrize("device", [None, "cpu"], ids=["same device", "system memory"])
def test_what_does_not_fit_is_refused_with_the_numbers_before_the_first_step(
    wan: Any, monkeypatch: pytest.MonkeyPatch, device: str | None
) -> None:
    from adacache.adacache_core import ConfigurationError
    from adacache.nodes import in_model
    from comfy.ldm.wan.model import WanAttentionBlock

    ran: list[int] = []
    original = WanAttentionBlock.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(WanAttentionBlock, "forward", counted)
    monkeypatch.setattr(in_model, "get_free_memory", lambda device: WAN_BYTES - 1)
    # GiB of a tiny model are 0.00; what is compared is in bytes.
    patched, _ = bind(wan, device=device)
    with pytest.raises(ConfigurationError, match=r"it has to keep 0\.00 GiB, and 0\.00 GiB are free on cpu"):
        sample(patched, WAN, STEPS)
    assert not ran
    monkeypatch.setattr(in_model, "get_free_memory", lambda device: WAN_BYTES)
    sample(bind(wan, device=device)[0], WAN, STEPS)
    assert ran


def test_one_condition_at_cfg_one_needs_half_the_bytes(wan: Any) -> None:
    patched, log = bind(wan)
    sample(patched, replace(WAN, cfg=1.0), STEPS)
    assert only_run(log).cache_bytes == WAN_BYTES // 2 + 60 * 128 * 4


def test_random_tokens_are_the_same_for_the_same_seed_only(wan: Any) -> None:
    def samples(seed: int) -> Any:
        return sample(bind(wan, ratio=RATIO, age=0.0, random=1.0, seed=seed)[0], WAN, STEPS)

    assert torch.equal(samples(1), samples(1))
    assert not torch.equal(samples(1), samples(2))


def test_partial_steps_are_closer_to_every_step_computed_than_held_ones(wan: Any) -> None:
    plain = sample(wan, WAN, STEPS)
    errors = [
        (sample(bind(wan, ratio=ratio, cross_attention=1.0)[0], WAN, STEPS) - plain).square().mean().item()
        for ratio in (0.1, 0.5, 0.99)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0, "self-attention still comes from the cache"


def test_the_papers_rule_decides_which_steps_are_partial(wan: Any) -> None:
    """paper-fast measures the residual of every full step; what it would skip is made in part."""
    from adacache.adacache_core.paper.measure import MotionRegularization
    from adacache.nodes.binding import bind as bind_settings
    from adacache.nodes.settings import Settings

    patched, log = bind(wan, "paper-fast", ratio=RATIO)
    sample(patched, WAN, STEPS)
    statistics = only_run(log)
    kinds = {record.kind for record in statistics.steps}
    assert kinds == {"computed", "partial"}
    for record in statistics.steps:
        assert (record.paper is not None) == (record.kind == "computed")
    assert statistics.settings["speedup"] is None
    assert statistics.settings["codebook"][0] == [pytest.approx(0.24), 2]
    moving, log = bind_settings(
        wan, Settings("paper-fast", moreg=MotionRegularization(), token_refresh=statistics_refresh(statistics))
    )
    sample(moving, WAN, STEPS)
    assert only_run(log).steps[1].paper.motion_score > 0


def statistics_refresh(statistics: Any) -> Any:
    """The settings of a run, read back from what it reports."""
    from adacache.adacache_core.tokens.choice import TokenRefresh

    return TokenRefresh(**json.loads(json.dumps(statistics.settings["token_refresh"])))


def test_a_plan_is_known_before_the_first_step_and_followed(wan: Any) -> None:
    from adacache.adacache_core import SPEEDUPS

    patched, log = bind(wan, "fast", ratio=RATIO)
    sample(patched, WAN, 20)
    statistics = only_run(log)
    planned = [reason is not None for reason in statistics.plan]
    assert sum(planned) == round(20 / SPEEDUPS["fast"])
    assert [record.kind == "computed" for record in statistics.steps] == planned
    assert {record.reason for record in statistics.steps} == {"first", "plan", "last", "partial"}
    assert statistics.settings["codebook"] is None
    assert statistics.settings["speedup"] == SPEEDUPS["fast"]


def test_moreg_beside_token_refresh_needs_a_rule_that_listens(pack: Any) -> None:
    from adacache.adacache_core import ConfigurationError
    from adacache.adacache_core.paper.measure import MotionRegularization
    from adacache.adacache_core.tokens.choice import TokenRefresh
    from adacache.nodes.settings import Settings

    with pytest.raises(ConfigurationError, match=r"a preset that decides while it samples: paper-fast.*; got fast"):
        Settings("fast", moreg=MotionRegularization(), token_refresh=TokenRefresh())


@pytest.mark.parametrize("name", ["CosmosT2IPredict2", "WAN21_CausalAR_T2V", "LTXAV"])
def test_other_families_are_refused_by_name(pack: Any, name: str) -> None:
    from adacache.adacache_core import UnsupportedModelError

    supported = r"Wan 2\.1 / 2\.2.*HunyuanVideo.*LTX-Video.*CogVideoX.*PixArt"
    with pytest.raises(UnsupportedModelError, match=rf"does not know in parts\. It works with: {supported}"):
        bind(load(name))


def test_the_node_makes_its_presets_and_custom_settings(pack: Any) -> None:
    from adacache.adacache_core.tokens.choice import OPEN_SORA, RANDOM, TokenRefresh
    from adacache.nodes.token_refresh import TokenRefreshSettings

    custom = {
        "influence": 0.1,
        "entropy": 0.2,
        "age": 0.3,
        "spread": 0.4,
        "random": 0.5,
        "cell": 4,
        "cross_attention": 0.6,
        "mlp": 0.7,
        "depth": -0.8,
    }

    def made(preset: str, ratio: float, **device: str) -> TokenRefresh:
        chosen = {"preset": preset, **(custom if preset == "custom" else {})}
        [settings] = TokenRefreshSettings.execute(preset=chosen, ratio=ratio, random_seed=9, **device).args
        return settings

    assert made("open-sora", 0.15) == replace(OPEN_SORA, seed=9)
    assert made("random", 0.3) == replace(RANDOM, ratio=0.3, seed=9)
    assert made("custom", 0.3) == TokenRefresh(ratio=0.3, seed=9, **custom)
    assert made("random", 0.3, device="system memory") == replace(RANDOM, ratio=0.3, seed=9, device="cpu")


def test_report_and_chart_show_partial_steps_as_such(wan: Any) -> None:
    from adacache.nodes import _pen
    from adacache.nodes.picture import draw_chart
    from adacache.nodes.report import make_report
    from PIL import ImageColor

    def shown(**settings: Any) -> tuple[dict[str, Any], float]:
        patched, log = bind(wan, **settings)
        sample(patched, WAN, STEPS)
        report = make_report([only_run(log)])
        color = torch.tensor(ImageColor.getrgb(_pen.PARTIAL)) / 255
        return report, float((draw_chart(report) - color).abs().amax(-1).lt(0.01).float().mean())

    report, colored = shown()
    assert (report["computed_steps"], report["partial_steps"], report["skipped_steps"]) == (COMPUTED, 4, 0)
    keys = [entry["key"] for entry in report["explanation"]]
    assert "refreshed" in keys and "each_partial" in keys
    assert "made partial steps of all 4 steps that would have been skipped" in report["summary"]
    assert "a partial one" in report["summary"]
    assert colored > 0.005
    complete, none = shown(ratio=1.0)
    assert (complete["computed_steps"], complete["partial_steps"], complete["skipped_steps"]) == (STEPS, 0, 0)
    assert none == 0


@pytest.mark.usefixtures("demo_weights")
def test_the_demo_workflow_runs_and_says_what_it_means(server: Any) -> None:
    info = server.object_info()
    prompt = to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), info)
    by_type = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert by_type["AdaCacheTokenRefresh"] == {
        "preset": "open-sora",
        "ratio": 0.15,
        "random_seed": 0,
        "device": "same device",
    }
    [refresh] = [name for name, node in prompt.items() if node["class_type"] == "AdaCacheTokenRefresh"]
    assert by_type["AdaCache"]["token_refresh"] == [refresh, 0]
    assert by_type["AdaCache"]["preset"] == "balanced"
    by_type["KSampler"]["steps"] = 12
    by_type["EmptyHunyuanLatentVideo"].update(width=64, height=64, length=17)
    run = server.run(prompt)
    [report] = next(output["adacache"] for output in run.outputs.values() if "adacache" in output)
    [settings] = [entry["settings"] for entry in report["runs"]]
    assert settings["token_refresh"]["entropy"] == 1.0
    assert report["computed_steps"] + report["partial_steps"] == 12
    assert report["partial_steps"] == 12 - round(12 / 2.0)
    assert report["skipped_steps"] == 0
    # Ten blocks keep three outputs of 5 x 4 x 4 tokens x 128 channels for two conditions, entropy a number per token.
    residuals, entropies = 2 * 80 * 128 * 4, 10 * 2 * 80 * 4
    assert report["cache_bytes"] == 10 * 3 * 80 * 128 * 4 * 2 + residuals + entropies
    assert any("video" in str(output) for output in run.outputs.values())


def test_a_compiled_model_makes_the_same_partial_steps(wan: Any) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    patched, log = bind(wan, ratio=RATIO)
    expected = sample(patched, WAN, STEPS)
    torch._dynamo.reset()
    compiled = patched.clone(disable_dynamic=True)
    set_torch_compile_wrapper(compiled, "eager", options={"guard_filter_fn": skip_torch_compile_dict})
    assert torch.allclose(sample(compiled, WAN, STEPS), expected, rtol=0, atol=1e-4 * expected.abs().max())
    torch._dynamo.reset()
    assert [run.statistics.count("partial") for run in log.of_prompt(None)] == [4, 4]
