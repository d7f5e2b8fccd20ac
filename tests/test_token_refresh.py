"""Token refresh on tiny models of ComfyUI's own classes, loaded by its loader and sampled by its sampler."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, Family, load, sample
from tiny_wan import shadows
from torch import nn

STEPS = 10
COMPUTED = 5  # that "balanced" computes of ten
RATIO = 0.25
SUPPORTED = (
    "WAN21_T2V",
    "WAN21_T2V-references",
    "WAN21_I2V",
    "WAN21_Vace",
    "WAN22_S2V",
    "HunyuanVideo",
    "HunyuanVideo-ControlNet",
    "HunyuanVideo15",
    "CogVideoX_T2V",
    "CogVideoX_I2V",
    "LTXV",
    "LTXV-keyframes",
)
EVERY_SCORE = {"influence": 1.0, "entropy": 1.0, "age": 0.25, "spread": 0.4, "random": 0.1}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest, pack: Any) -> tuple[Family, Any]:
    row = next(row for row in FAMILIES if row.name == request.param)
    with torch.no_grad():
        return row, load(row.name)


families = pytest.mark.parametrize("tiny", SUPPORTED, indirect=True)


def bind(patcher: Any, preset: str = "balanced", **refresh: Any) -> tuple[Any, Any]:
    """Patched as the AdaCache node does it, with a Token Refresh node plugged in."""
    from adacache.adacache_core import TokenRefresh
    from adacache.nodes._binding import CacheSettings
    from adacache.nodes._binding import bind as bind_settings

    choices = refresh.pop("choices", {})
    settings = CacheSettings(preset, None, "auto", 0.0, 1.0, None, token_refresh=TokenRefresh(**refresh), **choices)
    return bind_settings(patcher, settings)


def only_run(log: Any) -> Any:
    [run] = log.of_prompt(None)
    return run.statistics


@contextmanager
def rows_of(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Tokens that went into the parts that a layout names, per call, by role: what really ran, not what was asked."""
    from adacache.adacache_core import layout_of

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
        for path in (*parts.replayed, *parts.silent):
            count("attention", attrgetter(path)(block))
        for path in parts.cross_attention:
            count("cross_attention", attrgetter(path)(block))
        for first, _ in parts.mlp:
            count("mlp", attrgetter(first)(block))
    with pytest.MonkeyPatch.context() as patch:
        for owner, forward in patches.items():
            patch.setattr(owner, "forward", forward)
        yield counts


@families
def test_family_ratio_one_is_bit_identical(tiny: tuple[Family, Any]) -> None:
    row, patcher = tiny
    plain = sample(patcher, row, STEPS)
    patched, log = bind(patcher, ratio=1.0)
    assert torch.equal(sample(patched, row, STEPS), plain)
    assert only_run(log).computed_steps == STEPS
    assert only_run(log).partial_steps == 0


@families
def test_family_partial_step_on_an_unchanged_input_is_bit_identical(tiny: tuple[Family, Any]) -> None:
    """One real model call, made twice: in full, and as a partial step that chooses every token."""
    from adacache.adacache_core import TokenRefresh, layout_of
    from adacache.adacache_core.sublayers import TokenCall, refreshing
    from adacache.adacache_core.tokens import TokenCache
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
            call = TokenCall(cache, ["a", "b"][: args[0].shape[0]], step, lambda first: lambda count: None, step > 0)
            with refreshing(model, layout, call):
                given = control and {name: list(parts) for name, parts in control.items()}
                outputs.append(executor(args[0].clone(), *args[1:4], given, *args[5:], **kwargs))
        same.append(torch.equal(*outputs))
        return outputs[0]

    patched = patcher.clone()
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", twice)
    sample(patched, row, 2)
    assert same == [True] * 2
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
    assert (run.computed_steps, run.partial_steps) == (COMPUTED, STEPS - COMPUTED)
    factors = {"attention": 0.0, "cross_attention": RATIO, "mlp": 2 * RATIO}
    for role, rows in full.items():
        of_a_step = rows[: len(rows) // STEPS]
        expected = [
            round(count * (1 if record.computed else factors[role]))
            for record in run.steps
            for count in of_a_step
            if record.computed or factors[role]
        ]
        assert ran[role] == expected, role
    assert samples.isfinite().all()
    assert not torch.equal(samples, plain)
    assert shadows(model) == []


@families
def test_family_every_score_and_the_bytes_that_were_said(tiny: tuple[Family, Any], caplog: Any) -> None:
    from adacache.adacache_core import bytes_per_token, layout_of

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
    # Two residuals of each condition, and text, reference tokens and scores come on top.
    assert said < held
