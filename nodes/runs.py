"""The runs of a node, as numbers: kept for the Inspector, and sent to the browser while they go."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..adacache_core import RunStatistics, WindowStatistics
from .chart import make_chart
from .report import live_report

EVENT = "adacache.progress"
# More often than this a chart need not move.
_SECONDS_APART = 0.25


@dataclass(frozen=True)
class LoggedRun:
    """Statistics of one sampling run, with the prompt and the sampler node it belongs to (None if unknown).

    ``started`` is only good for putting runs of several logs in order.
    """

    prompt_id: str | None
    node_id: str | None
    statistics: RunStatistics | WindowStatistics
    started: float = field(default_factory=time.monotonic)


class RunLog:
    """The sampling runs of one AdaCache or AR Cache node, newest last. Shared by reference along the graph.

    Of each sampler it keeps the runs of the last prompt in which it ran.
    """

    def __init__(self) -> None:
        self._runs: list[LoggedRun] = []

    def start(self, statistics: RunStatistics | WindowStatistics) -> None:
        """Add a run as it starts, of the prompt that is executing; its statistics fill in while it goes."""
        new = LoggedRun(*executing_prompt(), statistics)
        self._runs = [run for run in self._runs if run.node_id != new.node_id or run.prompt_id == new.prompt_id]
        self._runs.append(new)

    def of_prompt(self, prompt_id: str | None, cached: Container[str | None] = ()) -> list[LoggedRun]:
        """Runs of a prompt, and of samplers whose results it took from ComfyUI's cache instead of running them."""
        return [run for run in self._runs if run.prompt_id == prompt_id or run.node_id in cached]


def executing_prompt() -> tuple[str | None, str | None]:
    """The prompt and node that are executing, where this version of ComfyUI tells."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None, None
    context = get_executing_context()
    return (None, None) if context is None else (context.prompt_id, context.node_id)


def reporter(node_id: str | None) -> Callable[[RunStatistics], None] | None:
    """Sends the progress of one sampling run to the client of the prompt that is executing.

    Args:
        node_id: the AdaCache node that the run belongs to.

    Returns:
        To be called after every step; None where nobody would listen (no server, no client, no inspector), or where
        this version of ComfyUI keeps its queue in another way: sampling goes on without live progress.
    """
    # Not imported: without a running server there is nothing to send to.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    client, prompt_id = getattr(server, "client_id", None), getattr(server, "last_prompt_id", None)
    if node_id is None or client is None or prompt_id is None or not hasattr(server, "send_sync"):
        return None
    try:
        inspectors = _inspectors_of(server, prompt_id, node_id)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        logging.debug("AdaCache: no live progress, this version of ComfyUI keeps its queue in another way.")
        return None
    if not inspectors:
        return None
    return _Reporter(server, client, prompt_id, inspectors)


def links_of(node: Mapping[str, Any]) -> list[str]:
    """The nodes that a node of a prompt has its inputs from."""
    return [
        value[0]
        for value in node["inputs"].values()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    ]


def _inspectors_of(server: Any, prompt_id: str, node_id: str) -> list[str]:
    """Inspectors that get this node's statistics, by the prompt itself: there bypasses and subgraphs are resolved."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    prompts = [item[2] for item in running if item[1] == prompt_id]
    return [
        consumer
        for prompt in prompts
        for consumer, node in prompt.items()
        if node["class_type"] == "AdaCacheInspector" and node_id in links_of(node)
    ]


class _Reporter:
    # The runs that a prompt's inspectors have been shown so far: of two experts, the second joins the first.
    _shown: ClassVar[dict[tuple[str, ...], list[RunStatistics]]] = {}

    def __init__(self, server: Any, client: str, prompt_id: str, inspectors: list[str]) -> None:
        self._server, self._client = server, client
        self._event = {"prompt_id": prompt_id, "inspectors": inspectors}
        self._sent = float("-inf")
        key = (prompt_id, *inspectors)
        for other in [other for other in self._shown if other[0] != prompt_id]:
            del self._shown[other]
        self._runs = self._shown.setdefault(key, [])

    def __call__(self, statistics: RunStatistics) -> None:
        if not any(statistics is run for run in self._runs):
            self._runs.append(statistics)
        now = time.monotonic()
        last = len(statistics.steps) >= statistics.total_steps
        if last or now - self._sent >= _SECONDS_APART:
            self._sent = now
            report = live_report(self._runs)
            self._server.send_sync(EVENT, {**self._event, "report": report, "chart": make_chart(report)}, self._client)
