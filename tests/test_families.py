"""Every model family, as a tiny model of ComfyUI's own classes: loaded by its loader, sampled by its sampler."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, Family, found, load, sample
from torch import Tensor, nn

STEPS = 10
COMPUTED = 5  # that "balanced" computes of ten, 10 / 2.2
ALL = "custom"
EVERY_STEP = ((1.0, 1),)
COMPUTE_TWICE_THEN_SKIP = ((1e9, STEPS),)


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

    def bind(self, preset: str, entries: Any = EVERY_STEP, motion: Any = None) -> tuple[Any, Callable[[], Any]]:
        """Patched as the AdaCache node does it, and a function that gives the last run's statistics."""
        from adacache.adacache_core import Codebook
        from adacache.nodes._binding import CacheSettings, bind

        codebook = Codebook(entries) if preset == ALL else None
        patched, log = bind(self.patcher, CacheSettings(preset, codebook, "auto", 0.0, 1.0, motion))
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


def shadows(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


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


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


every_family = pytest.mark.parametrize("tiny", FAMILIES, ids=[row.name for row in FAMILIES], indirect=True)


@every_family
def test_family_all_compute_is_bit_identical(tiny: Tiny) -> None:
    assert tiny.plain.isfinite().all()
    assert all(tiny.ran[path] for path in counted_paths(tiny.row)), f"some never run: {tiny.ran}"
    patched, statistics = tiny.bind(ALL)
    assert torch.equal(sample(patched, tiny.row, STEPS), tiny.plain)
    assert statistics().computed_steps == STEPS
    assert statistics().cache_bytes > 0


@every_family
def test_family_balanced_skips_as_planned_and_no_side_stack_runs_on_a_skip(tiny: Tiny) -> None:
    patched, statistics = tiny.bind("balanced")
    with counting(counted_paths(tiny.row)) as ran:
        samples = sample(patched, tiny.row, STEPS)
    assert statistics().computed_steps == COMPUTED
    assert ran == {path: count * COMPUTED // STEPS for path, count in tiny.ran.items()}
    assert samples.isfinite().all()
    assert not torch.equal(samples, tiny.plain), "nothing was replayed"
    assert shadows(tiny.model) == []


class _Seen(Exception):
    """Ends a sampling run whose one model call was looked at."""


@every_family
def test_family_skip_on_unchanged_input_equals_the_compute(tiny: Tiny) -> None:
    """One real model call, made three times: computed twice and then skipped."""
    from adacache.adacache_core import HOLD, CacheRun, Codebook, CodebookSchedule, RunStatistics, attach, layout_of
    from adacache.nodes._binding import KEY, CacheSettings, StatisticsLog, _Binding
    from comfy.patcher_extension import WrappersMP

    layout = layout_of(tiny.model)
    settings = CacheSettings("balanced", None, "hold", 0.0, 1.0, None)
    binding = _Binding(settings, layout, StatisticsLog(), None)
    sigmas = [1 - step / STEPS for step in range(STEPS + 1)]
    statistics = RunStatistics({}, STEPS)
    run = CacheRun(lambda: CodebookSchedule(Codebook(COMPUTE_TWICE_THEN_SKIP), STEPS), HOLD, sigmas, statistics)
    outputs: list[Tensor] = []
    ran: list[int] = []

    def thrice(executor: Any, *args: Any, **kwargs: Any) -> Any:
        for step in range(3):
            options = {**args[5], KEY: run, "sigmas": torch.tensor([sigmas[step]])}
            with counting(counted_paths(tiny.row)) as counts:
                binding.apply_model(executor, args[0].clone(), *args[1:5], options, **kwargs)
            ran.append(counts.total())
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
    assert torch.equal(first, computed)
    scale = computed.abs().max()
    assert (skipped - computed).abs().max() <= 1e-5 * scale
    assert (without_blocks - computed).abs().max() > 1e-2 * scale, "this test must be able to notice the residual"


@every_family
def test_family_moreg_sees_the_video_tokens_and_no_others(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from adacache.adacache_core import MotionRegularization, ResidualCache, run

    moved: list[tuple[Tensor, int]] = []
    residuals: list[Tensor] = []
    motion_terms, store = run.motion_terms, ResidualCache.store

    def seeing_motion_terms(video: Tensor, frames: int, strides: tuple[int, ...]) -> Tensor:
        moved.append((video, frames))
        return motion_terms(video, frames, strides)

    def seeing_store(self: Any, key: Any, computed: Any) -> None:
        residuals.append(computed.residual[0])
        store(self, key, computed)

    monkeypatch.setattr(run, "motion_terms", seeing_motion_terms)
    monkeypatch.setattr(ResidualCache, "store", seeing_store)
    patched, statistics = tiny.bind("balanced", motion=MotionRegularization())
    sample(patched, tiny.row, STEPS)
    tokens = math.prod(tiny.row.grid)
    (video, frames), residual = moved[0], residuals[0]
    assert frames == tiny.row.grid[0]
    assert residual.shape[1] == tiny.row.before + tokens + tiny.row.after
    assert torch.equal(video, residual[:, tiny.row.before : tiny.row.before + tokens])
    assert statistics().steps[1].motion_score > 0


@every_family
@pytest.mark.parametrize("where", ["block", "replay"])
def test_family_leaves_no_shadow_after_an_exception(tiny: Tiny, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from adacache.adacache_core import CacheRun

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(shadows(tiny.model)))
        raise RuntimeError("boom")

    seen: list[int] = []
    if where == "block":
        monkeypatch.setattr(found(tiny.row.blocks[-1]), "forward", fail)
    else:
        monkeypatch.setattr(CacheRun, "_replayed", fail)
    patched, _ = tiny.bind("balanced")
    with pytest.raises(RuntimeError, match="boom"):
        sample(patched, tiny.row, STEPS)
    assert seen[0] > 0, "nothing was shadowed when it happened"
    assert shadows(tiny.model) == []
