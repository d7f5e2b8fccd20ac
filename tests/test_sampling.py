"""A tiny Wan, loaded by ComfyUI's loader and sampled by ComfyUI's samplers in this process."""

from __future__ import annotations

from functools import partial

import pytest
import tiny_wan
import torch
from tiny_wan import bind, bind_every_step, decisions, only_run, runs

PLAN_30 = 13  # steps that "balanced" computes of 30


sample = partial(tiny_wan.sample, steps=30)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_computing_every_step_changes_no_bit(wan, cfg):
    patched, log = bind_every_step(wan)
    assert torch.equal(sample(patched, cfg=cfg), sample(wan, cfg=cfg))
    assert only_run(log).computed_steps == 30


def test_a_pack_that_is_installed_but_not_used_leaves_the_model_alone(wan):
    before = sample(wan)
    patched, _ = bind(wan, "fast")
    cached = sample(patched)
    assert not torch.equal(cached, before), "this test must be able to notice a change"
    assert torch.equal(sample(wan), before)


def test_same_seed_gives_the_same_bits_and_every_run_starts_afresh(wan):
    patched, log = bind(wan, "paper-fast")
    first = sample(patched)
    sample(patched, seed=2, frames=3)
    assert torch.equal(sample(patched), first)
    first_run, _, third_run = runs(log)
    assert decisions(first_run) == decisions(third_run)


def test_conditions_batched_or_split_give_the_same_decisions_and_result(wan, monkeypatch):
    patched, log = bind(wan, "paper-fast")
    batched = sample(patched)
    monkeypatch.setattr(type(wan), "get_free_memory", lambda self, device: 0)
    split = sample(patched)
    one, other = runs(log)
    assert decisions(one) == decisions(other)
    assert one.conditions == other.conditions == 2
    assert one.cache_bytes == other.cache_bytes
    torch.testing.assert_close(batched, split, rtol=1e-4, atol=1e-4)


def test_the_cache_holds_what_it_says_to_the_byte(wan):
    for preset, computes in (("balanced", 2), ("paper-fast", 1)):
        patched, log = bind(wan, preset)
        sample(patched)
        tokens, width, conditions = 5 * 4 * 4, 128, 2
        assert only_run(log).cache_bytes == computes * conditions * tokens * width * 4


@pytest.mark.parametrize(
    ("sampler", "calls"),
    # Calls per condition uncached. Heun's, DPM-2's and SDE's last step makes one call, the others two.
    [("euler", 30), ("heun", 59), ("dpm_2", 59), ("dpmpp_2m", 30), ("dpmpp_sde", 59), ("uni_pc", 30), ("lcm", 30)],
)
def test_steps_decide_not_calls(wan, sampler, calls):
    patched, log = bind(wan)
    sample(patched, sampler=sampler)
    run = only_run(log)
    assert run.computed_steps == PLAN_30
    assert [record.step for record in run.steps] == list(range(30))
    assert sum(record.calls for record in run.steps) == 2 * calls
    per_step = {record.step: record.calls for record in run.steps}
    expected = sum(per_step[record.step] for record in run.steps if record.computed)
    assert sum(record.computed_calls for record in run.steps) == expected


def test_skipped_steps_run_no_block(wan, monkeypatch):
    blocks, ran = wan.model.diffusion_model.blocks, []
    original = type(blocks[0]).forward

    def counting(block, *arguments, **keywords):
        ran.append(block)
        return original(block, *arguments, **keywords)

    monkeypatch.setattr(type(blocks[0]), "forward", counting)
    patched, _ = bind(wan)
    sample(patched)
    assert len(ran) == PLAN_30 * len(blocks)


def test_start_and_end_keep_steps_out_of_the_cache(wan):
    patched, log = bind(wan, start=0.3, end=0.7)
    sample(patched)
    sampling = wan.get_model_object("model_sampling")
    first, last = sampling.percent_to_sigma(0.3), sampling.percent_to_sigma(0.7)
    run = only_run(log)
    skipped = [record for record in run.steps if not record.computed]
    assert skipped
    assert all(last < record.sigma <= first for record in skipped)
    assert {record.reason for record in run.steps} >= {"outside window", "skipped"}


def test_motion_adds_computes(wan, pack):
    from adacache.adacache_core import MotionRegularization

    plain, log = bind(wan)
    sample(plain)
    moving, moving_log = bind(wan, motion=MotionRegularization())
    sample(moving)
    assert only_run(moving_log).computed_steps > only_run(log).computed_steps == PLAN_30
    steps = only_run(moving_log).steps
    third = [record.step for record in steps if record.computed][2]
    # Nowhere else. What random weights make of two prompts moves far more than usual.
    assert {record.step: record.motion_score for record in steps if record.motion_score is not None} == {third: 1.3}
    assert only_run(moving_log).computed_steps == round(1.3 * 30 / 2.3)


class TestRefusals:
    def test_more_stride_than_frames_is_refused_before_sampling(self, wan, pack):
        from adacache.adacache_core import ConfigurationError, MotionRegularization

        patched, _ = bind(wan, motion=MotionRegularization(strides=(3,)))
        with pytest.raises(ConfigurationError, match="stride of 3 needs more than 3 latent frames, the video has 3"):
            sample(patched, frames=3, callback=lambda *_: pytest.fail("a step was sampled"))

    @pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1)])
    def test_start_after_end(self, wan, pack, start, end):
        from adacache.adacache_core import ConfigurationError

        with pytest.raises(ConfigurationError, match="start_percent must be below end_percent, both within 0 and 1"):
            bind(wan, start=start, end=end)

    def test_two_caches_on_one_model(self, wan, pack):
        from adacache.adacache_core import ConfigurationError
        from comfy_extras.nodes_easycache import EasyCacheNode

        patched, _ = bind(wan)
        with pytest.raises(ConfigurationError, match="already has a cache, AdaCache"):
            bind(patched)
        easy = EasyCacheNode.execute(wan, 0.2, 0.15, 0.95, False).args[0]
        with pytest.raises(ConfigurationError, match="already has a cache, EasyCache"):
            bind(easy)
        both = EasyCacheNode.execute(patched, 0.2, 0.15, 0.95, False).args[0]
        with pytest.raises(ConfigurationError, match="already has a cache, EasyCache"):
            sample(both)

    def test_models_that_are_not_video_transformers(self, wan, pack):
        import comfy.ops
        from adacache.adacache_core import UnsupportedModelError
        from comfy.ldm.flux.model import Flux
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        plain = comfy.ops.disable_weight_init
        unet = UNetModel(
            image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=[1], channel_mult=(1,),
            transformer_depth=[0], transformer_depth_middle=-1, transformer_depth_output=[0, 0], num_heads=1,
            operations=plain,
        )  # fmt: skip
        flux = Flux(
            in_channels=4, out_channels=4, vec_in_dim=8, context_in_dim=8, hidden_size=32, mlp_ratio=1, num_heads=1,
            depth=1, depth_single_blocks=1, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True,
            guidance_embed=False, txt_ids_dims=[], operations=plain,
        )  # fmt: skip
        for network, name in ((unet, "openaimodel.UNetModel"), (flux, "flux.model.Flux")):
            other = wan.clone()
            other.model = type("BaseModel", (), {"diffusion_model": network})()
            with pytest.raises(UnsupportedModelError, match=f"{name}.*Load one of: Wan"):
                bind(other)


def test_few_steps_say_why_nothing_is_skipped(wan):
    patched, log = bind(wan, "fast")
    assert torch.equal(sample(patched, steps=4), sample(wan, steps=4))
    run = only_run(log)
    assert run.computed_steps == 4
    assert [record.reason for record in run.steps] == ["too few steps"] * 4
