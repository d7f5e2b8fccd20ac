"""A 10-minute video on 1, 2, 4 and 8 GPUs, computed on paper: writes the table and the picture of docs/several-gpus.md.

python -m benchmarks.several_gpus

No GPU was asked. The formulas stand in the document beside the table.
"""

from __future__ import annotations

import math
from pathlib import Path

from adacache_core import SPEEDUPS

DOCS = Path(__file__).resolve().parents[1] / "docs"
START, END = "<!-- computed: written by `python -m benchmarks.several_gpus` -->\n", "<!-- end -->\n"

# Wan 2.1 14B at 832 x 480, 81 frames at a time, 16 frames a second; the first 5 frames of a part are the last's.
WEIGHTS, WIDTH, LAYERS = 14e9, 5120, 40
TOKENS = 21 * (480 // 16) * (832 // 16)
LATENT_BYTES = 16 * 21 * (480 // 8) * (832 // 8) * 4
PARTS = math.ceil((600 * 16 - 81) / (81 - 5)) + 1
STEPS, CONDITIONS = 50, 2
# An H100 at 40 % of its 989 teraflops (bf16, dense); what a link brings of its nominal rate.
FLOPS = 0.4 * 989e12
LINKS = {"NVLink": 300e9, "PCIe": 12e9}
# A step's Python, sampler and forecast, and the asking of the sampler at the start of a run.
STEP_SECONDS, ASK_SECONDS = 0.02, 0.06
GPUS = (1, 2, 4, 8)


def forward_seconds(gpus: int, bandwidth: float) -> tuple[float, float]:
    """A condition's forward with Ulysses over so many GPUs: seconds of arithmetic and of all-to-all."""
    flops = 2 * WEIGHTS * TOKENS + 4 * TOKENS**2 * WIDTH * LAYERS
    sent = LAYERS * 4 * (TOKENS * WIDTH * 2 / gpus) * (gpus - 1) / gpus  # q, k, v and the result, in bf16
    return flops / FLOPS / gpus, sent / bandwidth


def step_seconds(gpus: int, bandwidth: float, pairs: bool) -> tuple[float, float]:
    """A step that computes: all of it, and what of it is communication. In pairs, each half has one condition."""
    if pairs:
        arithmetic, talk = forward_seconds(gpus // 2, bandwidth)
        talk += LATENT_BYTES / bandwidth
    else:
        arithmetic, talk = (CONDITIONS * seconds for seconds in forward_seconds(gpus, bandwidth))
    return arithmetic + talk + STEP_SECONDS, talk


def hours(step: float, computes: int, asks: bool) -> float:
    """All parts, one after the other, since each starts from the one before."""
    run = computes * step + (STEPS - computes) * STEP_SECONDS + asks * ASK_SECONDS
    return PARTS * run / 3600


def rows() -> list[list[str]]:
    made = []
    for link, bandwidth in LINKS.items():
        for gpus in GPUS:
            for pairs in (False, True) if gpus > 1 else (False,):
                if gpus == 1 and link != "NVLink":
                    continue
                step, talk = step_seconds(gpus, bandwidth, pairs)
                whole = hours(step, STEPS, False)
                layout = "one" if gpus == 1 else f"CFG 2 x Ulysses {gpus // 2}" if pairs else f"Ulysses {gpus}"
                planned = [hours(step, round(STEPS / SPEEDUPS[preset]), True) for preset in ("balanced", "fast")]
                cells = [f"{gpus}", layout, "" if gpus == 1 else link, f"{step:.2f}", f"{talk / step:.0%}"]
                made.append([*cells, *(f"{value:.2f}" for value in (whole, *planned)), f"{whole / planned[0]:.2f}"])
    return made


def table() -> str:
    head = [
        "GPUs",
        "layout",
        "link",
        "step, s",
        "of it talk",
        "h, no cache",
        "h, balanced",
        "h, fast",
        "balanced saves",
    ]
    lines = [head, ["---"] * len(head), *rows()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


PICTURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 236" font-family="sans-serif" font-size="13">
<rect width="760" height="236" fill="#fff"/>
{boxes}
<g fill="#555" font-size="12">
<text x="128" y="222" text-anchor="middle">Raylight: one video, all GPUs</text>
<text x="380" y="222" text-anchor="middle">MultiGPU CFG Split: one process</text>
<text x="632" y="222" text-anchor="middle">Distributed: a seed each</text>
</g>
</svg>
"""


def box(x: int, y: int, width: int, height: int, text: str, fill: str) -> str:
    middle = f'x="{x + width / 2:g}" y="{y + height / 2 + 5:g}" text-anchor="middle"'
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="#777"/>'
    return f"{shape}<text {middle}>{text}</text>"


def picture() -> str:
    """Above, who decides; below, who computes. What lies in one row of blue knows one plan."""
    ours, model, plain = "#cfe3ff", "#ffe7c2", "#eee"
    boxes = []
    for left, plans in ((10, 2), (262, 1), (514, 2)):
        width = 236 if plans == 1 else 112
        for place in range(2):
            x = left + place * 124
            boxes.append(box(x, 112, 112, 40, ("GPU 1", "GPU 2")[place], model))
            if place < plans:
                boxes.append(box(x, 62, width, 40, "AdaCache", ours))
    boxes += [box(10, 12, 236, 40, "ComfyUI, Inspector", plain), box(262, 12, 236, 40, "ComfyUI, Inspector", plain)]
    boxes += [box(514 + place * 124, 12, 112, 40, "ComfyUI", plain) for place in range(2)]
    boxes.append(box(10, 160, 236, 36, "part of the tokens or one condition", "#fff"))
    boxes.append(box(262, 160, 236, 36, "one condition each", "#fff"))
    boxes.append(box(514, 160, 236, 36, "a whole video each", "#fff"))
    return PICTURE.format(boxes="\n".join(boxes))


def with_table(text: str) -> str:
    before, _, rest = text.partition(START)
    return before + START + table() + END + rest.partition(END)[2]


def main() -> None:
    document = DOCS / "several-gpus.md"
    document.write_text(with_table(document.read_text("utf-8")), "utf-8")
    (DOCS / "several-gpus.svg").write_text(picture(), "utf-8")


if __name__ == "__main__":
    main()
