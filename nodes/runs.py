"""The runs of a node, as numbers: kept for the Inspector, and sent to the browser while they go."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from comfy_execution.graph import DynamicPrompt
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..adacache_core import RunStatistics, WindowStatistics
from .chart import make_chart
from .report import badge, live_report, log_line

EVENT = "adacache.progress"
# More often than this a chart need not move.
SECONDS_APART = 0.25
# That a log keeps beside a new one; a few numbers a step.
_MOST_RUNS = 200


# A node that samples, and what it is made of: its whole ancestry in the prompt, as text.
Maker = tuple[str, str]


@dataclass(frozen=True)
class LoggedRun:
    """Statistics of one sampling run, with the prompt and the node that made it (None outside of prompts).

    ``started`` is only good for putting runs of several logs in order.
    """

    prompt_id: str | None
    maker: Maker | None
    statistics: RunStatistics | WindowStatistics
    started: float = field(default_factory=time.monotonic)


class RunLog:
    """The sampling runs of one AdaCache or AR Cache node, newest last. Shared by reference along the graph.

    ComfyUI may take any result of the past from its cache, so runs of several makers are kept: of each one those of
    the last prompt in which it sampled.
    """

    def __init__(self) -> None:
        self._runs: list[LoggedRun] = []

    def start(self, statistics: RunStatistics | WindowStatistics) -> None:
        """Add a run as it starts, of the node that is executing; its statistics fill in while it goes."""
        prompt_id, node_id = executing()
        new = LoggedRun(prompt_id, None if node_id is None else maker(graph(), node_id), statistics)
        self._runs = [run for run in self._runs if run.maker != new.maker or run.prompt_id == new.prompt_id]
        self._runs = [*self._runs[-_MOST_RUNS:], new]

    def of_prompt(self, prompt_id: str | None, makers: Container[Maker | None] = ()) -> list[LoggedRun]:
        """Runs of a prompt, and of makers."""
        return [run for run in self._runs if run.prompt_id == prompt_id or run.maker in makers]


def executing() -> tuple[str | None, str | None]:
    """The prompt and node that are executing; None outside of prompts."""
    context = get_executing_context()
    return (None, None) if context is None else (context.prompt_id, context.node_id)


def graph() -> DynamicPrompt:
    """The prompt that is executing, with bypasses and subgraphs resolved, and what nodes have put into it since."""
    return get_progress_state().dynprompt


def ancestry(prompt: DynamicPrompt, node_id: str) -> dict[str, Mapping[str, Any]]:
    """A node of a prompt and all that it is made of, by id."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = [node_id]
    while waiting:
        name = waiting.pop()
        if name not in found and prompt.has_node(name):
            found[name] = prompt.get_node(name)
            waiting += [value[0] for value in found[name]["inputs"].values() if is_link(value)]
    return found


def maker(prompt: DynamicPrompt, node_id: str) -> Maker:
    """What a node's results depend on. One that a loop has put into the prompt counts as the one that it repeats."""
    shown = prompt.get_display_node_id(node_id)
    made_of = {name: (node["class_type"], node["inputs"]) for name, node in ancestry(prompt, shown).items()}
    return shown, json.dumps(made_of, sort_keys=True, default=str)


def makers_of(prompt: DynamicPrompt, inspector: str, name: str = "latent") -> set[Maker]:
    """The nodes that an inspector's latent, or its reference, comes from."""
    source = prompt.get_node(inspector)["inputs"].get(name)
    return {maker(prompt, node) for node in ancestry(prompt, source[0])} if is_link(source) else set()


def reporter(node_id: str | Callable[[RunStatistics], None] | None) -> Callable[[RunStatistics], None] | None:
    """Says how a sampling run of the executing node goes: in the log at its end, and to the browser.

    Args:
        node_id: the AdaCache node that the run belongs to; in a process without a server, who gets it instead.

    Returns:
        To be called before the first step where there is a plan, after every step, and when the run is finished.
    """
    if node_id is None or callable(node_id):
        return node_id
    # Not imported: without a running server there is nothing to send to.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    prompt_id, sampler = executing()
    if getattr(server, "client_id", None) is None or prompt_id is None or sampler is None:
        return _log
    prompt = graph()
    shown = prompt.get_display_node_id(sampler)
    inspectors = [
        name
        for name in sorted(prompt.all_node_ids())
        if prompt.get_node(name)["class_type"] == "AdaCacheInspector"
        and [node_id, 1] in prompt.get_node(name)["inputs"].values()
        and shown in {at for at, _ in makers_of(prompt, name)}
    ]
    return _Reporter(server, {"prompt_id": prompt_id, "node": node_id, "inspectors": inspectors})


def _log(statistics: RunStatistics) -> None:
    if statistics.finished:
        logging.info(log_line(statistics))


class _Reporter:
    # The runs that a prompt's inspectors have been shown so far: of two experts, the second joins the first.
    _shown: ClassVar[dict[tuple[str, ...], list[RunStatistics]]] = {}

    def __init__(self, server: Any, event: dict[str, Any]) -> None:
        self._server, self._client, self._event = server, server.client_id, event
        self._sent = float("-inf")
        key = (event["prompt_id"], *event["inspectors"])
        for other in [other for other in self._shown if other[0] != key[0]]:
            del self._shown[other]
        self._runs = self._shown.setdefault(key, [])

    def __call__(self, statistics: RunStatistics) -> None:
        _log(statistics)
        if not any(statistics is run for run in self._runs):
            self._runs.append(statistics)
        now = time.monotonic()
        if statistics.finished or (self._event["inspectors"] and now - self._sent >= SECONDS_APART):
            self._sent = now
            report = live_report(self._runs)
            content = {"badge": badge(statistics), "report": report, "chart": make_chart(report)}
            self._server.send_sync(EVENT, self._event | content, self._client)
