"""The AdaCache Inspector node: what was computed, what was skipped, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..adacache_core import RunStatistics, WindowStatistics
from .chart import make_chart
from .picture import draw_chart
from .report import make_report
from .runs import RunLog, executing_prompt, links_of
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
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
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
        hidden = cls.hidden
        prompt, node = ({}, None) if hidden is None else (hidden.prompt or {}, hidden.unique_id)
        prompt_id, _ = executing_prompt()
        found = {
            id(run): run
            for name, log in (("statistics", statistics), ("statistics_2", statistics_2))
            if log is not None
            for run in log.of_prompt(prompt_id, samplers_of(prompt, node, name))
        }
        # In the order of sampling, whichever expert is connected first.
        runs = [run.statistics for run in sorted(found.values(), key=lambda run: run.started)]
        steps = [numbers for numbers in runs if isinstance(numbers, RunStatistics)]
        windows = [numbers for numbers in runs if isinstance(numbers, WindowStatistics)]
        connected = statistics is not None or statistics_2 is not None
        report = make_report(steps, connected, windows)
        shown = {"adacache": [report], "adacache_chart": [make_chart(report)]}
        return io.NodeOutput(latent, json.dumps(report, indent=2), draw_chart(report), ui=shown)


def samplers_of(prompt: Mapping[str, Any], inspector: str | None, statistics: str) -> set[str]:
    """Nodes, the samplers among them, that the inspector's latent comes from and that get the model of one of its logs.

    Args:
        prompt: as it is queued: nodes by id, bypasses and subgraphs resolved.
        inspector: the inspector's id.
        statistics: the input that has the log.
    """
    inputs = prompt.get(inspector or "", {"inputs": {}})["inputs"]
    latent, source = inputs.get("latent"), inputs.get(statistics)
    if latent is None or source is None:
        return set()
    return {node for node in _upstream(prompt, latent[0]) if source[0] in _upstream(prompt, node)}


def _upstream(prompt: Mapping[str, Any], node_id: str) -> set[str]:
    """A node and all that it is made of."""
    found: set[str] = set()
    waiting = [node_id]
    while waiting:
        node = waiting.pop()
        if node in prompt and node not in found:
            found.add(node)
            waiting += links_of(prompt[node])
    return found
