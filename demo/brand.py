"""Draws the registry's icon and banner and the pictures of the help pages; the latter from real runs of the demo model.

python -m demo.brand               # writes docs/ and web/docs/; needs what `make test` needs
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from adacache_core import SPEEDUPS
from demo.comfyui import REPOSITORY, ComfyServer
from demo.demo import WORKFLOW, Result, collect, node_id, prompt_of
from demo.gallery.notes import planned
from demo.workflow import Json, widgets_of, with_widget

sys.path.insert(0, str(REPOSITORY / "tests"))  # the front end in a browser, as the tests use it

from browser import find_chromium, launch, open_front_end

SCALE = 2  # drawn at twice the size and scaled down, which smooths lines and text
STEPS, SHIFT = 30, 3.0  # of the demo workflow
# The colours of the inspector's chart; on a dark ground the lighter ones of the same palette (Okabe and Ito).
COMPUTED, SKIPPED, SKIPPED_FILL, PARTIAL = "#0072B2", "#E69F00", "#FBE3B0", "#A9CFE6"
SKY, AMBER, NIGHT, WHITE, HAZE = "#56B4E9", "#E69F00", "#101A2B", "#FFFFFF", "#A9B6C8"
INK, MUTED, PAPER = "#1D2530", "#5B6675", "#FFFFFF"
PAGE, MARGIN = 440, 20  # help pages are shown in a narrow panel
MOTIONS = ("still", "changing")  # of the two videos that MoReg's picture compares

Color = str


class Pen:
    """A picture of a size, in points, to draw on."""

    def __init__(self, width: int, height: int, ground: Color | None) -> None:
        self._image = Image.new("RGBA", (width * SCALE, height * SCALE), ground or (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, radius: float = 0) -> None:
        corners = [round(value * SCALE) for value in (left, top, right, bottom)]
        self._draw.rounded_rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), radius * SCALE, color)

    def text(self, x: float, y: float, words: str, size: float, color: Color, anchor: str = "ls") -> None:
        self._draw.text((x * SCALE, y * SCALE), words, color, _font(size * SCALE), anchor)

    def paste(self, picture: Image.Image, x: float, y: float, side: float) -> None:
        self._image.paste(
            picture.resize((round(side * SCALE),) * 2, Image.Resampling.LANCZOS), (round(x * SCALE), round(y * SCALE))
        )

    def picture(self) -> Image.Image:
        size = self._image.width // SCALE, self._image.height // SCALE
        return self._image.resize(size, Image.Resampling.LANCZOS)

    def bars(
        self, computed: Sequence[bool], left: float, top: float, right: float, bottom: float, colors: Sequence[Color]
    ) -> None:
        """A column per step: high if it is computed; low and with a lid if not. Colours: computed, lid, skipped."""
        blue, lid, fill = colors
        width = (right - left) / len(computed)
        low = bottom - (bottom - top) / 4
        for step, high in enumerate(computed):
            start, end = left + step * width, left + (step + 1) * width - width / 4
            self.box(start, top if high else low, end, bottom, blue if high else fill, 1)
            if not high:
                self.box(start, low, end, low + max(2, (bottom - top) / 40), lid)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # Pillow's own, the same on every machine
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


# --- The registry ----------------------------------------------------------------------------------------------------


def draw_icon() -> Image.Image:
    """400 x 400: computed and skipped steps, few enough to be seen at 32 x 32."""
    pen = Pen(400, 400, None)
    pen.box(0, 0, 400, 400, NIGHT, 84)
    width, gap, left = 44, 20, 50
    for number, high in enumerate((True, True, False, False, True)):
        x = left + number * (width + gap)
        pen.box(x, 92 if high else 238, x + width, 308, SKY if high else AMBER, 12)
    return pen.picture()


def draw_banner() -> Image.Image:
    """1260 x 540, 21:9: the name, what it does, and the steps that preset balanced computes."""
    pen = Pen(1260, 540, NIGHT)
    computed = plan("balanced")
    pen.text(80, 168, "AdaCache", 96, WHITE)
    pen.text(84, 228, "Video models that sample faster, without training", 34, HAZE)
    pen.bars(computed, 84, 286, 1184, 436, (SKY, AMBER, AMBER))
    pen.text(84, 484, f"computes {sum(computed)} of {len(computed)} steps", 26, WHITE)
    pen.text(1176, 484, "for ComfyUI", 26, HAZE, "rs")
    return pen.picture()


def plan(preset: str) -> list[bool]:
    """Which of the demo workflow's steps a planned preset computes."""
    linear = (1 - step / STEPS for step in range(STEPS))
    computed = planned(preset, [SHIFT * time / (1 + (SHIFT - 1) * time) for time in linear])
    return [step in computed for step in range(STEPS)]


# --- Help pages: hardly a word, so that one picture serves every language ---------------------------------------------


def draw_presets() -> Image.Image:
    """The planned presets, one below the other."""
    pen = Pen(PAGE, MARGIN + 104 * len(SPEEDUPS), PAPER)
    for number, preset in enumerate(SPEEDUPS):
        _run(pen, MARGIN, MARGIN + 104 * number, preset, plan(preset))
    return pen.picture()


def draw_partial_steps() -> Image.Image:
    """One plan, with the other steps skipped and with a part of their tokens computed."""
    pen = Pen(PAGE, MARGIN + 104 * 2, PAPER)
    _run(pen, MARGIN, MARGIN, "AdaCache", plan("balanced"))
    _run(pen, MARGIN, MARGIN + 104, "AdaCache + Token Refresh", plan("balanced"), (COMPUTED, PARTIAL))
    return pen.picture()


def draw_motion(results: Sequence[Result]) -> Image.Image:
    """Videos that move little and much, each beside the steps that were computed for it."""
    pen = Pen(PAGE, MARGIN + 104 * len(results), PAPER)
    for number, result in enumerate(results):
        top = MARGIN + 104 * number
        pen.paste(_overlay(result), MARGIN, top, 84)
        [run] = result.report["runs"]
        _run(pen, MARGIN + 104, top, "", [step["kind"] == "computed" for step in run["steps"]])
    return pen.picture()


def _run(
    pen: Pen,
    left: float,
    top: float,
    label: str,
    computed: Sequence[bool],
    others: tuple[Color, Color] = (SKIPPED, SKIPPED_FILL),
) -> None:
    """A line of text, and below it a column per step; 84 high."""
    pen.text(left, top + 20, label, 24, INK)
    pen.text(PAGE - MARGIN, top + 20, f"{sum(computed)}/{len(computed)}", 24, MUTED, "rs")
    pen.bars(computed, left, top + 32, PAGE - MARGIN, top + 84, (COMPUTED, *others))


def _overlay(result: Result) -> Image.Image:
    """Three frames of a video over each other, the earlier the fainter: what moves is seen three times."""
    first = result.frames[0].astype(np.float32)
    ground = first[0, 0]  # the demo's plain background
    moments = result.frames[:: len(result.frames) // 2 - 1][:3].astype(np.float32) - ground
    faded = moments * np.array([0.3, 0.55, 1])[:, None, None, None]
    strongest = np.abs(faded).sum(-1).argmax(0)
    return Image.fromarray((ground + np.choose(strongest[..., None], faded)).clip(0, 255).astype(np.uint8))


# --- Runs ------------------------------------------------------------------------------------------------------------


def run_demo(server: ComfyServer, preset: str, motion: str, moreg: bool = False) -> Result:
    """The demo workflow with a preset, for a scene whose objects move in a way."""
    object_info, workflow = server.object_info(), json.loads(WORKFLOW.read_text(encoding="utf-8"))
    workflow = with_widget(workflow, "AdaCacheDemoScene", "motion", motion, object_info)
    prompt: Json = prompt_of(preset, workflow, object_info)
    if moreg:
        prompt["moreg"] = {"class_type": "AdaCacheMoReg", "inputs": dict(widgets_of(object_info["AdaCacheMoReg"]))}
        prompt[node_id(prompt, "AdaCache")]["inputs"]["moreg"] = ["moreg", 0]
    return collect(server, preset, server.run(prompt), prompt)


def photograph_inspector(server: ComfyServer, locale: str) -> Image.Image:
    """The Inspector of the demo workflow in a browser, once it has run."""
    executable = find_chromium()
    if executable is None:
        raise SystemExit("There is no Chromium on this machine; `make browser` installs it.")
    with sync_playwright() as playwright, launch(playwright, executable) as browser:
        with open_front_end(browser, server, Comfy__Locale=locale) as front_end:
            front_end.open_workflow(WORKFLOW, seed=2)
            front_end.look_at_inspector()
            front_end.run()
            front_end.wait_for_report(900)
            return Image.open(io.BytesIO(front_end.inspector.screenshot())).convert("RGB")


def main() -> None:
    registry, help_pages = REPOSITORY / "docs", REPOSITORY / "web" / "docs"
    save(draw_icon(), registry / "icon.png")
    save(draw_banner().convert("RGB").quantize(64), registry / "banner.png")
    save(draw_presets().convert("RGB").quantize(64), help_pages / "AdaCache.png")
    save(draw_partial_steps().convert("RGB").quantize(64), help_pages / "AdaCacheTokenRefresh.png")
    with ComfyServer() as server:
        moving = [run_demo(server, "paper-slow", motion, moreg=True) for motion in MOTIONS]
        save(draw_motion(moving).convert("RGB").quantize(256), help_pages / "AdaCacheMoReg.png")
        for locale, name in (("en", "AdaCacheInspector"), ("zh", "AdaCacheInspector-zh")):
            save(photograph_inspector(server, locale), help_pages / f"{name}.png")


def save(picture: Image.Image, path: Path) -> None:
    picture.save(path, optimize=True)
    kilobytes = path.stat().st_size / 1000
    print(f"{path.relative_to(REPOSITORY)}: {picture.width} x {picture.height}, {kilobytes:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
