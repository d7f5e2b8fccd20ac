"""Several conditions, by place, time and weights; masks of the latent; batches with a prompt each."""

from __future__ import annotations

import pytest
import torch
from tiny_wan import bind, bind_every_step, close, noise, only_run, planned, sample, text, with_hooks

from ways import trained as demo
from ways.trained import STEPS, calls_of, compare, decibels, empty, prompt

pytestmark = pytest.mark.usefixtures("without_gradients")
OTHER = {"color": "blue", "shape": "square"}


class TestBatches:
    def test_every_video_of_a_batch_is_cached_like_alone(self, wan):
        pair = torch.cat([noise(seed=1), noise(seed=2)])
        patched, log = bind(wan)
        with calls_of(wan) as ran:
            together = sample(patched, noise=pair)
        assert [call.conditions for call in ran.made] == [2 * 2] * planned(10)
        assert only_run(log).conditions == 2
        for index in range(2):
            alone = sample(patched, noise=pair[index : index + 1])
            assert close(together[index : index + 1], alone)
            assert not close(together[index : index + 1], sample(wan, noise=pair[index : index + 1]))

    def test_a_prompt_for_every_video_of_a_batch(self, trained):
        """The first video's prediction is not the second one's."""
        starts = torch.cat([demo.noise(1), demo.noise(1)])
        both = [[torch.cat([prompt()[0][0], prompt(**OTHER)[0][0]]), {}]]
        none = [[empty()[0][0].expand(2, -1, -1), {}]]
        compared = compare(trained, demo.sampling(noise=starts, positive=both, negative=none))
        assert decibels(compared.reference[:1], compared.reference[1:]) < 5, "this test needs two videos"
        alone = demo.sample(bind(trained)[0])
        assert decibels(compared.made[:1], alone) > 60
        assert decibels(compared.made[1:], compared.reference[1:]) > 20


class TestApart:
    def test_prompts_of_different_length_are_called_apart(self, wan):
        longer = text(8, tokens=11)
        compared = compare(wan, lambda model: sample(model, negative=longer))
        assert [call.conditions for call in compared.uncached.made] == [1] * 20
        assert [call.conditions for call in compared.ran.made] == [1] * (2 * planned(10))
        every, _ = bind_every_step(wan)
        assert torch.equal(sample(every, negative=longer), compared.reference)

    def test_little_memory_makes_no_difference(self, wan, monkeypatch):
        """Then ComfyUI calls the model once per condition."""
        patched, log = bind(wan)
        batched = sample(patched)
        monkeypatch.setattr(type(wan), "get_free_memory", lambda self, device: 0)
        with calls_of(wan) as ran:
            split = sample(patched)
        assert [call.conditions for call in ran.made] == [1] * (2 * planned(10))
        one, other = (run.statistics for run in log.of_prompt(None))
        assert one.plan == other.plan
        assert one.conditions == other.conditions == 2
        assert one.cache_bytes == other.cache_bytes
        assert close(batched, split)


def area(model):
    """Another scene in the right half; in both prompts, as ComfyUI does it."""
    from nodes import ConditioningSetArea

    [region] = ConditioningSetArea().append(prompt(**OTHER), 48, 96, 48, 0, 0.4)
    return {"positive": [*prompt(), *region]}


def mask(model):
    """Two scenes, each by a soft mask of its own."""
    from nodes import ConditioningSetMask

    ramp = torch.linspace(0, 1, 96).expand(1, 96, 96)
    [left] = ConditioningSetMask().append(prompt(), 1 - ramp, "default", 1.0)
    [right] = ConditioningSetMask().append(prompt(**OTHER), ramp, "default", 1.0)
    return {"positive": [*left, *right]}


def halves(at):
    """One scene until a part of the run, then another one."""

    def conditions(model):
        from nodes import ConditioningSetTimestepRange

        [early] = ConditioningSetTimestepRange().set_range(prompt(**OTHER), 0.0, at)
        [late] = ConditioningSetTimestepRange().set_range(prompt(), at, 1.0)
        return {"positive": [*early, *late]}

    return conditions


def for_a_while(model):
    """A second condition that is there for a part of the run only."""
    from nodes import ConditioningSetTimestepRange

    [while_] = ConditioningSetTimestepRange().set_range(prompt(**OTHER), 0.3, 0.7)
    return {"positive": [*prompt(), *while_]}


def by_default(model):
    """What no other condition covers."""
    from comfy_extras.nodes_hooks import ConditioningSetDefaultAndCombine

    from nodes import ConditioningSetArea

    [region] = ConditioningSetArea().append(prompt(**OTHER), 48, 96, 48, 0, 1.0)
    combined = ConditioningSetDefaultAndCombine().set_default_and_combine(region, prompt())[0]
    return {"positive": combined}


def noise_mask(kind):
    """What Set Latent Noise Mask and image-to-video nodes give: 1 where there is something to generate."""

    def arguments(model):
        made = torch.ones(1, 1, *demo.SHAPE[2:])
        if kind == "hard":
            made[..., :6] = 0
        elif kind == "soft":
            made *= torch.linspace(0, 1, 12)
        else:
            made[:, :, 0] = 0  # the first frame is given
        return {"noise_mask": made, "latent": demo.known()}

    return arguments


# Name: arguments of a KSampler, the least signal-to-error in dB of "balanced" on the demo model.
CONDITIONS = {
    "area": (area, 10),
    "mask": (mask, 27),
    "another prompt from the middle on": (halves(0.5), 27),
    "another prompt from early on": (halves(0.15), 15),
    "a second prompt for a while": (for_a_while, 28),
    "the default": (by_default, 26),
    "hard noise mask": (noise_mask("hard"), 26),
    "soft noise mask": (noise_mask("soft"), 23),
    "first frame given": (noise_mask("first frame"), 24),
}
QUICK = ("area", "another prompt from the middle on", "soft noise mask", "first frame given")


@pytest.mark.parametrize("sampler", ["euler", pytest.param("res_multistep", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CONDITIONS]
)
def test_it_comes_close_to_the_uncached_run(trained, name, sampler):
    arguments, floor = CONDITIONS[name]
    compared = compare(trained, lambda model: demo.sample(model, sampler=sampler, **arguments(model)))
    assert compared.decibels > floor
    assert compared.run.count("skipped") >= STEPS - planned(STEPS) - 4


def test_a_differential_mask(trained):
    """Differential Diffusion: a soft mask that becomes a hard one, another at every step."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    compared = compare(
        trained, lambda model: demo.sample(DifferentialDiffusion.execute(model).args[0], **noise_mask("soft")(model))
    )
    assert compared.run.count("computed") == planned(STEPS)
    assert compared.decibels > 16


@pytest.mark.parametrize("kind", ["hard", "first frame"])
def test_what_a_mask_keeps_is_kept(trained, kind):
    arguments = noise_mask(kind)(trained)
    made = demo.sample(bind(trained)[0], **arguments)
    kept = (arguments["noise_mask"] == 0).expand_as(made)
    assert torch.allclose(made[kept], arguments["latent"][kept], atol=1e-4)


class TestNew:
    def test_a_prompt_that_starts_midway_is_computed_where_it_is_new(self, wan):
        """It has nothing to be forecast from for two evaluations, and guidance asks for both or none."""
        from nodes import ConditioningSetTimestepRange

        middle = wan.get_model_object("model_sampling").percent_to_sigma(0.5)
        [early] = ConditioningSetTimestepRange().set_range(text(7), 0.0, 0.5)
        [late] = ConditioningSetTimestepRange().set_range(text(9), 0.5, 1.0)
        compared = compare(wan, lambda model: sample(model, positive=[*early, *late], steps=20))
        run = compared.run
        change = next(record.step for record in run.steps if record.sigma <= middle)
        beyond = [record for record in run.steps if record.reason == "new condition"]
        assert 0 < len(beyond) <= 2
        assert {record.step for record in beyond} <= {change, change + 1}
        assert [(record.calls, record.computed_calls) for record in beyond] == [(2, 2)] * len(beyond)
        others = [record for record in run.steps if record not in beyond]
        assert [record.kind == "computed" for record in others] == [run.plan[r.step] is not None for r in others]

    def test_hooked_conditions_are_called_apart(self, wan):
        hooked = with_hooks(text(7))
        compared = compare(wan, lambda model: sample(model, positive=hooked))
        assert [call.conditions for call in compared.uncached.made] == [1] * 20
        assert compared.run.count("computed") == planned(10)
        every, _ = bind_every_step(wan)
        assert torch.equal(sample(every, positive=hooked), compared.reference)
        assert not close(compared.reference, sample(wan))

    @pytest.mark.parametrize("share", [0.55, 0.7, 0.85])
    def test_no_forecast_crosses_a_keyframe(self, wan, share):
        """The LoRA goes from 1 to 0.2 midway: what was computed under the one says nothing about the other."""
        change = float(wan.get_model_object("model_sampling").percent_to_sigma(share))
        hooked = with_hooks(text(7), (0.0, 1.0), (share, 0.2))
        compared = compare(wan, lambda model: sample(model, positive=hooked, steps=20), "fast")
        run = compared.run
        first = next(record.step for record in run.steps if record.sigma <= change * 1.0001)
        for step in (first, first + 1):
            assert run.steps[step].computed_calls == 2
        later = [record for record in run.steps[first + 2 :] if run.plan[record.step] is None]
        assert all(record.kind == "skipped" for record in later)
        assert compared.decibels > 3
