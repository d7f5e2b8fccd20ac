"""The help pages, as the front end shows them: complete, with their pictures, in both languages."""

from __future__ import annotations

import pytest
from browser import open_front_end
from test_server import NODES

from demo.comfyui import REPOSITORY

TITLES = {
    "en": ("AdaCache", "MoReg Settings", "Token Refresh", "AR Cache", "AdaCache Inspector"),
    "zh": ("AdaCache", "MoReg 设置", "Token 刷新", "AR 缓存", "AdaCache 检查器"),
}
pytestmark = [pytest.mark.long, pytest.mark.server]


@pytest.mark.parametrize("language", TITLES)
def test_help_pages_open_with_their_pictures(chromium, server, language):
    with open_front_end(chromium, server, Comfy__Locale=language) as front_end:
        page = front_end.page
        for node, title in zip(NODES, TITLES[language], strict=True):
            page.evaluate(
                """(type) => {
                    app.graph.clear()
                    const node = LiteGraph.createNode(type)
                    node.pos = [300, 300]
                    app.graph.add(node)
                    app.canvas.selectNode(node)
                    app.canvas.centerOnNode(node)
                }""",
                node,
            )
            page.get_by_test_id("info-button").click()
            text = page.locator(".node-help-content")
            text.get_by_role("heading", name=title, exact=True).wait_for()
            page.wait_for_function("document.querySelector('.node-help-content img')?.naturalWidth > 0", timeout=10_000)
            assert text.locator("img").get_attribute("src").startswith(f"/extensions/adacache/docs/{node}")
            assert text.locator("img").get_attribute("alt")
            for name in inputs(server.object_info()[node]):
                assert text.get_by_text(name).count() or language != "en", f"{node}: {name} is not explained"
            front_end.screenshot(f"help-{language}-{node}")
        if language == "en":  # asked for as AdaCache/en.md first, and as AdaCache.md when that is missing
            misses = [complaint for complaint in front_end.complaints if "404" in complaint]
            assert front_end.complaints == misses and len(misses) == len(NODES)
            front_end.complaints.clear()


def inputs(schema: dict) -> list[str]:
    """Names of the inputs as the node shows them."""
    every = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
    return [options.get("display_name") or name for name, (_, options) in every.items() if name != "model"]


def test_help_pictures_are_small():
    pictures = {path.stem: path for path in (REPOSITORY / "web" / "docs").glob("*.png")}
    assert pictures.keys() == {*NODES, "AdaCacheInspector-zh"}  # the others hardly have a word in them
    assert all(path.stat().st_size < 150_000 for path in pictures.values())
