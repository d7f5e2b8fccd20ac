"""Every kind of model: images, video, sound, both; and every parameterisation, on the same trained weights too."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_wan import bind_every_step, planned, sample

from ways import trained as demo
from ways.others import OTHERS, load
from ways.trained import compare

pytestmark = [
    pytest.mark.usefixtures("without_gradients"),
    pytest.mark.filterwarnings("ignore:torch.get_autocast_gpu_dtype"),  # ACE-Step, of a PyTorch that has moved on
]
# Least signal-to-error in dB of "balanced" at 12 steps; random weights, so that only its order of magnitude says much.
FLOORS = {
    "Stable Diffusion 1.5": 21,
    "Stable Video Diffusion": 11,
    "Flux": 14,
    "Qwen-Image": 16,
    "Z-Image": 6,
    "ACE-Step": 0,
    "Stable Audio": 3,
}
VIDEO = {
    "CosmosT2V": 16,
    "CosmosT2IPredict2": 24,
    "LTXV": 16,
    "LTXAV": 15,
    "HunyuanVideo15": 20,
    "GenmoMochi": 17,
    "MiniMaxH3": 32,
}
QUICK = ("Stable Diffusion 1.5", "Flux", "Z-Image", "Stable Audio", "CosmosT2V", "LTXAV")


def some(table):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in table]


@pytest.mark.parametrize("name", some(FLOORS))
def test_models_of_other_kinds(pack, name):
    other = OTHERS[name]
    check(load(other), lambda model: sample(model, steps=12, **other.prompts()), FLOORS[name])


@pytest.mark.parametrize("name", some(VIDEO))
def test_video_models(pack, name):
    row = tiny_models.family(name)
    check(tiny_models.load(name), lambda model: tiny_models.sample(model, row, 12), VIDEO[name])


def test_modality_guidance(pack):
    """Sound and picture without each other, once more an evaluation, and away from that by a scale for each."""
    import comfy.samplers
    import comfy.utils
    from comfy.model_patcher import create_model_options_clone

    row, model = tiny_models.family("LTXAV"), tiny_models.load("LTXAV").clone()
    shapes = [list(shape) for shape in row.latents]
    scales = comfy.utils.pack_latents(
        [torch.full(shape, scale) for shape, scale in zip(shapes, (2.0, 0.5), strict=True)]
    )[0]

    def post(args):
        options = create_model_options_clone(args["model_options"])
        options["transformer_options"] |= {"a2v_cross_attn": False, "v2a_cross_attn": False}
        asked = args["model"], [args["cond"]], args["input"], args["sigma"], options
        (alone,) = comfy.samplers.calc_cond_batch(*asked)
        assert not torch.equal(alone, args["cond_denoised"])
        return args["denoised"] + scales * (args["cond_denoised"] - alone)

    model.set_model_sampler_post_cfg_function(post)
    check(model, lambda model: tiny_models.sample(model, row, 12), 16)


def check(model, graph, floor):
    compared = compare(model, graph)
    every, _ = bind_every_step(model)
    assert torch.equal(graph(every), compared.reference)
    run = compared.run
    assert run.settings["evaluations"] == 12
    assert run.count("computed") == planned(12)
    assert compared.made.isfinite().all()
    assert compared.decibels > floor


class TestParameterisations:
    def test_velocity_prediction(self, pack):
        """A checkpoint of eps weights told to be one of v by the node ModelSamplingDiscrete, as people do."""
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        other = OTHERS["Stable Diffusion 1.5"]
        [model] = ModelSamplingDiscrete().patch(load(other), "v_prediction", True)
        check(model, lambda model: sample(model, steps=12, **other.prompts()), 10)

    def test_edm_by_node(self, pack):
        from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

        other = OTHERS["Stable Diffusion 1.5"]
        [model] = ModelSamplingContinuousEDM().patch(load(other), "v_prediction", 120.0, 0.002)
        check(model, lambda model: sample(model, steps=12, scheduler="karras", **other.prompts()), 6)

    @pytest.mark.parametrize("shift", [1.0, 1.32, 2.64, 8.06])
    def test_shifts_whose_largest_noise_level_is_a_little_above_one(self, trained, shift):
        """In float32 77 of the shifts from 1 to 100 end above 1, and are flow models all the same."""
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        [model] = ModelSamplingSD3().patch(trained, shift)
        compared = compare(model, demo.sampling(cfg=1.0))
        assert compared.decibels > 34
