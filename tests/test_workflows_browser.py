"""The shipped workflows in ComfyUI's front end, in both of its renderers, before and after they ran."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from browser import FrontEnd, open_front_end
from playwright.sync_api import Browser
from stand_ins import runnable
from test_real_workflows import NAMES, RECIPE, workflow

from demo.comfyui import ComfyServer
from demo.workflow import to_prompt

pytestmark = [pytest.mark.server, pytest.mark.long]


@pytest.fixture(scope="module", params=["canvas", "vue"])
def front_end(request, chromium: Browser, gallery: ComfyServer) -> Iterator[FrontEnd]:
    renderer = {"Comfy__VueNodes__Enabled": request.param == "vue"}
    with open_front_end(chromium, gallery, size=(1600, 900), **renderer) as opened:
        opened.renderer = request.param
        yield opened


# What the front end made of a file: nodes it does not know, combos whose value is none of their options, links by the
# names of their slots, and the nodes' boxes with their titles, as this renderer draws them.
LOOK = """() => ({
    dialogs: document.querySelectorAll('[role=dialog]').length,
    missing: app.graph.nodes.filter((node) => !(node.type in LiteGraph.registered_node_types) || node.has_errors)
        .map((node) => node.type),
    unknown: app.graph.nodes.flatMap((node) => (node.widgets ?? [])
        .filter((widget) => widget.type === 'combo' && Array.isArray(widget.options.values)
            && !widget.options.values.includes(widget.value))
        .map((widget) => `${node.type}.${widget.name}: ${widget.value}`)),
    links: [...app.graph.links.values()].map((link) => {
        const [from, to] = [app.graph.getNodeById(link.origin_id), app.graph.getNodeById(link.target_id)]
        return [Number(from.id), from.outputs[link.origin_slot].name, Number(to.id), to.inputs[link.target_slot].name]
    }),
    groups: app.graph.groups.map((group) => [group.title, [...group._bounding]]),
    boxes: app.graph.nodes.map((node) => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)
        if (!LiteGraph.vueNodesMode) return [node.title, [...node.boundingRect]]
        const { left, top, width, height } = drawn.getBoundingClientRect(), { scale, offset } = app.canvas.ds
        const canvas = app.canvas.canvas.getBoundingClientRect()
        return [node.title, [(left - canvas.left) / scale - offset[0], (top - canvas.top) / scale - offset[1],
            width / scale, height / scale]]
    }),
})"""


def look(front_end: FrontEnd) -> dict[str, Any]:
    """``LOOK``, once the boxes stay as they are."""
    seen = front_end.page.evaluate(LOOK)
    for _ in range(20):
        front_end.page.wait_for_timeout(400)
        before, seen = seen, front_end.page.evaluate(LOOK)
        if before["boxes"] == seen["boxes"]:
            break
    return seen


def finished(front_end: FrontEnd, seconds: float = 120) -> list[dict[str, Any]]:
    """What the nodes of the prompt that runs have shown, once it is done."""
    give_up = time.monotonic() + seconds
    while front_end.prompt_id not in (entries := front_end.server.get(f"/history/{front_end.prompt_id}")):
        assert time.monotonic() < give_up, front_end.server.log_tail()
        time.sleep(0.2)
    assert entries[front_end.prompt_id]["status"]["status_str"] == "success", front_end.server.log_tail()
    return list(entries[front_end.prompt_id]["outputs"].values())


def links_of(graph: dict[str, Any]) -> list[list[Any]]:
    """(from node, output, to node, input) of a file's links."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    return [
        [source, nodes[source]["outputs"][output]["name"], target, nodes[target]["inputs"][slot]["name"]]
        for _, source, output, target, slot, _ in graph["links"]
    ]


def bare(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt without the nodes' titles, for which the front end has words of its own."""
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}


def overlapping(seen: dict[str, Any]) -> list[Any]:
    """Pairs of nodes that cover each other, and pairs of nodes and groups of which the one is half in the other."""
    pairs = [(one, other) for one, other in combinations(seen["boxes"], 2) if overlap(one[1], other[1])]
    halves = [
        (node, group)
        for node in seen["boxes"]
        for group in seen["groups"]
        if overlap(node[1], group[1]) and not inside(node[1], group[1])
    ]
    return [*pairs, *halves]


def overlap(one: list[float], other: list[float]) -> bool:
    """Of two boxes: left, top, width, height."""
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))


def inside(inner: list[float], outer: list[float]) -> bool:
    return all(outer[i] <= inner[i] and inner[i] + inner[i + 2] <= outer[i] + outer[i + 2] for i in (0, 1))


def open_graph(front_end: FrontEnd, name: str, graph: dict[str, Any]) -> None:
    front_end.drop(f"{name}.json", json.dumps(graph))
    front_end.page.wait_for_function("(id) => app.graph.id === id", arg=graph["id"])


@pytest.mark.parametrize("name", RECIPE)
def test_it_opens_with_nothing_missing_and_nothing_covered(front_end, name):
    file = workflow(name)
    open_graph(front_end, name, file)
    seen = look(front_end)
    front_end.screenshot(f"workflow-{front_end.renderer}-{name}")
    assert (seen["dialogs"], seen["missing"], seen["unknown"]) == (0, [], [])
    assert sorted(seen["links"]) == sorted(links_of(file))
    assert len(seen["boxes"]) == len(file["nodes"])
    assert overlapping(seen) == []
    prompt = front_end.page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    assert bare(prompt) == bare(to_prompt(file, front_end.server.object_info()))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_covered_after_a_run(front_end, name):
    graph = runnable(workflow(name), front_end.server.object_info())
    graph["id"] = graph["id"].replace(graph["id"][0], "f")
    open_graph(front_end, name, graph)
    front_end.run()
    outputs = finished(front_end)
    inspectors = front_end.page.locator(".adacache svg")
    if any("adacache" in output for output in outputs):
        inspectors.first.locator(".cell").first.wait_for(state="attached")
    seen = look(front_end)
    front_end.screenshot(f"workflow-{front_end.renderer}-{name}-after")
    assert seen["missing"] == []
    assert overlapping(seen) == []
