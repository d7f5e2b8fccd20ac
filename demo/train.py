"""Trains the demo model: ComfyUI's own Wan 2.1 classes, shrunk, on the procedural videos of scenes.py.

    python demo/train.py all                   # every stage, in about two hours on two cores
    python demo/train.py dit --minutes 120     # or one; each goes on from its checkpoint in --work

On a virtual machine set OMP_WAIT_POLICY=PASSIVE: OpenMP threads that spin made a step ten times slower.

The weights in weights/ are of 21 November 2026, from two cores shared with other work, seed 0: VAE, 1,299 steps in 38
minutes; 640 latents; diffusion model, 2,352 steps in 60 minutes. Interrupted twice, after 351 latents and at step
2,142, and continued from the checkpoints; so `all` gives weights like these, not the same bits. The narrow model,
`dit --size narrow --seed 1 --minutes 70`, took 1,691 steps on one busy core, on the same latents.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

HERE = Path(__file__).parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH", HERE.parent / ".comfyui" / "0.30.0"))
sys.path[:0] = [str(COMFYUI), str(HERE), str(HERE / "demo_nodes")]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = not torch.cuda.is_available()  # read when model_management is imported, so before everything below

import comfy.latent_formats  # noqa: E402
import comfy.ldm.wan.model  # noqa: E402
import comfy.ldm.wan.vae  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402
from scene_embedding import TEXT_DIM, embed_scene  # noqa: E402
from scenes import Scene, render, sample_scene  # noqa: E402

MINUTES = {"vae": 38, "latents": 6, "dit": 60}
VAE_WIDTH = 8
# (clips, frames, side) of a training batch: crops for variety, longer and larger ones because the decoder's causal
# convolutions and its attention must not depend on the crop. All cost the same.
VAE_BATCHES = ((4, 9, 64), (2, 17, 64), (4, 33, 32), (2, 5, 128))

# The model that ships, and a narrower one with smaller heads so that the benchmarks are not of one network only.
_SAME = {"model_type": "t2v", "freq_dim": 256, "text_dim": TEXT_DIM}
DITS = {
    "demo": {"dim": 128, "ffn_dim": 512, "num_heads": 4, "num_layers": 10, **_SAME},
    "narrow": {"dim": 96, "ffn_dim": 384, "num_heads": 4, "num_layers": 8, **_SAME},
}
SHIFT = 3.0  # of the noise schedule that the demo samples with
CROPPED, CROPPED_BATCH, BATCH = 0.25, 24, 8  # part of the time on quarter-size crops; clips per step then and after

# --- Clock, schedule, files ------------------------------------------------------------------------------------------


class Clock:
    """Counts training time against a budget, across resumes."""

    def __init__(self, minutes: float, spent: float = 0.0):
        self.budget = 60 * minutes
        self.started = time.monotonic() - spent
        self.reported = time.monotonic()

    @property
    def spent(self) -> float:
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the time is up."""
        return min(1.0, self.spent / self.budget)

    def due(self, seconds: float) -> bool:
        """True about once in `seconds`: time to print and save."""
        if time.monotonic() - self.reported < seconds:
            return False
        self.reported = time.monotonic()
        return True


def learning_rate_factor(progress: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if progress < warmup:
        return (progress + 1e-4) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def descend(loss: Tensor, model: nn.Module, optimizers: list[torch.optim.Optimizer], clock: Clock) -> None:
    """One step at the learning rate of the hour."""
    model.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * learning_rate_factor(clock.progress)
        optimizer.step()


def smoothed(mean: float, loss: Tensor) -> float:
    """What to print of a loss: a running mean, that begins at NaN."""
    return loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()


def progress_state(step: int, clock: Clock, optimizers: list[torch.optim.Optimizer]) -> dict:
    return {"step": step, "seconds": clock.spent, "optimizers": [optimizer.state_dict() for optimizer in optimizers]}


def load_progress(state: dict, optimizers: list, options: argparse.Namespace) -> tuple[int, Clock]:
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.manual_seed(options.seed + state["step"])
    return state["step"], Clock(options.minutes, state["seconds"])


def save(state: dict, path: Path) -> None:
    """Whole or not at all: a reader never sees half a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def say(stage: str, clock: Clock, step: int, text: str) -> None:
    left = f"{clock.progress:.0%}, {(clock.budget - clock.spent) / 60:.1f} min left"
    print(f"{time.strftime('%H:%M:%S')} {stage} step {step} ({left}) {text}", flush=True)


# --- Optimizer -------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al., 2024), for matrices and, flattened, convolutions.

    In float32 and all of one shape at a time: `torch.optim.Muon` works in bfloat16, one by one, which a CPU is slow at.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for shape in sorted({p.shape for p in group["params"]}):
                alike = [p for p in group["params"] if p.shape == shape]
                updates = orthogonalize(torch.stack([self._momentum(p, group["momentum"]).flatten(1) for p in alike]))
                scale = max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
                for p, update in zip(alike, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(update.view_as(p), alpha=group["lr"] * scale)

    def _momentum(self, p: nn.Parameter, momentum: float) -> Tensor:
        buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)  # Nesterov


def orthogonalize(matrices: Tensor) -> Tensor:
    """[N, rows, columns]: singular values to about 1 by five Newton-Schulz steps, with Jordan's coefficients."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def build_optimizers(body: nn.Module, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and convolutions of `body`, AdamW for everything else in `model`."""
    matrices = [p for p in body.parameters() if p.ndim > 1 and p.shape[0] > 1 and p[0].numel() > 1]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)]


# --- VAE -------------------------------------------------------------------------------------------------------------


def fast_rms_norm(self: nn.Module, x: Tensor) -> Tensor:
    """ComfyUI's `RMS_norm` by plain algebra: the same to 1e-7 and twice as fast on a CPU as `F.normalize`."""
    return x * ((x * x).mean(1, keepdim=True) + 1e-12).rsqrt() * self.gamma


def build_vae() -> nn.Module:
    """ComfyUI's Wan 2.1 VAE as comfy/sd.py builds it, with weights to start from (its layers come uninitialised)."""
    vae = comfy.ldm.wan.vae.WanVAE(dim=VAE_WIDTH, z_dim=16, temperal_downsample=[False, True, True])
    for module in vae.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)
        if isinstance(module, comfy.ldm.wan.vae.ResidualBlock):
            module.residual[6].weight.data.mul_(0.3)
    return vae


def encode(vae: nn.Module, clip: Tensor) -> Tensor:
    """`WanVAE.encode` in two chunks, the first frame and the rest: equal to its many small ones, and faster.

    [B, 3, F, H, W] in -1..1 -> [B, 16, 1 + (F - 1) / 4, H / 8, W / 8].
    """
    cache = [None] * comfy.ldm.wan.vae.count_cache_layers(vae.encoder)
    first = vae.encoder(clip[:, :, :1], feat_cache=cache, feat_idx=[0])
    rest = vae.encoder(clip[:, :, 1:], feat_cache=cache, feat_idx=[0], final=True)
    return vae.conv1(torch.cat([first, rest], 2)).chunk(2, dim=1)[0]


def decode(vae: nn.Module, latent: Tensor) -> Tensor:
    """`WanVAE.decode` in two chunks, likewise. [B, 16, T, H, W] -> [B, 3, 4 T - 3, 8 H, 8 W]."""
    cache = [None] * comfy.ldm.wan.vae.count_cache_layers(vae.decoder)
    latent = vae.conv2(latent)
    first = vae.decoder(latent[:, :, :1], feat_cache=cache, feat_idx=[0])
    return torch.cat(first + vae.decoder(latent[:, :, 1:], feat_cache=cache, feat_idx=[0]), 2)


def gradients(clip: Tensor) -> list[Tensor]:
    return [clip.diff(dim=dim) for dim in (2, 3, 4)]


def vae_loss(vae: nn.Module, clip: Tensor) -> Tensor:
    """L1 and L2 on pixels, a little L1 on their differences in time and space, latents near unit scale.

    Noise on the latents, a tenth of their scale, makes neighbours decode alike, which diffusion needs.
    """
    latent = encode(vae, clip)
    power = latent.pow(2).mean(dim=(0, 2, 3, 4), keepdim=True)
    out = decode(vae, latent + 0.1 * power.detach().sqrt() * torch.randn_like(latent))
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(out), gradients(clip), strict=True))
    return F.l1_loss(out, clip) + F.mse_loss(out, clip) + 0.2 * edges + 0.01 * (power - 1).pow(2).mean()


def clips(count: int, seed: int) -> tuple[list[Scene], Tensor]:
    """`count` random scenes and their clips, [count, 3, F, H, W] uint8."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    pixels = [render(scene, seed + i).mul(255).round().byte().permute(3, 0, 1, 2) for i, scene in enumerate(scenes)]
    return scenes, torch.stack(pixels)


def to_model(pixels: Tensor, device: str) -> Tensor:
    """uint8 -> -1..1, the range that ComfyUI's VAE wrapper feeds."""
    return pixels.to(device, torch.float32) / 127.5 - 1


def crops(pool: Tensor, rng: random.Random) -> Iterator[Tensor]:
    """Random batches of crops out of `pool`, in the shapes of `VAE_BATCHES`, for ever."""
    while True:
        count, frames, side = rng.choice(VAE_BATCHES)
        batch = []
        for _ in range(count):
            t, y, x = (
                rng.randint(0, size - part) for size, part in zip(pool.shape[2:], (frames, side, side), strict=True)
            )
            batch.append(pool[rng.randrange(len(pool)), :, t : t + frames, y : y + side, x : x + side])
        yield torch.stack(batch)


@torch.no_grad()
def psnr(vae: nn.Module, held_out: Tensor, device: str) -> tuple[float, float]:
    """Mean and worst PSNR in dB over whole held-out clips."""
    values = []
    for pixels in held_out:
        clip = to_model(pixels[None], device)
        out = decode(vae, encode(vae, clip)).clamp(-1, 1)
        values.append(10 * math.log10(4 / F.mse_loss(out, clip).item()))
    return sum(values) / len(values), min(values)


@torch.no_grad()
def fold_latent_statistics(
    vae: nn.Module, held_in: Tensor, device: str, wanted_mean: Tensor, wanted_std: Tensor
) -> None:
    """Gives the latents the mean and standard deviation per channel that ComfyUI's latent format takes off."""
    latents = torch.cat([encode(vae, to_model(pixels[None], device)) for pixels in held_in])
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    scale = wanted_std.to(device) / std
    rescale_latents(vae, scale, wanted_mean.to(device) - scale * mean)


@torch.no_grad()
def rescale_latents(vae: nn.Module, scale: Tensor, offset: Tensor) -> None:
    """Makes the latents `scale * latent + offset` per channel, by the convolutions on either side: it is a 1x1 map."""
    vae.conv1.weight[:16] *= scale.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:16] = vae.conv1.bias[:16] * scale + offset
    vae.conv2.weight /= scale.view(1, -1, 1, 1, 1)
    vae.conv2.bias -= vae.conv2.weight.flatten(1) @ offset


def train_vae(options: argparse.Namespace) -> None:
    """Trains the VAE on crops of a pool of clips, then gives its latents the statistics that ComfyUI expects."""
    path, device = options.work / "vae.pt", options.device
    torch.manual_seed(options.seed)
    vae = build_vae().to(device)
    optimizers, step, clock = build_optimizers(vae, vae), 0, Clock(options.minutes)
    if path.exists():
        state = torch.load(path, map_location=device)
        vae.load_state_dict(state["vae"])
        step, clock = load_progress(state, optimizers, options)
    pool, held_out = clips(options.pool, options.seed)[1], clips(8, options.seed + 1_000_000)[1]
    batches = crops(pool, random.Random(options.seed + step))
    average = math.nan
    print(f"vae: {len(pool)} clips drawn, starting at step {step}", flush=True)
    while clock.progress < 1:
        loss = vae_loss(vae, to_model(next(batches), device))
        descend(loss, vae, optimizers, clock)
        step += 1
        average = smoothed(average, loss)
        if clock.due(120) or clock.progress >= 1:
            save({"vae": vae.state_dict()} | progress_state(step, clock, optimizers), path)
            say("vae", clock, step, f"loss {average:.4f} psnr {psnr(vae, held_out[:1], device)[0]:.1f}")
    print("vae: held-out psnr {:.2f}, worst {:.2f}".format(*psnr(vae, held_out, device)), flush=True)
    wanted = comfy.latent_formats.Wan21()
    fold_latent_statistics(vae, pool[:16], device, wanted.latents_mean.flatten(), wanted.latents_std.flatten())
    save({"vae": vae.state_dict()}, options.work / "vae_folded.pt")


# --- Latents ---------------------------------------------------------------------------------------------------------


def on_one_core(seed: int) -> None:
    """For training beside other work, VAE and all."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    comfy.ldm.wan.vae.RMS_norm.forward = fast_rms_norm


def start_worker(work: Path) -> None:
    """Loads the VAE into a process of its own, on one thread: two of those beat one on two threads."""
    global worker_vae
    torch.set_num_threads(1)
    comfy.ldm.wan.vae.RMS_norm.forward = fast_rms_norm
    worker_vae = build_vae().eval()
    worker_vae.load_state_dict(torch.load(work / "vae_folded.pt")["vae"])


@torch.no_grad()
def encode_scene(seed: int) -> tuple[Scene, np.ndarray]:
    """A random scene and its latent as the diffusion model sees it, [16, 9, 16, 16], float16."""
    (scene,), pixels = clips(1, seed)
    latent = comfy.latent_formats.Wan21().process_in(encode(worker_vae, to_model(pixels, "cpu")))
    return scene, latent[0].half().numpy()  # NumPy, as every tensor between processes holds a file open


def encode_latents(options: argparse.Namespace) -> None:
    """Encodes scenes until there are `--clips` of them, or the time is up."""
    path = options.work / "latents.pt"
    data = torch.load(path, weights_only=False) if path.exists() else {"latents": [], "scenes": []}
    latents, scenes, clock = list(data["latents"]), data["scenes"], Clock(options.minutes)
    # A seed per clip, away from the VAE's, so that a resumed run goes on where it stopped.
    seeds = range(options.seed + 2_000_000 + len(latents), options.seed + 2_000_000 + options.clips)
    with get_context("spawn").Pool(os.cpu_count(), start_worker, (options.work,)) as pool:
        for scene, latent in pool.imap(encode_scene, seeds):
            scenes.append(scene)
            latents.append(torch.from_numpy(latent))
            if clock.due(60) or len(latents) == options.clips or clock.progress >= 1:
                save({"latents": torch.stack(latents), "scenes": scenes}, path)
                say("latents", clock, len(latents), f"of {options.clips}")
            if clock.progress >= 1:
                break


# --- Diffusion model -------------------------------------------------------------------------------------------------


def build_dit(size: str) -> nn.Module:
    """ComfyUI's Wan 2.1 text-to-video model, shrunk, with weights to start from."""
    dit = comfy.ldm.wan.model.WanModel(operations=comfy.ops.disable_weight_init, dtype=torch.float32, **DITS[size])
    for name, parameter in dit.named_parameters():
        if "modulation" in name:
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
        elif name.startswith(("text_embedding.0", "time_embedding", "time_projection")):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    # Frozen: a random projection tells random tokens apart as well as any, and with 4096 inputs one step of AdamW moves
    # it so far that GELU dies and every prompt looks the same.
    dit.text_embedding[0].requires_grad_(False)
    nn.init.zeros_(dit.head.head.weight)
    for block in dit.blocks:
        block.modulation.data[:, [2, 5]] = 1.0  # the gates: all branches are open from the start
        for layer in (block.self_attn.o, block.cross_attn.o, block.ffn[2]):
            layer.weight.data.mul_(0.3)
    return dit


def rope(x: Tensor, freqs: Tensor) -> Tensor:
    """ComfyUI's `apply_rope1` as a complex product: has a backward pass, which the default one lacks.

    x [B, N, heads, head_dim], freqs [1, N, 1, head_dim / 2, 2, 2], rotation matrices.
    """
    turn = torch.complex(freqs[..., 0, 0], freqs[..., 1, 0])
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).reshape(x.shape)


def scene_tokens(scenes: list[Scene]) -> Tensor:
    """[len(scenes), attributes, 4096]."""
    return torch.cat([embed_scene(asdict(scene)) for scene in scenes])


def noise_levels(count: int) -> Tensor:
    """Uniform over the steps of a sampler at shift 3, one from each part of the range so that batches are alike."""
    t = (torch.arange(count) + torch.rand(count)) / count
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def dit_batch(latents: Tensor, tokens: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Latents and prompts. Quarter-size crops in large batches at first: four times the clips for the same time."""
    cropped = progress < CROPPED
    index = torch.randint(len(latents), (CROPPED_BATCH if cropped else BATCH,))
    x, context = latents[index].float(), tokens[index]
    if cropped:
        corners = torch.randint(9, (len(index), 2)).tolist()
        x = torch.stack([clip[:, :, i : i + 8, j : j + 8] for clip, (i, j) in zip(x, corners, strict=True)])
    # The empty prompt is one zero token; six of them attend the same.
    return x, context * (torch.rand(len(index), 1, 1) >= 0.1)


def dit_loss(dit: nn.Module, x: Tensor, context: Tensor, levels: Callable[[int], Tensor] = noise_levels) -> Tensor:
    """Flow matching as ComfyUI's `ModelType.FLOW` samples it: x_s = s noise + (1 - s) x, output noise - x at 1000 s."""
    sigma = levels(len(x)).to(x.device)
    noise = torch.randn_like(x)
    s = sigma.view(-1, 1, 1, 1, 1)
    return F.mse_loss(dit(s * noise + (1 - s) * x, 1000 * sigma, context), noise - x)


@torch.no_grad()
def update_average(average: nn.Module, dit: nn.Module, step: int) -> None:
    decay = min(0.99, (1 + step) / (10 + step))
    for a, p in zip(average.parameters(), dit.parameters(), strict=True):
        a.lerp_(p, 1 - decay)


def train_dit(options: argparse.Namespace) -> None:
    """Trains the diffusion model on the latents; exports at every checkpoint."""
    path, device = options.work / "dit.pt", options.device
    torch.manual_seed(options.seed)
    # For training only: a RoPE that has a backward pass, and PyTorch's attention, faster than ComfyUI's for the CPU.
    comfy.ldm.wan.model.apply_rope1, comfy.ldm.wan.model.optimized_attention = rope, attention_pytorch
    dit, average = (build_dit(options.size).to(device) for _ in range(2))
    average.requires_grad_(False)
    optimizers, step, clock = build_optimizers(dit.blocks, dit), 0, Clock(options.minutes)
    if path.exists():
        state = torch.load(path, map_location=device)
        dit.load_state_dict(state["dit"])
        average.load_state_dict(state["average"])
        step, clock = load_progress(state, optimizers, options)
    data = torch.load(options.work / "latents.pt", weights_only=False)
    latents, tokens, mean = data["latents"], scene_tokens(data["scenes"]), math.nan
    print(f"dit: {len(latents)} clips, starting at step {step}", flush=True)
    while clock.progress < 1:
        x, context = dit_batch(latents, tokens, clock.progress)
        loss = dit_loss(dit, x.to(device), context.to(device))
        descend(loss, dit, optimizers, clock)
        step += 1
        update_average(average, dit, step)
        mean = smoothed(mean, loss)
        if clock.due(120) or clock.progress >= 1:
            weights = {"dit": dit.state_dict(), "average": average.state_dict()}
            save(weights | progress_state(step, clock, optimizers), path)
            say("dit", clock, step, f"loss {mean:.4f}")
            export(options)


# --- Export ----------------------------------------------------------------------------------------------------------


def export(options: argparse.Namespace) -> None:
    """Writes what ComfyUI's loaders read: half precision, the averaged diffusion model, its head count as metadata."""
    vae = torch.load(options.work / "vae_folded.pt", map_location="cpu")["vae"]
    write_weights(vae, options.out / "adacache_demo_vae.safetensors", None)
    dit = torch.load(options.work / "dit.pt", map_location="cpu")["average"]
    config = {
        "transformer": {"num_heads": DITS[options.size]["num_heads"]}
    }  # comfy/model_detection.py would guess dim / 128
    write_weights(dit, options.out / f"adacache_{options.size}_dit.safetensors", {"config": json.dumps(config)})


def write_weights(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(to_bytes({name: weight.half().contiguous() for name, weight in weights.items()}, metadata))
    os.replace(partial, path)


def run_all(options: argparse.Namespace) -> None:
    """Every stage, each with its default time."""
    for stage, minutes in MINUTES.items():
        options.minutes = minutes
        STAGES[stage](options)
    export(options)


STAGES = {
    "vae": train_vae,
    "latents": encode_latents,
    "dit": train_dit,
    "export": export,
    "all": run_all,
}


def main() -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=Path, default=Path("/tmp/adacache-demo"), help="checkpoints and latents")
    common.add_argument("--out", type=Path, default=HERE / "weights", help="what ComfyUI loads")
    common.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--size", choices=tuple(DITS), default="demo", help="of the diffusion model")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, run in STAGES.items():
        stage = stages.add_parser(name, parents=[common], help=run.__doc__.splitlines()[0])
        stage.set_defaults(run=run)
        if name in MINUTES:
            stage.add_argument("--minutes", type=float, default=MINUTES[name])
        if name in ("vae", "all"):
            stage.add_argument("--pool", type=int, default=128, help="clips that the VAE learns from")
        if name in ("latents", "all"):
            stage.add_argument("--clips", type=int, default=640, help="clips that the diffusion model learns from")
    options = parser.parse_args()
    comfy.ldm.wan.vae.RMS_norm.forward = fast_rms_norm
    torch.set_flush_denormal(True)
    options.run(options)


if __name__ == "__main__":
    main()
