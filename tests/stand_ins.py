"""Tiny stand-ins for the model files that the shipped workflows name, for ComfyUI's own loaders to load.

ComfyUI must be importable (fixture ``comfy_imports``).
"""

from __future__ import annotations

import copy
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import family, found, metadata, state_dict
from torch import Tensor, nn
from ways import others
from ways.others import OTHERS, Other

from demo.comfyui import REPOSITORY
from demo.gallery.__main__ import WORKFLOWS
from demo.gallery.catalogue import RECIPES
from demo.workflow import Json, widgets_of

# A small FLUX.2.
FLUX_2 = Other(
    "Flux2",
    {
        "image_model": "flux2",
        "in_channels": 128,
        "out_channels": 128,
        "vec_in_dim": None,
        "context_in_dim": 64,
        "hidden_size": 64,
        "mlp_ratio": 3.0,
        "num_heads": 1,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [16, 16, 16, 16],
        "theta": 2000,
        "patch_size": 1,
        "qkv_bias": False,
        "guidance_embed": True,
        "txt_ids_dims": [3],
        "global_modulation": True,
        "mlp_silu_act": True,
        "ops_bias": False,
    },
    (1, 128, 4, 4),
)
# Which family's tiny model lies under the name of a file.
DIFFUSION_MODELS: dict[str, str | Other] = {
    "wan2.1_t2v_1.3B_fp16": "WAN21_T2V",
    "wan2.1_t2v_14B_fp8_scaled": "WAN21_T2V",
    "wan2.1_i2v_480p_14B_fp8_scaled": "WAN21_I2V",
    "wan2.2_t2v_high_noise_14B_fp8_scaled": "WAN21_T2V",
    "wan2.2_t2v_low_noise_14B_fp8_scaled": "WAN21_T2V",
    "wan2.2_i2v_high_noise_14B_fp8_scaled": "WAN22_T2V-A14B",
    "wan2.2_i2v_low_noise_14B_fp8_scaled": "WAN22_T2V-A14B",
    "wan2.2_ti2v_5B_fp16": "WAN22_T2V-5B",
    "hunyuanvideo1.5_720p_t2v_fp16": "HunyuanVideo15",
    "ltx-2-19b-dev-fp8": "LTXAV",
    "minimax_h3_fl2va_pruned_int8_convrot": "MiniMaxH3",
    "qwen_image_2512_fp8_e4m3fn": OTHERS["Qwen-Image"],
    "flux2_dev_fp8mixed": FLUX_2,
    "z_image_bf16": OTHERS["Z-Image"],
}
TEXT_ENCODERS = ("CLIPLoader", "DualCLIPLoader", "LTXAVTextEncoderLoader")
# What the tests make in place of seconds of video and of images in full size.
SMALL = {"width": 64, "height": 64, "length": 9, "frames_number": 9}
# Latent channels of the VAEs that ComfyUI's tiny autoencoders stand in for; Wan 2.1's is the demo's own.
VIDEO_VAES = {"wan2.2_vae": 48, "hunyuanvideo15_vae_fp16": 32}
IMAGE_VAES = {"ae": 16}
# Of which there are no small ones, and what they decode.
FULL_SIZE_VAES = {
    "minimax_h3_video_vae_fp16.safetensors": "video",
    "minimax_h3_audio_vae_fp32.safetensors": "sound",
    "flux2-vae.safetensors": "image",
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


def write_all(models: Path) -> None:
    """Writes a stand-in for every model file that a shipped workflow asks for."""
    for recipe in RECIPES:
        for file in files_of(json.loads((WORKFLOWS / f"{recipe.name}.json").read_text(encoding="utf-8"))):
            write(file, models)


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
    if name in ("wan_2.1_vae", "qwen_image_vae"):
        path.symlink_to(REPOSITORY / "demo" / "weights" / "adacache_demo_vae.safetensors")
    elif name in VIDEO_VAES:
        save_file(_seeded(found("comfy.taesd.taehv:TAEHV")(VIDEO_VAES[name])), path)
    elif name in IMAGE_VAES:
        save_file(_seeded(found("comfy.taesd.taesd:TAESD")(latent_channels=IMAGE_VAES[name])), path)
    elif file["directory"] == "checkpoints":
        _write_checkpoint(path)
    elif name in DIFFUSION_MODELS:
        _write_diffusion_model(DIFFUSION_MODELS[name], path)
    elif file["directory"] in ("text_encoders", "clip_vision") or file["name"] in FULL_SIZE_VAES:
        # Only full-size ones can be loaded; nodes of the tests take their place, the files are only listed.
        save_file({"stand_in": torch.zeros(1)}, path)
    else:
        raise KeyError(f"There is no stand-in for {file['directory']}/{file['name']}.")


def runnable(workflow: Json, object_info: Json) -> Json:
    """A copy of a workflow for a small video, with stand-ins where a full-size encoder would be needed."""
    workflow = copy.deepcopy(workflow)
    stems = {Path(file["name"]).stem for file in files_of(workflow)}
    family = DIFFUSION_MODELS[min(stems & DIFFUSION_MODELS.keys())]  # of two experts, either
    for node in workflow["nodes"]:
        kind, values = node["type"], node.get("widgets_values")
        if kind in TEXT_ENCODERS:
            node |= _stand_in("StandInClip", family if isinstance(family, str) else "images")
        elif kind == "VAELoader" and values[0] in FULL_SIZE_VAES:
            node |= _stand_in("StandInVae", FULL_SIZE_VAES[values[0]])
        elif kind == "CLIPVisionEncode":
            node |= {**_stand_in("StandInClipVision"), "inputs": node["inputs"][1:2]}
            [link] = [link for link in workflow["links"] if link[0] == node["inputs"][0]["link"]]
            link[4] = 0
        elif kind in object_info:
            names = [name for name, _ in widgets_of(object_info[kind])]
            if not {"width", "frames_number"}.isdisjoint(names):
                node["widgets_values"] = [SMALL.get(name or "", old) for name, old in zip_longest(names, values)]
    return workflow


def files_of(workflow: Json) -> list[dict[str, str]]:
    """The model files that a workflow's loaders name."""
    return [file for node in workflow["nodes"] for file in node["properties"].get("models", [])]


def _stand_in(kind: str, *values: str) -> Json:
    return {"type": kind, "inputs": [], "widgets_values": [*values], "properties": {}}


def _write_diffusion_model(model: str | Other, path: Path) -> None:
    if isinstance(model, Other):
        # Some sizes are constants of ComfyUI's detection; "shrink" gives it the true ones.
        weights = others.load(model).model.diffusion_model.state_dict()
        save_file(_compact(weights), path, {"shrink": json.dumps(model.config)})
    else:
        row = family(model)
        save_file(_compact(state_dict(row)), path, metadata(row) or None)


def _write_checkpoint(path: Path) -> None:
    """LTX: the model, the VAE, and with LTX-2 the audio VAE in one file."""
    model = DIFFUSION_MODELS[path.stem]
    assert isinstance(model, str)
    row = family(model)
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
