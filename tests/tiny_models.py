"""Tiny models of every family, made of ComfyUI's own classes and loaded by ComfyUI's own loader.

``FAMILIES`` holds one row per family, named after the class of ``comfy/supported_models.py`` that detection must
choose, with the conditioning that the family's ComfyUI nodes would make. ``load(name)`` gives the ``ModelPatcher``.
ComfyUI must be importable (fixture ``comfy_imports``) by the time a model is loaded; nothing of it is imported before.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@dataclass(frozen=True)
class Family:
    """A family and how to make a tiny one.

    Attributes:
        name: the class of ``comfy/supported_models.py``, and after a ``-`` what is special about this one.
        model: module and class of the diffusion model.
        config: arguments of that class.
        latents: shapes of the latent; video first, then audio.
        grid: frames x rows x columns of video tokens, counted by hand.
        before, after: tokens of the first stream's residual before and after the video's, counted by hand.
        text: length and width of the prompt's embedding.
        metadata: the checkpoint's ``transformer`` configuration, for what its tensors do not tell.
        conditioning: makes what ComfyUI's nodes add to the prompt.
        noise_mask: shape-compatible mask of the latent, 1 where there is something to generate.
        blocks: qualified names of the classes of the main blocks.
        side: classes and methods that only feed the blocks; none may run on a skip.
        cfg: guidance scale; 1 leaves the negative prompt out.
        detected: class that detection chooses, where it is not the name's.
        shrink: sizes that the detection takes from constants, not from the checkpoint.
        stand_ins: methods that take seconds however small the model is, and what to put there while testing.
        frames_per_block: samples autoregressively, this many frames at a time.
        first_frame: the latent that an autoregressive video starts from.
        from_latent: samples from the latent image instead of from noise.
        passes: how often a run goes through all steps, once per block of frames.
        clean_passes: model calls at sigma 0 in a run, which read finished frames.
    """

    name: str
    model: str
    config: dict[str, Any]
    latents: tuple[tuple[int, ...], ...]
    grid: tuple[int, int, int]
    blocks: tuple[str, ...]
    before: int = 0
    after: int = 0
    text: tuple[int, int] = (6, 64)
    metadata: dict[str, Any] | None = None
    conditioning: Callable[[], dict[str, Any]] = dict
    noise_mask: Callable[[], Tensor] | None = None
    side: tuple[str, ...] = ()
    cfg: float = 3.0
    detected: str | None = None
    shrink: dict[str, Any] = field(default_factory=dict)
    stand_ins: dict[str, Callable[..., Any]] = field(default_factory=dict)
    frames_per_block: int | None = None
    first_frame: Callable[[], Tensor] | None = None
    from_latent: bool = False
    passes: int = 1
    clean_passes: int = 0

    @property
    def supported_model(self) -> str:
        """Name of the class of ``comfy/supported_models.py`` that detection must choose."""
        return self.detected or self.name.split("-")[0]


def _wan(name: str, model: str = "model:WanModel", **row: Any) -> Family:
    config = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 3, "text_dim": 64, **row.pop("config", {})}
    metadata = {"text_dim": config["text_dim"], **row.pop("metadata", {})}
    return Family(
        name,
        f"comfy.ldm.wan.{model}",
        config,
        row.pop("latents", ((1, 16, 5, 8, 6),)),
        row.pop("grid", (5, 4, 3)),
        row.pop("blocks", ("comfy.ldm.wan.model:WanAttentionBlock",)),
        metadata=metadata,
        **row,
    )


def _hunyuan(name: str, config: dict[str, Any], **row: Any) -> Family:
    return Family(
        name,
        "comfy.ldm.hunyuan_video.model:HunyuanVideo",
        config,
        row.pop("latents", ((1, 16, 5, 8, 6),)),
        row.pop("grid", (5, 4, 3)),
        ("comfy.ldm.flux.layers:DoubleStreamBlock", "comfy.ldm.flux.layers:SingleStreamBlock"),
        **row,
    )


def _pixart(name: str, **config: Any) -> Family:
    return Family(
        name,
        "comfy.ldm.pixart.pixartms:PixArtMS",
        {**_PIXART, "depth": 3, "model_max_length": 6, **config},
        ((1, 4, 40, 32),),  # positions are numbers only above 32 x 32
        (1, 20, 16),
        ("comfy.ldm.pixart.pixartms:PixArtMSBlock",),
        shrink=_PIXART,
    )


def _image(channels: int = 16, frames: int = 5, rows: int = 8, columns: int = 6) -> dict[str, Any]:
    """A start image as WanImageToVideo sets it: its first frame known, the others not."""
    mask = torch.ones(1, 1, frames, rows, columns)
    mask[:, :, 0] = 0
    return {"concat_latent_image": noise(1, channels, frames, rows, columns), "concat_mask": mask}


def _clip(tokens: int = 257, width: int = 1280) -> SimpleNamespace:
    hidden = noise(1, tokens, width)
    return SimpleNamespace(penultimate_hidden_states=hidden, last_hidden_state=hidden)


def _hunyuan15_text() -> dict[str, Any]:
    return {
        "pooled_output": None,
        "conditioning_byt5small": noise(1, 4, 1472),
        "clip_vision_output": _clip(9, 1152),
    }


class Control:
    """A ControlNet as far as ComfyUI's samplers look at it: residuals for the image tokens of two blocks each."""

    previous_controlnet = None
    extra_hooks = None
    multigpu_clones: ClassVar[dict[Any, Any]] = {}

    def get_control(self, x: Tensor, *args: Any) -> dict[str, list[Tensor]]:
        residuals = [noise(1, 60, 128, seed=seed) for seed in range(4)]
        return {"input": residuals[:2], "output": residuals[2:]}

    def pre_run(self, *args: Any) -> None: ...

    def cleanup(self) -> None: ...

    def get_models(self) -> list[Any]:
        return []

    def get_extra_hooks(self) -> list[Any]:
        return []

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return 0


_WAN_REFERENCES = {"time_dim_concat": noise(1, 16, 1, 8, 6), "context_latents": [noise(1, 16, 1, 4, 6, seed=1)]}
_HUNYUAN = {
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
    "guidance_embed": True,
    "patch_size": [1, 2, 2],
}
_HUNYUAN15 = {
    **_HUNYUAN,
    "in_channels": 65,
    "out_channels": 32,
    "vec_in_dim": None,
    "byt5": True,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
    "guidance_embed": False,
    "patch_size": [1, 1, 1],
}
_LTX = {
    "in_channels": 128,
    "cross_attention_dim": 128,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "caption_channels": 64,
    "num_layers": 3,
}
_LTX_TEXT = {"frame_rate": 25, "attention_mask": torch.ones(1, 6, dtype=torch.long)}
_LTXAV = {
    **_LTX,
    "audio_in_channels": 128,
    "audio_cross_attention_dim": 64,
    "audio_attention_head_dim": 32,
    "audio_num_attention_heads": 2,
    "connector_attention_head_dim": 32,
    "connector_num_attention_heads": 2,
    "connector_num_layers": 1,
}
_MOCHI = {
    "depth": 3,
    "num_heads": 2,
    "hidden_size_x": 64,
    "hidden_size_y": 32,
    "t5_feat_dim": 64,
    "mlp_ratio_x": 192.0,  # the block insists on 12288
}
_COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
}
_PREDICT2 = {**_COSMOS, "model_channels": 192, "crossattn_emb_channels": 1024, "pos_emb_learnable": True}
_COSMOS1 = {
    **_COSMOS,
    "model_channels": 480,
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "num_blocks": 3,
    "num_heads": 40,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_PIXART = {"hidden_size": 96, "num_heads": 2, "caption_channels": 64}
_COG = {
    "num_attention_heads": 1,
    "attention_head_dim": 64,
    "num_layers": 3,
    "time_embed_dim": 32,
    "text_embed_dim": 64,
    "use_rotary_positional_embeddings": True,
}


def _guide_mask() -> Tensor:
    """As LTXVAddGuide leaves it: one guide frame at the end, of which only every second token is there."""
    mask = torch.ones(1, 1, 6, 4, 3)
    mask[:, :, 5] = 0
    mask[:, :, 5, ::2] = -1
    return mask


FAMILIES = (
    _wan("WAN21_T2V", config={"text_dim": 4096}, text=(6, 4096)),
    _wan("WAN21_T2V-references", conditioning=lambda: _WAN_REFERENCES, after=12 + 6),
    _wan(
        "WAN21_I2V",
        config={"model_type": "i2v", "in_dim": 36},
        conditioning=lambda: {**_image(), "clip_vision_output": _clip()},
    ),
    _wan(
        "WAN21_I2V-first-last-frame",
        config={"model_type": "i2v", "in_dim": 36, "flf_pos_embed_token_number": 514},
        conditioning=lambda: {**_image(), "clip_vision_output": _clip(514)},
    ),
    _wan("WAN22_T2V-5B", config={"in_dim": 48, "out_dim": 48}, latents=((1, 48, 5, 8, 6),)),
    _wan(
        "WAN22_T2V-A14B",
        config={"in_dim": 36},
        conditioning=_image,
        detected="WAN21_T2V",
    ),
    _wan(
        "WAN21_Vace",
        "model:VaceWanModel",
        config={"num_layers": 4, "vace_layers": 2, "vace_in_dim": 96},
        conditioning=lambda: {
            "vace_frames": [noise(1, 32, 5, 8, 6)],
            "vace_mask": [noise(1, 64, 5, 8, 6)],
            "vace_strength": [0.7],
        },
        side=("comfy.ldm.wan.model:VaceWanAttentionBlock.forward",),
    ),
    _wan(
        "WAN21_FunControl2V",
        config={"model_type": "i2v", "in_dim": 48, "in_dim_ref_conv": 16},
        conditioning=lambda: {
            "concat_latent_image": noise(1, 32, 5, 8, 6),
            "clip_vision_output": _clip(),
            "reference_latents": [noise(1, 16, 1, 8, 6, seed=2)],
        },
        before=12,
    ),
    _wan(
        "WAN21_Camera",
        "model:CameraWanModel",
        config={"in_dim": 32, "model_type": "camera"},
        conditioning=lambda: {
            "concat_latent_image": noise(1, 16, 5, 8, 6),
            "clip_vision_output": _clip(),
            "camera_conditions": noise(1, 24, 5, 64, 48),
        },
    ),
    _wan(
        "WAN22_Camera",
        "model:CameraWanModel",
        config={"in_dim": 36, "model_type": "camera_2.2"},
        conditioning=lambda: {**_image(), "camera_conditions": noise(1, 24, 5, 64, 48)},
    ),
    _wan(
        "WAN22_S2V",
        "model:WanModel_S2V",
        config={"audio_inject_layers": [0, 2], "audio_dim": 32},
        metadata={"audio_inject_layers": [0, 2], "audio_dim": 32},
        latents=((1, 16, 5, 16, 8),),
        grid=(5, 8, 4),
        conditioning=lambda: {
            "audio_embed": noise(1, 25, 32, 40),
            "reference_latents": [noise(1, 16, 1, 16, 8)],
            "reference_motion": noise(1, 16, 19, 16, 8),
            "control_video": noise(1, 16, 5, 16, 8),
        },
        after=32 + 32 + 8 + 8,  # reference, then motion: one frame, two frames halved, sixteen frames quartered
        side=(
            "comfy.ldm.wan.model:CausalAudioEncoder.forward",
            "comfy.ldm.wan.model:AudioInjector_WAN.forward",
        ),
    ),
    _wan(
        "WAN22_Animate",
        "model_animate:AnimateWanModel",
        config={"in_dim": 36, "num_layers": 5},
        conditioning=lambda: {
            **_image(),
            "clip_vision_output": _clip(),
            "face_video_pixels": noise(1, 3, 8, 16, 16),
            "pose_video_latent": noise(1, 16, 4, 8, 6),
        },
        side=(
            "comfy.ldm.wan.model_animate:Generator.get_motion",
            "comfy.ldm.wan.model_animate:FaceEncoder.forward",
            "comfy.ldm.wan.model_animate:FaceBlock.forward",
        ),
        # The real one reads images of 512 x 512.
        stand_ins={"comfy.ldm.wan.model_animate:Generator.get_motion": lambda self, image: image.flatten(1)[:, :512]},
    ),
    _wan(
        "WAN21_HuMo",
        "model:HumoWanModel",
        config={"in_dim": 36},
        conditioning=lambda: {
            "audio_embed": noise(1, 5, 8, 5, 1280),
            "reference_latents": [noise(1, 16, 1, 8, 6)],
        },
        after=12,
        blocks=("comfy.ldm.wan.model:WanAttentionBlockAudio",),
        side=("comfy.ldm.wan.model:AudioProjModel.forward",),
    ),
    _wan(
        "WAN21_SCAIL",
        "model:SCAILWanModel",
        config={"in_dim": 20},
        latents=((1, 16, 5, 8, 4),),
        grid=(5, 4, 2),
        conditioning=lambda: {
            "clip_vision_output": _clip(),
            "reference_latents": [noise(1, 16, 1, 8, 4)],
            "pose_video_latent": noise(1, 16, 5, 4, 2),
        },
        before=8,
        after=10,
    ),
    _wan(
        "WAN21_SCAIL2",
        "model:SCAIL2WanModel",
        config={"in_dim": 20},
        latents=((1, 16, 5, 8, 4),),
        grid=(5, 4, 2),
        conditioning=lambda: {
            "clip_vision_output": _clip(),
            "reference_latents": [noise(1, 16, 1, 8, 4), noise(1, 16, 1, 8, 4, seed=1)],
            "pose_video_latent": noise(1, 16, 5, 4, 2),
            "driving_mask_28ch": noise(1, 5, 28, 4, 2),
            "ref_mask_28ch": noise(1, 7, 28, 8, 4),
        },
        before=16,
        after=10,
    ),
    _wan("WAN21_FlowRVS", metadata={"model_type": "flow_rvs"}, from_latent=True),
    _wan(
        "WAN22_WanDancer",
        "model_wandancer:WanDancerModel",
        config={"in_dim": 36, "audio_inject_layers": [0, 2]},
        metadata={"audio_inject_layers": [0, 2]},
        latents=((1, 16, 5, 8, 8),),
        grid=(5, 4, 4),
        conditioning=lambda: {
            **_image(columns=8),
            "clip_vision_output": _clip(),
            "clip_vision_output_ref": _clip(),
            "audio_embed": noise(1, 50, 35),
        },
        side=(
            "comfy.ldm.wan.model_wandancer:MusicEncoderLayer.forward",
            "comfy.ldm.wan.model:AudioInjector_WAN.forward",
        ),
    ),
    _wan(
        "WAN22_WanDancer-global-head",
        "model_wandancer:WanDancerModel",
        config={"in_dim": 36, "audio_inject_layers": [0, 2]},
        metadata={"audio_inject_layers": [0, 2]},
        latents=((1, 16, 5, 8, 8),),
        grid=(5, 4, 4),
        conditioning=lambda: {**_image(columns=8), "audio_embed": noise(1, 50, 35), "fps": 16.0},
        side=("comfy.ldm.wan.model:AudioInjector_WAN.forward",),
    ),
    _wan(
        "WAN21_CausalAR_T2V",
        "ar_model:CausalWanModel",
        metadata={"causal_ar": True},
        grid=(2, 4, 3),
        blocks=("comfy.ldm.wan.ar_model:CausalWanAttentionBlock",),
        cfg=1.0,
        frames_per_block=2,
        passes=3,  # of two, two and one frames
        clean_passes=3,
    ),
    _wan(
        "WAN21_CausalAR_T2V-image",
        "ar_model:CausalWanModel",
        metadata={"causal_ar": True},
        grid=(2, 4, 3),
        blocks=("comfy.ldm.wan.ar_model:CausalWanAttentionBlock",),
        cfg=1.0,
        frames_per_block=2,
        first_frame=lambda: noise(1, 16, 1, 8, 6),
        passes=2,
        clean_passes=3,
    ),
    _hunyuan(
        "HunyuanVideo",
        {**_HUNYUAN, "in_channels": 16},
        conditioning=lambda: {"pooled_output": noise(1, 768)},
    ),
    _hunyuan(
        "HunyuanVideo-reference",
        {**_HUNYUAN, "in_channels": 16},
        conditioning=lambda: {"pooled_output": noise(1, 768), "ref_latent": noise(1, 16, 1, 8, 6)},
        cfg=1.0,  # ComfyUI writes into positions that a batch shares, which torch refuses
    ),
    _hunyuan(
        "HunyuanVideo-ControlNet",
        {**_HUNYUAN, "in_channels": 16},
        conditioning=lambda: {
            "pooled_output": noise(1, 768),
            "control": Control(),
            "control_apply_to_uncond": True,
        },
        side=("tiny_models:Control.get_control",),
    ),
    _hunyuan(
        "HunyuanVideoI2V",
        {**_HUNYUAN, "in_channels": 33},
        conditioning=lambda: {"pooled_output": noise(1, 768), "guiding_frame_index": 0, **_image()},
    ),
    _hunyuan(
        "HunyuanVideoSkyreelsI2V",
        {**_HUNYUAN, "in_channels": 32},
        conditioning=lambda: {"pooled_output": noise(1, 768), **_image()},
    ),
    _hunyuan(
        "HunyuanVideo15",
        _HUNYUAN15,
        latents=((1, 32, 5, 8, 6),),
        grid=(5, 8, 6),
        conditioning=lambda: {**_image(32), **_hunyuan15_text()},
    ),
    _hunyuan(
        "HunyuanVideo15_SR_Distilled",
        {**_HUNYUAN15, "in_channels": 98, "meanflow": True},
        latents=((1, 32, 5, 8, 6),),
        grid=(5, 8, 6),
        # The start image, its mask, and the small video to make larger.
        conditioning=lambda: {"concat_latent_image": noise(1, 32 + 1 + 32 + 1, 5, 8, 6), **_hunyuan15_text()},
        cfg=1.0,
    ),
    Family(
        "LTXV",
        "comfy.ldm.lightricks.model:LTXVModel",
        _LTX,
        ((1, 128, 5, 4, 3),),
        (5, 4, 3),
        ("comfy.ldm.lightricks.model:BasicTransformerBlock",),
        metadata=_LTX,
        conditioning=lambda: _LTX_TEXT,
    ),
    Family(
        "LTXV-keyframes",
        "comfy.ldm.lightricks.model:LTXVModel",
        _LTX,
        ((1, 128, 6, 4, 3),),
        (5, 4, 3),
        ("comfy.ldm.lightricks.model:BasicTransformerBlock",),
        metadata=_LTX,
        conditioning=lambda: {**_LTX_TEXT, "keyframe_idxs": noise(1, 3, 12, 2).abs()},
        noise_mask=_guide_mask,
        after=6,
    ),
    Family(
        "LTXAV",
        "comfy.ldm.lightricks.av_model:LTXAVModel",
        _LTXAV,
        ((1, 128, 5, 4, 3), (1, 8, 7, 16)),
        (5, 4, 3),
        ("comfy.ldm.lightricks.av_model:BasicAVTransformerBlock",),
        text=(6, 128),
        metadata=_LTXAV,
        conditioning=lambda: _LTX_TEXT,
    ),
    Family(
        "LTXAV-reference-audio",
        "comfy.ldm.lightricks.av_model:LTXAVModel",
        _LTXAV,
        ((1, 128, 5, 4, 3), (1, 8, 7, 16)),
        (5, 4, 3),
        ("comfy.ldm.lightricks.av_model:BasicAVTransformerBlock",),
        text=(6, 128),
        metadata=_LTXAV,
        conditioning=lambda: {**_LTX_TEXT, "ref_audio": {"tokens": noise(1, 4, 128)}},
    ),
    Family(
        "CosmosT2IPredict2",
        "comfy.ldm.cosmos.predict2:MiniTrainDIT",
        {**_PREDICT2, "in_channels": 16},
        ((1, 16, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.cosmos.predict2:Block",),
        text=(6, 1024),
    ),
    Family(
        "CosmosI2VPredict2",
        "comfy.ldm.cosmos.predict2:MiniTrainDIT",
        {**_PREDICT2, "in_channels": 17},
        ((1, 16, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.cosmos.predict2:Block",),
        text=(6, 1024),
        noise_mask=lambda: _image()["concat_mask"],
    ),
    Family(
        "CosmosT2V",
        "comfy.ldm.cosmos.model:GeneralDIT",
        {**_COSMOS1, "in_channels": 16},
        ((1, 16, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.cosmos.blocks:GeneralDITTransformerBlock",),
        text=(6, 1024),
        shrink={"num_blocks": 3},
    ),
    Family(
        "CosmosI2V",
        "comfy.ldm.cosmos.model:GeneralDIT",
        {**_COSMOS1, "in_channels": 17},
        ((1, 16, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.cosmos.blocks:GeneralDITTransformerBlock",),
        text=(6, 1024),
        noise_mask=lambda: _image()["concat_mask"],
        shrink={"num_blocks": 3},
    ),
    Family(
        "CogVideoX_T2V",
        "comfy.ldm.cogvideo.model:CogVideoXTransformer3DModel",
        _COG,
        ((1, 16, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.cogvideo.model:CogVideoXBlock",),
    ),
    Family(
        "CogVideoX_I2V",
        "comfy.ldm.cogvideo.model:CogVideoXTransformer3DModel",
        {**_COG, "in_channels": 32, "patch_size_t": 2, "ofs_embed_dim": 32},
        ((1, 16, 5, 8, 6),),
        (3, 4, 3),
        ("comfy.ldm.cogvideo.model:CogVideoXBlock",),
        conditioning=lambda: {"concat_latent_image": noise(1, 16, 5, 8, 6)},
    ),
    Family(
        "CogVideoX_Inpaint",
        "comfy.ldm.cogvideo.model:CogVideoXTransformer3DModel",
        {**_COG, "in_channels": 48, "patch_size_t": 2},
        ((1, 16, 5, 8, 6),),
        (3, 4, 3),
        ("comfy.ldm.cogvideo.model:CogVideoXBlock",),
        conditioning=lambda: {"concat_latent_image": noise(1, 32, 5, 8, 6)},
    ),
    Family(
        "Kandinsky5",
        "comfy.ldm.kandinsky5.model:Kandinsky5",
        {
            "model_dim": 64,
            "ff_dim": 128,
            "time_dim": 32,
            "visual_embed_dim": 132,
            "num_text_blocks": 1,
            "num_visual_blocks": 3,
        },
        ((1, 16, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.kandinsky5.model:TransformerDecoderBlock",),
        text=(6, 3584),
        conditioning=lambda: {"pooled_output": noise(1, 768), "time_dim_replace": noise(1, 16, 1, 8, 6)},
    ),
    Family(
        "GenmoMochi",
        "comfy.ldm.genmo.joint_model.asymm_models_joint:AsymmDiTJoint",
        {
            **_MOCHI,
            "patch_size": 2,
            "in_channels": 12,
            "mlp_ratio_y": 4.0,
            "use_t5": True,
            "learn_sigma": False,
            "qk_norm": True,
            "qkv_bias": False,
            "out_bias": True,
            "attn_drop": 0.0,
            "timestep_scale": 1000.0,
        },
        ((1, 12, 5, 8, 6),),
        (5, 4, 3),
        ("comfy.ldm.genmo.joint_model.asymm_models_joint:AsymmetricJointBlock",),
        text=(256, 64),
        conditioning=lambda: {"attention_mask": torch.ones(1, 256, dtype=torch.long)},
        shrink=_MOCHI,
    ),
    Family(
        "MiniMaxH3",
        "comfy.ldm.minimax.model:MiniMaxH3Model",
        {
            "hidden_size": 64,
            "num_layers": 3,
            "token_refiner_num_layers": 1,
            "num_attention_heads": 1,
            "attention_head_dim": 128,
            "ffn_hidden_size": 128,
            "text_dim": 48,
            "timestep_input_dim": 32,
            "time_embed_hidden_size": 64,
            "time_embed_dim": 32,
        },
        ((1, 24, 5, 8, 6), (1, 32, 2, 7)),
        (5, 4, 3),
        ("comfy.ldm.minimax.model:DiTBlock",),
        text=(6, 48),
        conditioning=lambda: {
            "minimax_keyframes": [{"resolved_frame_index": 0, "latent": noise(1, 24, 1, 8, 6)}],
        },
        before=6 + 12 + 14,  # text, keyframe, two channels of audio
    ),
    _pixart("PixArtAlpha", micro_condition=True),
    _pixart("PixArtSigma", micro_condition=False),
)


def family(name: str) -> Family:
    """The row of that name."""
    return next(row for row in FAMILIES if row.name == name)


def found(path: str) -> Any:
    """What ``module:Class.method`` names."""
    module, _, name = path.partition(":")
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


@contextmanager
def no_chance_values() -> Iterator[None]:
    """Memory that a class asks for and leaves empty is NaN here, not what lay there before: it shows at once."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def fill_buffers(model: nn.Module) -> None:
    """Fill what only a checkpoint fills beside the weights: the frequencies of rotary positions.

    Raises:
        ValueError: a value is not finite, so that nothing has filled it.
    """
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.copy_(10000 ** -torch.linspace(0, 0.9, len(buffer)))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.isfinite().all():
            raise ValueError(f"nothing fills {name}")


def state_dict(row: Family) -> dict[str, Tensor]:
    """Seeded weights for a family: each layer keeps the size of what it is given, norms near 1, gates not near 0."""
    operations = importlib.import_module("comfy.ops").disable_weight_init
    # Dtype and device are given, as ComfyUI does, since some classes take them for layers that they make themselves.
    with no_chance_values():
        model: nn.Module = found(row.model)(**row.config, operations=operations, dtype=torch.float32, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        layer = weight.ndim >= 2 and name.endswith("weight")
        size = weight.shape[0] / weight.numel() if layer else 0.1
        torch.nn.init.normal_(weight, std=math.sqrt(size), generator=generator)
        if weight.ndim == 1 and name.endswith("weight"):
            weight.data.mul_(0.3).add_(1)
    fill_buffers(model)
    return model.state_dict()


def metadata(row: Family) -> dict[str, str]:
    """The checkpoint's metadata; ``shrink`` is what ComfyUI's detection would have to be told (see ``load``)."""
    found = {} if row.metadata is None else {"config": json.dumps({"transformer": row.metadata})}
    return {**found, "shrink": json.dumps(row.shrink)} if row.shrink else found


def load(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A tiny model of a family as a ``ModelPatcher``, through ComfyUI's detection and loader."""
    row = family(name)
    weights = state_dict(row)
    detection = importlib.import_module("comfy.model_detection")
    detect = detection.detect_unet_config

    def detect_shrunk(*args: Any, **kwargs: Any) -> Any:
        # Some sizes are constants of the detection, of 10 billion parameters.
        return {**detect(*args, **kwargs), **row.shrink}

    try:
        if row.shrink:
            detection.detect_unet_config = detect_shrunk
        patcher = importlib.import_module("comfy.sd").load_diffusion_model_state_dict(
            weights, model_options={"dtype": dtype, **options}, metadata=metadata(row)
        )
    finally:
        detection.detect_unet_config = detect
    assert type(patcher.model.model_config).__name__ == row.supported_model
    return patcher


def sample(patcher: Any, row: Family, steps: int, seed: int = 1) -> Tensor:
    """Sample a family with Euler, or autoregressively; latents of video and audio come back as one flat tensor."""
    samplers, sampling = importlib.import_module("comfy.samplers"), importlib.import_module("comfy.sample")
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    starts = [noise(*shape, seed=seed) for shape in row.latents]
    latents = starts if row.from_latent else [torch.zeros_like(start) for start in starts]
    conditions = [[[noise(1, *row.text, seed=seed), row.conditioning()]] for seed in (7, 8)]
    sampler = samplers.ksampler("euler")
    if row.frames_per_block is not None:
        sampler = samplers.ksampler("ar_video", {"num_frame_per_block": row.frames_per_block})
    if row.first_frame is not None:
        patcher = patcher.clone()
        patcher.model_options["transformer_options"]["ar_config"] = {"initial_latent": row.first_frame()}
    samples = sampling.sample_custom(
        patcher,
        starts[0] if len(starts) == 1 else nested(starts),
        row.cfg,
        sampler,
        samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", steps),
        *conditions,
        latents[0] if len(starts) == 1 else nested(latents),
        noise_mask=None if row.noise_mask is None else row.noise_mask(),
        disable_pbar=True,
        seed=seed,
    )
    return torch.cat([part.flatten() for part in samples.unbind()]) if len(starts) > 1 else samples
