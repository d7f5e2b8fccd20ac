"""The inspector speaks of the latent that it is given, and of nothing else: what a person does, and then reads."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from browser import FrontEnd, open_front_end

from demo.comfyui import REPOSITORY

WORKFLOW = REPOSITORY / "workflows" / "AdaCache Demo Without a GPU.json"
STEPS = 12
NOT_SAMPLED = "The model with AdaCache has not been sampled for this latent."
NOT_CONNECTED = "No statistics connected: nothing is known about this run."
pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.usefixtures("demo_weights")]

GRAPH = """
    const of = (type) => app.graph.nodes.find((node) => node.type === type)
    const input = (node, name) => node.inputs.findIndex((one) => one.name === name)
    const output = (node, name) => node.outputs.findIndex((one) => one.name === name)
    const wire = (from, out, to, into) => from.connect(output(from, out), to, input(to, into))
    const [cache, sampler, inspector, model, latent] =
        ['AdaCache', 'KSampler', 'AdaCacheInspector', 'ModelSamplingSD3', 'EmptyHunyuanLatentVideo'].map(of)
"""


DECODING = "app.graph.nodes.filter((node) => ['VAEDecode', 'CreateVideo', 'SaveVideo'].includes(node.type))"


def change(front_end: FrontEnd, script: str) -> Any:
    """Work on the graph, with ``wire`` and the nodes of the demo at hand."""
    return front_end.page.evaluate(f"() => {{ {GRAPH} {script} }}")


def queue(front_end: FrontEnd) -> list[str]:
    """Press Run and wait for the end; returns what the first inspector says then."""
    front_end.run()
    while front_end.prompt_id not in front_end.server.get(f"/history/{front_end.prompt_id}"):
        front_end.page.wait_for_timeout(200)
    front_end.page.wait_for_timeout(500)
    return front_end.inspector.locator("li").all_inner_texts()


@pytest.fixture(params=[False, True], ids=["canvas", "vue"])
def front_end(chromium, server, request):
    """The demo, whose decoding, which takes most of the time, is left out."""
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=request.param) as opened:
        opened.open_workflow(WORKFLOW, seed=200 + request.param, steps=STEPS)
        change(opened, DECODING + ".forEach((node) => app.graph.remove(node))")
        opened.page.wait_for_timeout(300)
        yield opened


def test_what_is_not_known_is_said_to_be_and_comes_back_as_it_was(front_end):
    first = queue(front_end)
    assert re.fullmatch(rf"Preset balanced computed \d of {STEPS} steps\.", first[0])
    change(front_end, "wire(model, 'MODEL', sampler, 'model')")
    assert queue(front_end)[0].startswith(NOT_SAMPLED), "rewired past AdaCache"
    assert front_end.numbers() == ["-"] * 4
    front_end.screenshot("truth-rewired")
    change(front_end, "wire(cache, 'MODEL', sampler, 'model')")
    assert queue(front_end)[0] == first[0], "from ComfyUI's cache, or sampled alike"

    change(front_end, "cache.mode = 4")
    assert queue(front_end)[0].startswith(NOT_CONNECTED), "bypassed"
    [warning] = front_end.complaints  # ComfyUI's own, of a bypassed node's output that has no input of its type
    assert "No input types match type [ADACACHE_STATISTICS]" in warning
    front_end.complaints.clear()
    change(front_end, "cache.mode = 0")

    change(front_end, "inspector.disconnectInput(input(inspector, 'statistics'))")
    assert queue(front_end)[0].startswith(NOT_CONNECTED), "the wire pulled"
    change(front_end, "wire(cache, 'statistics', inspector, 'statistics')")

    change(front_end, "wire(latent, 'LATENT', inspector, 'latent')")
    assert queue(front_end)[0].startswith(NOT_SAMPLED), "a latent from before the sampler"
    assert front_end.numbers() == ["-"] * 4


def test_of_two_results_each_has_its_own_run(front_end):
    """Whatever ComfyUI takes from its cache."""
    front_end.set_widget("KSampler", "steps", 8)
    assert queue(front_end)[0].endswith(" of 8 steps.")
    front_end.set_widget("KSampler", "steps", STEPS)
    assert queue(front_end)[0].endswith(f" of {STEPS} steps.")
    front_end.set_widget("KSampler", "steps", 8)
    change(front_end, "wire(cache, 'statistics', inspector, 'statistics_2')")  # the inspector runs anew
    assert queue(front_end)[0].endswith(" of 8 steps.")


def test_a_sampler_behind_the_inspector_is_not_its_business(front_end):
    change(
        front_end,
        """const other = sampler.clone()
        app.graph.add(other)
        other.pos = [sampler.pos[0] + 900, sampler.pos[1]]
        const [positive, negative] = ['positive', 'negative'].map((name) => sampler.getInputNode(input(sampler, name)))
        wire(cache, 'MODEL', other, 'model')
        positive.connect(0, other, input(other, 'positive'))
        negative.connect(0, other, input(other, 'negative'))
        inspector.connect(0, other, input(other, 'latent_image'))
        const keep = LiteGraph.createNode('SaveLatent')
        app.graph.add(keep)
        other.connect(0, keep, 0)
        other.widgets.find(({ name }) => name === 'steps').value = 9""",
    )
    said = queue(front_end)
    assert said[0].endswith(f" of {STEPS} steps.")
    assert not any(line.startswith("Run ") for line in said)


def test_two_equal_nodes_have_a_run_each(front_end):
    change(
        front_end,
        """for (const node of [cache, sampler, inspector]) {
            const twin = node.clone()
            app.graph.add(twin)
            twin.pos = [node.pos[0], node.pos[1] + 1200]
            node.twin = twin
        }
        sampler.inputs.forEach((one, at) => {
            if (one.link) sampler.getInputNode(at).connect(app.graph.getLink(one.link).origin_slot, sampler.twin, at)
        })
        wire(model, 'MODEL', cache.twin, 'model')
        wire(cache.twin, 'MODEL', sampler.twin, 'model')
        sampler.twin.connect(0, inspector.twin, input(inspector, 'latent'))
        wire(cache.twin, 'statistics', inspector.twin, 'statistics')
        sampler.twin.widgets.find(({ name }) => name === 'steps').value = 9""",
    )
    assert queue(front_end)[0].endswith(f" of {STEPS} steps.")
    other = front_end.page.locator(".adacache").nth(1).locator("li").all_inner_texts()
    assert other[0].endswith(" of 9 steps.")
    assert not any(line.startswith("Run ") for line in other)


def test_what_a_preset_cannot_do(front_end):
    front_end.set_widget("AdaCache", "preset", "target")
    front_end.set_widget("AdaCache", "preset.target_speedup", 8)
    least = r"target 8x asks for 2 of 12 steps; (\d) is the least here, so \1 were planned \([\d.]+x\)\."
    assert [line for line in queue(front_end) if re.fullmatch(least, line)]
    front_end.set_widget("AdaCache", "preset.target_speedup", 1)
    assert "No step was skipped: target 1x asks for every step." in queue(front_end)
    front_end.set_widget("AdaCache", "preset", "fast")
    front_end.set_widget("KSampler", "steps", 3)
    few = "No step was skipped: with so few steps (3) the video changes too much from one to the next."
    assert few in queue(front_end)


def test_twenty_parts(front_end):
    change(
        front_end,
        """latent.widgets.find(({ name }) => name === 'batch_size').value = 20
        const parts = LiteGraph.createNode('RebatchLatents')
        app.graph.add(parts)
        latent.connect(0, parts, 0)
        parts.connect(0, sampler, input(sampler, 'latent_image'))""",
    )
    front_end.set_widget("KSampler", "steps", 8)
    said = queue(front_end)
    assert re.match(r"20 runs computed \d+0 of 160 steps in ", said[0])
    assert [line for line in said if line.startswith("Run ")] == [f"Run {run} of 20:" for run in (18, 19, 20)]
    assert front_end.numbers()[1].endswith("0 of 160")
    assert front_end.inspector.locator("svg .cell").count() == 3 * 8
    front_end.look_at_inspector(0.6)
    assert front_end.misplaced() == []
    assert "Step 1 of 8: computed" in front_end.point_at(1)
    assert len(front_end.saved()[1].splitlines()) == 1 + 160
    report = json.loads(front_end.copied())
    assert len(report["runs"]) == 20
    front_end.screenshot("truth-twenty-parts")
