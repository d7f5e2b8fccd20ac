"""Models at their real sizes, made by ComfyUI's own classes with random weights, for ``gpu.py``."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

HUNYUAN = {
    "in_channels": 16,
    "patch_size": [1, 2, 2],
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 20,
    "depth_single_blocks": 40,
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
LTX2 = {  # what its checkpoints say of it
    "num_layers": 48,
    "num_attention_heads": 32,
    "attention_head_dim": 128,
    "cross_attention_dim": 4096,
    "audio_num_attention_heads": 32,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 2048,
    "caption_channels": 3840,
}
# The form with a table for modulation, which saves 13 of 33 billion weights; how wide the table is hardly matters.
H3 = {"adaln_curve_grid": 1001, "time_embed_dim": 64}


@dataclass(frozen=True)
class Model:
    """A model at its real size, and what it samples.

    Attributes:
        path: module and class in ComfyUI.
        size: of what it samples, for people.
        config, tiny: arguments of the class; ``tiny`` overrides for a test on a CPU.
        latents: shapes; video first, then sound.
        text: tokens and width of a prompt.
        prompt: what else comes with a prompt.
        metadata: whether a checkpoint holds the configuration, for what its tensors do not tell.
    """

    name: str
    size: str
    path: str
    config: dict[str, Any]
    tiny: dict[str, Any]
    latents: tuple[tuple[int, ...], ...]
    text: tuple[int, int]
    prompt: dict[str, Any] = field(default_factory=dict)
    metadata: bool = False

    def shrunk(self) -> Model:
        """The same in small."""
        latents = tuple((*shape[:2], *(min(size, 16) for size in shape[2:])) for shape in self.latents)
        return replace(self, size="tiny", config={**self.config, **self.tiny}, latents=latents)


def wan(name: str, size: str, latent: tuple[int, ...], dim: int, ffn_dim: int, heads: int, layers: int) -> Model:
    config = {"model_type": "t2v", "dim": dim, "ffn_dim": ffn_dim, "num_heads": heads, "num_layers": layers}
    tiny = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 3}
    return Model(name, size, "comfy.ldm.wan.model.WanModel", config, tiny, (latent,), (512, 4096))


AT_480P, AT_720P = (1, 16, 21, 60, 104), (1, 16, 21, 90, 160)
# The quick ones and what most people run first: what no time is left for is left out at the end.
MODELS = (
    wan("Wan 2.1 1.3B", "81 frames of 832 x 480", AT_480P, 1536, 8960, 12, 30),
    Model(
        "MiniMax H3",
        "124 frames of 864 x 480 with sound",
        "comfy.ldm.minimax.model.MiniMaxH3Model",
        H3,
        {"hidden_size": 128, "num_layers": 3, "num_attention_heads": 1, "ffn_hidden_size": 128},
        ((1, 24, 37, 30, 54), (1, 32, 2, 130)),
        (256, 5120),
    ),
    wan("Wan 2.2 14B", "81 frames of 832 x 480", AT_480P, 5120, 13824, 40, 40),
    Model(
        "LTX-2 19B",
        "121 frames of 960 x 544 with sound",
        "comfy.ldm.lightricks.av_model.LTXAVModel",
        LTX2,
        {
            "num_layers": 3,
            "num_attention_heads": 2,
            "cross_attention_dim": 256,
            "audio_num_attention_heads": 2,
            "audio_cross_attention_dim": 128,
        },
        ((1, 128, 16, 17, 30), (1, 8, 126, 16)),
        (256, 7680),
        {"frame_rate": 25},
        metadata=True,
    ),
    Model(
        "Qwen-Image 20B",
        "1328 x 1328",
        "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",
        {"num_layers": 60},
        {"num_layers": 2},
        ((1, 16, 1, 166, 166),),
        (128, 3584),
    ),
    Model(
        "HunyuanVideo 13B",
        "81 frames of 832 x 480",
        "comfy.ldm.hunyuan_video.model.HunyuanVideo",
        HUNYUAN,
        {"hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 2},
        (AT_480P,),
        (256, 4096),
        {"pooled_output": torch.zeros(1, 768), "guidance": 6.0},
    ),
    wan("Wan 2.2 14B", "81 frames of 1280 x 720", AT_720P, 5120, 13824, 40, 40),
)


def patcher(model: Model, dtype: torch.dtype, device: torch.device) -> Any:
    """The model as ComfyUI's loader makes it, a ``ModelPatcher``, all of it on the device from the start.

    Raises:
        RuntimeError: ComfyUI does not know the model by its tensors.
    """
    detection, patching = (importlib.import_module(f"comfy.{name}") for name in ("model_detection", "model_patcher"))
    operations = importlib.import_module("comfy.ops").disable_weight_init
    module, _, name = model.path.rpartition(".")
    network: nn.Module = getattr(importlib.import_module(module), name)(
        **model.config, operations=operations, dtype=dtype, device="meta"
    )
    # The loader looks at names and shapes, so that a checkpoint without contents is enough.
    shapes = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in network.state_dict().items()
    }
    metadata = {"config": json.dumps({"transformer": model.config})} if model.metadata else None
    found = detection.model_config_from_unet(shapes, "", metadata=metadata)
    if found is None:
        raise RuntimeError(f"this ComfyUI does not know {model.name} by its tensors; is it older than the model?")
    found.set_inference_dtype(dtype, None)
    loaded = found.get_model(shapes, "", device=device).to(device)
    randomize(loaded.diffusion_model)
    return patching.ModelPatcher(loaded, load_device=device, offload_device=device)


def randomize(network: nn.Module) -> None:
    """Weights by which a layer keeps the size of what it is given, so that nothing overflows."""
    for weight in network.parameters():
        nn.init.normal_(weight, std=(weight.shape[0] / weight.numel()) ** 0.5 if weight.ndim > 1 else 0.1)
    for buffer in network.buffers():  # frequencies and tables
        if buffer.is_floating_point():
            buffer.copy_(torch.linspace(1, 0, len(buffer)).view(-1, *[1] * (buffer.ndim - 1)).expand(buffer.shape))


def prompt(model: Model, dtype: torch.dtype) -> list[Any]:
    """A prompt of random tokens, as ComfyUI's nodes pass it."""
    context: Tensor = torch.randn((1, *model.text), generator=torch.Generator().manual_seed(0))
    return [[context.to(dtype), dict(model.prompt)]]
