"""ComfyUI's EasyCache at real sizes, for ``gpu.py``: the model in ComfyUI's own loader and sampler."""

from __future__ import annotations

import statistics
import time
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from torch import Tensor, nn

from adacache_core.inside.layout import Layout


def easycache(
    network: nn.Module, layout: Layout, latent: Tensor, arguments: dict[str, Any], steps: int
) -> dict[str, Any]:
    """One run at the node's defaults.

    Args:
        network: the model, whose weights ComfyUI loads once more.
        layout: where its blocks are.
        latent: ``[1, C, T, H, W]``, on the device and of the dtype to sample with.
        arguments: the other arguments of a model call, by name.
        steps: sampling steps.
    """
    model = comfy.sd.load_diffusion_model_state_dict(network.state_dict(), model_options={"dtype": latent.dtype})
    (patched,) = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args
    loaded = model.model.diffusion_model
    _, block = next(layout.block_modules(loaded))
    ran: list[bool] = []
    seconds: dict[bool, list[float]] = {True: [], False: []}
    hook = block.register_forward_pre_hook(lambda *_: ran.append(True))
    prompt = [[arguments["context"], {**arguments, "pooled_output": arguments.get("y")}]]

    def callback(*_: Any) -> None:
        if latent.device.type == "cuda":
            torch.cuda.synchronize(latent.device)
        now = time.perf_counter()
        seconds[bool(ran)].append(now - last.pop())
        ran.clear()
        last.append(now)

    last = [time.perf_counter()]
    comfy.sample.sample_custom(
        patched,
        latent.float().cpu(),
        1.0,
        comfy.samplers.ksampler("euler"),
        torch.linspace(1, 0, steps + 1),
        prompt,
        prompt,
        torch.zeros(latent.shape),
        callback=callback,
        disable_pbar=True,
        seed=0,
    )
    hook.remove()
    return {
        "preset": "EasyCache",
        "steps": steps,
        "computed_steps": len(seconds[True]),
        "seconds": sum(seconds[True] + seconds[False]),
        "computed_step_seconds": statistics.median(seconds[True]),
        "skipped_step_seconds": statistics.median(seconds[False]) if seconds[False] else None,
    }
