"""Makes README's moving picture: one video uncached and cached, and the Inspector's chart of the cached run.

python -m demo.clip                # writes docs/demo.gif; needs what `make test` needs
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from demo.brand import AMBER, HAZE, SKY, WHITE, Pen, run_demo
from demo.comfyui import REPOSITORY, ComfyServer
from demo.demo import WORKFLOW, Result

from browser import find_chromium, launch, open_front_end  # isort: skip  # demo.brand says where it lies

CLIP = REPOSITORY / "docs" / "demo.gif"
GROUND, GAP, FOOT, SIDE = "#161616", 16, 64, 320
MILLISECONDS = 60  # GIF counts in hundredths of a second; the demo has 16 frames in one
SIZE = {"width": 128, "height": 128, "length": 33}  # of the demo workflow


def photograph_chart(server: ComfyServer) -> Image.Image:
    """What the Inspector shows above its sentences, of the run that the server did last: it is not sampled again."""
    executable = find_chromium()
    if executable is None:
        raise SystemExit("There is no Chromium on this machine; `make browser` installs it.")
    with sync_playwright() as playwright, launch(playwright, executable) as browser:
        with open_front_end(browser, server) as front_end:
            front_end.open_workflow(WORKFLOW)
            for name, value in SIZE.items():
                front_end.set_widget("EmptyHunyuanLatentVideo", name, value)
            front_end.look_at_inspector()
            front_end.run()
            front_end.wait_for_report(900)
            box = front_end.inspector.bounding_box()
            axis = front_end.inspector.locator("svg .axis").last.bounding_box()
            assert box is not None and axis is not None
            picture = Image.open(io.BytesIO(front_end.inspector.screenshot())).convert("RGB")
            return picture.crop((4, 4, picture.width - 4, round(axis["y"] - box["y"]) + 16))  # inside round corners


def draw_clip(uncached: Result, cached: Result, chart: Image.Image) -> list[Image.Image]:
    """A picture for each frame, the three next to each other, each with two lines below it."""
    report = cached.report
    words = (
        ("Every step", f"{report['total_steps']} of {report['total_steps']} steps computed", HAZE),
        ("With AdaCache", f"{report['computed_steps']} of {report['total_steps']} steps computed", SKY),
        ("The Inspector", "which steps, what each took, how far off a forecast was", AMBER),
    )
    lefts = [GAP + number * (SIDE + GAP) for number in range(3)]
    middle = GAP + max(SIDE, chart.height) / 2
    pen = Pen(lefts[2] + chart.width + GAP, GAP + max(SIDE, chart.height) + FOOT, GROUND)
    for left, (title, line, color) in zip(lefts, words, strict=True):
        pen.text(left, GAP + max(SIDE, chart.height) + 26, title, 20, WHITE)
        pen.text(left, GAP + max(SIDE, chart.height) + 48, line, 15, color)
    ground = pen.picture().convert("RGB")
    ground.paste(chart, (lefts[2], round(middle - chart.height / 2)))
    pictures = []
    for pair in zip(uncached.frames, cached.frames, strict=True):
        picture = ground.copy()
        for left, frame in zip(lefts, pair, strict=False):
            big = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            picture.paste(big, (left, round(middle - SIDE / 2)))
        pictures.append(picture)
    return pictures


def save(pictures: list[Image.Image], path: Path) -> None:
    """A GIF that begins again, with one palette, so that what stands still costs nothing."""
    some = Image.new("RGB", (pictures[0].width, 4 * pictures[0].height))
    for number, picture in enumerate(pictures[:: len(pictures) // 4][:4]):
        some.paste(picture, (0, number * picture.height))
    palette = some.quantize(256)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    first.save(path, save_all=True, append_images=others, duration=MILLISECONDS, loop=0, optimize=True)
    print(f"{path.relative_to(REPOSITORY)}: {first.width} x {first.height}, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    with ComfyServer() as server:
        uncached, cached = (run_demo(server, method, "changing") for method in ("baseline", "balanced"))
        chart = photograph_chart(server)
    save(draw_clip(uncached, cached, chart), CLIP)


if __name__ == "__main__":
    main()
