"""ComfyUI's front end in a headless Chromium, as the tests use it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Playwright

from demo.comfyui import CACHE, REPOSITORY, ComfyServer

# ComfyUI brings a front end of its own; this is the newest at the time of writing.
NEWEST_FRONT_END = "1.58.1"
SCREENSHOTS = REPOSITORY / "output" / "screenshots"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else a first visit opens the templates
    "Comfy.UseNewMenu": "Top",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Locale": "en",
    "Comfy.ColorPalette": "dark",
    "Comfy.Minimap.Visible": False,
    "AdaCache.LiveUpdates": True,
}


def find_chromium() -> str | None:
    """Path of a Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def fetch_newest_front_end() -> Path:
    """The folder to give to ComfyUI as ``--front-end-root``; installed once, below ``.comfyui/``.

    Raises:
        subprocess.CalledProcessError: it is not there and could not be installed.
    """
    folder = CACHE / f"front-end-{NEWEST_FRONT_END}"
    static = folder / "comfyui_frontend_package" / "static"
    if not static.is_dir():
        command = [str(Path(sys.prefix) / "bin" / "uv"), "pip", "install", "--quiet", "--no-deps"]
        package = f"comfyui-frontend-package=={NEWEST_FRONT_END}"
        subprocess.run([*command, "--target", str(folder), package], check=True, capture_output=True, text=True)
    return static


def launch(playwright: Playwright, executable: str) -> Browser:
    """A headless Chromium."""
    return playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)


@contextmanager
def open_front_end(
    browser: Browser, server: ComfyServer, size: tuple[int, int] = (1500, 950), zoom: float = 1, **settings: Any
) -> Iterator[FrontEnd]:
    """A fresh page with the front end of a server, in known settings.

    Args:
        browser: see ``launch``.
        server: a running server.
        size: of the window.
        zoom: of the browser, for large text.
        settings: of the front end, by id with ``__`` for dots.
    """
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    server.post("/settings", {**SETTINGS, **changed})
    viewport = {"width": int(size[0] / zoom), "height": int(size[1] / zoom)}
    context = browser.new_context(viewport=viewport, device_scale_factor=zoom, accept_downloads=True)
    try:
        front_end = FrontEnd(context.new_page(), server)
        front_end.visit()
        yield front_end
        assert not front_end.complaints, front_end.complaints
    finally:
        context.close()


class FrontEnd:
    """One tab with ComfyUI, and the inspector in it."""

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page, self.server = page, server
        self.complaints: list[str] = []
        self.prompt_id = ""
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        ours = "/extensions/adacache/" in message.location.get("url", "") or "adacache" in message.text.lower()
        if message.type in ("error", "warning") and ours:
            self.complaints.append(f"{message.type}: {message.text}")

    def visit(self) -> None:
        """Load the page and wait until it can be worked with."""
        self.page.goto(self.server.url)
        self.page.wait_for_function("window.app?.vueAppReady", timeout=60_000)
        self.page.wait_for_function("app.extensions.some(({name}) => name === 'AdaCache.Inspector')")
        self.page.locator("#graph-canvas").wait_for()
        # On a busy machine PrimeVue misses the end of the animation that removes its loading mask.
        self.page.wait_for_timeout(500)
        self.page.evaluate("document.querySelectorAll('.p-blockui-mask').forEach((mask) => mask.remove())")

    def drop(self, name: str, content: str) -> None:
        """Drop a file onto the graph."""
        data = self.page.evaluate_handle(
            """([name, content]) => {
                const data = new DataTransfer()
                data.items.add(new File([content], name, { type: 'application/json' }))
                return data
            }""",
            [name, content],
        )
        self.page.dispatch_event("#graph-canvas", "drop", {"dataTransfer": data})

    def open_workflow(self, workflow: Path, seed: int | None = None, **widgets: Any) -> None:
        """Drop a workflow file with an inspector, for a small video; the rest is set on the sampler."""
        self.page.evaluate("() => { window.nodesBefore = [...app.graph.nodes] }")
        self.drop(workflow.name, workflow.read_text(encoding="utf-8"))
        self.page.wait_for_function(
            "app.graph.nodes.some((node) => node.type === 'AdaCacheInspector' && !nodesBefore.includes(node))"
        )
        self.page.locator(".adacache").first.wait_for(state="attached")
        for name, value in {"width": 64, "height": 64, "length": 17}.items():
            self.set_widget("EmptyHunyuanLatentVideo", name, value)
        for name, value in {"seed": seed, **widgets}.items():
            if value is not None:
                self.set_widget("KSampler", name, value)

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        """Give a node's widget a value."""
        self.page.evaluate(
            """([kind, name, value]) => {
                const node = app.graph.nodes.find(({type}) => type === kind)
                node.widgets.find((widget) => widget.name === name).value = value
            }""",
            [kind, name, value],
        )

    def look_at_inspector(self, zoom: float = 1.0) -> None:
        """Bring the inspector to the middle of the window, in front of all."""
        self.page.evaluate(
            """(zoom) => {
                const node = app.graph.nodes.find(({type}) => type === 'AdaCacheInspector')
                app.canvas.ds.scale = zoom
                app.canvas.selectNode(node)
                app.canvas.bringToFront(node)
                app.canvas.centerOnNode(node)
                app.canvas.setDirty(true, true)
            }""",
            zoom,
        )
        self.page.wait_for_timeout(500)
        # By what is drawn: the graph may not know yet how high the node has become.
        self.page.evaluate(
            """() => {
                const box = document.querySelector('.adacache').getBoundingClientRect(), { ds } = app.canvas
                ds.offset[0] += (innerWidth / 2 - box.left - box.width / 2) / ds.scale
                ds.offset[1] += (innerHeight / 2 - box.top - box.height / 2) / ds.scale
                app.canvas.setDirty(true, true)
            }"""
        )
        self.page.wait_for_timeout(300)

    def run(self) -> None:
        """Press Run."""
        with self.page.expect_response(lambda response: response.url.endswith("/prompt")) as response:
            self.page.get_by_test_id("queue-button").click()
        self.prompt_id = response.value.json()["prompt_id"]

    def states(self, seconds: float = 240) -> Iterator[dict[str, Any]]:
        """What the inspector shows, whenever it changes, until its report is complete."""
        self.page.evaluate(
            """() => {
                window.states = []
                const look = () => window.states.push({
                    cells: document.querySelectorAll('.adacache svg .cell:not(.pending)').length,
                    text: document.querySelector('.adacache-summary').innerText,
                })
                const observer = new MutationObserver(look)
                observer.observe(document.querySelector('.adacache-summary'), { childList: true })
            }"""
        )
        self.run()
        self.wait_for_report(seconds)
        yield from self.page.evaluate("window.states")

    def wait_for_report(self, seconds: float = 240) -> None:
        """Wait until the inspector shows a complete report."""
        self.page.wait_for_function(
            """() => {
                const box = document.querySelector('.adacache')
                return box && !box.classList.contains('adacache-live') && box.querySelector('svg .cell')
                    && !box.querySelector('svg .cell.pending')
            }""",
            timeout=seconds * 1000,
        )

    @property
    def inspector(self) -> Locator:
        """The first inspector's element."""
        return self.page.locator(".adacache").first

    def numbers(self) -> list[str]:
        """The four numbers."""
        return self.inspector.locator("dd").all_inner_texts()

    def point_at(self, step: int) -> str:
        """Hover over a step, counted from 1; returns the text of the tooltip."""
        box = self.inspector.locator("svg .cell").nth(step - 1).bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 20)
        tip = self.inspector.locator(".adacache-tip")
        tip.wait_for(state="visible", timeout=5000)
        return tip.inner_text()

    def copied(self) -> str:
        """What the button "Copy JSON" puts on the clipboard."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.inspector.get_by_role("button", name="Copy JSON").click()
        self.inspector.get_by_text("Copied", exact=True).wait_for()
        return self.page.evaluate("navigator.clipboard.readText()")

    def saved(self) -> tuple[str, str]:
        """Name and content of the file that the button "Save CSV" gives."""
        with self.page.expect_download() as download:
            self.inspector.get_by_role("button", name="Save CSV").click()
        return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")

    def open_last_job(self) -> None:
        """Open the last job of the history in a new tab, with the mouse."""
        jobs = self.page.get_by_test_id("job-assets-list")
        if not jobs.is_visible():
            self.page.get_by_test_id("queue-overlay-toggle").click()
        jobs.get_by_text(".mp4").first.click(button="right")
        self.page.get_by_text("Open as workflow in new tab").click()
        self.page.wait_for_function("app.extensionManager.workflow.activeWorkflow.filename.startsWith('Job ')")
        if jobs.is_visible():  # the front end would remember that it is open
            self.page.get_by_test_id("queue-overlay-toggle").click()

    def misplaced(self) -> list[str]:
        """Texts of the inspector that are cut off, and pairs of texts of the chart that overlap, once it is at rest."""
        for _ in range(10):  # a node that has just grown is laid out frames later, on a busy machine
            if not self._misplaced():
                return []
            self.page.wait_for_timeout(500)
        return self._misplaced()

    def _misplaced(self) -> list[str]:
        return self.page.evaluate(
            """() => {
                const box = document.querySelector('.adacache')
                const inside = (outer, inner) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1
                    && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1
                const outer = box.getBoundingClientRect()
                const shown = [...box.querySelectorAll('dt, dd, li, button, .adacache-legend span, svg text')]
                const cut = shown.filter((element) => element.scrollWidth > element.clientWidth + 1
                    && getComputedStyle(element).display !== 'inline' && !element.ownerSVGElement
                    || !inside(outer, element.getBoundingClientRect()))
                const texts = [...box.querySelectorAll('svg text')].map((element) => [element, element.getBBox()])
                const meet = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width
                    && a.y + 2 < b.y + b.height && b.y + 2 < a.y + a.height
                const pairs = texts.flatMap(([one, a], at) => texts.slice(at + 1)
                    .filter(([other, b]) => one.parentNode === other.parentNode && meet(a, b))
                    .map(([other]) => `${one.textContent} / ${other.textContent}`))
                return [...cut.map((element) => element.textContent), ...pairs]
            }"""
        )

    def color(self, selector: str, name: str) -> list[int]:
        """Red, green and blue, 0 to 255, of the first element's style."""
        return self.page.evaluate(
            """([selector, name]) => {
                const pixel = new OffscreenCanvas(1, 1).getContext('2d')
                pixel.fillStyle = getComputedStyle(document.querySelector(selector))[name]
                pixel.fillRect(0, 0, 1, 1)
                return [...pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)]
            }""",
            [selector, name],
        )

    def screenshot(self, name: str) -> None:
        """Keep a picture for people."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def report(self, seconds: float = 240) -> dict[str, Any]:
        """The report of the last run in the server's history, which has it when all nodes are done."""
        give_up = time.monotonic() + seconds
        while self.prompt_id not in (entries := self.server.get(f"/history/{self.prompt_id}")):
            assert time.monotonic() < give_up, self.server.log_tail()
            time.sleep(0.2)
        outputs = entries[self.prompt_id]["outputs"].values()
        [report] = [output["adacache"][0] for output in outputs if "adacache" in output]
        return report
