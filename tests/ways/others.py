"""Tiny models of other kinds: images, sound, every parameterisation; of ComfyUI's own classes, with seeded weights.

ComfyUI must be importable (fixture ``pack``) by the time a function is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny_models import fill_buffers, no_chance_values, noise
from torch import Tensor


@dataclass(frozen=True)
class Other:
    """A model and what it is sampled with.

    Attributes:
        supported: class of ``comfy/supported_models.py``.
        config: what detection would find in a checkpoint, but small.
        latent: shape of the latent.
        text: length and width of the prompt's embedding.
        values: makes what nodes add to a prompt, from its seed.
        state_dict: what ``get_model`` wants of a checkpoint.
        cfg: guidance scale.
    """

    supported: str
    config: dict[str, Any]
    latent: tuple[int, ...]
    text: tuple[int, int] = (6, 64)
    values: Callable[[int], dict[str, Any]] = lambda seed: {}
    state_dict: dict[str, Tensor] = field(default_factory=dict)
    cfg: float = 3.0

    def prompt(self, seed: int) -> list[list[Any]]:
        """A prompt as a CLIP node gives it."""
        return [[noise(1, *self.text, seed=seed), self.values(seed)]]

    def prompts(self) -> dict[str, Any]:
        """Arguments of ``tiny_wan.sample``."""
        return {
            "positive": self.prompt(7),
            "negative": self.prompt(8),
            "noise": noise(*self.latent, seed=1),
            "cfg": self.cfg,
        }


_UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
_SECONDS = {
    "embedder.embedding.0.weights": noise(128),
    "embedder.embedding.1.weight": noise(768, 257) / 16,
    "embedder.embedding.1.bias": noise(768) / 16,
}

OTHERS = {
    "Stable Diffusion 1.5": Other("SD15", _UNET, (1, 4, 8, 8)),
    "Stable Video Diffusion": Other(
        "SVD_img2vid",
        {
            **_UNET,
            "in_channels": 8,
            "use_linear_in_transformer": True,
            "adm_in_channels": 768,
            "num_classes": "sequential",
            "use_temporal_attention": True,
            "use_temporal_resblock": True,
            "extra_ff_mix_layer": True,
            "merge_strategy": "learned_with_images",
            "merge_factor": 0.0,
            "video_kernel_size": [3, 1, 1],
            "model_channels": 64,
        },
        (3, 4, 8, 8),  # its frames are a batch
        text=(1, 64),
        values=lambda seed: {"concat_latent_image": noise(3, 4, 8, 8), "augmentation_level": 0.0},
    ),
    "Flux": Other(
        "Flux",
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 64,
            "context_in_dim": 64,
            "hidden_size": 64,
            "mlp_ratio": 2.0,
            "num_heads": 1,
            "depth": 2,
            "depth_single_blocks": 2,
            "axes_dim": [16, 24, 24],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
        },
        (1, 16, 8, 8),
        values=lambda seed: {"pooled_output": noise(1, 64, seed=seed), "guidance": 3.5},
        cfg=1.0,
    ),
    "Qwen-Image": Other(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 3,
            "attention_head_dim": 64,
            "num_attention_heads": 1,
            "joint_attention_dim": 64,
            "axes_dims_rope": (16, 24, 24),
        },
        (1, 16, 1, 8, 8),
    ),
    "Z-Image": Other(
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 256,
            "n_layers": 3,
            "n_refiner_layers": 1,
            "n_heads": 4,
            "n_kv_heads": 4,
            "multiple_of": 32,
            "ffn_dim_multiplier": 2.0,
            "qk_norm": True,
            "cap_feat_dim": 64,
            "axes_dims": [16, 24, 24],
            "axes_lens": [64, 64, 64],
            "rope_theta": 256.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
        },
        (1, 16, 8, 8),
    ),
    "ACE-Step": Other(
        "ACEStep",
        {
            "audio_model": "ace",
            "num_layers": 2,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "mlp_ratio": 2.0,
            "text_embedding_dim": 64,
            "lyric_encoder_vocab_size": 32,
        },
        (1, 8, 16, 24),
        values=lambda seed: {"conditioning_lyrics": torch.arange(5)[None] % 3, "lyrics_strength": 1.0},
    ),
    "Stable Audio": Other(
        "StableAudio",
        {
            "audio_model": "dit1.0",
            "io_channels": 64,
            "embed_dim": 64,
            "cond_token_dim": 768,
            "project_cond_tokens": True,
            "global_cond_dim": 1536,
            "depth": 2,
            "num_heads": 1,
        },
        (1, 64, 24),
        text=(6, 768),
        state_dict={
            f"conditioner.conditioners.seconds_{end}.{name}": weight
            for end in ("start", "total")
            for name, weight in _SECONDS.items()
        },
    ),
}


def load(other: Other) -> Any:
    """A ``ModelPatcher`` as ComfyUI's loader makes it, behind its detection, which knows only the real sizes."""
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    config = getattr(comfy.supported_models, other.supported)(other.config)
    config.set_inference_dtype(torch.float32, None)
    with no_chance_values():
        model = config.get_model(other.state_dict, "").eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.diffusion_model.named_parameters():
        layer = weight.ndim >= 2 and name.endswith("weight")
        torch.nn.init.normal_(
            weight, std=math.sqrt(weight.shape[0] / weight.numel()) if layer else 0.1, generator=generator
        )
        if weight.ndim == 1 and name.endswith(("weight", "gamma")):
            weight.data.mul_(0.3).add_(1)
    fill_buffers(model)
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)
