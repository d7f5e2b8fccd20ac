"""Seconds and bytes at real sizes, on a GPU: ComfyUI's own classes, samplers and nodes, random weights, bfloat16.

    python -m benchmarks.gpu                  # eight minutes on an H200; writes results/gpu.json and gpu.png
    python -m benchmarks.gpu --tiny --dtype float32 --out output/gpu.json       # on a CPU, to try this script

COMFYUI_PATH names ComfyUI. Random weights cost what trained ones cost, but make no video: times and bytes are measured,
quality is not. What looks at the video to decide, as EasyCache does, would decide otherwise: it is left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import gpu_models
from .comfyui_runner import Facts, import_comfyui, ours
from .gpu_models import MODELS, Model
from .readme import RESULTS
from .settings import Sampling

SAMPLING = Sampling(20, "res_multistep", cfg=1.0)  # what most people run; of the model's own shift
METHODS = {
    "balanced": {"preset": "balanced"},
    "fast": {"preset": "fast"},
    "balanced, 80 steps": {"preset": "balanced", "finer": "4"},
}


class Steps:
    """The steps of a run: ``computed`` and ``skipped`` hold seconds, ``calls`` is of the model."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._ran, self.calls = device, False, 0
        self.computed: list[float] = []
        self.skipped: list[float] = []
        self._last = self._now()

    def call(self, *_: Any) -> None:
        """The model is called."""
        self._ran = True
        self.calls += 1

    def end(self) -> None:
        """A step is over."""
        now = self._now()
        (self.computed if self._ran else self.skipped).append(now - self._last)
        self._last, self._ran = now, False

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Case:
    """A model and what it samples."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.device = model, device
        self.patcher = gpu_models.patcher(model, dtype, device)
        self.prompt = gpu_models.prompt(model, dtype)

    def sample(self, method: str, steps: int = SAMPLING.steps) -> dict[str, Any]:
        """The first steps of a run; seconds are from its start to its end."""
        import comfy.samplers

        with self._patched(method) as (patched, facts):
            sigmas = comfy.samplers.calculate_sigmas(
                patched.get_model_object("model_sampling"), "simple", SAMPLING.steps
            )
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            watch, started = Steps(self.device), time.perf_counter()
            hook = self.patcher.model.diffusion_model.register_forward_pre_hook(watch.call)
            try:
                latent = self._denoise(patched, sigmas[: steps + 1], lambda: (watch.end(), facts.step()))
            finally:
                hook.remove()
            seconds = time.perf_counter() - started
        if not latent.isfinite().all():
            raise RuntimeError(f"{self.model.name} made a latent that is not finite: its times are not to be trusted")
        return {
            "method": method,
            "seconds": seconds,
            "computed_steps": watch.calls,
            "computed_step_seconds": statistics.median(watch.computed),
            "skipped_step_seconds": statistics.median(watch.skipped) if watch.skipped else None,
            "cache_bytes": facts.cache_bytes,
            "peak_bytes": torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
        }

    @contextmanager
    def _patched(self, method: str) -> Iterator[tuple[Any, Facts]]:
        if method == "uncached":
            yield self.patcher.clone(), Facts()
        else:
            with ours(self.patcher, SAMPLING, "adacache", **METHODS[method]) as bound:
                yield bound

    def _denoise(self, patched: Any, sigmas: Tensor, after_step: Callable[[], Any]) -> Tensor:
        import comfy.sample
        import comfy.samplers
        from comfy.nested_tensor import NestedTensor

        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(shape, generator=generator) for shape in self.model.latents]
        latents = [torch.zeros_like(part) for part in noise]
        sampled = comfy.sample.sample_custom(
            patched,
            NestedTensor(noise) if len(noise) > 1 else noise[0],
            SAMPLING.cfg,
            comfy.samplers.sampler_object(SAMPLING.sampler),
            sigmas,
            self.prompt,
            self.prompt,
            NestedTensor(latents) if len(noise) > 1 else latents[0],
            callback=lambda *_: after_step(),
            disable_pbar=True,
            seed=0,
        )
        return torch.cat([part.flatten() for part in sampled.unbind()])


def measure(case: Case, uncached_steps: int, seconds_left: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Some uncached steps, of which a whole run is extrapolated, then whole runs of what there is time for."""
    case.sample("uncached", 2)  # one-off work belongs to nobody's time
    first = case.sample("uncached", uncached_steps)
    step = first["computed_step_seconds"]
    yield {**first, "seconds": step * SAMPLING.steps, "computed_steps": SAMPLING.steps, "speedup": 1.0}
    for method in METHODS:
        if step * SAMPLING.steps > seconds_left():
            print(f"{case.model.name}, {case.model.size}: no time is left for {method}", flush=True)
            continue
        try:
            found = case.sample(method)
        except torch.OutOfMemoryError:
            print(f"{case.model.name}, {case.model.size}: {method} does not fit", flush=True)
            continue
        yield {**found, "speedup": step * SAMPLING.steps / found["seconds"]}


def draw(rows: list[dict[str, Any]], device: str, path: Path) -> None:
    """Seconds of a run, a group of bars per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    cases = list(dict.fromkeys((row["model"], row["size"]) for row in rows if row["method"] != "uncached"))
    drawn = {"uncached": "#1D2530", "balanced": "#0072B2", "fast": "#56B4E9"}
    figure, axes = pyplot.subplots(figsize=(7.6, 0.75 * len(cases) + 1.2), dpi=110)
    for place, case in enumerate(reversed(cases)):
        for row in rows:
            if (row["model"], row["size"]) == case and row["method"] in drawn:
                below = place + 0.25 - 0.25 * list(drawn).index(row["method"])
                bar = axes.barh(below, row["seconds"], 0.23, color=drawn[row["method"]])
                axes.bar_label(bar, [f" {row['seconds']:.1f} s, {row['speedup']:.2f}x"], fontsize=7)
    axes.set_yticks(range(len(cases)), [f"{model}\n{size}" for model, size in reversed(cases)], fontsize=8)
    sampling = f"{SAMPLING.steps} steps, {SAMPLING.sampler}, cfg {SAMPLING.cfg:g}"
    axes.set_xlabel(f"seconds of {sampling}, on {device}", fontsize=8)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend([Patch(color=color) for color in drawn.values()], list(drawn), fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--tiny", action="store_true", help="small models and videos, to try this script")
    parser.add_argument("--models", default="", help="part of a name")
    parser.add_argument("--minutes", type=float, default=10, help="what does not fit into them is left out")
    parser.add_argument("--uncached-steps", type=int, default=4, help="uncached steps to measure; their median counts")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    device, end = torch.device(options.device), time.monotonic() + 60 * options.minutes
    import_comfyui()
    logging.getLogger().setLevel(logging.WARNING)  # ComfyUI says what it loads
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rows: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        for model in MODELS:
            if options.models.lower() not in model.name.lower():
                continue
            case = None  # frees the weights before the next ones are made
            gc.collect()
            if time.monotonic() > end:
                print(f"{model.name}, {model.size}: no time is left", flush=True)
                continue
            try:
                case = Case(model.shrunk() if options.tiny else model, device, getattr(torch, options.dtype))
                for row in measure(case, options.uncached_steps, lambda: end - time.monotonic()):
                    rows.append({"model": model.name, "size": case.model.size, **row})
                    print(json.dumps(rows[-1]), flush=True)
            except torch.OutOfMemoryError:
                print(f"{model.name}, {model.size}: does not fit", flush=True)
            found = {"device": name, "torch": torch.__version__, "dtype": options.dtype, "rows": rows}
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    if rows:
        draw(rows, name, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
