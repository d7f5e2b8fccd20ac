"""Draws docs/worth.png: what the difference that skipping makes is worth, beside what the sampler itself leaves.

python -m benchmarks.worth      # from results/latest.json
"""

from __future__ import annotations

import json

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from .readme import RESULTS, ROOT, Row, model_name, sampling_of
from .settings import GUIDED, MAIN

PICTURE = ROOT / "docs" / "worth.png"
OURS, FEWER, UNCACHED = "#0072B2", "#B87A00", "#1D2530"


def draw() -> None:
    """Write the picture."""
    rows: list[Row] = json.loads((RESULTS / "latest.json").read_text(encoding="utf-8"))["rows"]
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        sampling = sampling_of(row)
        if row["runner"] != "comfyui" or row["truth_psnr"] is None or sampling not in (*MAIN, GUIDED):
            continue
        name = f"{model_name(row)}: {sampling.steps} steps, {sampling.sampler}, cfg {sampling.cfg:g}"
        found.setdefault(name, {})[f"{row['method']} {row['setting']}".strip()] = row
    wanted = ("uncached", "adacache balanced", "fewer 10 steps")
    found = {name: methods for name, methods in sorted(found.items()) if all(method in methods for method in wanted)}
    figure, axes = pyplot.subplots(figsize=(7.6, 0.42 * len(found) + 1.5), dpi=110)
    for place, methods in enumerate(reversed(found.values())):
        uncached, ours, fewer = (methods[name] for name in wanted)
        between = ours["psnr_mean"]
        for value, color, filled, label in (
            (fewer["truth_psnr"], FEWER, True, "10 plain steps, from the converged video"),
            (uncached["truth_psnr"], UNCACHED, True, "all 20 steps, from the converged video"),
            (ours["truth_psnr"], OURS, True, "AdaCache, 10 of 20, from the converged video"),
            (between, OURS, False, "AdaCache from all 20 steps"),
        ):
            face = color if filled else "none"
            shape = "o" if filled else "D"
            label = "" if place else label
            axes.scatter([value], [place], 46, face, marker=shape, edgecolors=color, label=label, zorder=2)
        axes.plot([fewer["truth_psnr"], max(between, uncached["truth_psnr"])], [place] * 2, color="#D9DEE5", zorder=1)
    axes.set_yticks(range(len(found)), list(reversed(found)), fontsize=8)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlabel("PSNR in dB, mean over the test videos; further right is closer", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#F0F2F5")
    axes.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=2, fontsize=8, frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE)


if __name__ == "__main__":
    draw()
