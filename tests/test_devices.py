"""Conditions spread over several devices: ComfyUI's own multi-GPU sampling, its clones driven from threads on the CPU.

``cpu``, ``cpu:1`` and ``cpu:2`` are three devices to ComfyUI's scheduler, and one to torch.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import tiny_models
import torch
from safetensors.torch import save_file
from tiny_wan import (
    BLOCKS,
    bind,
    bind_every_step,
    close,
    counting,
    decisions,
    latents,
    only_run,
    planned,
    run_guider,
    runs,
    sample,
    shadows,
    sigmas,
    text,
)

STEPS = 10
COMPUTED = planned(STEPS)
pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def wan(pack, tmp_path_factory):
    """Loaded from a file, since ComfyUI loads the clones from there."""
    import comfy.sd

    path = tmp_path_factory.mktemp("model") / "tiny_wan.safetensors"
    save_file(tiny_models.state_dict(tiny_models.family("WAN21_T2V")), path)
    return comfy.sd.load_diffusion_model(str(path))


@pytest.fixture
def spread(monkeypatch):
    """The node MultiGPU CFG Split, on a machine with that many devices."""
    from comfy import model_management
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode

    def over(model, devices):
        names = [torch.device("cpu"), *(torch.device("cpu", index) for index in range(1, devices))]
        monkeypatch.setattr(model_management, "get_all_torch_devices", lambda exclude_current=False: names)
        # The node looks for clones to reuse and stumbles over loaded models that are no longer there.
        loaded = model_management.current_loaded_models
        loaded[:] = [one for one in loaded if not one.is_dead()]
        made = MultiGPUCFGSplitNode.execute(model, devices).args[0]
        assert len(made.get_additional_models_with_key("multigpu")) == devices - 1
        return made

    return over


@pytest.fixture
def one_condition_a_call(monkeypatch):
    """As with little memory: the same matrix products as with a device for every condition."""
    from comfy.model_patcher import ModelPatcher

    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda self, device: 0)


@pytest.fixture
def workers(monkeypatch):
    """Per call of a model: its thread and the model."""
    from comfy.ldm.wan.model import WanModel

    calls, forward = [], WanModel.forward

    def noting(model, *args, **kwargs):
        calls.append((threading.get_ident(), id(model)))
        return forward(model, *args, **kwargs)

    monkeypatch.setattr(WanModel, "forward", noting)
    return calls


def models_of(patched):
    return [clone.model for clone in (patched, *patched.get_additional_models_with_key("multigpu"))]


def shadowed(patched):
    """Modules of any of its models whose ``forward`` is replaced."""
    return [name for model in models_of(patched) for name in shadows(model)]


@pytest.mark.usefixtures("one_condition_a_call")
@pytest.mark.parametrize(("preset", "order"), [("balanced", "AdaCache last"), ("paper-fast", "AdaCache first")])
def test_two_devices_decide_and_sample_like_one(wan, spread, workers, preset, order):
    alone, of_alone = bind(wan, preset)
    expected = sample(alone, steps=20)
    assert len(set(workers)) == 1
    workers.clear()
    if order == "AdaCache first":
        patched, log = bind(wan, preset)
        patched = spread(patched, 2)
    else:
        patched, log = bind(spread(wan, 2), preset)
    with counting() as ran:
        samples = sample(patched, steps=20)
    one, two = only_run(of_alone), only_run(log)
    assert len({thread for thread, _ in workers}) == len({model for _, model in workers}) == 2
    assert decisions(two) == decisions(one)
    assert not all(decisions(two))
    assert ran.blocks == 2 * BLOCKS * two.count("computed")
    assert close(samples, expected, 1e-6)
    assert two.cache_bytes == one.cache_bytes
    assert two.conditions == 2
    assert shadowed(patched) == []


@pytest.mark.usefixtures("one_condition_a_call")
def test_motion_is_measured_over_all_devices(wan, spread):
    from adacache.adacache_core.paper.measure import MotionRegularization

    made = []
    for devices in (1, 2):
        patched, log = bind(wan, moreg=MotionRegularization())
        sample(patched if devices == 1 else spread(patched, 2), steps=20)
        made.append(only_run(log))
    one, two = made
    assert one.motion_share is not None
    assert two.motion_share == pytest.approx(one.motion_share)
    assert decisions(two) == decisions(one)


@pytest.mark.parametrize(("devices", "calls"), [(2, [2, 1]), (3, [1, 1, 1])])
def test_three_conditions(wan, spread, workers, devices, calls):
    """Perp-Neg: on two devices one of them gets two conditions, in one call."""
    from comfy_extras.nodes_perpneg import PerpNegGuider

    def guider(model):
        return PerpNegGuider.execute(model, text(7), text(8), text(9), 3.0, 1.0).args[0]

    levels = sigmas(wan, STEPS)
    alone, of_alone = bind(wan)
    expected = run_guider(guider(alone), levels)
    workers.clear()
    patched, log = bind(wan)
    with counting() as ran:
        samples = run_guider(guider(spread(patched, devices)), levels)
    assert len({model for _, model in workers}) == devices
    assert [sorted(ran.conditions[at : at + devices], reverse=True) for at in range(0, ran.calls, devices)] == (
        [calls] * COMPUTED
    )
    assert ran.blocks == devices * BLOCKS * COMPUTED
    assert only_run(log).conditions == 3
    assert decisions(only_run(log)) == decisions(only_run(of_alone))
    assert only_run(log).cache_bytes == latents(2 * (3 + 1) + 1)  # and the last correction
    assert close(samples, expected)


def test_computing_every_step_changes_no_bit(wan, spread):
    plain = sample(spread(wan, 2))
    every, log = bind_every_step(spread(wan, 2))
    assert torch.equal(sample(every), plain)
    assert only_run(log).count("computed") == STEPS


@pytest.mark.usefixtures("one_condition_a_call")
def test_a_condition_that_is_new_on_one_device_does_not_change_what_the_other_does(wan, spread):
    """Else it would hang on chance: on which thread comes first."""
    from nodes import ConditioningSetTimestepRange

    made = []
    for devices in (1, 2):
        [early] = ConditioningSetTimestepRange().set_range(text(8), 0.0, 0.67)
        [late] = ConditioningSetTimestepRange().set_range(text(9), 0.67, 1.0)
        patched, log = bind(wan, "fast")
        with counting() as ran:
            samples = sample(patched if devices == 1 else spread(patched, 2), negative=[*early, *late], steps=20)
        made.append((samples, only_run(log), ran.blocks))
    (one, of_one, blocks_of_one), (two, of_two, blocks_of_two) = made
    assert [record.computed_calls for record in of_two.steps] == [record.computed_calls for record in of_one.steps]
    new = [r for r in of_two.steps if r.reason == "new condition"]
    assert new
    assert {(record.calls, record.computed_calls) for record in new} == {(2, 2)}
    assert blocks_of_two == blocks_of_one
    assert close(two, one, 1e-6)


@pytest.mark.parametrize("preset", ["balanced", "paper-fast"])
def test_an_error_on_one_device_leaves_every_model_clean(wan, spread, monkeypatch, preset):
    from comfy.ldm.wan.model import WanAttentionBlock

    patched, log = bind(spread(wan, 2), preset)
    expected = sample(patched)
    second = models_of(patched)[1].diffusion_model.blocks[1]
    forward, calls = WanAttentionBlock.forward, []

    def fail(block, *args, **kwargs):
        if block is second:
            calls.append(None)
            if len(calls) == 3:
                raise torch.OutOfMemoryError("simulated")
        return forward(block, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WanAttentionBlock, "forward", fail)
        with pytest.raises(torch.OutOfMemoryError):
            sample(patched)
    assert len(calls) == 3
    assert shadowed(patched) == []
    assert [run.finished for run in runs(log)] == [True, False]
    assert torch.equal(sample(patched), expected)


def test_controlnets_on_other_devices_do_not_run_on_a_skip(pack, spread, tmp_path):
    import comfy.sd

    row = tiny_models.family("HunyuanVideo-ControlNet")
    path = tmp_path / "hunyuan.safetensors"
    save_file(tiny_models.state_dict(row), path)
    hunyuan = comfy.sd.load_diffusion_model(str(path))
    ran = []

    class Control(tiny_models.Control):
        def __init__(self, device):
            self.device, self.multigpu_clones = device, {}

        def get_control(self, x, *args):
            ran.append(self.device)
            return super().get_control(x, *args)

        def deepclone_multigpu(self, device, autoregister=False):
            self.multigpu_clones[device] = Control(device)

        def get_instance_for_device(self, device):
            return self.multigpu_clones.get(device, self)

        def set_previous_controlnet(self, previous):
            self.previous_controlnet = previous

    def conditioning():
        return {**row.conditioning(), "control": control}

    control = Control(torch.device("cpu"))
    patched, log = bind(hunyuan)
    tiny_models.sample(spread(patched, 2), replace(row, conditioning=conditioning), STEPS)
    assert only_run(log).count("computed") == COMPUTED
    assert sorted(device.index or 0 for device in ran) == [0] * COMPUTED + [1] * COMPUTED


@pytest.mark.usefixtures("one_condition_a_call")
@pytest.mark.parametrize("late", [0, 1])
def test_a_device_that_is_late_changes_nothing(wan, spread, monkeypatch, late):
    """The run belongs to the step: it is ended by the sampler's own thread, when all conditions are there."""
    from comfy.ldm.wan.model import WanModel

    patched, log = bind(spread(wan, 2))
    expected = sample(patched)
    slow, forward = models_of(patched)[late].diffusion_model, WanModel.forward

    def waiting(model, *args, **kwargs):
        if model is slow:
            time.sleep(0.05)
        return forward(model, *args, **kwargs)

    monkeypatch.setattr(WanModel, "forward", waiting)
    assert torch.equal(sample(patched), expected)
    one, two = runs(log)
    assert decisions(one) == decisions(two)


@pytest.mark.usefixtures("one_condition_a_call")
def test_context_windows_over_two_devices(wan, spread):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    made = []
    for devices in (1, 2):
        windowed = ContextWindowsManualNode.execute(
            wan, 3, 1, "standard_static", 1, False, "pyramid", 2, False, causal_window_fix=False
        ).args[0]
        patched, log = bind(windowed if devices == 1 else spread(windowed, 2))
        made.append((sample(patched, frames=11, steps=20), only_run(log)))
    (one, of_one), (two, of_two) = made
    assert decisions(of_two) == decisions(of_one)
    assert (of_two.conditions, of_two.cache_bytes) == (of_one.conditions, of_one.cache_bytes)
    assert close(two, one, 1e-6)


def test_the_clones_are_as_they_were_when_the_node_is_bypassed(wan, spread):
    split = spread(wan, 2)
    plain = sample(split)
    cached, _ = bind(split, "fast")
    assert not torch.equal(sample(cached), plain)
    assert torch.equal(sample(split), plain)


def test_an_interrupt_is_heard_on_every_device(wan, spread, workers):
    """ComfyUI's own, asked for between two steps; the next run is an undisturbed one."""
    from comfy import model_management

    patched, log = bind(spread(wan, 2))
    expected = sample(patched)

    def stop(step, *_):
        if step == 3:
            model_management.interrupt_current_processing()

    try:
        with pytest.raises(model_management.InterruptProcessingException):
            sample(patched, callback=stop)
    finally:
        model_management.interrupt_current_processing(False)
    assert [run.finished for run in runs(log)] == [True, False]
    assert torch.equal(sample(patched), expected)
