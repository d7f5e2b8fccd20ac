"""Rows of models that the paper measured on and that are no part of an application.

``layout_of(model, LIBRARY)`` finds the row of a model; ``paper.run.ResidualRun`` samples it.
"""

from __future__ import annotations

from .layout import Blocks, Layout, Stream, Sublayers

_PARTS = Sublayers(replayed=("attn",), cross_attention=("cross_attn",), mlp=(("mlp", "mlp"),))

LIBRARY = (
    Layout(
        family="DiT",  # images
        model="diffusers.models.transformers.dit_transformer_2d.DiTTransformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out"),),
        patch=(1, "patch_size", "patch_size"),
    ),
    Layout(
        family="Latte",
        model="diffusers.models.transformers.latte_transformer_3d.LatteTransformer3DModel",
        # They take turns; the embedding of the frames' places is added after the first spatial one.
        blocks=(Blocks("transformer_blocks"), Blocks("temporal_transformer_blocks")),
        streams=(Stream("norm_out"),),
        patch=(1, "config.patch_size", "config.patch_size"),
        frames_in_batch=True,
    ),
    Layout(
        family="Open-Sora 1.2",  # see docs/opensora.md
        model="opensora.models.stdit.stdit3.STDiT3",
        blocks=(Blocks("spatial_blocks", sublayers=_PARTS), Blocks("temporal_blocks", sublayers=_PARTS)),
        streams=(Stream("final_layer"),),
        patch=("patch_size",),
    ),
)
