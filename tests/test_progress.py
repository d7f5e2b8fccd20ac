"""While a run goes and at its end: who is told, how often, and what."""

from __future__ import annotations

import sys
import uuid
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

PROMPT = {
    "3": ("AdaCache", {"model": ["1", 0]}),
    "5": ("KSampler", {"model": ["3", 0], "latent_image": ["6", 0]}),
    "6": ("EmptyLatentImage", {}),
    "4:9": ("AdaCacheInspector", {"latent": ["5", 0], "statistics": ["3", 1]}),
    "10": ("AdaCacheInspector", {"latent": ["5", 0], "statistics_2": ["3", 1]}),
    "11": ("AdaCacheInspector", {"latent": ["5", 0], "statistics": ["8", 1]}),
    "12": ("PreviewAny", {"source": ["3", 1]}),
    "13": ("AdaCacheInspector", {"latent": ["6", 0], "statistics": ["3", 1]}),
}


@pytest.fixture
def server(pack, monkeypatch):
    """Stands in for the running server; ``sent`` holds what it was given."""
    sent = []
    instance = SimpleNamespace(client_id="browser", send_sync=lambda *event: sent.append(event), sent=sent)
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    with ExitStack() as stack:
        instance.execute = lambda: execute(stack)
        instance.execute()
        yield instance


def execute(stack):
    """ComfyUI begins with the sampler of a new prompt."""
    from comfy_execution.graph import DynamicPrompt
    from comfy_execution.progress import reset_progress_state
    from comfy_execution.utils import CurrentNodeContext

    prompt_id = uuid.uuid4().hex
    nodes = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in PROMPT.items()}
    reset_progress_state(prompt_id, DynamicPrompt(nodes))
    stack.enter_context(CurrentNodeContext(prompt_id, "5"))
    return prompt_id


@pytest.fixture
def take_steps(pack):
    """Call a reporter before and after every step of a run and at its end; every second step is skipped."""
    from adacache.adacache_core import RunStatistics, StepRecord

    def take(report, total, apart, monkeypatch, times=(4.0, 2.0, 0.25), ends=True):
        clock = iter(range(10**6))
        monkeypatch.setattr("adacache.nodes.runs.time.monotonic", lambda: next(clock) * apart)
        plan = tuple("plan" if step % 2 == 0 or step == 1 else None for step in range(total))
        run = RunStatistics({"preset": "fast", "speedup": 1.0, "codebook": None, "moreg": None}, total, plan=plan)
        report(run)
        for step in range(total):
            kind, seconds = ("computed", times[step > 0]) if plan[step] else ("skipped", times[2])
            run.steps.append(StepRecord(step, 0.5, kind, "plan", 1, 1, seconds))
            run.finished = ends and step == total - 1
            report(run)

    return take


def reporter(node_id):
    from adacache.nodes.runs import reporter

    return reporter(node_id)


def done(server):
    """Steps of the last run in each event."""
    return [len(data["report"]["runs"][-1]["steps"]) for _, data, _ in server.sent]


def said(server):
    return [data["report"]["summary"] for _, data, _ in server.sent]


def test_the_inspectors_behind_the_sampler_are_told_through_the_prompts_own_client(server, take_steps, monkeypatch):
    prompt_id = server.execute()
    take_steps(reporter("3"), 2, 1.0, monkeypatch)
    event, data, client = server.sent[1]
    assert (event, client) == ("adacache.progress", "browser")
    assert (data["prompt_id"], data["node"]) == (prompt_id, "3")
    assert data["inspectors"] == ["10", "4:9"]
    assert data["chart"]["panels"][0]["columns"] == 2


def test_the_plan_comes_before_the_first_step_and_time_as_soon_as_it_is_known(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 6, 1.0, monkeypatch)
    assert said(server)[:5] == [
        "Planned: 4 of 6 steps will be computed.",
        "Sampling: step 1 of 6.",
        "Sampling: step 2 of 6, about 4 s left; skipping saves about 4 s.",
        "Sampling: step 3 of 6, about 2 s left; skipping saves about 4 s.",
        "Sampling: step 4 of 6, about 2.2 s left; skipping saves about 3.5 s.",
    ]
    marks = server.sent[0][1]["chart"]["panels"][0]["marks"]
    kinds = [mark[-1] for mark in marks if mark[0] == "bar" and mark[-1].startswith("cell")]
    assert kinds == ["cell pending planned"] * 3 + ["cell pending", "cell pending planned", "cell pending"]


def test_events_are_apart_and_the_last_one_is_always_sent(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 30, 0.1, monkeypatch)
    assert done(server) == [*range(0, 29, 3), 30]


def test_the_last_event_is_a_whole_report_and_a_badge(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 10, 1.0, monkeypatch)
    data = server.sent[-1][1]
    assert data["report"]["summary"].startswith("Preset fast computed 6 of 10 steps.")
    assert "if_stopped" not in data["report"]
    assert data["badge"] == {"key": "badge_faster", "computed": 6, "steps": 10, "speedup": "1.6"}


def test_every_event_says_what_it_means_if_nothing_more_comes(server, take_steps, monkeypatch):
    take_steps(reporter("3"), 3, 1.0, monkeypatch, ends=False)
    assert [data["report"]["if_stopped"] for _, data, _ in server.sent] == [
        [{"key": "stopped", "done": done, "steps": 3}] for done in range(4)
    ]


def test_a_second_run_joins_the_first_and_the_next_prompt_starts_anew(server, take_steps, monkeypatch):
    for _ in range(2):
        take_steps(reporter("3"), 2, 1.0, monkeypatch)
    assert [len(data["report"]["runs"]) for _, data, _ in server.sent] == [1, 1, 1, 2, 2, 2]
    assert said(server)[3] == "Run 2:\nPlanned: 2 of 2 steps will be computed."
    server.execute()
    take_steps(reporter("3"), 2, 1.0, monkeypatch)
    assert [len(data["report"]["runs"]) for _, data, _ in server.sent[6:]] == [1, 1, 1]


def test_without_an_inspector_the_node_is_told_at_the_end(server, take_steps, monkeypatch):
    take_steps(reporter("8x"), 4, 1.0, monkeypatch)
    [(_, data, _)] = server.sent
    assert (data["node"], data["inspectors"], data["badge"]["computed"]) == ("8x", [], 3)


def test_the_log_has_a_line_at_the_end(server, take_steps, monkeypatch, caplog):
    caplog.set_level("INFO")
    take_steps(reporter("3"), 10, 0.01, monkeypatch)
    server.client_id = None
    take_steps(reporter("3"), 10, 0.01, monkeypatch)
    assert server.sent[-1][1]["report"]["runs"][-1]["finished"] and len(server.sent) == 2
    # 4 s, then five times 2 s and four times 0.25 s; ten steps of 2 s and the first one's 4 s would be 22 s.
    line = "AdaCache: computed 6 of 10 steps, 1.6x, 15.0 s instead of about 22 s."
    assert caplog.messages == [line, line]


def test_the_log_says_why_nothing_was_skipped(pack, caplog):
    from adacache.adacache_core import RunStatistics, StepRecord
    from adacache.nodes.report import log_line

    settings = {"preset": "fast", "speedup": 3.0, "codebook": None, "moreg": None}
    steps = [StepRecord(step, 0.5, "computed", "too few steps", 1, 1, 2.0) for step in range(4)]
    assert log_line(RunStatistics(settings, 4, steps, finished=True)) == (
        "AdaCache: computed 4 of 4 steps, 8.00 s. No step was skipped: with so few steps (4) the video changes too "
        "much from one to the next."
    )


def test_nobody_listens(server):
    assert reporter(None) is None
    assert reporter(print) is print, "a process without a server has its own"
