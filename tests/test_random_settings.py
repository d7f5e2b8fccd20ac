"""Random settings and random graphs of our nodes, in ComfyUI's own validation, execution and samplers.

What must hold whatever the user chooses: a skipped call replays what the same condition's last computed calls of the
same run left, and nothing else; no input is changed; the first and the last step compute; and what is refused is
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

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from tiny_wan import noise, sample, shadows, text

PRESETS = ("balanced", "quality", "fast", "target", "paper-fast", "paper-slow", "custom", "calibrate")
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


percents = st.floats(0, 1).map(lambda value: round(value, 2))
entries = st.lists(st.tuples(st.floats(1e-6, 4), st.integers(1, 12)), min_size=1, max_size=5, unique_by=lambda e: e[0])
codebooks = entries.map(lambda made: ", ".join(f"{threshold}:{rate}" for threshold, rate in sorted(made)))
odd_codebooks = st.text(max_size=20) | st.sampled_from(
    ["", "0.08", "0.08:0", "0.2:3, 0.1:2", "nan:2", "inf:2", "1e999:3", "0.1:2:3", "0.1:1.5", f"0.1:{10**30}"]
)
odd_percents = st.sampled_from([-0.01, 1.01, float("nan"), float("inf")])
odd_numbers = st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e-320, 1e300])

# What the widgets offer, and what may come over a link or from another program.
ADACACHE = {
    "preset": (st.sampled_from(PRESETS), st.just("fastest")),
    "replay": (st.sampled_from(["auto", "forecast", "hold"]), st.just("guess")),
    "start_percent": (st.just(0.0) | percents.map(lambda value: value / 2), odd_percents),
    "end_percent": (st.just(1.0) | percents.map(lambda value: 0.51 + value * 0.49), odd_percents | st.just(0.0)),
    "codebook": (codebooks, odd_codebooks),
    "target_speedup": (st.floats(1, 8), odd_numbers),
    "storage": (st.sampled_from(["auto", "hidden", "output"]), st.just("disk")),
    "cache_device": (st.sampled_from(["same device", "system memory"]), st.just("cloud")),
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


class Watched:
    """Model calls as ComfyUI makes them, with what the model itself gives; and what a skip may replay of them.

    For every condition, by its prompt, it keeps what the blocks of the computed steps changed (or, where outputs are
    kept, what the model gave), as seen from outside of the cache; ``check`` works a skipped call out from that.
    """

    def __init__(self, statistics, order):
        self.statistics, self.order = statistics, order
        self.known = defaultdict(dict)  # per condition: step -> (sigma, tensor)
        self.ran = []  # per call: step, whether the blocks ran
        self.embedded = self.after_blocks = self.at_head = self.output = None

    def take(self, sigma, sigmas, conditions):
        step = max(index for index, level in enumerate(sigmas[:-1]) if index == 0 or sigma <= level * (1 + 1e-4))
        outputs = self.statistics().storage == "output"
        self.ran.append((step, self.after_blocks is not None))
        if self.after_blocks is not None:
            made = self.output if outputs else self.after_blocks - self.embedded
            for condition, part in zip(conditions, made.chunk(len(conditions)), strict=True):
                self.known[condition][step] = (sigma, part.clone())
            return
        replayed = torch.cat([self.line(condition, sigma) for condition in conditions])
        seen = self.output if outputs else self.at_head
        torch.testing.assert_close(seen, replayed if outputs else self.embedded + replayed, rtol=1e-4, atol=1e-4)

    def line(self, condition, sigma):
        (last, new), *before = reversed(list(self.known[condition].values())[-self.order :])
        if not before:
            return new
        [(first, old)] = before
        this, last, first = (1 / (1.01 - time) + math.log(time + 0.02) for time in (sigma, last, first))
        return new + (new - old) * ((this - last) / (last - first))

    @property
    def bytes(self):
        return sum(part.nbytes for known in self.known.values() for _, part in list(known.values())[-self.order :])


@contextmanager
def watching(model, watched):
    """Look at every call of the model from outside: ComfyUI's call of it, its embedding, its blocks and its head."""
    from comfy.ldm.wan.model import Head, WanAttentionBlock
    from comfy.model_base import BaseModel

    apply_model, block_forward, head_forward = BaseModel.apply_model, WanAttentionBlock.forward, Head.forward

    def call(self, x, t, **kwargs):
        watched.embedded = watched.after_blocks = watched.at_head = watched.output = None
        before, prompts = x.clone(), kwargs["c_crossattn"].clone()
        made = apply_model(self, x, t, **kwargs)
        assert torch.equal(x, before), "the sampler's tensor was changed"
        assert torch.equal(kwargs["c_crossattn"], prompts)
        options = kwargs["transformer_options"]
        count, sigmas = len(options["uuids"]), options["sample_sigmas"].tolist()
        watched.take(float(t[0]), sigmas, [float(prompt.double().sum()) for prompt in prompts.chunk(count)])
        return made

    def block(self, *args, **kwargs):
        watched.after_blocks = block_forward(self, *args, **kwargs)
        return watched.after_blocks

    def head(self, x, e):
        watched.at_head = x.clone()
        return head_forward(self, x, e)

    def embed(module, args, output):
        watched.embedded = output.flatten(2).transpose(1, 2).clone()

    def give(module, args, output):
        watched.output = output.clone()

    network = model.model.diffusion_model
    hooks = [network.patch_embedding.register_forward_hook(embed), network.register_forward_hook(give)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "apply_model", call)
        patch.setattr(WanAttentionBlock, "forward", block)
        patch.setattr(Head, "forward", head)
        yield
    for hook in hooks:
        hook.remove()


def execute(node, **inputs):
    """A node as ComfyUI executes it, without its validation: values come over links too."""
    return node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs).args


@bounded(max_examples=40)
@given(
    chosen=inputs(ADACACHE),
    moreg=st.none() | inputs(MOREG),
    sampler=st.sampled_from(SAMPLERS),
    steps=st.integers(1, 14),
    cfg=st.sampled_from([1.0, 3.0]),
    scheduler=st.sampled_from(["simple", "beta", "karras"]),
)
def test_any_settings_keep_the_invariants(wan, chosen, moreg, sampler, steps, cfg, scheduler):
    from adacache.adacache_core import AdaCacheError, replay_for
    from adacache.nodes.adacache import AdaCache
    from adacache.nodes.moreg import MoRegSettings

    try:
        [motion] = (None,) if moreg is None else execute(MoRegSettings, **moreg)
        patched, log = execute(AdaCache, model=wan, moreg=motion, **chosen)
        for seed in (1, 2):
            watched = Watched(
                lambda: log.of_prompt(None)[-1].statistics,
                replay_for(chosen["preset"], chosen["replay"]).order,
            )
            start = noise(seed=seed)
            untouched = start.clone()
            with watching(wan, watched):
                sampling = {"sampler": sampler, "steps": steps, "cfg": cfg, "scheduler": scheduler, "seed": seed}
                samples = sample(patched, noise=start, **sampling)
            assert torch.equal(start, untouched)
            assert samples.isfinite().all()
            holds(watched)
    except AdaCacheError as error:
        acts_on(str(error))
        assert shadows(wan.model.diffusion_model) == []
        return
    assert shadows(wan.model.diffusion_model) == []
    if watched.statistics().computed_steps == watched.statistics().total_steps:
        assert torch.equal(samples, sample(wan, noise=noise(seed=2), **sampling))


def holds(watched):
    """The statistics tell what was seen from outside."""
    run = watched.statistics()
    by_step = defaultdict(list)
    for step, blocks_ran in watched.ran:
        by_step[step].append(blocks_ran)
    assert run.finished
    assert [record.step for record in run.steps] == sorted(by_step)
    assert [record.computed for record in run.steps] == [any(by_step[step]) for step in sorted(by_step)]
    assert all(len(set(ran)) == 1 for ran in by_step.values()), "a step computes or skips as a whole"
    assert run.steps[0].computed
    assert run.steps[-1].computed
    assert run.cache_bytes == watched.bytes
    json.dumps(run.to_dict(), allow_nan=False)


@bounded(max_examples=300)
@given(st.text(max_size=30) | odd_codebooks | codebooks)
@example("0.1:" + "9" * 5000)
def test_any_text_is_a_codebook_or_refused(pack, written):
    from adacache.adacache_core import Codebook, ConfigurationError

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
            values = draw(inputs(ADACACHE))
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


@bounded(max_examples=40)
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
