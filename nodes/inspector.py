"""The AdaCache Inspector node: what was computed, what was skipped, and why."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..adacache_core import RunStatistics, WindowStatistics
from ._binding import executing_prompt
from .chart import draw_chart
from .report import make_report
from .statistics_log import StatisticsLog
from .types import Statistics


class AdaCacheInspector(io.ComfyNode):
    """Passes the sampler's latent through and shows the run that made it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheInspector",
            display_name="AdaCache Inspector",
            category="advanced/model",
            description=(
                "Shows which steps AdaCache computed and skipped, and why. Connect the sampler's LATENT, which passes "
                "through, and the statistics of the AdaCache node."
            ),
            search_aliases=["adacache statistics", "cache report", "cache chart"],
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip="The sampler's result: the inspector runs after it."),
                Statistics.Input("statistics", optional=True, tooltip="From the AdaCache node in use."),
                Statistics.Input(
                    "statistics_2",
                    optional=True,
                    tooltip=(
                        "From an AR Cache node, or from a second AdaCache node where two models share the steps "
                        "(Wan 2.2)."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The latent, unchanged."),
                io.String.Output("report", display_name="report", tooltip="Every number of the run, as JSON."),
                io.Image.Output("chart", display_name="chart", tooltip="The run as a picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        statistics: StatisticsLog | None = None,
        statistics_2: StatisticsLog | None = None,
    ) -> io.NodeOutput:
        logs = {log for log in (statistics, statistics_2) if log is not None}
        prompt_id, _ = executing_prompt()
        # In the order of sampling, whichever expert is connected first.
        runs = sorted((run for log in logs for run in log.of_prompt(prompt_id)), key=lambda run: run.started)
        statistics_of = [run.statistics for run in runs]
        steps = [numbers for numbers in statistics_of if isinstance(numbers, RunStatistics)]
        windows = [numbers for numbers in statistics_of if isinstance(numbers, WindowStatistics)]
        report = make_report(steps, bool(logs), windows)
        return io.NodeOutput(latent, json.dumps(report, indent=2), draw_chart(report), ui={"adacache": [report]})
