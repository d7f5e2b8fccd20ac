"""Writes the README's numbers from the results, so that it claims nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .settings import Sampling

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results" / "latest.json"
START, END = "<!-- numbers: written by `make bench` -->", "<!-- end of numbers -->"
SHOWN = {
    "adacache": ("quality", "balanced", "fast", "paper-slow", "paper-fast"),
    "lazycache": ("threshold 0.1", "threshold 0.2", "threshold 0.5"),
    "easycache": ("threshold 0.2", "threshold 0.2, bf16"),
    "fixed": ("forecast, 15 computes", "forecast, 12 computes", "forecast, 10 computes"),
}
NAMES = {
    "adacache": "**AdaCache**",
    "lazycache": "LazyCache",
    "easycache": "EasyCache",
    "fixed": "every k-th step",
}


def numbers(results: dict[str, Any]) -> str:
    """The section: the shown rows at the default sampling, fastest last."""
    sampling = Sampling()
    rows = [
        row
        for row in results["rows"]
        if row["runner"] == "comfyui"
        and row["setting"] in SHOWN[row["method"]]
        and all(row[name] == getattr(sampling, name) for name in ("steps", "sampler", "shift", "cfg"))
    ]
    rows.sort(key=lambda row: -row["computed_steps"])
    videos = min(row["videos"] for row in rows)
    lines = [
        f"Demo model, {sampling}, {videos} videos, {results['machine']};",
        "all methods in one run on the same seeds. Speedup is wall-clock, the median over videos; PSNR and SSIM are of",
        "decoded frames against the uncached ones. In fp32, as here, EasyCache of ComfyUI 0.30.0 adds to the sampler's",
        "own tensor; in bf16 it does not, and is to be judged by a bf16 row where there is one.",
        "",
        "| method | setting | steps computed | speedup | PSNR, mean | PSNR, worst tenth | SSIM | cache |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {NAMES[row['method']]} | {row['setting']} | {row['computed_steps']:.1f} of {row['steps']} "
        f"| {row['speedup']:.2f}x | {row['psnr_mean']:.1f} dB | {row['psnr_worst_decile']:.1f} dB "
        f"| {row['ssim_mean']:.3f} | {(row['cache_bytes'] or 0) / 1024:.0f} KiB |"
        for row in rows
    ]
    return "\n".join(lines)


def with_numbers(readme: str, results: dict[str, Any]) -> str:
    """The README's text with its numbers replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{numbers(results)}\n{END}{after}"


def write() -> None:
    """Bring the README up to date."""
    README.write_text(with_numbers(README.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    write()
