"""Every guidance: how many conditions it asks for, how they are combined, and whether it looks a second time."""

from __future__ import annotations

import pytest
import torch
from tiny_wan import bind, planned

from ways.trained import (
    STEPS,
    cfg_guider,
    compare,
    custom,
    empty,
    prompt,
    sampling,
)

pytestmark = pytest.mark.usefixtures("without_gradients")
OTHER = {"color": "blue", "shape": "square"}


def node(module, name, *arguments, method="execute"):
    """A function that applies a node of ComfyUI to a model."""

    def apply(model):
        import importlib

        found = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
        if method == "execute":
            return found.execute(model, *arguments).args[0]
        return getattr(found(), method)(model, *arguments)[0]

    return apply


def after_guidance(function):
    """A function that adds a post-CFG function to a model."""

    def apply(model):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(function)
        return model

    return apply


def steered(scale_of):
    """Guidance whose strength follows the noise level, as dynamic-thresholding packs have it."""

    def apply(model):
        model = model.clone()

        def cfg(args):
            cond, uncond = args["cond_denoised"], args["uncond_denoised"]
            guided = uncond + scale_of(float(args["sigma"][0])) * (cond - uncond)
            return args["input"] - guided

        model.set_model_sampler_cfg_function(cfg)
        return model

    return apply


def perturbed(scale=1.0, block=2):
    """Spatio-temporal guidance as LTX's guiders do it: one replaced block in all calls, a flag tells the weak one."""

    def apply(model):
        import comfy.samplers

        model, flag = model.clone(), {"weak": False}

        def replaced(args, extra):
            return {"img": args["img"]} if flag["weak"] else extra["original_block"](args)

        def post(args):
            flag["weak"] = True
            try:
                (weak,) = comfy.samplers.calc_cond_batch(
                    args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
                )
            finally:
                flag["weak"] = False
            return args["denoised"] + scale * (args["cond_denoised"] - weak)

        model.set_model_patch_replace(replaced, "dit", "double_block", block)
        model.set_model_sampler_post_cfg_function(post)
        return model

    return apply


def at_lower_noise(scale=0.5):
    """A second look at the same prompt and the same model, but at another state and noise level (self-guidance)."""

    def post(args):
        import comfy.samplers

        (other,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"] * 0.9, args["sigma"] * 0.9, args["model_options"]
        )
        return args["denoised"] + scale * (args["cond_denoised"] - other)

    return after_guidance(post)


# Name: the node, the arguments of KSampler, and the least signal-to-error in dB of "balanced" at 20 steps.
ON_THE_MODEL = {
    "none, cfg 1": (lambda model: model, {"cfg": 1.0}, 34),
    "cfg 3": (lambda model: model, {}, 34),
    "cfg 6": (lambda model: model, {"cfg": 6.0}, 25),
    "cfg 3, then 1": (node("custom_sampler", "CFGOverride", 1.0, 0.5, 1.0), {}, 30),
    "cfg 1, then 3": (node("custom_sampler", "CFGOverride", 1.0, 0.0, 0.3), {}, 20),
    "cfg falling with the noise": (steered(lambda sigma: 1 + 4 * sigma), {}, 33),
    "CFG-Zero*": (node("cfg", "CFGZeroStar"), {}, 29),
    "CFGNorm": (node("cfg", "CFGNorm", 1.0), {}, 26),
    "APG": (node("apg", "APG", 0.5, 15.0, -0.5), {}, 27),
    "rescaled": (node("model_advanced", "RescaleCFG", 0.7, method="patch"), {}, 31),
    "Mahiro": (node("mahiro", "Mahiro"), {}, 33),
    "tangential damping": (node("tcfg", "TCFG"), {}, 35),
    "FreSca": (node("fresca", "FreSca", 1.0, 1.25, 2), {}, 32),
    "perpendicular, on the model": (lambda model: node("perpneg", "PerpNeg", prompt(**OTHER), 1.0)(model), {}, 28),
    "skip-layer": (node("slg", "SkipLayerGuidanceDiT", 2.0, 0.0, 1.0, "5", ""), {}, 29),
    "skip-layer, for a while": (node("slg", "SkipLayerGuidanceDiT", 2.0, 0.05, 0.4, "5", ""), {}, 29),
    "skip-layer, simple": (node("slg", "SkipLayerGuidanceDiTSimple", 0.0, 1.0, "5", ""), {}, 29),
    "spatio-temporal, by a flag": (perturbed(), {}, 33),
    "spatio-temporal, cfg 1": (perturbed(), {"cfg": 1.0}, 35),
    "a second look at another noise level": (at_lower_noise(), {}, 33),
    "CFG++": (lambda model: model, {"sampler": "euler_cfg_pp", "cfg": 1.0}, 17),
    "CFG++, res_multistep": (lambda model: model, {"sampler": "res_multistep_cfg_pp", "cfg": 1.0}, 8),
    "CFG++, dpmpp_2m": (lambda model: model, {"sampler": "dpmpp_2m_cfg_pp", "cfg": 1.0}, 8),
    "CFG++, gradient_estimation": (lambda model: model, {"sampler": "gradient_estimation_cfg_pp", "cfg": 1.0}, 10),
}
QUICK = ("none, cfg 1", "cfg 3", "cfg 3, then 1", "APG", "spatio-temporal, by a flag", "skip-layer", "CFG++")


def rows(table, quick):
    return [pytest.param(*row, id=name, marks=[] if name in quick else pytest.mark.long) for name, row in table.items()]


@pytest.mark.parametrize(("apply", "choices", "floor"), rows(ON_THE_MODEL, QUICK))
def test_guidance_of_the_model(trained, apply, choices, floor):
    compared = compare(trained, lambda model: sampling(**choices)(apply(model)))
    # A condition that comes up late is computed until two of its predictions are known, planned or not.
    new = sum(record.reason == "new condition" for record in compared.run.steps)
    assert compared.run.count("computed") == planned(STEPS) + new <= planned(STEPS) + 2
    assert compared.decibels > floor


@pytest.mark.parametrize("name", ["cfg 3, then 1", "APG", "skip-layer", "spatio-temporal, by a flag"])
def test_the_order_of_the_nodes_makes_no_difference(trained, name):
    apply, choices, _ = ON_THE_MODEL[name]
    first, last = bind(trained)[0], bind(apply(trained))[0]
    assert torch.equal(sampling(steps=8, **choices)(apply(first)), sampling(steps=8, **choices)(last))


def dual(style):
    def make(model):
        from comfy_extras.nodes_custom_sampler import DualCFGGuider

        return DualCFGGuider.execute(model, prompt(), prompt(**OTHER), empty(), 3.0, 2.0, style).args[0]

    return make


def basic(model):
    from comfy_extras.nodes_custom_sampler import BasicGuider

    return BasicGuider.execute(model, prompt()).args[0]


def perpendicular(model):
    from comfy_extras.nodes_perpneg import PerpNegGuider

    return PerpNegGuider.execute(model, prompt(), empty(), prompt(**OTHER), 3.0, 1.0).args[0]


def two_models(model):
    """One model for each prompt."""
    from comfy_extras.nodes_custom_sampler import DualModelGuider

    return DualModelGuider.execute(model, prompt(), 3.0, model, empty()).args[0]


GUIDERS = {
    "basic": (basic, 1, 34),
    "cfg": (cfg_guider, 2, 34),
    "dual, regular": (dual("regular"), 3, 32),
    "dual, nested": (dual("nested"), 3, 27),
    "perpendicular": (perpendicular, 3, 28),
    "a model for each prompt": (two_models, 2, 34),
}


@pytest.mark.parametrize(("make", "conditions", "floor"), rows(GUIDERS, ("dual, regular", "perpendicular")))
def test_guiders(trained, make, conditions, floor):
    compared = compare(trained, custom(make))
    run = compared.run
    assert run.conditions == conditions
    assert {record.calls for record in run.steps} == {conditions}
    assert run.count("computed") == planned(STEPS)
    assert compared.decibels > floor
