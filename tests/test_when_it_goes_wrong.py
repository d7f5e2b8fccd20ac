"""Interrupts, errors, values that are not finite, shapes that change: nothing is lost, and nothing is left behind.

On a tiny Wan in ComfyUI's own samplers. Every case asserts the same three things after it (``Left.behind``): no run and
no residual is alive, no ``forward`` is replaced, and the next run gives the bits of an undisturbed one.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import pytest
import tiny_models
import torch
from tiny_wan import (
    BLOCKS,
    bind,
    bind_every_step,
    counting,
    decisions,
    only_run,
    planned,
    run_guider,
    runs,
    sample,
    shadows,
    text,
)

STEPS = 10
# Rate 4 whatever the distance: computes 0 and 1 (a first distance is needed), then 5, and the last two.
EVERY_FOURTH = ((1e9, 4),)
COMPUTED = [0, 1, 5, 8, 9]
STORAGES = pytest.mark.parametrize("storage", ["hidden", "output"])
pytestmark = pytest.mark.usefixtures("without_gradients")


def bind_every_fourth(model, **choices):
    return bind(model, "custom", EVERY_FOURTH, **choices)


class Left:
    """Weak references to every run that was started and to every tensor that a run kept."""

    def __init__(self):
        self.runs, self.residuals = [], []

    def residuals_alive(self):
        return sum(reference() is not None for reference in self.residuals)

    def nothing_behind(self, model):
        """Not even for the garbage collector: a residual may be gigabytes of a GPU's memory."""
        assert self.runs
        assert self.residuals
        assert [reference() for reference in (*self.runs, *self.residuals) if reference() is not None] == []
        assert shadows(model.model.diffusion_model) == []


@pytest.fixture
def left(pack, monkeypatch):
    from adacache.adacache_core import CacheRun, ResidualCache

    left, init, store = Left(), CacheRun.__init__, ResidualCache.store

    def noting_init(run, *args, **kwargs):
        init(run, *args, **kwargs)
        left.runs.append(weakref.ref(run))

    def noting_store(cache, key, *args):
        store(cache, key, *args)
        left.residuals.extend(weakref.ref(tensor) for tensor in cache.history(key)[0].residual)

    monkeypatch.setattr(CacheRun, "__init__", noting_init)
    monkeypatch.setattr(ResidualCache, "store", noting_store)
    gc.disable()  # what only it would free is alive
    yield left
    gc.enable()


@contextmanager
def interrupted(at):
    """ComfyUI's own interrupt, asked for after ``at`` model calls; raised by the next layer that runs."""
    from comfy import model_management
    from comfy.model_base import BaseModel

    calls, apply_model = [], BaseModel.apply_model

    def counted(self, *args, **kwargs):
        model_management.interrupt_current_processing(len(calls) >= at)
        calls.append(None)
        return apply_model(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "apply_model", counted)
        try:
            with pytest.raises(model_management.InterruptProcessingException):
                yield
        finally:
            model_management.interrupt_current_processing(False)


@contextmanager
def failing(path, kind, at):
    """The ``at``-th call of a method raises; gives how many calls there were."""
    owner, _, name = path.rpartition(".")
    owner, original, calls = tiny_models.found(owner), tiny_models.found(path), []

    def fail(self, *args, **kwargs):
        calls.append(len(calls))
        if calls[-1] == at:
            raise kind("simulated")
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield calls


class TestInterrupt:
    @STORAGES
    @pytest.mark.parametrize("step", range(STEPS))
    def test_at_any_step(self, wan, left, storage, step):
        patched, log = bind_every_fourth(wan, storage=storage)
        expected = sample(patched)
        with interrupted(at=step):
            sample(patched)
        left.nothing_behind(wan)
        # A skipped step of kept outputs runs no layer that could notice; the next computed one does.
        stops = step if storage == "hidden" else next(computed for computed in COMPUTED if computed >= step)
        stopped = runs(log)[-1]
        assert (stopped.finished, len(stopped.steps)) == (False, stops)
        assert torch.equal(sample(patched), expected)

    def test_another_prompt_after_a_cancelled_one(self, wan, left):
        """Of another text, length and size, with the same patched model, as when the user changes the prompt."""
        patched, log = bind(wan)
        for step in (2, 6, 0):
            with interrupted(at=step):
                sample(patched, seed=3, positive=text(5))
            left.nothing_behind(wan)
            other = {"seed": 4, "positive": text(6, tokens=9), "frames": 3, "size": 12, "steps": 12}
            assert torch.equal(sample(patched, **other), sample(bind(wan)[0], **other))
            assert decisions(runs(log)[-1]).count(True) == planned(12)


BLOCK = "comfy.ldm.wan.model:WanAttentionBlock.forward"
HEAD = "comfy.ldm.wan.model:Head.forward"


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "kind", "at"),
        # The first and the last block of every computed step; the head at every step, computed or skipped.
        [(BLOCK, torch.OutOfMemoryError, step * BLOCKS + block) for step in range(len(COMPUTED)) for block in (0, 2)]
        + [(HEAD, RuntimeError, step) for step in range(STEPS)],
    )
    def test_in_the_model(self, wan, left, path, kind, at):
        patched, log = bind_every_fourth(wan)
        expected = sample(patched)
        with failing(path, kind, at) as calls, pytest.raises(kind, match="simulated") as caught:
            sample(patched)
        assert len(calls) == at + 1
        # Whoever shows the error to the user holds its traceback, and with it every frame that it went through.
        assert caught.value.__traceback__ is not None
        assert left.residuals_alive() == 0
        del caught
        left.nothing_behind(wan)
        assert not runs(log)[-1].finished
        assert torch.equal(sample(patched), expected)

    @STORAGES
    @pytest.mark.parametrize("at", [0, 6])
    def test_of_a_node_between_the_steps(self, wan, left, storage, at):
        patched, log = bind_every_fourth(wan, storage=storage)
        expected = sample(patched)

        def stop(step, *_):
            if step == at:
                raise RuntimeError("boom")

        with pytest.raises(RuntimeError, match="boom"):
            sample(patched, callback=stop)
        left.nothing_behind(wan)
        assert torch.equal(sample(patched), expected)
        assert [run.finished for run in runs(log)] == [True, False, True]


class TestNotFinite:
    """A block of one condition gives a value that is not finite; a node after guidance mends what comes of it."""

    @contextmanager
    def broken(self, value, at, rows):
        """The last block's output at one model call, for some of its conditions."""
        from comfy.ldm.wan.model import WanAttentionBlock

        calls, forward = [], WanAttentionBlock.forward

        def block(self, *args, **kwargs):
            x = forward(self, *args, **kwargs)
            calls.append(None)
            if len(calls) == (at + 1) * BLOCKS:
                x[rows, 3, 5] = value
            return x

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WanAttentionBlock, "forward", block)
            yield

    def mended(self, model):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(lambda made: made["denoised"].nan_to_num(0.0, 0.0, 0.0))
        return model

    @STORAGES
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2), slice(None)], ids=["first", "second", "both"])
    def test_is_never_replayed(self, wan, left, storage, value, rows):
        patched, log = bind(self.mended(wan), storage=storage)
        sample(patched)
        planned = [record.step for record in only_run(log).steps if record.computed]
        number, bad = next((n, step) for n, step in enumerate(planned) if step and step + 2 not in planned)
        with self.broken(value, number, rows), counting() as ran:
            samples = sample(patched)
        run = runs(log)[-1]
        assert samples.isfinite().all()
        assert [record.step for record in run.steps if record.reason == "residual is not finite"] == [bad]
        # The step after it was to replay what is not there, and is computed; later ones have that to replay.
        assert bad + 1 not in planned
        assert [record.step for record in run.steps if record.computed] == sorted([*planned, bad + 1])
        assert run.steps[bad + 1].reason == "cache was emptied"
        assert ran.blocks == BLOCKS * (len(planned) + 1)
        assert run.steps[bad].distance is None
        left.nothing_behind(wan)

    def test_the_report_says_so(self, wan):
        from adacache.nodes.report import make_report

        patched, log = bind(self.mended(wan))
        with self.broken(float("nan"), 1, slice(None)):
            sample(patched)
        report = make_report([only_run(log)])
        assert "\n1 step gave values that are not finite (NaN): it was not cached. Check model" in report["summary"]
        # The step after it computed as well, for no reason of its own.
        assert [entry["key"] for entry in report["explanation"]][-1] == "not_finite"
        json.dumps(report, allow_nan=False)

    def test_a_model_that_gives_nothing_else_is_computed_throughout(self, wan):
        broken, nan = wan.clone(), torch.full((1, 6, 128), float("nan"))
        broken.add_object_patch("diffusion_model.blocks.0.modulation", torch.nn.Parameter(nan, requires_grad=False))
        patched, log = bind(broken)
        with counting() as ran:
            assert sample(patched).isnan().all()
        assert ran.blocks == BLOCKS * STEPS
        assert {record.reason for record in only_run(log).steps} == {"residual is not finite"}


class TestShapes:
    def test_between_runs(self, wan, left):
        patched, _ = bind(wan)
        changes = [{}, {"size": 12}, {"frames": 1}, {"batch": 2}, {"steps": 14}, {"cfg": 1.0}, {"size": 6}, {}]
        for change in changes:
            assert torch.equal(sample(patched, **change), sample(bind(wan)[0], **change))
            left.nothing_behind(wan)

    @STORAGES
    @pytest.mark.parametrize(
        ("at", "computed"),
        # A step that was to be skipped and one that was not; a distance is there again one step later.
        [(2, [0, 1, 2, 3, 7, 8, 9]), (5, [0, 1, 5, 6, 8, 9])],
    )
    def test_of_the_latent_inside_a_run(self, wan, left, storage, at, computed):
        """A sampler that goes on at twice the size, as some packs have: the new size is a new condition."""
        every, _ = bind_every_step(wan)
        assert torch.equal(self.growing(every, at), self.growing(wan, at))
        patched, log = bind_every_fourth(wan, storage=storage)
        with counting() as ran:
            samples = self.growing(patched, at)
        run = only_run(log)
        assert samples.shape[-2:] == (16, 16)
        assert samples.isfinite().all()
        assert [record.step for record in run.steps if record.computed] == computed
        assert ran.blocks == BLOCKS * len(computed)
        left.nothing_behind(wan)

    def growing(self, model, at):
        import comfy.sample
        from comfy.samplers import KSAMPLER, calculate_sigmas

        def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
            for step, (sigma, following) in enumerate(pairwise(sigmas)):
                if step == at:
                    x = torch.nn.functional.interpolate(x, scale_factor=(1, 2, 2))
                denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
                x = x + (x - denoised) / sigma * (following - sigma)
            return x

        start = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(1))
        sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        return comfy.sample.sample_custom(
            model, start, 3.0, KSAMPLER(sampler), sigmas, text(7), text(8), torch.zeros_like(start), disable_pbar=True
        )

    @pytest.mark.parametrize("when", ["skipped", "computed"])
    def test_of_the_tokens_inside_a_run(self, wan, left, when):
        """A node that hands the model more reference frames from some step on: refused by name, then clean."""
        from adacache.adacache_core import ShapeMismatchError
        from comfy.patcher_extension import WrappersMP

        def lengthen(executor, x, time, context, clip, references, options, **kwargs):
            if float(options["sigmas"][0]) <= float(options["sample_sigmas"][at]):
                references = torch.zeros_like(x[:, :, :1])
            return executor(x, time, context, clip, references, options, **kwargs)

        plain, log = bind(wan)
        sample(plain)
        skipped = decisions(only_run(log)).index(False)
        at = skipped if when == "skipped" else decisions(only_run(log)).index(True, skipped)
        lengthened = wan.clone()
        lengthened.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", lengthen)
        sample(lengthened)
        patched, _ = bind(lengthened)
        with pytest.raises(
            ShapeMismatchError, match=r"AdaCache: .*\(2, 80, 128\).*\(2, 96, 128\).*bypass the AdaCache"
        ):
            sample(patched)
        left.nothing_behind(wan)


def test_a_run_without_a_step(wan):
    """SplitSigmas at step 0 leaves one noise level, and nothing to do."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, CFGGuider, SplitSigmas

    def guided(model):
        return run_guider(CFGGuider.execute(model, text(7), text(8), 3.0).args[0], sigmas)

    sigmas = SplitSigmas.execute(BasicScheduler.execute(wan, "simple", STEPS, 1.0).args[0], 0).args[0]
    assert len(sigmas) == 1
    expected = guided(wan)
    for preset in ("balanced", "paper-fast"):
        patched, log = bind(wan, preset)
        assert torch.equal(guided(patched), expected)
        assert runs(log) == []


def test_two_hundred_runs_in_a_row_hold_no_more_than_five(wan, left):
    """Every tenth is interrupted and every tenth fails; sizes change. Counted are objects, not the process's memory."""
    patched, log = bind(wan)

    def go(number):
        change = {"seed": number, "steps": 8, "frames": 1 + 2 * (number % 2), "size": 4}
        if number % 10 == 3:
            with interrupted(at=number % 8):
                sample(patched, **change)
        elif number % 10 == 7:
            with failing(BLOCK, torch.OutOfMemoryError, number % 9), pytest.raises(torch.OutOfMemoryError):
                sample(patched, **change)
        else:
            sample(patched, **change)

    def held():
        gc.collect()
        alive = gc.get_objects()
        tensors = [thing for thing in alive if issubclass(type(thing), torch.Tensor)]
        ours = Counter(
            type(thing).__qualname__ for thing in alive if str(type(thing).__module__).startswith("adacache")
        )
        ours.pop("StepRecord", None)  # a stopped run has fewer
        return len(tensors), sum(tensor.nbytes for tensor in tensors), ours

    for number in range(20):
        go(number)
    before = held()
    assert before[2]["RunStatistics"] == 16, "the log keeps the last runs' numbers"
    for number in range(20, 200):
        go(number)
    left.nothing_behind(wan)
    assert len(left.runs) == 200
    assert held() == before
    assert len(runs(log)) == 16
