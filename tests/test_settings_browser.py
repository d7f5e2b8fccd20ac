"""The pack's settings in a real browser: which preset new AdaCache nodes start with."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from browser import FrontEnd, open_front_end
from playwright.sync_api import TimeoutError

from demo.comfyui import REPOSITORY, ComfyServer

WORKFLOW = REPOSITORY / "workflows" / "AdaCache Demo Without a GPU.json"
DEFAULT = "AdaCache.DefaultPreset"
pytestmark = [pytest.mark.long, pytest.mark.server]


@pytest.fixture
def front_end(chromium, server: ComfyServer) -> Iterator[FrontEnd]:
    """The front end of someone who wants new nodes to be fast."""
    with open_front_end(chromium, server, AdaCache__DefaultPreset="fast") as opened:
        yield opened
    server.post("/settings", {DEFAULT: "balanced"})


def presets(front_end: FrontEnd) -> list[str]:
    """Presets of the AdaCache nodes, oldest first."""
    return front_end.page.evaluate(
        """app.graph.nodes.filter(({type}) => type === 'AdaCache').sort((a, b) => a.id - b.id)
            .map((node) => node.widgets.find(({name}) => name === 'preset').value)"""
    )


def add_node_by_hand(front_end: FrontEnd) -> None:
    """Double-click on the canvas, search, Enter."""
    page, before = front_end.page, len(presets(front_end))
    search = page.get_by_role("dialog").get_by_role("combobox").or_(page.locator(".invisible-dialog-root input")).first
    for _ in range(10):  # a click that meets the veil of a dialog on its way out is lost, as it is for a person
        page.mouse.dblclick(700, 800)
        try:
            search.wait_for(timeout=3000)
            break
        except TimeoutError:
            continue
    search.wait_for()
    search.fill("AdaCache")
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(before) => app.graph.nodes.filter(({type}) => type === 'AdaCache').length > before",
        arg=before,
        timeout=10_000,
    )


def drop_workflow(front_end: FrontEnd, workflow: dict) -> None:
    front_end.page.evaluate("app.graph.clear()")
    front_end.drop("workflow.json", json.dumps(workflow))
    front_end.page.wait_for_function("app.graph.nodes.some(({type}) => type === 'AdaCache')")
    front_end.page.wait_for_timeout(500)


def test_only_nodes_added_by_hand_start_with_the_preset_of_the_settings(front_end):
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    drop_workflow(front_end, workflow)
    assert presets(front_end) == ["balanced"]
    add_node_by_hand(front_end)
    assert presets(front_end) == ["balanced", "fast"]
    # A pasted node is a copy.
    front_end.page.evaluate(
        """() => {
            const node = app.graph.nodes.find(({type}) => type === 'AdaCache')
            node.widgets.find(({name}) => name === 'preset').value = 'quality'
            app.canvas.deselectAll()
            app.canvas.selectNode(node)
            document.activeElement?.blur()
        }"""
    )
    front_end.page.mouse.move(700, 850)
    front_end.page.keyboard.press("Control+C")
    front_end.page.keyboard.press("Control+V")
    front_end.page.wait_for_function("app.graph.nodes.filter(({type}) => type === 'AdaCache').length === 3")
    assert presets(front_end) == ["quality", "fast", "quality"]
    # A workflow that says nothing gets what the schema says.
    for node in workflow["nodes"]:
        if node["type"] == "AdaCache":
            del node["widgets_values"]
    drop_workflow(front_end, workflow)
    assert presets(front_end) == ["balanced"]


def test_the_preset_is_chosen_in_the_settings(front_end, server):
    page = front_end.page
    page.keyboard.press("Control+,")
    dialog = page.get_by_role("dialog").filter(has_text="AdaCache").first
    dialog.get_by_text("AdaCache", exact=True).first.click()
    combo = dialog.get_by_role("combobox", name="fast").or_(dialog.locator(".p-select")).first
    combo.click()
    options = page.get_by_role("option").all_inner_texts()
    offered = server.object_info()["AdaCache"]["input"]["required"]["preset"][1]["options"]
    assert options == [option["key"] for option in offered]
    front_end.screenshot("settings")
    page.get_by_role("option", name="paper-slow").click()
    page.wait_for_function("(id) => app.extensionManager.setting.get(id) === 'paper-slow'", arg=DEFAULT)
    dialog.get_by_role("button", name="Close").first.click()
    dialog.wait_for(state="hidden")
    page.evaluate("app.graph.clear()")  # of the workflow that a first visit opens
    add_node_by_hand(front_end)
    assert presets(front_end) == ["paper-slow"]
