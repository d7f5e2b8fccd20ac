"""Trains the causal demo model: ComfyUI's own autoregressive Wan, by the objective of Ca2-VDM, on the demo's videos.

    python demo/train.py vae && python demo/train.py latents    # what it learns from, unless they are there already
    python demo/train_causal.py                                 # goes on from its checkpoint in output/causal

It starts from the demo's diffusion model, which has the same weights by name and shape, and learns to generate two
latent frames from the finished ones before them: those are clean and have time 0, the new ones are noisy, and only
they count in the loss. How many frames came before is drawn at random. One pass holds a clip twice, clean and noisy,
so that every block of the clip is a target and has a prefix of its own, and every frame sees just what it will see in
ComfyUI's sampler with a window of that many frames. A little noise on the prefix, which the paper does not
have, makes up for the model's own mistakes in a long video.

Everything random comes from the seed and the number of the step: a resumed run gives the weights of an undisturbed one.

The weights in weights/ are of 21 November 2026, seed 0: the averaged model after all 3,000 steps, 96 minutes on one
busy CPU core. The loss on clips of the training set went from 0.47, of the demo's diffusion model used causally, to
0.12.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import train  # first of these: it makes ComfyUI importable
from safetensors.torch import load_file
from torch import Tensor, nn

import comfy.ldm.wan.ar_model  # isort: skip

BLOCK = 2  # latent frames that are generated at a time
FRAMES = 8  # latent frames of a clip in training
PREFIX = (1, 2, 3)  # blocks in front that a block may see, one of these per step
PREFIX_NOISE = 0.1  # the most noise on finished frames
RATE = 0.3  # of the learning rate from scratch
NAME = "adacache_demo_causal_dit.safetensors"


class StepClock(train.Clock):
    """Counts steps instead of time, so that a seed gives the same weights on any machine."""

    def __init__(self, steps: int, done: int = 0):
        super().__init__(minutes=0)
        self.steps, self.done = steps, done

    @property
    def progress(self) -> float:
        return self.done / self.steps


def build_causal_dit(weights: Path) -> nn.Module:
    """ComfyUI's causal Wan with the weights of the demo's diffusion model, which must be of the same size."""
    dit = comfy.ldm.wan.ar_model.CausalWanModel(
        operations=train.comfy.ops.disable_weight_init, dtype=torch.float32, **train.DITS["demo"]
    )
    dit.load_state_dict({name: weight.float() for name, weight in load_file(weights).items()})
    dit.text_embedding[0].requires_grad_(False)  # as in train.build_dit
    return dit


def velocity(dit: nn.Module, clean: Tensor, noisy: Tensor, sigma: Tensor, context: Tensor, prefix: int) -> Tensor:
    """What the model makes of the noisy frames, [B, 16, FRAMES, H, W]; `sigma` [B, FRAMES] is theirs."""
    rotations = dit.rope_encode(FRAMES, *clean.shape[3:], device=clean.device, dtype=clean.dtype)

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: object) -> Tensor:
        """[B, N, C], clean tokens first: a block sees itself and `prefix` clean blocks before it."""
        (clean_q, noisy_q), (clean_k, noisy_k), (clean_v, noisy_v) = ((*x.chunk(2, dim=1),) for x in (q, k, v))
        size = q.shape[1] // 2 // (FRAMES // BLOCK)
        out = []
        for first in range(0, q.shape[1] // 2, size):
            now, before = slice(first, first + size), slice(max(0, first - prefix * size), first)
            for own_q, own_k, own_v in ((clean_q, clean_k, clean_v), (noisy_q, noisy_k, noisy_v)):
                keys = torch.cat([clean_k[:, before], own_k[:, now]], dim=1)
                values = torch.cat([clean_v[:, before], own_v[:, now]], dim=1)
                out.append(train.attention_pytorch(own_q[:, now], keys, values, heads))
        return torch.cat(out[0::2] + out[1::2], dim=1)

    # Only self-attention goes through this name; clean and noisy frames of a time have the same place.
    ordinary, comfy.ldm.wan.ar_model.optimized_attention = comfy.ldm.wan.ar_model.optimized_attention, attention
    dit.rope_encode = lambda *_, **__: torch.cat([rotations, rotations], dim=1)
    try:
        nothing = [None] * len(dit.blocks)
        time = torch.cat([torch.zeros_like(sigma), 1000 * sigma], dim=1)
        both = dit.forward_block(torch.cat([clean, noisy], dim=2), time, context, 0, nothing, nothing)
    finally:
        del dit.rope_encode
        comfy.ldm.wan.ar_model.optimized_attention = ordinary
    return both[:, :, FRAMES:]


def causal_loss(dit: nn.Module, latents: Tensor, context: Tensor) -> Tensor:
    """Flow matching of all blocks of the clips [B, 16, 9, H, W], each given clean blocks before it."""
    start = int(torch.randint(latents.shape[2] - FRAMES + 1, ()))
    prefix = PREFIX[int(torch.randint(len(PREFIX), ()))]
    x = latents[:, :, start : start + FRAMES]
    count, blocks = len(x), FRAMES // BLOCK
    levels = train.noise_levels(count * blocks)[torch.randperm(count * blocks)].view(count, blocks)
    sigma = levels.repeat_interleave(BLOCK, dim=1).to(x.device)
    s, noise = sigma[:, None, :, None, None], torch.randn_like(x)
    prefix_noise = PREFIX_NOISE * torch.rand(count, 1, 1, 1, 1).to(x.device)
    out = velocity(dit, x + prefix_noise * torch.randn_like(x), s * noise + (1 - s) * x, sigma, context, prefix)
    # The first latent frame holds one picture, the others four: a video starts with that one and no other.
    targets = slice(0 if start == 0 else BLOCK, None)
    return F.mse_loss(out[:, :, targets], (noise - x)[:, :, targets])


def train_causal(options: argparse.Namespace) -> None:
    """Trains on the latents; saves and exports every two minutes and at the end."""
    path, device = options.work / "causal.pt", options.device
    comfy.ldm.wan.ar_model.apply_rope1 = train.comfy.ldm.wan.model.apply_rope1 = train.rope
    train.comfy.ldm.wan.model.optimized_attention = train.attention_pytorch
    dit, average = (build_causal_dit(options.weights).to(device) for _ in range(2))
    average.requires_grad_(False)
    optimizers, clock = train.build_optimizers(dit.blocks, dit), StepClock(options.steps)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= RATE
    if path.exists():
        state = torch.load(path, map_location=device)
        dit.load_state_dict(state["dit"])
        average.load_state_dict(state["average"])
        clock.done, _ = train.load_progress(state, optimizers, argparse.Namespace(minutes=0, seed=options.seed))
    data = torch.load(options.latents, weights_only=False)
    latents, tokens, mean = data["latents"], train.scene_tokens(data["scenes"]), math.nan
    train.BATCH = options.batch
    print(f"causal: {len(latents)} clips, starting at step {clock.done} of {clock.steps}", flush=True)
    while clock.progress < 1:
        torch.manual_seed(1_000_003 * options.seed + clock.done)
        x, context = train.dit_batch(latents, tokens, progress=1.0)
        loss = causal_loss(dit, x.to(device), context.to(device))
        train.descend(loss, dit, optimizers, clock)
        clock.done += 1
        train.update_average(average, dit, clock.done)
        mean = train.smoothed(mean, loss)
        if clock.due(120) or clock.progress >= 1:
            weights = {"dit": dit.state_dict(), "average": average.state_dict()}
            train.save(weights | train.progress_state(clock.done, clock, optimizers), path)
            config = {"transformer": {"num_heads": train.DITS["demo"]["num_heads"], "causal_ar": True}}
            train.write_weights(average.state_dict(), options.out / NAME, {"config": json.dumps(config)})
            print(
                f"causal: step {clock.done} of {clock.steps}, {clock.spent / 60:.0f} min, loss {mean:.4f}", flush=True
            )


def main() -> None:
    weights = train.HERE / "weights"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="all steps, those of earlier runs included")
    parser.add_argument("--batch", type=int, default=2, help="clips per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=weights / "adacache_demo_dit.safetensors", help="to start from")
    parser.add_argument("--latents", type=Path, default=Path("/tmp/adacache-demo/latents.pt"), help="by train.py")
    parser.add_argument("--work", type=Path, default=train.HERE.parent / "output" / "causal", help="checkpoints")
    parser.add_argument("--out", type=Path, default=weights, help="what ComfyUI loads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    train_causal(options)


if __name__ == "__main__":
    main()
