"""Which runs the inspector shows beside a latent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def new_log(pack):
    from adacache.nodes.runs import RunLog

    return RunLog


PROMPT = {
    "1": {},
    "2": {"model": ["1", 0]},
    "3": {"model": ["2", 0], "seed": 3, "latent_image": ["7", 0]},
    "4": {"model": ["2", 0], "seed": 4, "latent_image": ["3", 0]},
    "5": {"model": ["2", 0], "seed": 5, "latent_image": ["7", 0]},
    "7": {},
    "9": {"latent": ["4", 0], "statistics": ["2", 1]},
}
"""A loader (1), AdaCache (2), samplers one after the other (3, 4), one beside them (5), a latent, the inspector (9)."""


def prompt_of(**changes: dict[str, Any]) -> dict[str, Any]:
    """The prompt with other inputs of some nodes."""
    nodes = {name: dict(inputs) for name, inputs in PROMPT.items()}
    for name, inputs in changes.items():
        nodes.setdefault(name[1:], {}).update(inputs)
    return {name: {"class_type": "Any", "inputs": inputs} for name, inputs in nodes.items()}


@contextmanager
def executing(node_id: str, prompt_id: str = "first", **changes: dict[str, Any]) -> Iterator[Any]:
    """As ComfyUI executes a node of a prompt; gives the prompt, into which nodes can be put."""
    from comfy_execution.graph import DynamicPrompt
    from comfy_execution.progress import reset_progress_state
    from comfy_execution.utils import CurrentNodeContext

    prompt = DynamicPrompt(prompt_of(**changes))
    reset_progress_state(prompt_id, prompt)
    with CurrentNodeContext(prompt_id, node_id):
        yield prompt


@pytest.fixture
def sample(pack):
    """Adds a run of one step at a noise level to a log, as a sampler node does in a prompt."""
    from adacache.adacache_core import RunStatistics, StepRecord

    settings = {"preset": "balanced", "speedup": 2.0, "codebook": None, "moreg": None}

    def make(log: Any, sigma: float, sampler: str = "4", *args: Any, **changes: dict[str, Any]) -> None:
        step = StepRecord(0, sigma, "computed", "first", 1, 1, 1.0)
        with executing(sampler, *args, **changes):
            log.start(RunStatistics(settings, 1, [step], finished=True))

    return make


@pytest.fixture
def inspect(pack):
    """What the inspector finds in a prompt, as the noise levels at which the runs start."""
    from adacache.nodes.inspector import AdaCacheInspector

    def make(*logs: Any, prompt_id: str = "first", **changes: dict[str, Any]) -> list[float]:
        node = type("Executing", (AdaCacheInspector,), {})
        node.hidden = SimpleNamespace(unique_id="9")
        with executing("9", prompt_id, **changes):
            report = node.execute({}, *logs).ui["adacache"][0]
        return [run["steps"][0]["sigma"] for run in report["runs"]]

    return make


def test_a_run_is_listed_when_it_was_sampled_and_once(new_log, inspect, sample):
    """Whichever of the two inputs an expert is connected to."""
    first, second = new_log(), new_log()
    sample(first, 1.0, "3")
    sample(second, 0.5, "4")
    assert inspect(first, second) == inspect(second, first) == [1.0, 0.5]
    assert inspect(first, first) == [1.0]


def test_a_sampler_beside_the_latent_is_another_matter(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0, "4")
    sample(log, 0.5, "5")
    assert inspect(log) == [1.0]
    assert inspect(log, _9={"latent": ["5", 0]}) == [0.5]
    assert inspect(log, _9={"latent": ["7", 0]}) == [], "from before the sampler"


def test_a_result_from_comfyuis_cache_has_the_run_that_made_it(new_log, inspect, sample):
    """ComfyUI may keep results of every prompt so far, not only of the last one."""
    log = new_log()
    for sigma, prompt_id, seed in ((1.0, "first", 4), (0.9, "second", 44)):
        sample(log, sigma, "4", prompt_id, _4={"seed": seed})
    assert inspect(log, prompt_id="third", _4={"seed": 4}) == [1.0]
    assert inspect(log, prompt_id="fourth", _4={"seed": 44}) == [0.9]
    assert inspect(log, prompt_id="fifth", _4={"seed": 444}) == []


def test_what_was_sampled_again_has_its_newest_run(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0, "4", "first")
    sample(log, 0.9, "4", "second")
    assert inspect(log, prompt_id="second") == [0.9]


def test_a_sampler_rewired_past_adacache_has_no_run(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0)
    assert inspect(log, prompt_id="second", _4={"model": ["1", 0]}) == []
    assert inspect(log, prompt_id="second") == [1.0], "this test must be able to fail"


def test_an_expert_from_the_cache_is_shown_beside_the_one_that_ran(new_log, inspect, sample):
    log = new_log()
    sample(log, 1.0, "3", "first")
    sample(log, 0.5, "4", "first", _4={"seed": 1})
    sample(log, 0.4, "4", "second", _4={"seed": 2})
    assert inspect(log, prompt_id="second", _4={"seed": 2}) == [1.0, 0.4]


def test_parts_that_a_loop_samples_are_all_shown(new_log, inspect, sample, pack):
    from adacache.adacache_core import RunStatistics, StepRecord

    log = new_log()
    for part in range(3):
        node = {"class_type": "Any", "inputs": {"model": ["2", 0]}}
        with executing(f"loop.{part}") as prompt:
            prompt.add_ephemeral_node(f"loop.{part}", node, parent_id="4", display_id="4")
            step = StepRecord(0, 1 - part / 4, "computed", "first", 1, 1, 1.0)
            log.start(RunStatistics({"preset": "fast", "speedup": 3.0, "codebook": None, "moreg": None}, 1, [step]))
    assert inspect(log) == [1.0, 0.75, 0.5]
