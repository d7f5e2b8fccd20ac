"""The inspector's report, while a run goes and after it, and what a node and the log say of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..adacache_core import RunStatistics, WindowStatistics
from .reference import Closeness
from .why import explain, key_value, preset_of, stopped, uncached_seconds, why_nothing
from .words import Entry, human_seconds, roughly, say


def make_report(
    runs: list[RunStatistics],
    connected: bool = True,
    windows: Sequence[WindowStatistics] = (),
    close: Closeness | None = None,
) -> dict[str, Any]:
    """JSON-safe report over the sampling runs of one prompt.

    Args:
        runs: statistics in the order the runs started; empty if nothing was cached.
        connected: whether any node's statistics were connected at all.
        windows: key/value caches of the prompt's runs with an AR Cache node.
        close: how close the latent is to a reference; None without one.

    Returns:
        Totals (``total_steps``, ``computed_steps``, ``partial_steps``, ``skipped_steps``, ``cache_bytes``,
        ``seconds``, ``speedup``), the ``preset`` in force, ``runs`` (see ``RunStatistics.to_dict``),
        ``key_value_caches`` (see ``WindowStatistics.to_dict``), ``reference`` (see ``Closeness.to_dict``),
        ``explanation`` (entries) and ``summary`` (the explanation in English, a line each).
    """
    explanation = [] if close is None else [close.entry]
    if runs or not windows:
        explanation += explain(runs, connected)
    explanation += [key_value(window) for window in windows]
    return _with_sentences({**_totals(runs, windows), "reference": close and close.to_dict()}, explanation)


def live_report(runs: list[RunStatistics]) -> dict[str, Any]:
    """The report while the last one of these runs is sampled; ``if_stopped`` is what it explains if it ends there."""
    last = runs[-1]
    if last.finished:
        return make_report(runs)
    title: list[Entry] = [{"key": "run_number", "run": len(runs)}] if len(runs) > 1 else []
    sentences = [*title, _going(last)]
    return {**_with_sentences(_totals(runs, ()), sentences), "if_stopped": [*title, stopped(last)]}


def badge(run: RunStatistics) -> Entry:
    """A run in a few words, to stand on its node."""
    computed, steps = run.count("computed"), len(run.steps)
    if computed == steps or run.speedup is None:
        return {"key": "badge", "computed": computed, "steps": steps}
    return {"key": "badge_faster", "computed": computed, "steps": steps, "speedup": f"{run.speedup:.1f}"}


def log_line(run: RunStatistics) -> str:
    """A run in a line of ComfyUI's log, in English."""
    computed, partial, took = run.count("computed"), run.count("partial"), human_seconds(run.seconds)
    line = f"AdaCache: computed {computed} of {len(run.steps)} steps"
    if partial:
        line += f" and {partial} in part"
    if run.speedup is None or computed == len(run.steps):
        return " ".join([f"{line}, {took}.", *map(say, why_nothing(run))])
    return f"{line}, {run.speedup:.1f}x, {took} instead of about {roughly(uncached_seconds(run))}."


def _going(run: RunStatistics) -> Entry:
    """How far it is, and how long it will take where there is a plan and the time of a computed step is known."""
    done, steps, plan = len(run.steps), run.total_steps, run.plan
    if plan is None or len(plan) != steps:
        return {"key": "sampling", "done": done, "steps": steps}
    if not done:
        return {"key": "ahead", "computes": sum(reason is not None for reason in plan), "steps": steps}
    rest = [record for record in run.steps[1:] if record.kind == "computed"]
    if not rest:
        return {"key": "sampling", "done": done, "steps": steps}
    usual = run.usual_seconds
    others = [record.seconds for record in run.steps if record.kind != "computed"]
    other = sum(others) / len(others) if others else 0.0
    whole, left = (sum(other if reason is None else usual for reason in part) for part in (plan, plan[done:]))
    saved = usual * steps / run.finer - whole
    return {
        "key": "sampling_left",
        "done": done,
        "steps": steps,
        "left": roughly(left),
        "saved": roughly(max(saved, 0.0)),
    }


def _totals(runs: list[RunStatistics], windows: Sequence[WindowStatistics]) -> dict[str, Any]:
    timed = [(run.speedup, run.seconds) for run in runs if run.speedup is not None]
    uncached, spent = sum(speedup * seconds for speedup, seconds in timed), sum(seconds for _, seconds in timed)
    return {
        "total_steps": sum(len(run.steps) for run in runs),
        "computed_steps": sum(run.count("computed") for run in runs),
        "partial_steps": sum(run.count("partial") for run in runs),
        "skipped_steps": sum(run.count("skipped") for run in runs),
        "cache_bytes": max((run.cache_bytes for run in runs), default=0),
        "seconds": sum(run.seconds for run in runs),
        "speedup": uncached / spent if spent > 0 else None,
        "preset": " + ".join(dict.fromkeys(preset_of(run.settings) for run in runs)) or None,
        "runs": [run.to_dict() for run in runs],
        "key_value_caches": [window.to_dict() for window in windows],
    }


def _with_sentences(report: dict[str, Any], explanation: list[Entry]) -> dict[str, Any]:
    return {**report, "explanation": explanation, "summary": "\n".join(map(say, explanation))}
