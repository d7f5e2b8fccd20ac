"""What a bounded key/value cache costs and keeps: time and bytes against the video's length, and drift of still scenes.

    python -m benchmarks.causal                        # times and drift with the causal demo model, on one thread
    python -m benchmarks.causal --weights OTHER.safetensors --scenes 0

Times are CPU seconds of the process, not of the clock, so that other work on the machine counts less. Three ways:
unbounded as ComfyUI does it, bounded by the AR Cache node, and recomputing, which keeps nothing and runs all finished
frames again at every step (what the Ca2-VDM paper compares with). Recomputing gives the video of the unbounded cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo.comfyui import REPOSITORY, find_comfyui
from demo.scenes import Scene

WEIGHTS = REPOSITORY / "demo" / "weights" / "adacache_demo_causal_dit.safetensors"
BLOCK, WINDOW, SHIFT, STEPS = 2, 6, 3.0, 12  # as in workflows/AdaCache Demo Long Video.json
SIDE = 16  # rows and columns of a latent frame
WAYS = ("unbounded", "bounded", "recomputed")


def start_comfyui() -> None:
    """ComfyUI and this pack (as ``adacache``) in this process, on one CPU thread."""
    sys.path.insert(0, str(find_comfyui()))
    from comfy.cli_args import args

    args.cpu = True
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(
        "adacache", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["adacache"] = importlib.util.module_from_spec(spec)
    import nodes  # noqa: F401  ComfyUI's, before the pack's folder of that name

    spec.loader.exec_module(sys.modules["adacache"])


def load(weights: Path) -> Any:
    """The model as ComfyUI's loader gives it, in float32, at the demo's shift."""
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    model = comfy.sd.load_diffusion_model(str(weights), model_options={"dtype": torch.float32})
    return ModelSamplingSD3().patch(model, SHIFT)[0]


class Blocks:
    """Wraps model calls: CPU seconds per block, bytes of the cache, and recomputing where asked for.

    Attributes:
        seconds: of every block's calls, the clean pass included.
        nbytes: of the cache that a block sees, all layers.
    """

    def __init__(self, recomputes: bool = False) -> None:
        self.recomputes = recomputes
        self.seconds: dict[int, float] = {}
        self.nbytes: dict[int, int] = {}
        self._finished: dict[int, Tensor] = {}

    def apply_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        state = args[5]["ar_state"]
        start, started = state["start_frame"], time.process_time()
        if self.recomputes:
            self._recompute(executor, args, kwargs)
        result = executor(*args, **kwargs)
        if float(args[1][0]) == 0:
            self._finished[start] = args[0]
        self.seconds[start] = self.seconds.get(start, 0.0) + time.process_time() - started
        layers = state["kv_caches"]
        self.nbytes[start] = sum(layer[name][:, : layer["end"]].nbytes for layer in layers for name in ("k", "v"))
        return result

    def _recompute(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """All finished blocks once more, into an empty cache."""
        state = args[5]["ar_state"]
        for layer in state["kv_caches"]:
            layer["end"] = 0
        for start, latent in self._finished.items():
            if start < state["start_frame"]:
                options = {**args[5], "ar_state": {**state, "start_frame": start}}
                executor(latent, torch.zeros_like(args[1]), *args[2:5], options, *args[6:], **kwargs)


def sample(model: Any, way: str, frames: int, prompt: Tensor, steps: int, seed: int) -> tuple[Tensor, Blocks]:
    """A video's latent ``[1, 16, frames, 16, 16]``, and what its blocks took."""
    import comfy.sample
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP

    blocks = Blocks(way == "recomputed")
    patched = model.clone()
    # Before the window's wrapper, so that its work counts too.
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", blocks.apply_model)
    if way == "bounded":
        from adacache.nodes.ar_cache import ARCache

        patched = ARCache.execute(patched, WINDOW).args[0]
    noise = torch.randn(1, 16, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", steps)
    sampler = comfy.samplers.ksampler("ar_video", {"num_frame_per_block": BLOCK})
    conditions = [[[prompt, {}]], [[prompt, {}]]]
    latent = comfy.sample.sample_custom(
        patched, noise, 1.0, sampler, sigmas, *conditions, torch.zeros_like(noise), disable_pbar=True, seed=seed
    )
    return latent, blocks


def measure_times(model: Any, frames: int, prompt: Tensor, steps: int = 2) -> list[dict[str, Any]]:
    """One row per way and block: ``way``, ``frame`` (the block's first), ``seconds`` per model call, ``bytes``."""
    rows = []
    for way in WAYS:
        _, blocks = sample(model, way, frames, prompt, steps, seed=0)
        rows += [
            {"way": way, "frame": start, "seconds": seconds / (steps + 1), "bytes": blocks.nbytes[start]}
            for start, seconds in blocks.seconds.items()
        ]
    return rows


def drift(model: Any, decode: Callable[[Tensor], Tensor], frames: int, count: int) -> list[dict[str, Any]]:
    """PSNR of every chunk of still scenes against the first chunk of the same video, a mean over scenes per row."""
    from scene_embedding import ATTRIBUTES, embed_scene  # on the path since demo.scenes was imported

    rows = []
    for way in ("unbounded", "bounded"):
        chunks = []
        for seed in range(count):
            color, shape = (ATTRIBUTES[name][seed % len(ATTRIBUTES[name])] for name in ("color", "shape"))
            scene = Scene(motion="still", camera="static", background="plain", objects="1", color=color, shape=shape)
            latent, _ = sample(model, way, frames, embed_scene(asdict(scene)), STEPS, seed)
            # Past the first picture, a chunk is a window's length of video.
            pixels = decode(latent)[1:].split(4 * WINDOW)
            first = pixels[0].mean(0)
            chunks.append([-10 * math.log10((chunk - first).pow(2).mean().item() + 1e-10) for chunk in pixels])
        rows += [
            {"way": way, "chunk": number, "psnr": sum(values) / count}
            for number, values in enumerate(zip(*chunks, strict=True), start=1)
        ]
    return rows


def decoder() -> Callable[[Tensor], Tensor]:
    """The demo's VAE: latent to frames ``[F, H, W, 3]`` in 0..1."""
    import comfy.sd
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(WEIGHTS.with_name("adacache_demo_vae.safetensors")))
    vae = comfy.sd.VAE(sd=weights)
    return lambda latent: vae.decode(latent)[0]


def plot(times: list[dict[str, Any]], drifts: list[dict[str, Any]], path: Path) -> None:
    """Time and bytes against the video's length, and drift where it was measured."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [("frame", "seconds", "CPU seconds per model call", 1.0, times)]
    panels.append(("frame", "bytes", "key/value cache, MiB", 2.0**-20, times))
    if drifts:
        panels.append(("chunk", "psnr", "still scenes: PSNR against the first chunk, dB", 1.0, drifts))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.6), layout="constrained")
    for axis, (x, y, label, scale, rows) in zip(axes, panels, strict=True):
        for way in dict.fromkeys(row["way"] for row in rows):
            points = [row for row in rows if row["way"] == way]
            axis.plot([row[x] for row in points], [scale * row[y] for row in points], label=way)
        axis.set(xlabel="latent frame" if x == "frame" else f"chunk of {WINDOW} latent frames", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(times: list[dict[str, Any]], drifts: list[dict[str, Any]], folder: Path) -> None:
    """``causal.json`` and ``causal.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "causal.json").write_text(json.dumps({"times": times, "drift": drifts}, indent=1) + "\n")
    plot(times, drifts, folder / "causal.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--frames", type=int, default=10 * WINDOW, help="latent frames of a video")
    parser.add_argument("--scenes", type=int, default=3, help="still scenes for the drift; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args()
    start_comfyui()
    from scene_embedding import embed_empty  # on the path since demo.scenes was imported

    with torch.no_grad():
        model = load(options.weights)
        times = measure_times(model, options.frames, embed_empty())
        write(times, [], options.out)
        drifts = drift(model, decoder(), options.frames, options.scenes) if options.scenes else []
        write(times, drifts, options.out)
    for way in WAYS:
        last = [row for row in times if row["way"] == way][-1]
        print(f"{way}: {1000 * last['seconds']:.0f} ms per call, {last['bytes'] / 2**20:.1f} MiB at the last block")
    for row in drifts:
        print(f"{row['way']} chunk {row['chunk']}: {row['psnr']:.1f} dB")


if __name__ == "__main__":
    main()
