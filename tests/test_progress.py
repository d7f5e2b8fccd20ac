"""Live progress: who is told, and how often."""

from __future__ import annotations

import sys
import uuid
from types import SimpleNamespace

import pytest

PROMPT = {
    "3": {"class_type": "AdaCache", "inputs": {"model": ["1", 0]}},
    "4:9": {"class_type": "AdaCacheInspector", "inputs": {"latent": ["5", 0], "statistics": ["3", 1]}},
    "10": {"class_type": "AdaCacheInspector", "inputs": {"latent": ["5", 0], "statistics_2": ["3", 1]}},
    "11": {"class_type": "AdaCacheInspector", "inputs": {"latent": ["5", 0], "statistics": ["8", 1]}},
    "12": {"class_type": "PreviewAny", "inputs": {"source": ["3", 1]}},
}


@pytest.fixture
def server(pack, monkeypatch):
    """Stands in for the running server; ``sent`` holds what it was given."""
    sent, prompt_id = [], uuid.uuid4().hex
    running = [(0, "another", {"3": {"class_type": "AdaCache", "inputs": {}}}), (1, prompt_id, PROMPT)]
    instance = SimpleNamespace(
        client_id="browser",
        last_prompt_id=prompt_id,
        prompt_queue=SimpleNamespace(get_current_queue_volatile=lambda: (running, [])),
        send_sync=lambda *event: sent.append(event),
        sent=sent,
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return instance


@pytest.fixture
def take_steps(pack):
    """Call a reporter after every step of a run."""
    from adacache.adacache_core import RunStatistics, StepRecord

    def take(report, total, seconds, monkeypatch):
        clock = iter(range(total))
        monkeypatch.setattr("adacache.nodes.runs.time.monotonic", lambda: next(clock) * seconds)
        run = RunStatistics({"preset": "fast", "speedup": 1.0, "codebook": None, "moreg": None}, total)
        for step in range(total):
            run.steps.append(StepRecord(step, 0.5, "computed", "plan", 1, 1, 2.0))
            report(run)

    return take


def reporter(node_id):
    from adacache.nodes.runs import reporter

    return reporter(node_id)


def done(server):
    """Steps of the last run in each event."""
    return [len(data["report"]["runs"][-1]["steps"]) for _, data, _ in server.sent]


def test_the_inspectors_of_the_node_are_told_through_the_prompts_own_client(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 2, 1.0, monkeypatch)
    [(event, data, client), _] = server.sent
    assert (event, client) == ("adacache.progress", "browser")
    assert data["prompt_id"] == server.last_prompt_id
    assert data["inspectors"] == ["4:9", "10"]
    assert data["report"]["summary"] == "Sampling: step 1 of 2."
    assert data["chart"]["panels"][0]["columns"] == 2


def test_events_are_apart_and_the_last_one_is_always_sent(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 30, 0.1, monkeypatch)
    assert done(server) == [*range(1, 29, 3), 30]


def test_the_last_event_is_a_whole_report(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 10, 1.0, monkeypatch)
    assert server.sent[-1][1]["report"]["summary"].startswith("Preset fast computed 10 of 10 steps.")


def test_a_second_run_joins_the_first_and_the_next_prompt_starts_anew(server, take_steps, monkeypatch):
    for _ in range(2):
        take_steps(reporter("3"), 2, 1.0, monkeypatch)
    assert [len(data["report"]["runs"]) for _, data, _ in server.sent] == [1, 1, 2, 2]
    server.last_prompt_id = "next"
    server.prompt_queue.get_current_queue_volatile()[0].append((2, "next", PROMPT))
    take_steps(reporter("3"), 2, 1.0, monkeypatch)
    assert [len(data["report"]["runs"]) for _, data, _ in server.sent[4:]] == [1, 1]


def test_slow_steps_are_all_sent(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 5, 2.0, monkeypatch)
    assert len(server.sent) == 5


def test_nobody_listens(server, monkeypatch):
    assert reporter("3") is not None, "this test must be able to fail"
    assert reporter(None) is None
    assert reporter("99") is None
    server.client_id = None
    assert reporter("3") is None
    monkeypatch.delitem(sys.modules, "server")
    assert reporter("3") is None
