"""LoRAs, number formats and offloading."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_wan import bind, bind_every_step, close, decisions, latents, lora, only_run, planned, sample

from ways.trained import compare

STEPS = 10
pytestmark = pytest.mark.usefixtures("without_gradients")


def test_a_lora_before_or_after_the_node(wan):
    from comfy.sd import load_lora_for_models

    with_lora, _ = load_lora_for_models(wan, None, lora(), 1.0, 0.0)
    compared = compare(with_lora, sample)
    assert not close(compared.reference, sample(wan))
    assert compared.run.count("computed") == planned(STEPS)
    patched, log = bind(wan)
    after, _ = load_lora_for_models(patched, None, lora(), 1.0, 0.0)
    assert torch.equal(sample(after), compared.made)
    assert only_run(log).count("computed") == planned(STEPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_number_formats(pack, dtype):
    """Predictions are float32 latents whatever the model computes in."""
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    [model] = ModelComputeDtype().patch(tiny_models.load("WAN21_T2V", dtype=dtype), names[dtype])
    compared = compare(model, sample)
    every, _ = bind_every_step(model)
    assert torch.equal(sample(every), compared.reference)
    assert compared.run.count("computed") == planned(STEPS)
    assert compared.run.cache_bytes == latents(3 * (2 + 1) + 1)
    assert 0 < (compared.made - compared.reference).abs().max() < compared.reference.std()


def test_weights_in_scaled_fp8(pack):
    """A checkpoint as people share them: linear weights of the blocks in float8, each with a scale."""
    import comfy.sd

    row = tiny_models.family("WAN21_T2V")
    model = comfy.sd.load_diffusion_model_state_dict(scaled_fp8(tiny_models.state_dict(row)))
    assert model.model.diffusion_model.blocks[0].self_attn.q.quant_format == "float8_e4m3fn"
    compared = compare(model, sample)
    assert close(compared.reference, sample(tiny_models.load("WAN21_T2V")), 0.5)
    every, _ = bind_every_step(model)
    assert torch.equal(sample(every), compared.reference)
    assert compared.run.count("computed") == planned(STEPS)


def scaled_fp8(weights):
    """The checkpoint with the blocks' linear weights in float8, in the format of ComfyUI's older releases."""
    scaled = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, weight in weights.items():
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2:
            scale = weight.abs().max() / 448
            scaled[name] = (weight / scale).to(torch.float8_e4m3fn)
            scaled[name.replace(".weight", ".scale_weight")] = scale
        else:
            scaled[name] = weight
    return scaled


def test_a_skipped_step_moves_no_weights(pack, monkeypatch):
    """With low memory weights are fetched as a layer runs, by the function that dynamic offloading uses too."""
    import comfy.ops
    from comfy.patcher_extension import WrappersMP

    model = tiny_models.load("WAN21_T2V")
    fetched = []
    cast = comfy.ops.cast_bias_weight

    def noting(layer, *args, **kwargs):
        fetched.append(layer)
        return cast(layer, *args, **kwargs)

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", noting)
    patched, log = bind(model)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "test", load_partially)
    per_step = []
    sample(patched, callback=lambda *_: per_step.append(len(fetched)))
    moved = [after - before for before, after in zip([0, *per_step], per_step, strict=False)]
    linear = sum(type(m).__name__ == "Linear" for m in model.model.diffusion_model.modules())
    assert [count > 0 for count in moved] == decisions(only_run(log))
    assert len({count for count in moved if count}) == 1
    assert max(moved) >= linear


def load_partially(executor, guider, *args):
    """Load again, with memory for next to nothing, so that every layer fetches its weights as it runs."""
    patcher = guider.model_patcher
    patcher.load(patcher.load_device, lowvram_model_memory=1)
    assert patcher.model.model_lowvram
    return executor(guider, *args)


def test_no_call_changes_its_input(wan, monkeypatch):
    """In float32 the model is given the sampler's own tensor."""
    from comfy.model_base import BaseModel

    calls, apply_model = [], BaseModel.apply_model

    def checked(self, x, t, **kwargs):
        before = x.clone()
        result = apply_model(self, x, t, **kwargs)
        assert torch.equal(x, before)
        calls.append(None)
        return result

    monkeypatch.setattr(BaseModel, "apply_model", checked)
    sample(bind(wan)[0])
    assert len(calls) == planned(STEPS)
