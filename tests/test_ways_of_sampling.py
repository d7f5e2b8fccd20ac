"""Every way people sample a video model: samplers, schedules, guiders, windows, hooks, number formats, offloading.

Always a real tiny Wan in ComfyUI's own samplers and nodes, with the number of model calls and block runs asserted.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import tiny_models
import torch
from tiny_wan import (
    BLOCKS,
    bind,
    bind_every_step,
    close,
    counting,
    decisions,
    noise,
    only_run,
    planned,
    residual_bytes,
    run_guider,
    runs,
    sample,
    text,
    watching,
)

STEPS = 10
COMPUTED = planned(STEPS)
pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture
def held_at_the_end(pack, monkeypatch):
    """Bytes of residuals that a run holds when it ends, a number per run."""
    from adacache.adacache_core import CacheRun

    held, finish = [], CacheRun.finish

    def noting(run):
        statistics = finish(run)
        held.append(run._cache.nbytes)
        return statistics

    monkeypatch.setattr(CacheRun, "finish", noting)
    return held


def simple_sigmas(model, steps=STEPS, scheduler="simple"):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    return BasicScheduler.execute(model, scheduler, steps, 1.0).args[0]


class TestSamplers:
    @pytest.mark.parametrize(
        ("sampler", "calls"),
        # Model calls for ten steps, both conditions in each. Samplers of two and three stages make one call at the
        # last step, which ends at sigma 0; heunpp2 makes three, two at the last but one and one at the last.
        [
            ("euler", 10),
            ("euler_ancestral", 10),
            ("heun", 19),
            ("heunpp2", 27),
            ("dpm_2", 19),
            ("dpm_2_ancestral", 19),
            ("lms", 10),
            ("dpmpp_2s_ancestral", 19),
            ("dpmpp_sde", 19),
            ("dpmpp_2m", 10),
            ("dpmpp_2m_sde", 10),
            ("dpmpp_3m_sde", 10),
            ("ddpm", 10),
            ("lcm", 10),
            ("ipndm", 10),
            pytest.param("deis", 10, marks=pytest.mark.filterwarnings("ignore:__array_wrap__")),
            ("res_multistep", 10),
            ("res_multistep_ancestral", 10),
            ("gradient_estimation", 10),
            ("er_sde", 10),
            ("seeds_2", 19),
            ("seeds_3", 28),
            ("sa_solver", 10),
            ("sa_solver_pece", 19),
            ("ddim", 10),
            ("uni_pc", 10),
            ("uni_pc_bh2", 10),
            ("exp_heun_2_x0", 19),
            ("euler_cfg_pp", 10),
        ],
    )
    def test_steps_are_skipped_whole_whatever_the_sampler_calls(self, wan, sampler, calls):
        patched, log = bind(wan)
        with counting() as ran:
            samples = sample(patched, sampler=sampler)
        run = only_run(log)
        assert ran.conditions == [2] * calls
        assert [record.step for record in run.steps] == list(range(STEPS))
        assert run.computed_steps == COMPUTED
        assert sum(record.calls for record in run.steps) == 2 * calls
        computing = sum(record.calls for record in run.steps if record.computed)
        assert ran.blocks * 2 == computing * BLOCKS
        assert samples.isfinite().all()

    @pytest.mark.filterwarnings("ignore:To copy construct")
    def test_a_sampler_with_steps_of_its_own(self, wan):
        """dpm_adaptive chooses its noise levels itself, three calls each, up to a hundred steps that nobody listed."""
        every, _ = bind_every_step(wan)
        assert torch.equal(sample(every, sampler="dpm_adaptive"), sample(wan, sampler="dpm_adaptive"))
        patched, log = bind(wan)
        with counting() as ran, watching():
            samples = sample(patched, sampler="dpm_adaptive")
        assert samples.isfinite().all()
        run = only_run(log)
        assert 2 < run.computed_steps < len(run.steps)
        assert ran.calls * 2 == sum(record.calls for record in run.steps)
        assert ran.blocks * 2 == BLOCKS * sum(record.computed_calls for record in run.steps) < BLOCKS * 2 * ran.calls


class TestSchedules:
    @pytest.mark.parametrize(
        "scheduler",
        [
            "simple",
            "sgm_uniform",
            "karras",
            "exponential",
            "ddim_uniform",
            "beta",
            "normal",
            "linear_quadratic",
            "kl_optimal",
        ],
    )
    def test_the_plan_follows_the_noise_levels(self, wan, scheduler):
        from adacache.adacache_core import plan
        from comfy.samplers import calculate_sigmas

        sigmas = calculate_sigmas(wan.get_model_object("model_sampling"), scheduler, 24).tolist()
        total = len(sigmas) - 1
        last = 2 if total > 20 else 1
        forced = {0, 1, *range(total - last, total)}
        expected = plan(sigmas[:-1], planned(total), forced)
        assert len(expected) == planned(total)
        patched, log = bind(wan)
        with counting() as ran:
            sample(patched, steps=24, scheduler=scheduler)
        run = only_run(log)
        assert [record.sigma for record in run.steps] == pytest.approx(sigmas[:-1])
        assert [record.step for record in run.steps if record.computed] == list(expected)
        assert (ran.calls, ran.blocks) == (total, BLOCKS * planned(total))

    def test_plans_of_two_schedules_differ(self, wan):
        made = []
        for scheduler in ("simple", "beta"):
            patched, log = bind(wan)
            sample(patched, steps=24, scheduler=scheduler)
            made.append(decisions(only_run(log)))
        assert made[0] != made[1]

    @pytest.mark.parametrize(
        ("text_of_sigmas", "computed"),
        [
            ("1, .98, .95, .9, .84, .77, .69, .6, .5, .39, .27, .14, 0", planned(12)),
            ("1, .9, .8, .7, .6, .5, .4, .3, .25, .2", planned(9)),  # hands over at sigma 0.2
            ("1, .9, .9, .8, .7, .6, .5, .4, .3, .2, .1, 0", planned(11)),  # one noise level twice
            ("1, .8, .6, .4, .2, .1, 0", 6),  # too few to skip any
        ],
    )
    def test_manual_sigmas(self, wan, text_of_sigmas, computed):
        sigmas = manual_sigmas(text_of_sigmas)
        patched, log = bind(wan)
        with counting() as ran:
            samples = run_guider(cfg_guider(patched), sigmas)
        run = only_run(log)
        levels = list(dict.fromkeys(sigmas[:-1].tolist()))
        assert [record.sigma for record in run.steps] == pytest.approx(levels)
        assert run.computed_steps == computed
        assert ran.calls == len(sigmas) - 1
        assert ran.blocks == BLOCKS * sum(record.computed_calls for record in run.steps) / 2
        assert samples.isfinite().all()

    def test_a_part_of_no_steps(self, wan, pack):
        from adacache.adacache_core import MotionRegularization

        patched, log = bind(wan, motion=MotionRegularization())
        nothing_left = simple_sigmas(wan)[-1:]  # what SplitSigmas gives behind the last step
        assert torch.equal(run_guider(cfg_guider(patched), nothing_left), run_guider(cfg_guider(wan), nothing_left))
        assert runs(log) == []

    def test_a_schedule_that_goes_back_up_starts_over_there(self, wan):
        """Restart sampling: noise is added again, and no residual of the first descent is replayed in the second."""
        down, again = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.1]
        sigmas = manual_sigmas(", ".join(map(str, [*down, *again, 0])))
        plain = run_guider(cfg_guider(wan), sigmas)
        every, _ = bind_every_step(wan)
        assert torch.equal(run_guider(cfg_guider(every), sigmas), plain)
        patched, log = bind(wan)
        run_guider(cfg_guider(patched), sigmas)
        run = only_run(log)
        assert [record.sigma for record in run.steps] == pytest.approx([*down, *again])
        computed = decisions(run)
        assert not all(computed)
        assert computed[len(down)], "the first step after going back has nothing to replay"
        levels = sorted([*down, *again], reverse=True)
        assert [record.step for record in run.steps] == [levels.index(sigma) for sigma in (*down, *again)]

    def test_flipped_sigmas_compute_every_step(self, wan):
        """Unsampling goes from the video to the noise: no plan covers that, and nothing is skipped."""
        from comfy_extras.nodes_custom_sampler import FlipSigmas

        sigmas = FlipSigmas.execute(simple_sigmas(wan)).args[0]
        patched, log = bind(wan)
        with counting() as ran:
            unsampled = run_guider(cfg_guider(patched), sigmas)
        assert torch.equal(unsampled, run_guider(cfg_guider(wan), sigmas))
        assert (ran.calls, ran.blocks) == (STEPS, BLOCKS * STEPS)
        assert all(decisions(only_run(log)))

    def test_a_part_of_denoising(self, wan):
        """Video to video at denoise 0.5: ten steps of the second half of twenty."""
        patched, log = bind(wan)
        with counting() as ran:
            sample(patched, denoise=0.5)
        run = only_run(log)
        assert [record.sigma for record in run.steps] == pytest.approx(simple_sigmas(wan, 20).tolist()[10:-1])
        assert (run.computed_steps, ran.blocks) == (COMPUTED, BLOCKS * COMPUTED)


def manual_sigmas(sigmas):
    from comfy_extras.nodes_custom_sampler import ManualSigmas

    return ManualSigmas.execute(sigmas).args[0]


def cfg_guider(model, cfg=3.0, positive=None, negative=None):
    from comfy_extras.nodes_custom_sampler import CFGGuider

    return CFGGuider.execute(model, positive or text(7), negative or text(8), cfg).args[0]


class TestConditions:
    def test_every_video_of_a_batch_is_cached_like_alone(self, wan):
        pair = torch.cat([noise(seed=1), noise(seed=2)])
        patched, log = bind(wan)
        with counting(batch=2) as ran:
            together = sample(patched, noise=pair)
        assert ran.conditions == [2] * STEPS
        assert only_run(log).cache_bytes == 2 * residual_bytes(2)
        for index in range(2):
            alone = sample(patched, noise=pair[index : index + 1])
            assert close(together[index : index + 1], alone)
            assert not close(together[index : index + 1], sample(wan, noise=pair[index : index + 1]))

    def test_prompts_of_different_length_are_called_apart_and_cached_apart(self, wan):
        longer = text(8, tokens=11)
        patched, log = bind(wan)
        with counting() as ran, watching() as seen:
            samples = sample(patched, negative=longer)
        assert ran.conditions == [1] * (2 * STEPS)
        assert ran.blocks == 2 * BLOCKS * COMPUTED
        assert len(seen) == only_run(log).conditions == 2
        assert only_run(log).computed_steps == COMPUTED
        assert only_run(log).cache_bytes == residual_bytes(2)
        every, _ = bind_every_step(wan)
        assert torch.equal(sample(every, negative=longer), sample(wan, negative=longer))
        assert samples.isfinite().all()

    def test_a_regional_prompt_has_a_residual_of_its_own_in_both_prompts(self, wan):
        """ComfyUI gives the negative prompt the region's copy, and with it the positive one's identifier."""
        from nodes import ConditioningSetArea

        [region] = ConditioningSetArea().append(text(9), 32, 64, 0, 0, 1.0)
        positive = [*text(7), *region]
        patched, log = bind(wan)
        with counting() as ran, watching() as seen:
            cached = sample(patched, positive=positive)
        run = only_run(log)
        assert ran.conditions == [2] * (2 * STEPS)
        assert len(seen) == run.conditions == 4
        assert run.computed_steps == COMPUTED
        assert run.cache_bytes == residual_bytes(2) + residual_bytes(2) // 2
        every, _ = bind_every_step(wan)
        plain = sample(wan, positive=positive)
        assert torch.equal(sample(every, positive=positive), plain)
        assert not torch.equal(cached, plain)

    def test_a_prompt_that_starts_midway_is_computed_where_it_is_new(self, wan):
        from nodes import ConditioningSetTimestepRange

        sampling = wan.get_model_object("model_sampling")
        [early] = ConditioningSetTimestepRange().set_range(text(7), 0.0, 0.5)
        [late] = ConditioningSetTimestepRange().set_range(text(9), 0.5, 1.0)
        patched, log = bind(wan)
        with watching() as seen:
            sample(patched, positive=[*early, *late], steps=20)
        run = only_run(log)
        assert len(seen) == run.conditions == 3
        change = next(r for r in run.steps if r.sigma <= sampling.percent_to_sigma(0.5))
        assert change.computed
        others = [record for record in run.steps if record is not change]
        assert sum(record.computed for record in others) in (planned(20) - 1, planned(20))

    def test_image_to_video(self, pack):
        """The start image reaches the model in its input, so skipped steps see it too."""
        row = tiny_models.family("WAN21_I2V")
        patched, log = bind(tiny_models.load("WAN21_I2V"))
        image = row.conditioning()
        mirrored = {**image, "concat_latent_image": image["concat_latent_image"].flip(-1)}
        made = []
        for start in (image, mirrored):
            with counting() as ran, watching() as seen:
                made.append(tiny_models.sample(patched, replace(row, conditioning=partial(dict, start)), STEPS))
            assert ran.conditions == [2] * STEPS
            assert (ran.blocks, len(seen)) == (BLOCKS * COMPUTED, 2)
        assert not torch.equal(*made)
        assert [run.computed_steps for run in runs(log)] == [COMPUTED, COMPUTED]


def advanced(model, latent, add_noise, first, last, leftover, steps=24):
    """The node KSampler (Advanced)."""
    from nodes import KSamplerAdvanced

    [made] = KSamplerAdvanced().sample(
        model, add_noise, 1, steps, 3.0, "euler", "simple", text(7), text(8), latent, first, last, leftover
    )
    return made


def two_passes(first, second):
    latent = {"samples": torch.zeros(1, 16, 5, 8, 8)}
    half = advanced(first, latent, "enable", 0, 12, "enable")
    return advanced(second, half, "disable", 12, 10000, "disable")


class TestPasses:
    def test_ksampler_advanced_plans_each_pass_for_itself(self, wan):
        plain = two_passes(wan, wan)["samples"]
        every, _ = bind_every_step(wan)
        assert torch.equal(two_passes(every, every)["samples"], plain)
        patched, log = bind(wan)
        with counting() as ran:
            made = two_passes(patched, patched)["samples"]
        sigmas = simple_sigmas(wan, 24).tolist()
        first, second = runs(log)
        assert [record.sigma for record in first.steps] == pytest.approx(sigmas[:12])
        assert [record.sigma for record in second.steps] == pytest.approx(sigmas[12:24])
        assert [run.computed_steps for run in (first, second)] == [planned(12), planned(12)]
        assert (ran.calls, ran.blocks) == (24, 2 * BLOCKS * planned(12))
        assert first.finished
        assert second.finished
        assert 0 < (made - plain).abs().max() < plain.std()

    def test_two_experts_report_one_run_each(self, wan, pack):
        """Wan 2.2: the high-noise model makes the first steps, the low-noise model the others."""
        from adacache.nodes.inspector import AdaCacheInspector

        low_noise = tiny_models.load("WAN21_T2V")
        low_noise.model.diffusion_model.head.head.weight.data.mul_(0.9)
        high, of_high = bind(wan, "balanced")
        low, of_low = bind(low_noise, "quality")
        with counting() as ran:
            latent = two_passes(high, low)
        shown = AdaCacheInspector.execute(latent, of_high, of_low)
        passed_on, text_of_report, chart = shown.args
        assert passed_on is latent
        report = json.loads(text_of_report)
        quality = 8  # 12 / 1.6, rounded
        assert [(run["total_steps"], run["computed_steps"]) for run in report["runs"]] == [
            (12, planned(12)),
            (12, quality),
        ]
        assert (report["total_steps"], report["computed_steps"]) == (24, planned(12) + quality)
        assert ran.blocks == BLOCKS * (planned(12) + quality)
        assert report["preset"] == "balanced + quality"
        assert [e["run"] for e in report["explanation"] if e["key"] == "run"] == [1, 2]
        sigmas = simple_sigmas(wan, 24).tolist()
        assert [r["sigma"] for run in report["runs"] for r in run["steps"]] == pytest.approx(sigmas[:24])
        assert report["cache_bytes"] == residual_bytes(2)
        assert chart.shape[-1] == 3
        assert not torch.equal(latent["samples"], two_passes(high, high)["samples"])


class TestGuiders:
    def guide(self, patched, log, make, conditions):
        """Sample with a guider; every step is one call with all its conditions."""
        sigmas = simple_sigmas(patched)
        with counting() as ran, watching() as seen:
            samples = run_guider(make(patched), sigmas)
        run = only_run(log)
        assert ran.conditions == [conditions] * STEPS
        assert ran.blocks == BLOCKS * COMPUTED
        assert len(seen) == run.conditions == conditions
        assert run.cache_bytes == residual_bytes(conditions)
        assert samples.isfinite().all()
        return samples

    def same_uncached(self, wan, make):
        every, _ = bind_every_step(wan)
        plain = run_guider(make(wan), simple_sigmas(wan))
        assert torch.equal(run_guider(make(every), simple_sigmas(wan)), plain)
        return plain

    def test_basic_guider(self, wan):
        from comfy_extras.nodes_custom_sampler import BasicGuider

        def make(model):
            return BasicGuider.execute(model, text(7)).args[0]

        self.guide(*bind(wan), make, 1)
        self.same_uncached(wan, make)

    def test_cfg_guider(self, wan):
        made = self.guide(*bind(wan), cfg_guider, 2)
        plain = self.same_uncached(wan, cfg_guider)
        assert torch.equal(plain, sample(wan, noise=seeded_noise())), "the same as KSampler"
        assert not torch.equal(made, plain)

    @pytest.mark.parametrize("style", ["regular", "nested"])
    def test_dual_cfg(self, wan, style):
        from comfy_extras.nodes_custom_sampler import DualCFGGuider

        def make(model):
            return DualCFGGuider.execute(model, text(7), text(9), text(8), 3.0, 2.0, style).args[0]

        self.guide(*bind(wan), make, 3)
        self.same_uncached(wan, make)

    def test_perpendicular_negative(self, wan):
        from comfy_extras.nodes_perpneg import PerpNegGuider

        def make(model):
            return PerpNegGuider.execute(model, text(7), text(8), text(9), 3.0, 1.0).args[0]

        self.guide(*bind(wan), make, 3)
        self.same_uncached(wan, make)

    def test_a_second_model_for_the_negative_prompt_follows_the_first_ones_decisions(self, wan):
        from comfy_extras.nodes_custom_sampler import DualModelGuider

        second = tiny_models.load("WAN21_T2V")

        def make(model):
            return DualModelGuider.execute(model, text(7), 3.0, second, text(8)).args[0]

        patched, log = bind(wan)
        with counting() as ran, watching() as seen:
            run_guider(make(patched), simple_sigmas(wan))
        assert ran.conditions == [1] * (2 * STEPS)
        assert ran.blocks == 2 * BLOCKS * COMPUTED
        assert len(seen) == only_run(log).conditions == 2
        self.same_uncached(wan, make)

    def test_guidance_that_ends_midway(self, wan, held_at_the_end):
        """CFG Override to 1: the negative prompt is no longer called, and its residual no longer held."""
        from comfy_extras.nodes_custom_sampler import CFGOverride

        start = float(wan.get_model_object("model_sampling").percent_to_sigma(0.5))
        sigmas = simple_sigmas(wan)
        guided = sum(sigma > start for sigma in sigmas[:-1].tolist())
        assert 0 < guided < STEPS
        patched, log = bind(CFGOverride.execute(wan, 1.0, 0.5, 1.0).args[0])
        with counting() as ran:
            run_guider(cfg_guider(patched), sigmas)
        run = only_run(log)
        assert ran.conditions == [2] * guided + [1] * (STEPS - guided)
        assert (run.computed_steps, ran.blocks) == (COMPUTED, BLOCKS * COMPUTED)
        assert (run.cache_bytes, held_at_the_end) == (residual_bytes(2), [residual_bytes(1)])


def seeded_noise():
    from comfy_extras.nodes_custom_sampler import RandomNoise

    return RandomNoise.execute(1).args[0].generate_noise({"samples": torch.zeros(1, 16, 5, 8, 8)})


class TestSkipLayerGuidance:
    def guided(self, model, layers="1", start=0.0, end=1.0):
        from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

        return SkipLayerGuidanceDiT.execute(model, 2.0, start, end, layers, "").args[0]

    @pytest.mark.parametrize("order", ["AdaCache first", "AdaCache last"])
    def test_the_weakened_call_has_a_residual_of_its_own(self, wan, order):
        if order == "AdaCache first":
            patched, log = bind(wan)
            patched = self.guided(patched)
        else:
            patched, log = bind(self.guided(wan))
        with counting() as ran, watching() as seen:
            samples = sample(patched)
        assert ran.conditions == [2, 1] * STEPS
        assert ran.blocks == (BLOCKS + BLOCKS - 1) * COMPUTED
        assert len(seen) == only_run(log).conditions == 3
        assert only_run(log).cache_bytes == residual_bytes(3)
        every, _ = bind_every_step(self.guided(wan))
        plain = sample(self.guided(wan))
        assert torch.equal(sample(every), plain)
        assert not torch.equal(plain, sample(wan))
        assert not torch.equal(plain, samples)

    def test_its_residual_goes_where_the_guidance_ends(self, wan, held_at_the_end):
        end = float(wan.get_model_object("model_sampling").percent_to_sigma(0.3))
        sigmas = simple_sigmas(wan)[:-1].tolist()
        weakened = [sigma for sigma in sigmas if sigma >= end]
        patched, log = bind(self.guided(wan, end=0.3))
        with counting() as ran:
            sample(patched)
        run = only_run(log)
        assert 0 < len(weakened) < STEPS
        assert ran.conditions == [2, 1] * len(weakened) + [2] * (STEPS - len(weakened))
        computed = [record.sigma for record in run.steps if record.computed]
        assert ran.blocks == BLOCKS * COMPUTED + (BLOCKS - 1) * sum(sigma >= end for sigma in computed)
        assert (run.cache_bytes, held_at_the_end) == (residual_bytes(3), [residual_bytes(2)])

    def test_without_the_first_block_the_weakened_call_is_always_computed(self, wan):
        """Nothing tells what goes into the blocks, so there is no residual to replay; the others are still cached."""
        patched, log = bind(self.guided(wan, layers="0"))
        with counting() as ran:
            samples = sample(patched)
        assert ran.conditions == [2, 1] * STEPS
        assert ran.blocks == BLOCKS * COMPUTED + (BLOCKS - 1) * STEPS
        assert "nothing cached for a condition" in {record.reason for record in only_run(log).steps}
        every, _ = bind_every_step(self.guided(wan, layers="0"))
        assert torch.equal(sample(every), sample(self.guided(wan, layers="0")))
        assert samples.isfinite().all()

    def test_simple_weakens_the_negative_prompt_only(self, wan):
        from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

        guided = SkipLayerGuidanceDiTSimple.execute(wan, 0.0, 1.0, "1, 2", "").args[0]
        patched, log = bind(guided)
        with counting() as ran, watching() as seen:
            sample(patched)
        assert ran.conditions == [1, 1] * STEPS
        assert ran.blocks == (BLOCKS + BLOCKS - 2) * COMPUTED
        assert len(seen) == only_run(log).conditions == 2
        every, _ = bind_every_step(guided)
        assert torch.equal(sample(every), sample(guided))


class TestContextWindows:
    def windowed(self, model, schedule, fix=True):
        from comfy_extras.nodes_context_windows import ContextWindowsManualNode

        return ContextWindowsManualNode.execute(
            model, 3, 1, schedule, 1, False, "pyramid", 2, False, causal_window_fix=fix
        ).args[0]

    @pytest.mark.parametrize("fix", [True, False])
    def test_every_window_has_a_residual_of_its_own(self, wan, fix):
        patched, log = bind(self.windowed(wan, "standard_static", fix))
        with counting() as ran, watching() as seen:
            samples = sample(patched, frames=7)
        # Frames 0 to 2, 2 to 4 and 4 to 6; the fix puts one frame more before all but the first.
        assert {condition[2] for condition in seen.values()} == {(0, 1, 2), (2, 3, 4), (4, 5, 6)}
        assert ran.conditions == [2] * (3 * STEPS)
        assert ran.blocks == 3 * BLOCKS * COMPUTED
        run = only_run(log)
        assert len(seen) == run.conditions == 3 * 2
        assert run.cache_bytes == residual_bytes(2, frames=3 * 3 + 2 * fix)
        plain = sample(self.windowed(wan, "standard_static", fix), frames=7)
        every, _ = bind_every_step(self.windowed(wan, "standard_static", fix))
        assert torch.equal(sample(every, frames=7), plain)
        assert not torch.equal(samples, plain)

    def test_windows_that_move_are_computed_where_they_are_new(self, wan):
        frames, steps = 19, 30
        patched, log = bind(self.windowed(wan, "standard_uniform"))
        with counting() as ran, watching() as seen:
            samples = sample(patched, frames=frames, steps=steps)
        run = only_run(log)
        conditions = len(seen)
        assert conditions > max(record.calls for record in run.steps), "the windows move"
        assert run.computed_steps > planned(steps)
        assert {record.reason for record in run.steps} >= {"skipped", "nothing cached for a condition"}
        assert ran.calls * 2 == sum(record.calls for record in run.steps)
        assert ran.blocks * 2 == BLOCKS * sum(record.computed_calls for record in run.steps) < BLOCKS * 2 * ran.calls
        held = sum(residual_bytes(1, 2, frames=3 + (condition[2][0] > 0)) for condition in seen.values())
        assert run.cache_bytes <= held
        assert samples.isfinite().all()
        every, _ = bind_every_step(self.windowed(wan, "standard_uniform"))
        plain = self.windowed(wan, "standard_uniform")
        assert torch.equal(sample(every, frames=11), sample(plain, frames=11))

    def test_wan_context_windows(self, wan):
        """The node that counts in frames of the video: 9 are 3 of latent, overlapping by 4, which are 1."""
        from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

        windowed = WanContextWindowsManualNode.execute(
            wan, 9, 4, "standard_static", 1, False, "overlap-linear", False
        ).args[0]
        patched, log = bind(windowed)
        with counting() as ran, watching():
            sample(patched, frames=7)
        assert (ran.calls, ran.blocks) == (3 * STEPS, 3 * BLOCKS * COMPUTED)
        assert only_run(log).conditions == 6


class TestWeights:
    """LoRAs, hooks, number formats and offloading."""

    def test_a_lora_before_or_after_the_node(self, wan):
        from comfy.sd import load_lora_for_models

        with_lora, _ = load_lora_for_models(wan, None, lora(), 1.0, 0.0)
        plain = sample(with_lora)
        assert not close(plain, sample(wan))
        every, _ = bind_every_step(with_lora)
        assert torch.equal(sample(every), plain)
        before, _ = bind(with_lora)
        patched, log = bind(wan)
        after, _ = load_lora_for_models(patched, None, lora(), 1.0, 0.0)
        with counting() as ran:
            made = sample(after)
        assert torch.equal(made, sample(before))
        assert (only_run(log).computed_steps, ran.blocks) == (COMPUTED, BLOCKS * COMPUTED)

    def test_hooked_conditions_are_called_and_cached_apart(self, wan):
        hooked = with_hooks(text(7))
        patched, log = bind(wan)
        with counting() as ran, watching() as seen:
            samples = sample(patched, positive=hooked)
        assert ran.conditions == [1, 1] * STEPS
        assert ran.blocks == 2 * BLOCKS * COMPUTED
        assert sorted(condition[-1] for condition in seen.values()) == [(), (1.0,)]
        assert only_run(log).conditions == 2
        plain = sample(wan, positive=hooked)
        every, _ = bind_every_step(wan)
        assert torch.equal(sample(every, positive=hooked), plain)
        assert not close(plain, sample(wan))
        assert not torch.equal(samples, plain)

    def test_a_residual_never_crosses_a_keyframe(self, wan):
        """The LoRA goes from 1 to 0.2 midway: what was computed under the one is not replayed under the other."""
        change = float(wan.get_model_object("model_sampling").percent_to_sigma(0.7))
        hooked = with_hooks(text(7), (0.0, 1.0), (0.7, 0.2))
        patched, log = bind(wan, "fast")
        with counting() as ran, watching() as seen:
            sample(patched, positive=hooked, steps=20)
        run = only_run(log)
        plain_run = self.without_hooks(wan)
        first = next(record.step for record in run.steps if record.sigma <= change)
        assert not plain_run.steps[first].computed, "this test needs a keyframe where a skip was planned"
        assert {condition[-1] for condition in seen.values()} == {(), (1.0,), (0.2,)}
        assert run.conditions == 3
        # One call of that step, the hooked one, is computed in addition.
        assert (run.steps[first].calls, run.steps[first].computed_calls) == (2, 1)
        assert run.steps[first].reason == "nothing cached for a condition"
        assert ran.blocks == BLOCKS * sum(record.computed_calls for record in run.steps)

    def without_hooks(self, wan):
        patched, log = bind(wan, "fast")
        sample(patched, steps=20)
        return only_run(log)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_number_formats(self, pack, dtype):
        from comfy_extras.nodes_model_advanced import ModelComputeDtype

        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        [model] = ModelComputeDtype().patch(tiny_models.load("WAN21_T2V", dtype=dtype), names[dtype])
        plain = sample(model)
        every, _ = bind_every_step(model)
        patched, log = bind(model)
        with unchanged_inputs() as calls:
            assert torch.equal(sample(every), plain)
            made = sample(patched)
        assert calls == [2 * STEPS]
        run = only_run(log)
        assert run.computed_steps == COMPUTED
        assert run.cache_bytes == residual_bytes(2, itemsize=dtype.itemsize)
        assert 0 < (made - plain).abs().max() < plain.std()

    def test_weights_in_scaled_fp8(self, pack):
        """A checkpoint as people share them: linear weights of the blocks in float8, each with a scale."""
        import comfy.sd

        row = tiny_models.family("WAN21_T2V")
        model = comfy.sd.load_diffusion_model_state_dict(scaled_fp8(tiny_models.state_dict(row)))
        query = model.model.diffusion_model.blocks[0].self_attn.q
        assert query.weight.dtype is not None
        assert query.quant_format == "float8_e4m3fn"
        plain = sample(model)
        assert close(plain, sample(tiny_models.load("WAN21_T2V")), 0.5)
        every, _ = bind_every_step(model)
        assert torch.equal(sample(every), plain)
        patched, log = bind(model)
        with counting() as ran:
            made = sample(patched)
        assert (only_run(log).computed_steps, ran.blocks) == (COMPUTED, BLOCKS * COMPUTED)
        assert 0 < (made - plain).abs().max() < plain.std()

    def test_a_skipped_step_moves_no_block_weights(self, wan, monkeypatch):
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
        of_blocks = {id(layer) for layer in model.model.diffusion_model.blocks.modules()}
        per_step = []
        sample(patched, callback=lambda *_: per_step.append(sum(id(layer) in of_blocks for layer in fetched)))
        moved = [after - before for before, after in zip([0, *per_step], per_step, strict=False)]
        # Of a block: query, key, value and output of two attentions, and two layers; norms have nothing to move.
        linear = sum(type(m).__name__ == "Linear" for m in model.model.diffusion_model.blocks.modules())
        assert linear == BLOCKS * 10
        assert len(fetched) > sum(moved) > 0
        assert [count > 0 for count in moved] == decisions(only_run(log))
        assert {count for count in moved if count} == {max(moved)}
        assert max(moved) >= linear


def lora():
    """A LoRA of rank 2 on the first block."""
    generator = torch.Generator().manual_seed(3)
    name = "diffusion_model.blocks.0.self_attn.v"
    return {
        f"{name}.lora_A.weight": torch.randn(2, 128, generator=generator),
        f"{name}.lora_B.weight": torch.randn(128, 2, generator=generator),
    }


def with_hooks(prompt, *keyframes):
    """The LoRA as a hook on a prompt; keyframes are (start in 0..1, strength)."""
    from comfy.hooks import HookKeyframe, HookKeyframeGroup, create_hook_lora, set_hooks_for_conditioning

    hooks = create_hook_lora(lora(), 1.0, 0.0)
    if keyframes:
        group = HookKeyframeGroup()
        for start, strength in keyframes:
            group.add(HookKeyframe(strength, start))
        hooks.set_keyframes_on_hooks(group)
    return set_hooks_for_conditioning(prompt, hooks)


@contextmanager
def unchanged_inputs():
    """Check that no model call changes its input, which in float32 is the sampler's own tensor; gives their number."""
    from comfy.model_base import BaseModel

    calls, apply_model = [0], BaseModel.apply_model

    def checked(self, x, t, **kwargs):
        before = x.clone()
        result = apply_model(self, x, t, **kwargs)
        assert torch.equal(x, before)
        calls[0] += 1
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "apply_model", checked)
        yield calls


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


def load_partially(executor, guider, *args):
    """Load again, with memory for next to nothing, so that every layer fetches its weights as it runs."""
    patcher = guider.model_patcher
    patcher.load(patcher.load_device, lowvram_model_memory=1)
    assert patcher.model.model_lowvram
    return executor(guider, *args)
