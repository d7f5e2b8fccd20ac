"""Trains the demo model's expert for high noise, so that two stages of one model are two experts, as in Wan 2.2.

    python demo/train_experts.py --minutes 2        # on a GPU, 90 on a CPU; goes on from output/experts

It is the demo model after a second training, at the noise levels of the first half of the steps only and on other
clips of the same kind. The expert for low noise is the demo model as it is. It is there for the benchmarks.

The weights in weights/ took 1,097 steps on 1,536 clips, 1.3 minutes of an H200.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
import train  # first of these: it makes ComfyUI importable
from safetensors.torch import load_file
from torch import Tensor, nn
from train_turbo import load

NAME = "adacache_high_dit.safetensors"
SHIFT, HALF = 5.0, 0.5  # of the run that the experts share, and where in it the other one takes over
RATE, BATCH, SEED = 3e-4, 32, 4_000_000  # the clips are away from those of the first training


def noise_levels(count: int) -> Tensor:
    """Uniform over the first half of a sampler's steps, one from each part of it."""
    t = 1 - (1 - HALF) * (torch.arange(count) + torch.rand(count)) / count
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def gather(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Latents of clips, and their prompts."""
    options.work.mkdir(parents=True, exist_ok=True)
    vae = load_file(train.HERE / "weights" / "adacache_demo_vae.safetensors")
    torch.save({"vae": {name: weight.float() for name, weight in vae.items()}}, options.work / "vae_folded.pt")
    if not (options.work / "latents.pt").exists():
        train.encode_latents(argparse.Namespace(**{**vars(options), "minutes": options.minutes_of_clips, "seed": SEED}))
    data = torch.load(options.work / "latents.pt", weights_only=False)
    return data["latents"].to(options.device), train.scene_tokens(data["scenes"]).to(options.device)


def loss_of(expert: nn.Module, latents: Tensor, tokens: Tensor) -> Tensor:
    """Of a batch, as in the first training; a tenth of the prompts is empty."""
    chosen = torch.randint(len(latents), (BATCH,), device=latents.device)
    x, context = latents[chosen].float(), tokens[chosen]
    context = context * (torch.rand(BATCH, 1, 1, device=context.device) >= 0.1)
    return train.dit_loss(expert, x, context, noise_levels)


def main() -> None:
    """Gather clips, then learn from them until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=train.HERE.parent / "output" / "experts", help="checkpoints")
    parser.add_argument("--out", type=Path, default=train.HERE / "weights", help="what ComfyUI loads")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--clips", type=int, default=640)
    parser.add_argument("--minutes-of-clips", type=float, default=30, help="to make them, at most")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    latents, tokens = gather(options)
    train.comfy.ldm.wan.model.apply_rope1, train.comfy.ldm.wan.model.optimized_attention = (
        train.rope,
        train.attention_pytorch,
    )
    expert = load(train.HERE / "weights" / "adacache_demo_dit.safetensors").to(options.device)
    expert.text_embedding[0].requires_grad_(False)
    average, step, clock = copy.deepcopy(expert).requires_grad_(False), 0, train.Clock(options.minutes)
    optimizer = torch.optim.AdamW([p for p in expert.parameters() if p.requires_grad], lr=RATE, betas=(0.9, 0.98))
    path, mean = options.work / "high.pt", float("nan")
    if path.exists():
        state = torch.load(path, map_location=options.device)
        expert.load_state_dict(state["expert"])
        average.load_state_dict(state["average"])
        step, clock = train.load_progress(state, [optimizer], options)
    print(f"high: {len(latents)} clips, starting at step {step}", flush=True)
    while clock.progress < 1:
        loss = loss_of(expert, latents, tokens)
        train.descend(loss, expert, [optimizer], clock)
        step += 1
        train.update_average(average, expert, step)
        mean = train.smoothed(mean, loss)
        if clock.due(30) or clock.progress >= 1:
            weights = {"expert": expert.state_dict(), "average": average.state_dict()}
            train.save(weights | train.progress_state(step, clock, [optimizer]), path)
            train.say("high", clock, step, f"loss {mean:.4f}")
            config = {"transformer": {"num_heads": train.DITS["demo"]["num_heads"]}}
            halves = {name: weight.cpu() for name, weight in average.state_dict().items()}
            train.write_weights(halves, options.out / NAME, {"config": json.dumps(config)})


if __name__ == "__main__":
    main()
