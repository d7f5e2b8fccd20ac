"""Interrupts, errors, values that are not finite, shapes that change: nothing is lost, nothing is left behind.

On a tiny Wan in ComfyUI's samplers, on both roads. Every case asserts the same things after it: no tensor of the run
is alive (``Left.nothing_behind``), no ``forward`` is replaced, and the next run gives the bits of an undisturbed one.
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
    cfg_guider,
    counting,
    decisions,
    latents,
    memory,
    only_run,
    planned,
    run_guider,
    runs,
    sample,
    shadows,
    sigmas,
    text,
)

STEPS = 10
ROADS = pytest.mark.parametrize("preset", ["balanced", "paper-fast"])
pytestmark = pytest.mark.usefixtures("without_gradients")


def bind_one(model, preset):
    """Skips some of ten steps on either road: the paper's rule with rate 4 whatever the distance."""
    if preset == "balanced":
        return bind(model)
    from adacache.adacache_core.paper.codebook import Codebook

    return bind(model, "custom", codebook=Codebook(((1e9, 4),)))


class Left:
    """Weak references to every tensor that was made while sampling with a cache, but for what sampling gave."""

    def __init__(self):
        self.made = []

    @contextmanager
    def noting(self):
        """Note all results of the model, of its modules and of arithmetic on them."""
        from torch.overrides import TorchFunctionMode

        left = self

        class Noting(TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                if type(result) is torch.Tensor and not any(result is given for given in args):
                    left.made.append(weakref.ref(result))
                return result

        with Noting():
            yield

    def alive(self):
        return [reference() for reference in self.made if reference() is not None]

    def nothing_behind(self, model):
        """Not even for the garbage collector: a prediction or a residual may be gigabytes of a GPU's memory."""
        assert self.made
        assert self.alive() == []
        assert shadows(model.model.diffusion_model) == []


@pytest.fixture
def left(pack):
    gc.collect()
    gc.disable()  # what only it would free is alive
    yield Left()
    gc.enable()


@contextmanager
def interrupted(at):
    """ComfyUI's own interrupt, asked for after ``at`` steps; raised by the next layer that runs."""
    from comfy import model_management
    from comfy.samplers import CFGGuider

    calls, predict_noise = [], CFGGuider.outer_predict_noise

    def counted(self, *args, **kwargs):
        model_management.interrupt_current_processing(len(calls) >= at)
        calls.append(None)
        return predict_noise(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CFGGuider, "outer_predict_noise", counted)
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
    @ROADS
    @pytest.mark.parametrize("step", [0, 3, STEPS - 1])
    def test_at_a_step(self, wan, left, preset, step):
        patched, log = bind_one(wan, preset)
        expected = sample(patched)
        computed = decisions(only_run(log))
        with left.noting(), interrupted(at=step):
            sample(patched)
        left.nothing_behind(wan)
        # A skipped step of the main road runs no layer that could notice; the next computed one does.
        stops = step if preset != "balanced" else computed.index(True, step)
        stopped = runs(log)[-1]
        assert not stopped.finished
        assert len(stopped.steps) <= stops
        assert torch.equal(sample(patched), expected)

    def test_another_prompt_after_a_cancelled_one(self, wan, left):
        """Of another text, length and size, with the same patched model, as when the user changes the prompt."""
        patched, log = bind(wan)
        for step in (2, 6, 0):
            with left.noting(), interrupted(at=step):
                sample(patched, seed=3, positive=text(5))
            left.nothing_behind(wan)
            other = {"seed": 4, "positive": text(6, tokens=9), "frames": 3, "size": 12, "steps": 12}
            assert torch.equal(sample(patched, **other), sample(bind(wan)[0], **other))
            assert decisions(runs(log)[-1]).count(True) == planned(12)


BLOCK = "comfy.ldm.wan.model:WanAttentionBlock.forward"
HEAD = "comfy.ldm.wan.model:Head.forward"


class TestErrors:
    @ROADS
    @pytest.mark.parametrize(
        ("path", "kind", "at"),
        # A block of the first, of a middle and of the last computed step; the head of some.
        [(BLOCK, torch.OutOfMemoryError, step * BLOCKS + 1) for step in (0, 2, 4)] + [(HEAD, RuntimeError, 3)],
    )
    def test_in_the_model(self, wan, left, preset, path, kind, at):
        patched, log = bind_one(wan, preset)
        expected = sample(patched)
        with left.noting(), failing(path, kind, at) as calls, pytest.raises(kind, match="simulated") as caught:
            sample(patched)
        assert len(calls) == at + 1
        # Whoever shows the error to the user holds its traceback, and with it every frame that it went through; what
        # the frames themselves hold is the sampler's and the model's, of one step.
        assert caught.value.__traceback__ is not None
        del caught
        left.nothing_behind(wan)
        assert not runs(log)[-1].finished
        assert torch.equal(sample(patched), expected)

    def test_a_traceback_does_not_hold_what_is_kept(self, wan):
        """As the uncached run: to the byte what the frames of the step that failed hold."""
        held = {}
        for name, model in (("uncached", wan), ("cached", bind_every_step(wan)[0])):
            before = memory(at_least=latents(1))
            with failing(BLOCK, RuntimeError, 7 * BLOCKS), pytest.raises(RuntimeError, match="simulated") as caught:
                sample(model)
            held[name] = memory(at_least=latents(1)) - before
            del caught
        assert held["cached"] == held["uncached"]

    @ROADS
    @pytest.mark.parametrize("at", [0, 6])
    def test_of_a_node_between_the_steps(self, wan, left, preset, at):
        patched, log = bind_one(wan, preset)
        expected = sample(patched)

        def stop(step, *_):
            if step == at:
                raise RuntimeError("boom")

        with left.noting(), pytest.raises(RuntimeError, match="boom"):
            sample(patched, callback=stop)
        left.nothing_behind(wan)
        assert torch.equal(sample(patched), expected)
        assert [run.finished for run in runs(log)] == [True, False, True]


def mended(model):
    """A node after guidance mends values that are not finite."""
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda made: made["denoised"].nan_to_num(0.0, 0.0, 0.0))
    return model


@contextmanager
def broken(value, at, rows):
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


class TestNotFinite:
    """A block of one condition gives a value that is not finite."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2)], ids=["first", "second"])
    @pytest.mark.parametrize("mends", [True, False])
    def test_is_never_forecast_from(self, wan, left, value, rows, mends):
        """Whether a node behind guidance hides it or not."""
        model = mended(wan) if mends else wan
        patched, log = bind(model)
        undisturbed = sample(patched)
        plan = only_run(log).plan
        computes = [step for step, reason in enumerate(plan) if reason is not None]
        number, bad = next((n, step) for n, step in enumerate(computes) if step and step + 1 not in computes)
        with broken(value, number, rows), counting() as ran, left.noting():
            samples = sample(patched).numpy()
        run = runs(log)[-1]
        left.nothing_behind(wan)
        samples = torch.from_numpy(samples.copy())
        if not mends:
            assert not samples.isfinite().all(), "an uncached run shows it, and so does this one"
            return
        assert samples.isfinite().all()
        assert [record.step for record in run.steps if record.reason == "not finite"] == [bad]
        # The steps after it were to be forecast from it, and are computed until two are known again.
        assert decisions(run)[bad + 1]
        assert ran.blocks > BLOCKS * len(computes)
        assert (samples - undisturbed).abs().max() < undisturbed.abs().max()

    def test_the_report_says_so(self, wan):
        from adacache.nodes.report import make_report

        patched, log = bind(mended(wan))
        with broken(float("nan"), 1, slice(None)):
            sample(patched)
        report = make_report([only_run(log)])
        assert "not finite (NaN)" in report["summary"]
        json.dumps(report, allow_nan=False)

    @ROADS
    def test_a_model_that_gives_nothing_else_is_computed_throughout(self, wan, preset):
        spoilt, nan = wan.clone(), torch.full((1, 6, 128), float("nan"))
        spoilt.add_object_patch("diffusion_model.blocks.0.modulation", torch.nn.Parameter(nan, requires_grad=False))
        patched, log = bind(spoilt, preset)
        with counting() as ran:
            assert sample(patched).isnan().all()
        assert ran.blocks == BLOCKS * STEPS
        reason = "not finite" if preset == "balanced" else "residual is not finite"
        assert {record.reason for record in only_run(log).steps} == {reason}


class TestShapes:
    @ROADS
    def test_between_runs(self, wan, left, preset):
        patched, _ = bind_one(wan, preset)
        changes = [{}, {"size": 12}, {"frames": 1}, {"batch": 2}, {"steps": 14}, {"cfg": 1.0}, {"size": 6}, {}]
        for change in changes:
            with left.noting():
                made = sample(patched, **change)
                same = torch.equal(made, sample(bind_one(wan, preset)[0], **change))
                del made
            assert same
            left.nothing_behind(wan)

    @ROADS
    @pytest.mark.parametrize("at", [4, 5])
    def test_of_the_latent_inside_a_run(self, wan, left, preset, at):
        """A sampler that goes on at twice the size, as some packs have: the new size is a new condition."""
        every, _ = bind_every_step(wan)
        plain = self.growing(wan, at)
        assert torch.equal(self.growing(every, at), plain)
        patched, log = bind_one(wan, preset)
        with counting() as ran, left.noting():
            samples = self.growing(patched, at)
        run = only_run(log)
        assert samples.shape[-2:] == (16, 16)
        assert samples.isfinite().all()
        assert decisions(run)[at], "nothing is known of this size"
        assert run.count("skipped") > 0
        assert ran.blocks == BLOCKS * run.count("computed")
        del samples
        left.nothing_behind(wan)

    def growing(self, model, at):
        from comfy.samplers import KSAMPLER

        def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
            for step, (sigma, following) in enumerate(pairwise(sigmas)):
                if step == at:
                    x = torch.nn.functional.interpolate(x, scale_factor=(1, 2, 2))
                denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
                x = x + (x - denoised) / sigma * (following - sigma)
            return x

        return run_guider(cfg_guider(model), sigmas(model, STEPS), KSAMPLER(sampler))

    def test_of_the_tokens_inside_a_run(self, wan, left, pack):
        """A node that hands the model more reference frames from some step on: the paper's road refuses it by name.

        The main road sees none of it, since the prediction keeps its shape.
        """
        from adacache.adacache_core import ShapeMismatchError
        from comfy.patcher_extension import WrappersMP

        def lengthen(executor, x, time, context, clip, references, options, **kwargs):
            if float(options["sigmas"][0]) <= float(options["sample_sigmas"][4]):
                references = torch.zeros_like(x[:, :, :1])
            return executor(x, time, context, clip, references, options, **kwargs)

        lengthened = wan.clone()
        lengthened.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", lengthen)
        patched, _ = bind_one(lengthened, "paper-fast")
        with (
            left.noting(),
            pytest.raises(ShapeMismatchError, match=r"AdaCache: .*\(2, 80, 128\).*\(2, 96, 128\).*bypass AdaCache"),
        ):
            sample(patched)
        left.nothing_behind(wan)
        assert sample(bind(lengthened)[0]).isfinite().all()


@pytest.mark.long
def test_two_hundred_runs_in_a_row_hold_no_more_than_twenty(wan):
    """Every tenth is interrupted and every tenth fails; sizes change. Counted are objects, not the process's memory."""
    patched, log = bind(wan)

    def go(number):
        change = {"seed": number, "steps": 8, "frames": 1 + 2 * (number % 2), "size": 4}
        if number % 10 == 3:
            with interrupted(at=(0, 7)[number // 10 % 2]):
                sample(patched, **change)
        elif number % 10 == 7:
            with failing(BLOCK, torch.OutOfMemoryError, number % 9), pytest.raises(torch.OutOfMemoryError):
                sample(patched, **change)
        else:
            sample(patched, **change)

    def held():
        gc.collect()
        alive = gc.get_objects()
        tensors = [thing for thing in alive if type(thing) in (torch.Tensor, torch.nn.Parameter)]  # no compiler's fakes
        ours = Counter(
            type(thing).__qualname__ for thing in alive if str(type(thing).__module__).startswith("adacache")
        )
        for numbers in ("StepRecord", "RunStatistics", "LoggedRun"):  # a prompt's runs are all kept, as numbers
            ours.pop(numbers, None)
        return len(tensors), sum(tensor.nbytes for tensor in tensors), ours

    for number in range(20):
        go(number)
    before = held()
    for number in range(20, 200):
        go(number)
    assert held() == before
    assert len(runs(log)) == 200
