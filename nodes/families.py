"""Where the blocks and the head of each model family are: one row of data per family, no forward is copied.

For what works inside of a model: the paper's presets and Token Refresh. The planned presets need no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..adacache_core import UnsupportedModelError
from ..adacache_core.inside import layout as inside
from ..adacache_core.inside.layout import Blocks, Forms, Layout, Stream, Sublayers


def _advance_key_value_cache(arguments: Mapping[str, Any], hidden: Tensor) -> None:
    """The model takes back what a block wrote before it writes the same frames again, also where it was skipped."""
    cache = arguments.get("kv_cache")
    if cache is not None:
        cache["end"] += hidden.shape[1]


_WAN_PARTS = Sublayers(replayed=("self_attn",), cross_attention=("cross_attn",), mlp=(("ffn", "ffn"),))
_WAN = Layout("Wan", "comfy.ldm.wan.model.WanModel", (Blocks("blocks", sublayers=_WAN_PARTS),), (Stream("head"),))

FAMILIES = (
    # ref_conv of FunControl puts one frame first; context_latents and time_dim_concat come last.
    replace(_WAN, family="Wan 2.1 / 2.2", references_before=("reference_latent",)),
    replace(_WAN, family="Wan camera", model="comfy.ldm.wan.model.CameraWanModel"),
    replace(
        _WAN,
        family="Wan VACE",
        model="comfy.ldm.wan.model.VaceWanModel",
        blocks=(
            Blocks("blocks", sublayers=_WAN_PARTS),
            Blocks("vace_blocks", returns=(None, 0), sublayers=_WAN_PARTS),
        ),
    ),
    replace(
        _WAN,
        family="Wan Animate",
        model="comfy.ldm.wan.model_animate.AnimateWanModel",
        references_before=("reference_latent",),
        unneeded=("face_pixel_values",),
    ),
    replace(_WAN, family="Wan S2V", model="comfy.ldm.wan.model.WanModel_S2V", unneeded=("audio_embed",)),
    replace(_WAN, family="HuMo", model="comfy.ldm.wan.model.HumoWanModel", unneeded=("audio_embed",)),
    replace(_WAN, family="SCAIL", model="comfy.ldm.wan.model.SCAILWanModel", references_before=("reference_latent",)),
    replace(
        _WAN, family="SCAIL-2", model="comfy.ldm.wan.model.SCAIL2WanModel", references_before=("reference_latent",)
    ),
    replace(
        _WAN,
        family="WanDancer",
        model="comfy.ldm.wan.model_wandancer.WanDancerModel",
        streams=(Stream("head", other_head="head_global"),),
        references_before=("reference_latent",),
        unneeded=("audio_embed",),
    ),
    replace(
        _WAN,
        family="Wan autoregressive",
        model="comfy.ldm.wan.ar_model.CausalWanModel",
        blocks=(Blocks("blocks", on_skip=_advance_key_value_cache),),
    ),
    Layout(
        family="HunyuanVideo / 1.5",
        model="comfy.ldm.hunyuan_video.model.HunyuanVideo",
        blocks=(
            Blocks(
                "double_blocks",
                returns=("img", "txt"),
                sublayers=Sublayers(
                    replayed=("img_attn.proj",),
                    replayed_text=("txt_attn.proj", "txt_mlp"),
                    silent=("img_attn.qkv", "txt_attn.qkv"),
                    mlp=(("img_mlp", "img_mlp"),),
                ),
            ),
            Blocks(
                "single_blocks",
                sublayers=Sublayers(mlp=(("linear1", "linear2"),), keeps_attention=True, text_first=True),
            ),
        ),
        streams=(Stream("final_layer", argument="img", loses_first_tokens=True),),
        patch=("patch_size",),
    ),
    Layout(
        family="LTX-Video",
        model="comfy.ldm.lightricks.model.LTXVModel",
        blocks=(
            Blocks(
                "transformer_blocks",
                sublayers=Sublayers(replayed=("attn1",), cross_attention=("attn2",), mlp=(("ff", "ff"),)),
            ),
        ),
        streams=(Stream("norm_out"),),
        patch=(1, 1, 1),
        guides="keyframe_idxs",
    ),
    Layout(
        family="LTX-2",
        model="comfy.ldm.lightricks.av_model.LTXAVModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", item=0), Stream("audio_norm_out", item=1, loses_first_tokens=True)),
        patch=(1, 1, 1),
        guides="keyframe_idxs",
        prefetches=True,
    ),
    Layout(
        family="Mochi",
        model="comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",
        blocks=(Blocks("blocks", returns=(0, 2)),),
        streams=(Stream("final_layer"),),
    ),
    Layout(
        family="Cosmos Predict2",
        model="comfy.ldm.cosmos.predict2.MiniTrainDIT",
        blocks=(Blocks("blocks"),),
        streams=(Stream("final_layer", forms=Forms("b t h w c", "b t h w c", "b (t h w) c")),),
    ),
    Layout(
        family="Cosmos",
        model="comfy.ldm.cosmos.model.GeneralDIT",
        blocks=(Blocks("blocks"),),
        streams=(Stream("final_layer", forms=Forms("t h w b c", "(b t) (h w) c", "b (t h w) c")),),
    ),
    Layout(
        family="CogVideoX",
        model="comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",
        blocks=(
            Blocks(
                "blocks",
                returns=("hidden_states", "encoder_hidden_states"),
                sublayers=Sublayers(
                    replayed=("attn_out",), silent=("q", "k", "v"), mlp=(("ff_proj", "ff_out"),), text_first=True
                ),
            ),
        ),
        streams=(Stream("norm_final", argument="hidden_states"),),
        patch=("patch_size_t", "patch_size", "patch_size"),
    ),
    Layout(
        family="Kandinsky 5",
        model="comfy.ldm.kandinsky5.model.Kandinsky5",
        blocks=(Blocks("visual_transformer_blocks"),),
        streams=(Stream("out_layer", forms=Forms("b (t h w) c", "b t h w c", "b (t h w) c")),),
    ),
    Layout(
        family="MiniMax H3",
        model="comfy.ldm.minimax.model.MiniMaxH3Model",
        blocks=(Blocks("blocks"),),
        streams=(Stream("final_layer", forms=Forms("n c", "n c", "1 n c")),),
        video_last=True,
        prefetches=True,
    ),
    Layout(
        family="PixArt",  # images; among these since Token Refresh was published on it
        model="comfy.ldm.pixart.pixartms.PixArtMS",
        blocks=(
            Blocks(
                "blocks",
                sublayers=Sublayers(replayed=("attn",), cross_attention=("cross_attn",), mlp=(("mlp", "mlp"),)),
            ),
        ),
        streams=(Stream("final_layer"),),
        patch=(1, "patch_size", "patch_size"),
    ),
)


def layout_of(model: nn.Module) -> Layout:
    """The layout of a model, checked against the model itself.

    Raises:
        UnsupportedModelError: the class is not in the table, or the model lacks the modules its row names.
    """
    try:
        return inside.layout_of(model, FAMILIES)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{error} The presets paper-fast, paper-slow and custom, and Token Refresh with any preset, work inside of "
            f"a model and need to know it. Choose balanced, quality, fast or target without Token Refresh: they work "
            f"on any model."
        ) from error


def require_sublayers(layout: Layout) -> None:
    """Raises ``UnsupportedModelError`` where Token Refresh does not know the parts of a family's blocks."""
    if not any(blocks.sublayers for blocks in layout.blocks):
        families = ", ".join(row.family for row in FAMILIES if any(blocks.sublayers for blocks in row.blocks))
        raise UnsupportedModelError(
            f"Token Refresh: the model is a {layout.family}, whose blocks it does not know in parts. It works with: "
            f"{families}. Remove the Token Refresh node, or load one of these."
        )
