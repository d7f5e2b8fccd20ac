"""A tiny Wan, loaded by ComfyUI's loader and sampled by ComfyUI's samplers in this process."""

from __future__ import annotations

from functools import partial

import pytest
import tiny_wan
import torch
from tiny_wan import bind, bind_every_step, decisions, latents, memory, only_run, runs
from ways.trained import calls_of, compare

STEPS = 30
sample = partial(tiny_wan.sample, steps=STEPS)
pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_computing_every_step_changes_no_bit(wan, cfg):
    patched, log = bind_every_step(wan)
    assert torch.equal(sample(patched, cfg=cfg), sample(wan, cfg=cfg))
    assert only_run(log).count("computed") == STEPS


def test_a_pack_that_is_installed_but_not_used_leaves_the_model_alone(wan):
    before = sample(wan)
    patched, _ = bind(wan, "fast")
    cached = sample(patched)
    assert not torch.equal(cached, before), "this test must be able to notice a change"
    assert torch.equal(sample(wan), before)


@pytest.mark.parametrize("preset", ["balanced", "paper-fast"])
def test_same_seed_gives_the_same_bits_and_every_run_starts_afresh(wan, preset):
    patched, log = bind(wan, preset)
    first = sample(patched)
    sample(patched, seed=2, frames=3)
    assert torch.equal(sample(patched), first)
    first_run, _, third_run = runs(log)
    assert decisions(first_run) == decisions(third_run)


def test_presets_compute_as_many_steps_as_they_say(wan):
    from adacache.adacache_core import SPEEDUPS

    for preset, speedup in SPEEDUPS.items():
        run = compare(wan, sample, preset).run
        assert run.count("computed") == run.settings["computes"] == round(STEPS / speedup)
    for speedup, computes in ((1.5, 20), (3.0, 10), (1000.0, 4)):
        run = compare(wan, sample, "target", target_speedup=speedup).run
        assert run.count("computed") == computes, "first, one soon after it, last, and no 17 from one to the next"


def test_skipped_steps_run_nothing_of_the_model(wan):
    """Looked at step by step; ``compare`` looks at the sum wherever it is used."""
    patched, log = bind(wan)
    ran = []
    with calls_of(wan) as calls:
        sample(patched, callback=lambda *_: ran.append(sum(call.modules.total() for call in calls.made)))
    per_step = [after - before for before, after in zip([0, *ran], ran, strict=False)]
    assert [count > 0 for count in per_step] == decisions(only_run(log))
    assert not calls.outside


def test_the_report_says_what_was_measured_at_a_compute(wan):
    """How far the forecast of a computed step was off it: from the third compute on, and 0 < miss."""
    patched, log = bind(wan)
    sample(patched)
    steps = only_run(log).steps
    assert all(record.miss is None for record in steps if record.kind == "skipped")
    misses = [record.miss for record in steps if record.kind == "computed"]
    assert misses[0] is None
    assert all(0 < miss < 1 for miss in misses[2:])


@pytest.mark.parametrize(
    ("sampler", "cfg", "kept"),
    # The last three predictions of each condition and of what guidance made of them, and the last correction; of one
    # alone they are both. Two where noise is added, guidance is strong, or the sampler looks past it.
    [
        ("euler", 1.0, 3 + 1),
        ("euler", 3.0, 3 * 2 + 3 + 1),
        ("euler", 6.0, 2 * 2 + 2 + 1),
        ("euler_cfg_pp", 3.0, 2 * 2 + 2 + 1),
        ("euler_ancestral", 1.0, 2),
        ("euler_ancestral", 3.0, 2 * 2 + 2),
    ],
)
def test_what_is_kept_is_what_the_report_says_to_the_byte(wan, sampler, cfg, kept):
    """Seen from outside: memory of tensors that is there between steps, and not between those of an uncached run.

    At skipped steps: at computed ones the callback gets a copy of the prediction without its correction.
    """

    def held(model):
        between = []

        def look(step, *_):
            between.append(memory(at_least=latents(1)) if step >= 8 else 0)

        sample(model, steps=12, cfg=cfg, sampler=sampler, callback=look)
        return between

    plain = held(wan)
    patched, log = bind(wan)
    pairs = zip(held(patched), plain, decisions(only_run(log)), strict=True)
    extra = [cached - uncached for cached, uncached, computed in pairs if not computed]
    assert only_run(log).cache_bytes == max(extra) == latents(kept)


def test_few_steps_say_why_nothing_is_skipped(wan):
    patched, log = bind(wan, "fast")
    assert torch.equal(sample(patched, steps=4), sample(wan, steps=4))
    run = only_run(log)
    assert run.count("computed") == 4
    assert [record.reason for record in run.steps] == ["too few steps"] * 4


class TestPaper:
    """The second road, in short; test_families.py has the rest."""

    @pytest.mark.parametrize("preset", ["paper-fast", "paper-slow"])
    def test_conditions_batched_or_split_give_the_same_decisions(self, wan, monkeypatch, preset):
        patched, log = bind(wan, preset)
        batched = sample(patched)
        monkeypatch.setattr(type(wan), "get_free_memory", lambda self, device: 0)
        split = sample(patched)
        one, other = runs(log)
        assert decisions(one) == decisions(other)
        assert one.conditions == other.conditions == 2
        assert one.cache_bytes == other.cache_bytes
        torch.testing.assert_close(batched, split, rtol=1e-4, atol=1e-4)

    def test_it_holds_what_it_says_to_the_byte(self, wan):
        patched, log = bind(wan, "paper-fast")
        sample(patched)
        tokens, width, conditions = 5 * 4 * 4, tiny_wan.WIDTH, 2
        assert only_run(log).cache_bytes == conditions * tokens * width * 4

    @pytest.mark.parametrize(
        ("sampler", "calls"),
        # Calls per condition uncached. Heun's, DPM-2's and SDE's last step makes one call, the others two.
        [("euler", 30), ("heun", 59), ("dpm_2", 59), ("dpmpp_2m", 30), ("dpmpp_sde", 59), ("uni_pc", 30)],
    )
    def test_steps_decide_not_calls(self, wan, sampler, calls):
        patched, log = bind(wan, "paper-fast")
        sample(patched, sampler=sampler)
        run = only_run(log)
        assert sum(record.calls for record in run.steps) == 2 * calls
        assert run.count("skipped") > 0
        assert all(record.computed_calls in (0, record.calls) for record in run.steps)


class TestRefusals:
    def test_more_stride_than_frames_is_refused_before_sampling(self, wan, pack):
        from adacache.adacache_core import ConfigurationError
        from adacache.adacache_core.paper.measure import MotionRegularization

        patched, _ = bind(wan, moreg=MotionRegularization(strides=(3,)))
        with pytest.raises(ConfigurationError, match="stride of 3 needs more than 3 latent frames, the video has 3"):
            sample(patched, frames=3, callback=lambda *_: pytest.fail("a step was sampled"))

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

    @pytest.mark.parametrize("preset", ["paper-fast", "paper-slow"])
    def test_the_papers_presets_on_a_model_whose_blocks_nobody_knows(self, wan, pack, preset):
        from adacache.adacache_core import UnsupportedModelError
        from ways.others import OTHERS, load

        for name, known_as in (("Stable Diffusion 1.5", "openaimodel.UNetModel"), ("Flux", "flux.model.Flux")):
            with pytest.raises(UnsupportedModelError, match=f"{known_as}.*balanced|balanced.*{known_as}"):
                bind(load(OTHERS[name]), preset)
