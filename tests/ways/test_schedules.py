"""Every schedule: the scheduler's, hand-written, back up, upwards, in parts."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import tiny_models
import torch
from tiny_wan import (
    bind,
    bind_every_step,
    cfg_guider,
    decisions,
    only_run,
    planned,
    run_guider,
    run_guider_for_both,
    runs,
    sample,
    sigmas,
    text,
)

from ways import trained as demo
from ways.trained import STEPS, calls_of, compare, decibels

pytestmark = pytest.mark.usefixtures("without_gradients")
SCHEDULERS = (
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
)


def manual(text_of_sigmas):
    """What ManualSigmas gives."""
    from comfy_extras.nodes_custom_sampler import ManualSigmas

    return ManualSigmas.execute(text_of_sigmas).args[0]


def bong_tangent(model):
    """20 steps on two arcs of a tangent, as RES4LYF's ``bong_tangent`` has them with its own defaults."""

    def arc(count, slope, pivot, start, end):
        heights = [math.atan(slope * (pivot - n)) for n in range(count)]
        return [end + (h - heights[-1]) / (heights[0] - heights[-1]) * (start - end) for h in heights]

    count = STEPS + 2
    middle, slope = int(count * 0.6), 0.2 / (count / 40)
    return torch.tensor([*arc(middle, slope, middle, 1.0, 0.5)[:-1], *arc(count - middle, slope, 0, 0.5, 0.0)])


class TestSchedulers:
    def test_every_scheduler_of_comfyui_is_here(self, pack):
        from comfy.samplers import SCHEDULER_NAMES

        assert set(SCHEDULERS) >= set(SCHEDULER_NAMES)

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_the_plan_follows_the_noise_levels(self, wan, scheduler):
        from adacache.adacache_core import plan
        from comfy.samplers import calculate_sigmas

        levels = calculate_sigmas(wan.get_model_object("model_sampling"), scheduler, 24).tolist()
        total = len(levels) - 1
        compared = compare(wan, lambda model: sample(model, steps=24, scheduler=scheduler))
        run = compared.run
        assert [record.sigma for record in run.steps] == pytest.approx(levels[:-1])
        # Of a flow model the noise level is the flow time; Euler takes so much of the noise with each step.
        falls = [1 - after / level for level, after in pairwise(levels)]
        assert run.plan == plan(levels[:-1], falls, planned(total))
        assert run.count("computed") == planned(total)

    def test_plans_of_two_schedules_differ(self, wan):
        made = []
        for scheduler in ("simple", "beta"):
            patched, log = bind(wan)
            sample(patched, steps=24, scheduler=scheduler)
            made.append(decisions(only_run(log)))
        assert made[0] != made[1]


class TestByHand:
    @pytest.mark.parametrize(
        ("text_of_sigmas", "computed"),
        [
            ("1, .98, .95, .9, .84, .77, .69, .6, .5, .39, .27, .14, 0", planned(12)),
            ("1, .9, .8, .7, .6, .5, .4, .3, .25, .2", planned(9)),  # hands over at sigma 0.2
            ("1, .8, .6, .4, .2, .1, 0", 6),  # too few to skip any
        ],
    )
    def test_manual_sigmas(self, wan, text_of_sigmas, computed):
        levels = manual(text_of_sigmas)
        compared = compare(wan, lambda model: run_guider(cfg_guider(model), levels))
        run = compared.run
        assert [record.sigma for record in run.steps] == pytest.approx(levels[:-1].tolist())
        assert run.count("computed") == computed
        assert compared.made.isfinite().all()

    def test_one_noise_level_twice(self, wan):
        """No line goes through two predictions at one level; and nothing divides by their distance."""
        levels = manual("1, .9, .9, .8, .7, .6, .6, .5, .4, .3, .2, .1, 0")
        compared = compare(wan, lambda model: run_guider(cfg_guider(model), levels))
        assert compared.made.isfinite().all()
        assert compared.run.count("skipped") > 0
        assert compared.decibels > 10

    def test_a_part_of_no_steps(self, wan):
        """What SplitSigmas gives behind the last step: one noise level, and nothing to do."""
        nothing_left = sigmas(wan, 10)[-1:]
        for preset in ("balanced", "paper-fast"):
            patched, log = bind(wan, preset)
            with calls_of(wan) as ran:
                made = run_guider(cfg_guider(patched), nothing_left)
            assert torch.equal(made, run_guider(cfg_guider(wan), nothing_left))
            assert not ran.made
            assert runs(log) == []

    def test_upwards_only(self, wan):
        """Unsampling goes from the video to the noise, but for the very ends, where it has no steps."""
        from comfy_extras.nodes_custom_sampler import FlipSigmas

        levels = FlipSigmas.execute(sigmas(wan, 20)[1:-1]).args[0]
        every, _ = bind_every_step(wan)
        plain = run_guider(cfg_guider(wan), levels)
        assert torch.equal(run_guider(cfg_guider(every), levels), plain)
        compared = compare(wan, lambda model: run_guider(cfg_guider(model), levels))
        assert [record.sigma for record in compared.run.steps] == pytest.approx(levels[:-1].tolist())
        assert compared.decibels > 20


class TestRestart:
    DOWN, AGAIN = [1, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4], [0.85, 0.78, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]

    def test_starts_over_there(self, wan):
        """Noise is added again, and no prediction of the first descent is forecast from in the second."""
        levels = manual(", ".join(map(str, [*self.DOWN, *self.AGAIN, 0])))
        plain = run_guider(cfg_guider(wan), levels)
        every, _ = bind_every_step(wan)
        assert torch.equal(run_guider(cfg_guider(every), levels), plain)
        compared = compare(wan, lambda model: run_guider(cfg_guider(model), levels))
        run = compared.run
        assert [record.sigma for record in run.steps] == pytest.approx([*self.DOWN, *self.AGAIN])
        computed, second = decisions(run), len(self.DOWN)
        assert computed[second], "behind the turn there is nothing to forecast from"
        assert not all(computed[:second])
        assert not all(computed[second:])
        assert run.steps[second].miss is None
        assert compared.decibels > 7


class TestParts:
    def test_a_part_of_denoising(self, wan):
        """Video to video at denoise 0.5: ten steps of the second half of twenty."""
        compared = compare(wan, lambda model: sample(model, denoise=0.5))
        run = compared.run
        levels = sigmas(wan, 20).tolist()
        assert [record.sigma for record in run.steps] == pytest.approx(levels[10:-1])
        assert run.count("computed") == planned_there(levels, 10, 20)

    def test_ksampler_advanced_plans_each_pass_for_itself(self, wan):
        plain = two_passes(wan, wan)["samples"]
        every, _ = bind_every_step(wan)
        assert torch.equal(two_passes(every, every)["samples"], plain)
        compared = compare(wan, lambda model: two_passes(model, model)["samples"])
        levels = sigmas(wan, 24).tolist()
        first, second = compared.runs
        assert [record.sigma for record in first.steps] == pytest.approx(levels[:12])
        assert [record.sigma for record in second.steps] == pytest.approx(levels[12:24])
        assert [run.count("computed") for run in (first, second)] == [
            planned_there(levels, 0, 12),
            planned_there(levels, 12, 24),
        ]

    def test_the_rest_of_a_run_is_asked_of_the_model(self, wan):
        from adacache.nodes.asking import rest_of

        sampling, levels = wan.get_model_object("model_sampling"), sigmas(wan, 20)
        assert rest_of(sampling, levels) == ((), ())
        before, after = rest_of(sampling, levels[5:16])
        assert before == pytest.approx(levels[:5].tolist(), abs=1e-4)
        assert after == pytest.approx(levels[16:].tolist(), abs=1e-4)
        up = rest_of(sampling, levels[5:16].flip(0))
        assert up == (after[-2::-1], before[::-1])
        assert rest_of(sampling, torch.tensor([0.7, 0.7])) == ((), ())
        assert max(map(len, rest_of(sampling, torch.tensor([0.7, 0.69999])))) == 100

    def test_two_models_of_one_run_each_with_its_own_node(self, wan, pack):
        """Wan 2.2: the high-noise model makes the first steps, the low-noise model the others."""
        from adacache.nodes.inspector import AdaCacheInspector

        low_noise = tiny_models.load("WAN21_T2V")
        low_noise.model.diffusion_model.head.head.weight.data.mul_(0.9)
        high, of_high = bind(wan, "balanced")
        low, of_low = bind(low_noise, "quality")
        with calls_of(wan) as of_first, calls_of(low_noise) as of_second:
            latent = two_passes(high, low)
        shown = AdaCacheInspector.execute(latent, of_high, of_low)
        passed_on, text_of_report = shown.args[:2]
        assert passed_on is latent
        report = json.loads(text_of_report)
        levels = sigmas(wan, 24).tolist()
        balanced, quality = planned_there(levels, 0, 12), planned_there(levels, 12, 24, 16)
        assert 4 < balanced < 12 and 4 < quality < 12
        assert [run["computed_steps"] for run in report["runs"]] == [balanced, quality]
        assert (len(of_first.made), len(of_second.made)) == (balanced, quality)
        assert (report["total_steps"], report["computed_steps"]) == (24, balanced + quality)
        assert [r["sigma"] for run in report["runs"] for r in run["steps"]] == pytest.approx(levels[:24])
        assert not torch.equal(latent["samples"], two_passes(high, high)["samples"])

    def test_twenty_parts_of_a_long_video(self, wan):
        """A loop samples with one node: every one of its runs is in the log, with its own steps."""
        patched, log = bind(wan)
        for part in range(20):
            sample(patched, seed=part, steps=8, frames=1, size=4)
        assert len(runs(log)) == 20
        assert sum(run.total_steps for run in runs(log)) == 160
        assert len({id(run) for run in runs(log)}) == 20
        assert all(run.finished for run in runs(log))


def planned_there(levels, start, end, computes=None):
    """How many of a whole run's computes, half of its steps if not given, are in a part of it."""
    from adacache.adacache_core import plan

    falls = [1 - after / level for level, after in pairwise(levels)]
    whole = plan(levels[:-1], falls, computes or planned(len(falls)))
    return sum(reason is not None for reason in whole[start:end])


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


def restart(model):
    """Down to 0.4, noise again, and from 0.85 to the video: what packs with restart samplers do."""
    return manual("1, .97, .94, .9, .85, .8, .7, .6, .5, .4, .85, .8, .74, .67, .6, .5, .4, .3, .2, .1, 0")


# Name: noise levels, arguments of a graph, least signal-to-error in dB of "balanced" on the demo model.
ON_THE_DEMO = {
    "simple": (lambda model: sigmas(model, STEPS), 34),
    "beta": (lambda model: sigmas(model, STEPS, "beta"), 27),
    "karras": (lambda model: sigmas(model, STEPS, "karras"), 15),
    "linear_quadratic": (lambda model: sigmas(model, STEPS, "linear_quadratic"), 15),
    "bong tangent": (bong_tangent, 26),
    "by hand": (lambda model: manual("1, .98, .95, .92, .88, .84, .79, .74, .68, .6, .5, .39, .27, .14, .05, 0"), 15),
    "restart": (restart, 22),
    "hands over at 0.3": (lambda model: torch.tensor([s for s in sigmas(model, 30).tolist() if s > 0.3]), 15),
}
QUICK = ("simple", "beta", "bong tangent", "restart")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in ON_THE_DEMO]
)
def test_it_comes_close_to_the_uncached_run(trained, name):
    levels, floor = ON_THE_DEMO[name]
    compared = compare(trained, demo.custom(demo.cfg_guider, make_sigmas=levels))
    assert compared.run.count("skipped") > 0
    assert compared.decibels > floor


class TestWhatOthersSee:
    """What a sampler integrates is corrected; previews and ``denoised_output`` show what the model predicts."""

    @pytest.mark.parametrize("part", [7, 10, pytest.param(14, marks=pytest.mark.long)])
    @pytest.mark.parametrize("sampler", ["euler", pytest.param("dpmpp_2m", marks=pytest.mark.long)])
    def test_the_denoised_output_of_the_first_part_of_a_split_run(self, trained, part, sampler):
        def graph(model):
            levels = sigmas(model, STEPS)[: part + 1]
            return run_guider_for_both(demo.cfg_guider(model), levels, sampler, demo.SHAPE)

        compared = compare(trained, graph)
        latent, denoised = (decibels(*pair) for pair in zip(compared.made, compared.reference, strict=True))
        assert latent > 25
        assert denoised > 20

    def test_previews(self, trained):
        shown = {"uncached": [], "cached": []}

        def graph(model):
            to = shown["cached"] if shown["uncached"] else shown["uncached"]
            return demo.sample(model, callback=lambda step, denoised, x, total: to.append(denoised.clone()))

        compared = compare(trained, graph)
        distances = [decibels(*pair) for pair in zip(shown["cached"], shown["uncached"], strict=True)]
        assert len(distances) == STEPS
        computed = decisions(compared.run)
        for step in range(STEPS):
            if not computed[step]:
                last = max(other for other in range(step) if computed[other])
                frozen = decibels(shown["cached"][last], shown["uncached"][step])
                assert distances[step] > max(frozen + 1, 13), "a preview moves on where a step is skipped"
        # No jump where a step computes: what a correction adds is not shown.
        of_computed = [d for d, computes in zip(distances, computed, strict=True) if computes and d < math.inf]
        of_skipped = [d for d, computes in zip(distances, computed, strict=True) if not computes]
        assert sum(of_computed) / len(of_computed) > sum(of_skipped) / len(of_skipped)
