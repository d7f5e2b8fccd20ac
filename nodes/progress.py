"""Live progress: tells the browser that queued a prompt how its sampling goes, for the Inspector's chart."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

from ..adacache_core import RunStatistics

EVENT = "adacache.progress"
# More often than this a chart need not move.
_SECONDS_APART = 0.25


def reporter(node_id: str | None) -> Callable[[RunStatistics], None] | None:
    """Sends the progress of one sampling run to the client of the prompt that is executing.

    Args:
        node_id: the AdaCache node that the run belongs to.

    Returns:
        To be called after every step; None where nobody would listen (no server, no client, no inspector).
    """
    # Not imported: without a running server there is nothing to send to.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    client, prompt_id = getattr(server, "client_id", None), getattr(server, "last_prompt_id", None)
    if node_id is None or client is None or prompt_id is None:
        return None
    inspectors = _inspectors_of(server, prompt_id, node_id)
    if not inspectors:
        return None
    return _Reporter(server, client, {"prompt_id": prompt_id, "inspectors": inspectors, "run": uuid.uuid4().hex})


def _inspectors_of(server: Any, prompt_id: str, node_id: str) -> list[str]:
    """Inspectors that get this node's statistics, by the prompt itself: there bypasses and subgraphs are resolved."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    prompts = [item[2] for item in running if item[1] == prompt_id]
    return [
        consumer
        for prompt in prompts
        for consumer, node in prompt.items()
        if node["class_type"] == "AdaCacheInspector"
        and any(isinstance(link, list) and link[:1] == [node_id] for link in node["inputs"].values())
    ]


class _Reporter:
    def __init__(self, server: Any, client: str, event: dict[str, Any]) -> None:
        self._server, self._client, self._event = server, client, event
        self._sent = float("-inf")

    def __call__(self, statistics: RunStatistics) -> None:
        now = time.monotonic()
        last = len(statistics.steps) >= statistics.total_steps
        if last or now - self._sent >= _SECONDS_APART:
            self._sent = now
            self._server.send_sync(EVENT, {**self._event, "statistics": statistics.to_dict()}, self._client)
