"""Output storage and cache device, on tiny models in ComfyUI's own samplers."""

from __future__ import annotations

import gc
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from test_families import COMPUTED, STEPS, Tiny, counted_paths, counting, every_family, families, sample, shadows, tiny  # noqa: F401

DIFFERENCE = 0.2  # of the outputs' scale; the hidden state's replay stays far below, and so should the output's


def bound(tiny: Tiny, preset: str = "balanced", motion: Any = None, **choices: str) -> Any:  # noqa: F811
    from adacache.adacache_core import Codebook
    from adacache.nodes._binding import CacheSettings, bind

    codebook = Codebook(((1.0, 1),)) if preset == "custom" else None
    patched, log = bind(tiny.patcher, CacheSettings(preset, codebook, "auto", 0.0, 1.0, motion, **choices))
    return patched, lambda: log.of_prompt(None)[-1].statistics


@every_family
def test_family_with_output_storage(tiny: Tiny) -> None:  # noqa: F811
    """A skip calls nothing of the model, and what is kept is the output, to the byte."""
    everything, _ = bound(tiny, "custom", storage="output")
    assert torch.equal(sample(everything, tiny.row, STEPS), tiny.plain)
    outputs: list[int] = []

    def measure(module: Any, args: Any, output: Any) -> None:
        parts = [output] if torch.is_tensor(output) else output
        outputs.append(sum(part.nbytes for part in parts))

    patched, statistics = bound(tiny, storage="output")
    hook = tiny.model.register_forward_hook(measure)
    with counting(counted_paths(tiny.row)) as ran:
        samples = sample(patched, tiny.row, STEPS)
    hook.remove()
    assert samples.isfinite().all()
    assert not torch.equal(samples, tiny.plain), "nothing was replayed"
    assert shadows(tiny.model) == []
    passes, clean = tiny.row.passes, tiny.row.clean_passes
    computing, calling = COMPUTED * passes + clean, STEPS * passes + clean
    assert ran == {path: count * computing // calling for path, count in tiny.ran.items()}
    if any("CausalWan" in path for path in tiny.row.blocks):
        assert statistics().storage == "hidden", "skips have to go through the blocks' key/value caches"
    else:
        assert statistics().storage == "output"
        # Two computes of every condition; the hook saw every call of every step.
        assert statistics().cache_bytes == 2 * sum(outputs) // len(statistics().steps)


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
@pytest.mark.parametrize("device", ["same device", "system memory"])
@pytest.mark.parametrize("storage", ["auto", "hidden", "output"])
def test_family_holds_what_it_reports_to_the_byte(
    tiny: Tiny,  # noqa: F811
    storage: str,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adacache.adacache_core import ResidualCache

    most, store = [0], ResidualCache.store

    def measuring_store(cache: Any, *args: Any) -> None:
        store(cache, *args)
        most.append(held(cache))

    monkeypatch.setattr(ResidualCache, "store", measuring_store)
    patched, statistics = bound(tiny, storage=storage, cache_device=device)
    sample(patched, tiny.row, 8)
    assert statistics().cache_bytes == max(most) > 0


@families("WAN21_T2V")
def test_what_is_no_longer_asked_for_is_not_held(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Both prompts are computed in one call; when guidance ends, the negative one's part of it must not stay."""
    from adacache.adacache_core import CacheRun
    from comfy_extras.nodes_custom_sampler import CFGOverride

    at_the_end, finish = [], CacheRun.finish

    def measuring_finish(run: Any) -> Any:
        statistics = finish(run)
        at_the_end.append(held(run._cache))
        return statistics

    monkeypatch.setattr(CacheRun, "finish", measuring_finish)
    guided = CFGOverride.execute(tiny.patcher, 1.0, 0.85, 1.0).args[0]  # not at the last of 8 steps
    patched, statistics = bound(replace(tiny, patcher=guided), "custom")
    sample(patched, tiny.row, 8)
    assert [record.calls for record in statistics().steps] == [2] * 7 + [1]
    assert at_the_end == [statistics().cache_bytes // 2]


@families("WAN21_T2V")
def test_output_storage_keeps_to_the_video_and_measures_its_motion(tiny: Tiny) -> None:  # noqa: F811
    from adacache.adacache_core import MotionRegularization

    hidden, _ = bound(tiny, storage="hidden")
    patched, statistics = bound(tiny, "paper-slow", MotionRegularization(scale=1.0, exponent=1.0), storage="output")
    sample(patched, tiny.row, STEPS)
    scores = [record.motion_score for record in statistics().steps if record.motion_score is not None]
    assert scores
    assert all(0 < score <= 1 for score in scores)
    output, _ = bound(tiny, storage="output")
    scale = tiny.plain.abs().mean()
    errors = [(sample(model, tiny.row, STEPS) - tiny.plain).abs().mean() / scale for model in (hidden, output)]
    assert 0 < errors[0] < errors[1] < DIFFERENCE


@families("WAN21_T2V")
def test_output_storage_takes_over_where_memory_is_short(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from adacache.nodes import _binding

    plenty, statistics = bound(tiny)
    sample(plenty, tiny.row, STEPS)
    held = statistics().cache_bytes
    assert statistics().storage == "hidden"
    monkeypatch.setattr(_binding, "get_free_memory", lambda device: 2 * held - 1)  # a byte short
    short, statistics = bound(tiny)
    sample(short, tiny.row, STEPS)
    assert statistics().storage == "output"
    assert statistics().cache_bytes < held
    chosen, statistics = bound(tiny, storage="hidden")
    sample(chosen, tiny.row, STEPS)
    assert statistics().storage == "hidden", "a choice is a choice"


@families("WAN21_T2V", "LTXAV")
@pytest.mark.parametrize("storage", ["hidden", "output"])
def test_system_memory_gives_the_same_bits(tiny: Tiny, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from adacache.adacache_core import ResidualCache

    devices = []
    init = ResidualCache.__init__

    def seeing(self: Any, depth: int, device: torch.device | None = None) -> None:
        devices.append(device)
        init(self, depth, device)

    monkeypatch.setattr(ResidualCache, "__init__", seeing)
    samples = [
        sample(bound(tiny, storage=storage, cache_device=device)[0], tiny.row, STEPS)
        for device in ("same device", "system memory")
    ]
    assert torch.equal(*samples)
    assert devices == [None, torch.device("cpu")]


def test_storage_and_device_are_checked(pack: Any) -> None:
    from adacache.adacache_core import ConfigurationError
    from adacache.nodes._binding import CacheSettings

    with pytest.raises(ConfigurationError, match='storage must be "auto", "hidden" or "output", got \'disk\''):
        CacheSettings("fast", None, "auto", 0.0, 1.0, None, storage="disk")
    with pytest.raises(ConfigurationError, match='cache_device must be "same device" or "system memory", got'):
        CacheSettings("fast", None, "auto", 0.0, 1.0, None, cache_device="cloud")
