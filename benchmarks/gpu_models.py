"""Models at their real sizes, with random arguments of a call, for ``gpu.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

HUNYUAN = {
    "in_channels": 16,
    "patch_size": [1, 2, 2],
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "mlp_ratio": 4.0,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "meanflow_sum": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}


@dataclass(frozen=True)
class Model:
    """A model at its real size.

    Attributes:
        path: module and class in ComfyUI.
        config, tiny: arguments of the class; ``tiny`` overrides for a test on a CPU.
        latent: channels, and pixels of a frame and frames of a video per place of the latent.
        arguments: makes the other arguments of a call, for a device and dtype.
    """

    name: str
    path: str
    config: dict[str, Any]
    tiny: dict[str, Any]
    latent: tuple[int, int, int]
    arguments: Callable[[torch.device, torch.dtype], dict[str, Any]]


def text(tokens: int, width: int, **others: tuple[int, ...]) -> Callable[[torch.device, torch.dtype], dict[str, Any]]:
    """A prompt of random tokens, and other random arguments by shape."""

    def arguments(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        shapes = {"context": (1, tokens, width), **others}
        return {name: torch.randn(shape, device=device, dtype=dtype) for name, shape in shapes.items()}

    return arguments


def ltx_text(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {**text(128, 4096)(device, dtype), "attention_mask": torch.ones(1, 128, device=device, dtype=torch.int64)}


def wan(name: str, dim: int, ffn_dim: int, num_heads: int, num_layers: int) -> Model:
    config = {"model_type": "t2v", "dim": dim, "ffn_dim": ffn_dim, "num_heads": num_heads, "num_layers": num_layers}
    tiny = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 3}
    return Model(name, "comfy.ldm.wan.model.WanModel", config, tiny, (16, 8, 4), text(512, 4096))


MODELS = (
    wan("Wan 2.1 1.3B", 1536, 8960, 12, 30),
    wan("Wan 2.1 14B", 5120, 13824, 40, 40),
    Model(
        "HunyuanVideo 13B",
        "comfy.ldm.hunyuan_video.model.HunyuanVideo",
        {**HUNYUAN, "hidden_size": 3072, "num_heads": 24, "depth": 20, "depth_single_blocks": 40},
        {"hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 2},
        (16, 8, 4),
        text(256, 4096, y=(1, 768), guidance=(1,)),
    ),
    Model(
        "LTX-Video 2B",
        "comfy.ldm.lightricks.model.LTXVModel",
        {"num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 64, "cross_attention_dim": 2048},
        {"num_layers": 3, "num_attention_heads": 4, "cross_attention_dim": 256},
        (128, 32, 8),
        ltx_text,
    ),
)
