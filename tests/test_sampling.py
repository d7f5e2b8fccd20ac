"""A tiny Wan, loaded by ComfyUI's loader and sampled by ComfyUI's samplers in this process."""

from __future__ import annotations

import gc
import weakref

import pytest
import tiny_models
import torch

EVERY_STEP = ((1.0, 1),)
PLAN_30 = 13  # steps that "balanced" computes of 30


@pytest.fixture
def bind(pack):
    """Patch a model as the AdaCache node does; returns the patched model and its statistics log."""
    from adacache.adacache_core import Codebook
    from adacache.nodes._binding import CacheSettings
    from adacache.nodes._binding import bind as bind_settings

    def patch(model, preset="balanced", entries=None, replay="auto", start=0.0, end=1.0, motion=None):
        codebook = Codebook(entries) if entries else None
        return bind_settings(model, CacheSettings(preset, codebook, replay, start, end, motion))

    return patch


@pytest.fixture(scope="module")
def wan(pack):
    return tiny_models.load("WAN21_T2V")


def text(value: int, tokens: int = 6) -> list:
    return [[torch.randn(1, tokens, 4096, generator=torch.Generator().manual_seed(value)), {}]]


def sample(model, *, sampler="euler", scheduler="simple", steps=30, cfg=3.0, seed=1, frames=5, batch=1, **arguments):
    import comfy.sample

    noise = torch.randn(batch, 16, frames, 8, 8, generator=torch.Generator().manual_seed(seed))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        arguments.pop("positive", text(7)),
        arguments.pop("negative", text(8)),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=seed,
        **arguments,
    )


def only_run(log):
    [run] = log.of_prompt(None)
    return run.statistics


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_computing_every_step_changes_no_bit(wan, bind, cfg):
    patched, log = bind(wan, "custom", EVERY_STEP)
    assert torch.equal(sample(patched, cfg=cfg), sample(wan, cfg=cfg))
    assert only_run(log).computed_steps == 30


def test_a_pack_that_is_installed_but_not_used_leaves_the_model_alone(wan, bind):
    before = sample(wan)
    patched, _ = bind(wan, "fast")
    cached = sample(patched)
    assert not torch.equal(cached, before), "this test must be able to notice a change"
    assert torch.equal(sample(wan), before)


def test_same_seed_gives_the_same_bits_and_every_run_starts_afresh(wan, bind):
    patched, log = bind(wan, "paper-fast")
    first = sample(patched)
    sample(patched, seed=2, frames=3)
    assert torch.equal(sample(patched), first)
    runs = [run.statistics for run in log.of_prompt(None)]
    assert [record.computed for record in runs[0].steps] == [record.computed for record in runs[2].steps]


def test_conditions_batched_or_split_give_the_same_decisions_and_result(wan, bind, monkeypatch):
    patched, log = bind(wan, "paper-fast")
    batched = sample(patched)
    monkeypatch.setattr(type(wan), "get_free_memory", lambda self, device: 0)
    split = sample(patched)
    runs = [run.statistics for run in log.of_prompt(None)]
    assert [record.computed for record in runs[0].steps] == [record.computed for record in runs[1].steps]
    assert [run.conditions for run in runs] == [2, 2]
    assert runs[0].cache_bytes == runs[1].cache_bytes
    torch.testing.assert_close(batched, split, rtol=1e-4, atol=1e-4)


def test_the_cache_holds_what_it_says_to_the_byte(wan, bind):
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
def test_steps_decide_not_calls(wan, bind, sampler, calls):
    patched, log = bind(wan)
    sample(patched, sampler=sampler)
    run = only_run(log)
    assert run.computed_steps == PLAN_30
    assert [record.step for record in run.steps] == list(range(30))
    assert sum(record.calls for record in run.steps) == 2 * calls
    per_step = {record.step: record.calls for record in run.steps}
    expected = sum(per_step[record.step] for record in run.steps if record.computed)
    assert sum(record.computed_calls for record in run.steps) == expected


def test_skipped_steps_run_no_block(wan, bind, monkeypatch):
    blocks, ran = wan.model.diffusion_model.blocks, []
    original = type(blocks[0]).forward

    def counting(block, *arguments, **keywords):
        ran.append(block)
        return original(block, *arguments, **keywords)

    monkeypatch.setattr(type(blocks[0]), "forward", counting)
    patched, _ = bind(wan)
    sample(patched)
    assert len(ran) == PLAN_30 * len(blocks)


def test_start_and_end_keep_steps_out_of_the_cache(wan, bind):
    patched, log = bind(wan, start=0.3, end=0.7)
    sample(patched)
    sampling = wan.get_model_object("model_sampling")
    first, last = sampling.percent_to_sigma(0.3), sampling.percent_to_sigma(0.7)
    run = only_run(log)
    skipped = [record for record in run.steps if not record.computed]
    assert skipped
    assert all(last < record.sigma <= first for record in skipped)
    assert {record.reason for record in run.steps} >= {"outside window", "skipped"}


def test_motion_adds_computes(wan, bind, pack):
    from adacache.adacache_core import MotionRegularization

    plain, log = bind(wan)
    sample(plain)
    moving, moving_log = bind(wan, motion=MotionRegularization(scale=0.01, exponent=1.0))
    sample(moving)
    assert only_run(moving_log).computed_steps > only_run(log).computed_steps == PLAN_30
    measured = [record.motion_score for record in only_run(moving_log).steps if record.motion_score is not None]
    assert len(measured) == only_run(moving_log).computed_steps - 1


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("failing_call", [0, 7])
def test_nothing_of_a_run_is_alive_after_it(wan, bind, pack, monkeypatch, failing_call):
    from adacache.nodes import _binding

    runs, calls = [], 0

    class Watched(_binding.CacheRun):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            runs.append(weakref.ref(self))

    monkeypatch.setattr(_binding, "CacheRun", Watched)
    patched, log = bind(wan)
    expected = sample(patched)

    def stop(step, *_):
        nonlocal calls
        calls += 1
        if calls > failing_call:
            raise Interrupted

    with pytest.raises(Interrupted):
        sample(patched, callback=stop)
    gc.collect()
    assert len(runs) == 2
    assert [run() for run in runs] == [None, None]
    assert [run.statistics.finished for run in log.of_prompt(None)] == [True, False]
    assert all("forward" not in module.__dict__ for module in wan.model.diffusion_model.modules())
    assert torch.equal(sample(patched), expected), "the next run starts clean"


def test_an_error_in_a_block_leaves_the_model_clean(wan, bind, monkeypatch):
    patched, _ = bind(wan)
    expected = sample(patched)
    block = wan.model.diffusion_model.blocks[1]

    def fail(*_, **__):
        raise torch.OutOfMemoryError("simulated")

    with monkeypatch.context() as patch:
        patch.setattr(type(block.self_attn), "forward", fail)
        with pytest.raises(torch.OutOfMemoryError):
            sample(patched)
    assert torch.equal(sample(patched), expected)


class TestRefusals:
    def test_more_stride_than_frames_is_refused_before_sampling(self, wan, bind, pack):
        from adacache.adacache_core import ConfigurationError, MotionRegularization

        patched, _ = bind(wan, motion=MotionRegularization(strides=(3,)))
        with pytest.raises(ConfigurationError, match="stride of 3 needs more than 3 latent frames, the video has 3"):
            sample(patched, frames=3, callback=lambda *_: pytest.fail("a step was sampled"))

    @pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1)])
    def test_start_after_end(self, wan, bind, pack, start, end):
        from adacache.adacache_core import ConfigurationError

        with pytest.raises(ConfigurationError, match="start_percent must be below end_percent, both within 0 and 1"):
            bind(wan, start=start, end=end)

    def test_two_caches_on_one_model(self, wan, bind, pack):
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

    def test_models_that_are_not_video_transformers(self, wan, bind, pack):
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


def test_few_steps_say_why_nothing_is_skipped(wan, bind):
    patched, log = bind(wan, "fast")
    assert torch.equal(sample(patched, steps=4), sample(wan, steps=4))
    run = only_run(log)
    assert run.computed_steps == 4
    assert [record.reason for record in run.steps] == ["too few steps"] * 4
