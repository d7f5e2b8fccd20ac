"""Samples for ``compare``, with the runner of the checkout that it is started in.

A process of its own, so that two versions of the pack never share a module. It reads jobs from its input, a line of
JSON each, and answers with a line once the sample is in the job's file. What it imports is the checkout's.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path.cwd())
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what others print is not an answer
warnings.simplefilter("ignore")

import torch  # noqa: E402

from benchmarks import comfyui_runner  # noqa: E402
from benchmarks.settings import Sampling, setting  # noqa: E402
from demo.scenes import Scene  # noqa: E402


def serve() -> None:
    """Answer jobs until the input ends."""
    torch.set_num_threads(1)
    comfyui_runner.LATENT = (1, 16, 5, 16, 16)
    runners: dict[str, comfyui_runner.ComfyUIRunner] = {}
    for line in sys.stdin:
        job = json.loads(line)
        weights = Path(job["weights"])
        if job["weights"] not in runners:
            vae = weights.parent / "adacache_demo_vae.safetensors"
            runners[job["weights"]] = comfyui_runner.ComfyUIRunner(weights, vae)
        wanted = setting(job["method"], "", **job["options"])
        sampled = runners[job["weights"]].sample(
            Scene(**job["scene"]), job["seed"], Sampling(**job["sampling"]), wanted
        )
        facts = {"seconds": sampled.seconds, "computed_steps": sampled.computed_steps, "bytes": sampled.cache_bytes}
        torch.save({"latent": sampled.latent, **facts}, job["file"])
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        serve()
