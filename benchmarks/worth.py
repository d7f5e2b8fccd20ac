"""Draws docs/worth.png and docs/finer.png, from results/latest.json.

    python -m benchmarks.worth

What the difference that skipping makes is worth, beside what the sampler itself leaves; and how close to the converged
video so many evaluations come.
"""

from __future__ import annotations

import json

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from .readme import RESULTS, ROOT, Row, is_finer, model_name, sampling_of
from .settings import GUIDED, MAIN

PICTURE, FINER = ROOT / "docs" / "worth.png", ROOT / "docs" / "finer.png"
OURS, FEWER, UNCACHED = "#0072B2", "#B87A00", "#1D2530"


# What is drawn of evaluations: method, end of the setting, name, colour.
LINES = (
    ("adacache sampler", "", "AdaCache Sampler", OURS),
    ("adacache", "finer", "AdaCache, finer (Euler)", "#56B4E9"),
    ("solver", "gits", "IPNDM on levels placed as GITS does", "#009E73"),
    ("solver", "beta", "IPNDM, beta", "#CC79A7"),
    ("solver", "simple", "DPM++ 2M, simple", FEWER),
    ("uncached", "", "Euler, simple", UNCACHED),
)


def draw(rows: list[Row]) -> None:
    """What the difference is worth."""
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


def draw_finer(rows: list[Row]) -> None:
    """Evaluations against the distance to the converged video, a panel for every model, a line for every method."""
    found = [row for row in rows if sampling_of(row) == MAIN[1] and row["runner"] == "comfyui" and row["truth_psnr"]]
    models = sorted({row["model"] for row in found if row["method"] == "adacache sampler"})
    figure, panels = pyplot.subplots(1, len(models), figsize=(3.1 * len(models), 3.5), sharey=True, squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        of_model = [row for row in found if row["model"] == model and (is_finer(row) or row["method"] == "uncached")]
        for method, end, name, color in LINES:
            line = [row for row in of_model if row["method"] == method and row["setting"].endswith(end)]
            points = sorted((row["computed_steps"], row["truth_psnr"]) for row in line)
            ours = name == "AdaCache Sampler"
            axes.plot(*zip(*points, strict=True), "o-", color=color, label=name, linewidth=3 if ours else 1.5, ms=4)
        axes.set_xscale("log")
        axes.set_xticks(ticks := (6, 8, 10, 14, 20, 30, 50), [str(tick) for tick in ticks], fontsize=8)
        axes.minorticks_off()
        axes.set_title(model_name(of_model[0]), fontsize=9)
        axes.set_xlabel("evaluations of the model", fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(color="#F0F2F5")
    panels[0][0].set_ylabel("PSNR to the converged video, dB", fontsize=8)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.87))
    figure.savefig(FINER, dpi=100)


if __name__ == "__main__":
    measured: list[Row] = json.loads((RESULTS / "latest.json").read_text(encoding="utf-8"))["rows"]
    draw(measured)
    draw_finer(measured)
