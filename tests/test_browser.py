"""The inspector in a real browser, with ComfyUI's own front end and the newest one."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browser import FrontEnd, fetch_newest_front_end, open_front_end
from colors import BLINDNESS, contrast, difference
from PIL import Image

from demo.comfyui import REPOSITORY, ComfyServer

WORKFLOW = REPOSITORY / "workflows" / "AdaCache Demo Without a GPU.json"
STEPS = 30
pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.usefixtures("demo_weights")]


@pytest.fixture(scope="session")
def newest_front_end() -> Path:
    """The newest front end, installed from its PyPI package."""
    try:
        return fetch_newest_front_end()
    except subprocess.CalledProcessError as error:
        message = f"The newest front end could not be installed: {error.stderr[-300:]}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="session")
def newest_server(comfyui_path: Path, newest_front_end: Path) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path, arguments=["--front-end-root", str(newest_front_end)]) as running:
        yield running


def matches(front_end: FrontEnd, report: dict[str, Any]) -> None:
    """The page shows the numbers of a report."""
    speedup, steps, memory, preset = front_end.numbers()
    assert speedup == f"{report['speedup']:.2f}x"
    assert steps == f"{report['computed_steps']} of {report['total_steps']}"
    assert memory.endswith(("KiB", "MiB", "GiB"))
    assert preset == report["preset"]
    [run] = report["runs"]
    assert front_end.inspector.locator("svg .cell.computed").count() == run["computed_steps"]
    assert front_end.inspector.locator("svg .cell.skipped").count() == run["skipped_steps"]
    assert front_end.inspector.locator("li").all_inner_texts() == report["summary"].split("\n")
    assert front_end.misplaced() == []


def tells_a_step(front_end: FrontEnd, report: dict[str, Any], step: int) -> None:
    record = report["runs"][0]["steps"][step - 1]
    text = front_end.point_at(step)
    assert f"Step {step} of {STEPS}: {record['kind']}" in text
    if record["miss"] is not None:
        assert f"{record['miss']:.4g}".rstrip("0") in text


@pytest.mark.parametrize("which", ["server", "newest_server"])
@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_drop_run_watch_and_hover(chromium, request, which, vue):
    server = request.getfixturevalue(which)
    name = f"{'newest-' if which == 'newest_server' else ''}{'vue' if vue else 'canvas'}"
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100 + vue)
        front_end.look_at_inspector()
        assert front_end.inspector.locator("li").all_inner_texts() == [
            "Queue the workflow to see what is computed and skipped."
        ]
        states = list(front_end.states())
        assert re.fullmatch(rf"Planned: \d+ of {STEPS} steps will be computed\.", states[0]["text"])
        assert states[0]["cells"] == 0, "the plan is drawn as outlines"
        live = [state for state in states if state["text"].startswith("Sampling: step")]
        assert len(live) >= 2, states
        assert all(state["text"].startswith(f"Sampling: step {state['cells']} of {STEPS}") for state in live), live
        assert re.search(r", about [\d.]+ (ms|s) left; skipping saves about [\d.]+ (ms|s)\.$", live[-1]["text"])
        report = front_end.report()
        matches(front_end, report)
        for step in (2, STEPS // 2, STEPS):
            tells_a_step(front_end, report, step)
        front_end.screenshot(f"inspector-{name}")


def test_the_renderers_can_be_switched(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        for vue in (True, False):
            front_end.page.evaluate("(vue) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue)", vue)
            front_end.page.wait_for_timeout(1500)
            front_end.look_at_inspector()
            matches(front_end, front_end.report())
            tells_a_step(front_end, front_end.report(), 2)
            before = front_end.page.evaluate("app.canvas.ds.scale")
            front_end.page.mouse.wheel(0, -200)
            front_end.page.wait_for_function("(before) => app.canvas.ds.scale > before", arg=before, timeout=5000)


@pytest.mark.parametrize(("which", "vue"), [("server", False), ("newest_server", True)], ids=["canvas", "newest-vue"])
def test_a_reloaded_page_a_cached_result_and_a_job_of_the_history(chromium, request, tmp_path, which, vue):
    server = request.getfixturevalue(which)
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        report = front_end.report()
        front_end.page.wait_for_timeout(1500)  # the front end keeps the open workflow, a moment later
        front_end.visit()
        front_end.page.wait_for_function("app.graph.nodes.some(({type}) => type === 'AdaCacheInspector')")
        front_end.run()
        front_end.wait_for_report(30)
        matches(front_end, report)
        # Under the open workflow's name the front end would bring back its outputs, and the inspector show them.
        again = tmp_path / "again.json"
        again.write_bytes(WORKFLOW.read_bytes())
        front_end.open_workflow(again)
        assert front_end.numbers() == ["-"] * 4
        front_end.open_last_job()
        front_end.wait_for_report(30)
        matches(front_end, report)
        # Other tabs keep what they showed.
        front_end.page.get_by_text("again", exact=True).first.click()
        front_end.page.wait_for_function("app.extensionManager.workflow.activeWorkflow.filename === 'again'")
        front_end.page.wait_for_timeout(1000)
        assert front_end.numbers() == ["-"] * 4
        front_end.page.get_by_text("Job ").first.click()
        front_end.wait_for_report(30)
        matches(front_end, report)


def test_a_job_of_the_old_menus_history(chromium, server):
    with open_front_end(chromium, server, Comfy__UseNewMenu="Disabled") as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        server.post("/history", {"clear": True})
        with front_end.page.expect_response(lambda response: response.url.endswith("/prompt")) as response:
            front_end.page.locator("#queue-button").click()
        front_end.prompt_id = response.value.json()["prompt_id"]
        report = front_end.report()
        front_end.page.evaluate("app.graph.clear()")
        front_end.page.get_by_role("button", name="View History").click()
        front_end.page.locator(".comfy-list-items button", has_text="Load").first.click()
        front_end.wait_for_report(30)
        matches(front_end, report)


def test_a_new_node_is_drawn_as_high_as_what_it_shows(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.page.evaluate(
            """() => {
                app.graph.clear()
                const node = LiteGraph.createNode('AdaCacheInspector')
                app.graph.add(node)
                app.canvas.centerOnNode(node)
            }"""
        )
        front_end.inspector.wait_for()
        front_end.page.wait_for_timeout(1000)
        box = front_end.inspector.bounding_box()
        # The node shows to the left of its widget, from the widget's top to its bottom.
        edge = {"x": box["x"] - 5, "y": box["y"], "width": 1, "height": box["height"]}
        shown = Image.open(io.BytesIO(front_end.page.screenshot(clip=edge))).convert("RGB")
        assert len(shown.getcolors()) == 1
        front_end.screenshot("inspector-new")


def test_undo_keeps_the_chart(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        front_end.page.wait_for_timeout(500)
        height = "app.graph.nodes.find(({ type }) => type === 'VAELoader').pos[1]"
        before = front_end.page.evaluate(height)
        front_end.page.evaluate("app.graph.nodes.find(({ type }) => type === 'VAELoader').pos[1] -= 40")
        front_end.page.wait_for_function(  # nothing is noted while the front end is still loading the workflow
            """before => {
                const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
                tracker.checkState()
                return tracker.activeState.nodes.find(({ type }) => type === 'VAELoader').pos[1] !== before
            }""",
            arg=before,
        )
        front_end.page.locator("#graph-canvas").focus()
        for _ in range(5):  # on a busy machine the front end may note another change after ours, and undoes that first
            front_end.page.keyboard.press("Control+z")
            front_end.page.wait_for_timeout(1000)
            if front_end.page.evaluate(height) == before:
                break
        front_end.page.wait_for_function(f"{height} === {before}")
        front_end.wait_for_report(5)
        matches(front_end, front_end.report())


def test_a_copied_node_is_empty_and_nothing_is_saved_with_the_workflow(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        saved = front_end.page.evaluate("app.graph.serialize().nodes.find(({type}) => type === 'AdaCacheInspector')")
        assert not saved.get("widgets_values")
        assert "computed" not in json.dumps(saved)
        front_end.look_at_inspector()
        front_end.page.locator("#graph-canvas").focus()
        front_end.page.keyboard.press("Control+c")
        front_end.page.keyboard.press("Control+v")
        second = front_end.page.locator(".adacache").nth(1)
        second.wait_for(state="attached")
        assert second.locator("dd").all_inner_texts() == ["-"] * 4
        matches(front_end, front_end.report())


def test_controls_and_text_alternative(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.look_at_inspector()
        front_end.run()
        front_end.wait_for_report()
        report = front_end.report()
        assert json.loads(front_end.copied()) == report
        name, content = front_end.saved()
        assert name == "adacache.csv"
        rows = list(csv.DictReader(io.StringIO(content)))
        assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
        records = report["runs"][0]["steps"]
        assert [float(row["seconds"]) for row in rows] == [record["seconds"] for record in records]
        label = front_end.inspector.get_by_role("img").get_attribute("aria-label", timeout=5000)
        assert label == (
            f"Chart of the sampling steps: {report['computed_steps']} of {STEPS} computed, 0 partial, "
            f"{report['skipped_steps']} skipped. Arrow keys tell about each step."
        )
        assert front_end.inspector.locator(".adacache-unseen tr").count() == STEPS + 1


def test_keys_go_from_step_to_step(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        where = front_end.page.evaluate("[...app.canvas.ds.offset]")
        front_end.inspector.get_by_role("img").focus()
        tip, told = front_end.inspector.locator(".adacache-tip strong"), []
        for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft"):
            front_end.page.keyboard.press(key)
            told.append(tip.inner_text().split(" of ")[0])
        assert told == [f"Step {step}" for step in (1, 2, STEPS, STEPS, STEPS - 1, 1, 1)]
        front_end.page.keyboard.press("Escape")
        tip.wait_for(state="hidden")
        assert front_end.page.evaluate("[...app.canvas.ds.offset]") == where, "the graph stays where it is"


def test_an_interrupted_run_says_so(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=200, steps=200)
        front_end.run()
        front_end.page.wait_for_function(
            "document.querySelector('.adacache-summary').innerText.startsWith('Sampling: step')", timeout=120_000
        )
        server.interrupt()
        front_end.page.get_by_text("The run stopped after step").wait_for(timeout=60_000)


def test_live_updates_can_be_turned_off(chromium, server):
    with open_front_end(chromium, server, AdaCache__LiveUpdates=False) as front_end:
        front_end.open_workflow(WORKFLOW, seed=300, steps=12)
        states = list(front_end.states())
        assert not any(state["text"].startswith("Sampling: step") for state in states)


def test_chinese_light_and_large(chromium, server):
    settings = {"Comfy__Locale": "zh", "Comfy__ColorPalette": "light"}
    with open_front_end(chromium, server, **settings) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        front_end.look_at_inspector()
        assert "加速比" in front_end.inspector.locator("dl").inner_text()
        sentences = front_end.inspector.locator("li").all_inner_texts()
        assert len(sentences) == len(front_end.report()["explanation"])
        assert all("\u4e00" <= sentence[0] <= "\u9fff" for sentence in sentences), sentences
        front_end.point_at(2)
        front_end.screenshot("inspector-chinese-light")
        assert front_end.misplaced() == []
        front_end.look_at_inspector(zoom=2.0)
        assert front_end.misplaced() == []
        front_end.screenshot("inspector-large")


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_the_browsers_zoom_of_200_percent(chromium, server, vue):
    with open_front_end(chromium, server, size=(2000, 2000), zoom=2, Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        front_end.look_at_inspector()
        matches(front_end, front_end.report())
        tells_a_step(front_end, front_end.report(), 20)
        front_end.screenshot(f"inspector-zoom-200-{'vue' if vue else 'canvas'}")


@pytest.mark.parametrize("which", ["server", "newest_server"])
@pytest.mark.parametrize("palette", ["dark", "light", "nord"])
def test_colours_stand_out_in_every_palette(chromium, request, which, palette):
    server = request.getfixturevalue(which)
    with open_front_end(chromium, server, Comfy__ColorPalette=palette) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        ground = front_end.color(".adacache", "backgroundColor")
        assert contrast(ground, front_end.color(".adacache", "color")) >= 4.5
        assert contrast(ground, front_end.color(".adacache dt", "color")) >= 4.5
        assert contrast(ground, front_end.color(".adacache svg .computed", "fill")) >= 3
        assert contrast(ground, front_end.color(".adacache svg .skipped", "stroke")) >= 3
        cards = front_end.color(".adacache-numbers > div", "backgroundColor")
        assert contrast(cards, front_end.color(".adacache dt", "color")) >= 4.5
        assert contrast(ground, front_end.color(".adacache svg .tick", "fill")) >= 4.5
        computed = front_end.color(".adacache svg .computed", "fill")
        for kind, style in ((".hatch-ground", "fill"), (".hatch-stroke", "stroke")):
            skipped = front_end.color(f".adacache svg {kind}", style)
            for blindness in BLINDNESS:
                assert difference(computed, skipped, blindness) > 20, (kind, blindness)
        # And not by colour alone: skipped is hatched.
        fills = {
            kind: {cell.get_attribute("fill") for cell in front_end.inspector.locator(f"svg .cell.{kind}").all()}
            for kind in ("computed", "skipped")
        }
        assert fills["computed"] == {None}
        [pattern] = fills["skipped"]
        assert front_end.inspector.locator(f"svg pattern{pattern[4:-1]} line").count() == 1
        front_end.look_at_inspector()
        front_end.screenshot(f"inspector-{'newest-' if which == 'newest_server' else ''}{palette}")


def test_every_node_has_its_words(server):
    translations = server.get("/i18n")
    for node_id, schema in server.object_info().items():
        if not node_id.startswith("AdaCache") or node_id.startswith("AdaCacheDemo"):
            continue
        names = dict(named(schema["input"]))
        assert node_id not in translations["en"].get("nodeDefs", {}), "English is what the schema says"
        chinese = translations["zh"]["nodeDefs"][node_id]
        assert chinese.keys() == {"display_name", "description", "inputs", "outputs"}
        assert chinese["inputs"].keys() == names.keys()
        assert chinese["outputs"].keys() == {str(index) for index in range(len(schema["output"]))}
        for words in (*chinese["inputs"].values(), *chinese["outputs"].values()):
            assert words["name"] and re.search("[\u4e00-\u9fff]", words["tooltip"])
        for language in ("", "/zh"):
            page = requests.get(f"{server.url}/extensions/adacache/docs/{node_id}{language}.md", timeout=60).text
            assert page.startswith("# ")
            for name in names.values():
                assert language or name.split("_")[0] in page.lower(), f"{node_id}.md does not mention {name}"


def named(inputs: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys under which the front end looks for an input's words, with the input's name; what an option brings, too."""
    for name, (_, options) in (*inputs.get("required", {}).items(), *inputs.get("optional", {}).items()):
        yield prefix + name, name
        for option in options.get("options", ()):
            if isinstance(option, dict):
                yield from named(option["inputs"], f"{prefix}{name}_")
