"""The paper's rule inside of a tiny Wan, in ComfyUI's own samplers and nodes: what is told apart, postponed, allocated.

Every third step computes here, whatever the video: steps 0 and 1, 4, 7, and the last two of ten.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from test_families import held
from tiny_wan import BLOCKS, WIDTH, counting, only_run, run_guider, runs, sample, shadows, text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STEPS = 10
COMPUTED = [0, 1, 4, 7, 8, 9]
pytestmark = pytest.mark.usefixtures("without_gradients")


def bind(model: Any, rate: int = 3, **choices: Any) -> tuple[Any, Any]:
    """Patched as the AdaCache node does it, to compute every so manieth step."""
    from adacache.adacache_core.paper.codebook import Codebook
    from adacache.nodes.binding import bind as bind_settings
    from adacache.nodes.settings import Settings

    return bind_settings(model, Settings("custom", Codebook(((1e9, rate),)), **choices))


def computed(run: Any) -> list[int]:
    return [record.step for record in run.steps if record.kind == "computed"]


def residual_bytes(conditions: int, frames: int = 5) -> int:
    """Of a latent 8 x 8: one tensor a condition, a token per 2 x 2 of latent."""
    return conditions * frames * 16 * WIDTH * 4


@contextmanager
def watching() -> Iterator[dict[Any, tuple[Any, ...]]]:
    """Check at every cached model call that a key stands for one condition only: never another one's residual.

    Gives, per key, what the condition was: its prompt and image, frames of the context window, latent shape, replaced
    blocks, and the strengths of the hooks that the weights were patched with.
    """
    from adacache.adacache_core.paper.run import ResidualRun
    from comfy.model_base import BaseModel

    seen: dict[Any, tuple[Any, ...]] = {}
    current = threading.local()
    apply_model, call = BaseModel.apply_model, ResidualRun.call

    def watched_apply_model(self: Any, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
        options = kwargs["transformer_options"]
        count = len(options["uuids"])
        window = options.get("context_window")
        hooks = self.current_patcher.current_hooks
        shared = (
            None if window is None else tuple(window.index_list),
            (x.shape[0] // count, *x.shape[1:]),
            tuple(sorted(options.get("patches_replace", {}).get("dit", {}))),
            () if hooks is None else tuple(hook.strength for hook in hooks.hooks),
        )
        prompts = [float(prompt.double().sum()) for prompt in kwargs["c_crossattn"].chunk(count)]
        current.conditions = [(prompt, *shared) for prompt in prompts]
        return apply_model(self, x, t, **kwargs)

    def watched_call(self: Any, model: Any, layout: Any, sigma: float, keys: Any, *args: Any, **kwargs: Any) -> Any:
        for key, condition in zip(keys, current.conditions, strict=True):
            assert seen.setdefault(key, condition) == condition, f"{key} stands for two conditions"
        assert len(set(keys)) == len(keys)
        return call(self, model, layout, sigma, keys, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "apply_model", watched_apply_model)
        patch.setattr(ResidualRun, "call", watched_call)
        yield seen


# --- Steps and calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "calls"), [("euler", 10), ("heun", 19), ("heunpp2", 27), ("seeds_3", 28)])
def test_steps_are_skipped_whole_whatever_the_sampler_calls(wan, sampler, calls):
    patched, log = bind(wan)
    with counting() as ran:
        samples = sample(patched, sampler=sampler)
    run = only_run(log)
    assert ran.conditions == [2] * calls
    assert [record.step for record in run.steps] == list(range(STEPS))
    assert computed(run) == COMPUTED
    assert sum(record.calls for record in run.steps) == 2 * calls
    assert ran.blocks * 2 == BLOCKS * sum(record.computed_calls for record in run.steps)
    assert samples.isfinite().all()
    assert run.finished


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_sampler_with_steps_of_its_own(wan):
    """dpm_adaptive chooses its noise levels itself, three calls each, up to a hundred steps that nobody listed."""
    every, _ = bind(wan, 1)
    assert torch.equal(sample(every, sampler="dpm_adaptive"), sample(wan, sampler="dpm_adaptive"))
    patched, log = bind(wan)
    with counting() as ran, watching():
        assert sample(patched, sampler="dpm_adaptive").isfinite().all()
    run = only_run(log)
    assert 2 < run.count("computed") < len(run.steps)
    assert ran.blocks * 2 == BLOCKS * sum(record.computed_calls for record in run.steps) < BLOCKS * 2 * ran.calls


def test_a_run_without_a_step(wan):
    """SplitSigmas at step 0 leaves one noise level, and nothing to do."""
    from comfy_extras.nodes_custom_sampler import BasicGuider

    sigmas = torch.tensor([0.9])
    expected = run_guider(BasicGuider.execute(wan, text(7)).args[0], sigmas)
    patched, log = bind(wan)
    assert torch.equal(run_guider(BasicGuider.execute(patched, text(7)).args[0], sigmas), expected)
    assert runs(log) == []


def test_settings_of_the_run_are_told(wan):
    from adacache.adacache_core.paper.measure import MotionRegularization
    from adacache.nodes.binding import bind as bind_settings
    from adacache.nodes.settings import Settings

    patched, log = bind_settings(wan, Settings("paper-slow", moreg=MotionRegularization()))
    sample(patched, steps=30)
    settings = only_run(log).settings
    assert settings["preset"] == "paper-slow"
    assert settings["codebook"] == [[0.08, 3], [0.16, 2], [0.24, 1], [0.32, 1], [0.40, 1], [1.00, 1]]
    assert settings["moreg"]["scale"] == 0.385
    assert settings["family"] == "Wan 2.1 / 2.2"
    assert settings["speedup"] is settings["token_refresh"] is None
    assert only_run(log).plan is None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"preset": "turbo"}, r"must be one of balanced, quality, fast, target, paper-fast.*got 'turbo'"),
        ({"preset": "target", "target_speedup": 0.9}, r"needs a target_speedup of 1 or more, got 0\.9"),
        ({"preset": "custom"}, 'preset "custom" needs a codebook'),
    ],
)
def test_settings_are_checked_once(pack, choices, message):
    from adacache.adacache_core import ConfigurationError
    from adacache.nodes.settings import Settings

    with pytest.raises(ConfigurationError, match=message):
        Settings(**choices)


def test_a_preset_is_planned_for_a_speedup_or_decides_while_it_samples(pack):
    from adacache.nodes.settings import PRESETS, Settings

    codebook = object()  # nothing looks into it
    made = {preset: Settings(preset, codebook, 3.5) for preset in PRESETS}
    assert [preset for preset in PRESETS if not made[preset].planned] == ["paper-fast", "paper-slow", "custom"]
    assert [made[preset].speedup for preset in ("target", "paper-slow", "custom")] == [3.5, None, None]
    assert 1 < made["quality"].speedup < made["balanced"].speedup < made["fast"].speedup


# --- Conditions are told apart ---------------------------------------------------------------------------------------


def test_prompts_of_different_length_are_called_apart_and_cached_apart(wan):
    patched, log = bind(wan)
    with counting() as ran, watching() as seen:
        sample(patched, negative=text(8, tokens=11))
    assert ran.conditions == [1] * (2 * STEPS)
    assert ran.blocks == 2 * BLOCKS * len(COMPUTED)
    assert len(seen) == only_run(log).conditions == 2
    assert only_run(log).cache_bytes == residual_bytes(2)


def test_a_regional_prompt_has_a_residual_of_its_own_in_both_prompts(wan):
    """ComfyUI gives the negative prompt the region's copy, and with it the positive one's identifier."""
    from nodes import ConditioningSetArea

    [region] = ConditioningSetArea().append(text(9), 32, 64, 0, 0, 1.0)
    positive = [*text(7), *region]
    patched, log = bind(wan)
    with watching() as seen:
        cached = sample(patched, positive=positive)
    run = only_run(log)
    assert len(seen) == run.conditions == 4
    assert computed(run) == COMPUTED
    assert run.cache_bytes == residual_bytes(2) + residual_bytes(2) // 2
    every, _ = bind(wan, 1)
    plain = sample(wan, positive=positive)
    assert torch.equal(sample(every, positive=positive), plain)
    assert not torch.equal(cached, plain)


def test_a_prompt_that_starts_midway_is_computed_where_it_is_new(wan):
    from nodes import ConditioningSetTimestepRange

    middle = wan.get_model_object("model_sampling").percent_to_sigma(0.55)
    [early] = ConditioningSetTimestepRange().set_range(text(7), 0.0, 0.55)
    [late] = ConditioningSetTimestepRange().set_range(text(9), 0.55, 1.0)
    patched, log = bind(wan)
    with watching() as seen:
        sample(patched, positive=[*early, *late])
    run = only_run(log)
    assert len(seen) == 3
    change = next(record for record in run.steps if record.sigma <= middle)
    assert change.step not in COMPUTED, "this test needs a change where a skip is due"
    assert (change.kind, change.reason) == ("computed", "nothing cached for a condition")
    assert (change.calls, change.computed_calls) == (2, 2), "both prompts share a call"


def test_skip_layer_guidance_has_a_residual_of_its_own(wan):
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    patched, log = bind(SkipLayerGuidanceDiT.execute(wan, 2.0, 0.0, 1.0, "1", "").args[0])
    with counting() as ran, watching() as seen:
        sample(patched)
    assert ran.conditions == [2, 1] * STEPS
    assert ran.blocks == (BLOCKS + BLOCKS - 1) * len(COMPUTED)
    assert len(seen) == only_run(log).conditions == 3
    assert only_run(log).cache_bytes == residual_bytes(3)


def hooked(prompt: list[Any], *keyframes: tuple[float, float]) -> list[Any]:
    """A LoRA of rank 2 on the first block, as a hook on a prompt; keyframes are (start in 0..1, strength)."""
    from comfy.hooks import HookKeyframe, HookKeyframeGroup, create_hook_lora, set_hooks_for_conditioning

    name, generator = "diffusion_model.blocks.0.self_attn.v", torch.Generator().manual_seed(3)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((2, 128), (128, 2)))
    hooks = create_hook_lora({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, 1.0, 0.0)
    group = HookKeyframeGroup()
    for start, strength in keyframes:
        group.add(HookKeyframe(strength, start))
    hooks.set_keyframes_on_hooks(group)
    return set_hooks_for_conditioning(prompt, hooks)


def test_a_residual_never_crosses_a_keyframe(wan):
    """The LoRA goes from 1 to 0.2 midway: what was computed under the one is not replayed under the other."""
    change = float(wan.get_model_object("model_sampling").percent_to_sigma(0.55))
    patched, log = bind(wan)
    with counting() as ran, watching() as seen:
        sample(patched, positive=hooked(text(7), (0.0, 1.0), (0.55, 0.2)))
    run = only_run(log)
    first = next(record for record in run.steps if record.sigma <= change)
    assert first.step not in COMPUTED, "this test needs a keyframe where a skip is due"
    assert {condition[-1] for condition in seen.values()} == {(), (1.0,), (0.2,)}
    # One call of that step, the hooked one, is computed in addition.
    assert (first.calls, first.computed_calls, first.reason) == (2, 1, "nothing cached for a condition")
    assert ran.blocks == BLOCKS * sum(record.computed_calls for record in run.steps)


def test_guidance_of_the_first_block_is_always_computed(wan):
    """Nothing tells what goes into the blocks, so there is no residual to replay; the others are still cached."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    patched, log = bind(SkipLayerGuidanceDiT.execute(wan, 2.0, 0.0, 1.0, "0", "").args[0])
    with counting() as ran:
        sample(patched)
    assert ran.blocks == BLOCKS * len(COMPUTED) + (BLOCKS - 1) * STEPS
    assert only_run(log).cache_bytes == residual_bytes(2)


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_every_context_window_has_a_residual_of_its_own(wan, schedule):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    windowed = ContextWindowsManualNode.execute(
        wan, 3, 1, schedule, 1, False, "pyramid", 2, False, causal_window_fix=False
    ).args[0]
    patched, log = bind(windowed)
    with counting() as ran, watching() as seen:
        sample(patched, frames=11, steps=20)
    run = only_run(log)
    assert ran.blocks * 2 == BLOCKS * sum(record.computed_calls for record in run.steps) < BLOCKS * 2 * ran.calls
    if schedule == "standard_static":
        assert len(seen) == run.conditions == 2 * 5
        assert run.cache_bytes == residual_bytes(2, frames=3 * 5)
    else:
        assert len(seen) > run.conditions, "the windows move"
        assert "nothing cached for a condition" in {record.reason for record in run.steps}
        assert run.cache_bytes <= residual_bytes(len(seen), frames=3)


def test_guidance_that_ends_midway_lets_go_of_the_negative_prompts_residual(wan):
    """Both prompts are computed in one call; the negative one's part of it must not stay."""
    from adacache.adacache_core.paper.run import ResidualRun
    from comfy_extras.nodes_custom_sampler import CFGOverride

    at_the_end, finish = [], ResidualRun.finish

    def measuring_finish(run: Any) -> Any:
        statistics = finish(run)
        at_the_end.append((run.nbytes, held(run._cache)))
        return statistics

    patched, log = bind(CFGOverride.execute(wan, 1.0, 0.5, 1.0).args[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidualRun, "finish", measuring_finish)
        sample(patched)
    calls = [record.calls for record in only_run(log).steps]
    assert set(calls) == {1, 2} and calls == sorted(calls, reverse=True)
    assert only_run(log).cache_bytes == residual_bytes(2)
    assert at_the_end == [(residual_bytes(1), residual_bytes(1))]


# --- ControlNets -----------------------------------------------------------------------------------------------------


class Control(tiny_models.Control):
    def __init__(self, nothing: bool = False) -> None:
        self.nothing, self.ran = nothing, 0

    def get_control(self, x: Tensor, *args: Any) -> Any:
        self.ran += 1
        return None if self.nothing else super().get_control(x, *args)


@pytest.fixture(scope="module")
def hunyuan(pack: Any) -> Any:
    with torch.no_grad():
        return tiny_models.load("HunyuanVideo-ControlNet")


def controlled(model: Any, control: Any) -> Tensor:
    row = tiny_models.family("HunyuanVideo-ControlNet")
    return tiny_models.sample(
        model, replace(row, conditioning=lambda: {**row.conditioning(), "control": control}), STEPS
    )


@pytest.mark.parametrize("nothing", [False, True])
def test_a_controlnet_runs_where_the_model_computes_only_and_may_give_nothing(hunyuan, nothing):
    patched, log = bind(hunyuan)
    control = Control(nothing)
    assert controlled(patched, control).isfinite().all()
    assert control.ran == len(computed(only_run(log))) == len(COMPUTED)
    every, _ = bind(hunyuan, 1)
    assert torch.equal(controlled(every, Control(nothing)), controlled(hunyuan, Control(nothing)))


def test_a_postponed_controlnet_may_be_replaced_by_none(hunyuan):
    """As another node's function around the model does, to switch it off."""

    def without_control(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        switched = {**arguments["c"], "control": None}
        return apply_model(arguments["input"], arguments["timestep"], **switched)

    switched_off = hunyuan.clone()
    switched_off.set_model_unet_function_wrapper(without_control)
    every, _ = bind(switched_off, 1)
    assert torch.equal(controlled(every, Control()), controlled(switched_off, Control()))
    control = Control()
    patched, log = bind(switched_off)
    controlled(patched, control)
    assert computed(only_run(log)) == COMPUTED
    assert control.ran == 0


def test_a_controlnet_that_has_no_clone_on_a_device_is_none_there(pack):
    from adacache.nodes.model_call import PostponedControl

    clones = {"cuda:1": Control()}
    control = PostponedControl(SimpleNamespace(get_instance_for_device=clones.get, strength=0.5))
    assert control.get_instance_for_device("cuda:2") is None
    assert control.get_instance_for_device("cuda:1").get_control(torch.zeros(1))()["input"]
    assert control.strength == 0.5


def test_outside_of_a_run_the_model_gets_its_controlnet_run(hunyuan):
    from adacache.nodes.in_model import KEY
    from comfy.patcher_extension import WrappersMP

    patched, _ = bind(hunyuan)
    [apply_model] = patched.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    seen = []
    apply_model(lambda *args, **kwargs: seen.append(args[4]), None, None, None, None, partial(dict, input=3), {})
    assert seen == [{"input": 3}]


# --- Errors, memory --------------------------------------------------------------------------------------------------


def test_after_an_error_nothing_is_left_behind(wan, monkeypatch):
    from adacache.adacache_core.paper.residual import ResidualCache
    from comfy.ldm.wan.model import WanAttentionBlock

    expected = sample(wan)
    patched, log = bind(wan)
    calls, forward = [], WanAttentionBlock.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 5 * BLOCKS // 2:
            raise torch.OutOfMemoryError("simulated")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanAttentionBlock, "forward", failing)
    with pytest.raises(torch.OutOfMemoryError) as error:
        sample(patched)
    monkeypatch.undo()
    caches = [thing for thing in gc.get_objects() if type(thing) is ResidualCache]
    assert {held(cache) for cache in caches} == {0}, "the traceback keeps the run alive, but no tensor"
    assert shadows(wan.model.diffusion_model) == []
    assert not only_run(log).finished
    assert torch.equal(sample(wan), expected)
    del error


class Recording(TorchDispatchMode):
    """Stands for ComfyUI's recording of allocations: notes for each piece of memory whether it was paused."""

    def __init__(self) -> None:
        super().__init__()
        self.paused, self.allocated = 0, {}

    @contextmanager
    def pause(self) -> Iterator[None]:
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        for made in output if isinstance(output, tuple | list) else [output]:
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in given:
                self.allocated[made.untyped_storage().data_ptr()] = self.paused > 0
        return output


def tensors_in(thing: Any) -> list[Tensor]:
    """All tensors reachable from the data of an object."""
    found, to_see, seen = [], [thing], set()
    while to_see:
        one = to_see.pop()
        if isinstance(one, Tensor):
            found.append(one)
        elif id(one) not in seen and type(one).__module__.startswith(("adacache", "builtins")) and not callable(one):
            seen.add(id(one))
            to_see += gc.get_referents(one)
    return found


@pytest.mark.parametrize("refreshes", [False, True], ids=["skips", "partial steps"])
def test_what_outlives_a_call_is_allocated_outside_of_the_recording(wan, monkeypatch, refreshes):
    import comfy.model_prefetch
    from adacache.adacache_core.tokens.choice import TokenRefresh
    from adacache.nodes.in_model import KEY
    from comfy.cli_args import args as command_line
    from comfy.patcher_extension import WrappersMP

    recording, kept, switched = Recording(), [], []
    monkeypatch.setattr(comfy.model_prefetch, "pause_malloc_graph", recording.pause, raising=False)
    monkeypatch.setattr(command_line, "disable_comfy_compiler", False, raising=False)

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        output = executor(*args, **kwargs)
        switched.append(command_line.disable_comfy_compiler)
        kept.append(
            [
                recording.allocated[tensor.untyped_storage().data_ptr()]
                for tensor in tensors_in(args[4]["transformer_options"][KEY])
            ]
        )
        return output

    scores = TokenRefresh(ratio=0.5, influence=1.0, entropy=1.0) if refreshes else None
    patched, log = bind(wan, token_refresh=scores)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", look)
    with recording:
        sample(patched)
    assert all(all(paused) for paused in kept)
    # Residuals of two conditions, and of each block three outputs and two scores, at the least.
    assert len(kept[-1]) >= (2 * (1 + BLOCKS * 5) if refreshes else 2)
    assert switched == [True] * STEPS
    assert command_line.disable_comfy_compiler is False
    assert computed(only_run(log)) == COMPUTED


def test_the_compiler_comes_back_after_an_error(wan, monkeypatch):
    from comfy.cli_args import args as command_line

    monkeypatch.setattr(command_line, "disable_comfy_compiler", False, raising=False)

    def fail(arguments: dict[str, Any]) -> Any:
        assert command_line.disable_comfy_compiler is True
        raise RuntimeError("boom")

    patched, _ = bind(wan)
    patched.set_model_sampler_cfg_function(fail)
    with pytest.raises(RuntimeError, match="boom"):
        sample(patched)
    assert command_line.disable_comfy_compiler is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_number_formats(pack, dtype):
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    [model] = ModelComputeDtype().patch(tiny_models.load("WAN21_T2V", dtype=dtype), names[dtype])
    plain = sample(model)
    every, _ = bind(model, 1)
    patched, log = bind(model)
    assert torch.equal(sample(every), plain)
    made = sample(patched)
    assert computed(only_run(log)) == COMPUTED
    assert only_run(log).cache_bytes == residual_bytes(2) * dtype.itemsize // 4
    assert 0 < (made - plain).abs().max() < plain.std()
