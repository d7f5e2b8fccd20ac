"""The inspector's report: the numbers of a prompt's runs, and the sentences that answer "why"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..adacache_core import CALIBRATE, RunStatistics, WindowStatistics

# web/strings.js has the same keys and placeholders in Chinese.
SENTENCES = {
    "not_connected": (
        "No statistics connected: AdaCache is bypassed or not in this graph. Without it every step is computed."
    ),
    "not_sampled": (
        "The model with AdaCache has not been sampled. Connect AdaCache's MODEL output to the sampler that makes "
        "this latent."
    ),
    "run": "Run {run} of {runs}:",
    "faster": "Sampling took {seconds}; with every step computed it would have taken about {uncached}.",
    "took": "Sampling took {seconds}.",
    "first": "The first step took {first}, with one-off work such as loading; the speedup leaves it out.",
    "each": "A computed step usually took {computed}, a skipped one {skipped} on average.",
    "each_partial": "A computed step usually took {computed}, a partial one {partial} on average.",
    "phase_early": "The early third of sampling was skipped most: {count} of its {size} steps ({first} to {last}).",
    "phase_middle": "The middle third of sampling was skipped most: {count} of its {size} steps ({first} to {last}).",
    "phase_late": "The late third of sampling was skipped most: {count} of its {size} steps ({first} to {last}).",
    "partial": (
        "Token Refresh made partial steps of all {count} steps that would have been skipped: each computed a part of "
        "the tokens."
    ),
    "repaid": "Computed steps gave back {percent} % of the error of the skips before them (error repayment).",
    "not_repaid": "Error repayment was off: it needs a flow model and the sampler euler, dpmpp_2m or res_multistep.",
    "moved": (
        "MoReg gave this video {percent} % of the planned computes, by how much moves in what the prompt asks for."
    ),
    "not_moved": (
        "MoReg left the plan as it is: it compares the two conditions of guidance, which this run did not have."
    ),
    "outputs": (
        "Only the model's outputs were kept: they take little memory, and skipped steps come out less exact than with "
        "hidden states."
    ),
    "too_few": "No step was skipped: {steps} steps are too few, the video changes too much from one to the next.",
    "calibrated": (
        "Every step was computed to measure this model. Connect the report to an AdaCache Calibrate node, and its "
        "calibration to AdaCache."
    ),
    "window": "No step was skipped: start_percent {start} and end_percent {end} leave none that may be.",
    "forced": "No step was skipped: the ones that may be are followed by steps that are always computed.",
    "rates": "No step was skipped: every rate of the codebook is 1. A rate of 2 or more allows skips.",
    "distance": (
        "No step was skipped: the distance stayed above {threshold}, the largest threshold with a rate over 1; "
        "the lowest was {lowest}."
    ),
    "motion": "No step was skipped because of motion: MoReg raised the lowest distance from {plain} to {lowest}.",
    "not_finite": "{count} steps gave values that are not finite (NaN): they were not cached. Check model and LoRAs.",
    "new_condition": "{count} planned skips were computed because a condition was new at them.",
    "stopped": "The run stopped after {done} of {steps} steps: it was interrupted or failed.",
    "key_value": (
        "Key/value cache: {frames} of {video} latent frames at most, {bytes}, full from block {full} of {blocks} on. "
        "Without a window it would take {unbounded}."
    ),
    "key_value_whole": "Key/value cache: all {video} latent frames fit into the window of {window}, {bytes}.",
}
# Those of the above that read otherwise where their count of steps is 1; Chinese has one form for all.
_OF_ONE = {
    "too_few": "No step was skipped: 1 step is too few, a skip needs computed steps before and after it.",
    "not_finite": "1 step gave values that are not finite (NaN): it was not cached. Check model and LoRAs.",
    "new_condition": "1 planned skip was computed because a condition was new at it.",
    "stopped": "The run stopped after {done} of 1 step: it was interrupted or failed.",
}

_PARTS = ("early", "middle", "late")


def make_report(
    runs: list[RunStatistics], connected: bool = True, windows: Sequence[WindowStatistics] = ()
) -> dict[str, Any]:
    """JSON-safe report over the sampling runs of one prompt.

    Args:
        runs: statistics in the order the runs started; empty if nothing was cached.
        connected: whether any node's statistics were connected at all.
        windows: key/value caches of the prompt's runs with an AR Cache node.

    Returns:
        Totals (``total_steps``, ``computed_steps``, ``partial_steps``, ``skipped_steps``, ``cache_bytes``,
        ``seconds``, ``speedup``), what was in force (``preset``, ``replay``, ``storage``, ``cache_device``), ``runs``
        (see ``RunStatistics.to_dict``), ``key_value_caches`` (see ``WindowStatistics.to_dict``), ``explanation`` (keys
        of ``SENTENCES`` with their values) and ``summary`` (the explanation in English, a line each).
    """
    total, computed = sum(len(run.steps) for run in runs), sum(run.computed_steps for run in runs)
    partial = sum(run.partial_steps for run in runs)
    timed = [(run.speedup, run.seconds) for run in runs if run.speedup is not None]
    uncached, spent = sum(speedup * seconds for speedup, seconds in timed), sum(seconds for _, seconds in timed)
    explanation = [] if windows and not runs else _explain(runs, connected)
    explanation += [_key_value(window) for window in windows]
    return {
        "total_steps": total,
        "computed_steps": computed,
        "partial_steps": partial,
        "skipped_steps": total - computed - partial,
        "cache_bytes": max((run.cache_bytes for run in runs), default=0),
        "seconds": sum(run.seconds for run in runs),
        "speedup": uncached / spent if spent > 0 else None,
        "preset": _in_force(_preset(run.settings) for run in runs),
        "replay": _in_force(run.settings["replay"] for run in runs),
        "storage": _in_force(run.storage for run in runs),
        "cache_device": _in_force(run.settings["cache_device"] for run in runs),
        "summary": "\n".join(_sentence(entry) for entry in explanation),
        "explanation": explanation,
        "runs": [run.to_dict() for run in runs],
        "key_value_caches": [window.to_dict() for window in windows],
    }


def human_bytes(count: int) -> str:
    """``25165824`` as ``"24.0 MiB"``."""
    if count < 2**20:
        return f"{count / 2**10:.0f} KiB"
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def human_seconds(seconds: float) -> str:
    """``0.0123`` as ``"12 ms"``, ``95`` as ``"1 min 35 s"``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _in_force(choices: Iterable[str]) -> str | None:
    """What all runs have; both, in order, where two differ."""
    return " + ".join(dict.fromkeys(choices)) or None


def _preset(settings: dict[str, Any]) -> str:
    return f"target {settings['planned_speedup']:g}x" if settings["preset"] == "target" else settings["preset"]


def _sentence(entry: dict[str, Any]) -> str:
    sentence = SENTENCES[entry["key"]]
    if entry.get("count", entry.get("steps")) == 1:
        sentence = _OF_ONE.get(entry["key"], sentence)
    return sentence.format(**entry)


def _explain(runs: list[RunStatistics], connected: bool) -> list[dict[str, Any]]:
    if not runs:
        return [{"key": "not_sampled" if connected else "not_connected"}]
    entries = []
    for number, run in enumerate(runs, start=1):
        if len(runs) > 1:
            entries.append({"key": "run", "run": number, "runs": len(runs)})
        entries += _times(run)
        entries += _why(run)
    return entries


def _times(run: RunStatistics) -> list[dict[str, Any]]:
    rest = [record.seconds for record in run.steps if not record.computed]
    if not rest or run.speedup is None:
        return [{"key": "took", "seconds": human_seconds(run.seconds)}] if run.steps else []
    usual, first = run.usual_seconds, run.steps[0].seconds
    uncached = run.speedup * (run.seconds - first) + first
    key, name = ("each_partial", "partial") if run.partial_steps else ("each", "skipped")
    entries = [
        {"key": "faster", "seconds": human_seconds(run.seconds), "uncached": human_seconds(uncached)},
        {"key": key, "computed": human_seconds(usual), name: human_seconds(sum(rest) / len(rest))},
    ]
    if first > 1.5 * usual:
        entries.append({"key": "first", "first": human_seconds(first)})
    return entries


def _why(run: RunStatistics) -> list[dict[str, Any]]:
    """Where most was skipped, or why nothing was; and what did not go as planned."""
    entries = []
    skipped = [record.step for record in run.steps if not (record.computed or record.partial)]
    if run.partial_steps:
        entries.append({"key": "partial", "count": run.partial_steps})
    elif skipped:
        entries.append(_phase(skipped, run.total_steps))
        entries += _how(run) + _moved(run)
    elif run.finished and run.steps:
        entries.append(_why_nothing(run))
    reasons = [record.reason for record in run.steps]
    for key, reason in (("not_finite", "residual is not finite"), ("new_condition", "nothing cached for a condition")):
        if reason in reasons:
            entries.append({"key": key, "count": reasons.count(reason)})
    if not run.finished:
        entries.append({"key": "stopped", "done": len(run.steps), "steps": run.total_steps})
    return entries


def _how(run: RunStatistics) -> list[dict[str, Any]]:
    """What makes skipped steps more or less exact."""
    if run.storage == "output":
        return [{"key": "outputs"}]
    planned = run.settings["planned_speedup"] is not None
    if not planned:
        return []
    return [{"key": "repaid", "percent": round(100 * run.repaid)} if run.repaid else {"key": "not_repaid"}]


def _moved(run: RunStatistics) -> list[dict[str, Any]]:
    """What MoReg made of a plan; what it makes of a codebook is in the distances."""
    if run.settings["planned_speedup"] is None or run.settings["motion_regularization"] is None:
        return []
    for record in run.steps:
        if record.motion_score is not None:
            return [{"key": "moved", "percent": round(100 * record.motion_score)}]
    return [{"key": "not_moved"}] if run.finished else []


def _phase(skipped: list[int], total_steps: int) -> dict[str, Any]:
    parts = [[step for step in range(total_steps) if step * 3 // total_steps == part] for part in range(3)]
    counts = [sum(step in part for step in skipped) for part in parts]
    most = counts.index(max(counts))
    return {
        "key": f"phase_{_PARTS[most]}",
        "count": counts[most],
        "size": len(parts[most]),
        "first": parts[most][0] + 1,
        "last": parts[most][-1] + 1,
    }


def _why_nothing(run: RunStatistics) -> dict[str, Any]:
    if run.steps[0].reason == "too few steps":
        return {"key": "too_few", "steps": run.total_steps}
    if run.settings["preset"] == CALIBRATE:
        return {"key": "calibrated"}
    free = [record for record in run.steps if record.reason == "schedule"]
    if not free:
        settings = run.settings
        return {"key": "window", "start": settings["start_percent"], "end": settings["end_percent"]}
    plain = min((record.distance for record in free if record.distance is not None), default=None)
    lowest = min((r.regularized_distance for r in free if r.regularized_distance is not None), default=plain)
    codebook = run.settings["codebook"]
    if codebook is None or plain is None or lowest is None:
        return {"key": "forced"}
    threshold = max((bound for bound, rate in codebook if rate > 1), default=None)
    if threshold is None:
        return {"key": "rates"}
    if lowest < threshold:
        return {"key": "forced"}
    if plain < threshold:
        return {"key": "motion", "plain": f"{plain:.3f}", "lowest": f"{lowest:.3f}"}
    return {"key": "distance", "threshold": f"{threshold:g}", "lowest": f"{lowest:.3f}"}


def _key_value(cache: WindowStatistics) -> dict[str, Any]:
    """How far an autoregressive model's cache of finished frames was bounded."""
    window, video = cache.window.frames, cache.video_frames
    if video <= window:
        return {"key": "key_value_whole", "video": video, "window": window, "bytes": human_bytes(cache.cache_bytes)}
    full = next((number for number, block in enumerate(cache.blocks, start=1) if block.frames == window), "-")
    return {
        "key": "key_value",
        "frames": window,
        "video": video,
        "bytes": human_bytes(cache.cache_bytes),
        "full": full,
        "blocks": len(cache.blocks),
        "unbounded": human_bytes(video * cache.frame_bytes),
    }
