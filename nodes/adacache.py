"""The AdaCache node: MODEL in, MODEL that caches out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..adacache_core import PRESETS, Calibration, Codebook, MotionRegularization, TokenRefresh
from ._binding import SAME_DEVICE, SYSTEM_MEMORY, CacheSettings, bind
from .types import Calibrated, Motion, Refresh, Statistics, percent


class AdaCache(io.ComfyNode):
    """Patches a video model so that sampling skips the steps whose result is known well enough."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCache",
            display_name="AdaCache",
            category="advanced/model",
            description=(
                "Makes a video model sample faster: the transformer blocks run only at the steps that matter, and the "
                "others replay their effect. Connect it between the model loader (and LoRAs) and the sampler."
            ),
            search_aliases=["cache", "speed up", "faster video", "teacache", "easycache", "moreg", "step skipping"],
            inputs=[
                io.Model.Input("model", tooltip="A video diffusion transformer, e.g. Wan."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="balanced",
                    tooltip=(
                        "How much to skip. balanced computes about 1 step in 2, quality 2 in 3, fast 1 in 3, placed "
                        "where the video needs them; target computes as many as target_speedup asks for. paper-fast "
                        "and paper-slow are the published AdaCache settings, which decide from the video. custom uses "
                        "the codebook below. calibrate computes every step and measures the model for an AdaCache "
                        "Calibrate node."
                    ),
                ),
                io.Combo.Input(
                    "replay",
                    options=["auto", "forecast", "hold"],
                    default="auto",
                    advanced=True,
                    tooltip=(
                        "What a skipped step sees. forecast continues the trend of the last two computed steps, hold "
                        "repeats the last one as in the paper. auto is hold for the paper's presets, else forecast."
                    ),
                ),
                percent("start_percent", 0.0, "Steps before this part of sampling are always computed.", advanced=True),
                percent("end_percent", 1.0, "Steps after this part of sampling are always computed.", advanced=True),
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
                io.Combo.Input(
                    "storage",
                    options=["auto", "hidden", "output"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What is kept between steps. hidden is closest to the uncached video, output needs far less "
                        "memory. auto is hidden as long as it fits into the free memory."
                    ),
                ),
                io.Combo.Input(
                    "cache_device",
                    options=[SAME_DEVICE, SYSTEM_MEMORY],
                    default=SAME_DEVICE,
                    optional=True,
                    advanced=True,
                    tooltip="Where it is kept. System memory frees the GPU's and is slower.",
                ),
                Motion.Input(
                    "moreg",
                    display_name="MoReg",
                    optional=True,
                    tooltip="Motion regularisation from a MoReg Settings node: more compute where things move.",
                ),
                Calibrated.Input(
                    "calibration",
                    optional=True,
                    tooltip=(
                        "What an AdaCache Calibrate node made of a run of this model: the planned presets (balanced, "
                        "quality, fast, target) then place their steps for it."
                    ),
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
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        preset: str,
        replay: str,
        start_percent: float,
        end_percent: float,
        codebook: str,
        target_speedup: float = 2.0,
        storage: str = "auto",
        cache_device: str = SAME_DEVICE,
        moreg: MotionRegularization | None = None,
        calibration: Calibration | None = None,
        token_refresh: TokenRefresh | None = None,
    ) -> io.NodeOutput:
        custom = Codebook.parse(codebook) if preset == "custom" else None
        settings = CacheSettings(
            preset,
            custom,
            replay,
            start_percent,
            end_percent,
            moreg,
            storage,
            cache_device,
            target_speedup,
            calibration,
            token_refresh,
        )
        return io.NodeOutput(*bind(model, settings, cls.hidden.unique_id))
