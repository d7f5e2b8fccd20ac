"""One run on a model of doubling blocks: what is stored, what is replayed, what is recorded."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from adacache_core import FORECAST, HOLD, CacheRun, Codebook, CodebookSchedule, RunStatistics, ShapeMismatchError
from adacache_core.noise_levels import NoiseLevels
from adacache_core.replay import ComputedResidual, forecast, forecast_time, repayment
from adacache_core.residual_cache import ResidualCache, Storage

from .doubling import LAYOUT, DoublingModel, ones

STEPS = 12
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]
# Rate 4 whatever the distance: computes 0 and 1 (a first distance is needed), then 5, 9, and the last two.
EVERY_FOURTH = Codebook(((1e9, 4),), STEPS)
COMPUTED = [0, 1, 5, 9, 10, 11]


def new_run(replay=HOLD, **arguments) -> CacheRun:
    return CacheRun(
        lambda: CodebookSchedule(EVERY_FOURTH, STEPS), replay, SIGMAS, RunStatistics({}, STEPS), **arguments
    )


def sample(run, model, values=None, keys=("positive",)):
    """Drive a run through all steps with the given stack inputs; returns what the head saw at each."""
    seen = []
    for step in range(STEPS):
        value = values[step] if values else 1.0
        with run.call(model, LAYOUT, SIGMAS[step], keys):
            model(ones(value, batch=len(keys)))
        seen.append(model.head.seen.flatten()[0].item())
    return seen


def test_held_residual_of_the_last_compute_is_added_to_the_new_input():
    model, run = DoublingModel(), new_run()
    seen = sample(run, model, values=list(range(1, STEPS + 1)))
    # Computed: 8 x input. Skipped steps 2, 3, 4 follow the compute of input 2, residual 14: 3 + 14 and so on.
    assert seen == [8, 16, 17, 18, 19, 48, 49, 50, 51, 80, 88, 96]
    assert model.block_calls == 3 * len(COMPUTED)


def test_forecast_extends_the_line_through_the_last_two_computes():
    # Residual is 7 x input, which grows as the forecast's variable, so the line is exact: every step is its compute.
    values = [10 + forecast_time(sigma) for sigma in SIGMAS[:-1]]
    assert sample(new_run(FORECAST), DoublingModel(), values=values) == pytest.approx([8 * v for v in values], rel=1e-5)


def test_forecast_by_hand():
    # 1 / (1.01 - t) + ln(t + 0.02) is 100 + ln 1.02 at 1, 2 + ln 0.53 at 0.51 and 1 + ln 0.03 at 0.01.
    assert [forecast_time(time) for time in (1.0, 0.51, 0.01)] == pytest.approx([100.019803, 1.365122, -2.506558])
    # From 3 at 1 to 4 at 0.51 it went 1 in -98.654681; to 0.01 it is -3.871680 more.
    expected = 4 + 3.871680 / 98.654681
    assert forecast([0.51, 1.0], [ones(4), ones(3)], 0.01)[0, 0, 0].item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(forecast([0.51], [ones(4)], 0.01), ones(4)), "one compute is held"


def test_repayment_by_hand():
    # Computes at 0.81 and 0.76, skips at 0.61 and 0.51, a compute at 0.01. By 1 / (1.01 - t) + ln(t + 0.02) that is
    # u = 4.813670, 3.751539 | 2.037965, 1.365122 | -2.506558, and phi(u) =
    # (u - 3.751539)(u - 4.813670) / ((-2.506558 - 3.751539)(-2.506558 - 4.813670)) = 4.756376 / 45.810697 at 0.61
    # and 8.229674 / 45.810697 at 0.51.
    skipped = [(0.61, -0.1), (0.51, -0.5)]
    expected = (0.1 * 4.756376 + 0.5 * 8.229674) / 45.810697 / 0.2
    assert repayment([0.76, 0.81], skipped, 0.01, -0.2) == pytest.approx(expected, rel=1e-5)
    assert repayment([0.76, 0.81], skipped, 0.01, -0.2, share=0.5) == pytest.approx(expected / 2, rel=1e-5)
    # One compute at 0.76: phi is 1.713574 / 6.258097 and 2.386417 / 6.258097.
    expected = (0.1 * 1.713574 + 0.5 * 2.386417) / 6.258097 / 0.2
    assert repayment([0.76], skipped, 0.01, -0.2) == pytest.approx(expected, rel=1e-5)
    assert repayment([0.76], skipped, 0.01, -0.001) == 4.0, "a short step does not give back without bounds"


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_compute_after_skips_gives_their_error_back(share):
    model, run = DoublingModel(), new_run(repaid=share)
    # Step 5 computes after 2, 3, 4 were skipped. Residual 7 held since step 1, 14 at step 5: the surprise is 7.
    # With one compute to look back on, phi(u) is (u - u1) / (u5 - u1); the flow times are 11/12 to 7/12.
    u1, u2, u3, u4, u5 = (1 / (1.01 - twelfths / 12) + math.log(twelfths / 12 + 0.02) for twelfths in (11, 10, 9, 8, 7))
    owed = (u2 + u3 + u4 - 3 * u1) / (u5 - u1)
    seen = sample(run, model, values=[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2])
    assert seen[:5] == [8] * 5
    assert seen[5] == pytest.approx(16 + share * owed * 7)
    assert seen[6:] == [16] * 6, "the residual is kept as it is, and nothing is owed after steps that were exact"


def test_kept_outputs_are_replayed_without_the_model():
    model, run = DoublingModel(), new_run(FORECAST, storage=Storage("output"))
    outputs = []
    for step in range(6):
        with run.call(model, LAYOUT, SIGMAS[step], ("a", "b")):
            outputs.append(model(ones(1 + step, batch=2)))
        outputs[-1] += 100  # as a sampler may
    # Computed at 0, 1 and 5: 8 and 16, whose line goes on whatever the input is.
    u0, u1, *later = map(forecast_time, SIGMAS[:5])
    expected = [8, 16, *(16 + 8 * (u - u1) / (u1 - u0) for u in later), 48]
    assert [output[0, 0, 0].item() - 100 for output in outputs] == pytest.approx(expected)
    assert model.block_calls == 3 * 3
    assert run.statistics.storage == "output"
    assert run.statistics.cache_bytes == 2 * 2 * 4 * 2 * 4


def test_outputs_are_kept_where_the_hidden_state_would_not_fit():
    needed = 2 * 2 * 2 * (4 * 2 * 4)  # two computes of two conditions' residuals, and as much to replay them
    for free, form, computed in ((needed, "hidden", [0, 1, 5, 9]), (needed - 1, "output", [0, 1, 2, 6])):
        storage = Storage("auto", free_memory=lambda device, free=free: free)
        model, run = DoublingModel(), new_run(FORECAST, storage=storage)
        sample(run, model, keys=("a", "b"))
        statistics = run.finish()
        assert statistics.storage == form
        # What the first step computed is lost with the change, so that the next two have to compute.
        assert [record.step for record in statistics.steps if record.computed][:4] == computed
        assert statistics.cache_bytes == needed // 2


def test_residuals_are_kept_on_the_chosen_device():
    model, run = DoublingModel(), new_run(storage=Storage("hidden", device=torch.device("meta")))
    with run.call(model, LAYOUT, SIGMAS[0], ("a",)):
        model(ones())
    assert run._cache.history("a")[0].residual[0].device.type == "meta"


def test_statistics_tell_what_happened():
    shown = []
    run = new_run(on_step=lambda statistics: shown.append(len(statistics.steps)))
    sample(run, DoublingModel(), keys=("positive", "negative"))
    statistics = run.finish()
    assert [record.step for record in statistics.steps if record.computed] == COMPUTED
    assert statistics.computed_steps == len(COMPUTED)
    assert [record.reason for record in statistics.steps[:3]] == ["first steps", "schedule", "skipped"]
    assert [record.distance for record in statistics.steps[:3]] == [None, 0.0, None]
    assert [record.rate for record in statistics.steps[:2]] == [1, 4]
    assert all(record.calls == 2 for record in statistics.steps)
    assert sum(record.computed_calls for record in statistics.steps) == 2 * len(COMPUTED)
    assert statistics.conditions == 2
    assert statistics.cache_bytes == 2 * 4 * 2 * 4  # conditions x tokens x channels x bytes
    assert statistics.finished
    assert shown == list(range(1, STEPS + 1))


def test_two_conditions_keep_their_own_residuals_batched_or_split():
    class Scaled(DoublingModel):
        """The second condition's blocks triple: residual 26 instead of 7 on input 1."""

        def forward(self, x, factors):
            hidden = x
            for block in self.blocks:
                hidden = block(hidden) * factors / 2
            return self.head(hidden)

    factors = torch.tensor([2.0, 3.0]).view(2, 1, 1)
    batched, split = new_run(), new_run()
    model = Scaled()
    for step, sigma in enumerate(SIGMAS[:-1]):
        with batched.call(model, LAYOUT, sigma, ("a", "b")):
            together = model(ones(1 + step, batch=2), factors)
        # In the other order, as ComfyUI may call them.
        apart = {}
        for key, index in (("b", 1), ("a", 0)):
            with split.call(model, LAYOUT, sigma, (key,)):
                apart[key] = model(ones(1 + step), factors[index : index + 1])
        assert torch.equal(together, torch.cat((apart["a"], apart["b"])))
        if step == 2:
            assert together[:, 0, 0].tolist() == [3 + 2 * 7, 3 + 2 * 26]
    assert [r.computed for r in batched.finish().steps] == [r.computed for r in split.finish().steps]
    assert [r.distance for r in batched.statistics.steps] == [r.distance for r in split.statistics.steps]


def test_a_condition_without_a_residual_computes():
    model, run = DoublingModel(), new_run()
    for step in (0, 1):
        with run.call(model, LAYOUT, SIGMAS[step], ("positive",)):
            model(ones())
    with run.call(model, LAYOUT, SIGMAS[2], ("newcomer",)):
        model(ones(5))
    assert torch.equal(model.head.seen, ones(40))
    assert run.finish().steps[2].reason == "nothing cached for a condition"


def test_both_calls_of_a_heun_step_follow_one_decision():
    model, run = DoublingModel(), new_run()
    for step in range(STEPS):
        for sigma in (SIGMAS[step], SIGMAS[step + 1])[: 1 if step == STEPS - 1 else 2]:
            with run.call(model, LAYOUT, sigma, ("positive",)):
                model(ones())
    statistics = run.finish()
    assert [record.step for record in statistics.steps] == list(range(STEPS))
    assert [record.step for record in statistics.steps if record.computed] == COMPUTED
    assert all(record.computed_calls in (0, record.calls) for record in statistics.steps)


@pytest.mark.parametrize(
    ("sigma", "step"), [(1.0, 0), (2.0, 0), (0.96, 0), (11 / 12, 1), (11 / 12 * (1 - 5e-5), 1), (0.01, 11), (0.0, 11)]
)
def test_a_sigma_belongs_to_the_step_it_starts_from(sigma, step):
    assert NoiseLevels(SIGMAS, 1.0).step(sigma) == step


def test_going_back_to_an_earlier_noise_level_starts_over():
    model, run = DoublingModel(), new_run()
    for step in [*range(4), *range(4)]:
        with run.call(model, LAYOUT, SIGMAS[step], ("positive",)):
            model(ones())
    assert [record.computed for record in run.finish().steps] == [True, True, False, False] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_residual_that_is_not_finite_is_never_replayed(bad):
    model, run = DoublingModel(), new_run()
    seen = sample(run, model, values=[1.0, bad, *[1.0] * (STEPS - 2)])
    statistics = run.finish()
    assert statistics.steps[1].reason == "residual is not finite"
    assert seen[2:] == [8.0] * (STEPS - 2), "no later step sees it"
    assert statistics.steps[2].computed


def test_an_exception_in_a_block_leaves_the_model_as_it_was():
    class Failing(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("simulated")

    model, run = DoublingModel(), new_run()
    model.blocks[1] = Failing()
    with pytest.raises(torch.OutOfMemoryError), run.call(model, LAYOUT, 1.0, ("positive",)):
        model(ones())
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_nothing_is_alive_when_the_run_is_dropped():
    run, model = new_run(), DoublingModel()
    sample(run, model)
    cached = weakref.ref(run._cache.history("positive")[0].residual[0])
    statistics, alive = run.finish(), weakref.ref(run)
    del run
    gc.collect()
    assert alive() is None
    assert cached() is None
    assert statistics.computed_steps == len(COMPUTED), "the numbers outlive it"


def test_low_precision_replays_an_unchanged_input_as_it_was_computed():
    torch.manual_seed(0)
    model, run = DoublingModel().bfloat16(), new_run()
    hidden = torch.randn(1, 4, 2).bfloat16()
    outputs = []
    for sigma in SIGMAS[:3]:
        with run.call(model, LAYOUT, sigma, ("positive",)):
            outputs.append(model(hidden))
    assert outputs[2].dtype == torch.bfloat16
    assert torch.equal(outputs[1], outputs[2])


class TestResidualCache:
    def test_depth_limits_what_is_kept_and_the_bytes_are_what_is_held(self):
        cache = ResidualCache(depth=2)
        for number in range(4):
            cache.store("a", ComputedResidual(1 - number / 10, (torch.full((1, 3, 2), float(number)),)))
        assert [computed.residual[0][0, 0, 0].item() for computed in cache.history("a")] == [3, 2]
        assert cache.nbytes == 2 * 3 * 2 * 4
        cache.store("b", ComputedResidual(1.0, (torch.zeros(2, 2, dtype=torch.bfloat16), torch.zeros(3))))
        assert cache.nbytes == 48 + 8 + 12
        assert "c" not in cache

    def test_a_second_compute_at_the_same_time_replaces_the_first(self):
        cache = ResidualCache(depth=2)
        for time, value in ((0.9, 1.0), (0.8, 2.0), (0.8, 3.0)):
            cache.store("a", ComputedResidual(time, (ones(value),)))
        assert [(computed.time, computed.residual[0][0, 0, 0].item()) for computed in cache.history("a")] == [
            (0.8, 3.0),
            (0.9, 1.0),
        ]

    def test_another_shape_is_refused(self):
        cache = ResidualCache(depth=1)
        cache.store("a", ComputedResidual(1.0, (torch.zeros(1, 4, 2),)))
        with pytest.raises(ShapeMismatchError, match=r"\(\(1, 5, 2\),\) cannot follow one of shape \(\(1, 4, 2\),\)"):
            cache.store("a", ComputedResidual(0.9, (torch.zeros(1, 5, 2),)))
