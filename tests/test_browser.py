"""The inspector in a real browser, with ComfyUI's own front end and the newest one."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browser import FrontEnd, open_front_end

from demo.comfyui import CACHE, REPOSITORY, ComfyServer

WORKFLOW = REPOSITORY / "workflows" / "demo_wan_t2v.json"
STEPS = 30
pytestmark = [pytest.mark.server, pytest.mark.usefixtures("demo_weights")]


@pytest.fixture(scope="session")
def newest_front_end() -> Path:
    """The newest front end, unpacked from its PyPI package."""
    folder = CACHE / "newest-front-end"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*command, "comfyui-frontend-package"], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    if done.returncode or not wheels:
        message = f"pip could not download the newest front end: {done.stderr[-300:]}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    unpacked = wheels[-1].with_suffix("")
    if not unpacked.is_dir():
        with zipfile.ZipFile(wheels[-1]) as wheel:
            wheel.extractall(unpacked)
    return unpacked / "comfyui_frontend_package" / "static"


@pytest.fixture(scope="session")
def newest_server(comfyui_path: Path, newest_front_end: Path) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path, arguments=["--front-end-root", str(newest_front_end)]) as running:
        yield running


def matches(front_end: FrontEnd, report: dict[str, Any]) -> None:
    """The page shows the numbers of a report."""
    speedup, steps, memory, preset = front_end.numbers()
    assert speedup == f"{report['speedup']:.2f}\u00d7"
    assert steps == f"{report['computed_steps']} of {report['total_steps']}"
    assert memory.endswith(("KiB", "MiB", "GiB"))
    assert preset == report["preset"]
    [run] = report["runs"]
    assert front_end.inspector.locator("svg .cell.computed").count() == run["computed_steps"]
    assert front_end.inspector.locator("svg .cell.skipped").count() == run["skipped_steps"]
    assert front_end.inspector.locator("li").all_inner_texts() == report["summary"].split("\n")


def tells_a_step(front_end: FrontEnd, report: dict[str, Any], step: int) -> None:
    record = report["runs"][0]["steps"][step - 1]
    text = front_end.point_at(step)
    assert f"Step {step} of {STEPS}: {'computed' if record['computed'] else 'skipped'}" in text
    if record["distance"] is not None:
        assert f"{record['distance']:.4g}".rstrip("0") in text


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
        live = [state for state in states if state["text"].startswith("Sampling: step")]
        assert len(live) >= 2, states
        assert all(state["text"] == f"Sampling: step {state['cells']} of {STEPS}." for state in live), live
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


def test_a_reloaded_page_a_cached_result_and_a_job_of_the_history(chromium, server, tmp_path):
    with open_front_end(chromium, server) as front_end:
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
        assert front_end.numbers() == ["\u2013"] * 4
        # What the front end does when a job is opened from its history.
        front_end.page.evaluate("(report) => { app.nodeOutputs = { 9: { adacache: [report] } } }", report)
        front_end.wait_for_report(5)
        matches(front_end, report)


def test_a_copied_node_is_empty_and_nothing_is_saved_with_the_workflow(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.run()
        front_end.wait_for_report()
        saved = front_end.page.evaluate("app.graph.serialize().nodes.find(({type}) => type === 'AdaCacheInspector')")
        assert not saved.get("widgets_values")
        assert "computed" not in json.dumps(saved)
        front_end.page.evaluate(
            """() => {
                const node = app.graph.nodes.find(({type}) => type === 'AdaCacheInspector')
                const copy = node.clone()
                copy.pos = [node.pos[0], node.pos[1] + 700]
                app.graph.add(copy)
            }"""
        )
        front_end.page.wait_for_timeout(500)
        second = front_end.page.locator(".adacache").nth(1)
        assert second.locator("dd").all_inner_texts() == ["\u2013"] * 4
        matches(front_end, front_end.report())


def test_controls_and_text_alternative(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        front_end.open_workflow(WORKFLOW, seed=100)
        front_end.look_at_inspector()
        front_end.run()
        front_end.wait_for_report()
        report = front_end.report()
        front_end.page.get_by_role("button", name="Copy JSON").click()
        front_end.page.get_by_text("Copied", exact=True).wait_for()
        assert json.loads(front_end.page.evaluate("navigator.clipboard.readText()")) == report
        with front_end.page.expect_download() as download:
            front_end.page.get_by_role("button", name="Save CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
        records = report["runs"][0]["steps"]
        assert [float(row["seconds"]) for row in rows] == [record["seconds"] for record in records]
        skipped = ", ".join(str(record["step"] + 1) for record in records if not record["computed"])
        label = front_end.inspector.get_by_role("img").get_attribute("aria-label", timeout=5000)
        assert label == (
            f"Chart of the sampling steps: {report['computed_steps']} of {STEPS} computed, "
            f"{report['skipped_steps']} skipped. Skipped: {skipped}."
        )
        assert front_end.inspector.locator("table tr").count() == STEPS + 1


def test_an_interrupted_run_says_so(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=200, steps=200)
        front_end.run()
        front_end.page.wait_for_function(
            "document.querySelector('.adacache-summary').innerText.startsWith('Sampling: step')", timeout=120_000
        )
        server.interrupt()
        front_end.page.get_by_text("Sampling stopped at step").wait_for(timeout=60_000)


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
        front_end.look_at_inspector(zoom=2.0)
        front_end.screenshot("inspector-large")


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


def contrast(one: list[int], other: list[int]) -> float:
    """WCAG's contrast of two colours, red, green and blue in 0..255."""

    def luminance(color: list[int]) -> float:
        parts = [part / 255 for part in color]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_every_node_has_its_words(server):
    translations = server.get("/i18n")
    for node_id, schema in server.object_info().items():
        if not node_id.startswith("AdaCache") or node_id.startswith("AdaCacheDemo"):
            continue
        inputs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        expected = {
            "display_name": schema["display_name"],
            "description": schema["description"],
            "inputs": {
                name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
                for name, (_, options) in inputs.items()
            },
            "outputs": {
                str(index): {"name": name, "tooltip": tooltip}
                for index, (name, tooltip) in enumerate(
                    zip(schema["output_name"], schema["output_tooltips"], strict=True)
                )
            },
        }
        assert translations["en"]["nodeDefs"][node_id] == expected, "locales/en/nodeDefs.json must follow the schema"
        chinese = translations["zh"]["nodeDefs"][node_id]
        assert chinese["inputs"].keys() == expected["inputs"].keys()
        assert chinese["outputs"].keys() == expected["outputs"].keys()
        for language in ("", "/zh"):
            page = requests.get(f"{server.url}/extensions/adacache/docs/{node_id}{language}.md", timeout=60).text
            assert page.startswith("# ")
            for name in inputs:
                assert language or name.split("_")[0] in page.lower(), f"{node_id}.md does not mention {name}"
