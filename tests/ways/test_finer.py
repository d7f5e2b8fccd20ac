"""Finer steps on the node, and AdaCache Sampler, on the trained model: against the video that very many steps give."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny_wan import bind, planned, run_guider, runs, sigmas

from ways import trained as demo
from ways.trained import STEPS, calls_of, decibels

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def converged(trained):
    """At cfg 1, 150 steps of DPM++ 2M."""
    with torch.no_grad():
        return demo.sample(trained, cfg=1.0, steps=150, sampler="dpmpp_2m")


class TestNode:
    @pytest.mark.parametrize("finer", ["2", "4", "auto"])
    def test_half_of_the_calls_come_closer_than_all_steps(self, trained, converged, finer):
        told = []
        patched, log = bind(trained, finer=finer)
        with calls_of(trained) as ran:
            made = demo.sample(patched, cfg=1.0, callback=lambda *now: told.append((now[0], now[3])))
        assert len(ran.made) == planned(STEPS)
        assert told == [(step, STEPS) for step in range(STEPS)], "previews and progress are of the user's steps"
        [run] = runs(log)
        assert run.finer == (2 if finer == "2" else 4)
        assert run.total_steps == STEPS * run.finer
        assert decibels(made, converged) > decibels(demo.sample(trained, cfg=1.0), converged) + 1.5

    def test_a_sampler_that_adds_noise_keeps_its_steps(self, trained):
        choices = {"cfg": 1.0, "sampler": "euler_ancestral"}
        patched, log = bind(trained, finer="4")
        made = demo.sample(patched, **choices)
        [run] = runs(log)
        assert (run.finer, run.total_steps) == (1, STEPS)
        assert torch.equal(made, demo.sample(bind(trained)[0], **choices))

    def test_with_few_computes_auto_is_careful(self, trained):
        patched, log = bind(trained, preset="fast", finer="auto")
        demo.sample(patched, cfg=1.0)
        [run] = runs(log)
        assert run.finer == 1

    def test_masks_and_parts_of_a_run(self, trained):
        """What a mask keeps is kept, and two parts of a run are as good as one."""
        mask = torch.ones(1, 1, *demo.SHAPE[2:])
        mask[..., :6] = 0
        arguments = {"noise_mask": mask, "latent": demo.known()}
        made = demo.sample(bind(trained, finer="2")[0], **arguments)
        kept = (mask == 0).expand_as(made)
        assert torch.allclose(made[kept], demo.known()[kept], atol=1e-4)


@cache
def solver(evaluations: int):
    from adacache.nodes.sampler import AdaCacheSampler

    return AdaCacheSampler.execute(evaluations).args[0]


class TestSampler:
    def sample(self, trained, sampler, steps=STEPS, **options):
        return run_guider(demo.cfg_guider(trained, 1.0), sigmas(trained, steps), sampler, demo.SHAPE, **options)

    def test_it_calls_the_model_as_often_as_told_and_comes_closer_than_others_with_as_many(self, trained):
        truth = self.sample(trained, "dpmpp_2m", steps=150)
        with calls_of(trained) as ran:
            made = self.sample(trained, solver(10))
        assert len(ran.made) == 10
        others = {
            name: decibels(self.sample(trained, name, steps=10), truth) for name in ("euler", "dpmpp_2m", "uni_pc")
        }
        assert decibels(made, truth) > max(others.values()) + 3, others

    def test_the_number_of_steps_in_the_schedule_hardly_matters(self, trained):
        assert decibels(self.sample(trained, solver(10), steps=10), self.sample(trained, solver(10), steps=30)) > 25

    def test_on_a_cached_model_its_calls_are_what_is_planned(self, trained):
        patched, log = bind(trained)
        self.sample(patched, solver(10))
        [run] = runs(log)
        assert (run.total_steps, run.count("computed")) == (10, planned(10))
