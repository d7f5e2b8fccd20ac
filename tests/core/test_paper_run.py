"""One run on a model of doubling blocks: what is stored, what is replayed, what is recorded."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adacache_core import RunStatistics, ShapeMismatchError, Steps
from adacache_core.inside.layout import Blocks, Forms, Layout, Stream
from adacache_core.paper.codebook import Codebook
from adacache_core.paper.measure import MotionRegularization
from adacache_core.paper.residual import ResidualCache
from adacache_core.paper.rule import CodebookRule
from adacache_core.paper.run import ResidualRun

from .doubling import LAYOUT, Allocating, DoublingModel, InPlaceDoubling, ones
from .test_paper_measure import most_at_once

STEPS = 12
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]
# Rate 4 whatever the distance: computes 0 and 1 (a first distance is needed), then 5, 9, and the last two.
EVERY_FOURTH = Codebook(((1e9, 4),), STEPS)
COMPUTED = [0, 1, 5, 9, 10, 11]


def new_run(**arguments) -> ResidualRun:
    steps = Steps(tuple(SIGMAS), lambda sigma: (1 - sigma, sigma))
    return ResidualRun(lambda: CodebookRule(EVERY_FOURTH, STEPS), steps, RunStatistics({}, STEPS), **arguments)


def computed_steps(statistics: RunStatistics) -> list[int]:
    return [record.step for record in statistics.steps if record.kind == "computed"]


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


def test_statistics_tell_what_happened():
    shown = []
    run = new_run(on_step=lambda statistics: shown.append(len(statistics.steps)))
    sample(run, DoublingModel(), keys=("positive", "negative"))
    statistics = run.finish()
    assert computed_steps(statistics) == COMPUTED
    assert statistics.count("computed") == len(COMPUTED)
    assert {record.kind for record in statistics.steps} == {"computed", "skipped"}
    assert [record.reason for record in statistics.steps[:3]] == ["first steps", "schedule", "skipped"]
    assert [record.reason for record in statistics.steps[-2:]] == ["last steps", "last steps"]
    assert [record.paper.distance for record in statistics.steps[:2]] == [None, 0.0]
    assert [record.paper.rate for record in statistics.steps[:2]] == [1, 4]
    assert statistics.steps[2].paper is None
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
    assert [record.kind for record in batched.finish().steps] == [record.kind for record in split.finish().steps]
    assert [record.paper for record in batched.statistics.steps] == [record.paper for record in split.statistics.steps]


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
    assert computed_steps(statistics) == COMPUTED
    assert all(record.computed_calls in (0, record.calls) for record in statistics.steps)


def test_going_back_to_an_earlier_noise_level_starts_over():
    model, run = DoublingModel(), new_run()
    for step in [*range(4), *range(4)]:
        with run.call(model, LAYOUT, SIGMAS[step], ("positive",)):
            model(ones())
    assert [record.kind for record in run.finish().steps] == ["computed", "computed", "skipped", "skipped"] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_residual_that_is_not_finite_is_never_replayed(bad):
    model, run = DoublingModel(), new_run()
    seen = sample(run, model, values=[1.0, bad, *[1.0] * (STEPS - 2)])
    statistics = run.finish()
    assert statistics.steps[1].reason == "residual is not finite"
    assert seen[2:] == [8.0] * (STEPS - 2), "no later step sees it"
    assert statistics.steps[2].kind == "computed"


def test_an_exception_in_a_block_leaves_the_model_as_it_was():
    class Failing(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("simulated")

    model, run = DoublingModel(), new_run()
    model.blocks[1] = Failing()
    with pytest.raises(torch.OutOfMemoryError), run.call(model, LAYOUT, 1.0, ("positive",)):
        model(ones())
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_nothing_is_alive_when_the_run_is_gone_or_dropped(monkeypatch):
    cached, store = [], ResidualCache.store

    def seen(cache, key, residual):
        cached.append(weakref.ref(residual[0]))
        store(cache, key, residual)

    monkeypatch.setattr(ResidualCache, "store", seen)
    run, model = new_run(), DoublingModel()
    sample(run, model)
    assert [tensor() is not None for tensor in cached] == [False] * 5 + [True], "one residual at a time"
    statistics, alive = run.finish(), weakref.ref(run)
    run.drop()
    gc.collect()
    assert cached[-1]() is None
    del run
    gc.collect()
    assert alive() is None
    assert computed_steps(statistics) == COMPUTED, "the numbers outlive it"


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


def test_half_precision_is_subtracted_and_added_in_float32():
    torch.manual_seed(0)
    before, after = torch.randn(2, 1, 64, 8).bfloat16().unbind(0)

    class Replacing(nn.Module):
        def forward(self, x):
            return after

    model = DoublingModel()
    model.blocks = nn.ModuleList([Replacing()])
    residual = (after.float() - before.float()).bfloat16()
    run = new_run()
    for sigma in SIGMAS[:3]:
        with run.call(model, LAYOUT, sigma, ("a",)):
            model(before)
    assert torch.equal(model.head.seen, (before.float() + residual.float()).bfloat16())


def test_a_compute_takes_little_more_than_a_copy_of_the_hidden_state_and_a_residual():
    hidden = torch.randn(2, 20_000, 64)
    model, run = DoublingModel(InPlaceDoubling), new_run()
    model.head = nn.Identity()

    def call(step):
        with run.call(model, LAYOUT, SIGMAS[step], ("a", "b")):
            model(hidden)

    call(0)
    assert hidden.nbytes < most_at_once(lambda: call(1)) < 2.3 * hidden.nbytes


def test_a_condition_that_comes_up_computes_alone():
    """Steps 0 and 1 compute, then every fourth; a condition comes up at step 3, whose first distance step 4 gives."""
    model, run = DoublingModel(), new_run()
    for step in range(7):
        for key in ("old", "new") if 3 <= step <= 5 else ("old",):
            with run.call(model, LAYOUT, SIGMAS[step], (key,)):
                model(ones())
    steps = run.finish().steps
    kinds = {"c": "computed", "s": "skipped"}
    assert [record.kind for record in steps] == [kinds[letter] for letter in "ccsccss"]
    assert [record.calls for record in steps] == [1, 1, 1, 2, 2, 2, 1]
    assert [record.computed_calls for record in steps] == [1, 1, 0, 1, 2, 0, 0]
    assert steps[3].reason == "nothing cached for a condition"
    assert run.statistics.conditions == 2


def test_a_sampler_that_looks_ahead_comes_back_to_the_step_it_left():
    """heunpp2: after a look at the next noise level it finishes the step it came from; that is no new beginning."""
    model, run = DoublingModel(), new_run()
    for step in (0, 1, 2, 1, 2, 3, 2, 3):
        with run.call(model, LAYOUT, SIGMAS[step], ("a",)):
            model(ones())
    assert [record.step for record in run.finish().steps] == [0, 1, 2, 3]


def test_what_nobody_asks_for_any_more_is_not_held():
    model, run, held = DoublingModel(), new_run(), []
    for step, keys in enumerate([("a", "b")] * 5 + [("a",)] * 7):
        with run.call(model, LAYOUT, SIGMAS[step], keys):
            model(ones(batch=len(keys)))
        held.append(run.nbytes)
    size = 4 * 2 * 4
    # From the compute at step 5 to the end of the next one, at step 9, nobody asked for the other.
    assert held == [2 * size] * 10 + [size] * 2


def test_a_residual_of_another_shape_is_refused():
    model, run = DoublingModel(), new_run()
    with run.call(model, LAYOUT, SIGMAS[0], ("a",)):
        model(ones())
    expected = r"\(1, 5, 2\) cannot follow one of shape \(1, 4, 2\) within one run"
    with pytest.raises(ShapeMismatchError, match=expected), run.call(model, LAYOUT, SIGMAS[1], ("a",)):
        model(torch.ones(1, 5, 2))
    with pytest.raises(ShapeMismatchError, match=r"of shape \(1, 4, 2\) cannot be replayed onto .* \(1, 3, 2\)"):
        other = new_run()
        for step, count in enumerate((4, 4, 3)):
            with other.call(model, LAYOUT, SIGMAS[step], ("a",)):
                model(torch.ones(1, count, 2))


def test_several_streams_and_other_forms_are_kept_and_replayed_each_in_its_own():
    """A video ``[T, B, N, C]`` beside a sound ``[B, N, C]``."""

    class Pair(nn.Module):
        def forward(self, video, sound):
            return 2 * video, 3 * sound

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.pairs = nn.ModuleList([Pair(), Pair()])
            self.head, self.sound_head = nn.Identity(), nn.Identity()

        def forward(self, video, sound):
            for pair in self.pairs:
                video, sound = pair(video, sound)
            return self.head(video), self.sound_head(sound)

    forms = Forms("t b n c", "t b n c", "b (t n) c")
    streams = (Stream("head", forms=forms), Stream("sound_head", argument=1))
    layout, run = Layout("both", "x", (Blocks("pairs", (0, 1)),), streams), new_run()
    video, sound = torch.randn(3, 2, 4, 5), torch.randn(2, 7, 6)
    model = Both()
    for step in range(2):
        with run.call(model, layout, SIGMAS[step], ("a", "b")):
            model(video, sound)
    with run.call(model, layout, SIGMAS[2], ("b", "a")) as skips:
        assert skips
        seen, heard = model(10 * video, 10 * sound)
    torch.testing.assert_close(seen, 10 * video + 3 * video.flip(1))
    torch.testing.assert_close(heard, 10 * sound + 8 * sound.flip(0))


def test_motion_is_measured_on_the_videos_tokens():
    """Two frames of one token, 7 and 21 of residual, behind a token of text: (21 - 7) / (21 + 7)."""
    motion = MotionRegularization(start_percent=0, end_percent=1, scale=1, exponent=1, gradient_multiplier=0)
    steps = Steps(tuple(SIGMAS), lambda sigma: (1 - sigma, sigma))
    layout = Layout("last", "x", LAYOUT.blocks, LAYOUT.streams, patch=(1, 1, 1), video_last=True)
    hidden = torch.tensor([100.0, 1, 3]).view(1, 3, 1)
    model = DoublingModel()
    run = ResidualRun(lambda: CodebookRule(EVERY_FOURTH, STEPS, motion), steps, RunStatistics({}, STEPS))
    for sigma in SIGMAS[:2]:
        with run.call(model, layout, sigma, ("a",), latent_shape=(1, 1, 2, 1, 1)):
            model(hidden)
    assert run.finish().steps[1].paper.motion_score == pytest.approx(0.5)


def test_what_outlives_the_call_is_allocated_where_it_may():
    """Every residual, and the sums that are read when the step is over."""
    allocating, seen = Allocating(), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten.sub.Tensor, torch.ops.aten.sum.dim_IntList, torch.ops.aten.stack.default):
                seen.append(allocating.inside)
            return output

    model, run = DoublingModel(), new_run(allocating=allocating)
    with Watching():
        for sigma in SIGMAS[:3]:
            with run.call(model, LAYOUT, sigma, ("a", "b")):
                model(ones(batch=2))
    assert seen and all(seen)
