"""The AdaCache node: MODEL in, MODEL that caches out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..adacache_core.paper.codebook import Codebook
from ..adacache_core.paper.measure import MotionRegularization
from ..adacache_core.tokens.choice import TokenRefresh
from .binding import bind
from .settings import CUSTOM, FINER, OFF, PRESETS, TARGET, Settings
from .types import CATEGORY, Motion, Refresh, Statistics, accepts

# What a preset brings with it.
_NEEDS: dict[str, list[io.Input]] = {
    TARGET: [
        io.Float.Input(
            "target_speedup",
            default=2.0,
            min=1.0,
            max=8.0,
            step=0.1,
            tooltip="All steps over computed steps; the time saved comes close to it.",
        )
    ],
    CUSTOM: [
        io.String.Input(
            "codebook",
            default="0.08:6, 0.16:5, 0.24:4, 0.32:3, 0.40:2, 1.00:1",
            tooltip=(
                "threshold:rate pairs, thresholds ascending. Where the video changes less than a threshold per step, "
                "the next compute comes after that many steps."
            ),
        )
    ],
}


class AdaCache(io.ComfyNode):
    """Patches a model so that sampling skips the steps whose result is known well enough."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCache",
            display_name="AdaCache",
            category=CATEGORY,
            description=(
                "Makes a model sample faster: it runs only at the steps that matter, and the others continue the trend "
                "of its predictions. For any model; connect it between the model loader (and LoRAs) and the sampler."
            ),
            search_aliases=["cache", "speed up", "faster video", "teacache", "easycache", "step skipping", "moreg"],
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion model: video, image or audio."),
                io.DynamicCombo.Input(
                    "preset",
                    options=[io.DynamicCombo.Option(preset, _NEEDS.get(preset, [])) for preset in PRESETS],
                    tooltip=(
                        "How much to skip. balanced computes 1 step in 2, quality 2 in 3, fast 1 in 3, placed where "
                        "they matter most; target computes as many as its target_speedup asks for. paper-fast and "
                        "paper-slow are the published AdaCache settings, which decide from the video and need a known "
                        "video model; custom is the same with a codebook of yours."
                    ),
                ),
                io.MultiType.Input(
                    io.Boolean.Input("moreg", default=False, optional=True),
                    [Motion],
                    display_name="MoReg",
                    tooltip=(
                        "Motion regularisation: more compute where things move. A MoReg Settings node, connected here, "
                        "tunes it for the presets of the paper."
                    ),
                ),
                io.Combo.Input(
                    "finer",
                    options=list(FINER),
                    default=OFF,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Skipped steps cost nothing, so the sampler may take 2 or 4 for each of yours, with as many "
                        "computed. The result is then near to what so many steps would give, not to what yours give. "
                        "Not for distilled models or samplers that add noise."
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
            # Two nodes with equal inputs would share one output otherwise, and so one log.
            not_idempotent=True,
        )

    @classmethod
    def validate_inputs(cls, **inputs: Any) -> bool | str:
        """What ``execute`` would refuse; a value that comes over a link is None here.

        ComfyUI marks every input that this function takes, and one that a preset brings comes with the others only.
        """
        chosen = inputs.get("preset") or {"preset": None}  # ComfyUI leaves out one that it does not know
        refresh = TokenRefresh() if "token_refresh" in inputs else None
        linked = any(value is None for name, value in chosen.items() if name != "preset")
        return linked or accepts(lambda: settings_of(chosen, inputs.get("moreg"), inputs.get("finer", OFF), refresh))

    @classmethod
    def execute(cls, model: Any, **choices: Any) -> io.NodeOutput:
        return io.NodeOutput(*bind(model, settings_of(**choices), cls.hidden.unique_id))


def settings_of(
    preset: dict[str, Any],
    moreg: MotionRegularization | bool | None = None,
    finer: str = OFF,
    token_refresh: TokenRefresh | None = None,
) -> Settings:
    """The settings that a node's inputs stand for.

    Args:
        preset: its name, by the key ``preset``, and what it brings: ``target_speedup`` or ``codebook``.
        moreg: from the node of that name, or whether to use the published values.
        finer: see ``Settings``.
        token_refresh: from the node of that name.

    Raises:
        ConfigurationError: see ``Settings`` and ``Codebook``.
    """
    codebook = Codebook.parse(preset["codebook"]) if preset["preset"] == CUSTOM else None
    published = MotionRegularization() if moreg is True else None
    motion = moreg if isinstance(moreg, MotionRegularization) else published
    return Settings(preset["preset"], codebook, preset.get("target_speedup", 2.0), motion, token_refresh, finer)
