"""Step times at real sizes: random weights, bfloat16, models as large as the ones that people download.

    python benchmarks/gpu.py --comfyui PATH                 # on a GPU; needs torch, einops, safetensors, a ComfyUI tree
    python benchmarks/gpu.py --comfyui PATH --device cpu --tiny

Random weights cost what trained ones cost, but make no video: times and bytes are measured, quality is not.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # started as a script

from benchmarks.gpu_models import MODELS, Model  # noqa: E402

if TYPE_CHECKING:
    from adacache_core import RunStatistics

# A latent and its noise level to the velocity, and whether the step was skipped.
Call = Callable[[Tensor, float], tuple[Tensor, bool]]
SIZES = {"480p": (832, 480, 81), "720p": (1280, 720, 81)}
TINY = {"tiny": (128, 128, 17)}


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and its seconds, waiting for the device at both ends."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    started = time.perf_counter()
    result = work()
    wait(device)
    return result, time.perf_counter() - started


def build(model: Model, tiny: bool, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model with small random weights, made on the device."""
    module, _, name = model.path.rpartition(".")
    operations = importlib.import_module("comfy.ops").disable_weight_init
    config = {**model.config, **(model.tiny if tiny else {})}
    network: nn.Module = getattr(importlib.import_module(module), name)(
        **config, operations=operations, dtype=dtype, device=device
    )
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.02)
    return network.eval().requires_grad_(False)


def peak_bytes(device: torch.device, work: Callable[[], Any]) -> tuple[Any, int | None]:
    """What ``work`` returns, and the most memory that was allocated meanwhile; None where nobody counts."""
    if device.type != "cuda":
        return work(), None
    torch.cuda.reset_peak_memory_stats(device)
    result = work()
    return result, torch.cuda.max_memory_allocated(device)


def noise_levels(steps: int) -> list[float]:
    """Of a flow model, evenly from noise to 0."""
    return [1 - step / steps for step in range(steps + 1)]


def scales(sigma: float) -> tuple[float, float]:
    """Signal and noise of a flow model's latent."""
    return 1 - sigma, sigma


def euler(levels: list[float], model: Callable[[Tensor, Tensor], Tensor], rows: int) -> Tensor:
    """The sampler on rows of one number each, see ``adacache_core.ask``."""
    x = torch.ones(rows, 1)
    for sigma, after in pairwise(levels):
        x = x + (after - sigma) * (x - model(x, torch.tensor([sigma]))) / sigma
    return x


def layout_of(network: nn.Module) -> Any:
    """Where the model's blocks are; without the nodes beside, which need more of ComfyUI than a tree of it."""
    for name, folder in (("adacache", REPOSITORY), ("adacache.nodes", REPOSITORY / "nodes")):
        sys.modules.setdefault(name, ModuleType(name)).__path__ = [str(folder)]
    return importlib.import_module("adacache.nodes.families").layout_of(network)


class Case:
    """One model at one size."""

    def __init__(self, model: Model, size: tuple[int, int, int], options: argparse.Namespace) -> None:
        self.device, dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.network = build(model, options.tiny, self.device, dtype)
        self.layout = layout_of(self.network)
        (width, height, frames), (channels, pixels, time_) = size, model.latent
        self.shape = (1, channels, (frames - 1) // time_ + 1, height // pixels, width // pixels)
        self.latent = torch.randn(self.shape, device=self.device, dtype=dtype)
        self.arguments = model.arguments(self.device, dtype)

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((1,), 1000 * sigma, device=self.device, dtype=x.dtype)
        output: Tensor = self.network(x, timestep, **self.arguments, transformer_options={})
        return output

    def sample(self, steps: int, call: Call | None = None) -> tuple[list[float], list[float]]:
        """Euler from noise, without ``call`` uncached; returns the seconds of every computed and every skipped step."""
        x = self.latent
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for sigma, following in pairwise(noise_levels(steps)):
            (velocity, skips), took = timed(self.device, partial(call or self.uncached, x, sigma))
            seconds[skips].append(took)
            x = x + (following - sigma) * velocity.to(x.dtype)
        return seconds[False], seconds[True]

    def uncached(self, x: Tensor, sigma: float) -> tuple[Tensor, bool]:
        return self.forward(x, sigma), False

    def planned(self, preset: str, steps: int) -> tuple[Call, RunStatistics]:
        """The main road: keeps predictions, and forecasts them."""
        from adacache.adacache_core import PlannedRun, RunStatistics, Steps, ask, computes_of, following

        levels = noise_levels(steps)
        schedule = Steps(tuple(levels), scales)
        response = ask(partial(euler, levels), lambda sigma: following(*scales(sigma)), steps)
        run = PlannedRun(schedule, computes_of(preset, steps), RunStatistics({}, steps), response)

        def call(x: Tensor, sigma: float) -> tuple[Tensor, bool]:
            run.begin(sigma)
            denoised = run.recall("positive")
            skips = denoised is not None
            if denoised is None:
                denoised = run.keep("positive", x - sigma * self.forward(x, sigma))
            return (x - run.end(denoised)) / sigma, skips

        return call, run.statistics

    def published(self, preset: str, steps: int) -> tuple[Call, RunStatistics]:
        """The paper's road: keeps what the blocks add, and holds it."""
        from adacache.adacache_core import RunStatistics, Steps
        from adacache.adacache_core.paper.codebook import codebook_for
        from adacache.adacache_core.paper.rule import CodebookRule
        from adacache.adacache_core.paper.run import ResidualRun

        make_rule = partial(CodebookRule, codebook_for(preset, steps), steps)
        run = ResidualRun(make_rule, Steps(tuple(noise_levels(steps)), scales), RunStatistics({}, steps))

        def call(x: Tensor, sigma: float) -> tuple[Tensor, bool]:
            with run.call(self.network, self.layout, sigma, ("positive",), self.shape) as skips:
                return self.forward(x, sigma), skips

        return call, run.statistics

    def measured(self, preset: str, steps: int) -> dict[str, Any]:
        """A run with a preset."""
        call, records = (self.published if preset.startswith("paper") else self.planned)(preset, steps)
        sampled = partial(peak_bytes, self.device, partial(self.sample, steps, call))
        ((computed, skipped), peak), seconds = timed(self.device, sampled)
        return {
            "preset": preset,
            "steps": steps,
            "computed_steps": len(computed),
            "seconds": seconds,
            "computed_step_seconds": statistics.median(computed),
            "skipped_step_seconds": statistics.median(skipped) if skipped else None,
            "cache_bytes": records.cache_bytes,
            "peak_bytes": peak,
        }


def measure(case: Case, steps: tuple[int, ...], uncached_steps: int) -> Iterator[dict[str, Any]]:
    """Uncached steps, then the default at the first number of steps and the paper's codebook at every number.

    At last EasyCache, at the first number of steps, where ComfyUI has all that it needs.
    """
    case.sample(2)  # one-off work belongs to nobody's time
    (uncached, _), peak = peak_bytes(case.device, lambda: case.sample(uncached_steps))
    step = statistics.median(uncached)
    yield {"preset": "uncached", "step_seconds": step, "measured_steps": uncached_steps, "peak_bytes": peak}
    for preset, count in [("balanced", steps[0]), *(("paper-fast", count) for count in steps)]:
        found = case.measured(preset, count)
        yield {
            **found,
            "speedup": step * count / found["seconds"],
            "share_of_bookkeeping": found["computed_step_seconds"] / step - 1,
            "share_of_a_skip": found["skipped_step_seconds"] and found["skipped_step_seconds"] / step,
        }
    try:
        from benchmarks.gpu_easycache import easycache
    except ImportError as missing:
        print(f"EasyCache is not measured: {missing}", flush=True)
        return
    given = case.network, case.layout, case.latent, case.arguments, steps[0]
    found, peak = peak_bytes(case.device, lambda: easycache(*given))
    yield {**found, "peak_bytes": peak, "speedup": step * steps[0] / found["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI tree")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--tiny", action="store_true", help="small models and videos, to test this script")
    parser.add_argument("--models", default="", help="part of a name")
    parser.add_argument(
        "--size", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "FRAMES"), help="instead of 480p, 720p"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 100])
    parser.add_argument("--uncached-steps", type=int, default=5, help="uncached steps to measure; their median counts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    options = parser.parse_args()
    sys.path.insert(0, str(options.comfyui))
    from comfy.cli_args import args

    args.cpu = options.device == "cpu"  # read when comfy.model_management is imported
    name = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    sizes = TINY if options.tiny else SIZES
    if options.size is not None:
        sizes = {"x".join(map(str, options.size)): tuple(options.size)}
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for model in MODELS:
            for size, pixels in sizes.items():
                if options.models.lower() not in model.name.lower():
                    continue
                try:
                    case = Case(model, pixels, options)
                    for row in measure(case, tuple(options.steps), options.uncached_steps):
                        rows.append({"device": name, "model": model.name, "size": size, **row})
                        print(json.dumps(rows[-1]), flush=True)
                except torch.OutOfMemoryError:
                    print(f"{model.name} at {size} does not fit", flush=True)
                case = None  # type: ignore[assignment]  # frees the weights before the next ones are made
                gc.collect()
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
