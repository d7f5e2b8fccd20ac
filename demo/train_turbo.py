"""Distils the demo model to 8 steps at cfg 1, as turbo LoRAs are made, to measure what a cache does to such a model.

    python demo/train_turbo.py                  # goes on from its checkpoint in output/turbo

The teacher, the demo model with guidance, walks from noise to a video in 24 Euler steps. The student learns the mean
velocity of three of them at each of its own 8 noise levels, on the teacher's way and, once it can walk itself, on its
own (DAgger's cure, arXiv 1011.0686, for progressive distillation, arXiv 2202.00512): there the teacher shows the next
three steps. Scenes are drawn as in the training of the demo model, so that test scenes stay unseen.

The weights are not committed. Those of benchmarks/results/turbo.md took 918 steps on 184 trajectories, 75 minutes of a
busy core; they come within 12.2 dB of the teacher's videos, 8 steps of the teacher within 17.8 dB.

Everything random comes from the seed and the number of the step: a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
import train  # first of these: it makes ComfyUI importable
from safetensors.torch import load_file
from scene_embedding import embed_empty
from scenes import sample_scene
from torch import Tensor, nn

import comfy.ldm.wan.model  # isort: skip

NAME = "adacache_turbo_dit.safetensors"
STEPS, SUBSTEPS = 8, 3  # of the student, and of the teacher for each of them
SHIFT, CFG = 5.0, 3.0
LATENT = (16, 5, 16, 16)
RATE = 5e-4
STEPS_PER_TRAJECTORY = 5  # of training, so that both take about as long
OWN = 0.5  # part of the trajectories that the student walks, in the second half of the time
SEED = 5_000_000  # of scenes and noise, away from every other use


def levels(count: int) -> Tensor:
    """Noise levels of a sampler with so many steps: 1 to 0, ComfyUI's ``simple`` at ``SHIFT``."""
    t = torch.linspace(1, 0, count + 1, dtype=torch.float64)
    return (SHIFT * t / (1 + (SHIFT - 1) * t)).float()


def load(path: Path) -> nn.Module:
    """The demo model, with weights of a file."""
    dit = comfy.ldm.wan.model.WanModel(
        operations=train.comfy.ops.disable_weight_init, dtype=torch.float32, **train.DITS["demo"]
    )
    dit.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return dit


@torch.no_grad()
def guided(teacher: nn.Module, x: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
    """The teacher's velocity with guidance; x ``[1, 16, T, H, W]``."""
    empty = embed_empty().expand(1, tokens.shape[1], -1)  # one zero token; as many of them attend the same
    both = teacher(torch.cat([x, x]), 1000 * sigma.expand(2), torch.cat([tokens, empty]))
    positive, negative = both.chunk(2)
    return negative + CFG * (positive - negative)


@torch.no_grad()
def trajectory(teacher: nn.Module, student: nn.Module | None, number: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """State, mean velocity to learn and prompt at each of the student's steps; the student walks if it is given."""
    fine = levels(STEPS * SUBSTEPS)
    tokens = train.scene_tokens([sample_scene(random.Random(SEED + number))])
    x = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(SEED + number))
    pairs = []
    for step in range(STEPS):
        start = x
        for at in range(step * SUBSTEPS, (step + 1) * SUBSTEPS):
            x = x + (fine[at + 1] - fine[at]) * guided(teacher, x, fine[at : at + 1], tokens)
        length = fine[(step + 1) * SUBSTEPS] - fine[step * SUBSTEPS]
        pairs.append((start, (x - start) / length, tokens))
        if student is not None:
            x = start + length * student(start, 1000 * fine[step * SUBSTEPS].view(1), tokens)
    return pairs


def loss_of(student: nn.Module, pairs: list[list[tuple[Tensor, Tensor, Tensor]]], rng: random.Random) -> Tensor:
    """Of a batch: a pair at each of the student's noise levels."""
    chosen = [rng.choice(pairs)[step] for step in range(STEPS)]
    x, wanted, tokens = (torch.cat(part) for part in zip(*chosen, strict=True))
    return F.mse_loss(student(x, 1000 * levels(STEPS)[:-1], tokens), wanted)


def main() -> None:
    """Gather trajectories and learn from them in turn, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=train.HERE.parent / "output" / "turbo", help="checkpoints")
    parser.add_argument("--out", type=Path, default=train.HERE / "weights", help="what ComfyUI loads")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--seed", type=int, default=0, help="added to the number of the step where training goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    train.comfy.ldm.wan.model.apply_rope1, train.comfy.ldm.wan.model.optimized_attention = (
        train.rope,
        train.attention_pytorch,
    )
    teacher = load(train.HERE / "weights" / "adacache_demo_dit.safetensors").requires_grad_(False)
    student, average = load(train.HERE / "weights" / "adacache_demo_dit.safetensors"), None
    student.text_embedding[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=RATE, betas=(0.9, 0.98))
    average, step, clock, pairs = copy.deepcopy(student).requires_grad_(False), 0, train.Clock(options.minutes), []
    path = options.work / "turbo.pt"
    if path.exists():
        state = torch.load(path)
        student.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        step, clock = train.load_progress(state, [optimizer], options)
        pairs = state["pairs"]
    while clock.progress < 1:
        if step % STEPS_PER_TRAJECTORY == 0:
            rng = random.Random(SEED + step)
            own = clock.progress > 0.5 and rng.random() < OWN
            pairs.append(trajectory(teacher, average if own else None, step // STEPS_PER_TRAJECTORY))
        loss = loss_of(student, pairs, random.Random(step))
        train.descend(loss, student, [optimizer], clock)
        step += 1
        train.update_average(average, student, step)
        if clock.due(120) or clock.progress >= 1:
            weights = {"student": student.state_dict(), "average": average.state_dict(), "pairs": pairs}
            train.save(weights | train.progress_state(step, clock, [optimizer]), path)
            train.say("turbo", clock, step, f"loss {loss.item():.4f}, {len(pairs)} trajectories")
            config = {"transformer": {"num_heads": train.DITS["demo"]["num_heads"]}}
            train.write_weights(average.state_dict(), options.out / NAME, {"config": json.dumps(config)})


if __name__ == "__main__":
    main()
