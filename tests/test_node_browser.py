"""The AdaCache node in a real browser: what it shows, and what it says on Queue."""

from __future__ import annotations

from typing import Any

import pytest
from browser import FrontEnd, open_front_end

from demo.comfyui import REPOSITORY

WORKFLOW = REPOSITORY / "workflows" / "AdaCache Demo Without a GPU.json"
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.usefixtures("demo_weights")]


def node(front_end: FrontEnd, script: str) -> Any:
    """Something of the AdaCache node, by JavaScript that knows it as ``node``."""
    return front_end.page.evaluate(
        f"() => {{ const node = app.graph.nodes.find((n) => n.type === 'AdaCache'); {script} }}"
    )


@RENDERERS
def test_it_shows_a_preset_and_what_that_preset_needs(chromium, server, vue):
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=vue) as front_end:
        page = front_end.page
        page.evaluate(
            """() => {
                app.graph.clear()
                const node = LiteGraph.createNode('AdaCache')
                node.pos = [400, 300]
                app.graph.add(node)
            }"""
        )
        brings = {"target": ["target_speedup"], "custom": ["codebook"]}
        for preset in ("balanced", "target", "quality", "custom", "paper-fast", "fast"):
            front_end.set_widget("AdaCache", "preset", preset)
            page.wait_for_timeout(300)
            labels = node(
                front_end, "return node.widgets.filter((w) => !w.hidden && !w.options.advanced).map((w) => w.label)"
            )
            assert labels == ["preset", *brings.get(preset, []), "MoReg"]
            if vue:
                shown = page.locator(".lg-node").get_by_test_id("node-widget").all_inner_texts()
                assert [text.split("\n")[0] for text in shown] == labels
            front_end.screenshot(f"node-{'vue' if vue else 'canvas'}-{preset}")
        sockets = node(front_end, "return node.inputs.filter((i) => !i.widget).map((i) => i.label ?? i.name)")
        assert sockets == ["model", "Token Refresh"]


@RENDERERS
def test_a_bad_codebook_is_refused_on_queue_at_its_input(chromium, server, vue):
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.open_workflow(WORKFLOW)
        front_end.set_widget("AdaCache", "preset", "custom")
        front_end.set_widget("AdaCache", "preset.codebook", "0.1:3, 0.05:2")
        page = front_end.page
        with page.expect_response(lambda response: response.url.endswith("/prompt")) as response:
            page.get_by_test_id("queue-button").click()
        assert response.value.status == 400
        page.wait_for_function("app.graph.nodes.some((n) => n.type === 'AdaCache' && n.has_errors)")
        marked = node(front_end, "return node.inputs.filter((i) => i.hasErrors).map((i) => i.name)")
        assert "preset.codebook" in marked
        [errors] = (entry["errors"] for entry in response.value.json()["node_errors"].values())
        assert all("must ascend, got 0.05 after 0.1 (entry 2)" in error["details"] for error in errors)


def test_in_chinese(chromium, server):
    with open_front_end(chromium, server, Comfy__Locale="zh") as front_end:
        front_end.page.evaluate(
            """() => {
                app.graph.clear()
                app.graph.add(LiteGraph.createNode('AdaCache'))
            }"""
        )
        for preset, label in (("target", "目标加速比"), ("custom", "码本")):
            front_end.set_widget("AdaCache", "preset", preset)
            assert node(
                front_end, "return node.widgets.filter((w) => !w.hidden && !w.options.advanced).map((w) => w.label)"
            ) == [
                "预设",
                label,
                "MoReg",
            ]


@RENDERERS
def test_after_a_run_the_node_says_what_it_came_to(chromium, server, vue):
    with open_front_end(chromium, server, Comfy__VueNodes__Enabled=vue) as front_end:
        front_end.open_workflow(WORKFLOW, seed=400 + vue, steps=12)
        said = "return node.badges.map((badge) => (typeof badge === 'function' ? badge() : badge).text)"
        before = node(front_end, said)
        front_end.run()
        front_end.wait_for_report()
        report = front_end.report()
        badge = f"{report['speedup']:.1f}x, computed {report['computed_steps']} of 12"
        assert [text for text in node(front_end, said) if text not in before] == [badge]
        if vue:
            front_end.page.locator(".lg-node").get_by_text(badge, exact=True).wait_for()
        values = node(front_end, "return app.graph.serialize().nodes.find((n) => n.type === 'AdaCache').widgets_values")
        assert values == ["balanced", False, "off"], "nothing of it is saved"
        front_end.screenshot(f"node-{'vue' if vue else 'canvas'}-badge")
