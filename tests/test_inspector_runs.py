"""The inspector for runs out of the ordinary: two experts, subgraphs, new conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import FrontEnd, fetch_newest_front_end, open_front_end
from stand_ins import write

from demo.comfyui import REPOSITORY, ComfyServer, default_packs
from demo.workflow import nodes_of_type

WORKFLOWS = REPOSITORY / "workflows"
DEMO = WORKFLOWS / "AdaCache Demo Without a GPU.json"
EXPERTS = WORKFLOWS / "Wan 2.2 14B Text to Video.json"
HEAD = (
    "run,step,sigma,kind,reason,calls,computed_calls,seconds,miss,"
    "rate,distance,regularized_distance,motion_score,motion_gradient,reference_db"
)
pytestmark = [pytest.mark.long, pytest.mark.server]


@pytest.fixture(scope="module")
def models(comfy_imports: Path, demo_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders with the demo's weights, and tiny experts under the names of Wan 2.2's."""
    folder = tmp_path_factory.mktemp("models")
    for node in json.loads(EXPERTS.read_text(encoding="utf-8"))["nodes"]:
        for file in node["properties"].get("models", []):
            write(file, folder)
    for kind, name in (("diffusion_models", "adacache_demo_dit"), ("vae", "adacache_demo_vae")):
        (folder / kind / f"{name}.safetensors").symlink_to(demo_weights / f"{name}.safetensors")
    return {path.name: path for path in folder.iterdir()}


def serve(comfyui_path: Path, models: dict[str, Path], *arguments: str) -> ComfyServer:
    packs = {**default_packs(), "stand_in_nodes": REPOSITORY / "tests" / "stand_in_nodes"}
    return ComfyServer(comfyui_path, packs=packs, models=models, arguments=arguments)


@pytest.fixture(scope="module")
def own(comfyui_path: Path, models: dict[str, Path]) -> Iterator[ComfyServer]:
    """A server with ComfyUI's own front end."""
    with serve(comfyui_path, models) as running:
        yield running


@pytest.fixture(scope="module")
def newest(comfyui_path: Path, models: dict[str, Path]) -> Iterator[ComfyServer]:
    """A server with the newest front end."""
    with serve(comfyui_path, models, "--front-end-root", str(fetch_newest_front_end())) as running:
        yield running


both = pytest.mark.parametrize(("which", "vue"), [("own", False), ("newest", True)], ids=["canvas", "newest-vue"])


def small_experts() -> dict[str, Any]:
    """The shipped workflow of Wan 2.2 for 9 frames of 64 x 64, with noise in place of the text encoder's output."""
    graph = json.loads(EXPERTS.read_text(encoding="utf-8"))
    [loader] = nodes_of_type(graph, "CLIPLoader")
    graph["nodes"].remove(loader)
    graph["links"] = [link for link in graph["links"] if link[1] != loader["id"]]
    for seed, node in enumerate(nodes_of_type(graph, "CLIPTextEncode")):
        node |= {"type": "StandInPrompt", "inputs": [], "widgets_values": ["WAN21_T2V", seed], "properties": {}}
    [size] = nodes_of_type(graph, "EmptyHunyuanLatentVideo")
    size["widgets_values"] = [64, 64, 9, 1]
    return graph


def expected_csv(report: dict[str, Any]) -> list[str]:
    """The lines of the file, from the server's report."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return np.format_float_positional(value, trim="-")
        return "" if value is None else str(value)

    close = (report["reference"] or {}).get("signal_to_error_db")
    return [HEAD] + [
        ",".join(
            [
                str(number),
                str(step["step"] + 1),
                *(cell({**step, **(step["paper"] or {})}.get(name)) for name in HEAD.split(",")[2:-1]),
                cell(close),
            ]
        )
        for number, run in enumerate(report["runs"], start=1)
        for step in run["steps"]
    ]


@both
def test_two_experts_live_and_complete(chromium, request, which, vue):
    server = request.getfixturevalue(which)
    with open_front_end(chromium, server, (1500, 1300), Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.drop("experts.json", json.dumps(small_experts()))
        front_end.page.locator(".adacache").wait_for(state="attached")
        front_end.look_at_inspector()
        states = list(front_end.states())
        assert states[0]["text"].startswith("Planned: ")
        assert any(state["text"].startswith("Run 2:\nPlanned: ") for state in states)
        assert max(state["cells"] for state in states) > 10, "the second run is shown below the first"
        front_end.look_at_inspector()
        report = front_end.report()
        high, low = report["runs"]
        assert high["steps"][0]["sigma"] == 1 and high["steps"][-1]["sigma"] > low["steps"][0]["sigma"]
        assert front_end.inspector.locator("svg .title").all_text_contents() == [
            f"Run {number} of 2, sigma {run['steps'][0]['sigma']:.3g} to {run['steps'][-1]['sigma']:.3g}: "
            f"{computed} of 10 steps computed, {seconds(run)}"
            for number, (run, computed) in enumerate(((high, 6), (low, 4)), start=1)
        ]
        assert front_end.inspector.locator("svg .cell.computed").count() == 10
        assert front_end.numbers()[1] == "10 of 20"
        assert front_end.inspector.locator("li").all_inner_texts() == report["summary"].split("\n")
        assert front_end.inspector.get_by_role("img").get_attribute("aria-label") == (
            "Chart of the sampling steps: 10 of 20 computed, 0 partial, 10 skipped. Arrow keys tell about each step."
        )
        rows = front_end.inspector.locator(".adacache-unseen tr").all_inner_texts()
        assert len(rows) == 21 and rows[0].startswith("run\tstep\tkind")
        assert [row.split("\t")[:2] for row in rows[1:]] == [[str(r), str(s)] for r in (1, 2) for s in range(1, 11)]
        assert json.loads(front_end.copied()) == report
        name, content = front_end.saved()
        assert (name, content.split("\n")) == ("adacache.csv", [*expected_csv(report), ""])
        assert "Step 1 of 10: computed" in front_end.point_at(11), "the second run's first step"
        front_end.screenshot(f"inspector-two-experts-{'newest-vue' if vue else 'canvas'}")


def seconds(run: dict[str, Any]) -> str:
    """As ``human_seconds`` writes times of less than ten seconds."""
    value = run["seconds"]
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.2f} s"


INTO_A_SUBGRAPH = """() => {
    const kinds = ['AdaCache', 'KSampler', 'AdaCacheInspector']
    app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(({ type }) => kinds.includes(type))))
}"""
OPEN_THE_SUBGRAPH = """() => {
    const node = app.graph.nodes.find((node) => node.subgraph)
    app.canvas.openSubgraph(node.subgraph, node)
}"""


@both
def test_in_a_subgraph(chromium, request, which, vue):
    server = request.getfixturevalue(which)
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.open_workflow(DEMO, seed=100)
        front_end.page.evaluate(INTO_A_SUBGRAPH)
        front_end.page.locator(".adacache").wait_for(state="hidden")
        front_end.page.evaluate(OPEN_THE_SUBGRAPH)
        front_end.page.wait_for_function("app.canvas.graph.nodes.some(({type}) => type === 'AdaCacheInspector')")
        front_end.page.locator(".adacache").wait_for()
        states = [state for state in front_end.states() if state["text"].startswith("Sampling: step")]
        assert len(states) >= 2
        assert all(state["text"].startswith(f"Sampling: step {state['cells']} of 30") for state in states), states
        report = front_end.report()
        shows(front_end, report)
        front_end.screenshot(f"inspector-subgraph-{'newest-vue' if vue else 'canvas'}")
        front_end.page.wait_for_timeout(1500)  # the front end keeps the open workflow, a moment later
        front_end.visit()
        front_end.page.wait_for_function("app.graph.nodes.some((node) => node.subgraph)")
        front_end.run()
        front_end.page.evaluate(OPEN_THE_SUBGRAPH)
        front_end.wait_for_report(60)
        shows(front_end, report)


def shows(front_end: FrontEnd, report: dict[str, Any]) -> None:
    assert front_end.numbers()[:2] == [
        f"{report['speedup']:.2f}x",
        f"{report['computed_steps']} of {report['total_steps']}",
    ]
    assert front_end.inspector.locator("svg .cell.computed").count() == report["computed_steps"]
    assert front_end.inspector.locator("li").all_inner_texts() == report["summary"].split("\n")


# A second scene for the left half, late in sampling; ComfyUI gives the negative prompt a copy of the region.
A_LATE_REGION = """() => {
    const of = (type) => app.graph.nodes.find((node) => node.type === type)
    const add = (type, values) => {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value
        return node
    }
    const area = add('ConditioningSetAreaPercentageVideo', { width: 0.5 })
    const range = add('ConditioningSetTimestepRange', { start: 0.6 })
    const both = add('ConditioningCombine', {})
    const scene = of('AdaCacheDemoScene')
    scene.connect(0, area, 0)
    area.connect(0, range, 0)
    scene.connect(0, both, 0)
    range.connect(0, both, 1)
    both.connect(0, of('KSampler'), 1)
    ;[area, range, both].forEach((node, row) => { node.pos = [-420, 500 + 220 * row] })
}"""


def test_a_condition_that_is_new_late_in_sampling(chromium, own):
    with open_front_end(chromium, own) as front_end:
        front_end.open_workflow(DEMO, seed=100)
        front_end.set_widget("AdaCache", "preset", "fast")
        front_end.page.evaluate(A_LATE_REGION)
        front_end.run()
        front_end.wait_for_report()
        report = front_end.report()
        [run] = report["runs"]
        [mixed, *_] = [step for step in run["steps"] if step["reason"] == "new condition"]
        assert (mixed["kind"], mixed["computed_calls"]) == ("computed", 2)
        front_end.look_at_inspector()
        told = front_end.point_at(mixed["step"] + 1)
        assert "why\na new condition" in told and "conditions computed\n2 of 2" in told
        assert front_end.inspector.locator("li").all_inner_texts() == report["summary"].split("\n")
        assert "New conditions made" in report["summary"]
        front_end.screenshot("inspector-new-condition")
        assert front_end.saved()[1].split("\n") == [*expected_csv(report), ""]


def test_moreg_with_the_papers_codebook(chromium, own):
    with open_front_end(chromium, own) as front_end:
        front_end.open_workflow(DEMO, seed=100)
        front_end.set_widget("AdaCache", "preset", "paper-slow")
        front_end.page.evaluate(
            """() => {
                const node = LiteGraph.createNode('AdaCacheMoReg')
                node.pos = [-420, 500]
                app.graph.add(node)
                const cache = app.graph.nodes.find(({type}) => type === 'AdaCache')
                node.connect(0, cache, cache.inputs.findIndex(({name}) => name === 'moreg'))
            }"""
        )
        front_end.run()
        front_end.wait_for_report()
        [run] = front_end.report()["runs"]
        observed = {step["step"]: step["paper"] for step in run["steps"] if step["paper"] is not None}
        measured = {step: paper for step, paper in observed.items() if paper["motion_score"] is not None}
        assert len(measured) >= 3
        front_end.look_at_inspector()
        assert front_end.inspector.locator("svg rect.score").count() == len(measured)
        captions = front_end.inspector.locator("svg .caption").all_text_contents()
        assert captions == ["time per step (s)", "distance per step", "motion factor (MoReg)"]
        step, paper = list(measured.items())[-1]
        told = front_end.point_at(step + 1)
        for label, name in (
            ("distance", "distance"),
            ("with MoReg", "regularized_distance"),
            ("motion score", "motion_score"),
            ("motion gradient", "motion_gradient"),
        ):
            [value] = [line for before, line in zip(*[iter(told.split("\n")[1:])] * 2, strict=False) if before == label]
            assert float(value) == pytest.approx(paper[name], rel=1e-3, abs=1e-12)
        front_end.screenshot("inspector-moreg")


def test_what_was_in_force(chromium, own):
    with open_front_end(chromium, own) as front_end:
        front_end.open_workflow(DEMO, seed=100, sampler_name="heun", steps=12)
        front_end.set_widget("AdaCache", "preset", "target")
        front_end.set_widget("AdaCache", "preset.target_speedup", 8)
        front_end.run()
        front_end.wait_for_report()
        assert front_end.numbers()[3] == "target 8x"
        assert front_end.inspector.locator("dt").all_inner_texts()[2:] == ["cache memory", "preset"]
        report = front_end.report()
        assert "The sampler asks the model 23 times in 12 steps; each time is counted" in report["summary"]
        assert front_end.inspector.locator("li").all_inner_texts() == report["summary"].split("\n")
        # Three predictions each of the conditions and of their sum, and a correction; 16 channels of 5 frames of 8 x 8.
        assert report["cache_bytes"] == (3 * 3 + 1) * 4 * 16 * 5 * 8 * 8
        front_end.look_at_inspector()
        front_end.screenshot("inspector-target")
