"""Trains the model that nothing is tuned on: ComfyUI's HunyuanVideo classes, shrunk, on the videos of scenes.py.

    python demo/train_hunyuan.py                # goes on from its checkpoint in output/hunyuan

Another family than the demo model, two streams that are joined and no cross-attention, with other weights from the
start on. It shares the VAE, refolded to the scale of HunyuanVideo's latents. No constant of the pack is ever fitted to
it, which is why the benchmarks have it. The weights in weights/ took 1,416 steps on 800 clips, 95 minutes of a busy
core, seed 0.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import train  # first of these: it makes ComfyUI importable
from safetensors.torch import load_file
from scenes import Scene
from torch import Tensor, nn

import comfy.latent_formats  # isort: skip
import comfy.ldm.flux.math  # isort: skip
import comfy.ldm.hunyuan_video.model  # isort: skip
import comfy.model_management  # isort: skip

NAME = "adacache_hunyuan_{}.safetensors"
WIDTH = 128  # of one head: fixed for this family by its positions
CONFIG = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "hidden_size": WIDTH,
    "num_heads": 1,
    "axes_dim": [16, 56, 56],
    "mlp_ratio": 4.0,
    "depth": 3,
    "depth_single_blocks": 6,
    "theta": 256,
    "qkv_bias": True,
    "context_in_dim": train.TEXT_DIM,
    "vec_in_dim": 768,
    "vision_in_dim": None,
    "guidance_embed": False,
    "byt5": False,
    "meanflow": False,
    "meanflow_sum": False,
    "use_cond_type_embedding": False,
}
CLIPS, CLIPS_FIRST = 800, 48  # in all, a new one at every step, and before the first
SEED = 9_000_000  # of scenes, away from every other use


def build() -> nn.Module:
    """ComfyUI's HunyuanVideo model, shrunk, with weights to start from."""
    dit = comfy.ldm.hunyuan_video.model.HunyuanVideo(
        operations=train.comfy.ops.disable_weight_init, dtype=torch.float32, **CONFIG
    )
    for name, parameter in dit.named_parameters():
        modulates = "mod" in name
        if parameter.ndim == 1:
            nn.init.constant_(parameter, float("norm" in name and not name.endswith("bias")))
        elif modulates or name.startswith("final_layer"):
            nn.init.zeros_(parameter)
        elif name.startswith(("time_in", "txt_in.c_embedder.in", "txt_in.t_embedder")):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        if name.endswith(("attn.proj.weight", "linear2.weight", "mlp.2.weight")):
            parameter.data.mul_(0.3)
        if modulates and parameter.ndim == 1:
            # Shift, scale and gate in turn, in the text's refiner gates alone; final layers have none.
            gates = {3: [2], 6: [2, 5], 2: [0, 1] if name.startswith("txt_in") else []}[len(parameter) // WIDTH]
            parameter.data.view(-1, WIDTH)[gates] = 1.0  # all branches are open from the start
    # Frozen, as the text embedding of the demo model is: see train.build_dit.
    for layer in (dit.txt_in.input_embedder, dit.txt_in.c_embedder.in_layer):
        layer.requires_grad_(False)
    for module in dit.modules():
        if isinstance(module, nn.LayerNorm):  # the blocks add to their inputs in place, which autograd cannot undo
            module.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(),))
    return dit


def make_trainable() -> None:
    """What ComfyUI runs for this family has a backward pass from here on."""
    comfy.model_management.in_training = True  # of RoPE
    for module in (comfy.ldm.flux.math, comfy.ldm.hunyuan_video.model):
        module.optimized_attention = train.attention_pytorch


def optimizers_of(dit: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else that learns."""
    blocks = [*dit.double_blocks.named_parameters(), *dit.single_blocks.named_parameters()]
    matrices = [p for name, p in blocks if p.ndim == 2 and "mod" not in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in dit.parameters() if p.requires_grad and id(p) not in chosen]
    return [train.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)]


def loss_of(dit: nn.Module, x: Tensor, context: Tensor) -> Tensor:
    """Flow matching as ComfyUI samples it: see train.dit_loss."""
    sigma, noise = train.noise_levels(len(x)).to(x.device), torch.randn_like(x)
    s = sigma.view(-1, 1, 1, 1, 1)
    pooled = x.new_zeros(len(x), CONFIG["vec_in_dim"])  # this family's second text encoder, which has nothing to say
    return F.mse_loss(dit(s * noise + (1 - s) * x, 1000 * sigma, context, pooled), noise - x)


class Pool:
    """Scenes and their latents, one more whenever it is asked until there are ``CLIPS``."""

    def __init__(self, latents: list[Tensor], scenes: list[Scene]) -> None:
        self.latents, self.scenes = latents, scenes
        train.worker_vae = train.build_vae().eval()
        train.worker_vae.load_state_dict(demo_vae())

    def grow(self) -> None:
        if len(self.latents) < CLIPS:
            scene, latent = train.encode_scene(SEED + len(self.latents))
            self.scenes.append(scene)
            self.latents.append(torch.from_numpy(latent))


def demo_vae() -> dict[str, Tensor]:
    """Weights of the demo model's VAE."""
    weights = load_file(train.HERE / "weights" / "adacache_demo_vae.safetensors")
    return {name: weight.float() for name, weight in weights.items()}


def refold(scale: float) -> dict[str, Tensor]:
    """The demo model's VAE with latents that are standard normal after ``scale``, as its family expects them."""
    vae, wan = train.build_vae(), comfy.latent_formats.Wan21()
    vae.load_state_dict(demo_vae())
    factor = 1 / (wan.latents_std.flatten() * scale)
    train.rescale_latents(vae, factor, -factor * wan.latents_mean.flatten())
    return vae.state_dict()


def main() -> None:
    """Gather clips and learn from them in turn, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=train.HERE.parent / "output" / "hunyuan", help="checkpoints")
    parser.add_argument("--out", type=Path, default=train.HERE / "weights", help="what ComfyUI loads")
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--seed", type=int, default=0, help="added to the number of the step where training goes on")
    options = parser.parse_args()
    train.on_one_core(options.seed)
    make_trainable()
    dit, average = build(), build().requires_grad_(False)
    optimizers, step, clock, mean = optimizers_of(dit), 0, train.Clock(options.minutes), math.nan
    path, latents, scenes = options.work / "hunyuan.pt", [], []
    if path.exists():
        state = torch.load(path, weights_only=False)
        dit.load_state_dict(state["dit"])
        average.load_state_dict(state["average"])
        latents, scenes = state["latents"], state["scenes"]
        step, clock = train.load_progress(state, optimizers, options)
    pool = Pool(latents, scenes)
    while len(pool.latents) < CLIPS_FIRST:
        pool.grow()
    while clock.progress < 1:
        pool.grow()
        x, context = train.dit_batch(torch.stack(pool.latents), train.scene_tokens(pool.scenes), clock.progress)
        loss = loss_of(dit, x, context)
        train.descend(loss, dit, optimizers, clock)
        step += 1
        train.update_average(average, dit, step)
        mean = train.smoothed(mean, loss)
        if clock.due(120) or clock.progress >= 1:
            weights = {"dit": dit.state_dict(), "average": average.state_dict()}
            known = {"latents": pool.latents, "scenes": pool.scenes}
            train.save(weights | known | train.progress_state(step, clock, optimizers), path)
            train.say("hunyuan", clock, step, f"loss {mean:.4f}, {len(pool.latents)} clips")
            train.write_weights(average.state_dict(), options.out / NAME.format("dit"), None)
    train.write_weights(
        refold(comfy.latent_formats.HunyuanVideo().scale_factor), options.out / NAME.format("vae"), None
    )


if __name__ == "__main__":
    main()
