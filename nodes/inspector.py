"""The AdaCache Inspector node: what was computed, what was skipped, and why."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..adacache_core import RunStatistics, WindowStatistics
from .chart import make_chart
from .picture import draw_chart
from .report import make_report
from .runs import RunLog, graph, makers_of
from .types import CATEGORY, Statistics


class AdaCacheInspector(io.ComfyNode):
    """Passes the sampler's latent through and shows the run that made it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheInspector",
            display_name="AdaCache Inspector",
            category=CATEGORY,
            description=(
                "Shows which steps AdaCache computed and skipped, and why. Connect the sampler's LATENT, which passes "
                "through, and the statistics of the AdaCache node."
            ),
            search_aliases=["adacache statistics", "adacache report", "adacache chart"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
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
        cls, latent: dict[str, Any], statistics: RunLog | None = None, statistics_2: RunLog | None = None
    ) -> io.NodeOutput:
        inspector = getattr(cls.hidden, "unique_id", None)
        makers = set() if inspector is None else makers_of(graph(), inspector)
        logs = [log for log in (statistics, statistics_2) if log is not None]
        found = {id(run): run for log in logs for run in log.of_prompt(None, makers)}
        # In the order of sampling, whichever expert is connected first.
        runs = [run.statistics for run in sorted(found.values(), key=lambda run: run.started)]
        steps = [numbers for numbers in runs if isinstance(numbers, RunStatistics)]
        windows = [numbers for numbers in runs if isinstance(numbers, WindowStatistics)]
        report = make_report(steps, bool(logs), windows)
        shown = {"adacache": [report], "adacache_chart": [make_chart(report)]}
        return io.NodeOutput(latent, json.dumps(report, indent=2), draw_chart(report), ui=shown)
