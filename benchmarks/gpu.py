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
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parent.parent
HUNYUAN = {
    "in_channels": 16,
    "patch_size": [1, 2, 2],
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "mlp_ratio": 4.0,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "meanflow_sum": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}


@dataclass(frozen=True)
class Model:
    """A model at its real size.

    Attributes:
        path: module and class in ComfyUI.
        config, tiny: arguments of the class; ``tiny`` overrides for a test on a CPU.
        latent: channels, and pixels of a frame and frames of a video per place of the latent.
        arguments: makes the other arguments of a call, for a device and dtype.
    """

    name: str
    path: str
    config: dict[str, Any]
    tiny: dict[str, Any]
    latent: tuple[int, int, int]
    arguments: Callable[[torch.device, torch.dtype], dict[str, Any]]


def text(tokens: int, width: int, **others: tuple[int, ...]) -> Callable[[torch.device, torch.dtype], dict[str, Any]]:
    """A prompt of random tokens, and other random arguments by shape."""

    def arguments(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        shapes = {"context": (1, tokens, width), **others}
        return {name: torch.randn(shape, device=device, dtype=dtype) for name, shape in shapes.items()}

    return arguments


def ltx_text(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {**text(128, 4096)(device, dtype), "attention_mask": torch.ones(1, 128, device=device, dtype=torch.int64)}


def wan(name: str, dim: int, ffn_dim: int, num_heads: int, num_layers: int) -> Model:
    config = {"model_type": "t2v", "dim": dim, "ffn_dim": ffn_dim, "num_heads": num_heads, "num_layers": num_layers}
    tiny = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 3}
    return Model(name, "comfy.ldm.wan.model.WanModel", config, tiny, (16, 8, 4), text(512, 4096))


MODELS = (
    wan("Wan 2.1 1.3B", 1536, 8960, 12, 30),
    wan("Wan 2.1 14B", 5120, 13824, 40, 40),
    Model(
        "HunyuanVideo 13B",
        "comfy.ldm.hunyuan_video.model.HunyuanVideo",
        {**HUNYUAN, "hidden_size": 3072, "num_heads": 24, "depth": 20, "depth_single_blocks": 40},
        {"hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 2},
        (16, 8, 4),
        text(256, 4096, y=(1, 768), guidance=(1,)),
    ),
    Model(
        "LTX-Video 2B",
        "comfy.ldm.lightricks.model.LTXVModel",
        {"num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 64, "cross_attention_dim": 2048},
        {"num_layers": 3, "num_attention_heads": 4, "cross_attention_dim": 256},
        (128, 32, 8),
        ltx_text,
    ),
)
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


class Case:
    """One model at one size."""

    def __init__(self, model: Model, size: tuple[int, int, int], options: argparse.Namespace) -> None:
        self.device, dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.network = build(model, options.tiny, self.device, dtype)
        (width, height, frames), (channels, pixels, time_) = size, model.latent
        self.shape = (1, channels, (frames - 1) // time_ + 1, height // pixels, width // pixels)
        self.latent = torch.randn(self.shape, device=self.device, dtype=dtype)
        self.arguments = model.arguments(self.device, dtype)

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((1,), 1000 * sigma, device=self.device, dtype=x.dtype)
        output: Tensor = self.network(x, timestep, **self.arguments, transformer_options={})
        return output

    def sample(self, steps: int, run: Any = None, layout: Any = None) -> tuple[list[float], list[float]]:
        """Euler from noise, without a run uncached; returns the seconds of every computed and every skipped step."""
        x, sigmas = self.latent, [1 - step / steps for step in range(steps + 1)]
        computed: list[float] = []
        skipped: list[float] = []

        def call(x: Tensor, sigma: float) -> tuple[Tensor, bool]:
            if run is None:
                return self.forward(x, sigma), False
            with run.call(self.network, layout, sigma, ("positive",), self.shape) as skips:
                return self.forward(x, sigma), skips

        for sigma, following in pairwise(sigmas):
            (velocity, skips), seconds = timed(self.device, lambda x=x, sigma=sigma: call(x, sigma))
            (skipped if skips else computed).append(seconds)
            x = x + (following - sigma) * velocity.to(x.dtype)
        return computed, skipped

    def measured(self, preset: str, steps: int) -> dict[str, Any]:
        """A run with a preset."""
        from adacache_core import CacheRun, RunStatistics, layout_of, make_schedule, replay_for

        layout, replay = layout_of(self.network), replay_for(preset)
        times = [1 - step / steps for step in range(steps)]
        records = RunStatistics({}, steps)
        run = CacheRun(lambda: make_schedule(preset, times, replay), replay, [*times, 0.0], records)
        ((computed, skipped), peak), seconds = timed(
            self.device, lambda: peak_bytes(self.device, lambda: self.sample(steps, run, layout))
        )
        run.finish()
        return {
            "preset": preset,
            "steps": steps,
            "computed_steps": records.computed_steps,
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
    found, peak = peak_bytes(case.device, lambda: easycache(case.network, case.latent, case.arguments, steps[0]))
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
    sys.path[:0] = [str(options.comfyui), str(REPOSITORY)]
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
