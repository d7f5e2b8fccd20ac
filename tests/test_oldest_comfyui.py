"""The oldest ComfyUI that ``requires-comfyui`` admits: as a server, and under the core tests of sampling."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
import torch
from test_server import EVERY_STEP, prompt, report, samples

from demo.comfyui import OLDEST_VERSION, REPOSITORY, ComfyServer, find_comfyui
from demo.demo import WORKFLOW, node_id, prompt_of
from demo.workflow import with_widget

PLANNED = 15  # steps that "balanced" computes of the demo workflow's 30
PRESETS = ("balanced", "paper-fast")  # a road each
OWN_CALLS = "test_the_plan_is_made_of_the_samplers_own_calls"
# Families that it has, one of each kind of block and head.
FAMILIES = ("WAN21_T2V", "WAN21_Vace", "HunyuanVideo", "LTXAV", "CosmosT2IPredict2", "GenmoMochi", "Kandinsky5")
SAMPLING = (
    "test_a_pack_that_is_installed_but_not_used_leaves_the_model_alone",
    "test_computing_every_step_changes_no_bit[3.0]",
    "test_presets_compute_as_many_steps_as_they_say",
    "test_skipped_steps_run_nothing_of_the_model",
    "TestPaper::test_conditions_batched_or_split_give_the_same_decisions[paper-fast]",
    "TestRefusals::test_two_caches_on_one_model",
)
RULED = "test_family_skips_by_the_rule_and_is_the_uncached_model_where_it_does_not"
TESTS = (
    *(f"tests/test_sampling.py::{name}" for name in SAMPLING),
    *(f"tests/ways/test_samplers.py::{OWN_CALLS}[{name}]" for name in ("euler", "heun", "uni_pc")),
    *(f"tests/test_when_it_goes_wrong.py::TestInterrupt::test_at_a_step[3-{preset}]" for preset in PRESETS),
    *(f"tests/test_families.py::{RULED}[{name}]" for name in FAMILIES),
)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def oldest() -> Path:
    """The oldest ComfyUI's folder."""
    return find_comfyui(OLDEST_VERSION)


@pytest.fixture(scope="module")
def oldest_server(oldest: Path, demo_weights: Path) -> Iterator[ComfyServer]:
    with ComfyServer(oldest) as running:
        yield running


def test_the_version_asked_for_is_the_one_tested(oldest_server):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["comfy"]["requires-comfyui"] == f">={OLDEST_VERSION}"
    assert oldest_server.version() == OLDEST_VERSION


@pytest.mark.server
def test_the_demo_workflow_runs(oldest_server):
    object_info = oldest_server.object_info()
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for name, value in {"width": 64, "height": 64, "length": 17}.items():
        workflow = with_widget(workflow, "EmptyHunyuanLatentVideo", name, value, object_info)
    graph = prompt_of("balanced", workflow, object_info)
    run = oldest_server.run(graph)
    [shown] = run.outputs[node_id(graph, "AdaCacheInspector")]["adacache"]
    assert (shown["computed_steps"], shown["total_steps"]) == (PLANNED, 30)


@pytest.mark.server
def test_bypassed_or_computing_every_step_no_bit_changes(oldest_server):
    plain = samples(oldest_server, oldest_server.run(prompt()))
    every = oldest_server.run(prompt(EVERY_STEP))
    assert torch.equal(samples(oldest_server, every), plain)
    assert report(every)["computed_steps"] == report(every)["total_steps"]
    cached = oldest_server.run(prompt({}))
    assert not torch.equal(samples(oldest_server, cached), plain), "this test must be able to notice a change"
    oldest_server.free()
    again = oldest_server.run(prompt())
    assert "sampler" in again.executed
    assert torch.equal(samples(oldest_server, again), plain)


@pytest.mark.server
def test_the_log_has_a_line_of_each_run_beside_what_was_imported(oldest_server):
    before = oldest_server.log().count("AdaCache: ")
    run = oldest_server.run(prompt({}, seed=6))
    ours = [line for line in oldest_server.log().splitlines() if "custom_nodes/adacache" in line or "AdaCache" in line]
    assert [line for line in ours if re.search(r"[\d.]+ seconds: \S+/custom_nodes/adacache$", line)]
    told = [line for line in ours if "AdaCache: computed" in line]
    assert len(told) == before + 1
    shown = report(run)
    assert f"AdaCache: computed {shown['computed_steps']} of {shown['total_steps']} steps, " in told[-1]
    assert all("custom_nodes/adacache" in line or line in told for line in ours)


def test_sampling_is_as_on_the_newest(oldest):
    """In a process of its own, since a process can import one ComfyUI only."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *TESTS],
        cwd=REPOSITORY,
        env={**environment, "COMFYUI_PATH": str(oldest)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(rf"^{len(TESTS)} passed in", done.stdout, re.MULTILINE), done.stdout[-300:]
