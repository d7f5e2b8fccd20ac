"""The AdaCache Calibrate node: the report of one run that computed every step, turned into settings for its model."""

from __future__ import annotations

from comfy_api.latest import io

from ..adacache_core import Calibration
from .types import Calibrated


class AdaCacheCalibrate(io.ComfyNode):
    """What a run with the preset ``calibrate`` measured, to plug into AdaCache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheCalibrate",
            display_name="AdaCache Calibrate",
            category="advanced/model",
            description=(
                "Fits AdaCache to your own model: takes the report of one run with the preset calibrate, and gives "
                "what the planned presets need to place their steps for this model."
            ),
            search_aliases=["adacache calibration", "measure model", "tune cache"],
            inputs=[
                io.String.Input(
                    "report",
                    multiline=True,
                    tooltip=(
                        "The report of an AdaCache Inspector, linked or pasted; or the text that this node gave before."
                    ),
                ),
            ],
            outputs=[
                Calibrated.Output(
                    "calibration", display_name="calibration", tooltip="Connect it to AdaCache with a planned preset."
                ),
                io.String.Output(
                    "text",
                    display_name="text",
                    tooltip="The same to keep: paste it into report, and the model need not be measured again.",
                ),
            ],
        )

    @classmethod
    def execute(cls, report: str) -> io.NodeOutput:
        calibration = Calibration.parse(report)
        return io.NodeOutput(calibration, calibration.to_json())
