"""The inspector's report: the numbers of a prompt's runs, and the sentences that answer "why".

A sentence is an entry, ``{"key": ..., name: value, ...}``: the key names a text of ``locales/*/main.json``, the values
fill its placeholders. So every language has the same sentences, here and in the browser.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adacache_core import RunStatistics, WindowStatistics

Entry = dict[str, Any]

_LOCALES = Path(__file__).parents[1] / "locales"
_WORDS = json.loads((_LOCALES / "en" / "main.json").read_text(encoding="utf-8"))["adacache"]


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
        ``seconds``, ``speedup``), the ``preset`` in force, ``runs`` (see ``RunStatistics.to_dict``),
        ``key_value_caches`` (see ``WindowStatistics.to_dict``), ``explanation`` (entries) and ``summary`` (the
        explanation in English, a line each).
    """
    explanation = [] if windows and not runs else _explain(runs, connected)
    return _with_sentences(_totals(runs, windows), explanation + [_key_value(window) for window in windows])


def live_report(runs: list[RunStatistics]) -> dict[str, Any]:
    """The report while the last one of these runs is sampled; one with all its steps is done."""
    last = runs[-1]
    if len(last.steps) >= last.total_steps:
        return make_report([*runs[:-1], replace(last, finished=True)])
    key = "sampling_run" if len(runs) > 1 else "sampling"
    entry = {"key": key, "run": len(runs), "done": len(last.steps), "steps": last.total_steps}
    return _with_sentences(_totals(runs, ()), [entry])


def say(entry: Entry | str) -> str:
    """An entry in English; text stays as it is."""
    return entry if isinstance(entry, str) else _WORDS[entry["key"]].format(**entry)


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
        "preset": " + ".join(dict.fromkeys(_preset(run.settings) for run in runs)) or None,
        "runs": [run.to_dict() for run in runs],
        "key_value_caches": [window.to_dict() for window in windows],
    }


def _with_sentences(report: dict[str, Any], explanation: list[Entry]) -> dict[str, Any]:
    return {**report, "explanation": explanation, "summary": "\n".join(map(say, explanation))}


def _preset(settings: dict[str, Any]) -> str:
    return f"target {settings['speedup']:g}x" if settings["preset"] == "target" else settings["preset"]


def _explain(runs: list[RunStatistics], connected: bool) -> list[Entry]:
    if not runs:
        return [{"key": "not_sampled" if connected else "not_connected"}]
    entries = []
    for number, run in enumerate(runs, start=1):
        if len(runs) > 1:
            entries.append({"key": "run", "run": number, "runs": len(runs)})
        entries += [*_times(run), *_what(run), *_faults(run)]
    return entries


def _times(run: RunStatistics) -> Iterable[Entry]:
    if not run.steps:
        return
    computed, preset = run.count("computed"), _preset(run.settings)
    yield {"key": "computed_of", "preset": preset, "computed": computed, "steps": len(run.steps)}
    rest = [record.seconds for record in run.steps if record.kind != "computed"]
    if not rest or run.speedup is None:
        yield {"key": "took", "seconds": human_seconds(run.seconds)}
        return
    usual, first = run.usual_seconds, run.steps[0].seconds
    uncached = run.speedup * (run.seconds - first) + first
    yield {"key": "faster", "seconds": human_seconds(run.seconds), "uncached": human_seconds(uncached)}
    key, name = ("each_partial", "partial") if run.count("partial") else ("each", "skipped")
    yield {"key": key, "computed": human_seconds(usual), name: human_seconds(sum(rest) / len(rest))}
    if first > 1.5 * usual:
        yield {"key": "first", "first": human_seconds(first)}


def _what(run: RunStatistics) -> Iterable[Entry]:
    """Where most was skipped and how well, or why nothing was."""
    planned = run.settings["codebook"] is None
    if planned:
        yield from _asked_for(run)
    skipped = [record.step for record in run.steps if record.kind == "skipped"]
    if partial := run.count("partial"):
        yield {"key": "refreshed", "count": partial}
    elif skipped:
        yield _phase(skipped, run.total_steps)
        if planned:
            yield from _how_exact(run.settings)
            yield from _moved(run)
    elif run.finished and run.steps:
        yield from _why_nothing(run)


def _asked_for(run: RunStatistics) -> Iterable[Entry]:
    """What the plan made of the sampler's calls and of a speedup that cannot be had."""
    settings, steps = run.settings, run.total_steps
    evaluations, computes = settings.get("evaluations"), settings.get("computes")
    if evaluations not in (None, settings.get("sampler_steps")):
        yield {"key": "asks", "evaluations": evaluations, "steps": settings["sampler_steps"]}
    asked, few = _computes_asked(run), any(record.reason == "too few steps" for record in run.steps)
    if computes is not None and asked < computes and not few:
        preset, speedup = _preset(settings), f"{steps / computes:.3g}"
        yield {"key": "least", "preset": preset, "asked": asked, "steps": steps, "computes": computes,
               "speedup": speedup}  # fmt: skip


def _computes_asked(run: RunStatistics) -> int:
    return max(1, round(run.total_steps / run.settings["speedup"]))


def _how_exact(settings: dict[str, Any]) -> Iterable[Entry]:
    """What asking the sampler found, and what it means for skipped steps."""
    if "evaluations" not in settings:
        return
    because = settings["uncorrected_because"]
    if settings["evaluations"] is None:
        yield {"key": "not_asked", "because": because}
    elif settings["corrected"]:
        yield {"key": "corrected"}
    else:
        yield {"key": "noisy"} if settings["adds_noise"] else {"key": "uncorrected", "because": because}
    if settings.get("fewer_is_better"):
        yield {"key": "fewer", "computes": settings["computes"]}


def _moved(run: RunStatistics) -> Iterable[Entry]:
    """What MoReg made of a plan; what it makes of a codebook is in the distances."""
    if run.motion_share is not None:
        yield {"key": "moved", "percent": round(100 * run.motion_share)}
    elif run.settings["moreg"] is not None and run.finished:
        yield {"key": "not_moved"}


def _phase(skipped: list[int], total_steps: int) -> Entry:
    parts = [[step for step in range(total_steps) if step * 3 // total_steps == part] for part in range(3)]
    counts = [sum(step in part for step in skipped) for part in parts]
    most = counts.index(max(counts))
    first, last = parts[most][0] + 1, parts[most][-1] + 1
    key = ("phase_early", "phase_middle", "phase_late")[most]
    return {"key": key, "count": counts[most], "size": len(parts[most]), "first": first, "last": last}


def _why_nothing(run: RunStatistics) -> Iterable[Entry]:
    codebook = run.settings["codebook"]
    if run.steps[0].reason == "too few steps":
        yield {"key": "too_few", "steps": run.total_steps}
    elif codebook is not None:
        yield _why_no_distance(run, max((bound for bound, rate in codebook if rate > 1), default=None))
    elif _computes_asked(run) >= run.total_steps:
        yield {"key": "every", "preset": _preset(run.settings)}


def _why_no_distance(run: RunStatistics, threshold: float | None) -> Entry:
    """Why no distance led to a skip; the threshold is the largest one with a rate over 1."""
    free = [record.paper for record in run.steps if record.paper is not None and record.reason == "schedule"]
    plain = min((seen.distance for seen in free if seen.distance is not None), default=None)
    lowest = min((seen.regularized_distance for seen in free if seen.regularized_distance is not None), default=plain)
    if threshold is None:
        return {"key": "rates"}
    if plain is None or lowest is None or lowest < threshold:
        return {"key": "forced"}
    if plain < threshold:
        return {"key": "motion", "plain": f"{plain:.3f}", "lowest": f"{lowest:.3f}"}
    return {"key": "far", "threshold": f"{threshold:g}", "lowest": f"{lowest:.3f}"}


def _faults(run: RunStatistics) -> Iterable[Entry]:
    """What did not go as planned."""
    reasons = [record.reason for record in run.steps]
    if count := reasons.count("not finite") + reasons.count("residual is not finite"):
        yield {"key": "not_finite", "count": count, "steps": len(reasons)}
    if count := reasons.count("new condition") + reasons.count("nothing cached for a condition"):
        yield {"key": "new_condition", "count": count}
    if count := reasons.count("out of reach"):
        yield {"key": "out_of_reach", "count": count}
    yield from ({"key": "second_cache", "name": name} for name in run.settings.get("other_caches", ()))
    if not run.finished:
        yield {"key": "stopped", "done": len(reasons), "steps": run.total_steps}


def _key_value(cache: WindowStatistics) -> Entry:
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
