"""Where the blocks and the head of each model family are: one row of data per family, no forward is copied."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

from torch import nn

from .errors import UnsupportedModelError
from .layout import Blocks, Forms, Layout, Stream, Sublayers

_WAN_PARTS = Sublayers(replayed=("self_attn",), cross_attention=("cross_attn",), mlp=(("ffn", "ffn"),))
_WAN = Layout("Wan", "comfy.ldm.wan.model.WanModel", (Blocks("blocks", sublayers=_WAN_PARTS),), (Stream("head"),))

LAYOUTS = (
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
        blocks=(Blocks("blocks", key_value_cache="kv_cache"),),
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


def layout_of(model: nn.Module, layouts: tuple[Layout, ...] = LAYOUTS) -> Layout:
    """The layout of a model, checked against the model itself.

    Raises:
        UnsupportedModelError: the class is not in the table, or the model lacks the modules its row names.
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    layout = next((row for row in layouts if row.model == name), None)
    if layout is None:
        families = ", ".join(row.family for row in layouts)
        raise UnsupportedModelError(
            f"AdaCache: the model is a {name}, which is not a video DiT that AdaCache knows. "
            f"Load one of: {families}; or bypass the AdaCache node."
        )
    try:
        complete = any(True for _ in layout.block_modules(model)) and any(True for _ in layout.head_modules(model))
        patch = _resolved(layout.patch, model)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"AdaCache: {name} has no {error.name!r}; this version of the model is laid out differently. "
            f"Update AdaCache, or bypass the AdaCache node."
        ) from error
    if not complete:
        raise UnsupportedModelError(f"AdaCache: {name} has no blocks in {layout.blocks[0].path!r}; nothing to cache.")
    return layout if patch == layout.patch else replace(layout, patch=patch)


def _resolved(patch: tuple[int | str, ...], model: nn.Module) -> tuple[int, ...]:
    """The patch as three numbers, attributes looked up; an image model's two numbers get one frame."""
    sizes = [attrgetter(size)(model) if isinstance(size, str) else size for size in patch]
    flat = [number or 1 for size in sizes for number in (size if isinstance(size, list | tuple) else (size,))]
    return (1, *flat)[-3:]
