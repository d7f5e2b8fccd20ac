"""The model sees a part of the latent at a time, or another one at every step: windows, tiles, rolled latents."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny_wan import bind_every_step, planned, sample

from ways import trained as demo
from ways.trained import STEPS, compare, prompt

pytestmark = pytest.mark.usefixtures("without_gradients")
LONG = {"negative": prompt}  # as long as the positive prompt: both in one call


def windowed(model, schedule, fix=True, length=3, overlap=1, stride=1):
    """The node Context Windows (Manual)."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    return ContextWindowsManualNode.execute(
        model, length, overlap, schedule, stride, False, "pyramid", 2, False, causal_window_fix=fix
    ).args[0]


class TestContextWindows:
    @pytest.mark.parametrize("fix", [True, False])
    def test_windows_that_stay(self, wan, fix):
        """Frames 0 to 2, 2 to 4 and 4 to 6; the fix puts one frame more before all but the first."""
        compared = compare(wan, lambda model: sample(windowed(model, "standard_static", fix), frames=7))
        run = compared.run
        assert len(compared.uncached.made) == 3 * 10
        assert len(compared.ran.made) == 3 * planned(10)
        assert run.count("computed") == planned(10)
        assert run.conditions == 3 * 2
        assert compared.decibels > 14
        every, _ = bind_every_step(windowed(wan, "standard_static", fix))
        assert torch.equal(sample(every, frames=7), compared.reference)

    def test_windows_that_move_are_computed_where_they_are_new(self, wan):
        frames, steps = 19, 30
        compared = compare(wan, lambda model: sample(windowed(model, "standard_uniform"), frames=frames, steps=steps))
        run = compared.run
        reasons = {record.reason for record in run.steps}
        assert "new condition" in reasons
        assert run.count("computed") > planned(steps), "a window at a new place has nothing to be forecast from"
        assert compared.decibels > 20
        every, _ = bind_every_step(windowed(wan, "standard_uniform"))
        plain = windowed(wan, "standard_uniform")
        assert torch.equal(sample(every, frames=11), sample(plain, frames=11))

    @pytest.mark.parametrize(
        ("schedule", "floor"),
        [("standard_static", 26), pytest.param("standard_uniform", 10, marks=pytest.mark.long)],
    )
    def test_trained(self, trained, schedule, floor):
        long_noise = demo.noise(1, (1, 16, 7, 8, 8))
        compared = compare(trained, lambda model: demo.sample(windowed(model, schedule), noise=long_noise))
        assert compared.decibels > floor

    def test_the_node_that_counts_in_frames_of_the_video(self, wan):
        """Nine are three of the latent, overlapping by four, which are one."""
        from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

        def graph(model):
            windows = WanContextWindowsManualNode.execute(
                model, 9, 4, "standard_static", 1, False, "overlap-linear", False
            )
            return sample(windows.args[0], frames=7)

        compared = compare(wan, graph)
        assert (len(compared.uncached.made), len(compared.ran.made)) == (3 * 10, 3 * planned(10))


def wrapped(function):
    """A model whose calls a model function wrapper makes."""

    def apply(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(function)
        return model

    return apply


def tiles(apply_model, args, size=8):
    """The left and the right part, one after the other, with their mean where they overlap."""
    x, out, weight = args["input"], torch.zeros_like(args["input"]), torch.zeros_like(args["input"])
    for start in (0, x.shape[-1] - size):
        out[..., start : start + size] += apply_model(x[..., start : start + size], args["timestep"], **args["c"])
        weight[..., start : start + size] += 1
    return out / weight


def one_by_one(apply_model, args):
    """A call for each condition, to save memory."""
    count = len(args["cond_or_uncond"])
    parts = [
        {key: value.chunk(count)[i] if torch.is_tensor(value) else value for key, value in args["c"].items()}
        for i in range(count)
    ]
    inputs, times = args["input"].chunk(count), args["timestep"].chunk(count)
    return torch.cat([apply_model(inputs[i], times[i], **parts[i]) for i in range(count)])


def rolled(axis, by, apply_model, args):
    """The latent is rolled before the call and back behind it, by less at every step (loops, panoramas)."""
    shift = round(by * float(args["timestep"][0]))
    return apply_model(args["input"].roll(shift, axis), args["timestep"], **args["c"]).roll(-shift, axis)


# Name: the wrapper, the least signal-to-error in dB of "balanced" on the demo model.
WRAPPERS = {
    "tiles": (tiles, {"euler": 25, "uni_pc": 19}),
    "one condition at a time": (one_by_one, {"euler": 30, "uni_pc": 25}),
    "frames rolled": (partial(rolled, 2, 20), {"euler": 19, "uni_pc": 19}),
    "columns rolled": (partial(rolled, -1, 100), {"euler": 13, "uni_pc": 6}),
}


@pytest.mark.parametrize("sampler", ["euler", pytest.param("uni_pc", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_model_function_wrapper(trained, name, sampler):
    function, floors = WRAPPERS[name]
    other = prompt(color="blue", shape="square", motion="still")  # as long as the first: one call for both
    compared = compare(trained, lambda model: demo.sample(wrapped(function)(model), sampler=sampler, negative=other))
    assert compared.run.count("computed") == planned(STEPS)
    calls = 1 if "rolled" in name else 2
    assert len(compared.uncached.made) == calls * STEPS
    assert len(compared.ran.made) == calls * planned(STEPS)
    assert compared.decibels > floors[sampler]
