"""Every model family, as a tiny model of ComfyUI's own classes: loaded by its loader, sampled by its sampler.

What works inside of a model: the paper's presets. Token Refresh is in ``test_token_refresh.py``.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, Family, found, load, sample
from tiny_wan import shadows
from torch import Tensor, nn

STEPS = 10
EVERY_STEP = ((1.0, 1),)
EVERY_THIRD = ((1e9, 3),)
THIRDS = [0, 1, 4, 7, 8, 9]  # a first distance is needed; the last two compute
COMPUTE_TWICE_THEN_SKIP = ((1e9, STEPS),)
pytestmark = pytest.mark.usefixtures("without_gradients")


@dataclass
class Tiny:
    """A tiny model, what it samples without a cache, and how often its blocks ran for that."""

    row: Family
    patcher: Any
    plain: Tensor
    ran: Counter[str]

    @property
    def model(self) -> nn.Module:
        return self.patcher.model.diffusion_model

    def bind(self, entries: Any = EVERY_THIRD, moreg: Any = None) -> tuple[Any, Callable[[], Any]]:
        """Patched as the AdaCache node does it, and a function that gives the last run's statistics."""
        from adacache.adacache_core.paper.codebook import Codebook
        from adacache.nodes.binding import bind
        from adacache.nodes.settings import Settings

        patched, log = bind(self.patcher, Settings("custom", Codebook(entries), moreg=moreg))
        return patched, lambda: log.of_prompt(None)[-1].statistics


@contextmanager
def counting(paths: Sequence[str]) -> Iterator[Counter[str]]:
    """Count the calls of methods, in their classes, so that a shadowed ``forward`` of an instance does not count."""
    counts: Counter[str] = Counter()

    def counted(path: str, owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts[path] += type(self) is owner
            return original(self, *args, **kwargs)

        return method

    with pytest.MonkeyPatch.context() as patch:
        for path in paths:
            owner, _, name = path.rpartition(".")
            patch.setattr(found(owner), name, counted(path, found(owner), found(path)))
        yield counts


def counted_paths(row: Family) -> list[str]:
    return [f"{block}.forward" for block in row.blocks] + list(row.side)


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest, pack: Any) -> Iterator[Tiny]:
    """A family's tiny model, sampled once without a cache."""
    row: Family = request.param
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for path, stand_in in row.stand_ins.items():
            owner, _, name = path.rpartition(".")
            patch.setattr(found(owner), name, stand_in)
        patcher = load(row.name)
        with counting(counted_paths(row)) as ran:
            plain = sample(patcher, row, STEPS)
        yield Tiny(row, patcher, plain, ran)


def families(*names: str) -> pytest.MarkDecorator:
    """Run a test with these families, or with all."""
    rows = [row for row in FAMILIES if not names or row.name in names]
    return pytest.mark.parametrize("tiny", rows, ids=[row.name for row in rows], indirect=True)


every_family = families()


def held(thing: Any) -> int:
    """Bytes of all memory that tensors reachable from an object keep, a view's whole memory included."""
    memory: dict[int, int] = {}
    seen: set[int] = set()
    to_see = [thing]
    while to_see:
        one = to_see.pop()
        if isinstance(one, torch.Tensor):
            memory[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType):
            seen.add(id(one))
            to_see += gc.get_referents(one)
    return sum(memory.values())


@every_family
def test_family_skips_by_the_rule_and_is_the_uncached_model_where_it_does_not(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step computed: the same bits. Every third: no block and no side stack runs on a skip; bytes; MoReg."""
    from adacache.adacache_core.paper import measure
    from adacache.adacache_core.paper.measure import MotionRegularization
    from adacache.adacache_core.paper.residual import ResidualCache

    row = tiny.row
    assert tiny.plain.isfinite().all()
    assert all(tiny.ran[path] for path in counted_paths(row)), f"some never run: {tiny.ran}"
    every, statistics = tiny.bind(EVERY_STEP)
    assert torch.equal(sample(every, row, STEPS), tiny.plain)
    assert statistics().count("computed") == STEPS * row.passes

    moved: list[tuple[Tensor, int]] = []
    residuals: list[Tensor] = []
    most = [0]
    motion_terms, store = measure.motion_terms, ResidualCache.store

    def seeing_motion_terms(video: Tensor, frames: int, strides: tuple[int, ...]) -> Tensor:
        moved.append((video, frames))
        return motion_terms(video, frames, strides)

    def seeing_store(cache: Any, key: Any, residual: tuple[Tensor, ...]) -> None:
        residuals.append(residual[0])
        store(cache, key, residual)
        most.append(held(cache))

    monkeypatch.setattr(measure, "motion_terms", seeing_motion_terms)
    monkeypatch.setattr(ResidualCache, "store", seeing_store)
    patched, statistics = tiny.bind(moreg=MotionRegularization() if row.grid[0] > 1 else None)
    with counting(counted_paths(row)) as ran:
        samples = sample(patched, row, STEPS)
    run = statistics()
    assert [record.step for record in run.steps if record.kind == "computed"] == THIRDS * row.passes
    assert len(run.steps) == STEPS * row.passes
    computing, calling = len(THIRDS) * row.passes + row.clean_passes, STEPS * row.passes + row.clean_passes
    assert ran == {path: count * computing // calling for path, count in tiny.ran.items()}
    assert samples.isfinite().all()
    assert not torch.equal(samples, tiny.plain), "nothing was replayed"
    assert shadows(tiny.model) == []
    assert run.cache_bytes == max(most) > 0
    if row.grid[0] > 1:
        tokens = math.prod(row.grid)
        (video, frames), residual = moved[0], residuals[0]
        assert frames == row.grid[0]
        assert residual.shape[1] == row.before + tokens + row.after
        assert torch.equal(video, residual[:, row.before : row.before + tokens])
        assert run.steps[1].paper.motion_score > 0


class _Seen(Exception):
    """Ends a sampling run whose one model call was looked at."""


@every_family
def test_family_skip_on_unchanged_input_equals_the_compute(tiny: Tiny) -> None:
    """One real model call in the middle of a run, made three times: computed twice and then skipped."""
    from adacache.adacache_core import RunStatistics, Steps
    from adacache.adacache_core.inside import attach
    from adacache.adacache_core.paper.codebook import Codebook
    from adacache.adacache_core.paper.rule import CodebookRule
    from adacache.adacache_core.paper.run import ResidualRun
    from adacache.nodes.families import layout_of
    from adacache.nodes.in_model import KEY
    from comfy.patcher_extension import WrappersMP

    layout = layout_of(tiny.model)
    patched, _ = tiny.bind()
    [apply_model] = patched.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    sigmas = [0.95 * (1 - step / STEPS) for step in range(STEPS + 1)]
    statistics = RunStatistics({}, STEPS)
    rule = Codebook(COMPUTE_TWICE_THEN_SKIP)
    steps = Steps(tuple(sigmas), lambda sigma: (1 - sigma, sigma))
    run = ResidualRun(lambda: CodebookRule(rule, STEPS), steps, statistics)
    outputs: list[Tensor] = []
    ran: list[int] = []
    written: list[list[int]] = []

    def thrice(executor: Any, *args: Any, **kwargs: Any) -> Any:
        # Not earlier: CogVideoX starts with so much noise that its blocks hardly show.
        if args[5]["sigmas"][0] > args[5]["sample_sigmas"][STEPS // 2]:
            return executor(*args, **kwargs)
        outputs.clear()
        key_value_caches = args[5].get("ar_state", {}).get("kv_caches", ())
        start = [cache["end"] for cache in key_value_caches]
        levels, here = args[5]["sample_sigmas"], args[5]["sample_sigmas"] == args[5]["sigmas"][0]
        for sigma in torch.tensor(sigmas[:3]).split(1):
            # The noise level after this one stays what it is: a mean flow model looks it up.
            options = {**args[5], KEY: run, "sigmas": sigma, "sample_sigmas": torch.where(here, sigma, levels)}
            with counting(counted_paths(tiny.row)) as counts:
                apply_model(executor, args[0].clone(), *args[1:5], options, **kwargs)
            ran.append(counts.total())
            written.append([cache["end"] for cache in key_value_caches])
            for cache, end in zip(key_value_caches, start, strict=True):
                cache["end"] = end
        with attach.skipping(tiny.model, layout, lambda stream, before: before):
            executor(args[0].clone(), *args[1:], **kwargs)
        raise _Seen

    def see(module: nn.Module, args: Any, output: Tensor | list[Tensor]) -> None:
        outputs.append(torch.cat([part.flatten() for part in ([output] if torch.is_tensor(output) else output)]))

    patched = tiny.patcher.clone()
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", thrice)
    hook = tiny.model.register_forward_hook(see)
    with pytest.raises(_Seen):
        sample(patched, tiny.row, STEPS)
    hook.remove()
    first, computed, skipped, without_blocks = outputs
    assert ran[0] == ran[1] > 0 == ran[2]
    assert written[0] == written[1] == written[2], "a key/value cache advances otherwise on a skip"
    assert torch.equal(first, computed)
    scale = computed.abs().max()
    assert (skipped - computed).abs().max() <= 1e-5 * scale
    assert (without_blocks - computed).abs().max() > 1e-2 * scale, "this test must be able to notice the residual"


@families("WAN21_T2V", "HunyuanVideo", "LTXAV", "WAN21_CausalAR_T2V")
@pytest.mark.parametrize("where", ["block", "replay"])
def test_family_leaves_no_shadow_after_an_exception(tiny: Tiny, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from adacache.adacache_core.paper import residual

    owner, name = (found(tiny.row.blocks[-1]), "forward") if where == "block" else (residual, "_replayed")
    original, seen = getattr(owner, name), []

    def fail(*args: Any, **kwargs: Any) -> Any:
        seen.append(len(shadows(tiny.model)))
        if seen[-1] > 0:  # not in a call that is none of AdaCache's: the first frames of an autoregressive video
            raise RuntimeError("boom")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, fail)
    patched, _ = tiny.bind()
    with pytest.raises(RuntimeError, match="boom"):
        sample(patched, tiny.row, STEPS)
    assert seen[-1] > 0
    assert shadows(tiny.model) == []


def first_residuals(tiny: Tiny, row: Family, count: int, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """The residuals that the first model calls of a run leave, one per condition."""
    from adacache.adacache_core.paper.residual import ResidualCache

    stored: list[Tensor] = []

    def store(self: Any, key: Any, residual: tuple[Tensor, ...]) -> None:
        stored.append(residual[-1])
        if len(stored) == count:
            raise _Seen

    patch.setattr(ResidualCache, "store", store)
    with pytest.raises(_Seen):
        sample(tiny.bind()[0], row, STEPS)
    return stored


@families("WAN21_T2V", "HunyuanVideo", "LTXAV", "CosmosT2V", "MiniMaxH3")
def test_family_conditions_of_a_batch_are_told_apart(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive prompt's residual is the same whether the negative prompt shares its model call or is left out."""
    [alone] = first_residuals(tiny, replace(tiny.row, cfg=1.0), 1, monkeypatch)
    pair = first_residuals(tiny, tiny.row, 2, monkeypatch)
    same = [torch.allclose(residual, alone, rtol=0, atol=1e-2 * alone.abs().max()) for residual in pair]
    assert sorted(same) == [False, True]


@families("WAN21_T2V", "HunyuanVideo", "LTXV", "LTXAV", "CosmosT2IPredict2", "CosmosT2V", "CogVideoX_T2V", "Kandinsky5")
def test_family_batch_of_two_videos(tiny: Tiny) -> None:
    row = replace(tiny.row, latents=tuple((2, *shape[1:]) for shape in tiny.row.latents))
    plain = sample(tiny.patcher, row, STEPS)
    patched, _ = tiny.bind(EVERY_STEP)
    assert torch.equal(sample(patched, row, STEPS), plain)
    patched, statistics = tiny.bind()
    samples = sample(patched, row, STEPS)
    assert statistics().count("computed") == len(THIRDS)
    assert 0 < (samples - plain).abs().max() < plain.std(), "a cached video strayed from the one it stands for"


@families("WAN21_T2V", "HunyuanVideo", "CosmosT2IPredict2", "Kandinsky5", "PixArtAlpha", "PixArtSigma")
def test_family_makes_images_but_moreg_needs_a_video(tiny: Tiny) -> None:
    from adacache.adacache_core import ConfigurationError
    from adacache.adacache_core.paper.measure import MotionRegularization

    conditioning = {k: v for k, v in tiny.row.conditioning().items() if k == "pooled_output"}
    [shape] = tiny.row.latents
    image = (*shape[:2], 1, *shape[3:]) if len(shape) == 5 else shape
    row = replace(tiny.row, latents=(image,), conditioning=lambda: conditioning)
    plain = sample(tiny.patcher, row, STEPS)
    patched, _ = tiny.bind(EVERY_STEP)
    assert torch.equal(sample(patched, row, STEPS), plain)
    patched, statistics = tiny.bind()
    sample(patched, row, STEPS)
    assert statistics().count("computed") == len(THIRDS)
    with pytest.raises(ConfigurationError, match="the video has 1"):
        sample(tiny.bind(moreg=MotionRegularization())[0], row, STEPS)


@families("LTXAV", "MiniMaxH3")
def test_family_prefetches_block_weights_only_where_blocks_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy import model_prefetch
    from comfy.patcher_extension import WrappersMP

    def dynamic(executor: Any, *args: Any, **kwargs: Any) -> Any:
        for options in args:
            if isinstance(options, dict) and "prefetch_dynamic_vbars" in options:
                options["prefetch_dynamic_vbars"] = True  # as with dynamic offloading, which a CPU has not
        return executor(*args, **kwargs)

    def queue(blocks: Any, device: Any, options: dict[str, Any]) -> None:
        asked.append(options["prefetch_dynamic_vbars"])

    asked: list[bool] = []
    monkeypatch.setattr(model_prefetch, "make_prefetch_queue", queue)
    offloaded = tiny.patcher.clone()
    offloaded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", dynamic)
    patched, statistics = replace(tiny, patcher=offloaded).bind()
    sample(patched, tiny.row, STEPS)
    calls = len(asked) // STEPS
    assert asked == [record.kind == "computed" for record in statistics().steps for _ in range(calls)]
    assert asked.count(True) == len(THIRDS) * calls > 0


@families("WAN21_T2V", "WAN21_Vace", "WAN22_Animate")
def test_family_patches_between_blocks_do_not_run_on_a_skip(tiny: Tiny) -> None:
    """As Uni3C, which is a second transformer that runs there."""
    calls: list[int] = []

    def uni3c(arguments: dict[str, Any]) -> dict[str, Any]:
        calls.append(arguments["block_index"])
        return {"img": arguments["img"] + 1}

    controlled = tiny.patcher.clone()
    controlled.set_model_patch(uni3c, "double_block")
    plain = sample(controlled, tiny.row, STEPS)
    plain_calls, calls[:] = len(calls), []
    every, _ = replace(tiny, patcher=controlled).bind(EVERY_STEP)
    assert torch.equal(sample(every, tiny.row, STEPS), plain)
    assert len(calls) == plain_calls
    assert not torch.equal(plain, tiny.plain)
    calls.clear()
    balanced, _ = replace(tiny, patcher=controlled).bind()
    sample(balanced, tiny.row, STEPS)
    assert len(calls) == plain_calls * len(THIRDS) // STEPS


@families("HunyuanVideo")
def test_family_replaced_first_block_computes_and_records_nothing(tiny: Tiny) -> None:
    bypassed = tiny.patcher.clone()
    bypassed.set_model_patch_replace(lambda arguments, _: arguments, "dit", "double_block", 0)
    plain = sample(bypassed, tiny.row, STEPS)
    patched, statistics = replace(tiny, patcher=bypassed).bind()
    assert torch.equal(sample(patched, tiny.row, STEPS), plain)
    assert statistics().count("computed") == STEPS
    assert statistics().cache_bytes == 0


def test_family_without_every_token_refuses_moreg(pack: Any) -> None:
    from adacache.adacache_core import ConfigurationError
    from adacache.nodes.families import FAMILIES as LAYOUTS

    layout = next(row for row in LAYOUTS if row.family == "LTX-Video")
    kept, frames = layout.video_tokens(torch.zeros(1, 60, 2), (1, 128, 5, 4, 3))
    assert (kept.shape[1], frames) == (60, 5)
    with pytest.raises(ConfigurationError, match="LTX-Video keeps 59 tokens of a video of 5 x 4 x 3"):
        layout.video_tokens(torch.zeros(1, 59, 2), (1, 128, 5, 4, 3))


UNET = "comfy.ldm.modules.diffusionmodules.openaimodel:UNetModel"
SEEDVR2 = "comfy.ldm.seedvr.model:NaDiT"


@pytest.mark.parametrize("path", [UNET, SEEDVR2])
def test_other_models_are_refused_with_the_families_that_are_not_and_what_works_on_any(pack: Any, path: str) -> None:
    from adacache.adacache_core import UnsupportedModelError
    from adacache.nodes.families import FAMILIES as LAYOUTS
    from adacache.nodes.families import layout_of

    model = nn.Module.__new__(found(path))  # its class is enough
    nn.Module.__init__(model)
    with pytest.raises(
        UnsupportedModelError, match=rf"{path.replace(':', '.')}, whose blocks are not known"
    ) as refused:
        layout_of(model)
    assert all(row.family in str(refused.value) for row in LAYOUTS)
    assert "Choose balanced, quality, fast or target without Token Refresh: they work on any model" in str(
        refused.value
    )


def test_the_page_of_models_has_the_table_of_these_families() -> None:
    from families_table import PAGE, parts, table

    _, made, _ = parts(PAGE.read_text(encoding="utf-8"))
    assert made.strip() == table(), "docs/models.md has an older table: run python -m tests.families_table"
