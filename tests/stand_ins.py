"""Tiny stand-ins for the model files that the shipped workflows name, for ComfyUI's own loaders to load.

ComfyUI must be importable (fixture ``comfy_imports``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import family, found, metadata, state_dict
from torch import Tensor, nn

from demo.comfyui import REPOSITORY

# Which family's tiny model lies under the name of a file.
DIFFUSION_MODELS = {
    "wan2.1_t2v_1.3B_fp16": "WAN21_T2V",
    "wan2.1_t2v_14B_fp8_scaled": "WAN21_T2V",
    "wan2.1_i2v_480p_14B_fp8_scaled": "WAN21_I2V",
    "wan2.2_t2v_high_noise_14B_fp8_scaled": "WAN21_T2V",
    "wan2.2_t2v_low_noise_14B_fp8_scaled": "WAN21_T2V",
    "wan2.2_i2v_high_noise_14B_fp8_scaled": "WAN22_T2V-A14B",
    "wan2.2_i2v_low_noise_14B_fp8_scaled": "WAN22_T2V-A14B",
    "wan2.2_ti2v_5B_fp16": "WAN22_T2V-5B",
    "hunyuanvideo1.5_720p_t2v_fp16": "HunyuanVideo15",
    "mochi_preview_fp8_scaled": "GenmoMochi",
    "cosmos_predict2_2B_video2world_480p_16fps": "CosmosI2VPredict2",
    "kandinsky5lite_t2v_sft_5s": "Kandinsky5",
    "void_pass1": "CogVideoX_Inpaint",
    "ltx-video-2b-v0.9.5": "LTXV",
    "ltx-2-19b-dev-fp8": "LTXAV",
}
# Latent channels of the VAEs that ComfyUI's tiny autoencoder stands in for; Wan 2.1's is the demo's own.
VAES = {
    "wan2.2_vae": 48,
    "hunyuanvideo15_vae_fp16": 32,
    "hunyuan_video_vae_bf16": 16,
    "cogvideox_vae": 16,
    "mochi_vae": 12,
}
# Configurations of LTX, which its checkpoints carry.
LTX_VAE: dict[str, Any] = {
    "dims": 3,
    "latent_channels": 128,
    "blocks": [["res_x", 1], *[["compress_all", 1], ["res_x", 1]] * 3],
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "patch_size": 4,
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
}
AUDIO: dict[str, Any] = {
    "audio_vae": {
        "model": {
            "params": {
                "sampling_rate": 16000,
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": 64,
                    "z_channels": 8,
                    "resolution": 256,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": 4,
                    "ch_mult": [1, 2, 4],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
            }
        }
    },
    "vocoder": {"upsample_initial_channel": 32},
}


def write(file: dict[str, str], models: Path) -> None:
    """Writes the stand-in for a model file.

    Args:
        file: name, url and directory, as a loader of a workflow has them.
        models: the folder of ComfyUI's model folders.
    """
    path = models / file["directory"] / file["name"]
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.stem
    if name == "wan_2.1_vae":
        path.symlink_to(REPOSITORY / "demo" / "weights" / "adacache_demo_vae.safetensors")
    elif name in VAES:
        save_file(_seeded(found("comfy.taesd.taehv:TAEHV")(VAES[name])), path)
    elif file["directory"] == "checkpoints":
        _write_checkpoint(path)
    elif name in DIFFUSION_MODELS:
        row = family(DIFFUSION_MODELS[name])
        save_file(_compact(state_dict(row)), path, metadata(row) or None)
    elif file["directory"] in ("text_encoders", "clip_vision"):
        # Only full-size encoders can be loaded; nodes of the tests take their place, the files are only listed.
        save_file({"stand_in": torch.zeros(1)}, path)
    else:
        raise KeyError(f"There is no stand-in for {file['directory']}/{file['name']}.")


def _write_checkpoint(path: Path) -> None:
    """LTX: the model, the VAE, and with LTX-2 the audio VAE in one file."""
    row = family(DIFFUSION_MODELS[path.stem])
    weights = {f"model.diffusion_model.{name}": weight for name, weight in state_dict(row).items()}
    vae = found("comfy.ldm.lightricks.vae.causal_video_autoencoder:VideoVAE")(config=LTX_VAE)
    weights |= {f"vae.{name}": weight for name, weight in _seeded(vae).items()}
    config: dict[str, Any] = {"transformer": row.metadata, "vae": LTX_VAE}
    if row.name == "LTXAV":
        config |= AUDIO
        audio = found("comfy.ldm.lightricks.vae.audio_vae:AudioVAE")({"config": json.dumps(AUDIO)})
        for name, weight in _seeded(audio).items():
            weights[name.replace("autoencoder.", "audio_vae.")] = weight
    save_file(_compact(weights), path, {"config": json.dumps(config)})


def _seeded(module: nn.Module) -> dict[str, Tensor]:
    """Small seeded weights: ComfyUI's layers come without any."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(w.shape, generator=generator) * 0.02 for name, w in module.state_dict().items()}


def _compact(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.contiguous() for name, weight in weights.items()}
