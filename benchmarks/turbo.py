"""What a cache does to a model distilled to 8 steps: so many computed, against as many plain steps.

    python -m benchmarks.turbo --videos 24      # writes results/turbo.md

The model is the demo model distilled by ``demo/train_turbo.py``. Signal-to-error of latents against its own 8 steps,
and of these against its teacher's video, which tells whether the student is one.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

import torch

from demo.comfyui import REPOSITORY

from . import comfyui_runner, scenes
from .compare import decibels
from .settings import Sampling, planned, setting

WEIGHTS = REPOSITORY / "demo" / "weights"
STEPS, SAMPLERS = 8, ("euler", "res_multistep")
COMPUTED = (7, 6, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--student", type=Path, default=WEIGHTS / "adacache_turbo_dit.safetensors")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "turbo.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    comfyui_runner.LATENT = (1, 16, 5, 16, 16)
    vae = WEIGHTS / "adacache_demo_vae.safetensors"
    teacher = comfyui_runner.ComfyUIRunner(WEIGHTS / "adacache_demo_dit.safetensors", vae)
    student = comfyui_runner.ComfyUIRunner(options.student, vae)
    plain, found = setting("uncached", ""), defaultdict[str, list[float]](list)
    for number, (scene, seed) in enumerate(scenes.test(options.videos)):
        wanted = teacher.sample(scene, seed, Sampling(24, "euler", 5.0, 3.0), plain).latent
        few = teacher.sample(scene, seed, Sampling(STEPS, "euler", 5.0, 3.0), plain).latent
        found["teacher, 8 steps, cfg 3, from its 24"].append(decibels(few, wanted)["signal_to_error"])
        for sampler in SAMPLERS:
            sampling = Sampling(STEPS, sampler, 5.0, 1.0)
            reference = student.sample(scene, seed, sampling, plain).latent
            if sampler == "euler":
                away = decibels(reference, wanted)["signal_to_error"]
                found["student, 8 steps, cfg 1, from the teacher's 24"].append(away)
            for count in COMPUTED:
                for name, method in (
                    ("computed of 8", planned(count)),
                    ("plain steps", setting("fewer", "", computes=count)),
                ):
                    made = student.sample(scene, seed, sampling, method)
                    row = f"student, {sampler}, {count} {name}, from its 8"
                    found[row].append(decibels(made.latent, reference)["signal_to_error"])
        print(f"video {number + 1} of {options.videos}", flush=True)
    rows = [
        f"| {name} | {statistics.mean(values):.1f} | {sorted(values)[len(values) // 10]:.1f} | {min(values):.1f} |"
        for name, values in found.items()
    ]
    head = [
        "# A model of 8 steps",
        "",
        f"The demo model distilled to 8 steps at cfg 1 (`demo/train_turbo.py`), {options.videos} videos of the test "
        "set, latents 5 x 16 x 16, shift 5. Signal-to-error of latents in dB.",
        "",
        "| | mean | worst tenth | worst |",
        "|---|---|---|---|",
    ]
    options.out.write_text("\n".join([*head, *rows]) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
