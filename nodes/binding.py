"""Puts a cache on a ComfyUI model: the planned presets' or the paper's."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from . import in_model, predictions
from .other_caches import refuse_second_cache
from .runs import RunLog
from .settings import Settings


def bind(model: ModelPatcher, settings: Settings, node_id: str | None = None) -> tuple[ModelPatcher, RunLog]:
    """A clone of the model that caches while it is sampled, and the log its statistics go to.

    Args:
        model: the loaded model.
        settings: the user's choices.
        node_id: the AdaCache node, for live progress; None without.

    Raises:
        ConfigurationError: the model already has a cache.
        UnsupportedModelError: the paper's presets or Token Refresh, on a model whose blocks are not known.
    """
    log, patched = RunLog(), model.clone()
    road = predictions if settings.planned and settings.token_refresh is None else in_model
    road.add(patched, settings, log, node_id)
    refuse_second_cache(patched, patched.model_options)
    return patched, log
