"""Random settings and random graphs of our nodes, in ComfyUI's own validation, execution and samplers.

What must hold whatever the user chooses: a skipped call gets what follows from the same condition's last computed calls
of the same run, and from nothing else; no input is changed; the first and the last step compute; and what is refused is
refused by an error of ours that says what to do.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
from collections import defaultdict
from contextlib import contextmanager
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from tiny_wan import decisions, noise, sample, shadows, text

PLANNED, PAPER = ("balanced", "quality", "fast", "target"), ("paper-fast", "paper-slow", "custom")
SAMPLERS = (
    "euler",
    "heun",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2s_ancestral",
    "res_multistep",
    "lcm",
    "uni_pc",
    "euler_ancestral",
)
NOISY = ("dpmpp_2s_ancestral", "lcm", "euler_ancestral")

# The same examples everywhere, in about the same time: no deadline, and no search for a smaller failing example.
bounded = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.usefixtures("without_gradients")


def acts_on(message):
    """An error that a user can act on: whose it is, what was met, and what is asked for."""
    assert re.match(r"AdaCache( MoReg)?: ", message), message
    assert message.endswith("."), message
    assert re.search(r"must|needs?\b|expected|[Ww]rite|Use |Remove|bypass|Load", message), message


entries = st.lists(st.tuples(st.floats(1e-6, 4), st.integers(1, 12)), min_size=1, max_size=5, unique_by=lambda e: e[0])
codebooks = entries.map(lambda made: ", ".join(f"{threshold}:{rate}" for threshold, rate in sorted(made)))
odd_codebooks = st.text(max_size=20) | st.sampled_from(
    ["", "0.08", "0.08:0", "0.2:3, 0.1:2", "nan:2", "inf:2", "1e999:3", "0.1:2:3", "0.1:1.5", f"0.1:{10**30}"]
)
odd_percents = st.sampled_from([-0.01, 1.01, float("nan"), float("inf")])
odd_numbers = st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e-320, 1e300])

# What the widgets offer, and what may come over a link or from another program.
ADACACHE = {
    "preset": (st.sampled_from(PLANNED + PAPER), st.just("fastest")),
    "codebook": (codebooks, odd_codebooks),
    "target_speedup": (st.floats(1, 8), odd_numbers),
}
MOREG = {
    "strides": (st.sampled_from(["1", "1, 2", "2,1,", "3"]), st.text(max_size=6) | st.sampled_from(["0", "9", ""])),
    "start_percent": (st.sampled_from([0.0, 0.13]), odd_percents | st.just(1.0)),
    "end_percent": (st.sampled_from([0.87, 1.0]), odd_percents | st.just(0.0)),
    "scale": (st.floats(0.001, 10), odd_numbers),
    "exponent": (st.floats(0.1, 32), odd_numbers),
    "divisor": (st.floats(0.01, 100), odd_numbers),
    "gradient_multiplier": (st.floats(0, 100), odd_numbers),
}


@st.composite
def inputs(draw, of):
    """Inputs of a node; one in four draws has one of them out of range."""
    made = {name: draw(usual) for name, (usual, _) in of.items()}
    if draw(st.integers(0, 3)) == 3:
        name = draw(st.sampled_from(sorted(of)))
        made[name] = draw(of[name][1])
    return made


class WatchedPredictions:
    """What each condition is predicted to be, as seen from outside of the cache and from inside of it.

    Attributes:
        ran: per evaluation of the model whether it ran for each condition.
        bytes: of the predictions that forecasts need: three of every condition, and three guided ones; of one condition
            alone they are the guided ones, too; and of the last correction, if there was one.
        noisy: whether the sampler adds noise; then forecasts are lines, and need two.
    """

    noisy = False

    def __init__(self):
        self.ran = defaultdict(list)
        self.evaluation = -1
        self.known = {}  # per condition: (level, prediction) of its last computes
        self.corrected = False
        self.surprise = None  # how far the last compute is from its forecast

    @contextmanager
    def watching(self, model):
        from adacache.adacache_core import kept, planned

        correction, move = planned.correction, kept.Kept.move

        def watched(*args):
            factor = correction(*args)
            self.corrected |= factor != 0
            return factor

        def moved(own, by):
            """What is known of a condition alone moves by a part of its surprise, and of nothing else."""
            [history] = self.known.values()
            level, prediction = history[-1]
            share = float((by * self.surprise).sum() / self.surprise.square().sum())
            assert 0 < abs(share) < 1
            torch.testing.assert_close(by, share * self.surprise, rtol=1e-4, atol=1e-4)
            history[-1] = (level, prediction + by)
            move(own, by)

        with patch.object(planned, "correction", watched), patch.object(kept.Kept, "move", moved):
            yield

    def evaluate(self, executor, *args):
        self.evaluation += 1
        return executor(*args)

    def from_inside(self, executor, model, conds, *args):
        self.computed = executor(model, conds, *args)
        self.asked = [cond is not None for cond in conds]
        return self.computed

    def from_outside(self, executor, model, conds, x, timestep, options):
        before, self.asked = x.clone(), [False] * len(conds)
        made = executor(model, conds, x, timestep, options)
        assert torch.equal(x, before), "the sampler's tensor was changed"
        level = float(timestep[0])
        # At cfg 3, which is what all of these are guided by, half of a bend is followed.
        bend = 0.0 if self.noisy else 1.0 if sum(cond is not None for cond in conds) == 1 else 0.5
        for place, prediction in enumerate(made):
            if conds[place] is None:
                continue
            self.ran[self.evaluation].append(self.asked[place])
            history = self.known.setdefault(place, [])
            if self.asked[place]:
                assert torch.equal(prediction, self.computed[place])
                self.surprise = prediction - forecast(history, level, bend) if history else None
                history[:] = [*(kept for kept in history if abs(kept[0] - level) > 1e-5), (level, prediction.clone())]
                del history[: -3 if bend else -2]
            else:
                torch.testing.assert_close(prediction, forecast(history, level, bend), rtol=1e-4, atol=1e-4)
        return made

    def wrap(self, model, bind):
        """The model as AdaCache patches it, with a look from both of its sides."""
        outside = model.clone()
        outside.add_wrapper_with_key("predict_noise", "outside", self.evaluate)
        outside.add_wrapper_with_key("calc_cond_batch", "outside", self.from_outside)
        patched, log = bind(outside)
        patched.add_wrapper_with_key("calc_cond_batch", "inside", self.from_inside)
        return patched, log

    @property
    def bytes(self):
        kept = [prediction.nbytes for history in self.known.values() for _, prediction in history]
        guided = 0 if len(self.known) == 1 else max(len(history) for history in self.known.values()) * kept[0]
        return sum(kept) + guided + self.corrected * kept[0]


def forecast(history, level, bend):
    """The polynomial through a flow model's predictions with so much of its bend, by Newton's divided differences from
    the newest on; one is held."""
    history = history[::-1]
    u = [1 / (1.01 - time) + math.log(time + 0.02) for time, _ in history]
    here, slopes = 1 / (1.01 - level) + math.log(level + 0.02), [prediction.double() for _, prediction in history]
    made, way = slopes[0], 1.0
    for order in range(1, len(u)):
        slopes = [(b - a) / (u[i + order] - u[i]) for i, (a, b) in enumerate(pairwise(slopes))]
        way *= here - u[order - 1]
        made = made + slopes[0] * way * (1.0 if order == 1 else bend)
    return made.float()


class WatchedResiduals:
    """What the blocks of each computed step changed, and that a skipped step adds the last of it, and nothing else."""

    def __init__(self):
        self.ran = defaultdict(list)
        self.known = {}
        self.embedded = self.after_blocks = self.at_head = None

    def wrap(self, model, bind):
        return bind(model)

    @contextmanager
    def watching(self, model):
        """Look at every call of the model from outside: ComfyUI's call of it, its embedding, its blocks, its head."""
        from comfy.ldm.wan.model import Head, WanAttentionBlock
        from comfy.model_base import BaseModel

        apply_model, block_forward, head_forward = BaseModel.apply_model, WanAttentionBlock.forward, Head.forward

        def call(base, x, t, **kwargs):
            self.embedded = self.after_blocks = self.at_head = None
            before = x.clone()
            made = apply_model(base, x, t, **kwargs)
            assert torch.equal(x, before), "the sampler's tensor was changed"
            self.take(float(t[0]), kwargs)
            return made

        def block(module, *args, **kwargs):
            self.after_blocks = block_forward(module, *args, **kwargs)
            return self.after_blocks

        def head(module, x, e):
            self.at_head = x.clone()
            return head_forward(module, x, e)

        def embed(module, args, output):
            self.embedded = output.flatten(2).transpose(1, 2).clone()

        hook = model.model.diffusion_model.patch_embedding.register_forward_hook(embed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BaseModel, "apply_model", call)
            patch.setattr(WanAttentionBlock, "forward", block)
            patch.setattr(Head, "forward", head)
            yield
        hook.remove()

    def take(self, sigma, kwargs):
        sigmas = kwargs["transformer_options"]["sample_sigmas"].tolist()
        step = max(index for index, level in enumerate(sigmas[:-1]) if index == 0 or sigma <= level * (1 + 1e-4))
        prompts = kwargs["c_crossattn"].chunk(len(kwargs["transformer_options"]["uuids"]))
        conditions = [float(prompt.double().sum()) for prompt in prompts]
        self.ran[step].append(self.after_blocks is not None)
        if self.after_blocks is not None:
            parts = (self.after_blocks - self.embedded).chunk(len(conditions))
            self.known.update(zip(conditions, (part.clone() for part in parts), strict=True))
        else:
            replayed = torch.cat([self.known[condition] for condition in conditions])
            torch.testing.assert_close(self.at_head, self.embedded + replayed, rtol=1e-4, atol=1e-4)

    @property
    def bytes(self):
        return sum(residual.nbytes for residual in self.known.values())


def execute(node, **inputs):
    """A node as ComfyUI executes it, without its validation: values come over links too."""
    return node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs).args


@bounded(max_examples=30)
@given(
    chosen=inputs(ADACACHE),
    moreg=st.none() | inputs(MOREG),
    sampler=st.sampled_from(SAMPLERS),
    steps=st.integers(1, 14),
    cfg=st.sampled_from([1.0, 3.0]),
    scheduler=st.sampled_from(["simple", "beta", "karras"]),
)
def test_any_settings_keep_the_invariants(wan, chosen, moreg, sampler, steps, cfg, scheduler):
    from adacache.adacache_core import AdaCacheError
    from adacache.nodes.adacache import AdaCache
    from adacache.nodes.moreg import MoRegSettings

    watched = WatchedPredictions() if chosen["preset"] in PLANNED else WatchedResiduals()
    watched.noisy = sampler in NOISY
    sampling = {"sampler": sampler, "steps": steps, "cfg": cfg, "scheduler": scheduler}
    try:
        [motion] = (None,) if moreg is None else execute(MoRegSettings, **moreg)
        patched, log = watched.wrap(wan, lambda model: execute(AdaCache, model=model, preset=chosen, moreg=motion))
        start = noise(seed=2)
        with watched.watching(wan):
            sample(patched, noise=noise(seed=1), seed=1, **sampling)  # nothing of it may be left in the next run
            watched.__init__()
            samples = sample(patched, noise=start, seed=2, **sampling)
        assert torch.equal(start, noise(seed=2))
        assert samples.isfinite().all()
        run = log.of_prompt(None)[-1].statistics
        holds(watched, run)
    except AdaCacheError as error:
        acts_on(str(error))
        assert shadows(wan.model.diffusion_model) == []
        return
    assert shadows(wan.model.diffusion_model) == []
    if run.count("computed") == run.total_steps:
        assert torch.equal(samples, sample(wan, noise=noise(seed=2), seed=2, **sampling))


def holds(watched, run):
    """The statistics tell what was seen from outside."""
    assert run.finished
    assert [record.step for record in run.steps] == sorted(watched.ran)
    assert decisions(run) == [any(watched.ran[step]) for step in sorted(watched.ran)]
    assert all(len(set(ran)) == 1 for ran in watched.ran.values()), "a step computes or skips as a whole"
    assert run.steps[0].kind == run.steps[-1].kind == "computed"
    assert run.cache_bytes == watched.bytes
    json.dumps(run.to_dict(), allow_nan=False)


@bounded(max_examples=300)
@given(st.text(max_size=30) | odd_codebooks | codebooks)
@example("0.1:" + "9" * 5000)
def test_any_text_is_a_codebook_or_refused(pack, written):
    from adacache.adacache_core import ConfigurationError
    from adacache.adacache_core.paper.codebook import Codebook

    try:
        codebook = Codebook.parse(written)
    except ConfigurationError as error:
        acts_on(str(error))
    else:
        thresholds = [threshold for threshold, _ in codebook.entries]
        assert thresholds == sorted(set(thresholds))
        assert all(codebook.rate(distance) >= 1 for distance in (0.0, 0.1, 1e9))
        json.dumps(codebook.entries, allow_nan=False)


class TinyWan:
    """A node for the graphs below: the model, two prompts and an empty latent."""

    model = None
    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return self.model, text(7), text(8), {"samples": torch.zeros(1, 16, 3, 4, 4)}


@pytest.fixture(scope="module")
def run_graph(wan):
    """Validate and execute a prompt as ComfyUI's server does; gives outputs, errors, and which outputs were valid."""
    import execution
    from adacache.nodes import NODES
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
    from server import PromptServer

    import nodes

    def run(prompt):
        valid, _, outputs, refused = asyncio.run(execution.validate_prompt("test", prompt, None))
        if not valid:
            return {}, [], refused
        executor = execution.PromptExecutor(server, execution.CacheType.NONE, {"lru": 0, "ram": 0, "ram_inactive": 0})
        executor.execute(prompt, "test", {}, outputs)
        errors = [data for event, data in executor.status_messages if event == "execution_error"]
        return executor.history_result["outputs"] if not errors else {}, errors, refused

    loop = asyncio.new_event_loop()
    with pytest.MonkeyPatch.context() as patch:
        for node in (*NODES, EasyCacheNode, LazyCacheNode):
            patch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
        patch.setitem(nodes.NODE_CLASS_MAPPINGS, "TinyWan", TinyWan)
        patch.setattr(TinyWan, "model", wan)
        server = PromptServer(loop)
        yield run
        del PromptServer.instance
    loop.close()


CACHES = ("AdaCache", "EasyCache", "LazyCache")


@st.composite
def graphs(draw):
    """Any chain of caches, samplers on any of its models, inspectors on any samplers and any statistics."""
    graph = {"wan": ("TinyWan", {})}
    for number in range(draw(st.integers(0, 2))):
        graph[f"moreg{number}"] = ("AdaCacheMoReg", draw(inputs(MOREG)))
    moregs = [name for name in graph if name.startswith("moreg")]
    models = ["wan"]
    for kind in draw(st.lists(st.sampled_from(("AdaCache", *CACHES)), max_size=2)):
        values = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
        if kind == "AdaCache":
            values = {f"preset.{name}".removesuffix(".preset"): value for name, value in draw(inputs(ADACACHE)).items()}
            if moregs and draw(st.booleans()):
                values["moreg"] = [draw(st.sampled_from(moregs)), 0]
        graph[f"model{len(models)}"] = (kind, {**values, "model": [models[-1], 0]})
        models.append(f"model{len(models)}")
    for number in range(draw(st.integers(1, 2))):
        values = {"seed": number, "steps": draw(st.sampled_from([2, 9])), "cfg": 3.0, "denoise": 1.0}
        values |= {"sampler_name": "euler", "scheduler": "simple", "model": [draw(st.sampled_from(models)), 0]}
        links = {"positive": ["wan", 1], "negative": ["wan", 2], "latent_image": ["wan", 3]}
        graph[f"sampler{number}"] = ("KSampler", values | links)
    latents = [["wan", 3], *([name, 0] for name in graph if name.startswith("sampler"))]
    statistics = [[name, slot] for name, (kind, _) in graph.items() if kind == "AdaCache" for slot in (1, 1, 1, 0)]
    for number in range(draw(st.integers(1, 2))):
        links = {"latent": draw(st.sampled_from(latents[::-1]))}
        for name in ("statistics", "statistics_2"):
            if statistics and draw(st.booleans()):
                links[name] = draw(st.sampled_from(statistics))
        graph[f"inspector{number}"] = ("AdaCacheInspector", links)
    return {name: {"class_type": kind, "inputs": values} for name, (kind, values) in graph.items()}


def links_of(node):
    return [value for value in node["inputs"].values() if isinstance(value, list)]


def needed(graph, name):
    """The nodes that a node needs, itself included."""
    return {name}.union(*(needed(graph, link[0]) for link in links_of(graph[name])))


@bounded(max_examples=30)
@given(graph=graphs())
def test_any_graph_samples_or_says_why_not(wan, run_graph, graph):
    outputs, errors, refused = run_graph(graph)
    assert shadows(wan.model.diffusion_model) == []
    for error in errors:
        assert error["exception_type"].startswith("adacache."), error["exception_message"]
        acts_on(error["exception_message"].strip())
    for name, node in graph.items():
        mistyped = [link for key, link in node["inputs"].items() if key.startswith("statistics") and link[1] == 0]
        assert not mistyped or name in refused
    for name, shown in outputs.items():
        for sampler in (other for other in needed(graph, name) if other.startswith("sampler")):
            caches = [graph[other]["class_type"] for other in needed(graph, sampler)]
            caches = [kind for kind in caches if kind in CACHES]
            assert len(caches) < 2 or "AdaCache" not in caches, "two caches sampled one model"
        [report] = shown["adacache"]
        json.dumps(report, allow_nan=False)
        assert report["computed_steps"] + report["skipped_steps"] == report["total_steps"]
        assert all(run["finished"] for run in report["runs"])
        assert report["summary"].endswith(".")
