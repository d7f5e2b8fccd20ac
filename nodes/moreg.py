"""The MoReg Settings node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..adacache_core.paper.measure import MotionRegularization
from .types import CATEGORY, Motion, accepts, percent

_DEFAULTS = MotionRegularization()


class MoRegSettings(io.ComfyNode):
    """Settings of motion regularisation, to plug into AdaCache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheMoReg",
            display_name="MoReg Settings",
            category=CATEGORY,
            description=(
                "Tunes motion regularisation for AdaCache's paper presets and custom: how motion raises the distance "
                "between steps, and so how many compute. The defaults are the published values."
            ),
            search_aliases=["motion regularization"],
            inputs=[
                io.String.Input(
                    "strides",
                    default="1",
                    tooltip='Distances in latent frames over which motion is measured, e.g. "1" or "1, 2".',
                ),
                percent("start_percent", _DEFAULTS.start_percent, "Before this part of the steps motion counts as 1."),
                percent("end_percent", _DEFAULTS.end_percent, "After this part of the steps motion counts as 1."),
                io.Float.Input(
                    "scale",
                    default=_DEFAULTS.scale,
                    min=0.001,
                    max=10.0,
                    step=0.005,
                    advanced=True,
                    tooltip="The motion score that counts as 1. Lower means more videos are treated as moving.",
                ),
                io.Float.Input(
                    "exponent",
                    default=_DEFAULTS.exponent,
                    min=0.1,
                    max=32.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Contrast between still and moving videos.",
                ),
                io.Float.Input(
                    "divisor",
                    default=_DEFAULTS.divisor,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Divides the scaled motion score.",
                ),
                io.Float.Input(
                    "gradient_multiplier",
                    default=_DEFAULTS.gradient_multiplier,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Weight of the change of motion from one computed step to the next; 0 turns it off.",
                ),
            ],
            outputs=[Motion.Output("moreg", display_name="MoReg", tooltip="Connect it to AdaCache.")],
        )

    @classmethod
    def validate_inputs(cls, strides: str, start_percent: float, end_percent: float) -> bool | str:
        """What their ranges do not tell; a value that comes over a link is None here."""
        chosen = {"strides": strides, "start_percent": start_percent, "end_percent": end_percent}
        return accepts(lambda: _motion(**{name: value for name, value in chosen.items() if value is not None}))

    @classmethod
    def execute(cls, **chosen: Any) -> io.NodeOutput:
        return io.NodeOutput(_motion(**chosen))


def _motion(strides: str = "1", **others: float) -> MotionRegularization:
    return MotionRegularization(MotionRegularization.parse_strides(strides), **others)
