"""Which runs the inspector shows beside a latent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def new_log(pack):
    from adacache.nodes.runs import RunLog

    return RunLog


@pytest.fixture
def sample(pack):
    """Adds a run of one step at a noise level to a log, as a sampler node does in a prompt."""
    from adacache.adacache_core import RunStatistics, StepRecord

    settings = {"preset": "balanced", "speedup": 2.0, "codebook": None, "moreg": None}

    def make(log: Any, sigma: float, prompt_id: str = "first", sampler: str = "4") -> None:
        step = StepRecord(0, sigma, "computed", "first", 1, 1, 1.0)
        with executing(prompt_id, sampler):
            log.start(RunStatistics(settings, 1, [step], finished=True))

    return make


@pytest.fixture
def inspect(pack):
    """What the inspector finds in a prompt, as the noise levels at which the runs start."""
    from adacache.nodes.inspector import AdaCacheInspector

    def make(*logs: Any, prompt_id: str = "first", prompt: Any = None) -> list[float]:
        node = type("Executing", (AdaCacheInspector,), {})
        node.hidden = SimpleNamespace(prompt=prompt, unique_id="9")
        with executing(prompt_id, "9"):
            report = node.execute({}, *logs).ui["adacache"][0]
        return [run["steps"][0]["sigma"] for run in report["runs"]]

    return make


def executing(prompt_id: str, node_id: str) -> Any:
    """As ComfyUI executes a node."""
    from comfy_execution.utils import CurrentNodeContext

    return CurrentNodeContext(prompt_id, node_id)


def prompt_of(**samplers: str) -> dict[str, Any]:
    """A prompt with a loader (1), AdaCache (2), samplers with where their model comes from, and the inspector (9)."""
    nodes = {"1": {}, "2": {"model": ["1", 0]}, "9": {"latent": ["4", 0], "statistics": ["2", 1]}}
    nodes |= {name[1:]: {"model": [model, 0], "seed": 3} for name, model in samplers.items()}
    return {node: {"class_type": "Any", "inputs": inputs} for node, inputs in nodes.items()}


def test_a_run_is_listed_when_it_was_sampled_and_once(new_log, inspect, sample):
    """Whichever of the two inputs an expert is connected to."""
    first, second = new_log(), new_log()
    sample(first, 1.0)
    sample(second, 0.5)
    assert inspect(first, second) == inspect(second, first) == [1.0, 0.5]
    assert inspect(first, first) == [1.0]


def test_a_result_from_comfyuis_cache_has_the_run_that_made_it(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0, "first")
    sample(log, 0.9, "second")
    assert inspect(log, prompt_id="third", prompt=prompt_of(_4="2")) == [0.9]


def test_a_sampler_without_adacache_has_no_run(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0, "first")
    assert inspect(log, prompt_id="second", prompt=prompt_of(_4="1")) == [], "rewired past AdaCache"
    assert inspect(log, prompt_id="second", prompt=prompt_of(_4="1", _5="2")) == [], "AdaCache makes another latent"
    assert inspect(log, prompt_id="second", prompt=prompt_of(_4="2")) == [1.0], "this test must be able to fail"


def test_an_expert_from_the_cache_is_shown_beside_the_one_that_ran(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0, "first", "3")
    sample(log, 0.5, "first")
    sample(log, 0.4, "second")
    prompt = prompt_of(_3="2", _4="2")
    prompt["4"]["inputs"]["latent_image"] = ["3", 0]
    assert inspect(log, prompt_id="second", prompt=prompt) == [1.0, 0.4]
