"""The AdaCache Inspector node: what was computed, what was skipped, and why."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..adacache_core import RunStatistics, WindowStatistics
from .chart import make_chart
from .picture import draw_chart
from .reference import Closeness, Session, closeness
from .report import make_report
from .runs import LoggedRun, RunLog, graph, makers_of
from .types import CATEGORY, Statistics

_SESSION = Session()


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
                io.Latent.Input(
                    "reference",
                    optional=True,
                    tooltip=(
                        "The latent of the same sampling without AdaCache (same seed, another sampler node): how close "
                        "the latent is to it is told in dB."
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
        statistics: RunLog | None = None,
        statistics_2: RunLog | None = None,
        reference: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        inspector = getattr(cls.hidden, "unique_id", None)
        logs = [log for log in (statistics, statistics_2) if log is not None]

        def runs_of(name: str) -> dict[int, LoggedRun]:
            makers = set() if inspector is None else makers_of(graph(), inspector, name)
            return {id(run): run for log in logs for run in log.of_prompt(None, makers)}

        found = runs_of("latent")
        # In the order of sampling, whichever expert is connected first.
        made = sorted(found.values(), key=lambda run: run.started)
        runs = [run.statistics for run in made]
        steps = [numbers for numbers in runs if isinstance(numbers, RunStatistics)]
        windows = [numbers for numbers in runs if isinstance(numbers, WindowStatistics)]
        close = None if reference is None else closeness(latent, reference)
        if close is not None and inspector is not None and runs_of("reference"):
            close = Closeness(None, "that was sampled with AdaCache, too")
        report = make_report(steps, bool(logs), windows, close)
        report["session"] = _SESSION.add(tuple(run.started for run in made), report)
        shown = {"adacache": [report], "adacache_chart": [make_chart(report)]}
        return io.NodeOutput(latent, json.dumps(report, indent=2), draw_chart(report), ui=shown)
