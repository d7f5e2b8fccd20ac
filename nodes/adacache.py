"""The AdaCache node: MODEL in, MODEL that caches out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..adacache_core.paper.codebook import Codebook
from ..adacache_core.paper.measure import MotionRegularization
from ..adacache_core.tokens.choice import TokenRefresh
from .binding import bind
from .settings import CUSTOM, PRESETS, Settings
from .types import Motion, Refresh, Statistics


class AdaCache(io.ComfyNode):
    """Patches a model so that sampling skips the steps whose result is known well enough."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCache",
            display_name="AdaCache",
            category="advanced/model",
            description=(
                "Makes a model sample faster: it runs only at the steps that matter, and the others continue the trend "
                "of its predictions. For any model; connect it between the model loader (and LoRAs) and the sampler."
            ),
            search_aliases=["cache", "speed up", "faster video", "teacache", "easycache", "moreg", "step skipping"],
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion model: video, image or audio."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="balanced",
                    tooltip=(
                        "How much to skip. balanced computes 1 step in 2, quality 2 in 3, fast 1 in 3, placed where "
                        "they matter most; target computes as many as target_speedup asks for. paper-fast and "
                        "paper-slow are the published AdaCache settings, which decide from the video and need a known "
                        "video model; custom is the same with the codebook below."
                    ),
                ),
                io.String.Input(
                    "codebook",
                    default="0.08:6, 0.16:5, 0.24:4, 0.32:3, 0.40:2, 1.00:1",
                    multiline=False,
                    advanced=True,
                    tooltip=(
                        "For preset custom: threshold:rate pairs, thresholds ascending. Where the video changes less "
                        "than a threshold per step, the next compute comes after that many steps."
                    ),
                ),
                io.Float.Input(
                    "target_speedup",
                    default=2.0,
                    min=1.0,
                    max=8.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="For preset target: all steps over computed steps; the time saved comes close to it.",
                ),
                Motion.Input(
                    "moreg",
                    display_name="MoReg",
                    optional=True,
                    tooltip="Motion regularisation from a MoReg Settings node: more compute where things move.",
                ),
                Refresh.Input(
                    "token_refresh",
                    display_name="Token Refresh",
                    optional=True,
                    tooltip="From a Token Refresh node: skipped steps compute a part of the tokens.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the cache; connect it to the sampler."),
                Statistics.Output(
                    "statistics",
                    display_name="statistics",
                    tooltip="What was computed and skipped; connect it to an AdaCache Inspector.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            # Two nodes with equal inputs would share one output otherwise, and so one log.
            not_idempotent=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        preset: str,
        codebook: str = "",
        target_speedup: float = 2.0,
        moreg: MotionRegularization | None = None,
        token_refresh: TokenRefresh | None = None,
    ) -> io.NodeOutput:
        custom = Codebook.parse(codebook) if preset == CUSTOM else None
        settings = Settings(preset, custom, target_speedup, moreg, token_refresh)
        return io.NodeOutput(*bind(model, settings, cls.hidden.unique_id))
