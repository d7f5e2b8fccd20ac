"""The inspector's report: the numbers of a prompt's runs, and the sentence that answers "why"."""

from __future__ import annotations

from typing import Any

from ..adacache_core import RunStatistics


def make_report(runs: list[RunStatistics], connected: bool = True) -> dict[str, Any]:
    """JSON-safe report over the sampling runs of one prompt.

    Args:
        runs: statistics in the order the runs started; empty if nothing was cached.
        connected: whether an AdaCache node's statistics were connected at all.

    Returns:
        Totals (``total_steps``, ``computed_steps``, ``skipped_steps``, ``cache_bytes``, ``seconds``, ``speedup``), ``preset``,
        ``summary`` (sentences for people) and ``runs`` (see ``RunStatistics.to_dict``).
    """
    dicts = [run.to_dict() for run in runs]
    total, computed = sum(len(run.steps) for run in runs), sum(run.computed_steps for run in runs)
    seconds = sum(run.seconds for run in runs)
    estimates = [(run.speedup, run.seconds) for run in runs if run.speedup is not None]
    uncached = sum(speedup * spent for speedup, spent in estimates)
    report = {
        "total_steps": total,
        "computed_steps": computed,
        "skipped_steps": total - computed,
        "cache_bytes": max((run.cache_bytes for run in runs), default=0),
        "seconds": seconds,
        "speedup": uncached / sum(spent for _, spent in estimates) if estimates else None,
        "preset": runs[-1].settings["preset"] if runs else None,
        "runs": dicts,
    }
    report["summary"] = _summary(runs, report, connected)
    return report


def _summary(runs: list[RunStatistics], report: dict[str, Any], connected: bool) -> str:
    if not connected:
        return "No statistics connected: AdaCache is bypassed or not in this graph. Every step was computed."
    if not runs:
        return "The model with AdaCache has not been sampled yet. Connect its MODEL output to the sampler."
    lines = [
        f"{report['computed_steps']} of {report['total_steps']} steps computed, {report['skipped_steps']} skipped; "
        f"preset {report['preset']}, replay {runs[-1].settings['replay']}, "
        f"cache {report['cache_bytes'] / 2**20:.1f} MiB."
    ]
    for run in runs:
        lines += run.notes
        if not run.finished:
            lines.append("This run did not finish: it was interrupted or failed.")
        why = _why(run)
        if why:
            lines.append(why)
    return "\n".join(lines)


def _why(run: RunStatistics) -> str | None:
    """Why nothing was skipped, or where most was."""
    if run.notes or not run.steps:
        return None
    skipped = [record.step for record in run.steps if not record.computed]
    if skipped:
        middle = run.total_steps / 3
        thirds = [sum(int(step // middle) == part for step in skipped) for part in range(3)]
        part = ("early", "middle", "late")[thirds.index(max(thirds))]
        return f"Most skips are in the {part} third of the steps ({max(thirds)} of {len(skipped)})."
    free = [record for record in run.steps if record.reason == "schedule"]
    if not free:
        return "No step was skipped: start_percent and end_percent leave none, or all are first and last steps."
    distances = [record.distance for record in free if record.distance is not None]
    lowest = f" (lowest {min(distances):.3f})" if distances else ""
    return f"No step was skipped: the distance stayed above every threshold with a rate over 1{lowest}."
